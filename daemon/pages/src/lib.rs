//! Pages and pictures: a dataset, a run, contact sheets, plots.
//!
//! A page is one file that runs nothing and loads nothing from elsewhere.

mod chart;
pub mod dataset;
mod frame;
mod metrics;
mod numbers;
pub mod pairs;
pub mod pictures;
pub mod run;

pub use metrics::Metrics;
