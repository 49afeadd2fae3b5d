//! The output of commands: the only module that writes to standard output and to the terminal. A
//! reader that closes the pipe (`| head`) ends it quietly.
//!
//! Captions, names and keys come from strangers. A terminal obeys control characters in them, so a
//! terminal gets [`visible`] text. Files and pipes get the exact bytes.

use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;

use diptych_schemas::words::describe;
use indicatif::MultiProgress;

/// Returns the progress bars of this process. All other output to the terminal makes room for them.
pub(crate) fn bars() -> &'static MultiProgress {
    static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);
    &BARS
}

/// Writes the log to standard error, above the progress bars.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bars().suspend(|| standard_error(Colours::Kept).write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// Prints a line of a command's output.
pub(crate) fn line(text: impl AsRef<str>) -> io::Result<()> {
    // In one piece: other threads write lines too.
    standard_output().write_all(format!("{}\n", text.as_ref()).as_bytes())
}

/// Prints bytes of a command's output.
pub(crate) fn raw(bytes: &[u8]) -> io::Result<()> {
    let mut out = standard_output();
    out.write_all(bytes)?;
    out.flush()
}

/// Returns standard output. A terminal gets [`visible`] text.
pub(crate) fn standard_output() -> Box<dyn Write + Send> {
    static TERMINAL: LazyLock<bool> = LazyLock::new(|| io::stdout().is_terminal());
    shown_by(*TERMINAL, io::stdout(), Colours::Shown)
}

/// Returns standard error. A terminal gets [`visible`] text.
fn standard_error(colours: Colours) -> Box<dyn Write + Send> {
    static TERMINAL: LazyLock<bool> = LazyLock::new(|| io::stderr().is_terminal());
    shown_by(*TERMINAL, io::stderr(), colours)
}

fn shown_by(
    terminal: bool,
    to: impl Write + Send + 'static,
    colours: Colours,
) -> Box<dyn Write + Send> {
    if terminal {
        Box::new(TerminalText { to, colours, unfinished: Vec::new() })
    } else {
        Box::new(to)
    }
}

/// Returns the columns of the terminal that shows standard output. `None` where it is no terminal.
pub(crate) fn screen_width() -> Option<usize> {
    let terminal = io::stdout();
    if !terminal.is_terminal() {
        return None;
    }
    let (width, _) = terminal_size::terminal_size_of(terminal)?;
    Some(usize::from(width.0)).filter(|width| *width > 0)
}

/// Prints to standard error why a command failed.
pub(crate) fn complain(error: &anyhow::Error) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(standard_error(Colours::Shown), "error: {}", describe(error));
}

/// Returns whether an error only means that nobody reads the output any more.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Puts text of data on one line: line breaks and tabs become spaces.
pub(crate) fn one_line(text: &str) -> String {
    text.replace(['\t', '\n', '\r'], " ")
}

/// The treatment of the codes that set a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colours {
    /// Shows them like every control character.
    Shown,
    /// Passes them on. Only for the log, whose formatter makes them and escapes those in its texts.
    Kept,
}

/// A writer that turns text into [`visible`] text for a terminal.
struct TerminalText<W> {
    to: W,
    colours: Colours,
    /// First bytes of a character that the last write did not complete.
    unfinished: Vec<u8>,
}

impl<W: Write> Write for TerminalText<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.unfinished.extend_from_slice(bytes);
        let whole = self.unfinished.len() - unfinished_character(&self.unfinished);
        let text = visible(&String::from_utf8_lossy(&self.unfinished[..whole]), self.colours);
        self.unfinished.drain(..whole);
        self.to.write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Counts the bytes at the end that begin a character of UTF-8 and do not complete it.
fn unfinished_character(bytes: &[u8]) -> usize {
    for (behind, byte) in bytes.iter().rev().take(3).enumerate() {
        let length = match byte {
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF7 => 4,
            _ => 1,
        };
        return if behind + 1 < length { behind + 1 } else { 0 };
    }
    0
}

/// Makes text harmless for a terminal. A control character becomes its picture (ESC is `␛`), or `�`
/// if it has none. Line breaks and tabs stay. Characters that change the direction of writing are
/// replaced too, since they hide what the text says.
fn visible(text: &str, colours: Colours) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let kept = if colours == Colours::Kept { colour(rest) } else { 0 };
        if kept > 0 {
            shown.push_str(&rest[..kept]);
            rest = &rest[kept..];
            continue;
        }
        rest = &rest[c.len_utf8()..];
        shown.push(match c {
            '\n' | '\t' => c,
            '\0'..'\u{20}' => char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{FFFD}'),
            '\u{7F}' => '\u{2421}',
            '\u{80}'..='\u{9F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' => '\u{FFFD}',
            other => other,
        });
    }
    shown
}

/// Returns the length of the code for a colour or weight (SGR of ECMA-48) that a text begins with,
/// or 0.
fn colour(text: &str) -> usize {
    let Some(numbers) = text.strip_prefix("\u{1b}[") else { return 0 };
    let end = numbers.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(numbers.len());
    if numbers[end..].starts_with('m') { "\u{1b}[".len() + end + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_are_shown_and_obeyed_by_no_terminal() {
        for (text, shown) in [
            ("\u{1b}]0;title\u{7}", "␛]0;title␇"),
            ("\u{1b}[31mred\u{1b}[0m", "␛[31mred␛[0m"),
            ("over\rwritten\u{8}\u{7f}", "over␍written␈␡"),
            ("\u{9b}31m \u{202e}txt.exe\u{202c}", "�31m �txt.exe�"),
            ("two\nlines\tof 红色 текст 🙂", "two\nlines\tof 红色 текст 🙂"),
        ] {
            assert_eq!(visible(text, Colours::Shown), shown);
        }
        let log = "\u{1b}[33m WARN\u{1b}[0m \u{1b}[2J \u{1b}[1;2m \u{1b}[31";
        assert_eq!(visible(log, Colours::Kept), "\u{1b}[33m WARN\u{1b}[0m ␛[2J \u{1b}[1;2m ␛[31");
    }

    proptest! {
        #[test]
        fn however_text_is_cut_into_writes_the_terminal_gets_the_same(
            text in "[a-z\u{0}-\u{ff}红🙂\u{202e}]{0,40}",
            junk in prop::collection::vec(any::<u8>(), 0..6),
            cuts in prop::collection::vec(1usize..5, 0..60),
        ) {
            let bytes = [text.as_bytes(), &junk, text.as_bytes(), b"."].concat();
            let mut terminal =
                TerminalText { to: Vec::new(), colours: Colours::Shown, unfinished: Vec::new() };
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                terminal.write_all(now).unwrap();
                rest = later;
            }
            terminal.write_all(rest).unwrap();
            let shown = String::from_utf8(terminal.to).unwrap();
            prop_assert!(!shown.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
            if junk.is_empty() {
                prop_assert_eq!(shown, visible(&String::from_utf8(bytes).unwrap(), Colours::Shown));
            }
        }
    }
}
