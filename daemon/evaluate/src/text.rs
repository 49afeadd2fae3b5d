//! The text of results, as commands print it.

/// Lines that are collected before anybody prints them.
#[derive(Clone, Debug, Default)]
pub struct Text(String);

impl Text {
    /// Adds a line.
    pub fn line(&mut self, line: impl AsRef<str>) {
        self.0.push_str(line.as_ref());
        self.0.push('\n');
    }

    /// All lines, each with its end of line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
