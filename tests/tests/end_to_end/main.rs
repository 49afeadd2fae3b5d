//! Diptych from the outside: every test runs the binary on files.

#![expect(clippy::unwrap_used, reason = "tests")]

mod bad_input;
mod bench_train;
mod book;
mod command_line;
mod command_line_help;
mod confined;
mod crash;
mod curation;
mod dedup;
mod doctor;
mod download;
mod eval;
mod eval_suites;
mod evaluation;
mod field_cases;
mod field_folder;
mod formats;
mod guards;
mod honest_figures;
mod hostile_queries;
mod imports;
mod loader;
mod masked_lm;
mod messages;
mod mutated_files;
mod openapi;
mod owner;
mod profile;
mod prose;
mod quickstart;
mod reference;
mod remote;
mod report;
mod results;
mod search;
mod serve;
mod service_unit;
mod start;
mod systemd;
mod terminal;
mod tidy;
mod troubleshooting;
