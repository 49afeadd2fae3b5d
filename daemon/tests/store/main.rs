//! What the store promises: records come back, one process owns a folder, a kill loses nothing that was acknowledged, a
//! damaged sled is set aside, and SQL sees what was stored. The killed processes are this test binary itself.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "test code")]

mod backup;
mod crash;
mod damage;
mod doctor;
mod embeddings;
mod faults;
mod looking;
mod process;
mod records;
mod retention;
mod samples;
mod trained;
mod upgrade;
