//! Values of sources as text, the content of a source's own column in meta.

use diptych_schemas::Reason;
use encoding_rs::{Encoding, UTF_16BE, UTF_16LE};
use serde_json::Value;

use super::item::Flaw;
use crate::npy::marked_classes;

/// Converts a JSON value to text. Returns `None` for null. Lists and objects stay JSON.
pub(super) fn of_json(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// Converts bytes to text, without a byte order mark.
pub(super) fn of_bytes(bytes: Vec<u8>, place: &str) -> Result<String, Flaw> {
    let text = String::from_utf8(bytes).map_err(|e| {
        (
            Reason::BadRecord,
            format!("{place} is not UTF-8 text: byte {}", e.utf8_error().valid_up_to()),
        )
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Returns the text of a text file: UTF-8, or UTF-16 with its mark.
pub(super) fn of_text_file(bytes: Vec<u8>, place: &str) -> Result<String, Flaw> {
    let wide =
        Encoding::for_bom(&bytes).filter(|(encoding, _)| [UTF_16LE, UTF_16BE].contains(encoding));
    let Some((encoding, _)) = wide else { return of_bytes(bytes, place) };
    let (text, had_errors) = encoding.decode_with_bom_removal(&bytes);
    if had_errors {
        return Err((Reason::BadRecord, format!("{place} starts like UTF-16, but is not valid")));
    }
    Ok(text.into_owned())
}

/// Returns a member's caption. The caption of an array is the list of its marked classes, as JSON.
pub(super) fn of_caption(extension: &str, bytes: Vec<u8>, place: &str) -> Result<String, Flaw> {
    if !extension.eq_ignore_ascii_case("npy") {
        return of_text_file(bytes, place);
    }
    let classes = marked_classes(&bytes)
        .map_err(|message| (Reason::BadRecord, format!("{place}: {message}")))?;
    Ok(Value::from(classes).to_string())
}
