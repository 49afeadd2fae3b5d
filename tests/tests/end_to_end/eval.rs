//! `diptych eval`: every task, comparison of two models, groups, and CLIP_benchmark's layout and
//! result files.

use diptych_tests::{TINY_MODEL, Work, messages, pairs, tiny_config};
use serde_json::Value;

/// Trains a model for a few steps on plain colours: 64 images, one caption each, eight images per
/// colour.
pub(super) fn coloured() -> Work {
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

pub(super) const NAMES: [&str; 8] =
    ["black", "red", "green", "blue", "yellow", "cyan", "magenta", "white"];

/// Returns the n-th image: one of eight colours, a little lighter or darker.
pub(super) fn picture(n: u8) -> Vec<u8> {
    let bit = |at: u8| if ((n % 8) >> at) & 1 == 1 { 255 - n } else { n };
    pairs::jpeg(64, 64, [bit(0), bit(1), bit(2)])
}

/// Evaluates the run with every option that a task can need.
pub(super) const EVAL: [&str; 15] = [
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

pub(super) fn json(work: &Work, name: &str) -> Value {
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
    run(&["--task", "knn", "--group-by", "lenght(caption)"])
        .fails(1, "group_by_a_wrong_function")
        .names(&["--group-by", "lenght"]);
    run(&["--task", "few-shot", "--shots", "6"])
        .fails(1, "more_shots_than_images")
        .names(&["black", "5", "6"]);
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
    run(&["--task", "zero-shot"]).fails(1, "image_of_two_classes").names(&["multi-label"]);

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
    let ledger = work.sql(&["--dataset", "arrays"], "SELECT reason || ' ' || detail FROM ledger");
    assert!(ledger.contains("99.npy"), "{ledger}");
    messages::check("ingest", "label_array_cut_short", &ledger);
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

    // The same images in folders by class. The folders are named after the classes or, with a list,
    // by anything that sorts like the list.
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
    work.diptych(&["eval", "--model", "run", "--benchmark", "by-number"])
        .fails(1, "fewer_classes_than_folders")
        .names(&["classnames.txt"]);

    work.write("colours/dataset_type.txt", "segmentation\n");
    work.diptych(&["eval", "--model", "run", "--benchmark", "colours"])
        .fails(1, "unknown_benchmark_type")
        .names(&["segmentation", "multilabel"]);
    work.diptych(&["eval", "--model", "run", "--benchmark", "nothing"])
        .fails(1, "benchmark_without_a_split")
        .names(&["nothing", "test"]);
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
