//! The reference pages of the book are those that the binary makes, and name what there is.

use std::fs;

use diptych_tests::{Work, project, tiny_config};

const UPDATE: &str = "run `target/debug/diptych reference daemon/docs/reference` to update";

#[test]
fn reference_pages_are_made_from_this_code() {
    let work = Work::new();
    work.diptych(&["reference", "pages"]).ok();
    let committed = project().join("daemon/docs/reference");
    let names = |folder: &std::path::Path| {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let made = names(&work.path("pages"));
    assert_eq!(made, names(&committed), "{UPDATE}, and delete what is left over");
    for name in made {
        let text = |folder: &std::path::Path| fs::read_to_string(folder.join(&name)).unwrap();
        let (new, old) = (text(&work.path("pages")), text(&committed));
        let differs = new.lines().zip(old.lines()).position(|(new, old)| new != old);
        let shorter = || new.lines().count().min(old.lines().count());
        let line = differs.unwrap_or_else(shorter) + 1;
        assert!(new == old, "{UPDATE}: daemon/docs/reference/{}:{line}", name.display());
    }
}

/// Returns the section of a page below a heading.
fn section<'a>(page: &'a str, heading: &str) -> Option<&'a str> {
    let start = page.find(&format!("\n### {heading}\n"))?;
    let rest = &page[start + 1..];
    Some(rest.find("\n#").map_or(rest, |end| &rest[..end]))
}

#[test]
fn every_table_and_column_of_sql_is_in_the_reference() {
    let work = Work::new().with_demo_data(60);
    work.write("run.toml", tiny_config("a", 1, ""));
    work.diptych(&["train", "run.toml", "--stop-after", "1"]).ended_with(4);
    let query = "SELECT table_name, column_name FROM information_schema.columns \
                 WHERE table_schema = 'public' ORDER BY table_name";
    let folders = ["--dataset", "data", "--state", "state", "--format", "csv", "--rows", "0"];
    let ran = work.diptych(&[&["sql", query], &folders[..]].concat()).ok();
    let page = fs::read_to_string(project().join("daemon/docs/reference/sql.md")).unwrap();
    let mut tables = 0;
    let mut last = "";
    for line in ran.stdout.lines().skip(1) {
        let (table, column) = line.split_once(',').unwrap();
        let section = section(&page, table);
        let section = section.unwrap_or_else(|| panic!("the reference lacks the table {table}"));
        tables += usize::from(table != last);
        last = table;
        // The other columns of meta are the source's own.
        let is_own =
            ["meta", "scored"].contains(&table) && section.find(&format!("`{column}`")).is_none();
        assert!(
            is_own || section.contains(&format!("| `{column}` |")) || table == "scored",
            "the reference lacks {table}.{column}"
        );
    }
    assert!(tables >= 12, "{}", ran.stdout);
}
