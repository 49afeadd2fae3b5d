//! Pixels compared with Pillow's, crops with torchvision's rules.

use std::path::Path;

use diptych_test_support::{data, needs};
use proptest::prelude::*;

use super::*;
use crate::test_data::{photos, picture, u8_tensors};
use crate::{decode, perceptual_hash};

/// Counts samples by their difference to the reference: 0, 1, 2, more.
fn differences(ours: &[u8], reference: &[u8]) -> [usize; 4] {
    assert_eq!(ours.len(), reference.len());
    let mut counts = [0; 4];
    for (a, b) in ours.iter().zip(reference) {
        counts[usize::from(a.abs_diff(*b)).min(3)] += 1;
    }
    counts
}

/// Asserts the promised accuracy: at most 2 levels from Pillow, 99.9% within 1.
fn assert_contract(what: &str, counts: [usize; 4]) {
    let all: usize = counts.iter().sum();
    println!("{what}: {counts:?} of {all} samples differ by 0, 1, 2, more");
    assert_eq!(counts[3], 0, "{what}: {counts:?}");
    assert!(counts[2] * 1000 <= all, "{what}: {counts:?}");
}

/// Checks evaluation and crop of files, by the names of the reference's tensors: `eval….FILE` and
/// `crop….FILE`, squares of u8.
fn check_pixels(reference: &Path, file: impl Fn(&str) -> Vec<u8>) -> usize {
    let (mut eval, mut crop) = ([0; 4], [0; 4]);
    let references = u8_tensors(reference);
    for (name, expected) in &references {
        let (kind, of) = name.split_once('.').unwrap();
        let image = decode(&file(of), u64::MAX).unwrap();
        let (w, h) = (image.width, image.height);
        let size = (expected.len() / 3).isqrt() as u32;
        // The box of the scripts that made the reference.
        let part = CropBox {
            x: w / 10,
            y: h / 8,
            width: (f64::from(w) * 0.7) as u32,
            height: (f64::from(h) * 0.8) as u32,
        };
        let (pixels, counts) = match &kind[..4] {
            "eval" => (eval_transform(&image, size, EvalResize::default()).unwrap(), &mut eval),
            "crop" => (crop_resize(&image, part, size).unwrap(), &mut crop),
            other => panic!("{other} is unknown"),
        };
        let of_file = differences(&pixels, expected);
        if of_file[3] > 0 {
            println!("{name}, {w} × {h}: {of_file:?}");
        }
        for (count, more) in counts.iter_mut().zip(of_file) {
            *count += more;
        }
    }
    assert_contract("evaluation", eval);
    assert_contract("crop", crop);
    references.len()
}

#[test]
fn pictures_are_within_the_contract_of_pillow_and_openclip() {
    let file = |name: &str| std::fs::read(picture(name)).unwrap();
    assert_eq!(check_pixels(&picture("pixels.safetensors"), file), 24);
}

#[needs(data)]
#[test]
fn photographs_are_within_the_contract_of_pillow_and_openclip() {
    let photos = photos(".jpg");
    assert_eq!(check_pixels(&data("parity/pixels.safetensors"), |name| photos[name].clone()), 48);
}

/// Checks hashes against `expected`, JSON by file: imagehash.phash of ImageHash 4.3.2 with Pillow
/// 13.0.0.
fn check_hashes(expected: &[u8], file: impl Fn(&str) -> Vec<u8>) {
    let expected: std::collections::BTreeMap<String, String> =
        serde_json::from_slice(expected).unwrap();
    let (mut equal, mut worst) = (0, 0);
    for (name, hash) in &expected {
        let ours = perceptual_hash(&decode(&file(name), u64::MAX).unwrap()).unwrap();
        let distance = (ours ^ u64::from_str_radix(hash, 16).unwrap()).count_ones();
        worst = worst.max(distance);
        equal += usize::from(distance == 0);
    }
    println!("{equal} of {} hashes equal, worst distance {worst}", expected.len());
    // One level of difference in the thumbnail flips a bit whose frequency is at the median. Two
    // frequencies then swap places.
    assert!(
        worst <= 2 && equal * 10 >= expected.len() * 9,
        "{equal} of {} equal, worst distance {worst}",
        expected.len()
    );
}

#[test]
fn perceptual_hashes_of_pictures_are_those_of_imagehash() {
    check_hashes(&std::fs::read(picture("phash.json")).unwrap(), |name| {
        std::fs::read(picture(name)).unwrap()
    });
}

#[needs(data)]
#[test]
fn perceptual_hashes_of_photographs_are_those_of_imagehash() {
    let photos = photos(".jpg");
    check_hashes(&crate::test_data::own("phash.json"), |name| photos[name].clone());
}

fn gradient(width: u32, height: u32) -> RgbImage {
    let pixels =
        (0..width * height).flat_map(|at| [(at % width) as u8, (at / width) as u8, 7]).collect();
    RgbImage { width, height, pixels }
}

#[test]
fn evaluation_of_an_image_that_already_fits_cuts_its_middle_by_pythons_rounding() {
    // (7 − 4) / 2 = 1.5 rounds to 2, (9 − 4) / 2 = 2.5 rounds to 2.
    for (width, left) in [(7, 2), (9, 2)] {
        let pixels = eval_transform(&gradient(width, 4), 4, EvalResize::default()).unwrap();
        assert_eq!(&pixels[..3], [left, 0, 7]);
        assert_eq!(&pixels[45..], [left + 3, 3, 7]);
    }
}

#[test]
fn nothing_outside_the_crop_is_seen() {
    let mut image = RgbImage { width: 60, height: 40, pixels: vec![255; 60 * 40 * 3] };
    for y in 10..30 {
        image.pixels[(y * 60 + 20) * 3..(y * 60 + 50) * 3].fill(9);
    }
    let pixels = crop_resize(&image, CropBox { x: 20, y: 10, width: 30, height: 20 }, 16).unwrap();
    assert_eq!(pixels, vec![9; 16 * 16 * 3]);
}

#[test]
fn a_crop_that_leaves_the_image_is_an_error() {
    for crop in [
        CropBox { x: 1, y: 0, width: 10, height: 1 },
        CropBox { x: 0, y: 0, width: u32::MAX, height: 1 },
    ] {
        assert!(crop_resize(&gradient(10, 10), crop, 8).is_err());
    }
}

#[test]
fn extreme_strips_are_evaluated_in_little_memory() {
    for (width, height) in [(100_000, 1), (1, 100_000)] {
        let image = RgbImage { width, height, pixels: vec![50; 300_000] };
        assert_eq!(
            eval_transform(&image, 224, EvalResize::default()).unwrap(),
            vec![50; 224 * 224 * 3]
        );
    }
}

#[test]
fn crop_of_an_impossible_shape_falls_back_to_torchvisions_central_crop() {
    let augment = AugmentConfig { scale: [1.0, 1.0], ratio: [0.75, 4.0 / 3.0] };
    // Python: h = round(10 / 0.75) = 13, y = (1000 − 13) // 2; w = round(10 · 4/3) = 13.
    assert_eq!(
        random_resized_crop_box(10, 1000, &augment, 5),
        CropBox { x: 0, y: 493, width: 10, height: 13 }
    );
    assert_eq!(
        random_resized_crop_box(1000, 10, &augment, 5),
        CropBox { x: 493, y: 0, width: 13, height: 10 }
    );
}

#[test]
fn crops_have_the_areas_and_ratios_asked_for() {
    let augment = AugmentConfig::default();
    let (mut areas, mut log_ratios, mut lefts) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 0..20_000 {
        let crop = random_resized_crop_box(1000, 1000, &augment, crate::random::seed_of(&[seed]));
        areas.push(f64::from(crop.width) * f64::from(crop.height) / 1e6);
        log_ratios.push((f64::from(crop.width) / f64::from(crop.height)).ln());
        if crop.width < 1000 {
            lefts.push(f64::from(crop.x) / f64::from(1000 - crop.width));
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    assert!(areas.iter().all(|area| (0.898..=1.0).contains(area)));
    // In a square image, ratio r fits only if area · max(r, 1/r) ≤ 1. So both ends lie nearer to
    // the square, symmetrically.
    assert!(mean(&log_ratios).abs() < 0.003, "{}", mean(&log_ratios));
    assert!(mean(&areas) > 0.92 && mean(&areas) < 0.95, "{}", mean(&areas));
    assert!((mean(&lefts) - 0.5).abs() < 0.015, "{}", mean(&lefts));
}

proptest! {
    #[test]
    fn crops_lie_within_the_image_and_depend_on_the_seed_alone(width in 1_u32..5000,
        height in 1_u32..5000, seed: u64, low in 0.01_f64..1.0, narrow in 0.05_f64..1.0) {
        let augment = AugmentConfig { scale: [low, 1.0], ratio: [narrow, 1.0 / narrow] };
        let crop = random_resized_crop_box(width, height, &augment, seed);
        prop_assert!(crop.width >= 1 && crop.height >= 1);
        prop_assert!(crop.x + crop.width <= width && crop.y + crop.height <= height);
        prop_assert_eq!(crop, random_resized_crop_box(width, height, &augment, seed));
    }
}

#[test]
fn every_filter_and_fit_is_openclips() {
    const SIZE: u32 = 24;
    // Made by pipeline/tests/reference/make_sample_values.py, in this order, with the same
    // pictures.
    let reference = include_bytes!("../../tests/data/resized.rgb");
    let picture = |width: u32, height: u32| {
        let channel = |x: u32, y: u32, c: u32| {
            (x * x / (5 + c) + y * (3 + 2 * c) + (x * y / 16) % 7 * 20) as u8
        };
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        RgbImage {
            width,
            height,
            pixels: places.flat_map(|(x, y)| (0..3).map(move |c| channel(x, y, c))).collect(),
        }
    };
    let mut expected = reference.chunks_exact(3 * (SIZE * SIZE) as usize);
    let mut counts = [0; 4];
    for (width, height) in [(61, 37), (20, 90), (17, 13)] {
        let image = picture(width, height);
        for interpolation in [Interpolation::Bicubic, Interpolation::Bilinear] {
            for fit in [Fit::Shortest, Fit::Squash, Fit::Longest { fill: 90 }] {
                let pixels =
                    eval_transform(&image, SIZE, EvalResize { interpolation, fit }).unwrap();
                let found = differences(&pixels, expected.next().unwrap());
                assert_eq!(found[3], 0, "{width} × {height} {interpolation:?} {fit:?}: {found:?}");
                counts.iter_mut().zip(found).for_each(|(count, more)| *count += more);
            }
        }
    }
    assert!(expected.next().is_none());
    assert_contract("all", counts);
}
