//! The evaluation engine: the data of an evaluation, a model's answers for each image, and figures.
//!
//! It returns figures and text. It prints nothing, handles no signals and shows no progress: the
//! caller does, through [`request::Control`].

mod benchmark;
pub mod classification;
pub mod clip_benchmark;
pub mod compositional;
pub mod data;
pub mod figures;
pub mod groups;
pub mod held_out;
pub mod measure;
pub mod report;
pub mod request;
pub mod retrieval;
pub mod source;
pub mod suite;
pub mod text;
pub mod trend;
pub mod verdict;
