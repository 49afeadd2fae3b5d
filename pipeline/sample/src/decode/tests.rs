//! Decoding against Pillow's pixels (`testdata/`), and against files that are cut, wrong or hostile.

use proptest::prelude::*;

use super::*;
use crate::test_data::own;

const LIMIT: u64 = 1 << 20;

/// Largest difference of a sample to Pillow's.
fn difference(name: &str) -> u8 {
    let image = decode(&own(name), LIMIT).unwrap_or_else(|error| panic!("{name}: {error}"));
    let expected = own(&format!("{name}.rgb"));
    let side = |at: usize| u32::from_le_bytes(expected[at..at + 4].try_into().unwrap());
    assert_eq!((image.width, image.height), (side(0), side(4)), "{name}");
    assert_eq!(image.pixels.len(), expected.len() - 8, "{name}");
    image.pixels.iter().zip(&expected[8..]).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn jpegs_of_every_kind_have_pillows_pixels() {
    for name in ["sub0.jpg", "sub1.jpg", "sub2.jpg", "progressive.jpg", "gray.jpg", "cmyk.jpg"] {
        assert_eq!(difference(name), 0, "{name}");
    }
}

#[test]
fn exif_orientation_is_applied() {
    for orientation in 2..=8 {
        assert_eq!(difference(&format!("turned{orientation}.jpg")), 0, "{orientation}");
    }
    assert_eq!(difference("turned6.png"), 0);
}

#[test]
fn lossless_formats_have_pillows_pixels() {
    let pngs = [
        "rgb.png",
        "rgba.png",
        "gray_alpha.png",
        "palette.png",
        "palette_transparent.png",
        "bits1.png",
        "rgb16.png",
        "gray16.png",
    ];
    let others = ["plain.webp", "alpha.webp", "palette.gif", "frames.gif", "transparent.gif"];
    for name in pngs.iter().chain(&others) {
        assert_eq!(difference(name), 0, "{name}");
    }
}

#[test]
fn lossy_webp_is_near_libwebps_pixels() {
    assert!(difference("lossy.webp") <= 2, "{}", difference("lossy.webp"));
}

#[test]
fn oddities_that_pillow_passes_over_are_passed_over() {
    for name in ["jfif9.jpg", "stray_in_header.jpg", "stray_at_end.jpg", "junk_behind.jpg", "adobe7.jpg"] {
        assert_eq!(difference(name), 0, "{name}");
    }
}

#[test]
fn interlaced_png_is_the_same_picture() {
    // `image` writes no interlaced PNG, so the smallest one is written here by hand: 1 × 1, where Adam7 has one pass.
    let plain = own("rgb.png");
    let mut header = *b"IHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\x01";
    let chunk = |kind_and_body: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(kind_and_body);
        [&(kind_and_body.len() as u32 - 4).to_be_bytes(), kind_and_body, &crc.sum().to_be_bytes()].concat()
    };
    let mut pixel = flate2::write::ZlibEncoder::new(b"IDAT".to_vec(), flate2::Compression::default());
    std::io::Write::write_all(&mut pixel, &[0, 10, 20, 30]).unwrap();
    let data = pixel.finish().unwrap();
    for interlaced in [1, 0] {
        header[16] = interlaced;
        let file = [&plain[..8], &chunk(&header), &chunk(&data), &chunk(b"IEND")].concat();
        assert_eq!(decode(&file, LIMIT).unwrap(), RgbImage { width: 1, height: 1, pixels: vec![10, 20, 30] });
    }
}

#[test]
fn files_cut_short_are_corrupt_and_never_half_a_picture() {
    for name in ["sub2.jpg", "progressive.jpg", "cmyk.jpg", "stray_at_end.jpg", "rgb16.png", "palette.gif", "lossy.webp"] {
        let bytes = own(name);
        for keep in [bytes.len() - 8, bytes.len() * 3 / 4] {
            let error = decode(&bytes[..keep], LIMIT).expect_err(name);
            let corrupt = matches!(error, ImageError::CorruptPixels { .. } | ImageError::CorruptHeader { .. });
            assert!(corrupt, "{name} cut at {keep}: {error}");
        }
    }
}

#[test]
fn jpeg_whose_data_end_early_before_its_end_marker_is_corrupt() {
    let bytes = own("sub0.jpg");
    let cut = [&bytes[..bytes.len() - 100], &[0xFF, 0xD9]].concat();
    let error = decode(&cut, LIMIT).unwrap_err();
    assert!(matches!(error, ImageError::CorruptPixels { .. }), "{error}");
}

#[test]
fn what_is_no_image_is_said_to_be_none() {
    for bytes in [&b""[..], b"GIF", b"<html><body>404</body></html>", b"%PDF-1.7", b"BM\x40\0\0\0\0\0\0\0"] {
        let error = decode(bytes, LIMIT).unwrap_err();
        assert!(matches!(error, ImageError::UnsupportedFormat { .. }), "{error}");
    }
}

#[test]
fn a_header_that_claims_too_many_pixels_is_refused_before_anything_is_allocated() {
    // 60,000 × 60,000 would be 10.8 GB.
    let mut png = own("rgb.png");
    png[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    let mut crc = flate2::Crc::new();
    crc.update(&png[12..29]);
    png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let mut jpeg = own("sub0.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xEA, 0x60, 0xEA, 0x60]);
    let mut gif = own("palette.gif");
    gif[6..10].copy_from_slice(&[0x60, 0xEA, 0x60, 0xEA]);
    for bytes in [png, jpeg, gif] {
        let expected = ImageError::TooManyPixels { width: 60_000, height: 60_000, limit: diptych_schemas::MAX_PIXELS };
        assert_eq!(decode(&bytes, diptych_schemas::MAX_PIXELS).unwrap_err(), expected);
    }
    assert!(matches!(decode(&own("lossy.webp"), 37 * 23 - 1), Err(ImageError::TooManyPixels { width: 37, height: 23, .. })));
    assert!(decode(&own("lossy.webp"), 37 * 23).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_damage_makes_it_panic_or_lie_about_its_size(
        name in prop::sample::select(vec!["sub2.jpg", "progressive.jpg", "cmyk.jpg", "turned6.jpg", "rgba.png", "palette_transparent.png", "turned6.png", "lossy.webp", "alpha.webp", "frames.gif", "transparent.gif"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = own(name);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(image) = decode(&bytes, LIMIT) {
            prop_assert_eq!(image.pixels.len(), 3 * image.width as usize * image.height as usize);
            prop_assert!(u64::from(image.width) * u64::from(image.height) <= LIMIT);
        }
    }
}
