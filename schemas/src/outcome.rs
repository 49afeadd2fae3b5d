//! Exit codes, as `--help` documents them.

/// A run that stalled and was told to leave. No outcome: the thread that would give it is the one that hangs.
pub const STALLED: u8 = 5;

/// Somebody did not want to wait for an orderly end.
pub const LEFT_AT_ONCE: u8 = 130;

/// How a command ended when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// What could be read is in, but a source could not be read, or not to its end.
    SourceUnreadable,
    /// Something was looked through and is not as it should be; what, was printed.
    ProblemsFound,
    /// A signal asked to stop; everything is saved.
    Stopped,
}

impl Outcome {
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::ProblemsFound => 1,
            Self::SourceUnreadable => 3,
            Self::Stopped => 4,
        }
    }
}
