//! Decoding of character references like Python's `html.unescape`: with and without a semicolon, by
//! name and by number. Numbers of Windows-1252 become the intended characters.

use htmlize::{ENTITIES, ENTITY_MAX_LENGTH};

use super::mojibake::windows_1252;

/// Longest name that ftfy recognises.
const MAX_NAME: usize = 24;

/// Decodes all references.
pub(super) fn unescape(text: &str) -> String {
    replaced(text, |reference| match number(reference) {
        Some(found) => Some(found),
        None => name(reference),
    })
}

/// Decodes references that end with a semicolon, like ftfy. An unknown name stays, and a name in
/// capitals gives the character in upper case (`&EACUTE;`).
pub(super) fn unescape_whole_references(text: &str) -> String {
    replaced(text, |reference| {
        let end = reference.find(';').filter(|end| (2..=MAX_NAME + 2).contains(end))?;
        let whole = &reference[..=end];
        let inner = &whole[1..end];
        let digits = inner.strip_prefix('#').unwrap_or(inner);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        if inner.starts_with('#') {
            return number(whole).filter(|(length, _)| *length == whole.len());
        }
        let known = |name: &str| entity(name).map(|text| (whole.len(), text.to_owned()));
        known(whole).or_else(|| {
            let is_upper = inner.bytes().all(|byte| byte.is_ascii_uppercase());
            let lower = known(&whole.to_lowercase()).filter(|_| is_upper)?;
            Some((lower.0, lower.1.to_uppercase()))
        })
    })
}

/// Replaces each `&…` that has a replacement. `find` returns the length of a reference at the start
/// of a text, and its replacement.
fn replaced(text: &str, find: impl Fn(&str) -> Option<(usize, String)>) -> String {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        done.push_str(&rest[..at]);
        rest = &rest[at..];
        let (length, instead) = find(rest).unwrap_or((1, "&".into()));
        done.push_str(&instead);
        rest = &rest[length..];
    }
    done + rest
}

fn entity(reference: &str) -> Option<&'static str> {
    ENTITIES.get(reference.as_bytes()).and_then(|text| str::from_utf8(text).ok())
}

/// Returns the longest known name, with or without its semicolon.
fn name(reference: &str) -> Option<(usize, String)> {
    let letters = reference[1..].bytes().take_while(u8::is_ascii_alphanumeric).count();
    let with_end = 1 + letters + usize::from(reference.as_bytes().get(1 + letters) == Some(&b';'));
    (2..=with_end.min(ENTITY_MAX_LENGTH))
        .rev()
        .find_map(|length| Some((length, entity(&reference[..length])?.to_owned())))
}

/// Decodes `&#233;` or `&#xe9`.
fn number(reference: &str) -> Option<(usize, String)> {
    let digits = reference.strip_prefix("&#")?;
    let (radix, digits) = match digits.strip_prefix(['x', 'X']) {
        Some(digits) => (16, digits),
        None => (10, digits),
    };
    let count = digits.bytes().take_while(|byte| char::from(*byte).is_digit(radix)).count();
    if count == 0 {
        return None;
    }
    let end = reference.len() - digits.len() + count;
    let length = end + usize::from(reference.as_bytes().get(end) == Some(&b';'));
    // A number of too many digits is beyond all characters.
    let number = u32::from_str_radix(&digits[..count], radix).unwrap_or(u32::MAX);
    Some((length, meant(number)))
}

/// Returns the meaning of a number: HTML's table for Windows-1252, nothing for a noncharacter,
/// U+FFFD for an invalid one.
fn meant(number: u32) -> String {
    match (number, char::from_u32(number)) {
        (0, _) | (_, None) => "\u{fffd}".into(),
        (0x80..=0x9f, _) => windows_1252(number as u8).into(),
        (0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef, _) => String::new(),
        (number, _) if number & 0xfffe == 0xfffe => String::new(),
        (_, Some(c)) => c.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_undone_as_python_does_it() {
        // Expected: html.unescape of Python 3.
        for (text, expected) in [
            ("&amp dogs &eacute x", "& dogs é x"),
            ("&notit; &unknown; &", "¬it; &unknown; &"),
            ("&#146;&#150;&#x80;", "’–€"),
            ("&#0;&#xD800;&#x110000;&#99999999999;", "\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            ("&#1;&#xb;&#x81;&#xffff;", "\u{81}"),
            ("&#233 &#xE9; &#; &#x;", "é é &#; &#x;"),
            ("&amp;amp;", "&amp;"),
            ("&fjlig;&NotEqualTilde;", "fj≂̸"),
            ("&ampersand &copyright", "&ersand ©right"),
        ] {
            assert_eq!(unescape(text), expected, "{text}");
        }
    }

    #[test]
    fn first_round_leaves_what_has_no_semicolon_or_no_meaning() {
        for (text, expected) in [
            ("&amp dogs &amp; &eacute;", "&amp dogs & é"),
            ("&notit; &EACUTE; &#x27;", "&notit; É '"),
        ] {
            assert_eq!(unescape_whole_references(text), expected, "{text}");
        }
    }
}
