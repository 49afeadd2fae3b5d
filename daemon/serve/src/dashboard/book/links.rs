//! Tests that the book is whole: every file has its place. Every link of the book and of the
//! project's other pages leads somewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::files::{CHAPTERS, IMAGES, SUMMARY};
use super::render::{Rendered, beside, is_elsewhere, render};
use super::summary::summary;

/// Where the book lies, from the project's root.
const BOOK: &str = "daemon/docs";

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Files of the book's folder that fulfil a condition, by name.
fn files(is_wanted: fn(&str) -> bool) -> BTreeSet<String> {
    fn walk(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else {
                found.insert(name);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&project().join(BOOK), "", &mut found);
    found.retain(|name| is_wanted(name));
    found
}

/// Fails where two lists of files differ, and names what only one of them has.
fn assert_equal(one: (&str, &BTreeSet<String>), other: (&str, &BTreeSet<String>)) {
    for (has, lacks) in [(one, other), (other, one)] {
        let only: Vec<_> = has.1.difference(lacks.1).collect();
        assert!(only.is_empty(), "{} has {only:?}, and {} has not", has.0, lacks.0);
    }
}

fn embedded(files: &[(&str, &str)]) -> BTreeSet<String> {
    files.iter().map(|(name, _)| (*name).to_owned()).collect()
}

#[test]
fn every_file_of_the_book_is_in_the_binary() {
    let chapters = files(|name| {
        Path::new(name).extension().is_some_and(|ending| ending == "md") && name != "SUMMARY.md"
    });
    assert_equal((BOOK, &chapters), ("files.rs", &embedded(CHAPTERS)));
    let images: BTreeSet<String> = IMAGES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_equal((BOOK, &files(|name| name.starts_with("images/"))), ("files.rs", &images));
}

#[test]
fn every_chapter_has_one_place_in_the_summary() {
    let all: Vec<String> =
        summary(SUMMARY).chapters().map(|chapter| chapter.file.clone()).collect();
    let listed: BTreeSet<String> = all.iter().cloned().collect();
    assert_eq!(all.len(), listed.len(), "a chapter is in SUMMARY.md twice");
    assert_equal(("SUMMARY.md", &listed), ("files.rs", &embedded(CHAPTERS)));
}

/// Pages by their path from the project's root: the book and the files at the root.
fn pages() -> BTreeMap<String, Rendered> {
    let book = CHAPTERS.iter().map(|(name, text)| (format!("{BOOK}/{name}"), (*text).to_owned()));
    let at_root = fs::read_dir(project()).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_page = Path::new(&name).extension().is_some_and(|ending| ending == "md");
        is_page.then(|| (name.clone(), fs::read_to_string(project().join(&name)).unwrap()))
    });
    let all = book.chain(at_root).chain([(format!("{BOOK}/SUMMARY.md"), SUMMARY.to_owned())]);
    all.map(|(name, text)| (name.clone(), render(&name, &text))).collect()
}

#[test]
fn every_link_leads_to_a_file_and_an_anchor_that_are_there() {
    let pages = pages();
    assert!(pages.contains_key("README.md"), "{:?}", pages.keys());
    let mut broken = Vec::new();
    for (name, page) in &pages {
        for link in page.links.iter().filter(|link| !is_elsewhere(link)) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { name.clone() } else { beside(name, path) };
            let has_anchor =
                |page: &Rendered| page.headings.iter().any(|heading| heading.id == anchor);
            let is_there = match pages.get(&target) {
                Some(page) => anchor.is_empty() || has_anchor(page),
                None => anchor.is_empty() && project().join(&target).exists(),
            };
            // Pages at /docs are all that a reader of the binary has.
            let leaves = name.starts_with(BOOK) && !target.starts_with(BOOK);
            if !is_there || leaves {
                broken.push(format!(
                    "{name}: {link}{}",
                    if leaves { " (outside of the book)" } else { "" }
                ));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}
