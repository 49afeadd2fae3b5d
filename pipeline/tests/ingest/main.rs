//! Ingest as its users see it: sources go in, and other readers check the files on disk afterwards.
#![expect(clippy::unwrap_used, reason = "clippy does not know the helpers of tests for tests")]

mod again;
mod build;
mod disk;
mod download;
mod flaws;
mod layouts;
mod lists;
mod real;
mod refused;
mod retry;
mod server;
mod typed;
