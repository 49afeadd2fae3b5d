//! `diptych profile`: the page describes the dataset, shows pairs on both sides of each threshold,
//! and runs no script.

use diptych_tests::pairs::{jpeg, tar};
use diptych_tests::{Work, messages};

/// Makes sixteen pairs with widths from 100 to 250: one caption occurs twice, one image is
/// truncated, one caption is HTML.
fn dataset() -> Work {
    let work = Work::new();
    let mut members = Vec::new();
    for n in 0..16_u32 {
        let mut image = jpeg(100 + 10 * n, 200, [n as u8 * 10, 40, 90]);
        if n == 5 {
            // The header is whole: ingest takes it.
            image.truncate(image.len() * 2 / 3);
        }
        let caption = match n {
            3 => "<script>alert(1)</script> & more".to_owned(),
            7 | 8 => "the same words".to_owned(),
            n => format!("picture number {n}"),
        };
        members.push((format!("{n:02}.jpg"), image));
        members.push((format!("{n:02}.txt"), caption.into_bytes()));
    }
    members.push(("lone.txt".to_owned(), b"without an image".to_vec()));
    let members: Vec<(&str, Vec<u8>)> =
        members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    work.write("pairs.tar", tar(&members));
    work.diptych(&["ingest", "pairs.tar", "--dataset", "data"]).ok();
    work
}

#[test]
fn page_shows_the_funnel_of_a_selection_and_pairs_on_both_sides_of_its_thresholds() {
    let work = dataset();
    let sql = "SELECT uid FROM meta WHERE width BETWEEN 120 AND 220 AND length(caption) > 14";
    work.diptych(&["select", sql, "--dataset", "data", "--output", "train.parquet"]).ok();
    let call = ["profile", "data", "--selection", "train.parquet", "--pairs", "5"];
    work.diptych(&call).ok();
    let page = work.read("profile.html");

    // The funnel: 16 pairs, 11 with a width from 120 to 220, two of those with a caption of 14
    // characters.
    let funnel = &page[page.find("<table class=\"funnel\">").unwrap()..];
    let funnel = &funnel[..funnel.find("</table>").unwrap()];
    let numbers: Vec<&str> = funnel
        .split("<td class=\"number\">")
        .skip(1)
        .map(|cell| cell.split('<').next().unwrap())
        .collect();
    let left = work
        .sql(&["--dataset", "data"], "SELECT count(*) FROM meta WHERE width BETWEEN 120 AND 220");
    assert_eq!(numbers[..2], ["16", left.as_str()]);
    assert_eq!(
        numbers[2],
        work.sql(&["--dataset", "data"], &sql.replace("uid FROM", "count(*) FROM"))
    );

    // Each threshold: the nearest first, and of a range only what is beyond that end.
    let values = |section: &str| -> Vec<String> {
        section
            .split("<b title=\"width\">")
            .skip(1)
            .map(|card| card.split('<').next().unwrap().to_owned())
            .collect()
    };
    let sections: Vec<&str> = page.split("<h3>").skip(1).collect();
    assert_eq!(sections.len(), 3);
    let sides: Vec<Vec<String>> = sections[..2]
        .iter()
        .flat_map(|section| section.split("just dropped").map(values).collect::<Vec<_>>())
        .collect();
    assert_eq!(sides[0][..2], ["120", "130"]);
    assert_eq!(sides[1], ["110", "100"]);
    assert_eq!(sides[2][..2], ["220", "210"]);
    assert_eq!(sides[3], ["230", "240", "250"]);

    // Pictures, and the one that cannot be shown.
    assert!(page.matches("src=\"data:image/jpeg;base64,").count() >= 16, "pictures are missing");
    assert!(page.contains("class=\"broken\""));
    // The lone caption and the words that two pairs have.
    assert!(page.contains("no_image") || page.contains("missing_image"), "the ledger is missing");
    assert!(page.contains("the same words"));
    messages::check("profile", "headings", &messages::headings(&page));
    assert_eq!(work.diptych(&[&call[..], &["--output", "again.html"]].concat()).ok().code, Some(0));
    assert!(work.read("again.html") == page, "the same dataset gives another page");

    // Languages are a score. A selection that is not named is not shown.
    work.diptych(&["score", "language", "--dataset", "data"]).ok();
    work.diptych(&["dedup", "--by", "sha256", "--dataset", "data", "--output", "single.parquet"])
        .ok();
    work.diptych(&["profile", "data", "--pairs", "5"]).ok();
    let page = work.read("profile.html");
    assert!(!page.contains("single.parquet") && page.contains("--selection FILE"));
    messages::check("profile", "headings_with_languages", &messages::headings(&page));
}

#[test]
fn captions_are_text_on_the_page_and_never_code() {
    let work = dataset();
    work.diptych(&["profile", "data", "--pairs", "16"]).ok();
    let page = work.read("profile.html");
    assert!(!page.contains("<script"), "a caption became code");
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; more"));
    assert!(
        page.contains("default-src 'none'")
            && !page.contains("http://")
            && !page.contains("https://")
    );
    assert!(page.contains("--selection FILE"), "there is no selection yet");
}

#[test]
fn what_cannot_be_profiled_is_refused_in_words() {
    let work = dataset();
    work.diptych(&["profile", "elsewhere"]).fails(1, "no_such_dataset").names(&["elsewhere"]);
    work.diptych(&["profile", "data", "--selection", "pairs.tar"])
        .fails(1, "not_a_selection")
        .names(&["pairs.tar"]);
    work.diptych(&["profile", "data", "--output", "nowhere/page.html"])
        .fails(1, "output_in_no_folder")
        .names(&["nowhere/page.html"]);
    assert!(!work.path("profile.html").exists());
}
