//! Repair of text in UTF-8 that was read as Windows-1252: `itâ€™s` for `it’s`.
//!
//! ftfy weighs every such text by its characters. The rule here is simple and careful. A run of
//! non-ASCII characters is converted back to bytes. If these are UTF-8, and the run starts in a way
//! in which no word of a language does, it is replaced. So a text that is not mojibake stays
//! unchanged. Rare mojibake (of other code pages, of several rounds) stays broken.

/// Windows-1252's letters for 0x80 to 0x9F, undefined ones as themselves.
const C1: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Returns the character of a byte in Windows-1252.
pub(super) fn windows_1252(byte: u8) -> char {
    match byte {
        0x80..=0x9f => C1[usize::from(byte - 0x80)],
        byte => char::from(byte),
    }
}

/// Returns the byte of a character in Windows-1252 or Latin-1.
fn byte_of(c: char) -> Option<u8> {
    match u8::try_from(c) {
        Ok(byte) => Some(byte),
        Err(_) => C1.iter().position(|letter| *letter == c).map(|at| at as u8 + 0x80),
    }
}

/// Returns the text with its mojibake repaired.
pub(super) fn repaired(text: &str) -> String {
    let mut repaired = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(first) = characters.next() {
        let lead = byte_of(first).filter(|byte| (0xc2..=0xf4).contains(byte));
        let Some(lead) = lead else {
            repaired.push(first);
            continue;
        };
        let length = match lead {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            _ => 4,
        };
        let mut ahead = characters.clone();
        let mut bytes = vec![lead];
        let mut taken = vec![first];
        while bytes.len() < length
            && let Some(c) = ahead.next()
            && let Some(byte) = byte_of(c).filter(|byte| (0x80..=0xbf).contains(byte))
        {
            bytes.push(byte);
            taken.push(c);
        }
        match str::from_utf8(&bytes) {
            Ok(meant) if is_unlikely(&taken) => {
                repaired.push_str(meant);
                characters = ahead;
            }
            _ => repaired.push(first),
        }
    }
    repaired
}

/// Returns whether no text in any language has these characters in sequence.
fn is_unlikely(characters: &[char]) -> bool {
    match characters {
        // `Ã©`, `Â°`: a capital followed by a sign, a mark or a control character. `Â ` and `Ã `
        // with a space may be words.
        ['Â' | 'Ã', second] => {
            !second.is_alphabetic() && !second.is_whitespace() || *second == 'ª' || *second == 'º'
        }
        ['Ä' | 'Å' | 'Î' | 'Ï' | 'Ð' | 'Ñ' | 'Ø' | 'Ù', second] => {
            !second.is_alphabetic() && !second.is_whitespace() && !"’”“‘«»…–—".contains(*second)
        }
        // `â€™`, `â„¢`: letters of one word are not joined by a currency sign or a quote.
        ['â', second, _] => !second.is_alphabetic() && !second.is_whitespace(),
        ['ã' | 'ä' | 'å' | 'æ' | 'ç' | 'è' | 'é' | 'ï', second, third] => {
            let sign =
                |c: &char| !c.is_alphabetic() && !c.is_whitespace() && !"’”“‘«»…–—".contains(*c);
            sign(second) && sign(third)
        }
        ['ð', ..] => characters.len() == 4,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_as_windows_1252_is_utf_8_again() {
        for (text, expected) in [
            ("itâ€™s cafÃ©", "it’s café"),
            ("20Â°C, 5Â£, trademarkâ„¢", "20°C, 5£, trademark™"),
            ("smile ðŸ˜€ now", "smile 😀 now"),
            ("ä½\u{a0}å¥½", "ä½\u{a0}好"),
            ("â€œquotedâ€\u{9d}", "“quoted”"),
        ] {
            assert_eq!(repaired(text), expected, "{text}");
        }
    }

    #[test]
    fn text_in_its_own_letters_stays() {
        for text in [
            "Façade, São Paulo, À la carte, naïve café, Ångström, smörgåsbord, ÎLE",
            "«C’est ça…» — «Où?» “Über” ‘Ålesund’ 20 °C £5 ½",
            "Ñandú, Ðorđe, Ärger, Øre, ÜBER, école—”café”",
            "汉字 かな 한국어 Привет Ελλάδα שלום",
            "CAFÉ™ DÉCOR® MÜNCHEN’S Â Ã â",
        ] {
            assert_eq!(repaired(text), text);
        }
    }
}
