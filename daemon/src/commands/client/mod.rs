//! Commands that ask a running service.

pub(super) mod control;
pub(super) mod logs;
mod service;
pub(super) mod sql;
pub(super) mod status;
pub(super) mod submit;
pub(super) mod watch;

pub(super) use service::{Service, wait_for};
