//! `diptych eval`: every task, two models beside each other, groups, and CLIP_benchmark's layout and result files.

use diptych_tests::{TINY_MODEL, Work, pairs, tiny_config};
use serde_json::Value;

/// A model of one step's training, on plain colours: 64 images, a caption each, eight to a colour.
fn coloured() -> Work {
    let work = Work::new();
    let mut members = Vec::new();
    for n in 0..64_u8 {
        members.push((format!("{n:02}.jpg"), picture(n)));
        members.push((
            format!("{n:02}.txt"),
            format!("shade {n} of {}", NAMES[usize::from(n % 8)]).into_bytes(),
        ));
        members.push((
            format!("{n:02}.json"),
            format!(
                r#"{{"colour": "{0}", "half": "{1}", "both": ["{0}", "{2}"]}}"#,
                NAMES[usize::from(n % 8)],
                n % 2,
                NAMES[usize::from(n / 8)]
            )
            .into_bytes(),
        ));
    }
    let members: Vec<(&str, Vec<u8>)> =
        members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    work.write("pairs.tar", pairs::tar(&members));
    work.diptych(&["ingest", "pairs.tar", "--dataset", "data"]).ok();
    let select = |sql: &str, output: &str| {
        work.diptych(&["select", sql, "--dataset", "data", "--output", output]).ok()
    };
    select("SELECT uid FROM meta", "train.parquet");
    select("SELECT uid FROM meta WHERE key < '40'", "first.parquet");
    select("SELECT uid FROM meta WHERE key >= '40'", "second.parquet");
    work.write("tiny.json", TINY_MODEL);
    work.write("run.toml", tiny_config("run", 2, "[checkpoint]\nevery_epochs = 1\n"));
    work.diptych(&["train", "run.toml", "--no-progress"]).ok();
    work.write("colours.txt", NAMES.join("\n"));
    work.write("templates.txt", "a {c} thing\nsomething {}\n");
    work
}

const NAMES: [&str; 8] = ["black", "red", "green", "blue", "yellow", "cyan", "magenta", "white"];

/// The n-th image: one of eight colours, a little lighter or darker.
fn picture(n: u8) -> Vec<u8> {
    let bit = |at: u8| if ((n % 8) >> at) & 1 == 1 { 255 - n } else { n };
    pairs::jpeg(64, 64, [bit(0), bit(1), bit(2)])
}

/// Evaluates the run with everything that a task can want.
const EVAL: [&str; 15] = [
    "eval",
    "--model",
    "run",
    "--dataset",
    "data",
    "--selection",
    "second.parquet",
    "--classes",
    "colours.txt",
    "--label-column",
    "colour",
    "--templates",
    "templates.txt",
    "--train-selection",
    "first.parquet",
];

fn json(work: &Work, name: &str) -> Value {
    serde_json::from_str(&work.read(name)).unwrap()
}

#[test]
fn every_task_has_figures_intervals_groups_and_a_comparison() {
    let work = coloured();
    let run = |more: &[&str]| work.diptych(&[&EVAL[..], more].concat());
    let tasks = [
        "--task",
        "retrieval",
        "--task",
        "zero-shot",
        "--task",
        "knn",
        "--task",
        "linear-probe",
        "--task",
        "few-shot",
    ];
    let rest = [
        "--shots",
        "1,4",
        "--k",
        "3",
        "--group-by",
        "half",
        "--compare",
        "run@4",
        "--json",
        "e.json",
    ];
    let files = ["--output-format", "clip-benchmark", "--output", "files"];
    run(&[&tasks[..], &rest, &files].concat()).ok();
    let found = json(&work, "e.json");
    for task in ["zero_shot", "knn", "linear_probe", "few_shot_1", "few_shot_4"] {
        let found = &found[task];
        let number = |name: &str| found[name].as_f64().unwrap();
        let (low, high) = (
            found["top1_interval"][0].as_f64().unwrap(),
            found["top1_interval"][1].as_f64().unwrap(),
        );
        assert!(low <= number("top1") && number("top1") <= high && high <= 1.0, "{task}: {found}");
        assert!(number("top5") >= number("top1"), "{task}");
        // The whole is the mean of two groups of 12, and of eight classes of 3.
        let parts = |list: &str, part: &str| -> Vec<f64> {
            found[list].as_array().unwrap().iter().map(|of| of[part].as_f64().unwrap()).collect()
        };
        let groups = parts("groups", "top1");
        assert_eq!(groups.len(), 2);
        assert!((groups.iter().sum::<f64>() / 2.0 - number("top1")).abs() < 1e-9, "{task}");
        assert!(
            (parts("per_class", "recall").iter().sum::<f64>() / 8.0 - number("top1")).abs() < 1e-9,
            "{task}"
        );
        let draws = if task.starts_with("few") { 3 } else { 1 };
        assert_eq!(
            (found["images"].as_u64(), found["draws"].as_u64()),
            (Some(24), Some(draws)),
            "{task}"
        );
        let bins = found["calibration"]["bins"].as_array().unwrap();
        assert_eq!(
            bins.iter().map(|bin| bin["images"].as_u64().unwrap()).sum::<u64>(),
            24 * draws,
            "{task}"
        );
        let compared = &found["compared"];
        let of = |name: &str| compared[name].as_f64().unwrap();
        assert!(
            (of("difference") - (number("top1") - of("top1"))).abs() < 1e-9,
            "{task}: {compared}"
        );
        assert!(compared["difference_interval"].is_array(), "{task}: {compared}");
        if draws == 1 {
            let only = of("only_here_right") - of("only_there_right");
            assert!((of("difference") - only / 24.0).abs() < 1e-9, "{task}: {compared}");
        } else {
            assert!(compared.get("mcnemar_p").is_none(), "{task}: {compared}");
        }
    }
    // Of few-shot each figure is the mean over the draws, wherever it stands.
    let of_checkpoint = |name: &str| {
        let value =
            format!("SELECT value FROM metrics WHERE name = 'eval/second/{name}' AND step = 8");
        work.sql(&["--state", "state"], &value).parse::<f64>().unwrap()
    };
    let mut unequal = 0;
    for shots in [1, 4] {
        let found = &found[format!("few_shot_{shots}")];
        let of_draws: Vec<f64> = found["details"]["top1_of_draws"]
            .as_array()
            .unwrap()
            .iter()
            .map(|top1| top1.as_f64().unwrap())
            .collect();
        assert_eq!(of_draws.len(), 3);
        let mean = of_draws.iter().sum::<f64>() / 3.0;
        unequal += usize::from((mean - of_draws[0]).abs() > 1e-9);
        let file = json(
            &work,
            &format!("files/second_step-000000008_run_en_linear_probe_{shots}_shot.json"),
        );
        let places = [
            found["top1"].as_f64().unwrap(),
            of_checkpoint(&format!("few_shot_{shots}/top1")),
            file["metrics"]["lp_acc1"].as_f64().unwrap(),
        ];
        assert!(
            places.iter().all(|top1| (top1 - mean).abs() < 1e-9),
            "{shots} shots: {places:?} of {of_draws:?}"
        );
    }
    assert!(unequal > 0, "where the first draw is like the mean, this shows nothing");
    assert_eq!(found["retrieval"]["texts"], 24);
    let half = &found["retrieval"]["groups"][0];
    let (low, high) = (
        half["text_to_image_interval"][0].as_f64().unwrap(),
        half["text_to_image_interval"][1].as_f64().unwrap(),
    );
    let value = half["text_to_image"].as_f64().unwrap();
    assert!(half["count"] == 12 && low <= value && value <= high, "{half}");
    assert!(found["geometry"]["images"]["effective_rank"].as_f64().unwrap() >= 1.0);
    // In SQL, at the checkpoint's step, beside what training recorded there.
    let state = ["--state", "state"];
    let top1 = work.sql(
        &state,
        "SELECT value FROM metrics WHERE name = 'eval/second/zero_shot/top1' AND step = 8",
    );
    assert_eq!(top1.parse::<f64>().unwrap(), found["zero_shot"]["top1"].as_f64().unwrap());
    assert_eq!(
        work.sql(&state, "SELECT count(*) FROM metrics WHERE name = 'loss' AND step = 8"),
        "1"
    );
    // CLIP_benchmark's names: {dataset}_{pretrained}_{model}_{language}_{task}.json.
    let file = json(&work, "files/second_step-000000008_run_en_zeroshot_classification.json");
    assert_eq!(file["metrics"]["acc1"], found["zero_shot"]["top1"]);
    let file = json(&work, "files/second_step-000000008_run_en_zeroshot_retrieval.json");
    assert_eq!(file["metrics"]["text_retrieval_recall@5"], found["retrieval"]["image_to_text"][1]);

    // A model beside itself differs by nothing.
    run(&["--task", "knn", "--compare", "run", "--json", "same.json"]).ok();
    let same = &json(&work, "same.json")["knn"]["compared"];
    assert_eq!((same["difference"].as_f64(), same["mcnemar_p"].as_f64()), (Some(0.0), Some(1.0)));
    run(&["--task", "knn", "--group-by", "length(caption) > 16", "--json", "long.json"]).ok();
    let groups = json(&work, "long.json")["knn"]["groups"].clone();
    let of = |name: &str| {
        groups.as_array().unwrap().iter().find(|group| group["name"] == name).unwrap()["count"]
            .as_u64()
    };
    assert_eq!(of("true").unwrap() + of("false").unwrap(), 24, "{groups}");
    run(&["--task", "knn", "--group-by", "lenght(caption)"]).fails_with(&["--group-by", "lenght"]);
    run(&["--task", "few-shot", "--shots", "6"]).fails_with(&["black", "5", "6"]);
}

#[test]
fn images_with_several_classes_have_a_mean_average_precision() {
    let work = coloured();
    let mut arguments = EVAL.to_vec();
    let label = arguments.iter().position(|argument| *argument == "colour").unwrap();
    arguments[label] = "both";
    let run = |more: &[&str]| work.diptych(&[&arguments[..], more].concat());
    run(&[
        "--task",
        "multi-label",
        "--json",
        "e.json",
        "--compare",
        "run@4",
        "--output-format",
        "clip-benchmark",
    ])
    .ok();
    let found = &json(&work, "e.json")["multi_label"];
    let mean = found["mean_average_precision"].as_f64().unwrap();
    let of_classes: Vec<f64> = found["per_class"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|class| class["average_precision"].as_f64())
        .collect();
    assert_eq!(of_classes.len(), 8);
    assert!((mean - of_classes.iter().sum::<f64>() / 8.0).abs() < 1e-9);
    let at = |place: usize| found["mean_average_precision_interval"][place].as_f64().unwrap();
    assert!(at(0) <= at(1) && at(1) <= 1.0 && at(0) > 0.0, "{found}");
    assert!(found["compared"]["difference_interval"].is_array());
    let file = json(&work, "second_step-000000008_run_en_zeroshot_classification.json");
    assert_eq!(file["metrics"]["mean_average_precision"], found["mean_average_precision"]);
    run(&["--task", "zero-shot"]).fails_with(&["2 classes", "multi-label"]);

    // CLIP_benchmark's layout: an array of a number for each class beside each image.
    let labels = |n: u8| -> Vec<u8> {
        let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (8,), }";
        let marks = (0..8).map(|class| u8::from(class == n % 8 || class == n / 8));
        [&b"\x93NUMPY\x01\x00"[..], &[header.len() as u8, 0], header.as_bytes()]
            .concat()
            .into_iter()
            .chain(marks)
            .collect()
    };
    let of = |n: u8| [(format!("{n:02}.jpg"), picture(n)), (format!("{n:02}.npy"), labels(n))];
    let mut members: Vec<_> = (40..64).flat_map(of).collect();
    members.extend([
        ("99.jpg".to_owned(), picture(99)),
        ("99.npy".to_owned(), labels(99)[..70].to_vec()),
    ]);
    let members: Vec<(&str, Vec<u8>)> =
        members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    work.write("many/test/0.tar", pairs::tar(&members));
    work.write("many/classnames.txt", NAMES.join("\n"));
    work.write("many/zeroshot_classification_templates.txt", work.read("templates.txt"));
    work.write("many/dataset_type.txt", "multilabel\n");
    work.diptych(&["eval", "--model", "run", "--benchmark", "many", "--json", "many.json"]).ok();
    let many = &json(&work, "many.json")["multi_label"];
    assert_eq!(many["images"], 24);
    assert_eq!(many["per_class"], found["per_class"]);
    // What is damaged is in the ledger, and no image without classes.
    work.diptych(&["ingest", "many/test/0.tar", "--dataset", "arrays", "--caption-column", "npy"])
        .ok();
    let ledger = work.sql(&["--dataset", "arrays"], "SELECT detail FROM ledger");
    assert!(ledger.contains("99.npy") && ledger.contains("claims"), "{ledger}");
}

#[test]
fn clip_benchmarks_classification_layout_is_what_the_dataset_gives() {
    let work = coloured();
    let split = |range: std::ops::Range<u8>, path: &str| {
        let members: Vec<_> = range
            .flat_map(|n| {
                [
                    (format!("{n:02}.jpg"), picture(n)),
                    (format!("{n:02}.cls"), (n % 8).to_string().into_bytes()),
                ]
            })
            .collect();
        let members: Vec<(&str, Vec<u8>)> =
            members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        work.write(path, pairs::tar(&members));
    };
    split(0..40, "colours/train/0.tar");
    split(40..52, "colours/test/0.tar");
    split(52..64, "colours/test/1.tar");
    work.write("colours/classnames.txt", NAMES.join("\n"));
    work.write("colours/zeroshot_classification_templates.txt", "a {c} thing\nsomething {c}\n");
    let tasks = ["--task", "zero-shot", "--task", "knn", "--k", "3"];
    let benchmark =
        ["eval", "--model", "run", "--benchmark", "colours", "--json", "benchmark.json"];
    let files = ["--output-format", "clip-benchmark"];
    work.diptych(&[&benchmark[..], &tasks, &files].concat()).ok();
    work.diptych(&[&EVAL[..], &["--json", "data.json"], &tasks].concat()).ok();
    let (benchmark, dataset) = (json(&work, "benchmark.json"), json(&work, "data.json"));
    for task in ["zero_shot", "knn"] {
        assert_eq!(benchmark[task]["per_class"], dataset[task]["per_class"], "{task}");
        assert_eq!(benchmark[task]["images"], 24);
    }
    assert_eq!(
        json(&work, "colours_step-000000008_run_en_zeroshot_classification.json")["dataset"],
        "wds/colours"
    );

    // The same images in folders by class, named after the classes or, beside a list, by anything that sorts as the list does.
    for n in 0..64_u8 {
        let (split, class) = (if n < 40 { "train" } else { "val" }, usize::from(n % 8));
        work.write(&format!("by-name/{split}/{}/{n}.jpg", NAMES[class]), picture(n));
        work.write(&format!("by-number/{split}/n{class:04}/{n}.jpg"), picture(n));
    }
    let lists = ["zeroshot_classification_templates.txt", "classnames.txt"];
    for name in lists {
        work.write(&format!("by-number/{name}"), work.read(&format!("colours/{name}")));
    }
    work.write(
        "by-name/zeroshot_classification_templates.txt",
        work.read("colours/zeroshot_classification_templates.txt"),
    );
    for folder in ["by-name", "by-number"] {
        work.diptych(
            &[
                &["eval", "--model", "run", "--benchmark", folder, "--json", "folders.json"],
                &tasks[..],
            ]
            .concat(),
        )
        .ok();
        let found = json(&work, "folders.json");
        for task in ["zero_shot", "knn"] {
            assert_eq!(
                (&found[task]["top1"], &found[task]["images"]),
                (&dataset[task]["top1"], &dataset[task]["images"]),
                "{folder}"
            );
        }
    }
    work.write("by-number/classnames.txt", "black\n");
    work.diptych(&["eval", "--model", "run", "--benchmark", "by-number"]).fails_with(&[
        "classnames.txt",
        "1 lines",
        "8 folders",
    ]);

    work.write("colours/dataset_type.txt", "segmentation\n");
    work.diptych(&["eval", "--model", "run", "--benchmark", "colours"])
        .fails_with(&["segmentation", "multilabel"]);
    work.diptych(&["eval", "--model", "run", "--benchmark", "nothing"])
        .fails_with(&["nothing", "test"]);
}

#[test]
fn several_captions_are_the_same_as_lines_as_rows_and_as_a_column() {
    let work = coloured();
    let captions = |n: u8| {
        [
            format!("shade {n}"),
            format!("number {n} of a row"),
            format!("a {} square", NAMES[usize::from(n % 8)]),
        ]
    };
    let tar = |path: &str, members: Vec<(String, Vec<u8>)>| {
        let members: Vec<(&str, Vec<u8>)> =
            members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        work.write(path, pairs::tar(&members));
    };
    let with = |text: &dyn Fn(u8) -> (&'static str, String)| -> Vec<(String, Vec<u8>)> {
        let of = |n: u8| {
            let (extension, text) = text(n);
            [
                (format!("{n:02}.jpg"), picture(n)),
                (format!("{n:02}.{extension}"), text.into_bytes()),
            ]
        };
        (0..24).flat_map(of).collect()
    };
    tar("flickr/test/0.tar", with(&|n| ("txt", captions(n).join("\n") + "\n")));
    work.write("flickr/dataset_type.txt", "retrieval");
    let more = |n| serde_json::to_string(&captions(n)[1..]).unwrap();
    tar(
        "column.tar",
        with(&|n| {
            ("json", format!(r#"{{"caption": {:?}, "others": {}}}"#, captions(n)[0], more(n)))
        }),
    );
    let rows = (0..24).flat_map(|n| {
        let row = move |(at, text): (usize, String)| {
            [
                (format!("{n:02}-{at}.jpg"), picture(n)),
                (format!("{n:02}-{at}.txt"), text.into_bytes()),
            ]
        };
        captions(n).into_iter().enumerate().flat_map(row)
    });
    tar("rows.tar", rows.collect());
    for name in ["rows", "column"] {
        work.diptych(&["ingest", &format!("{name}.tar"), "--dataset", name]).ok();
        work.diptych(&[
            "select",
            "SELECT uid FROM meta",
            "--dataset",
            name,
            "--output",
            &format!("{name}.parquet"),
        ])
        .ok();
    }
    let figures = |call: &[&str]| {
        work.diptych(&[&["eval", "--model", "run", "--json", "e.json"], call].concat()).ok();
        let found = json(&work, "e.json");
        assert_eq!(
            (found["retrieval"]["images"].as_u64(), found["retrieval"]["texts"].as_u64()),
            (Some(24), Some(72))
        );
        let of = |name: &str| found["retrieval"][name].to_string();
        [
            of("image_to_text"),
            of("text_to_image"),
            of("median_rank_text_to_image"),
            of("chance_image_to_text"),
        ]
    };
    let lines = figures(&["--benchmark", "flickr"]);
    assert_eq!(figures(&["--dataset", "rows", "--selection", "rows.parquet"]), lines);
    let column =
        ["--dataset", "column", "--selection", "column.parquet", "--more-captions", "others"];
    assert_eq!(figures(&column), lines);
}

#[test]
fn compositional_tests_count_what_their_authors_count() {
    let work = coloured();
    for n in 0..32_u8 {
        work.write(&format!("images/ex_{n}.jpg"), picture(n));
    }
    let caption = |n: usize| format!("shade {n} of {}", NAMES[n % 8]);
    // Image n with its own caption and that of image n + 1; the other way round; and both images with both captions.
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
    assert!(ran.stdout.contains("accuracy") && ran.stdout.contains("group"), "{}", ran.stdout);

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
    call(&["--compositional", "out.json"]).fails_with(&[
        "out.json",
        "example 0",
        "not in the folder",
    ]);
    work.write("bad.jsonl", "{\"id\": 1}\n");
    call(&["--compositional", "bad.jsonl"]).fails_with(&["bad.jsonl", "line 1", "Winoground"]);
    work.write(
        "none.json",
        r#"{"0": {"filename": "none.jpg", "caption": "a", "negative_caption": "b"}}"#,
    );
    call(&["--compositional", "none.json"]).fails_with(&["none.jpg", "images"]);
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
    let ran = work.diptych(&[&suite[..], &["--compare", "run@4"]].concat()).ok();
    assert!(
        ran.stdout.contains("mean by weight") && ran.stdout.contains("compared: score"),
        "{}",
        ran.stdout
    );
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

    // What was encoded is there: without the images the same figures come out, and not with --no-cache.
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
    work.diptych(&[&suite[..], &["--no-cache"]].concat()).fails_with(&["task pairs", "mine"]);
    work.write("data/blob/00000.parquet", whole);

    let ran = work.diptych(&[&suite[..], &["--max-seconds", "0"]].concat()).ok();
    assert!(ran.stdout.contains("left out") && ran.stdout.contains("no score"), "{}", ran.stdout);
    assert_eq!(json(&work, "suite.json")["score"], Value::Null);
    for (add, says) in [
        ("metric = \"top9\"\n", "top1, top5, mean_per_class"),
        ("kind = \"guess\"\n", "zero-shot"),
        ("kind = \"few-shot\"\n", "linear-probe"),
        ("kind = \"knn\"\n", "--train-selection"),
    ] {
        work.write("bad.toml", format!("[[task]]\nname = \"x\"\n{data}{classes}{add}"));
        work.diptych(&["eval", "--model", "run", "--suite", "bad.toml"])
            .fails_with(&["bad.toml", "task x", says]);
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

    let fails = |model: &str, says: &[&str]| {
        let mut arguments = EVAL.to_vec();
        arguments[2] = model;
        work.diptych(&arguments).fails_with(says);
    };
    fails("npy", &["npy", "no tower", "linear-probe"]);
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
    fails("no.parquet", &["no.parquet", "image_embedding", "key, caption"]);
    std::fs::remove_file(work.path("npy/metadata/metadata_0.parquet")).unwrap();
    fails("npy", &["metadata_0.parquet"]);
}
