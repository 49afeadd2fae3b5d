//! The dashboard: files that are compiled into the binary, so that it needs neither a build step
//! nor the internet.
//!
//! The page holds no data. It requests everything from `/v1` with the reader's token, as any other
//! client would. Its files are ECMAScript modules, plus uPlot (MIT, `assets/uPlot.LICENSE`). The
//! policy sent with each file lets nothing else run or load, and keeps text from becoming markup.

mod book;
mod respond;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use respond::respond;

macro_rules! assets {
    ($($name:literal)*) => { &[$(($name, include_bytes!(concat!("assets/", $name)))),*] };
}

/// All files below `/assets`, and `index.html`, which is `/`.
const ASSETS: &[(&str, &[u8])] = assets![
    "api.js" "app.js" "board.js" "book.css" "chart.js" "compare.js" "datasets.js" "dom.js"
    "embed.js" "first.js" "format.js" "icon.svg" "index.html" "jobs.js" "learning.js" "live.js"
    "memory.js" "overview.js" "pictures.js" "results.js" "run.js" "runs.js" "search.js" "sql.js"
    "style.css" "theme.js" "uPlot.LICENSE" "uPlot.iife.min.js" "uPlot.min.css"
];
const PAGE: &str = "index.html";

/// Returns the routes `/`, `/assets/{file}` and those of the book below `/docs`.
pub(crate) fn routes() -> Router {
    let page = get(|headers: HeaderMap| async move { answer(PAGE, &headers) });
    let asset =
        get(|Path(file): Path<String>, headers: HeaderMap| async move { answer(&file, &headers) });
    Router::new().route("/", page).route("/assets/{file}", asset).merge(book::routes())
}

/// Answers with an asset, with 304 if the browser has it already, or with 404.
fn answer(name: &str, asked: &HeaderMap) -> Response {
    match ASSETS.iter().find(|(known, _)| *known == name) {
        Some((_, bytes)) => respond(StatusCode::OK, name, bytes, asked),
        None => (StatusCode::NOT_FOUND, "the page has no such file\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::body::{Body, to_bytes};
    use axum::http::{Request, header};
    // From tower, which axum and tonic share.
    use tonic::codegen::Service;

    use super::*;

    async fn ask(address: &str, tag: Option<&str>) -> (StatusCode, HeaderMap, Vec<u8>) {
        let mut request = Request::get(address);
        if let Some(tag) = tag {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let response = routes().call(request.body(Body::empty()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        (head.status, head.headers, to_bytes(body, usize::MAX).await.unwrap().to_vec())
    }

    /// Returns the quoted texts that follow one of `before`.
    fn quoted_after<'a>(text: &'a str, before: &[&str]) -> Vec<&'a str> {
        let found = before.iter().flat_map(|before| {
            text.match_indices(before).map(|(at, _)| &text[at + before.len()..])
        });
        found.filter_map(|rest| rest.split('"').next()).collect()
    }

    #[tokio::test]
    async fn all_that_the_page_names_is_served_and_nothing_that_it_does_not() {
        let mut reached = BTreeSet::new();
        let mut left = vec!["/".to_owned(), "/docs".to_owned()];
        while let Some(address) = left.pop() {
            if !reached.insert(address.clone()) {
                continue;
            }
            let (status, headers, body) = ask(&address, None).await;
            assert_eq!(status, StatusCode::OK, "{address}");
            let ours = !address.contains("uPlot");
            if ours && headers[header::CONTENT_TYPE] != "image/svg+xml" {
                let text = String::from_utf8(body).unwrap();
                let named = quoted_after(&text, &["src=\"", "href=\"", " from \"", "import \""])
                    .into_iter();
                left.extend(named.filter_map(|name| match name.strip_prefix("./") {
                    Some(beside) => Some(format!("/assets/{beside}")),
                    None => name.starts_with("/assets/").then(|| name.to_owned()),
                }));
            }
        }
        let served: BTreeSet<String> = ASSETS
            .iter()
            .map(|(name, _)| format!("/assets/{name}").replace("/assets/index.html", "/"))
            .chain(["/docs".to_owned()])
            .collect();
        let unreached: Vec<_> = served.difference(&reached).collect();
        assert_eq!(unreached, ["/assets/uPlot.LICENSE"], "it is there for people");
    }

    #[tokio::test]
    async fn files_have_their_types_and_a_policy_that_lets_nothing_else_run() {
        for (file, kind) in [
            ("/", "text/html; charset=utf-8"),
            ("/assets/app.js", "text/javascript; charset=utf-8"),
            ("/assets/style.css", "text/css; charset=utf-8"),
            ("/assets/icon.svg", "image/svg+xml"),
        ] {
            let (_, headers, _) = ask(file, None).await;
            assert_eq!(headers[header::CONTENT_TYPE], kind);
            assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
            let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(
                policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
                "{policy}"
            );
            assert!(
                !policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"),
                "{policy}"
            );
        }
    }

    #[tokio::test]
    async fn what_a_browser_has_is_not_sent_again() {
        let (_, headers, body) = ask("/assets/app.js", None).await;
        let tag = headers[header::ETAG].to_str().unwrap();
        let (status, _, nothing) = ask("/assets/app.js", Some(&format!("\"old\", W/{tag}"))).await;
        assert_eq!((status, nothing.len()), (StatusCode::NOT_MODIFIED, 0));
        let (status, _, again) = ask("/assets/app.js", Some("\"old\"")).await;
        assert_eq!((status, again), (StatusCode::OK, body));
    }

    #[tokio::test]
    async fn other_names_are_not_found() {
        for address in [
            "/assets/",
            "/assets/none.js",
            "/assets/..%2Fmod.rs",
            "/assets/%2Fetc%2Fpasswd",
            "/assets/a/b",
        ] {
            assert_eq!(ask(address, None).await.0, StatusCode::NOT_FOUND, "{address}");
        }
    }

    /// The policy would stop these. This checks that the scripts don't try.
    #[test]
    fn no_script_makes_markup_or_runs_text_and_the_page_has_no_inline_script_or_style() {
        for (name, bytes) in ASSETS.iter().filter(|(name, _)| !name.contains("uPlot")) {
            let text = std::str::from_utf8(bytes).unwrap();
            for word in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "style=",
                "onclick=\"",
                "http://",
                "https://",
            ] {
                let namespace = *name == "icon.svg" && word == "http://";
                assert!(namespace || !text.contains(word), "{name} has {word}");
            }
        }
    }
}
