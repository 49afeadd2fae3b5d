//! From luma and colour differences to RGB: ITU-T H.273.

/// The matrix that made luma and colour differences from RGB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Matrix {
    /// Weights of red and blue in luma: table 4.
    Weights { red: f32, blue: f32 },
    /// Green, blue, red.
    Identity,
    /// Green-magenta and orange-blue.
    YCgCo,
}

impl Matrix {
    pub(super) const BT601: Self = Self::Weights { red: 0.299, blue: 0.114 };

    /// Returns the matrix with this number of `MatrixCoefficients`, or `None` if it is not
    /// supported.
    pub(super) fn of_number(number: u16) -> Option<Self> {
        match number {
            0 => Some(Self::Identity),
            1 => Some(Self::Weights { red: 0.2126, blue: 0.0722 }),
            // Unspecified: libavif's choice.
            2 | 5 | 6 => Some(Self::BT601),
            4 => Some(Self::Weights { red: 0.30, blue: 0.11 }),
            7 => Some(Self::Weights { red: 0.212, blue: 0.087 }),
            8 => Some(Self::YCgCo),
            9 => Some(Self::Weights { red: 0.2627, blue: 0.0593 }),
            _ => None,
        }
    }
}

/// The numbers for black, white and no colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Levels {
    black: f32,
    /// From black to white.
    luma: f32,
    /// From one end of a colour difference to the other, and its middle.
    chroma: f32,
    middle: f32,
}

impl Levels {
    /// Returns the levels of samples with at least 8 bits, over the full range of numbers or the
    /// limited range of video.
    pub(super) fn new(is_full: bool, bits: u32) -> Self {
        let factor = (1_u32 << (bits - 8)) as f32;
        let middle = 128.0 * factor;
        if is_full {
            let most = 256.0 * factor - 1.0;
            Self { black: 0.0, luma: most, chroma: most, middle }
        } else {
            Self { black: 16.0 * factor, luma: 219.0 * factor, chroma: 224.0 * factor, middle }
        }
    }

    /// Converts luma, or a sample of alpha, to a byte.
    pub(super) fn byte(self, number: f32) -> u8 {
        byte((number - self.black) / self.luma)
    }
}

/// Converts a level in 0 … 1 to a byte.
fn byte(level: f32) -> u8 {
    // Casts from floats saturate.
    (level * 255.0 + 0.5) as u8
}

/// Converts luma, blue difference and red difference to red, green and blue.
pub(super) fn rgb_of_yuv([y, u, v]: [f32; 3], matrix: Matrix, levels: Levels) -> [u8; 3] {
    let luma = (y - levels.black) / levels.luma;
    let [blue, red] = [u, v].map(|number| (number - levels.middle) / levels.chroma);
    match matrix {
        Matrix::Weights { red: r, blue: b } => {
            let red = luma + 2.0 * (1.0 - r) * red;
            let blue = luma + 2.0 * (1.0 - b) * blue;
            [red, (luma - r * red - b * blue) / (1.0 - r - b), blue].map(byte)
        }
        Matrix::Identity => [v, y, u].map(|number| levels.byte(number)),
        Matrix::YCgCo => {
            let rest = luma - blue;
            [rest + red, luma + blue, rest - red].map(byte)
        }
    }
}
