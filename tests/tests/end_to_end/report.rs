//! `diptych report`: a run as a page that loads nothing from elsewhere.

use diptych_tests::service::Service;
use diptych_tests::{Work, messages, tiny_config};

#[test]
fn report_shows_what_a_run_got_right_and_wrong_and_loads_nothing() {
    let work = Work::new().with_demo_data(120);
    let evaluated = "[eval]\nselection = \"heldout.parquet\"\nclasses = \"scenes/classes.txt\"\nlabel_column = \"label\"\nevery_epochs = 1\n";
    work.write("run.toml", tiny_config("run", 3, evaluated));
    work.write("other.toml", tiny_config("other", 2, "").replace("seed = 3", "seed = 4"));
    for name in ["run.toml", "other.toml"] {
        work.diptych(&["train", name, "--no-progress"]).ok();
    }
    work.diptych(&["report", "run", "--beside", "other", "--group-by", "word_count(caption)"]).ok();
    let page = work.read("report.html");
    messages::check_without_figures("report", "headings", &messages::headings(&page));
    for part in ["step-0000000", "batch_size = 16", "data:image/jpeg;base64,"] {
        assert!(page.contains(part), "{part}");
    }
    // Two runs are two curves.
    assert!(page.matches("<polyline class=\"curve c1\"").count() >= 2);
    assert!(
        !page.contains("<script") && !page.contains("http://") && !page.contains("https://"),
        "it asks somebody"
    );
    // What is counted is what `diptych eval` counts.
    let eval = [
        "eval",
        "--model",
        "run",
        "--dataset",
        "data",
        "--selection",
        "heldout.parquet",
        "--json",
        "eval.json",
    ];
    work.diptych(&[&eval[..], &["--group-by", "word_count(caption)"]].concat()).ok();
    let found: serde_json::Value = serde_json::from_str(&work.read("eval.json")).unwrap();
    let recall = found["retrieval"]["image_to_text"][2].as_f64().unwrap();
    assert!(page.contains(&format!("<b>{recall:.3}</b>")), "{recall}");
    let groups = found["retrieval"]["groups"].as_array().unwrap();
    assert!(groups.len() > 1, "{groups:?}");
    for group in groups {
        let row = format!(
            "<tr><td>{}</td><td class=\"number\">{}</td>",
            group["name"].as_str().unwrap(),
            group["count"]
        );
        let value = format!("<b>{:.3}</b>", group["image_to_text"].as_f64().unwrap());
        let rest = page.split_once(&row).unwrap_or_else(|| panic!("{row}")).1;
        assert!(rest.find(&value).is_some_and(|at| at < 40), "{row}{value}");
    }

    // While a service owns the folder, it is asked.
    work.write("diptych.toml", "state = \"state\"\nlisten = \"127.0.0.1:0\"\n");
    let service = Service::start(&work);
    work.diptych(&["report", "other", "--output", "other.html"]).ok();
    let headings = messages::headings(&work.read("other.html"));
    messages::check_without_figures("report", "headings_without_an_evaluation", &headings);
    drop(service);
    work.diptych(&["report", "nobody"]).fails(1, "no_such_run").names(&["nobody", "other, run"]);
    work.diptych(&["report", "run@7777"]).fails(1, "no_such_checkpoint").names(&["7777"]);
}
