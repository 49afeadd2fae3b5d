//! The text of results, as commands print it.

/// Collected lines.
#[derive(Clone, Debug, Default)]
pub struct Text(String);

impl Text {
    /// Adds a line.
    pub fn line(&mut self, line: impl AsRef<str>) {
        self.0.push_str(line.as_ref());
        self.0.push('\n');
    }

    /// Returns all lines, each with its line break.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
