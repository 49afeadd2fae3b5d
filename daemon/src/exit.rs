//! Exit codes, as `--help` documents them.

/// How a command ended when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// What could be read is in, but a source could not be read, or not to its end.
    SourceUnreadable,
    /// A signal asked to stop; everything is saved.
    Stopped,
}

impl Outcome {
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::SourceUnreadable => 3,
            Self::Stopped => 4,
        }
    }
}
