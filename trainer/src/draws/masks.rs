//! Draws which tokens of a text are masked, and their replacements, from the seed, step, row and
//! position.
//!
//! Devlin et al., "BERT", 2019, section 3.1. Whole words are masked as in BERT's later code and in
//! ViLT (Kim et al., 2021). The draw keeps no state, so a resumed run continues with the same
//! masks.

use diptych_pipeline::{Random, seed_of};

/// Separates these random numbers from others of the same seed.
const PURPOSE: u64 = 0x006d_6173_6b65_6421;

/// Share of the chosen tokens that become the mask token.
const MASKED: f64 = 0.8;
/// Share of the chosen tokens that become the mask token or a random one. The rest stay.
const MASKED_OR_OTHER: f64 = 0.9;

/// The tokens of a vocabulary, in the classes that masking distinguishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskVocabulary {
    /// Number of tokens: ids are below it.
    pub size: usize,
    /// The token that replaces a masked one.
    pub mask: i32,
    /// Tokens that are never masked and never drawn: start, end, padding, unknown, mask.
    pub special: Vec<i32>,
    /// Pieces that continue the previous word. `None` if the vocabulary does not say.
    pub continuations: Option<Vec<i32>>,
}

/// A text with masked tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MaskedText {
    /// The model's input, `[L]`.
    pub(crate) tokens: Vec<i64>,
    /// Positions that the model predicts, ascending.
    pub(crate) positions: Vec<i64>,
    /// The tokens that stood at those positions.
    pub(crate) labels: Vec<i64>,
}

/// The rule by which texts are masked.
#[derive(Clone, Debug)]
pub(crate) struct Masking {
    share: f64,
    whole_words: bool,
    mask: i64,
    is_special: Vec<bool>,
    continues: Vec<bool>,
    /// Tokens that may be drawn, ascending.
    ordinary: Vec<i64>,
}

impl Masking {
    pub(crate) fn new(vocabulary: &MaskVocabulary, share: f64, whole_words: bool) -> Self {
        let among = |ids: &[i32]| {
            let mut is_in = vec![false; vocabulary.size];
            ids.iter()
                .filter_map(|id| usize::try_from(*id).ok())
                .filter(|id| *id < vocabulary.size)
                .for_each(|id| is_in[id] = true);
            is_in
        };
        let is_special = among(&vocabulary.special);
        let ordinary =
            (0..vocabulary.size).filter(|id| !is_special[*id]).map(|id| id as i64).collect();
        let continues = among(vocabulary.continuations.as_deref().unwrap_or_default());
        Self {
            share,
            whole_words,
            mask: i64::from(vocabulary.mask),
            is_special,
            continues,
            ordinary,
        }
    }

    /// Masks a text, given the seed of the run, the step and the row of the batch.
    pub(crate) fn draw(&self, tokens: &[i32], seed: u64, step: u64, row: u64) -> MaskedText {
        self.apply(tokens, |number, place| {
            let mut random = Random::new(seed_of(&[seed, PURPOSE, step, row, place as u64]));
            let numbers: [f64; 3] = std::array::from_fn(|_| random.uniform(0.0, 1.0));
            numbers[number]
        })
    }

    /// Masks a text with the random numbers that `uniform(number, place)` returns, in [0, 1).
    ///
    /// Number 0 decides whether a place is chosen, 1 what replaces it, and 2 which random token.
    /// For number 0 the place is a word's index if whole words are masked. Otherwise it is a
    /// position.
    fn apply(&self, tokens: &[i32], uniform: impl Fn(usize, usize) -> f64) -> MaskedText {
        let mut masked = MaskedText {
            tokens: tokens.iter().map(|token| i64::from(*token)).collect(),
            positions: Vec::new(),
            labels: Vec::new(),
        };
        let mut words = 0_usize;
        for (position, &token) in tokens.iter().enumerate() {
            let id = token as usize;
            if self.is_special.get(id).copied().unwrap_or(true) {
                continue;
            }
            let place = if self.whole_words {
                let goes_on = self.continues[id] && words > 0;
                words += usize::from(!goes_on);
                words - 1
            } else {
                position
            };
            if uniform(0, place) >= self.share {
                continue;
            }
            masked.positions.push(position as i64);
            masked.labels.push(i64::from(token));
            let what = uniform(1, position);
            if what < MASKED {
                masked.tokens[position] = self.mask;
            } else if what < MASKED_OR_OTHER {
                let drawn = (uniform(2, position) * self.ordinary.len() as f64) as usize;
                masked.tokens[position] = self.ordinary[drawn];
            }
        }
        masked
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use tch::{Kind, Tensor};

    use super::*;

    /// Loads draws and their results, computed by another program.
    ///
    /// There are 64 texts of 24 tokens, with ids below 60. Ids below 5 are special.
    fn table() -> BTreeMap<String, Tensor> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/masking.safetensors");
        Tensor::read_safetensors(path).unwrap().into_iter().collect()
    }

    fn vocabulary() -> MaskVocabulary {
        MaskVocabulary { size: 60, mask: 4, special: (0..5).collect(), continuations: None }
    }

    fn integers(table: &BTreeMap<String, Tensor>, name: &str) -> Vec<Vec<i64>> {
        Vec::try_from(&table[name].to_kind(Kind::Int64)).unwrap()
    }

    #[test]
    fn chosen_tokens_and_what_becomes_of_them_are_those_of_the_reference() {
        let table = table();
        let u: Vec<Vec<Vec<f64>>> = Vec::try_from(&table["u"]).unwrap();
        let (ids, words) = (integers(&table, "ids"), integers(&table, "words"));
        for (name, share, whole_words) in
            [("bert", 0.15, false), ("bert_40", 0.4, false), ("whole_words", 0.15, true)]
        {
            let (expected, labels) =
                (integers(&table, name), integers(&table, &format!("{name}_second")));
            let mut chosen = 0;
            for row in 0..ids.len() {
                let tokens: Vec<i32> = ids[row].iter().map(|id| *id as i32).collect();
                // In the table any token may continue a word, while a vocabulary says which do. So
                // each row gets a vocabulary of its own.
                let goes_on = |at: usize| {
                    at > 0 && words[row][at] >= 0 && words[row][at] == words[row][at - 1]
                };
                let (tokens, vocabulary, back) = marked(&tokens, goes_on);
                let mut masking = Masking::new(&vocabulary, share, whole_words);
                // The table draws only plain tokens.
                masking.ordinary.truncate(55);
                let found = masking.apply(&tokens, |number, place| u[number][row][place]);
                let found_tokens: Vec<i64> =
                    found.tokens.iter().map(|token| back(*token)).collect();
                assert_eq!(found_tokens, expected[row], "{name}, row {row}");
                let mut found_labels = vec![-100; ids[row].len()];
                for (position, label) in found.positions.iter().zip(&found.labels) {
                    found_labels[*position as usize] = back(*label);
                }
                assert_eq!(found_labels, labels[row], "{name}, row {row}");
                chosen += found.positions.len();
            }
            assert!(chosen > 50, "{name}: {chosen}");
        }
    }

    /// Gives tokens that continue a word ids that are 60 higher. Those are never drawn.
    fn marked(
        tokens: &[i32],
        goes_on: impl Fn(usize) -> bool,
    ) -> (Vec<i32>, MaskVocabulary, impl Fn(i64) -> i64) {
        let tokens = tokens
            .iter()
            .enumerate()
            .map(|(at, token)| if goes_on(at) { token + 60 } else { *token })
            .collect();
        let plain = vocabulary();
        let vocabulary =
            MaskVocabulary { size: 120, continuations: Some((60..120).collect()), ..plain };
        (tokens, vocabulary, |token| if token >= 60 { token - 60 } else { token })
    }

    #[test]
    fn masks_differ_by_seed_step_and_row_and_come_again_for_the_same() {
        let masking = Masking::new(&vocabulary(), 0.4, false);
        let tokens: Vec<i32> = (0..40).map(|n| 5 + n % 55).collect();
        let first = masking.draw(&tokens, 3, 7, 1);
        assert_eq!(first, masking.draw(&tokens, 3, 7, 1));
        for (seed, step, row) in [(4, 7, 1), (3, 8, 1), (3, 7, 2)] {
            assert_ne!(first, masking.draw(&tokens, seed, step, row));
        }
        // The masks do not depend on the tokens that follow.
        let cut = masking.draw(&tokens[..20], 3, 7, 1);
        assert_eq!(first.tokens[..20], cut.tokens);
    }

    #[test]
    fn shares_are_berts() {
        let masking = Masking::new(&vocabulary(), 0.15, false);
        let tokens: Vec<i32> = (0..500).map(|n| 5 + n % 55).collect();
        let (mut chosen, mut masked, mut kept) = (0_f64, 0_f64, 0_f64);
        for row in 0..200 {
            let found = masking.draw(&tokens, 1, 0, row);
            chosen += found.positions.len() as f64;
            for (position, label) in found.positions.iter().zip(&found.labels) {
                let token = found.tokens[*position as usize];
                masked += f64::from(u8::from(token == 4));
                kept += f64::from(u8::from(token == *label));
            }
        }
        // 100,000 tokens: five standard deviations of each share. One in 55 drawn tokens equals the
        // old one.
        assert!((chosen / 1e5 - 0.15).abs() < 5.0 * (0.15 * 0.85 / 1e5_f64).sqrt(), "{chosen}");
        assert!(
            (masked / chosen - 0.8).abs() < 5.0 * (0.8 * 0.2 / chosen).sqrt(),
            "{masked} of {chosen}"
        );
        assert!(
            (kept / chosen - (0.1 + 0.1 / 55.0)).abs() < 5.0 * (0.1 * 0.9 / chosen).sqrt(),
            "{kept} of {chosen}"
        );
    }
}
