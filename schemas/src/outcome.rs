//! Exit codes, as `--help` documents them.

/// Exit code of a stalled run that had to leave. It is not an [`Outcome`], because the thread that
/// would return one hangs.
pub const STALLED: u8 = 5;

/// Exit code after a second signal, when the user does not want to wait for an orderly end.
pub const LEFT_AT_ONCE: u8 = 130;

/// The end of a command that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// All readable input was ingested, but a source could not be read, or not to its end.
    SourceUnreadable,
    /// A check found problems, which were printed.
    ProblemsFound,
    /// A signal stopped the command, and everything is saved.
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
