//! A second ingest, and one after a kill.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::build::*;
use crate::disk::*;
use arrow::array::{ArrayRef, BinaryArray};
use diptych_pipeline::ingest::{IngestError, IngestRequest, ingest};
use diptych_schemas::{DatasetManifest, durable};

/// Sources of several layouts with several flaws, and a request that cuts them into many shards.
fn mixed(bench: &Bench) -> IngestRequest {
    let first = bench.file("a.tar", &[&tar_of_pairs(0..12)[..], b""].concat());
    let (one, two) = (png(100), png(101));
    let flawed = tar(&[
        ("x.png", &one),
        ("x.txt", b"x"),
        ("y.txt", b"no image"),
        ("z.png", &one),
        ("z.txt", b"x"),
        ("w.png", &two),
        ("w.txt", b"w"),
        ("w.cls", b"4"),
    ]);
    let second = bench.file("b.tar.gz", &gzip(&flawed));
    let images: Vec<Vec<u8>> = (200..208).map(png).collect();
    let array: ArrayRef =
        Arc::new(BinaryArray::from_vec(images.iter().map(Vec::as_slice).collect()));
    let words = strings(&["a", "", "c", "d", "e", "f", "g", "h"]);
    let third = bench.file("c.parquet", &parquet(vec![("image", array), ("text", words)], 3));
    bench.file("d/1.png", &png(300));
    bench.file("d/2.png", &png(301));
    let fourth =
        bench.file("d/list.csv", b"file,caption,more\n1.png,one,p\nnone.png,x,q\n2.png,two,\n");
    let cut = bench.file("e.tar", &tar_of_pairs(400..403)[..4 * 1024 + 100]);
    let mut request = bench.request(&[&first, &second, &third, &fourth, &cut]);
    let size = png(1).len() as u64;
    (request.row_group_bytes, request.shard_bytes) = (2 * size, 7 * size);
    request
}

#[test]
fn ingest_that_is_stopped_anywhere_and_started_again_gives_the_same_bytes() {
    let bench = Bench::new();
    let mut request = mixed(&bench);
    let mut steps = 0;
    let report = ingest(&request, &mut |_| {
        steps += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    let expected = files(&bench.dataset());
    let manifest = DatasetManifest::read(&bench.dataset()).unwrap();
    assert!(manifest.shards.len() > 3 && manifest.ledgers.len() > 1 && steps > 20, "{manifest:?}");
    assert_eq!(report.ledger_added.values().sum::<u64>(), manifest.ledger_rows);

    for stop in 0..steps {
        request.dataset = bench.folder.path().join(format!("stopped-{stop}"));
        let mut left = stop;
        let stopped = ingest(&request, &mut |_| {
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(IngestError::Stopped { .. })), "{stop}");
        // Leftovers of a kill.
        for name in [
            "blob/00009.parquet.incomplete",
            "meta/00009.parquet",
            "ledger/00009.parquet.incomplete",
        ] {
            durable::write(&request.dataset.join(name), b"half").unwrap();
        }
        let report = run(&request).unwrap();
        assert_eq!(report.content_hash, manifest.content_hash(), "{stop}");
        assert!(files(&request.dataset) == expected, "stopped at step {stop}");
        fs::remove_dir_all(&request.dataset).unwrap();
    }
    assert_eq!(pairs(&bench.dataset()).len(), 12 + 2 + 7 + 2 + 2);
}

#[test]
fn reading_a_changed_source_again_can_be_stopped_anywhere_too() {
    let bench = Bench::new();
    let mut request = mixed(&bench);
    run(&request).unwrap();
    // The first archive has five more pairs at its start, one of them in the dataset already; the
    // truncated one is repaired.
    let changed = tar(&[("x.png", &png(100)), ("x.txt", b"x"), ("only.txt", b"no image")]);
    let changed = [
        &changed[..changed.len() - 1024],
        &tar_of_pairs(500..504)[..4 * 1024],
        &tar_of_pairs(0..12),
    ]
    .concat();
    bench.file("a.tar", &changed);
    bench.file("e.tar", &tar_of_pairs(400..403));
    let original = files(&bench.dataset());
    let copy = |name: String| {
        let folder = bench.folder.path().join(name);
        for (path, bytes) in &original {
            fs::create_dir_all(folder.join(path).parent().unwrap()).unwrap();
            durable::write(&folder.join(path), bytes).unwrap();
        }
        folder
    };
    request.dataset = copy("whole".into());
    let mut steps = 0;
    let report = ingest(&request, &mut |_| {
        steps += 1;
        ControlFlow::Continue(())
    })
    .unwrap();
    let expected = files(&request.dataset);
    assert_eq!(report.ledger_added, BTreeMap::from([("duplicate_pair", 1), ("missing_image", 1)]));
    for stop in 0..steps {
        request.dataset = copy(format!("stopped-{stop}"));
        let mut left = stop;
        let stopped = ingest(&request, &mut |_| {
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(stopped, Err(IngestError::Stopped { .. })), "{stop}");
        run(&request).unwrap();
        assert!(files(&request.dataset) == expected, "stopped at step {stop}");
    }
}

#[test]
fn source_is_read_again_when_it_is_to_be_read_in_another_way() {
    let bench = Bench::new();
    let source = bench.file(
        "a.tar",
        &tar(&[("1.png", &png(1)), ("1.json", br#"{"words": "one"}"#), ("2.txt", b"two")]),
    );
    let mut request = bench.request(&[&source]);
    let report = run(&request).unwrap();
    assert_eq!((report.pairs_added, report.ledger_total), (0, 2));
    assert!(
        ledger(&bench.dataset())
            .iter()
            .any(|row| row[0] == "missing_caption" && row[3].contains("json"))
    );
    request.caption_column = Some("words".into());
    let report = run(&request).unwrap();
    // A pair is not in the ledger any more.
    assert_eq!((report.pairs_added, report.ledger_total), (1, 1));
    assert!(run(&request).unwrap().added_nothing());
}

#[test]
fn second_run_adds_nothing_and_says_so() {
    let bench = Bench::new();
    let request = mixed(&bench);
    run(&request).unwrap();
    let before = files(&bench.dataset());
    let report = run(&request).unwrap();
    assert!(report.added_nothing());
    // All except the truncated archive, which is tried again.
    assert_eq!(report.skipped(), 4);
    assert_eq!(files(&bench.dataset()), before);
}

#[test]
fn same_sources_give_the_same_dataset_whatever_the_threads() {
    let mut found = HashSet::new();
    for threads in [1, 3] {
        let bench = Bench::new();
        let mut request = mixed(&bench);
        request.threads = threads;
        found.insert(run(&request).unwrap().content_hash);
    }
    assert_eq!(found.len(), 1);
}

#[test]
fn changed_source_is_read_again_and_what_is_known_is_not_told_as_a_duplicate() {
    let bench = Bench::new();
    let with = |more: &[(&str, &[u8])]| {
        let (a, b) = (png(1), png(2));
        let members: Vec<(&str, &[u8])> = vec![
            ("1.png", &a),
            ("1.txt", b"one"),
            ("2.png", &b),
            ("2.txt", b" "),
            ("3.png", &a),
            ("3.txt", b"one"),
        ];
        tar(&[&members[..], more].concat())
    };
    let source = bench.file("a.tar", &with(&[]));
    assert_eq!(bench.ingest(&[&source]).ledger_total, 2);
    let new = png(5);
    bench.file(
        "a.tar",
        &with(&[("5.png", &new), ("5.txt", b"five"), ("6.png", &new), ("6.txt", b"five")]),
    );
    let report = bench.ingest(&[&source]);
    assert_eq!((report.pairs_added, report.pairs_total), (1, 2));
    // Only its new part: the duplicate of the new pair.
    assert_eq!(report.ledger_added, BTreeMap::from([("duplicate_pair", 1)]));
    assert!(bench.ingest(&[&source]).added_nothing());
}
