//! `SUMMARY.md`, as mdBook has it: parts as headings, chapters as links.

use pulldown_cmark::{Event, Parser, Tag, TagEnd};

/// The order of the chapters.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Summary {
    pub(super) parts: Vec<Part>,
}

/// Chapters under a heading. The first part has none.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Part {
    pub(super) title: String,
    pub(super) chapters: Vec<Chapter>,
}

/// A chapter with its file, as in `guides/sql.md`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Chapter {
    pub(super) title: String,
    pub(super) file: String,
}

impl Summary {
    pub(super) fn chapters(&self) -> impl Iterator<Item = &Chapter> {
        self.parts.iter().flat_map(|part| &part.chapters)
    }
}

/// Reads the text of a `SUMMARY.md`. Its first heading is its title, and starts no part.
pub(super) fn summary(text: &str) -> Summary {
    let mut parts = vec![Part::default()];
    let (mut headings, mut in_heading, mut in_link) = (0, false, false);
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::Heading { .. }) => {
                headings += 1;
                in_heading = headings > 1;
                if in_heading {
                    parts.push(Part::default());
                }
            }
            Event::End(TagEnd::Heading(_)) => in_heading = false,
            Event::Start(Tag::Link { dest_url, .. }) => {
                in_link = true;
                let chapter = Chapter { title: String::new(), file: dest_url.into_string() };
                if let Some(part) = parts.last_mut() {
                    part.chapters.push(chapter);
                }
            }
            Event::End(TagEnd::Link) => in_link = false,
            Event::Text(text) | Event::Code(text) => {
                let Some(part) = parts.last_mut() else { continue };
                if in_link && let Some(chapter) = part.chapters.last_mut() {
                    chapter.title += &text;
                } else if in_heading {
                    part.title += &text;
                }
            }
            _ => {}
        }
    }
    Summary { parts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_chapters_come_in_their_order() {
        let text = "# Summary\n\n[Start](README.md)\n\n# Guides\n\n- [The `sql`, or \
             so](guides/sql.md)\n- [B](b.md)\n";
        let chapter = |title: &str, file: &str| Chapter { title: title.into(), file: file.into() };
        let parts = vec![
            Part { title: String::new(), chapters: vec![chapter("Start", "README.md")] },
            Part {
                title: "Guides".into(),
                chapters: vec![chapter("The sql, or so", "guides/sql.md"), chapter("B", "b.md")],
            },
        ];
        assert_eq!(summary(text), Summary { parts });
    }
}
