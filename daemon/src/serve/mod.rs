//! `diptych serve`: its parts.

#[cfg_attr(not(test), expect(dead_code, reason = "the service, which mounts it, comes with the next commits"))]
mod flight;
