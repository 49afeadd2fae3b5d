//! Tests of the store's promises. Records come back, and one process owns a folder. A kill loses
//! nothing acknowledged, a damaged sled is set aside, and SQL sees all records. The processes that
//! are killed run this test binary.

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
