//! The language of a caption. Pure.
//!
//! It uses whichlang, chosen from three crates compared on 2,826 captions (ARCHITECTURE.md). It is
//! right on captions of three words and more, which matter most, and takes half a microsecond per
//! caption.

use whichlang::{Lang, detect_language};

use super::Producer;

/// Returns the ISO 639-1 code of the most probable language of a caption.
///
/// whichlang knows 16: ar, zh, de, en, fr, hi, it, ja, ko, nl, pt, ru, es, sv, tr, vi. A caption in
/// another language gets the nearest of them. Returns `None` for a caption without a letter.
pub fn language(caption: &str) -> Option<&'static str> {
    if !caption.chars().any(char::is_alphabetic) {
        return None;
    }
    Some(match detect_language(caption) {
        Lang::Ara => "ar",
        Lang::Cmn => "zh",
        Lang::Deu => "de",
        Lang::Eng => "en",
        Lang::Fra => "fr",
        Lang::Hin => "hi",
        Lang::Ita => "it",
        Lang::Jpn => "ja",
        Lang::Kor => "ko",
        Lang::Nld => "nl",
        Lang::Por => "pt",
        Lang::Rus => "ru",
        Lang::Spa => "es",
        Lang::Swe => "sv",
        Lang::Tur => "tr",
        Lang::Vie => "vi",
    })
}

pub(super) fn producer() -> Producer {
    Producer::new("language v1: whichlang 0.1, most probable of 16; none without a letter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_recognised_and_those_without_letters_are_not_guessed() {
        for (caption, expected) in [
            ("A man riding a wave on top of a surfboard.", Some("en")),
            ("Zwei Hunde spielen im Park", Some("de")),
            ("Deux chiens jouent dans le parc", Some("fr")),
            ("公園で遊ぶ二匹の犬", Some("ja")),
            ("2015-03-04 12:00", None),
            ("", None),
        ] {
            assert_eq!(language(caption), expected, "{caption}");
        }
    }
}
