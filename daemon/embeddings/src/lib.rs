//! Embeddings: from a model's name to vectors, to files of them, and to what is nearest.
//!
//! 1. `models` finds and loads what encodes; `encode` runs it over a selection; `embed` keeps the result in the store.
//! 2. `files` writes and reads embeddings as other tools have them; `nearest` searches among them.
//! 3. `session` is SQL over a dataset and a state folder; `pairs` chooses pairs and `values` reads single columns through it.

pub mod embed;
pub mod encode;
pub mod files;
pub mod models;
pub mod nearest;
pub mod pairs;
pub mod session;
pub mod values;
