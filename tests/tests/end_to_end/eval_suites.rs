//! Evaluation beyond single tasks: suites, tests of composition, embeddings of other models.

use std::time::{Duration, Instant};

use diptych_test_support::eventually;
use diptych_tests::pairs;
use serde_json::Value;

use super::eval::{EVAL, NAMES, coloured, json, picture};

#[test]
fn compositional_tests_count_what_their_authors_count() {
    let work = coloured();
    for n in 0..32_u8 {
        work.write(&format!("images/ex_{n}.jpg"), picture(n));
    }
    let caption = |n: usize| format!("shade {n} of {}", NAMES[n % 8]);
    // Image n with its own caption and that of image n + 1, then the reverse, then both images with
    // both captions.
    let choices = |swapped: bool| {
        let one = |n: usize| {
            let captions =
                if swapped { [caption(n ^ 1), caption(n)] } else { [caption(n), caption(n ^ 1)] };
            (
                n.to_string(),
                serde_json::json!({ "filename": format!("ex_{n}.jpg"), "caption": captions[0], "negative_caption": captions[1] }),
            )
        };
        Value::Object((0..32).map(one).collect()).to_string()
    };
    work.write("right.json", choices(false));
    work.write("swapped.json", choices(true));
    let lines = (0..16).map(|pair| {
        let (first, second) = (2 * pair, 2 * pair + 1);
        serde_json::json!({
            "id": pair, "image_0": format!("ex_{first}"), "image_1": format!("ex_{second}"), "caption_0": caption(first),
            "caption_1": caption(second), "collapsed_tag": if pair < 8 { "Object" } else { "Relation" },
        })
        .to_string()
    });
    work.write("four.jsonl", lines.collect::<Vec<_>>().join("\n"));
    let call = |more: &[&str]| {
        work.diptych(
            &[&["eval", "--model", "run", "--images", "images", "--json", "out.json"], more]
                .concat(),
        )
    };
    let ran = call(&[
        "--compositional",
        "right.json",
        "--compositional",
        "swapped.json",
        "--compositional",
        "four.jsonl",
    ])
    .ok();
    assert!(!ran.stdout.is_empty());

    let found: Value = serde_json::from_str(&work.read("out.json")).unwrap();
    let number = |test: &str, name: &str| found[test][name].as_f64().unwrap();
    assert!(
        (number("right", "accuracy") + number("swapped", "accuracy") - 1.0).abs() < 1e-9,
        "{found}"
    );
    let wrong = |test: &str| -> Vec<u64> {
        found[test]["wrong"]
            .as_array()
            .unwrap()
            .iter()
            .map(|of| of["id"].as_str().unwrap().parse().unwrap())
            .collect()
    };
    let of_choices = wrong("right");
    assert!((number("right", "accuracy") - (32 - of_choices.len()) as f64 / 32.0).abs() < 1e-9);
    // Winoground's text score asks the same of both images of an example.
    let both = (0..16)
        .filter(|pair| [2 * pair, 2 * pair + 1].iter().all(|image| !of_choices.contains(image)))
        .count();
    assert!((number("four", "text") - both as f64 / 16.0).abs() < 1e-9, "{found}");
    assert!(number("four", "group") <= number("four", "text").min(number("four", "image")));
    let by_tag: f64 = found["four"]["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| of["group"].as_f64().unwrap() / 2.0)
        .sum();
    assert!((by_tag - number("four", "group")).abs() < 1e-9);
    let recorded = work.sql(
        &["--state", "state"],
        "SELECT count(*) FROM metrics WHERE name IN ('eval/right/accuracy', 'eval/four/group')",
    );
    assert_eq!(recorded, "2");

    work.write(
        "out.json",
        r#"{"0": {"filename": "../secret.jpg", "caption": "a", "negative_caption": "b"}}"#,
    );
    call(&["--compositional", "out.json"])
        .fails(1, "compositional_path_outside")
        .names(&["out.json", "example 0"]);
    work.write("bad.jsonl", "{\"id\": 1}\n");
    call(&["--compositional", "bad.jsonl"])
        .fails(1, "compositional_of_no_known_form")
        .names(&["bad.jsonl", "line 1"]);
    work.write(
        "none.json",
        r#"{"0": {"filename": "none.jpg", "caption": "a", "negative_caption": "b"}}"#,
    );
    call(&["--compositional", "none.json"])
        .fails(1, "compositional_without_an_image")
        .names(&["none.jpg", "images"]);
}

#[test]
fn suite_has_the_mean_of_its_tasks_and_keeps_what_it_encoded() {
    let work = coloured();
    for n in 0..8_u8 {
        work.write(&format!("images/{n}.jpg"), picture(n));
    }
    let one = |n: usize| {
        let (right, wrong) = (format!("a {} thing", NAMES[n]), format!("a {} thing", NAMES[n ^ 1]));
        (
            n.to_string(),
            serde_json::json!({ "filename": format!("{n}.jpg"), "caption": right, "negative_caption": wrong }),
        )
    };
    work.write("swap.json", Value::Object((0..8).map(one).collect()).to_string());
    let data = "dataset = \"data\"\nselection = \"second.parquet\"\n";
    let classes = "classes = \"colours.txt\"\nlabel_column = \"colour\"\n";
    work.write(
        "mine.toml",
        format!(
            "[[task]]\nname = \"pairs\"\n{data}[[task]]\nname = \"colours\"\nweight = 2.0\nmetric = \"mean_per_class\"\n\
             templates = \"templates.txt\"\n{data}{classes}[[task]]\nname = \"near\"\nkind = \"knn\"\n\
             train_selection = \"first.parquet\"\n{data}{classes}[[task]]\ncompositional = \"swap.json\"\nimages = \"images\"\n"
        ),
    );
    let suite = ["eval", "--model", "run", "--suite", "mine.toml", "--json", "suite.json"];
    work.diptych(&[&suite[..], &["--compare", "run@4"]].concat()).ok();
    let found = json(&work, "suite.json");
    let value = |place: usize| found["tasks"][place]["value"].as_f64().unwrap();

    work.diptych(
        &[
            &EVAL[..],
            &["--json", "e.json", "--task", "retrieval", "--task", "zero-shot", "--task", "knn"],
        ]
        .concat(),
    )
    .ok();
    let alone = json(&work, "e.json");
    let recall = |direction: &str| alone["retrieval"][direction][0].as_f64().unwrap();
    let expected = [
        f64::midpoint(recall("image_to_text"), recall("text_to_image")),
        alone["zero_shot"]["mean_per_class"].as_f64().unwrap(),
        alone["knn"]["top1"].as_f64().unwrap(),
    ];
    for (place, expected) in expected.iter().enumerate() {
        assert!((value(place) - expected).abs() < 1e-9, "{place}: {found}");
    }
    let score = found["score"].as_f64().unwrap();
    assert!(
        (score - (value(0) + 2.0 * value(1) + value(2) + value(3)) / 5.0).abs() < 1e-9,
        "{found}"
    );
    let within = |at: &Value| (at[0].as_f64().unwrap(), at[1].as_f64().unwrap());
    for part in found["tasks"].as_array().unwrap().iter().chain([&found]) {
        let (low, high) = within(&part["interval"]);
        let value = part["value"].as_f64().or(part["score"].as_f64()).unwrap();
        assert!(low <= value && value <= high, "{part}");
        assert!(part["compared"]["difference_interval"].is_array(), "{part}");
    }
    let state = ["--state", "state"];
    assert_eq!(
        work.sql(&state, "SELECT value FROM metrics WHERE name = 'eval/mine/score'")
            .parse::<f64>()
            .unwrap(),
        score
    );

    // Encoded pairs are cached: without the images the figures stay the same, except with
    // --no-cache.
    let blob = work.path("data/blob/00000.parquet");
    let whole = std::fs::read(&blob).unwrap();
    let mut damaged = whole.clone();
    damaged[4..whole.len() / 2].fill(0);
    work.write("data/blob/00000.parquet", damaged);
    work.diptych(&suite).ok();
    let again = json(&work, "suite.json");
    assert_eq!(
        (&again["tasks"][0]["interval"], &again["score"]),
        (&found["tasks"][0]["interval"], &found["score"])
    );
    work.diptych(&[&suite[..], &["--no-cache"]].concat())
        .fails(1, "suite_over_a_damaged_dataset")
        .names(&["pairs", "mine"]);
    work.write("data/blob/00000.parquet", whole);

    work.diptych(&[&suite[..], &["--max-seconds", "0"]].concat())
        .ok()
        .says("eval", "suite_without_time");
    assert_eq!(json(&work, "suite.json")["score"], Value::Null);
    for (add, message, name) in [
        ("metric = \"top9\"\n", "suite_with_an_unknown_metric", "mean_per_class"),
        ("kind = \"guess\"\n", "suite_with_an_unknown_kind", "zero-shot"),
        ("kind = \"few-shot\"\n", "suite_with_few_shot", "linear-probe"),
        ("kind = \"knn\"\n", "suite_without_training_pairs", "--train-selection"),
    ] {
        work.write("bad.toml", format!("[[task]]\nname = \"x\"\n{data}{classes}{add}"));
        work.diptych(&["eval", "--model", "run", "--suite", "bad.toml"])
            .fails(1, message)
            .names(&["bad.toml", "x", name]);
    }
}

#[test]
fn embeddings_of_other_models_are_evaluated_like_ones_own() {
    let work = coloured();
    for format in ["npy", "parquet", "arrow"] {
        let embed = [
            "embed",
            "--model",
            "run",
            "--dataset",
            "data",
            "--selection",
            "train.parquet",
            "--format",
            format,
        ];
        work.diptych(&[&embed[..], &["--output", format]].concat()).ok();
    }
    // By key, from a table that somebody made in SQL.
    let by_key = "SELECT p.key, i.embedding AS image_embedding, t.embedding AS text_embedding FROM embeddings i \
                  JOIN embeddings t ON i.uid = t.uid JOIN meta p ON p.uid = i.uid \
                  WHERE i.modality = 'image' AND t.modality = 'text'";
    let ran = work.diptych(&[
        "sql",
        by_key,
        "--state",
        "state",
        "--dataset",
        "data",
        "--format",
        "parquet",
        "--output",
        "by-key.parquet",
    ]);
    ran.ok();
    let tasks = ["--task", "retrieval", "--task", "knn", "--k", "3", "--json", "e.json"];
    let of = |model: &str| {
        let mut arguments = EVAL.map(str::to_owned).to_vec();
        model.clone_into(&mut arguments[2]);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(tasks).collect();
        work.diptych(&arguments).ok();
        json(&work, "e.json")
    };
    let own = of("run");
    let recall = |found: &Value| found["retrieval"]["image_to_text"][2].as_f64().unwrap();
    let others = ["npy", "parquet", "arrow", "by-key.parquet"].map(of);
    for other in &others {
        // The files have half floats: ranks that were nearly equal may change places.
        assert!((recall(other) - recall(&own)).abs() <= 2.0 / 24.0, "{other}");
        assert_eq!(
            (&other["retrieval"], &other["knn"]),
            (&others[0]["retrieval"], &others[0]["knn"])
        );
    }
    work.diptych(
        &[&EVAL[..], &["--task", "knn", "--k", "3", "--compare", "arrow", "--json", "e.json"]]
            .concat(),
    )
    .ok();
    assert_eq!(json(&work, "e.json")["knn"]["compared"]["top1"], others[2]["knn"]["top1"]);

    let fails = |model: &str, message: &str, names: &[&str]| {
        let mut arguments = EVAL.to_vec();
        arguments[2] = model;
        work.diptych(&arguments).fails(1, message).names(names);
    };
    fails("npy", "embeddings_without_a_tower", &["npy", "linear-probe"]);
    work.diptych(&[
        "sql",
        "SELECT key, caption FROM meta",
        "--dataset",
        "data",
        "--format",
        "parquet",
        "--output",
        "no.parquet",
    ])
    .ok();
    fails(
        "no.parquet",
        "table_without_embeddings",
        &["no.parquet", "image_embedding", "key, caption"],
    );
    std::fs::remove_file(work.path("npy/metadata/metadata_0.parquet")).unwrap();
    fails("npy", "embeddings_without_metadata", &["metadata_0.parquet"]);
}

#[test]
fn signal_ends_an_evaluation_while_a_benchmark_is_read() {
    let work = coloured();
    let image = picture(1);
    let names: Vec<String> = (0..20_000).map(|n| format!("{n:05}")).collect();
    let members: Vec<(String, Vec<u8>)> = names
        .iter()
        .flat_map(|name| {
            [(format!("{name}.jpg"), image.clone()), (format!("{name}.cls"), b"1".to_vec())]
        })
        .collect();
    let members: Vec<(&str, Vec<u8>)> =
        members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    work.write("large/test/0.tar", pairs::tar(&members));
    work.write("large/classnames.txt", NAMES.join("\n"));
    let mut eval = work.start(&["eval", "--model", "run", "--benchmark", "large"]);
    eventually(Duration::from_mins(1), "the benchmark's dataset", || {
        work.path("state/benchmarks").exists().then_some(())
    });
    let asked = Instant::now();
    eval.signal("-TERM");
    assert_eq!(eval.ends(), Some(4));
    // It has 0.7 s to end by itself; the rest is for machines with other work.
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    // What it had read is no damage: the next call goes on.
    let accuracy = work.diptych(&["eval", "--model", "run", "--benchmark", "large"]);
    accuracy.ok();
}
