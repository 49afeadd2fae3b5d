//! What the `diptych` binary is made of, as a library so that its parts can be tested.

pub mod demo;
pub mod pictures;
