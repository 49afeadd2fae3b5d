//! Every supported layout of sources.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self};
use std::sync::Arc;

use crate::build::*;
use crate::disk::*;
use arrow::array::{
    ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Int64Array, LargeBinaryArray,
    ListBuilder, StringArray, StringBuilder, StructArray,
};
use arrow::datatypes::{DataType, Field};
use diptych_pipeline::ingest::Captions;
use diptych_schemas::DatasetManifest;

#[test]
fn tar_groups_members_by_key_and_keeps_their_other_fields() {
    let bench = Bench::new();
    let (a, b, c) = (png(1), png(2), png(3));
    let source = bench.file(
        "a.tar",
        &tar(&[
            ("x/one.png", &a),
            ("x/one.txt", b" a cat\n"),
            ("x/one.cls", b"7\n"),
            (
                "x/one.json",
                br#"{"Width": 3, "tags": ["p", "q"], "nothing": null, "caption": "a cat"}"#,
            ),
            ("two.png", &b),
            ("two.json", br#"{"caption": "a dog", "text": "other", "nsfw": false}"#),
            ("three.seg.npy", b"\xff\xfe"),
            ("three.png", &c),
            ("three.txt", b"a cow"),
        ]),
    );
    let report = bench.ingest(&[&source]);
    assert_eq!((report.pairs_added, report.ledger_total), (3, 0));
    assert!(report.sources[0].layout.contains("WebDataset"));
    assert!(report.sources[0].notes[0].contains(".seg.npy"));
    let rows = pairs(&bench.dataset());
    assert_eq!(
        rows.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(),
        ["x/one", "two", "three"]
    );
    assert_eq!(
        rows.iter().map(|row| row.caption.as_str()).collect::<Vec<_>>(),
        ["a cat", "a dog", "a cow"]
    );
    let own = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(rows[0].own, own(&[("cls", "7"), ("src_width", "3"), ("tags", r#"["p","q"]"#)]));
    assert_eq!(rows[1].own, own(&[("text", "other"), ("nsfw", "false")]));
}

#[test]
fn packed_archives_and_members_that_come_apart_give_the_same_pairs() {
    let (a, b) = (png(1), png(2));
    let beside = tar(&[("1.png", &a), ("1.txt", b"one"), ("2.png", &b), ("2.txt", b"two")]);
    let apart = tar(&[("1.png", &a), ("2.png", &b), ("1.txt", b"one"), ("2.txt", b"two")]);
    let captions_first = tar(&[
        ("1.json", br#"{"text":"one"}"#),
        ("2.json", br#"{"text":"two"}"#),
        ("1.png", &a),
        ("2.png", &b),
    ]);
    let mut hashes = HashSet::new();
    for (name, bytes) in [
        ("a.tar", beside.clone()),
        ("a.tar.gz", gzip(&beside)),
        ("misnamed.tar", gzip(&beside)),
        ("apart.tar", apart.clone()),
        ("apart.tgz", gzip(&apart)),
        ("a.tar.zst", zstd(&beside)),
        ("apart.tzst", zstd(&apart)),
        ("nameless", zstd(&beside)),
        ("captions.tar", captions_first.clone()),
        ("captions.tgz", gzip(&captions_first)),
    ] {
        let bench = Bench::new();
        let source = bench.file(name, &bytes);
        let report = bench.ingest(&[&source]);
        assert_eq!((report.pairs_added, report.ledger_total), (2, 0), "{name}");
        assert_eq!(captions(&bench.dataset()), ["one", "two"]);
        hashes.insert(report.content_hash);
    }
    assert_eq!(hashes.len(), 1);
}

#[test]
fn parquet_is_read_in_all_its_forms() {
    let images: Vec<Vec<u8>> = (0..3).map(png).collect();
    let slices: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(slices.clone()));
    let nested: ArrayRef = Arc::new(StructArray::from(vec![
        (Arc::new(Field::new("bytes", DataType::Binary, true)), bytes.clone()),
        (Arc::new(Field::new("path", DataType::Utf8, true)), strings(&["a.png", "b.png", "c.png"])),
    ]));
    let words = ["one", "two", "three"];
    let forms: [(&str, &str, ArrayRef); 4] = [
        ("image", "caption", bytes),
        ("jpg", "TEXT", Arc::new(LargeBinaryArray::from_vec(slices.clone()))),
        ("IMAGE", "text", Arc::new(BinaryViewArray::from_iter_values(slices))),
        ("image", "text", nested),
    ];
    for (image_name, caption_name, image) in forms {
        let bench = Bench::new();
        let columns = vec![
            ("key", strings(&["k0", "k1", "k2"])),
            (caption_name, strings(&words)),
            ("sha256", strings(&["x", "y", "z"])),
            ("score", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as ArrayRef),
            ("nsfw", Arc::new(BooleanArray::from(vec![true, false, true])) as ArrayRef),
            (image_name, image),
        ];
        let source = bench.file("a.parquet", &parquet(columns, 2));
        let report = bench.ingest(&[&source]);
        assert_eq!((report.pairs_added, report.ledger_total), (3, 0), "{image_name}");
        assert!(report.sources[0].layout.contains(caption_name), "{}", report.sources[0].layout);
        let rows = pairs(&bench.dataset());
        for (index, row) in rows.iter().enumerate() {
            assert_eq!(
                (row.image.clone(), row.caption.as_str()),
                (images[index].clone(), words[index])
            );
            assert_eq!(
                (row.key.clone(), row.own["nsfw"].as_str()),
                (format!("k{index}"), ["true", "false", "true"][index])
            );
        }
        assert_eq!(
            (
                rows[0].own["score"].as_str(),
                rows[1].own.get("score"),
                rows[2].own["src_sha256"].as_str()
            ),
            ("1", None, "z")
        );
    }
}

#[test]
fn what_is_null_in_parquet_goes_to_the_ledger() {
    let bench = Bench::new();
    let image = png(1);
    let nested: ArrayRef = Arc::new(StructArray::from(vec![
        (
            Arc::new(Field::new("bytes", DataType::Binary, true)),
            Arc::new(BinaryArray::from_opt_vec(vec![None, Some(&image), Some(&image)])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("path", DataType::Utf8, true)),
            strings(&["elsewhere.png", "b.png", "c.png"]),
        ),
    ]));
    let captions_of_rows: ArrayRef =
        Arc::new(StringArray::from(vec![Some("one"), None, Some("three")]));
    let source =
        bench.file("a.parquet", &parquet(vec![("image", nested), ("text", captions_of_rows)], 10));
    let report = bench.ingest(&[&source]);
    assert_eq!(report.pairs_added, 1);
    let rows = ledger(&bench.dataset());
    assert_eq!((rows[0][0].as_str(), rows[0][1].as_str()), ("missing_image", "row group 0, row 0"));
    assert!(rows[0][3].contains("elsewhere.png"));
    assert_eq!(
        (rows[1][0].as_str(), rows[1][1].as_str()),
        ("missing_caption", "row group 0, row 1")
    );
}

#[test]
fn listings_are_read_with_any_separator_and_as_json_lines() {
    let forms = [
        ("list.csv", "file_name,caption,class\n1.png,\"a cat, black\",5\nsub/2.png,a dog,\n"),
        ("openclip.csv", "filepath\ttitle\n1.png\ta cat, black\nsub/2.png\ta dog\n"),
        ("list.tsv", "\u{feff}path\ttext\r\n1.png\ta cat, black\r\nsub/2.png\ta dog\r\n"),
        (
            "metadata.jsonl",
            "{\"file_name\":\"1.png\",\"text\":\"a cat, \
             black\"}\n\n{\"file_name\":\"sub/2.png\",\"text\":\"a dog\",\"n\":1}",
        ),
    ];
    let mut hashes = HashSet::new();
    for (name, text) in forms {
        let bench = Bench::new();
        bench.file("1.png", &png(1));
        bench.file("sub/2.png", &png(2));
        let listing = bench.file(name, text.as_bytes());
        let report = bench.ingest(&[&listing]);
        assert_eq!((report.pairs_added, report.ledger_total), (2, 0), "{name}");
        assert_eq!(captions(&bench.dataset()), ["a cat, black", "a dog"]);
        hashes.insert(report.content_hash);
        // The folder stands for the list within it: nothing is new.
        let report = bench.ingest(&[bench.path("").to_str().unwrap()]);
        assert!(report.added_nothing() && report.skipped() == 1, "{name}");
    }
    assert_eq!(hashes.len(), 1);
}

#[test]
fn listing_cannot_lead_out_of_its_folder() {
    let bench = Bench::new();
    let outside = bench.file("outside.png", &png(9));
    fs::create_dir(bench.path("in")).unwrap();
    std::os::unix::fs::symlink(&outside, bench.path("in/link.png")).unwrap();
    std::os::unix::fs::symlink(bench.path(""), bench.path("in/folder")).unwrap();
    bench.file("in/good.png", &png(1));
    std::os::unix::fs::symlink("good.png", bench.path("in/inner.png")).unwrap();
    let text = format!(
        "file,caption\n../outside.png,a\n{outside},b\nlink.png,c\nfolder/outside.png,d\n\
         sub/../../outside.png,e\n.,f\nnone.png,g\nhttps://example.org/x.png,h\ngood.png,i\n\
         inner.png,j\n"
    );
    let listing = bench.file("in/list.csv", text.as_bytes());
    bench.ingest(&[&listing]);
    assert_eq!(captions(&bench.dataset()), ["i", "j"]);
    assert_eq!(
        reasons(&bench.dataset()),
        [
            "bad_record",
            "bad_record",
            "bad_record",
            "bad_record",
            "bad_record",
            "bad_record",
            "missing_image",
            "missing_image"
        ]
    );
    assert_eq!(ledger(&bench.dataset())[0][1], "line 2");
    assert!(ledger(&bench.dataset())[7][3].contains("--url-column"));
}

#[test]
fn bad_lines_cost_only_themselves() {
    let bench = Bench::new();
    bench.file("1.png", &png(1));
    let csv =
        bench.file("a.csv", b"file,caption\n1.png,one,more\n1.png,\xff\xfe\n1.png,\n1.png,good\n");
    let json = bench.file(
        "b.jsonl",
        b"{\"file\":\"1.png\",\"text\":\"fine\"}\nno \
              json\n{\"file\":\"1.png\"}\n[1]\n{\"text\":\"x\"}\n",
    );
    let report = bench.ingest(&[&csv, &json]);
    assert_eq!(captions(&bench.dataset()), ["good", "fine"]);
    let rows = ledger(&bench.dataset());
    let found: Vec<(&str, &str)> =
        rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    assert_eq!(
        found,
        [
            ("bad_record", "line 2"),
            ("bad_record", "line 3"),
            ("empty_caption", "line 4"),
            ("bad_record", "line 2"),
            ("missing_caption", "line 3"),
            ("bad_record", "line 4"),
            ("missing_image", "line 5"),
        ]
    );
    assert_eq!(report.ledger_added["bad_record"], 4);
}

#[test]
fn quote_that_is_never_closed_does_not_swallow_the_memory() {
    let bench = Bench::new();
    bench.file("1.png", &png(1));
    let mut text = b"file,caption\n1.png,good\n1.png,\"never closed\n".to_vec();
    text.resize(text.len() + (17 << 20), b'x');
    let report = bench.ingest(&[&bench.file("a.csv", &text)]);
    assert_eq!((report.pairs_added, report.ledger_total), (1, 2));
    assert!(ledger(&bench.dataset()).iter().all(|row| row[3].contains("quote")));
}

#[test]
fn folder_of_images_takes_its_captions_from_text_files() {
    let bench = Bench::new();
    let outside = bench.file("outside.png", &png(9));
    for (name, bytes) in [
        ("in/b.png", png(1)),
        ("in/b.txt", b"bee".to_vec()),
        ("in/a/c.d.PNG", png(2)),
        ("in/a/c.d.txt", b"sea\n".to_vec()),
        ("in/lonely.png", png(3)),
        ("in/README.txt", b"words".to_vec()),
        ("in/.hidden.png", png(4)),
        ("in/notes.md", b"nothing".to_vec()),
    ] {
        bench.file(name, &bytes);
    }
    std::os::unix::fs::symlink(&outside, bench.path("in/out.png")).unwrap();
    let report = bench.ingest(&[bench.path("in").to_str().unwrap()]);
    assert!(report.sources[0].layout.contains("folder of images"));
    assert_eq!(captions(&bench.dataset()), ["sea", "bee"]);
    let rows = ledger(&bench.dataset());
    let found: Vec<(&str, &str)> =
        rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    assert_eq!(
        found,
        [
            ("missing_image", "file README.txt"),
            ("missing_caption", "file lonely.png"),
            ("bad_record", "file out.png")
        ]
    );
}

#[test]
fn several_sources_and_patterns_are_taken_in_a_fixed_order() {
    let bench = Bench::new();
    bench.file("b.tar", &tar_of_pairs(2..4));
    bench.file("a.tar", &tar_of_pairs(0..2));
    let images: ArrayRef = Arc::new(BinaryArray::from_vec(vec![&png(7)]));
    let table = bench
        .file("t.parquet", &parquet(vec![("image", images), ("text", strings(&["seven"]))], 10));
    let pattern = bench.path("*.tar").to_str().unwrap().to_owned();
    let report = bench.ingest(&[&table, &pattern]);
    assert_eq!(report.sources.len(), 3);
    assert_eq!(
        captions(&bench.dataset()),
        ["seven", "caption 0", "caption 1", "caption 2", "caption 3"]
    );
    let manifest = DatasetManifest::read(&bench.dataset()).unwrap();
    assert_eq!(manifest.shards.len(), 1);
}

#[test]
fn lists_of_captions_give_the_first_or_all() {
    let images: Vec<Vec<u8>> = (0..4).map(png).collect();
    let slices: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let mut lists = ListBuilder::new(StringBuilder::new());
    for list in [Some(&["a", "b", "c"][..]), Some(&[" ", "d"]), Some(&[]), None] {
        lists.append_option(list.map(|list| list.iter().copied().map(Some)));
    }
    let bench = Bench::new();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("image", Arc::new(BinaryArray::from(slices))),
        ("captions", Arc::new(lists.finish())),
    ];
    let table = bench.file("a.parquet", &parquet(columns, 3));
    bench.file("5.png", &png(5));
    let lines = bench.file("b.jsonl", br#"{"path": "5.png", "caption": ["e", null, "f"]}"#);
    let archive = bench.file(
        "c.tar",
        &tar(&[("6.png", &png(6)), ("6.json", br#"{"caption": ["g", "h"], "x": ["y"]}"#)]),
    );
    let mut request = bench.request(&[&table, &lines, &archive]);
    run(&request).unwrap();
    let rows = pairs(&bench.dataset());
    assert_eq!(
        rows.iter().map(|row| row.caption.as_str()).collect::<Vec<_>>(),
        ["a", "d", "e", "g"]
    );
    assert!(rows.iter().all(|row| !row.own.contains_key("caption_2")));
    assert_eq!(reasons(&bench.dataset()), ["missing_caption", "missing_caption"]);

    request.captions = Captions::AllColumns;
    request.dataset = bench.path("all");
    run(&request).unwrap();
    let rows = pairs(&request.dataset);
    let own = |row: usize| {
        rows[row].own.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        [own(0), own(1), own(2), own(3)],
        ["caption_2=b caption_3=c", "", "caption_2=f", r#"caption_2=h x=["y"]"#]
    );
}
