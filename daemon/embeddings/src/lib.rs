//! Embeddings: from a model's name to vectors, to files of vectors, and to nearest neighbours.
//!
//! 1. `models` finds and loads encoders. `encode` runs one over a selection. `embed` stores the
//!    result.
//! 2. `files` exchanges embeddings with other tools. `nearest` searches them.
//! 3. `session` runs SQL over a dataset and a state folder. `pairs` chooses pairs and `values`
//!    reads single columns through it.

pub mod embed;
pub mod encode;
pub mod files;
pub mod models;
pub mod nearest;
pub mod pairs;
pub mod session;
pub mod values;
