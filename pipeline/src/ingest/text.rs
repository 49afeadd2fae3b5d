//! Values of sources as text: what a source's own column holds in meta.

use diptych_schemas::Reason;
use serde_json::Value;

use super::item::Flaw;
use crate::npy::marked_classes;

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
    String::from_utf8(bytes).map_err(|e| {
        (
            Reason::BadRecord,
            format!("{place} is not UTF-8 text: byte {}", e.utf8_error().valid_up_to()),
        )
    })
}

/// A member's caption. Of an array it is the list of the classes that it marks, as JSON.
pub(super) fn of_caption(extension: &str, bytes: Vec<u8>, place: &str) -> Result<String, Flaw> {
    if !extension.eq_ignore_ascii_case("npy") {
        return of_bytes(bytes, place);
    }
    let classes = marked_classes(&bytes)
        .map_err(|message| (Reason::BadRecord, format!("{place}: {message}")))?;
    Ok(Value::from(classes).to_string())
}
