//! CLIP's published byte-pair vocabulary as token strings and merges, the format of other tools.
//!
//! `instant-clip-tokenizer` contains the vocabulary but exposes only the decoded tokens. Strings
//! and merges follow from these. A token's bytes are found by completing them to valid UTF-8. A
//! merge joins the pair that the earlier merges leave of the joined bytes. A test compares the
//! result with the crate's own encoder.

use std::collections::HashMap;

use instant_clip_tokenizer as instant;

use super::error::TokenizerError;

/// Hugging Face's name of the token that OpenAI's code calls `<start_of_text>`.
pub(super) const START: &str = "<|startoftext|>";
/// Hugging Face's name of the token that OpenAI's code calls `<end_of_text>`.
pub(super) const END: &str = "<|endoftext|>";
/// Marks a token at the end of a word.
pub(super) const WORD_END: &str = "</w>";

/// A byte-pair vocabulary in the form of `vocab.json` and `merges.txt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// Strings in order of their ids.
    pub tokens: Vec<String>,
    /// Pairs in order of their rank.
    pub merges: Vec<(String, String)>,
}

/// The bytes of one token, and whether it ends a word.
struct Piece {
    bytes: Vec<u8>,
    ends_word: bool,
}

/// Returns CLIP's 49,408 tokens and 48,894 merges.
pub(super) fn clip_vocabulary() -> Result<Vocabulary, TokenizerError> {
    let source = instant::Tokenizer::new();
    let alphabet = alphabet();
    let base = 2 * alphabet.len() as u16;
    let start = source.start_of_text().to_u16();

    let mut byte_tokens = [0_u16; 256];
    let mut byte_chars = ['\0'; 256];
    for (token, (byte, char)) in alphabet.iter().enumerate() {
        byte_tokens[usize::from(*byte)] = token as u16;
        byte_chars[usize::from(*byte)] = *char;
    }

    let single = alphabet.iter().map(|(_, char)| char.to_string());
    let at_word_end = alphabet.iter().map(|(_, char)| format!("{char}{WORD_END}"));
    let mut tokens: Vec<String> = single.chain(at_word_end).collect();
    let mut merges = Vec::new();
    let mut ranks: HashMap<(u16, u16), u16> = HashMap::new();
    for token in base..start {
        let bad = || TokenizerError::Vocabulary { token };
        let piece = piece(&source, token, &byte_tokens).ok_or_else(bad)?;
        let (left, right) = halves(&piece, &byte_tokens, base, &ranks).ok_or_else(bad)?;
        ranks.insert((left, right), token);
        merges.push((tokens[usize::from(left)].clone(), tokens[usize::from(right)].clone()));
        let mut text: String =
            piece.bytes.iter().map(|byte| byte_chars[usize::from(*byte)]).collect();
        if piece.ends_word {
            text.push_str(WORD_END);
        }
        tokens.push(text);
    }
    tokens.push(START.into());
    tokens.push(END.into());
    Ok(Vocabulary { tokens, merges })
}

/// Returns bytes in the order of their tokens, each with its printable stand-in (GPT-2's
/// `bytes_to_unicode`).
fn alphabet() -> Vec<(u8, char)> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let shown = (0..=255).filter(printable).map(|byte| (byte, char::from(byte)));
    let hidden = (0..=255_u8).filter(|byte| !printable(byte));
    let stand_ins = (256..).filter_map(char::from_u32);
    shown.chain(hidden.zip(stand_ins)).collect()
}

/// Returns a token's bytes. The crate decodes to text. So a token that starts or ends within a
/// character is decoded together with bytes that complete the character, which are then removed.
fn piece(source: &instant::Tokenizer, token: u16, byte_tokens: &[u16; 256]) -> Option<Piece> {
    // Lead bytes for one, two or three orphaned continuation bytes, and continuations that any lead
    // byte accepts.
    const BEFORE: [&[u8]; 4] = [&[], &[0xC3], &[0xE1], &[0xF1]];
    const AFTER: [&[u8]; 7] = [
        &[],
        &[0x80],
        &[0xA0],
        &[0x80, 0x80],
        &[0xA0, 0x80],
        &[0x80, 0x80, 0x80],
        &[0x90, 0x80, 0x80],
    ];
    let byte_token = |byte: &u8| byte_tokens[usize::from(*byte)];
    for (before, after) in
        BEFORE.iter().flat_map(|before| AFTER.iter().map(move |after| (before, after)))
    {
        let ids = before.iter().map(byte_token).chain([token]).chain(after.iter().map(byte_token));
        let text = source.decode(ids.filter_map(|id| instant::Token::from_u16(id, source)));
        if text.contains(char::REPLACEMENT_CHARACTER) {
            continue;
        }
        let mut bytes = text.as_bytes()[before.len()..text.len() - after.len()].to_vec();
        // The decoder writes the end of a word as a space, which no token of more than one byte
        // holds.
        let ends_word = bytes.last() == Some(&b' ');
        if ends_word {
            bytes.pop();
        }
        return Some(Piece { bytes, ends_word });
    }
    // One character really is the replacement character.
    let replacement = char::REPLACEMENT_CHARACTER.to_string();
    let mut encoded = Vec::new();
    source.encode(&replacement.repeat(2), &mut encoded);
    let place = encoded.iter().position(|id| id.to_u16() == token)?;
    Some(Piece { bytes: replacement.into_bytes(), ends_word: place + 1 == encoded.len() })
}

/// Returns the two tokens that a merge joins: the rest of its bytes after the earlier merges.
fn halves(
    piece: &Piece,
    byte_tokens: &[u16; 256],
    base: u16,
    ranks: &HashMap<(u16, u16), u16>,
) -> Option<(u16, u16)> {
    let mut symbols: Vec<u16> =
        piece.bytes.iter().map(|byte| byte_tokens[usize::from(*byte)]).collect();
    if piece.ends_word {
        *symbols.last_mut()? += base / 2;
    }
    while symbols.len() > 2 {
        let pairs = symbols.windows(2).map(|pair| (pair[0], pair[1]));
        let (joined, (left, right)) =
            pairs.filter_map(|pair| Some((*ranks.get(&pair)?, pair))).min()?;
        let mut at = 0;
        while at + 1 < symbols.len() {
            if (symbols[at], symbols[at + 1]) == (left, right) {
                symbols[at] = joined;
                symbols.remove(at + 1);
            }
            at += 1;
        }
    }
    match symbols[..] {
        [left, right] => Some((left, right)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vocabulary_has_openais_size_and_its_first_and_last_merges() {
        let vocabulary = clip_vocabulary().unwrap();
        assert_eq!((vocabulary.tokens.len(), vocabulary.merges.len()), (49_408, 48_894));
        // The first lines of bpe_simple_vocab_16e6.txt, and the last one that CLIP uses (line
        // 48,895).
        let merge = |index: usize| {
            (vocabulary.merges[index].0.as_str(), vocabulary.merges[index].1.as_str())
        };
        assert_eq!([merge(0), merge(6), merge(7)], [("i", "n"), ("th", "e</w>"), ("in", "g</w>")]);
        assert_eq!(merge(48_893), ("jeky", "ll</w>"));
        assert_eq!(vocabulary.tokens[49_407], END);
    }
}
