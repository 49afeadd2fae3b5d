//! Files of every kind that Diptych reads, damaged at random. Each gives an answer or an error,
//! never a panic, a signal or a hang. `DIPTYCH_TEST_MUTATIONS` sets their number for each kind.

use std::path::Path;

use diptych_test_support::{parity, seed};
use diptych_tests::pairs::{jpeg, noise, png, tar_of};
use diptych_tests::{Ran, Work};
use rand::prelude::*;

fn mutations(usual: u32) -> u32 {
    std::env::var("DIPTYCH_TEST_MUTATIONS").map_or(usual, |count| count.parse().unwrap())
}

/// Flips, cuts, repeats, inserts and overwrites some bytes.
fn mutated(random: &mut StdRng, bytes: &[u8]) -> Vec<u8> {
    // Numbers that lengths and counts are tried with.
    const NUMBERS: [u32; 6] = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x0001_0000];
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..6) {
        let length = bytes.len();
        if length < 8 {
            bytes.extend(random.random::<[u8; 8]>());
            continue;
        }
        let at = random.random_range(0..length - 4);
        let end = (at + random.random_range(1..64)).min(length);
        match random.random_range(0..8) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => bytes[at..at + 4].copy_from_slice(&NUMBERS.choose(random).unwrap().to_le_bytes()),
            5 => bytes[at..at + 4].copy_from_slice(&NUMBERS.choose(random).unwrap().to_be_bytes()),
            6 => bytes[at..end].fill(random.random()),
            // Headers and footers say the most.
            _ => {
                let near = random.random_range(0..length.min(64));
                let place = if random.random() { near } else { length - 1 - near };
                bytes[place] = random.random();
            }
        }
    }
    bytes
}

/// Checks that a command gave an answer or an error in words.
fn stands(ran: &Ran, kept: &Path) {
    let all = format!("{}{}", ran.stdout, ran.stderr);
    let well = matches!(ran.code, Some(0..=3))
        && !all.contains("panicked")
        && !all.contains("internal error")
        && !all.contains("a bug in");
    assert!(well, "{:?} {} of {}\n{all:.4000}", ran.code, ran.call, kept.display());
}

#[test]
fn sources() {
    let work = Work::new();
    let mut random = StdRng::seed_from_u64(seed());
    work.diptych(&["demo-data", "scenes", "--scenes", "40"]).ok();
    let parquet = std::fs::read_dir(work.path("scenes"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "parquet"))
        .unwrap();
    let list = "caption,image\n\"a, \"\"cat\"\"\",a.png\na dog,b.png\n";
    let lines = "{\"caption\": \"a cat\", \"image\": \"a.png\", \"n\": 1.5}\n{\"caption\": [\"b\"], \"image\": \"b.png\"}\n";
    let kinds: [(&str, Vec<u8>); 5] = [
        ("tar", tar_of(5)),
        ("parquet", std::fs::read(parquet).unwrap()),
        ("csv", list.into()),
        ("tsv", list.replace(',', "\t").into()),
        ("jsonl", lines.into()),
    ];
    for (extension, whole) in kinds {
        for number in 0..mutations(12) {
            let name = format!("{extension}/{number}.{extension}");
            work.write(&format!("{extension}/a.png"), png(9, 9, [1; 3]));
            let path = work.write(&name, mutated(&mut random, &whole));
            let ran =
                work.diptych(&["ingest", &name, "--dataset", &format!("d-{extension}-{number}")]);
            stands(&ran, &path);
        }
    }
}

#[test]
fn images() {
    let work = Work::new();
    let mut random = StdRng::seed_from_u64(seed());
    let pixels = image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([x as u8, y as u8, 7]));
    let encoded = |format| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        pixels.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    let own = |name: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipeline/sample/testdata");
        std::fs::read(folder.join(name)).unwrap()
    };
    let mut kinds = vec![
        ("png", png(30, 20, [9; 3])),
        ("png", noise(3, 24)),
        ("jpg", jpeg(33, 21, [5; 3])),
        ("webp", encoded(image::ImageFormat::WebP)),
        ("gif", encoded(image::ImageFormat::Gif)),
    ];
    for name in [
        "restarts.jpg",
        "rle8.bmp",
        "lzw.tiff",
        "jpeg.tiff",
        "group4.tiff",
        "tiles.tiff",
        "sub420.avif",
        "alpha.avif",
        "lossless.jxl",
        "lossy.jxl",
        "lossless.jp2",
        "lossy.jp2",
        "sizes.ico",
        "masked.ico",
        "plain.ppm",
        "alpha.pam",
        "alpha.qoi",
        "rle.tga",
    ] {
        kinds.push((name.rsplit_once('.').unwrap().1, own(name)));
    }
    let count = mutations(60);
    for number in 0..count {
        for (kind, (extension, whole)) in kinds.iter().enumerate() {
            work.write(
                &format!("pictures/{number}-{kind}.{extension}"),
                mutated(&mut random, whole),
            );
            work.write(&format!("pictures/{number}-{kind}.txt"), format!("picture {number}"));
        }
    }
    let ran = work.diptych(&["ingest", "pictures", "--dataset", "data", "--phash"]);
    stands(&ran, &work.path("pictures"));
    // Each became a pair or has its reason.
    let pairs: u32 = work.sql(&["--dataset", "data"], "SELECT count(*) FROM meta").parse().unwrap();
    let rest: u32 =
        work.sql(&["--dataset", "data"], "SELECT count(*) FROM ledger").parse().unwrap();
    assert_eq!(pairs + rest, count * kinds.len() as u32);
    stands(&work.diptych(&["score", "blur", "--dataset", "data"]), &work.path("data"));
}

#[test]
fn tables_lists_and_weights() {
    let work = Work::new().with_demo_data(60);
    let mut random = StdRng::seed_from_u64(seed());
    work.diptych(&["uids", "train.parquet", "--output", "train.npy"]).ok();
    let read = |name: &str| std::fs::read(work.path(name)).unwrap();
    let (selection, uids, manifest) =
        (read("train.parquet"), read("train.npy"), read("data/dataset.json"));
    let meta = std::fs::read_dir(work.path("data/meta")).unwrap().next().unwrap().unwrap().path();
    let rows = std::fs::read(&meta).unwrap();
    let weights = std::fs::read(parity().join("tiny_gelu.safetensors")).unwrap();
    let model = std::fs::read(parity().join("tiny_quickgelu.json")).unwrap();
    let pickled =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/tests/data/torch/epoch_7.pt");
    let pickled = std::fs::read(pickled).unwrap();
    let counted = "SELECT count(DISTINCT caption), max(width), min(key) FROM meta";
    let chosen = "SELECT count(*) FROM chosen";
    work.write("model.json", &model);
    for _ in 0..mutations(12) {
        let damaged = work.write("m/train.parquet", mutated(&mut random, &selection));
        stands(&work.diptych(&["sql", chosen, "--table", "chosen=m/train.parquet"]), &damaged);
        stands(&work.diptych(&["uids", "m/train.parquet", "--output", "m/out.npy"]), &damaged);
        let damaged = work.write("m/uids.npy", mutated(&mut random, &uids));
        let select =
            ["select", "--uids", "m/uids.npy", "--dataset", "data", "--output", "m/s.parquet"];
        stands(&work.diptych(&select), &damaged);
        diptych_schemas::durable::write(&meta, &mutated(&mut random, &rows)).unwrap();
        stands(&work.diptych(&["sql", counted, "--dataset", "data"]), &meta);
        diptych_schemas::durable::write(&meta, &rows).unwrap();
        let damaged = work.write("data/dataset.json", mutated(&mut random, &manifest));
        stands(&work.diptych(&["sql", counted, "--dataset", "data"]), &damaged);
        work.write("data/dataset.json", &manifest);
        for (name, whole, config) in [
            ("m/w.safetensors", &weights, "model.json"),
            ("m/w.pt", &pickled, "model.json"),
            ("m/c.json", &model, "m/c.json"),
        ] {
            let damaged = work.write(name, mutated(&mut random, whole));
            let from = if name == config { "m/w.safetensors" } else { name };
            let export = [
                "export",
                "--model",
                from,
                "--model-config",
                config,
                "--format",
                "hf",
                "--output",
                "m/out",
            ];
            stands(&work.diptych(&export), &damaged);
            let _ = std::fs::remove_dir_all(work.path("m/out"));
        }
    }
}
