//! Compiles the C functions through which `tch` calls libtorch, and tells the trainer's build
//! script where they are.
//!
//! All of it happens in `build.rs`; there is no Rust code to call. The crate is separate so that
//! the two minutes of C++ are compiled once, and not again whenever the trainer's own C++ changes.
