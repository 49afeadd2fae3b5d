//! Pages of messages: each shows its snapshots as they are, and each snapshot belongs to a test.

use std::fs;

use diptych_tests::{messages, project};

/// Returns whether differences are to be written.
fn accepts() -> bool {
    std::env::var("INSTA_UPDATE").is_ok_and(|update| update == "always" || update == "force")
}

#[test]
fn pages_show_the_snapshots_as_they_are() {
    let pages = messages::pages();
    assert!(pages.len() > 15, "only {} commands have messages", pages.len());
    for entry in fs::read_dir(messages::folder()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let made = path.is_dir() || pages.iter().any(|(file, _)| *file == name);
        assert!(made, "tests/messages/{name} has no snapshots: delete it");
    }
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
        .filter(|snapshot| {
            // `waits_for_event` makes the name from the kind of the event.
            let kind = snapshot.name.strip_prefix("event_").unwrap_or(&snapshot.name);
            ![kind, &snapshot.name].iter().any(|name| sources.contains(&format!("\"{name}\"")))
        })
        .map(|snapshot| format!("tests/messages/{}/{}.snap", snapshot.command, snapshot.name))
        .collect();
    assert_eq!(unused, Vec::<String>::new(), "no test names these snapshots: delete them");
}
