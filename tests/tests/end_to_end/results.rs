//! Results of runs for pages and clients: findings of evaluations for fixed captions, the best
//! figures of all runs, and the embeddings that exist.

use std::collections::BTreeMap;

use diptych_tests::service::Service;
use diptych_tests::{Work, messages, tiny_config};
use serde_json::Value;

const STATE: [&str; 2] = ["--state", "state"];
const SERVED: &str = "state = \"state\"\nlisten = \"127.0.0.1:0\"\n\n[[dataset]]\nname = \"scenes\"\npath = \"data\"\n";

fn evaluated(name: &str, epochs: u32) -> String {
    tiny_config(name, epochs, "[eval]\nselection = \"heldout.parquet\"\nevery_epochs = 1\n")
}

#[test]
fn evaluations_keep_what_they_found_for_the_same_captions_and_a_run_that_is_stopped_ends_with_the_same()
 {
    let work = Work::new().with_demo_data(120);
    work.write("run.toml", evaluated("run", 3));
    work.write("stopped.toml", evaluated("stopped", 3));
    work.diptych(&["train", "run.toml", "--no-progress"]).ok();
    work.diptych(&["train", "stopped.toml", "--no-progress", "--stop-after", "5"]).ended_with(4);
    work.diptych(&["train", "stopped.toml", "--no-progress"]).ok();

    let ask = |sql: &str| work.sql(&STATE, sql);
    let of = |run: &str| {
        ask(&format!(
            "SELECT string_agg(step || ' ' || hex(query) || ' ' || own_rank || ' ' || place || ' ' || hex(uid) || ' ' || score, ';' ORDER BY step, query, place) \
             FROM sample_queries WHERE run = '{run}'"
        ))
    };
    assert!(of("run").len() > 1000 && of("run") == of("stopped"), "the same bits");
    // Eight captions at each evaluation, the same ones, five images each.
    let steps = ask(
        "SELECT count(DISTINCT step) FROM metrics WHERE run = 'run' AND name = 'heldout/pairs'",
    );
    assert_eq!(ask("SELECT count(DISTINCT step) FROM sample_queries WHERE run = 'run'"), steps);
    assert_eq!(ask("SELECT count(DISTINCT query) FROM sample_queries"), "8");
    let rows: u64 = ask("SELECT count(*) FROM sample_queries WHERE run = 'run'").parse().unwrap();
    assert_eq!(rows, 8 * 5 * steps.parse::<u64>().unwrap());
    // If the own image is shown, it is the first right one. Scores never rise.
    let firsts = "SELECT count(*) FROM (SELECT own_rank, min(CASE WHEN correct THEN place END) AS first FROM sample_queries GROUP BY run, step, query, own_rank)";
    assert_eq!(ask(&format!("{firsts} WHERE coalesce(first, own_rank) <> own_rank")), "0");
    assert_eq!(
        ask(
            "SELECT count(*) FROM sample_queries a JOIN sample_queries b ON a.run = b.run AND a.step = b.step AND a.query = b.query AND a.place < b.place WHERE a.score < b.score"
        ),
        "0"
    );
    assert_eq!(
        work.sql(&[&STATE[..], &["--dataset", "data"]].concat(), "SELECT count(*) FROM sample_queries s JOIN meta m ON m.uid = s.query WHERE m.caption <> s.caption"),
        "0"
    );
    work.diptych(&["report", "run"]).ok();
    let page = work.read("report.html");
    messages::check("report", "headings_with_sampled_queries", &messages::headings(&page));
    work.diptych(&["report", "run", "--no-model", "--output", "short.html"]).ok();
    assert!(work.read("short.html").contains("data:image/jpeg;base64,"));
}

#[test]
fn service_lists_results_embeddings_and_sampled_queries_and_shows_whole_pictures() {
    let work = Work::new().with_demo_data(120);
    for (name, epochs) in [("long", 3), ("short", 1)] {
        work.write(&format!("{name}.toml"), evaluated(name, epochs));
        work.diptych(&["train", &format!("{name}.toml"), "--no-progress"]).ok();
    }
    work.diptych(&[
        "embed",
        "--model",
        "long",
        "--dataset",
        "data",
        "--selection",
        "heldout.parquet",
        "--state",
        "state",
    ])
    .ok();
    let pairs: u64 =
        work.sql(&["--table", "h=heldout.parquet"], "SELECT count(*) FROM h").parse().unwrap();
    let expected: BTreeMap<String, f64> = ["long", "short"]
        .map(|run| {
            let best = format!("SELECT max(value) FROM metrics WHERE run = '{run}' AND name = 'heldout/t2i_recall@5'");
            (run.to_owned(), work.sql(&STATE, &best).parse().unwrap())
        })
        .into();
    work.write("diptych.toml", SERVED);
    let service = Service::start(&work);

    let results = service.get("/v1/results");
    let named = |run: &str, name: &str| -> Value {
        let of_run =
            results["items"].as_array().unwrap().iter().find(|one| one["run"] == run).unwrap();
        let figures = of_run["figures"].as_array().unwrap();
        figures.iter().find(|figure| figure["name"] == name).cloned().unwrap_or_default()
    };
    for (run, best) in &expected {
        let figure = named(run, "heldout/t2i_recall@5");
        let number = |key: &str| figure[key].as_f64().unwrap();
        assert!((number("value") - best).abs() < 1e-9, "{figure}");
        assert!(
            number("low") <= *best && *best <= number("high") && number("low") < number("high")
        );
        assert_eq!(named(run, "heldout/pairs"), Value::Null);
    }
    assert!(named("long", "heldout/i2t_recall@1")["chance"].as_f64().unwrap() > 0.0);

    let embedded = service.get("/v1/embeddings");
    let images: Vec<&Value> = embedded["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|set| set["modality"] == "image")
        .collect();
    assert_eq!(images.len(), 1);
    assert_eq!((&images[0]["run"], &images[0]["rows"]), (&"long".into(), &pairs.into()));
    let refused = service.ask("GET", "/v1/search?dataset=scenes&model=short&text=x", None);
    assert_eq!((refused.status, &refused.json["code"]), (404, &"no_embeddings".into()));

    let queries = service.get("/v1/runs/long/sample-queries");
    let evaluations = queries["items"].as_array().unwrap();
    assert_eq!(evaluations.len(), 3);
    let query = &evaluations[2]["queries"][0];
    assert_eq!(
        (&evaluations[2]["dataset"], &evaluations[2]["pairs"]),
        (&"scenes".into(), &pairs.into())
    );
    assert_eq!(query["found"].as_array().unwrap().len(), 5);
    service.ask("GET", "/v1/runs/nobody/sample-queries", None).refused(404, "no_such_run");

    // A picture is shown whole, and not larger than it is.
    let sample =
        &service.get("/v1/datasets/scenes/samples?limit=1&where=orientation%20%3D%201")["items"][0];
    let address = sample["image"].as_str().unwrap().replace("size=160", "size=1024");
    let png = service.send("GET", &address, &[], None).bytes;
    let side = |at: usize| u64::from(u32::from_be_bytes(png[at..at + 4].try_into().unwrap()));
    assert_eq!(
        (side(16), side(20)),
        (sample["width"].as_u64().unwrap(), sample["height"].as_u64().unwrap())
    );
    let uid = sample["uid"].as_str().unwrap();
    let small =
        service.send("GET", &format!("/v1/datasets/scenes/images/{uid}?size=32"), &[], None).bytes;
    let longer = u32::from_be_bytes(small[16..20].try_into().unwrap())
        .max(u32::from_be_bytes(small[20..24].try_into().unwrap()));
    assert_eq!(longer, 32);

    // The last selection is no stage of the dataset's funnel.
    let details = service.get("/v1/datasets/scenes");
    let stages: Vec<&str> = details["funnel"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| stage["stage"].as_str().unwrap())
        .collect();
    assert_eq!(stages, ["inputs", "pairs"]);
    let refused: u64 = details["ledger_by_reason"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["count"].as_u64().unwrap())
        .sum();
    assert_eq!(details["ledger"], refused, "what trainings met is not what was refused");
    assert!(details["last_selection"]["pairs"].as_u64() > Some(0), "{details}");
}
