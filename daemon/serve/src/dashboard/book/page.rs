//! The page around a chapter: the dashboard's header, the list of chapters, the neighbours.

use std::fmt::Write;

use super::render::{Rendered, address, escaped};
use super::summary::{Chapter, Summary};

const HEAD: &str = r#"<meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <link rel="icon" href="/assets/icon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="/assets/style.css">
  <link rel="stylesheet" href="/assets/book.css">
  <script src="/assets/theme.js"></script>"#;

const TOP: &str = r##"<a class="skip" href="#chapter">Skip to the content</a>
  <header class="top">
    <a class="brand" href="/" aria-label="Diptych, overview">
      <span class="leaf"></span><span class="leaf"></span><b>Diptych</b>
    </a>
    <nav aria-label="Pages">
      <a href="/#/">Now</a>
      <a href="/#/runs">Runs</a>
      <a href="/#/jobs">Jobs</a>
      <a href="/#/datasets">Datasets</a>
      <a href="/#/search">Search</a>
      <a href="/#/sql">SQL</a>
      <a href="/docs" aria-current="page">Docs</a>
    </nav>
    <div class="tools"><a class="to-contents" href="#contents">Chapters</a></div>
  </header>"##;

/// Renders the page of a chapter. Without a file it is a page that is no chapter.
pub(super) fn whole(summary: &Summary, file: &str, chapter: &Rendered) -> String {
    let title = chapter.headings.first().map_or("Docs", |heading| heading.text.as_str());
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n  <title>{} · Diptych</title>\n  \
             {HEAD}\n</head>\n<body>\n  {TOP}\n  <div class=\"book\">\n<main id=\"chapter\" \
             tabindex=\"-1\"><article>\n{}</article>\n{}</main>\n{}  </div>\n</body>\n</html>\n",
        escaped(title),
        chapter.html,
        neighbours(summary, file),
        contents(summary, file, chapter),
    )
}

/// Renders the links to the chapters before and after.
fn neighbours(summary: &Summary, file: &str) -> String {
    let chapters: Vec<&Chapter> = summary.chapters().collect();
    let Some(place) = chapters.iter().position(|chapter| chapter.file == file) else {
        return String::new();
    };
    let link = |rel: &str, words: &str, chapter: Option<&&Chapter>| {
        chapter.map_or_else(String::new, |chapter| {
            format!(
                "<a rel=\"{rel}\" href=\"{}\"><small>{words}</small>{}</a>",
                address(&chapter.file),
                escaped(&chapter.title)
            )
        })
    };
    let before = place.checked_sub(1).and_then(|before| chapters.get(before));
    format!(
        "<nav class=\"turn\" aria-label=\"Neighbouring chapters\">{}{}</nav>\n",
        link("prev", "Previous", before),
        link("next", "Next", chapters.get(place + 1))
    )
}

/// Renders the list of chapters, with the sections of the one that is open.
fn contents(summary: &Summary, file: &str, chapter: &Rendered) -> String {
    let mut html = String::from("<nav id=\"contents\" aria-label=\"Chapters\">\n");
    for part in &summary.parts {
        if !part.title.is_empty() {
            // Writing to a text cannot fail.
            let _ = writeln!(html, "<h2>{}</h2>", escaped(&part.title));
        }
        html += "<ul>\n";
        for Chapter { title, file: of } in &part.chapters {
            let (address, title) = (address(of), escaped(title));
            if of != file {
                let _ = writeln!(html, "<li><a href=\"{address}\">{title}</a></li>");
                continue;
            }
            let _ = write!(html, "<li><a href=\"{address}\" aria-current=\"page\">{title}</a>");
            html += &sections(chapter);
            html += "</li>\n";
        }
        html += "</ul>\n";
    }
    html + "</nav>\n"
}

fn sections(chapter: &Rendered) -> String {
    let sections = chapter.headings.iter().filter(|heading| heading.level == 2).map(|heading| {
        format!("<li><a href=\"#{}\">{}</a></li>", heading.id, escaped(&heading.text))
    });
    let all: String = sections.collect();
    if all.is_empty() { all } else { format!("<ul>{all}</ul>") }
}
