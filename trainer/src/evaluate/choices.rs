//! Compositional tests: whether a model finds the right caption among captions of the same words.

/// The result of one of Winoground's examples: two images and two captions of the same words.
///
/// Thrush et al., "Winoground", 2022, section 5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Winoground {
    /// Whether each image finds its caption.
    pub text: bool,
    /// Whether each caption finds its image.
    pub image: bool,
}

impl Winoground {
    /// Judges cosines `[image][caption]` with the right ones on the diagonal. Ties count as wrong.
    pub fn judge(scores: [[f32; 2]; 2]) -> Self {
        let [[right0, wrong0], [wrong1, right1]] = scores;
        Self { text: right0 > wrong0 && right1 > wrong1, image: right0 > wrong1 && right1 > wrong0 }
    }

    pub fn group(self) -> bool {
        self.text && self.image
    }

    /// The chance of text, image and group for random scores: 1/4, 1/4 and 1/6, as the paper counts
    /// the orders of four scores.
    pub const CHANCE: [f64; 3] = [0.25, 0.25, 1.0 / 6.0];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_what_all_orders_of_four_scores_give() {
        let mut right = [0; 3];
        let mut orders = 0;
        for order in 0..256_u32 {
            let scores = [0, 2, 4, 6].map(|shift| (order >> shift & 3) as f32);
            let mut sorted = scores.to_vec();
            sorted.sort_by(f32::total_cmp);
            if sorted != [0.0, 1.0, 2.0, 3.0] {
                continue;
            }
            let found = Winoground::judge([[scores[0], scores[1]], [scores[2], scores[3]]]);
            orders += 1;
            for (count, holds) in right.iter_mut().zip([found.text, found.image, found.group()]) {
                *count += u32::from(holds);
            }
        }
        assert_eq!(orders, 24);
        for (count, chance) in right.into_iter().zip(Winoground::CHANCE) {
            assert!((f64::from(count) / 24.0 - chance).abs() < 1e-12, "{right:?}");
        }
    }

    #[test]
    fn a_model_that_tells_nothing_apart_has_nothing_right() {
        let none = Winoground { text: false, image: false };
        assert_eq!(Winoground::judge([[0.5; 2]; 2]), none);
        assert_eq!(
            Winoground::judge([[0.9, 0.1], [0.2, 0.8]]),
            Winoground { text: true, image: true }
        );
        // One image is nearer to both captions, so the captions are told apart and the images are
        // not.
        assert_eq!(
            Winoground::judge([[0.9, 0.8], [0.1, 0.2]]),
            Winoground { text: true, image: false }
        );
    }
}
