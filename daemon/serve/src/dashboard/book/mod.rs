//! The book at `/docs`: the Markdown files of `daemon/docs`, which are compiled into the binary, as
//! pages in the dashboard's frame.
//!
//! Pages need no script and nothing from elsewhere. HTML in a chapter is shown as text.

mod files;
mod page;
mod render;
mod summary;

#[cfg(test)]
mod links;

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;

use super::respond;
use files::{CHAPTERS, IMAGES, SUMMARY};
use render::{Rendered, address, render};
use summary::{Summary, summary};

/// The file of the first page.
const START: &str = "README.md";

static BOOK: LazyLock<Book> = LazyLock::new(|| Book::new(SUMMARY, CHAPTERS));

/// All chapters as HTML, and their order.
struct Book {
    summary: Summary,
    /// By file, as in `guides/sql.md`.
    chapters: HashMap<&'static str, Rendered>,
}

impl Book {
    fn new(summary_text: &str, files: &[(&'static str, &str)]) -> Self {
        let chapters = files.iter().map(|(file, text)| (*file, render(file, text))).collect();
        Self { summary: summary(summary_text), chapters }
    }
}

/// `/docs` and what lies below it.
pub(super) fn routes() -> Router {
    let start = || get(|headers: HeaderMap| async move { answer("", &headers) });
    Router::new().route("/docs", start()).route("/docs/", start()).route(
        "/docs/{*page}",
        get(|Path(page): Path<String>, headers: HeaderMap| async move { answer(&page, &headers) }),
    )
}

/// Answers with a chapter, a picture, or a page that says that there is none.
fn answer(name: &str, asked: &HeaderMap) -> Response {
    if let Some((_, bytes)) = IMAGES.iter().find(|(known, _)| *known == name) {
        return respond(StatusCode::OK, name, bytes, asked);
    }
    if let Some(file) = name.strip_suffix(".md").filter(|_| BOOK.chapters.contains_key(name)) {
        // Links on a forge have the ending.
        return Redirect::permanent(&address(&format!("{file}.md"))).into_response();
    }
    let file = if name.is_empty() { START.to_owned() } else { format!("{name}.md") };
    let (status, html) = match BOOK.chapters.get(file.as_str()) {
        Some(chapter) => (StatusCode::OK, page::whole(&BOOK.summary, &file, chapter)),
        None => (StatusCode::NOT_FOUND, page::whole(&BOOK.summary, "", &missing())),
    };
    respond(status, "page.html", html.as_bytes(), asked)
}

fn missing() -> Rendered {
    render(
        "",
        "# There is no such page\n\nIt may have moved: look for it in the list of chapters.\n",
    )
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::{Request, header};
    use tonic::codegen::Service;

    use super::*;

    async fn ask(address: &str) -> (StatusCode, HeaderMap, String) {
        let request = Request::get(address).body(Body::empty()).unwrap();
        let response = routes().call(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (head.status, head.headers, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn every_chapter_is_a_page_that_links_to_its_neighbours() {
        let chapters: Vec<_> = BOOK.summary.chapters().collect();
        for (place, chapter) in chapters.iter().enumerate() {
            let (status, headers, html) = ask(&address(&chapter.file)).await;
            assert_eq!(status, StatusCode::OK, "{}", chapter.file);
            assert_eq!(headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
            assert!(headers.contains_key(header::CONTENT_SECURITY_POLICY));
            assert_eq!(html.matches("aria-current=\"page\"").count(), 2, "{}", chapter.file);
            assert_eq!(html.matches("<h1").count(), 1, "{} wants one title", chapter.file);
            assert!(!html.contains("style="), "{}", chapter.file);
            let next = chapters.get(place + 1).map(|next| address(&next.file));
            let is_linked =
                |address: String| html.contains(&format!("rel=\"next\" href=\"{address}\""));
            assert!(next.is_none_or(is_linked), "{}", chapter.file);
        }
    }

    #[tokio::test]
    async fn other_addresses_are_answered_in_the_same_frame() {
        for address in ["/docs/none", "/docs/..%2Fmod.rs", "/docs/guides", "/docs/SUMMARY"] {
            let (status, headers, html) = ask(address).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{address}");
            assert!(headers.contains_key(header::CONTENT_SECURITY_POLICY));
            assert!(html.contains("There is no such page") && html.contains("id=\"contents\""));
        }
        let (status, headers, _) = ask("/docs/README.md").await;
        assert_eq!(status, StatusCode::PERMANENT_REDIRECT);
        assert_eq!(headers[header::LOCATION], "/docs");
        assert_eq!(ask("/docs/").await.2, ask("/docs").await.2);
    }

    /// Chapters that a page of the dashboard links to.
    #[test]
    fn pages_of_the_dashboard_link_to_chapters() {
        let app = include_str!("../assets/app.js");
        let named: Vec<&str> =
            app.split("docs: \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(named.len(), app.matches("title: \"").count(), "each page has a chapter");
        for name in named {
            let (page, anchor) = name.split_once('#').unwrap_or((name, ""));
            let chapter = BOOK.chapters.get(format!("{page}.md").as_str());
            let chapter = chapter.unwrap_or_else(|| panic!("app.js links to docs/{name}"));
            let is_there = chapter.headings.iter().any(|heading| heading.id == anchor);
            assert!(anchor.is_empty() || is_there, "app.js links to docs/{name}");
        }
    }
}
