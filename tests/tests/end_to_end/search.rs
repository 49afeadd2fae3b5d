//! Nearest neighbours: `diptych search` and SQL's `nearest`, compared.

use diptych_tests::{Work, tiny_config};

const BOTH: [&str; 4] = ["--state", "state", "--dataset", "data"];

/// Makes demo data, a run of a few steps, and embeddings of the held-out pairs.
fn embedded() -> Work {
    let work = Work::new().with_demo_data(200);
    work.write("run.toml", tiny_config("run", 1, ""));
    work.diptych(&["train", "run.toml", "--no-progress"]).ok();
    work.diptych(&[
        "embed",
        "--model",
        "run",
        "--dataset",
        "data",
        "--selection",
        "heldout.parquet",
    ])
    .ok();
    work
}

/// Returns the rows of a query, without the header.
fn rows(work: &Work, sql: &str) -> Vec<String> {
    let ran = work.diptych(&[&["sql", sql, "--format", "csv"], &BOTH[..]].concat()).ok();
    ran.stdout.lines().skip(1).map(str::to_owned).collect()
}

/// Returns the scores and uids that `diptych search` prints, one list per query.
fn search(work: &Work, arguments: &[&str]) -> Vec<Vec<(String, String)>> {
    let fixed = ["search", "--model", "run", "--dataset", "data", "--selection", "heldout.parquet"];
    let ran = work.diptych(&[&fixed[..], arguments].concat()).ok();
    let mut lists: Vec<Vec<(String, String)>> = Vec::new();
    for line in ran.stdout.lines() {
        match line.strip_prefix("  ").map(|line| line.split_whitespace().collect::<Vec<_>>()) {
            Some(words) => {
                if let Some(list) = lists.last_mut() {
                    list.push((words[1].to_owned(), words[2].to_owned()));
                }
            }
            None => lists.push(Vec::new()),
        }
    }
    lists
}

fn uids(list: &[(String, String)]) -> Vec<&str> {
    list.iter().map(|(_, uid)| uid.as_str()).collect()
}

#[test]
fn sql_finds_the_nearest_of_what_a_query_filters_and_they_are_those_of_the_command() {
    let work = embedded();
    let all: usize = work
        .sql(&BOTH, "SELECT count(*) FROM embeddings WHERE modality = 'image'")
        .parse()
        .unwrap();
    assert!(all > 30, "{all}");
    assert_eq!(
        work.sql(&BOTH, "SELECT count(*) FROM nearest('run', 'a red circle')"),
        all.to_string()
    );

    // k of all, all of them sorted, and the command: one answer.
    let shown = "hex(uid) || ' ' || round(score, 5)";
    let five = rows(
        &work,
        &format!("SELECT {shown} FROM nearest('run', 'a red circle', 5) ORDER BY score DESC"),
    );
    let sorted =
        format!("SELECT {shown} FROM nearest('run', 'a red circle') ORDER BY score DESC LIMIT 5");
    assert_eq!(five, rows(&work, &sorted));
    let found = search(&work, &["a red circle", "a blue square", "-k", "5"]);
    assert_eq!(found.len(), 2);
    assert_eq!(uids(&found[0]), five.iter().map(|row| &row[..32]).collect::<Vec<_>>());
    assert!(found[0].iter().zip(&five).all(|((score, _), row)| {
        (score.parse::<f64>().unwrap() - row[33..].parse::<f64>().unwrap()).abs() < 6e-4
    }));

    // The filter comes before the limit: the best of the passing pairs, not the passing ones of the
    // best.
    let condition = "hash_fraction(m.uid) < 0.3";
    let filtered = format!(
        "SELECT hex(n.uid) FROM nearest('run', 'a red circle') n JOIN meta m USING (uid) WHERE {condition} ORDER BY n.score DESC"
    );
    let expected: Vec<String> =
        rows(&work, &format!("SELECT hex(uid) FROM meta m WHERE {condition}"));
    let order =
        rows(&work, "SELECT hex(uid) FROM nearest('run', 'a red circle') ORDER BY score DESC");
    let expected: Vec<&String> = order.iter().filter(|uid| expected.contains(uid)).collect();
    assert!(!expected.is_empty() && expected.len() < order.len());
    assert_eq!(rows(&work, &filtered).iter().collect::<Vec<_>>(), expected);
    let limited = rows(&work, &format!("{filtered} LIMIT 2"));
    assert_eq!(limited.iter().collect::<Vec<_>>(), expected[..expected.len().min(2)]);

    // A score is the cosine of the stored vectors, and a pair is no neighbour of its own.
    let uid = &five[0][..32];
    let apart = format!(
        "SELECT max(abs(n.score - cosine_similarity(e.embedding, q.embedding))) < 2e-3 FROM nearest('run', uid('{uid}')) n
         JOIN embeddings e ON e.uid = n.uid AND e.modality = 'image'
         CROSS JOIN (SELECT embedding FROM embeddings WHERE modality = 'image' AND uid = uid('{uid}')) q"
    );
    assert_eq!(rows(&work, &apart), ["true"]);
    let like = rows(
        &work,
        &format!("SELECT hex(uid) FROM nearest('run', uid('{uid}'), 4) ORDER BY score DESC"),
    );
    assert_eq!(uids(&search(&work, &["--uid", uid, "-k", "4"])[0]), like);
    assert!(like.len() == 4 && !like.contains(&uid.to_owned()));

    // A vector: that of an axis.
    let axis = format!("SELECT count(*) FROM nearest('run', [{}])", ["1"; 16].join(", "));
    assert_eq!(work.sql(&BOTH, &axis), all.to_string());

    // What is found can be selected, the same every time.
    let select = |output: &str| {
        let sql = "SELECT uid FROM nearest('run', 'a red circle', 20)";
        work.diptych(&[&["select", sql, "--output", output], &BOTH[..]].concat()).ok();
        std::fs::read(work.path(output)).unwrap()
    };
    assert_eq!(select("a.parquet"), select("b.parquet"));
}

#[test]
fn queries_are_added_taken_off_and_their_results_told_apart() {
    let work = embedded();
    let one = search(&work, &["a red circle", "-k", "6"]);
    // Twice the same text is that text; a text alone with another taken off is another query.
    let twice = search(&work, &["a red circle", "a red circle", "--together", "-k", "6"]);
    assert_eq!((twice.len(), uids(&twice[0])), (1, uids(&one[0])));
    let without = search(&work, &["a red circle", "--without", "a blue square", "-k", "6"]);
    assert_ne!(without[0], one[0]);
    // Many queries at once go another way through the machine, to the same answers.
    let texts: Vec<String> = (0..9).map(|n| format!("{n} red circles")).collect();
    let arguments: Vec<&str> = texts.iter().map(String::as_str).chain(["-k", "6"]).collect();
    let many = search(&work, &arguments);
    assert_eq!(many.len(), 9);
    for (text, list) in texts.iter().zip(&many) {
        assert_eq!(uids(&search(&work, &[text, "-k", "6"])[0]), uids(list), "{text}");
    }
    // Nothing is nearer than itself, so a threshold of -1 leaves one.
    assert_eq!(search(&work, &["a red circle", "--distinct", "-1"])[0].len(), 1);
    let apart = search(&work, &["a red circle", "-k", "6", "--distinct", "0.999"]);
    assert_eq!(apart[0][0], one[0][0]);
    for (place, (_, better)) in apart[0].iter().enumerate() {
        let near =
            format!("SELECT hex(uid) FROM nearest('run', uid('{better}')) WHERE score >= 0.9995");
        let near = rows(&work, &near);
        assert!(apart[0][place + 1..].iter().all(|(_, uid)| !near.contains(uid)), "{better}");
    }
    // On so few images the approximate index finds the best one.
    assert_eq!(search(&work, &["a red circle", "--index", "hnsw", "-k", "6"])[0][0], one[0][0]);
}

#[test]
fn embeddings_go_out_as_other_tools_read_them() {
    let work = embedded();
    let fixed = [
        "embed",
        "--model",
        "run",
        "--dataset",
        "data",
        "--selection",
        "heldout.parquet",
        "--output",
        "out",
    ];
    work.diptych(&fixed).ok();
    let rows: usize = work
        .sql(&["--table", "m=out/metadata/metadata_0.parquet"], "SELECT count(DISTINCT uid) FROM m")
        .parse()
        .unwrap();
    // numpy's format: magic, version, length of the header, header, and the numbers row by row.
    let read = |name: &str| {
        let bytes = std::fs::read(work.path(name)).unwrap();
        let header = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
        let text = String::from_utf8(bytes[10..10 + header].to_vec()).unwrap();
        assert!(
            text.starts_with(&format!(
                "{{'descr': '<f2', 'fortran_order': False, 'shape': ({rows}, 16), }}"
            )),
            "{text}"
        );
        bytes[10 + header..].to_vec()
    };
    let (images, texts) = (read("out/img_emb/img_emb_0.npy"), read("out/text_emb/text_emb_0.npy"));
    assert_eq!((images.len(), texts.len()), (rows * 16 * 2, rows * 16 * 2));
    // Row by row they are what the metadata says that they are: a caption's nearest text is itself.
    let both =
        ["--state", "state", "--dataset", "data", "--table", "m=out/metadata/metadata_0.parquet"];
    let stored = work.diptych(&[&["sql", "SELECT m.uid, m.caption = p.caption AS same, e.embedding[1] AS first FROM m JOIN embeddings e ON encode(e.uid, 'hex') = m.uid \
        JOIN meta p ON p.uid = e.uid WHERE e.modality = 'text'", "--format", "jsonl", "--rows", "0"], &both[..]].concat()).ok().stdout;
    let order = work
        .diptych(&[
            "sql",
            "SELECT uid FROM m",
            "--format",
            "csv",
            "--rows",
            "0",
            "--table",
            "m=out/metadata/metadata_0.parquet",
        ])
        .ok()
        .stdout;
    let order: Vec<&str> = order.lines().skip(1).collect();
    assert_eq!(stored.lines().count(), rows);
    for line in stored.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(row["same"], true);
        let place = order.iter().position(|uid| row["uid"] == *uid).unwrap();
        let half = u16::from_le_bytes([texts[place * 32], texts[place * 32 + 1]]);
        let (sign, exponent, fraction) =
            (half >> 15, i32::from(half >> 10 & 31), f64::from(half & 1023));
        let value = if exponent == 0 {
            fraction / 1024.0 * 2_f64.powi(-14)
        } else {
            (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15)
        };
        let value = if sign == 1 { -value } else { value };
        assert!((value - row["first"].as_f64().unwrap()).abs() < 1e-6, "{row}");
    }
    work.diptych(&fixed).fails(1, "output_is_there").names(&["out"]);
}

#[test]
fn what_cannot_be_searched_is_said() {
    let work = embedded();
    let fails = |sql: &str, message: &str| {
        work.diptych(&[&["sql", sql], &BOTH[..]].concat()).fails(1, message)
    };
    fails("SELECT * FROM nearest('nobody', 'x')", "nearest_by_no_model").names(&["nobody"]);
    fails("SELECT * FROM nearest('run')", "nearest_of_one_argument");
    fails("SELECT * FROM nearest('run', 'x', 0)", "nearest_of_no_rows");
    fails("SELECT * FROM nearest('run', X'00ff')", "nearest_to_a_short_uid").names(&["16", "2"]);
    let unknown = "SELECT * FROM nearest('run', uid('00000000000000000000000000000000'))";
    fails(unknown, "nearest_to_an_unknown_pair");
    fails("SELECT * FROM nearest('run', [1.0, 2.0])", "nearest_to_a_short_vector")
        .names(&["2", "16"]);
    fails("SELECT * FROM nearest('run', [0.0, 0.0])", "nearest_to_a_zero_vector");
    fails("SELECT * FROM nearest(17, 'x')", "nearest_by_a_number");
    fails("SELECT * FROM nearest('run', true)", "nearest_to_a_boolean");
    let without = ["sql", "SELECT * FROM nearest('run', 'x')", "--dataset", "data"];
    work.diptych(&without).fails(1, "nearest_without_a_state").names(&["--state"]);
    // Another run has weights, but nothing was embedded by it.
    work.write("other.toml", tiny_config("other", 1, "").replace("seed = 3", "seed = 4"));
    work.diptych(&["train", "other.toml", "--no-progress"]).ok();
    fails("SELECT * FROM nearest('other', 'x')", "nearest_without_embeddings")
        .names(&["other", "diptych embed"]);

    work.write("broken.png", b"\x89PNG\r\n\x1a\nnothing more");
    let search = |code: i32, more: &[&str], message: &str| {
        let fixed =
            ["search", "--model", "run", "--dataset", "data", "--selection", "heldout.parquet"];
        work.diptych(&[&fixed[..], more].concat()).fails(code, message);
    };
    search(1, &["--image", "broken.png"], "broken_image");
    search(1, &["--uid", "00000000000000000000000000000000"], "unknown_uid");
    search(2, &["--uid", "red"], "no_uid");
    search(1, &["a", "--without", "a"], "queries_that_cancel_out");
    search(1, &["a", "--distinct", "2"], "distinct_above_1");
}
