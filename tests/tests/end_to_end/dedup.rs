//! Duplicates and contamination, on real emoji and on copies of them in another format or size.

use std::io::{Cursor, Read};
use std::path::Path;

use diptych_test_support::{data, needs};
use diptych_tests::{Work, pairs};
use image::imageops::FilterType;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

/// Returns the first `count` images of a tar, on white, with their captions.
fn emoji(tar: &Path, count: usize) -> Vec<(RgbImage, String)> {
    let mut archive = tar::Archive::new(std::fs::File::open(tar).unwrap());
    let (mut images, mut texts) = (Vec::new(), Vec::new());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let ending = entry.path().unwrap().extension().unwrap_or_default().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if ending == "png" && images.len() < count {
            images.push(on_white(&image::load_from_memory(&bytes).unwrap()));
        } else if ending == "txt" && texts.len() < count {
            texts.push(String::from_utf8(bytes).unwrap());
        }
    }
    images.into_iter().zip(texts).collect()
}

fn on_white(image: &DynamicImage) -> RgbImage {
    let image = image.to_rgba8();
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [r, g, b, a] = image.get_pixel(x, y).0.map(u32::from);
        Rgb([r, g, b].map(|value| ((value * a + 255 * (255 - a)) / 255) as u8))
    })
}

fn encoded(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// Writes each image as a large PNG, a JPEG, a smaller JPEG, and as the PNG again with another
/// caption.
fn copies(work: &Work, name: &str, emoji: &[(RgbImage, String)]) {
    let mut members: Vec<(String, Vec<u8>)> = Vec::new();
    for (n, (image, caption)) in emoji.iter().enumerate() {
        let large = image::imageops::resize(image, 256, 256, FilterType::CatmullRom);
        let small = image::imageops::resize(image, 112, 112, FilterType::CatmullRom);
        let png = encoded(&large, ImageFormat::Png);
        for (copy, (ending, bytes)) in [
            ("png", png.clone()),
            ("jpg", encoded(image, ImageFormat::Jpeg)),
            ("jpg", encoded(&small, ImageFormat::Jpeg)),
            ("png", png),
        ]
        .into_iter()
        .enumerate()
        {
            members.push((format!("{n:03}_{copy}.{ending}"), bytes));
            members.push((
                format!("{n:03}_{copy}.txt"),
                format!("{caption} number {copy}").into_bytes(),
            ));
        }
    }
    let members: Vec<(&str, Vec<u8>)> =
        members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    work.write(name, pairs::tar(&members));
}

#[needs(data)]
#[test]
fn copies_of_images_are_found_and_the_best_one_stays() {
    let work = Work::new();
    let all = emoji(&data("emoji_train.tar"), 300);
    copies(&work, "copies.tar", &all[..20]);
    let names: Vec<_> =
        (0..all.len()).map(|n| (format!("{n:03}.png"), format!("{n:03}.txt"))).collect();
    let mut members = Vec::new();
    for ((image, caption), (file, text)) in all.iter().zip(&names) {
        members.push((file.as_str(), encoded(image, ImageFormat::Png)));
        members.push((text.as_str(), caption.clone().into_bytes()));
    }
    work.write("emoji.tar", pairs::tar(&members));
    work.diptych(&["ingest", "emoji.tar", "copies.tar", "--dataset", "data", "--phash"]).ok();
    let dedup = |by: &str, output: &str, more: &[&str]| {
        let call = ["dedup", "--dataset", "data", "--by", by, "--output", output];
        work.diptych(&[&call[..], more].concat()).ok()
    };
    let tables =
        ["--dataset", "data", "--table", "groups=groups.parquet", "--table", "kept=unique.parquet"];

    // The same bytes: the copies that are there twice, and some emoji that look the same.
    let ran = dedup("sha256", "bytes.parquet", &[]);
    let equal: u32 = work
        .sql(&["--dataset", "data"], "SELECT count(*) - count(DISTINCT sha256) FROM meta")
        .parse()
        .unwrap();
    assert!(equal >= 20 && ran.stdout.contains(&format!("{equal}  ")), "{equal}: {}", ran.stdout);

    // Near images. Of the copies, the large PNG stays.
    let keep = ["--keep", "width * height DESC", "--hamming", "6", "--groups", "groups.parquet"];
    dedup("phash,sha256", "unique.parquet", &keep);
    let kept_copies =
        "SELECT count(*) FROM kept JOIN meta USING (uid) WHERE source LIKE '%copies.tar'";
    let large = format!("{kept_copies} AND width = 256");
    assert_eq!(work.sql(&tables, kept_copies), work.sql(&tables, &large));
    // In a group, the one that stays is the best, and what is said of the others is so.
    let wrong = "SELECT count(*) FROM groups a JOIN groups b ON a.\"group\" = b.\"group\" AND a.kept AND NOT b.kept
         JOIN meta ma ON a.uid = ma.uid JOIN meta mb ON b.uid = mb.uid
         WHERE hamming(ma.phash, mb.phash) <> b.distance OR b.distance > 6 OR ma.width < mb.width";
    assert_eq!(work.sql(&tables, wrong), "0");
    // None of the kept pairs are near each other, and each pair is either kept or in one group.
    let near = "SELECT count(*) FROM (SELECT uid, phash FROM kept JOIN meta USING (uid)) a
         JOIN (SELECT uid, phash FROM kept JOIN meta USING (uid)) b ON a.uid < b.uid AND hamming(a.phash, b.phash) <= 6";
    assert_eq!(work.sql(&tables, near), "0");
    let number = |sql: &str| work.sql(&tables, sql).parse::<u32>().unwrap();
    let all = number("SELECT count(*) FROM meta");
    assert_eq!(
        number("SELECT count(*) FROM kept") + number("SELECT count(*) FROM groups WHERE NOT kept"),
        all
    );
    assert!(number("SELECT count(*) FROM groups WHERE tier = 'phash'") >= 60);

    // The order of tiers changes the reasons, not the result. A second run gives the same bytes.
    let first = std::fs::read(work.path("unique.parquet")).unwrap();
    dedup("phash,sha256", "again.parquet", &keep);
    assert!(std::fs::read(work.path("again.parquet")).unwrap() == first);
    dedup("sha256,phash", "turned.parquet", &keep);
    let same = "SELECT count(*) FROM kept a JOIN turned b USING (uid)";
    let turned = [&tables[..], &["--table", "turned=turned.parquet"]].concat();
    assert_eq!(work.sql(&turned, same), number("SELECT count(*) FROM kept").to_string());
}

#[test]
fn near_captions_are_found_within_a_selection_and_weights_stay() {
    let work = Work::new();
    let captions = [
        "A red circle left of a large blue square",
        "a red circle, left of a large blue square!",
        "a red circle left of a large blue squares",
        "a green triangle above a yellow star",
        "a red circle left of a large blue square",
    ];
    let names: Vec<_> =
        (0..captions.len()).map(|n| (format!("{n}.png"), format!("{n}.txt"))).collect();
    let mut members = Vec::new();
    for (n, ((image, text), caption)) in (0_u8..).zip(names.iter().zip(captions)) {
        members.push((image.as_str(), pairs::png(20 + u32::from(n), 20, [n, 9, 9])));
        members.push((text.as_str(), caption.as_bytes().to_vec()));
    }
    work.write("a.tar", pairs::tar(&members));
    work.diptych(&["ingest", "a.tar", "--dataset", "data"]).ok();
    let sql = "SELECT uid, width AS weight FROM meta WHERE key <> '4'";
    work.diptych(&["select", sql, "--dataset", "data", "--output", "in.parquet"]).ok();
    let call = [
        "dedup",
        "--dataset",
        "data",
        "--selection",
        "in.parquet",
        "--by",
        "caption",
        "--output",
        "out.parquet",
    ];
    let tables = ["--dataset", "data", "--table", "kept=out.parquet"];
    let kept =
        "SELECT string_agg(key || ':' || weight, ' ' ORDER BY key) FROM kept JOIN meta USING (uid)";
    work.diptych(&[&call[..], &["--keep", "key DESC"]].concat()).ok();
    assert_eq!(work.sql(&tables, kept), "2:22.0 3:23.0");
    // Equal after normalising: 0 and 1 only.
    work.diptych(&[&call[..], &["--keep", "key", "--jaccard", "1"]].concat()).ok();
    assert_eq!(work.sql(&tables, kept), "0:20.0 2:22.0 3:23.0");
}

#[needs(data)]
#[test]
fn what_is_in_an_evaluation_set_is_dropped_and_told() {
    let work = Work::new();
    let test = data("emoji_test.tar");
    let held = emoji(&test, 24);
    copies(&work, "leaked.tar", &held[..4]);
    copies(&work, "held.tar", &held[..4]);
    copies(&work, "others.tar", &held[16..20]);
    work.diptych(&["ingest", "leaked.tar", "others.tar", "--dataset", "data", "--phash"]).ok();
    work.diptych(&["ingest", "held.tar", "--dataset", "held", "--phash"]).ok();
    copies(&work, "one.tar", &held[16..17]);
    work.diptych(&["ingest", "one.tar", "--dataset", "one", "--phash"]).ok();

    let call = [
        "decontaminate",
        "--dataset",
        "data",
        "--against",
        "held",
        "one",
        "--by",
        "sha256,phash",
        "--output",
        "clean.parquet",
    ];
    let ran = work
        .diptych(&[&call[..], &["--groups", "leaks.parquet", "--memory-limit", "128MiB"]].concat())
        .ok();
    ran.says("decontaminate", "pairs_of_two_sets");
    let tables =
        ["--dataset", "data", "--table", "leaks=leaks.parquet", "--table", "clean=clean.parquet"];
    assert_eq!(work.sql(&tables, "SELECT count(DISTINCT uid) FROM leaks WHERE distance = 0"), "20");
    let leaked = "SELECT count(*) FROM clean JOIN meta USING (uid) WHERE source LIKE '%leaked.tar'";
    assert_eq!(work.sql(&tables, leaked), "0");

    // Other sizes of the same images only: near, not equal.
    work.diptych(&[
        "select",
        "SELECT uid FROM meta WHERE width = 112",
        "--dataset",
        "data",
        "--output",
        "small.parquet",
    ])
    .ok();
    let near = [
        "decontaminate",
        "--dataset",
        "data",
        "--selection",
        "small.parquet",
        "--against",
        "held",
        "--output",
        "c.parquet",
    ];
    let ran = work.diptych(&[&near[..], &["--by", "phash", "--hamming", "0"]].concat()).ok();
    ran.says("decontaminate", "other_sizes_of_images");
}

#[test]
fn what_is_missing_or_wrong_is_said() {
    let work = Work::new();
    work.write("a.tar", pairs::tar_of(6));
    work.write("b.tar", pairs::tar_of(7));
    work.diptych(&["ingest", "a.tar", "--dataset", "data"]).ok();
    work.diptych(&["ingest", "b.tar", "--dataset", "other"]).ok();
    work.diptych(&[
        "select",
        "SELECT uid FROM meta",
        "--dataset",
        "other",
        "--output",
        "other.parquet",
    ])
    .ok();
    let call = |more: &[&str]| {
        work.diptych(&[&["dedup", "--dataset", "data", "--output", "out.parquet"], more].concat())
    };
    call(&["--by", "phash"])
        .fails(1, "no_perceptual_hashes")
        .names(&["data", "diptych score phash"]);
    call(&["--by", "semantic"]).fails(1, "no_embeddings").names(&["diptych score clip"]);
    call(&["--by", "looks"])
        .fails(2, "unknown_tier")
        .names(&["looks", "sha256", "phash", "caption", "semantic"]);
    call(&["--by", "sha256", "--keep", "widht"])
        .fails(1, "order_by_a_wrong_column")
        .names(&["widht", "width?"]);
    call(&["--by", "sha256", "--keep", "random()"])
        .fails(1, "order_by_chance")
        .names(&["random", "hash_fraction"]);
    call(&["--by", "sha256", "--keep", "uid; DROP TABLE meta"]).fails(1, "order_of_two_statements");
    call(&["--by", "sha256", "--selection", "other.parquet"])
        .fails(1, "selection_of_another_dataset")
        .names(&["other.parquet"]);
    call(&["--by", "sha256", "--memory-limit", "1MiB"])
        .fails(2, "memory_limit_too_small")
        .names(&["64MiB"]);
    assert!(!work.path("out.parquet").exists());
    work.diptych(&[
        "decontaminate",
        "--dataset",
        "data",
        "--against",
        "data",
        "--by",
        "sha256",
        "--output",
        "out.parquet",
    ])
    .fails(1, "no_pair_is_left");
    let sql = ["sql", "SELECT 1", "--table"];
    work.diptych(&[&sql[..], &["x=a.tar"]].concat())
        .fails(1, "table_that_is_not_parquet")
        .names(&["a.tar"]);
    work.diptych(&[&sql[..], &["meta=other.parquet", "--dataset", "data"]].concat())
        .fails(1, "table_of_a_taken_name")
        .names(&["meta"]);
}
