//! Lists as people and other tools write them: quotes, headers, separators, encodings, JSON that is
//! not quite valid.

use std::fs;
use std::os::unix::fs::symlink;

use crate::build::*;
use crate::disk::*;
use diptych_pipeline::ingest::{IngestRequest, ListOptions, SourceOutcome};

/// Images `0.png` to `9.png` in the folder of the sources.
fn bench() -> Bench {
    let bench = Bench::new();
    for number in 0..10 {
        bench.file(&format!("{number}.png"), &png(number));
    }
    bench
}

fn with(request: IngestRequest, lists: ListOptions) -> IngestRequest {
    IngestRequest { lists, ..request }
}

/// Position and reason of the ledger's rows.
fn places(bench: &Bench) -> Vec<(String, String)> {
    ledger(&bench.dataset()).iter().map(|row| (row[1].clone(), row[0].clone())).collect()
}

fn place(position: &str, reason: &str) -> (String, String) {
    (position.into(), reason.into())
}

#[test]
fn quote_at_the_beginning_of_a_caption_swallows_no_line() {
    let bench = bench();
    let text = "filepath\ttitle\n0.png\t\"the best\" of all\n1.png\t\"never \
                closed\n2.png\tplain\n3.png\t5\" wide\n4.png\tends with\"\n";
    let report = bench.ingest(&[&bench.file("a.tsv", text.as_bytes())]);
    assert_eq!((report.pairs_added, report.ledger_total), (5, 0));
    assert_eq!(
        captions(&bench.dataset()),
        ["\"the best\" of all", "\"never closed", "plain", "5\" wide", "ends with\""]
    );
}

#[test]
fn lines_are_counted_as_an_editor_counts_them() {
    let bench = bench();
    for (name, text) in [
        ("a.csv", "file,caption\r\n0.png,zero\r\nnone.png,x\r\n"),
        ("b.csv", "file,caption\n\n1.png,one\n\n\n\nnone.png,x\n"),
        ("c.csv", "file,caption\n2.png,\"two\r\nlines\"\nnone.png,x\n"),
    ] {
        bench.ingest(&[&bench.file(name, text.as_bytes())]);
    }
    let lines: Vec<String> = places(&bench).into_iter().map(|(position, _)| position).collect();
    assert_eq!(lines, ["line 3", "line 7", "line 4"]);
}

#[test]
fn byte_order_marks_are_no_part_of_any_text() {
    let bench = bench();
    let mark = "\u{feff}";
    let csv = bench.file("a.csv", format!("{mark}file,caption\n0.png,zero\n").as_bytes());
    let line = "{\"file_name\": \"1.png\", \"caption\": \"one\"}\n";
    let lines = bench.file("b.jsonl", format!("{mark}{line}").as_bytes());
    bench.file("in/x.png", &png(20));
    bench.file("in/x.txt", format!("{mark}two").as_bytes());
    bench.file("in/y.png", &png(21));
    let wide: Vec<u8> = "\u{feff}three".encode_utf16().flat_map(u16::to_le_bytes).collect();
    bench.file("in/y.txt", &wide);
    let folder = bench.path("in");
    let members: [(&str, &[u8]); 4] = [
        ("a.png", &png(30)),
        ("a.txt", "\u{feff}four".as_bytes()),
        ("b.png", &png(31)),
        ("b.json", "\u{feff}{\"caption\": \"five\"}".as_bytes()),
    ];
    let tar = bench.file("t.tar", &tar(&members));
    let report = bench.ingest(&[&csv, &lines, folder.to_str().unwrap(), &tar]);
    assert_eq!(report.ledger_total, 0);
    assert_eq!(captions(&bench.dataset()), ["zero", "one", "two", "three", "four", "five"]);
}

#[test]
fn lists_are_unpacked_and_recoded() {
    let text = "file,caption\n0.png,Bär\n1.png,日本\n";
    let wide =
        |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> { text.encode_utf16().flat_map(bytes).collect() };
    for (name, bytes) in [
        ("a.csv.gz", gzip(text.as_bytes())),
        ("a.csv.zst", zstd(text.as_bytes())),
        ("a.csv", [&[0xff, 0xfe], wide(u16::to_le_bytes).as_slice()].concat()),
        ("a.csv", [&[0xfe, 0xff], wide(u16::to_be_bytes).as_slice()].concat()),
        ("a.csv", wide(u16::to_le_bytes)),
    ] {
        let bench = bench();
        bench.ingest(&[&bench.file(name, &bytes)]);
        assert_eq!(captions(&bench.dataset()), ["Bär", "日本"], "{name}");
    }

    let bench = bench();
    let latin = bench.file("latin.csv", b"file,caption\n0.png,B\xe4r\n1.png,plain\n");
    bench.ingest(&[&latin]);
    assert!(ledger(&bench.dataset())[0][3].contains("--encoding"));
    let lists = ListOptions { encoding: Some("windows-1252".into()), ..ListOptions::default() };
    run(&with(bench.request(&[&latin]), lists)).unwrap();
    assert_eq!(captions(&bench.dataset()), ["plain", "Bär"]);

    // Truncated in the middle: the intact part is read, and the damage is reported.
    let lines = (0..4000).map(|n| format!("0.png,caption {n} {}", n * n));
    let long = lines.collect::<Vec<_>>().join("\n");
    let packed = gzip(format!("file,caption\n{long}").as_bytes());
    let report = bench.ingest(&[&bench.file("cut.csv.gz", &packed[..packed.len() / 2])]);
    assert!(report.pairs_added > 100);
    assert!(matches!(&report.sources[0].outcome, SourceOutcome::Partial(_)));
}

#[test]
fn first_line_may_be_a_record_and_columns_can_be_named() {
    for (text, lists) in [
        ("zero\t0.png\none\t1.png\n", ListOptions::default()),
        ("0.png#0\tzero\n1.png#1\tone\n", ListOptions::default()),
        (
            "zero,a,0.png\none,b,1.png\n",
            ListOptions {
                columns: Some(["caption", "class", "file"].map(str::to_owned).into()),
                ..ListOptions::default()
            },
        ),
        (
            "0~zero\n1~one\n",
            ListOptions {
                columns: Some(["file", "caption"].map(str::to_owned).into()),
                separator: Some('~'),
                ..ListOptions::default()
            },
        ),
    ] {
        let bench = bench();
        for number in 0..2 {
            fs::copy(bench.path(&format!("{number}.png")), bench.path(&number.to_string()))
                .unwrap();
        }
        let list = bench.file("list.csv", text.as_bytes());
        let report = run(&with(bench.request(&[&list]), lists)).unwrap();
        assert_eq!((report.pairs_added, report.ledger_total), (2, 0), "{text}");
        assert_eq!(captions(&bench.dataset()), ["zero", "one"], "{text}");
    }

    let bench = bench();
    let list = bench.file("list.csv", b"zero,a,0.png\none,b,1.png\n");
    let message = bench.error(&bench.request(&[&list]));
    assert!(message.contains("--columns") && message.contains("zero | a | 0.png"), "{message}");
    let named = ListOptions {
        columns: Some(["caption", "file"].map(str::to_owned).into()),
        ..ListOptions::default()
    };
    let message = bench.error(&with(bench.request(&[&list]), named));
    assert!(
        message.contains("--columns") && message.contains('2') && message.contains('3'),
        "{message}"
    );
}

#[test]
fn bars_separate_and_values_have_no_blanks_around_them() {
    let bench = bench();
    let text = "image_name| comment_number| comment\n0.png| 0| a \"red\" ball .\n0.png| 1   a bar \
                is missing\n 1.png | 0| \"two\n";
    let list = bench.file("results.csv", text.as_bytes());
    let mut request = bench.request(&[&list]);
    request.image_column = Some("image_name".into());
    request.caption_column = Some("comment".into());
    run(&request).unwrap();
    assert_eq!(captions(&bench.dataset()), ["a \"red\" ball .", "\"two"]);
    let rows = pairs(&bench.dataset());
    assert_eq!((rows[1].key.as_str(), rows[1].own["comment_number"].as_str()), ("1.png", "0"));
    assert_eq!(places(&bench), [place("line 3", "bad_record")]);
}

#[test]
fn images_lie_elsewhere_only_where_the_user_says_so() {
    let bench = bench();
    bench.file("elsewhere/a.png", &png(50));
    bench.file("elsewhere/b.png", &png(51));
    let absolute = bench.path("elsewhere/b.png");
    let text = format!("file,caption\n../elsewhere/a.png,a\n{},b\n", absolute.display());
    let list = bench.file("lists/list.csv", text.as_bytes());
    let plain = bench.file("lists/plain.csv", b"file,caption\na.png,again\n");
    bench.ingest(&[&list]);
    for row in ledger(&bench.dataset()) {
        assert!(row[3].contains("--images-root") && row[3].contains("--allow-outside"), "{row:?}");
    }
    let rooted = ListOptions { images_root: Some(bench.path("")), ..ListOptions::default() };
    run(&with(bench.request(&[&list]), rooted)).unwrap();
    assert_eq!(captions(&bench.dataset()), ["b"], "an absolute path within the folder");
    let anywhere = ListOptions { allow_outside: true, ..ListOptions::default() };
    run(&with(bench.request(&[&list]), anywhere)).unwrap();
    assert_eq!(captions(&bench.dataset()), ["b", "a"]);
    let rooted =
        ListOptions { images_root: Some(bench.path("elsewhere")), ..ListOptions::default() };
    run(&with(bench.request(&[&plain]), rooted)).unwrap();
    assert_eq!(captions(&bench.dataset()), ["b", "a", "again"]);
}

#[test]
fn hugging_faces_cache_is_read_through_its_links_and_no_further() {
    let bench = bench();
    bench.file("hub/blobs/b0", &png(60));
    bench.file(
        "hub/blobs/meta",
        b"{\"file_name\": \"0.png\", \"text\": \"zero\"}\n{\"file_name\": \"1.png\", \"text\": \
          \"one\"}\n",
    );
    let secret = bench.file("hub/secret", &png(61));
    let train = bench.path("hub/snapshots/abc/train");
    fs::create_dir_all(&train).unwrap();
    symlink("../../../blobs/b0", train.join("0.png")).unwrap();
    symlink(secret, train.join("1.png")).unwrap();
    symlink("../../../blobs/meta", train.join("metadata.jsonl")).unwrap();
    bench.ingest(&[train.to_str().unwrap()]);
    assert_eq!(captions(&bench.dataset()), ["zero"]);
    assert_eq!(places(&bench), [place("line 2", "bad_record")]);

    // As a folder of images, too.
    fs::remove_file(train.join("metadata.jsonl")).unwrap();
    bench.file("hub/snapshots/abc/train/0.txt", b"nought");
    let report = bench.ingest(&[train.to_str().unwrap()]);
    assert_eq!(report.pairs_added, 1);
}

#[test]
fn json_is_read_as_an_array_pretty_printed_and_as_python_writes_it() {
    let records = [
        "{\"file_name\": \"0.png\", \"caption\": \"zero\", \"score\": NaN}",
        "{\"file_name\": \"1.png\", \"caption\": \"one \\ud83d\", \"score\": -Infinity}",
        "{\"file_name\": \"2.png\", \"caption\": two}",
        "{\"file_name\": \"3.png\", \"caption\": \"three\", \"more\": [{\"a\": 1}]}",
    ];
    let pretty: String = records
        .iter()
        .map(|record| record.replace(", ", ",\n  ").replace('}', "\n}") + "\n")
        .collect();
    for (name, text) in [
        ("lines.jsonl", records.join("\n")),
        ("array.jsonl", format!("[{}]", records.join(", "))),
        ("array.json", format!("[\n  {}\n]\n", records.join(",\n  "))),
        ("pretty.jsonl", pretty),
    ] {
        let bench = bench();
        let report = bench.ingest(&[&bench.file(name, text.as_bytes())]);
        assert_eq!((report.pairs_added, report.ledger_total), (3, 1), "{name}");
        assert_eq!(captions(&bench.dataset()), ["zero", "one \u{fffd}", "three"], "{name}");
        assert_eq!(ledger(&bench.dataset())[0][0], "bad_record");
        // Once more: nothing is new.
        assert!(bench.ingest(&[bench.path(name).to_str().unwrap()]).added_nothing());
    }
}

#[test]
fn cocos_captions_are_pairs_and_their_images_lie_beside_them() {
    let bench = bench();
    bench.file("coco/train2017/a.png", &png(70));
    bench.file("coco/train2017/b.png", &png(71));
    let text = r#"{"info": {"year": 2017}, "annotations": [
        {"image_id": 5, "id": 1, "caption": "first of a"}, {"image_id": 5, "id": 2,
            "caption": "second of a"},
        {"image_id": 9, "id": 3, "caption": "of none"}, {"image_id": 6, "id": 4,
            "caption": "of b"}],
        "images": [{"id": 5, "file_name": "a.png"}, {"id": 6, "file_name": "b.png"}]}"#;
    let list = bench.file("coco/annotations/captions_train2017.json", text.as_bytes());
    let report = bench.ingest(&[bench.path("coco").to_str().unwrap()]);
    assert!(report.sources[0].layout.contains("COCO"), "{}", report.sources[0].layout);
    assert_eq!(captions(&bench.dataset()), ["first of a", "second of a", "of b"]);
    assert_eq!(places(&bench), [place("annotation 3", "missing_image")]);

    let elsewhere = Bench::new();
    elsewhere.file("pictures/a.png", &png(70));
    let lists =
        ListOptions { images_root: Some(elsewhere.path("pictures")), ..ListOptions::default() };
    let report = run(&with(elsewhere.request(&[&list]), lists)).unwrap();
    assert_eq!(report.pairs_added, 2);
}

#[test]
fn what_lies_in_place_of_a_file_is_called_by_its_name() {
    let bench = bench();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12345678\n";
    let page = "\n<!DOCTYPE html>\n<html><body>Sign in</body></html>";
    for (name, text, part) in [
        ("a.tar", pointer, "git lfs pull"),
        ("b.parquet", pointer, "git lfs pull"),
        ("c.csv", pointer, "git lfs pull"),
        ("d.tar", page, "web page"),
    ] {
        let report = bench.ingest(&[&bench.file(name, text.as_bytes())]);
        let SourceOutcome::Unreadable(message) = &report.sources[0].outcome else {
            panic!("{name}: {:?}", report.sources[0].outcome)
        };
        assert!(message.contains(part), "{name}: {message}");
    }
}

#[test]
fn archives_joined_by_cat_are_read_to_the_last() {
    let bench = bench();
    let joined = [tar_of_pairs(0..3), tar_of_pairs(3..7)].concat();
    let report = bench.ingest(&[&bench.file("cat.tar", &joined)]);
    assert_eq!((report.pairs_added, report.ledger_total), (7, 0));
    assert!(report.sources[0].notes[0].contains('2'), "{:?}", report.sources[0].notes);
}
