//! A chapter's Markdown as HTML: anchors on headings, links between files as links between pages,
//! file names above code.
//!
//! The result holds no inline style and no HTML of the chapter, which the policy of the pages would
//! refuse.

use std::collections::HashMap;
use std::fmt::Write;

use pulldown_cmark::{Alignment, CodeBlockKind, Event, Options, Parser, Tag, TagEnd, html};

/// A chapter as HTML, and what is in it.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    pub(super) html: String,
    pub(super) headings: Vec<Heading>,
    /// Targets of links and pictures as they stand in the chapter.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test follows them"))]
    pub(super) links: Vec<String>,
}

/// A heading and its anchor.
#[derive(Debug, PartialEq)]
pub(super) struct Heading {
    /// 1 for the title of the page.
    pub(super) level: u8,
    pub(super) id: String,
    pub(super) text: String,
}

/// Renders a chapter. Its file is what its links are relative to.
pub(super) fn render(file: &str, text: &str) -> Rendered {
    let options =
        Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut writer = Writer { file, ..Writer::default() };
    for event in Parser::new_ext(text, options) {
        writer.take(event);
    }
    let mut html = String::new();
    html::push_html(&mut html, writer.events.into_iter());
    Rendered { html, headings: writer.headings, links: writer.links }
}

#[derive(Default)]
struct Writer<'a> {
    file: &'a str,
    events: Vec<Event<'a>>,
    headings: Vec<Heading>,
    /// How often each anchor is taken.
    anchors: HashMap<String, usize>,
    links: Vec<String>,
    /// Where the events of the open heading begin, and its level.
    heading: Option<(usize, u8)>,
    /// Language of the open code block.
    code: Option<String>,
    alignments: Vec<Alignment>,
    in_table_head: bool,
    column: usize,
}

impl<'a> Writer<'a> {
    fn take(&mut self, event: Event<'a>) {
        match event {
            // Only Markdown has a form here.
            Event::Html(text) | Event::InlineHtml(text) => self.events.push(Event::Text(text)),
            Event::Start(Tag::Heading { level, .. }) => {
                self.heading = Some((self.events.len(), level as u8));
            }
            Event::End(TagEnd::Heading(_)) => self.end_heading(),
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                let dest_url = self.link(&dest_url).into();
                self.events.push(Event::Start(Tag::Link { link_type, dest_url, title, id }));
            }
            Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
                let dest_url = self.link(&dest_url).into();
                self.events.push(Event::Start(Tag::Image { link_type, dest_url, title, id }));
            }
            Event::Start(Tag::CodeBlock(kind)) => self.start_code(&kind),
            Event::End(TagEnd::CodeBlock) => {
                self.code = None;
                self.raw("</code></pre></figure>\n");
            }
            Event::Text(text) if self.code.as_deref() == Some("console") => self.console(&text),
            Event::Start(Tag::Table(alignments)) => {
                self.raw("<div class=\"scroll\">");
                self.events.push(Event::Start(Tag::Table(Vec::new())));
                self.alignments = alignments;
            }
            Event::End(TagEnd::Table) => {
                self.events.push(event);
                self.raw("</div>\n");
            }
            Event::Start(Tag::TableHead) => {
                (self.in_table_head, self.column) = (true, 0);
                self.events.push(event);
            }
            Event::End(TagEnd::TableHead) => {
                self.in_table_head = false;
                self.events.push(event);
            }
            Event::Start(Tag::TableRow) => {
                self.column = 0;
                self.events.push(event);
            }
            Event::Start(Tag::TableCell) => {
                let class = match self.alignments.get(self.column) {
                    Some(Alignment::Right) => " class=\"number\"",
                    _ => "",
                };
                self.column += 1;
                let name = self.cell();
                self.raw(format!("<{name}{class}>"));
            }
            Event::End(TagEnd::TableCell) => {
                let name = self.cell();
                self.raw(format!("</{name}>"));
            }
            other => self.events.push(other),
        }
    }

    fn raw(&mut self, html: impl Into<String>) {
        self.events.push(Event::Html(html.into().into()));
    }

    fn cell(&self) -> &'static str {
        if self.in_table_head { "th" } else { "td" }
    }

    /// Puts a heading's tags around its events, once its text is known.
    fn end_heading(&mut self) {
        let Some((start, level)) = self.heading.take() else { return };
        let text: String = self.events[start..]
            .iter()
            .filter_map(|event| match event {
                Event::Text(text) | Event::Code(text) => Some(text.as_ref()),
                _ => None,
            })
            .collect();
        let id = self.anchor(&text);
        self.events.insert(start, Event::Html(format!("<h{level} id=\"{id}\">").into()));
        let link = if level == 1 {
            String::new()
        } else {
            format!(
                " <a class=\"anchor\" href=\"#{id}\" aria-label=\"Link to this \
                 section\">#</a>"
            )
        };
        self.raw(format!("{link}</h{level}>\n"));
        self.headings.push(Heading { level, id, text });
    }

    /// Returns the anchor of a heading as GitHub makes it: the same text again gets a number.
    fn anchor(&mut self, text: &str) -> String {
        let slug = slug(text);
        let count = self.anchors.entry(slug.clone()).or_default();
        *count += 1;
        if *count == 1 { slug } else { format!("{slug}-{}", *count - 1) }
    }

    fn link(&mut self, target: &str) -> String {
        self.links.push(target.to_owned());
        if is_elsewhere(target) || target.starts_with('#') {
            return target.to_owned();
        }
        let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
        let anchor = if anchor.is_empty() { String::new() } else { format!("#{anchor}") };
        address(&beside(self.file, path)) + &anchor
    }

    fn start_code(&mut self, kind: &CodeBlockKind) {
        let info = match kind {
            CodeBlockKind::Fenced(info) => info.as_ref(),
            CodeBlockKind::Indented => "",
        };
        let mut words = info.split([' ', ',']).filter(|word| !word.is_empty());
        let language = words.next().unwrap_or("text");
        let title = words.find_map(|word| word.strip_prefix("title="));
        let title = title.map_or_else(String::new, |title| {
            format!("<figcaption>{}</figcaption>", escaped(title))
        });
        self.raw(format!(
            "<figure class=\"listing\">{title}<pre tabindex=\"0\"><code class=\"language-{}\">",
            escaped(language)
        ));
        self.code = Some(language.to_owned());
    }

    /// Tells what is typed from what is printed.
    fn console(&mut self, text: &str) {
        let (mut html, mut goes_on) = (String::new(), false);
        for line in text.split_inclusive('\n') {
            let typed = goes_on || line.starts_with("$ ");
            goes_on = typed && line.trim_end().ends_with('\\');
            let (class, line) = (if typed { "typed" } else { "printed" }, escaped(line));
            // Writing to a text cannot fail.
            let _ = write!(html, "<span class=\"{class}\">{line}</span>");
        }
        self.raw(html);
    }
}

/// Returns whether a link leads out of the book by its scheme.
pub(super) fn is_elsewhere(target: &str) -> bool {
    target.contains("://") || target.starts_with("mailto:")
}

/// Returns the path of a link of a file, both from the book's folder.
pub(super) fn beside(file: &str, link: &str) -> String {
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Returns where a file of the book is served.
pub(super) fn address(file: &str) -> String {
    match file.strip_suffix(".md") {
        Some("README") => "/docs".to_owned(),
        Some(name) => format!("/docs/{name}"),
        None => format!("/docs/{file}"),
    }
}

/// Returns the anchor of a heading, as GitHub and mdBook make it.
fn slug(text: &str) -> String {
    let kept = text.trim().chars().filter_map(|char| match char {
        ' ' => Some('-'),
        '-' | '_' => Some(char),
        char => char.is_alphanumeric().then_some(char),
    });
    kept.flat_map(char::to_lowercase).collect()
}

/// Returns a text as HTML shows it.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_have_the_anchors_of_a_forge() {
        let rendered =
            render("a.md", "# A\n\n## The `sql` table, or so\n\n## Ünit–test: x_y\n\n## A\n");
        let ids: Vec<&str> = rendered.headings.iter().map(|heading| heading.id.as_str()).collect();
        assert_eq!(ids, ["a", "the-sql-table-or-so", "ünittest-x_y", "a-1"]);
        assert!(rendered.html.contains("<h2 id=\"a-1\">A <a class=\"anchor\" href=\"#a-1\""));
    }

    #[test]
    fn links_between_files_are_links_between_pages() {
        let html = render(
            "guides/sql.md",
            "[a](../README.md) [b](search.md#x) [c](#y) [d](https://e.org/f.md) \
             ![g](../images/g.png)",
        )
        .html;
        for address in [
            "\"/docs\"",
            "\"/docs/guides/search#x\"",
            "\"#y\"",
            "\"https://e.org/f.md\"",
            "\"/docs/images/g.png\"",
        ] {
            assert!(html.contains(address), "{address} in {html}");
        }
    }

    #[test]
    fn html_of_a_chapter_stays_text() {
        let html =
            render("a.md", "<script>alert(1)</script>\n\nA <b onclick=\"x\">word</b>.\n").html;
        assert!(!html.contains("<script") && !html.contains("<b"), "{html}");
        assert!(html.contains("&lt;script&gt;"), "{html}");
    }

    #[test]
    fn code_has_its_name_and_tables_have_no_style() {
        let html = render(
            "a.md",
            "```toml title=run.toml\na = \"<b>\"\n```\n\n```console\n$ a \\\n  b\nc\n```\n\n| n \
             |\n|--:|\n| 1 |\n",
        )
        .html;
        assert!(html.contains("<figcaption>run.toml</figcaption>"), "{html}");
        assert!(html.contains("a = &quot;&lt;b&gt;&quot;") || html.contains("a = \"&lt;b&gt;\""));
        assert!(
            html.contains("<span class=\"typed\">  b\n</span><span class=\"printed\">c"),
            "{html}"
        );
        assert!(html.contains("<th class=\"number\">n</th>"), "{html}");
        assert!(html.contains("<td class=\"number\">1</td>") && !html.contains("style="), "{html}");
    }
}
