//! Diptych's service side: what the command line and the daemon share.
//!
//! 1. `store` is the only module that names sled.

pub mod store;
