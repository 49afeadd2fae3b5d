//! `diptych serve`: its page, until the service that shows it is here.

#[allow(dead_code, reason = "the service mounts it")]
mod dashboard;
