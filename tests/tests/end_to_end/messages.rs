//! The pages of messages: as their snapshots are, and no snapshot without a test.

use std::fs;

use diptych_tests::{messages, project};

/// Whether differences are to be written.
fn accepts() -> bool {
    std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always" || update == "force")
}

#[test]
fn pages_show_the_snapshots_as_they_are() {
    let pages = messages::pages();
    assert!(pages.len() > 15, "only {} commands have messages", pages.len());
    for (file, page) in pages {
        let path = messages::folder().join(&file);
        if fs::read_to_string(&path).is_ok_and(|there| there == page) {
            continue;
        }
        assert!(accepts(), "tests/messages/{file} is not up to date. Run `make messages`");
        diptych_schemas::durable::write(&path, page.as_bytes()).unwrap();
    }
}

#[test]
fn every_snapshot_belongs_to_a_test() {
    let folder = project().join("tests/tests/end_to_end");
    let sources: String = fs::read_dir(folder)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let unused: Vec<String> = messages::all()
        .into_iter()
        .filter(|snapshot| !sources.contains(&format!("\"{}\"", snapshot.name)))
        .map(|snapshot| format!("tests/messages/{}/{}.snap", snapshot.command, snapshot.name))
        .collect();
    assert_eq!(unused, Vec::<String>::new(), "no test names these snapshots: delete them");
}
