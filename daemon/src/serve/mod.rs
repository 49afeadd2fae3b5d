//! `diptych serve`: its parts.

#[allow(dead_code, reason = "the service, which mounts it, comes with the next commits")]
mod flight;
