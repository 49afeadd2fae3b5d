//! JSON records as programs write them. Common deviations from JSON are accepted: NaN and
//! infinities (Python, JavaScript) become null, halves of surrogate pairs become U+FFFD, and a byte
//! order mark is ignored.

use serde_json::{Map, Value};

/// Words that Python's `json` writes for numbers that JSON does not have.
const NOT_NUMBERS: [&[u8]; 5] = [b"NaN", b"-NaN", b"Infinity", b"-Infinity", b"+Infinity"];

/// Parses a record, which is one object. The error says what it is instead.
pub(super) fn object(text: &[u8]) -> Result<Map<String, Value>, String> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let value = match serde_json::from_slice(text) {
        Ok(value) => value,
        // Only a record that fails is checked byte by byte.
        Err(error) => serde_json::from_slice(&mended(text)).map_err(|_| error.to_string())?,
    };
    match value {
        Value::Object(fields) => Ok(fields),
        Value::Array(_) => Err("it is a list".into()),
        other => Err(format!("it is {other}")),
    }
}

/// Returns the text with deviations from JSON replaced.
fn mended(text: &[u8]) -> Vec<u8> {
    let mut mended = Vec::with_capacity(text.len());
    let mut rest = text;
    let mut in_string = false;
    while let Some(&byte) = rest.first() {
        let (length, instead): (usize, &[u8]) = match byte {
            b'"' => {
                in_string = !in_string;
                (1, b"\"")
            }
            b'\\' if in_string => escape(rest),
            // Half of a surrogate pair, encoded like UTF-8.
            0xed if in_string && matches!(rest, [_, 0xa0..=0xbf, 0x80..=0xbf, ..]) => {
                (3, "\u{fffd}".as_bytes())
            }
            _ => match NOT_NUMBERS.iter().find(|word| !in_string && rest.starts_with(word)) {
                Some(word) => (word.len(), b"null"),
                None => (1, &rest[..1]),
            },
        };
        mended.extend_from_slice(instead);
        rest = &rest[length..];
    }
    mended
}

/// Returns the length of the escape at the start of `text`, and its replacement.
fn escape(text: &[u8]) -> (usize, &[u8]) {
    match (escaped_unit(text), text.get(6..).and_then(escaped_unit)) {
        (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (12, &text[..12]),
        (Some(0xd800..=0xdfff), _) => (6, b"\\ufffd"),
        (Some(_), _) => (6, &text[..6]),
        (None, _) => (text.len().min(2), &text[..text.len().min(2)]),
    }
}

/// Returns the UTF-16 unit of an escape such as `\u00e9`.
fn escaped_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_python_writes_is_read() {
        let text = br#"{"a": NaN, "b": [-Infinity, 1], "c": "NaN \" NaN", "d": Infinity}"#;
        let expected = json!({"a": null, "b": [null, 1], "c": "NaN \" NaN", "d": null});
        assert_eq!(Value::Object(object(text).unwrap()), expected);
    }

    #[test]
    fn half_a_surrogate_pair_costs_one_character() {
        let text = br#"{"caption": "a \ud83d\ude00 b \ud83d c \\ud83d \udc00"}"#;
        assert_eq!(object(text).unwrap()["caption"], "a 😀 b \u{fffd} c \\ud83d \u{fffd}");
        let raw = b"{\"caption\": \"x\xed\xa0\xbdy\"}";
        assert_eq!(object(raw).unwrap()["caption"], "x\u{fffd}y");
    }

    #[test]
    fn what_is_no_object_is_told() {
        for (text, part) in
            [("[1]", "a list"), ("3", "it is 3"), ("nope", "line 1"), ("{\"a\": xNaN}", "line 1")]
        {
            let error = object(text.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
