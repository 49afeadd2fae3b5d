//! Retrieval among pairs: the groups of images and captions that belong together.

use std::borrow::Cow;
use std::collections::HashMap;

use diptych_embeddings::encode::Encoded;
use diptych_trainer::TrainerError;
use diptych_trainer::evaluate::{GoOn, RECALL_AT, Ranks, Rows, Unit, retrieval_ranks};

/// Groups captions, `[N]`. Equal groups count as right for each other.
///
/// Pairs with the same caption cannot be told apart by it, so they share a group. If `strict`, only
/// the exact pair is right, as in benchmarks whose captions are all different.
pub fn caption_groups(captions: &[String], strict: bool) -> Vec<u64> {
    let mut numbers = HashMap::new();
    let group = |(row, caption)| if strict { row } else { *numbers.entry(caption).or_insert(row) };
    (0_u64..).zip(captions).map(group).collect()
}

/// Computes the ranks among pairs, by the [`caption_groups`].
pub fn pair_ranks(
    encoded: &Encoded,
    dimension: usize,
    groups: &[u64],
    go_on: GoOn<'_>,
) -> Result<Ranks, TrainerError> {
    retrieval_ranks(
        Rows { values: &encoded.images, dimension },
        groups,
        Rows { values: &encoded.texts, dimension },
        groups,
        go_on,
    )
}

/// Images with any number of captions each.
///
/// With a million pairs each copy takes gigabytes, so existing values are borrowed.
#[derive(Debug, Default)]
pub struct CaptionedImages<'a> {
    /// `[N, D]`.
    pub images: Cow<'a, [f32]>,
    /// `[M, D]`.
    pub texts: Cow<'a, [f32]>,
    /// The row of the first pair of each image, `[N]`.
    pub first_rows: Vec<usize>,
    /// The image of each text, `[M]`.
    pub image_of_text: Vec<usize>,
    /// The group of each image, `[N]`. Equal groups are right for each other.
    pub image_groups: Vec<u64>,
    /// The group of each text, `[M]`.
    pub text_groups: Vec<u64>,
}

impl CaptionedImages<'_> {
    pub fn ranks(&self, dimension: usize, go_on: GoOn<'_>) -> Result<Ranks, TrainerError> {
        let (images, texts) =
            (Rows { values: &self.images, dimension }, Rows { values: &self.texts, dimension });
        retrieval_ranks(images, &self.image_groups, texts, &self.text_groups, go_on)
    }

    /// Computes each image's contributions to recall, for each of [`RECALL_AT`].
    ///
    /// Recall of texts by images comes first, then recall of images by texts.
    pub fn units(&self, ranks: &Ranks) -> Vec<Vec<Unit>> {
        let within = |rank: Option<u32>, k: usize| rank.is_some_and(|rank| rank as usize <= k);
        let of_images = RECALL_AT
            .map(|k| ranks.image_to_text.iter().map(|rank| Unit::from(within(*rank, k))).collect());
        let of_texts = RECALL_AT.map(|k| {
            let mut units = vec![Unit { hits: 0.0, of: 0.0 }; self.image_groups.len()];
            for (image, rank) in self.image_of_text.iter().zip(&ranks.text_to_image) {
                units[*image].of += 1.0;
                units[*image].hits += f64::from(u8::from(within(*rank, k)));
            }
            units
        });
        of_images.into_iter().chain(of_texts).collect()
    }
}

/// Counts the different captions among pairs.
pub fn distinct_captions(encoded: &Encoded) -> usize {
    encoded.captions.iter().collect::<std::collections::HashSet<_>>().len()
}
