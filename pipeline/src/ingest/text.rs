//! Values of sources as text: what a source's own column holds in meta.

use diptych_schemas::Reason;
use serde_json::Value;

use super::item::Flaw;

/// A JSON value as text, or nothing for null. Lists and objects stay JSON.
pub(super) fn of_json(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Bytes as text.
pub(super) fn of_bytes(bytes: Vec<u8>, place: &str) -> Result<String, Flaw> {
    String::from_utf8(bytes)
        .map_err(|e| (Reason::BadRecord, format!("{place} is not UTF-8 text: byte {}", e.utf8_error().valid_up_to())))
}
