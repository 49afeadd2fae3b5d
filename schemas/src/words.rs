//! Numbers and errors in words, for messages, reports and pages.

use std::error::Error;

/// Puts an error, such as `anyhow`'s, into one text: what was being done, then each cause that the text does not contain already.
pub fn describe(error: impl AsRef<dyn Error + 'static>) -> String {
    let error = error.as_ref();
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

/// Writes a number with a comma between thousands: `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Context {
        text: &'static str,
        source: Box<dyn Error + 'static>,
    }

    impl AsRef<dyn Error + 'static> for Context {
        fn as_ref(&self) -> &(dyn Error + 'static) {
            self
        }
    }

    #[test]
    fn cause_that_a_message_contains_already_is_not_repeated() {
        let full = Box::new(io::Error::other("disk full"));
        let inner = Context { text: "a.bin: disk full", source: full };
        let error = Context { text: "the checkpoint was not written", source: Box::new(inner) };
        assert_eq!(describe(&error), "the checkpoint was not written: a.bin: disk full");
    }

    #[test]
    fn thousands_are_separated() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
