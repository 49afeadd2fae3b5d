//! Exit codes. [`EXIT_CODES`] explains all of them.

/// Exit code of a command that did what it was asked for.
pub const DONE: u8 = 0;

/// Exit code of a command that failed, or of a check that found problems.
pub const FAILED: u8 = 1;

/// Exit code of a wrong command line, which clap gives.
pub const USAGE: u8 = 2;

/// Exit code after an ingest of a source that is damaged.
pub const SOURCE_UNREADABLE: u8 = 3;

/// Exit code after a signal, when everything is saved.
pub const STOPPED: u8 = 4;

/// Exit code of a stalled run that had to leave. It is not an [`Outcome`], because the thread that
/// would return one hangs.
pub const STALLED: u8 = 5;

/// Exit code after a second signal, when the user does not want to wait for an orderly end.
pub const LEFT_AT_ONCE: u8 = 130;

/// Exit code after an internal error.
pub const INTERNAL: u8 = 70;

/// An exit code with its explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCode {
    pub code: u8,
    pub meaning: &'static str,
    /// What a script or a user does next.
    pub advice: &'static str,
}

/// All exit codes, rising.
pub const EXIT_CODES: [ExitCode; 8] = [
    ExitCode { code: DONE, meaning: "The command did what it was asked for", advice: "Go on" },
    ExitCode {
        code: FAILED,
        meaning: "The command failed, or `diptych doctor` found problems",
        advice: "Read the last line on standard error: it says what to change",
    },
    ExitCode {
        code: USAGE,
        meaning: "The command line is wrong",
        advice: "Compare it with the usage that is printed",
    },
    ExitCode {
        code: SOURCE_UNREADABLE,
        meaning: "The command is done, but a source could not be read, or not to its end",
        advice: "Look at `diptych ledger`, repair the source, and run `diptych ledger retry`",
    },
    ExitCode {
        code: STOPPED,
        meaning: "A signal stopped the command, and everything is saved",
        advice: "Run the same command again: it goes on where it stopped",
    },
    ExitCode {
        code: STALLED,
        meaning: "A run made no progress for too long and left, as guard.stall_action asks",
        advice: "Run the same command again: it goes on from the last checkpoint. Look at the \
                 run's events for the reason",
    },
    ExitCode {
        code: INTERNAL,
        meaning: "An internal error: a bug in Diptych",
        advice: "Run it again with -v, and report what it prints",
    },
    ExitCode {
        code: LEFT_AT_ONCE,
        meaning: "A second signal ended the command at once",
        advice: "Run the same command again: it goes on from what was saved before",
    },
];

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
            Self::Done => DONE,
            Self::ProblemsFound => FAILED,
            Self::SourceUnreadable => SOURCE_UNREADABLE,
            Self::Stopped => STOPPED,
        }
    }
}
