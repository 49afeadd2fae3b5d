//! Curation from end to end: scores, filters as SQL, lists of uids, balancing.

use diptych_test_support::{eventually, parity};
use diptych_tests::service::PATIENCE;
use diptych_tests::{Work, messages, pairs};

const DATA: [&str; 2] = ["--dataset", "data"];

#[test]
fn pairs_are_scored_filtered_listed_and_balanced() {
    let work = Work::new();
    let model = parity().join("tiny_quickgelu_hf");
    let names: Vec<[String; 2]> =
        (0..256).map(|n| [format!("{n:04}.png"), format!("{n:04}.txt")]).collect();
    let mut members = Vec::new();
    for (n, [image, text]) in names.iter().enumerate() {
        members.push((image.as_str(), pairs::noise(n as u64 + 1, 24)));
        members.push((
            text.as_str(),
            format!("a {} with the number {n}", ["face", "flag", "cat", "heart"][n % 4])
                .into_bytes(),
        ));
    }
    work.write("pairs.tar", pairs::tar(&members));
    work.diptych(&["ingest", "pairs.tar", "--dataset", "data"]).ok();
    let score = [
        "score",
        "clip",
        "language",
        "phash",
        "blur",
        "entropy",
        "--dataset",
        "data",
        "--model",
        model.to_str().unwrap(),
    ];
    let first = work.diptych(&score).ok();
    messages::check("score", "six_scores", &first.stdout);
    // All of them are columns beside meta's, and no pair is there twice.
    let all = "SELECT count(*), count(clip), count(language), count(phash), count(blur), count(entropy) FROM scored";
    let row = work.diptych(&["sql", all, "--dataset", "data", "--format", "csv"]).ok().stdout;
    assert_eq!(row.lines().nth(1), Some("256,256,256,256,256,256"));
    // The similarity is that of both embeddings, which are there by uid and producer.
    let cosine = "SELECT max(abs(clip - cosine_similarity(a.embedding, b.embedding))) < 0.001 FROM scored s \
                  JOIN embeddings a ON a.uid = s.uid AND a.modality = 'image' JOIN embeddings b ON b.uid = s.uid AND b.modality = 'text' \
                  WHERE a.producer = b.producer";
    assert_eq!(work.sql(&DATA, cosine), "true");

    // A second run does nothing, and says so.
    let files = |work: &Work| std::fs::read_dir(work.path("data/scores/blur")).unwrap().count();
    let before = files(&work);
    let second = work.diptych(&score).ok();
    messages::check("score", "nothing_to_do", &second.stdout);
    assert_eq!(files(&work), before);

    // A filter runs as it is shown.
    let shown =
        work.diptych(&["preset", "datacomp-clip-score", "--set", "fraction=0.25"]).ok().stdout;
    work.write("shown.sql", &shown);
    work.diptych(&["select", "--file", "shown.sql", "--dataset", "data", "--output", "a.parquet"])
        .ok();
    let preset = [
        "select",
        "--preset",
        "datacomp-clip-score",
        "--set",
        "fraction=0.25",
        "--dataset",
        "data",
        "--output",
        "b.parquet",
    ];
    let selected = work.diptych(&preset).ok();
    // Element number 64 in descending order, and all that are not below it.
    assert!(selected.stdout.contains("65 of 256 pairs"), "{}", selected.stdout);
    assert_eq!(
        std::fs::read(work.path("a.parquet")).unwrap(),
        std::fs::read(work.path("b.parquet")).unwrap()
    );

    // Out as DataComp's list, and in again.
    let out = work.diptych(&["uids", "b.parquet", "--output", "uids.npy"]).ok();
    assert!(out.stdout.contains("65 uids of 65 pairs"), "{}", out.stdout);
    assert_eq!(std::fs::read(work.path("uids.npy")).unwrap().len(), 128 + 65 * 16);
    work.diptych(&["select", "--uids", "uids.npy", "--dataset", "data", "--output", "c.parquet"])
        .ok();
    let uids = |name: &str| {
        work.diptych(&["uids", name, "--output", "again.npy"]).ok().stdout.len()
            + std::fs::read(work.path("again.npy")).unwrap().len()
    };
    assert_eq!(uids("c.parquet"), uids("b.parquet"));
    assert_eq!(
        std::fs::read(work.path("again.npy")).unwrap(),
        std::fs::read(work.path("uids.npy")).unwrap()
    );
    let both = "SELECT uid FROM scored WHERE uid IN (SELECT uid FROM uid_list) AND entropy > 3";
    work.diptych(&[
        "select",
        both,
        "--uids",
        "uids.npy",
        "--dataset",
        "data",
        "--output",
        "d.parquet",
    ])
    .ok();

    // Clusters of embeddings: with the axes as centroids, the nearest is the largest component.
    let mut centroids = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    centroids.extend(
        format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (16, 16), }")
            .into_bytes(),
    );
    centroids.extend((0..16 * 16).flat_map(|at| f32::from(u8::from(at % 17 == 0)).to_le_bytes()));
    work.write("axes.npy", centroids);
    let cluster = ["score", "cluster", "--centroids", "axes.npy", "--dataset", "data"];
    work.diptych(&cluster).ok().says("score", "clusters");
    work.diptych(&cluster).ok().says("score", "clusters_are_there");
    let largest = "SELECT count(*) FROM scored s JOIN embeddings e ON e.uid = s.uid AND e.modality = 'image' \
                   WHERE e.embedding[CAST(cluster AS BIGINT) + 1] = array_max(e.embedding)";
    assert_eq!(work.sql(&DATA, largest), "256");

    work.write("entries.txt", "face\nflag\ncat\nheart\n");
    let balance = [
        "balance",
        "--entries",
        "entries.txt",
        "--t",
        "5",
        "--dataset",
        "data",
        "--output",
        "e.parquet",
    ];
    let balanced = work.diptych(&balance).ok();
    assert!(balanced.stdout.contains("4  entries"), "{}", balanced.stdout);
    let bytes = std::fs::read(work.path("e.parquet")).unwrap();
    work.diptych(&balance).ok();
    assert_eq!(
        std::fs::read(work.path("e.parquet")).unwrap(),
        bytes,
        "the same seed draws the same pairs"
    );
}

#[test]
fn uids_of_a_source_go_in_and_out() {
    let work = Work::new();
    let hex = |n: u32| format!("{:032x}", u128::from(n) << 70 | u128::from(n));
    let mut members = Vec::new();
    let names: Vec<[String; 3]> =
        (0..10).map(|n| ["png", "txt", "json"].map(|ending| format!("{n:04}.{ending}"))).collect();
    for (n, [image, text, json]) in (0_u8..).zip(&names) {
        members.push((image.as_str(), pairs::png(24, 20, [n, 2 * n, 128])));
        members.push((text.as_str(), format!("colour {n}").into_bytes()));
        members.push((json.as_str(), format!("{{\"uid\": \"{}\"}}", hex(n.into())).into_bytes()));
    }
    work.write("a.tar", pairs::tar(&members));
    work.diptych(&["ingest", "a.tar", "--dataset", "data"]).ok();
    work.diptych(&[
        "select",
        "SELECT uid FROM meta WHERE key IN ('0003', '0007')",
        "--dataset",
        "data",
        "--output",
        "a.parquet",
    ])
    .ok();
    work.diptych(&[
        "uids",
        "a.parquet",
        "--dataset",
        "data",
        "--uid-column",
        "src_uid",
        "--output",
        "uids.npy",
    ])
    .ok();
    let expected: Vec<u8> = [3_u64, 7]
        .iter()
        .flat_map(|n| [(n << 6).to_le_bytes(), n.to_le_bytes()].concat())
        .collect();
    assert_eq!(std::fs::read(work.path("uids.npy")).unwrap()[128..], expected);
    let back = [
        "select",
        "--uids",
        "uids.npy",
        "--uid-column",
        "src_uid",
        "--dataset",
        "data",
        "--output",
        "b.parquet",
    ];
    assert!(work.diptych(&back).ok().stdout.contains("2 of 10 pairs"));
    // These are none of our own uids.
    work.diptych(&["select", "--uids", "uids.npy", "--dataset", "data", "--output", "c.parquet"])
        .fails(1, "uids_of_another_dataset");
    work.diptych(&[
        "uids",
        "a.parquet",
        "--dataset",
        "data",
        "--uid-column",
        "key",
        "--output",
        "x.npy",
    ])
    .fails(1, "column_without_uids")
    .names(&["'0003'"]);
}

#[test]
fn scoring_goes_on_where_it_was_killed_and_with_what_is_new() {
    let work = Work::new();
    let noisy = |n: u8| pairs::jpeg(200 + u32::from(n), 180, [n, 255 - n, 99]);
    let tar = |range: std::ops::Range<u8>, broken: Option<u8>| {
        let names: Vec<(String, String)> =
            range.clone().map(|n| (format!("{n:04}.jpg"), format!("{n:04}.txt"))).collect();
        let mut members = Vec::new();
        for (n, (image, text)) in range.zip(&names) {
            let mut bytes = noisy(n);
            if broken == Some(n) {
                // The header stays whole, so ingest takes it.
                bytes.truncate(bytes.len() - 40);
            }
            members.push((image.as_str(), bytes));
            members.push((text.as_str(), format!("colour {n}").into_bytes()));
        }
        pairs::tar(&members)
    };
    work.write("a.tar", tar(0..120, Some(17)));
    work.diptych(&["ingest", "a.tar", "--dataset", "data"]).ok();
    let score = [
        "score",
        "entropy",
        "blur",
        "--dataset",
        "data",
        "--save-every",
        "0",
        "--batch-size",
        "4",
        "--threads",
        "1",
    ];
    let mut pieces = 0;
    for turn in 0..6 {
        let mut running = work.start(&score);
        // Killed as soon as it has written something more.
        let files = |work: &Work| {
            std::fs::read_dir(work.path("data/scores/blur")).map_or(0, Iterator::count)
        };
        let before = files(&work);
        let ended = eventually(PATIENCE, "something more to be written", || {
            let ended = running.has_ended();
            (ended || files(&work) > before.max(1)).then_some(ended)
        });
        if ended {
            break;
        }
        if turn == 0 {
            // On a signal it writes its results and exits with code 4. It may also have just
            // finished.
            running.signal("-TERM");
            assert!(matches!(running.ends(), Some(4 | 0)));
        } else {
            running.kill();
        }
        pieces += 1;
    }
    assert!(pieces > 0, "it was never killed");
    work.diptych(&score).ok();
    let each = "SELECT count(*) || ' ' || count(DISTINCT uid) || ' ' || count(value) || ' ' || count(error) FROM scores WHERE name =";
    for name in ["'entropy'", "'blur'"] {
        assert_eq!(work.sql(&DATA, &format!("{each} {name}")), "120 120 119 1");
    }
    // The corrupt image has a reason, and is not tried again.
    assert!(work.sql(&DATA, "SELECT error FROM scores WHERE error IS NOT NULL LIMIT 1").len() > 10);
    let again = work.diptych(&score).ok().says("score", "corrupt_image_is_not_tried_again");
    assert!(!again.stderr.contains("WARN"), "{}", again.stderr);

    // A grown dataset gets only its new pairs, and a selection only its own.
    work.write("b.tar", tar(200..230, None));
    work.diptych(&["ingest", "b.tar", "--dataset", "data"]).ok();
    let new = [
        "select",
        "SELECT uid FROM meta WHERE key IN ('0210', '0211', '0005')",
        "--dataset",
        "data",
        "--output",
        "some.parquet",
    ];
    work.diptych(&new).ok();
    let some =
        work.diptych(&["score", "blur", "--dataset", "data", "--selection", "some.parquet"]).ok();
    some.says("score", "selection_of_a_grown_dataset");
    let rest = work.diptych(&["score", "blur", "entropy", "--dataset", "data"]).ok();
    rest.says("score", "grown_dataset");
    assert_eq!(
        work.sql(
            &DATA,
            "SELECT count(*) || ' ' || count(blur) || ' ' || count(entropy) FROM scored"
        ),
        "150 149 149"
    );
}

#[test]
fn what_cannot_be_scored_or_filtered_says_what_to_do() {
    let work = Work::new();
    work.write("a.tar", pairs::tar_of(4));
    work.diptych(&["ingest", "a.tar", "--dataset", "data"]).ok();
    work.diptych(&["score", "clip", "--dataset", "data"])
        .fails(1, "clip_without_a_model")
        .names(&["--model"]);
    work.diptych(&["score", "blur", "--dataset", "data", "--model", "x"])
        .fails(1, "model_that_is_not_used")
        .names(&["--model x"]);
    work.diptych(&["score", "blur", "--dataset", "data", "--name", "../up"])
        .fails(1, "name_that_is_no_column")
        .names(&["../up"]);
    work.diptych(&["score", "cluster", "--dataset", "data"])
        .fails(1, "cluster_without_centroids")
        .names(&["--centroids"]);
    work.diptych(&["score", "blur", "entropy", "--dataset", "data", "--name", "x"])
        .fails(1, "one_name_for_two_scores")
        .names(&["--name x"]);
    work.diptych(&["score", "blur", "--dataset", "nowhere"])
        .fails(1, "no_such_dataset")
        .names(&["nowhere"]);
    work.diptych(&["score", "language", "--dataset", "data", "--name", "same"]).ok();
    work.diptych(&["score", "blur", "--dataset", "data", "--name", "same"])
        .fails(1, "name_of_another_score")
        .names(&["same", "--name"]);
    let select = ["--dataset", "data", "--output", "x.parquet"];
    work.diptych(&[&["select", "--preset", "datacomp"], &select[..]].concat())
        .fails(1, "no_such_preset")
        .names(&["datacomp-basic"]);
    work.diptych(&[&["select", "--preset", "datacomp-clip-score"], &select[..]].concat())
        .fails(1, "preset_without_its_score")
        .names(&["clip", "scored"]);
    let unset = ["select", "--preset", "datacomp-image-and-clip"];
    work.diptych(&[&unset, &select[..]].concat())
        .fails(1, "preset_without_a_value")
        .names(&["--set clusters="]);
    work.write("bad.npy", b"\x93NUMPY\x01\x00");
    work.diptych(&[&["select", "--uids", "bad.npy"], &select[..]].concat())
        .fails(1, "damaged_uid_list")
        .names(&["bad.npy"]);
    work.write("empty.txt", "\n\n");
    work.diptych(&[&["balance", "--entries", "empty.txt"], &select[..]].concat())
        .fails(1, "empty_entries")
        .names(&["empty.txt"]);
    work.write("never.txt", "zebra\n");
    work.diptych(&[&["balance", "--entries", "never.txt"], &select[..]].concat())
        .fails(1, "no_caption_matches");
    let listed = work.diptych(&["preset"]).ok().stdout;
    assert!(listed.contains("datacomp-basic") && listed.contains("--set fraction=0.3"), "{listed}");
}
