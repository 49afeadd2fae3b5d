//! The reference pages of the book as Markdown, made from what the code itself uses. It prints
//! nothing and writes no file.

#![allow(clippy::format_push_string, reason = "a page is written once, line by line")]

mod cli;
mod configuration;
mod http;
mod lists;
mod markdown;
mod sql;

/// A page of the book.
pub(crate) struct Page {
    /// Its file name in the folder of the reference.
    pub(crate) file: &'static str,
    pub(crate) text: String,
}

/// Makes all pages.
pub(crate) fn pages() -> anyhow::Result<Vec<Page>> {
    let page = |file, text| Page { file, text };
    Ok(vec![
        page("cli.md", cli::page()),
        page("configuration.md", configuration::train_page()?),
        page("service-configuration.md", configuration::serve_page()),
        page("sql.md", sql::page()?),
        page("metrics.md", lists::metrics()?),
        page("events.md", lists::events()),
        page("ledger.md", lists::ledger()),
        page("exit-codes.md", lists::exit_codes()),
        page("http.md", http::page()?),
    ])
}
