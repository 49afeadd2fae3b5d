//! A place in a piece of SQL, displayed as its line with carets below.
//!
//! It works on text only and knows neither parser nor planner. Lines and columns count from 1,
//! columns in characters.

use std::fmt;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Most characters of a line that are displayed. A longer line is cut around the place.
const SHOWN: usize = 100;

/// A place in SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The displayed part of the line, without tabs.
    excerpt: String,
    /// Terminal columns before the carets.
    indent: usize,
    /// Number of carets.
    carets: usize,
}

impl Place {
    /// Creates the place that starts at (`line`, `column`).
    ///
    /// `end` is the place after its last character. Without it, the place is the word that starts
    /// there. A place outside the text becomes the end of the text.
    pub(crate) fn new(sql: &str, line: usize, column: usize, end: Option<(usize, usize)>) -> Self {
        let lines: Vec<&str> = sql.lines().collect();
        let Some(text) = line.checked_sub(1).and_then(|index| lines.get(index)) else {
            return Self::end(sql);
        };
        let characters: Vec<char> =
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let start = column.saturating_sub(1).min(characters.len());
        let length = match end {
            Some((end_line, end_column)) if end_line == line => end_column.saturating_sub(column),
            Some(_) => characters.len() - start,
            None => {
                characters[start..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').count()
            }
        };
        Self::in_line(&characters, line, start, length.clamp(1, (characters.len() - start).max(1)))
    }

    /// Returns the place after the last character, where something is missing.
    pub(crate) fn end(sql: &str) -> Self {
        let text = sql.trim_end();
        let characters: Vec<char> = text
            .lines()
            .last()
            .unwrap_or("")
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        Self::in_line(&characters, text.lines().count().max(1), characters.len(), 1)
    }

    /// Returns the only place of the word `word` outside quotes, or `None` if there are none or
    /// several.
    pub(crate) fn only(sql: &str, word: &str) -> Option<Self> {
        let mut found = words(sql).filter(|(_, _, text)| text.eq_ignore_ascii_case(word));
        let (line, column, text) = found.next()?;
        found
            .next()
            .is_none()
            .then(|| Self::new(sql, line, column, Some((line, column + text.chars().count()))))
    }

    /// Returns the first place of the word `word` outside quotes.
    pub(crate) fn first(sql: &str, word: &str) -> Option<Self> {
        let (line, column, text) =
            words(sql).find(|(_, _, text)| text.eq_ignore_ascii_case(word))?;
        Some(Self::new(sql, line, column, Some((line, column + text.chars().count()))))
    }

    fn in_line(characters: &[char], line: usize, start: usize, length: usize) -> Self {
        let from = if characters.len() > SHOWN { start.saturating_sub(SHOWN / 2) } else { 0 };
        let to = (from + SHOWN).min(characters.len());
        let before = if from > 0 { "…" } else { "" };
        let after = if to < characters.len() { "…" } else { "" };
        let middle: String = characters[from..to].iter().collect();
        let wide = |part: &[char]| part.iter().map(|c| c.width().unwrap_or(0)).sum::<usize>();
        let marked = &characters[start..(start + length).min(to)];
        Self {
            line,
            column: start + 1,
            excerpt: format!("{before}{}{after}", middle.trim_end()),
            indent: before.width() + wide(&characters[from..start]),
            carets: wide(marked).max(1),
        }
    }

    /// Converts the place in a text with `before` characters prepended to the place in `text`.
    pub(crate) fn moved(self, text: &str, before: usize) -> Self {
        let characters: Vec<char> = text
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        match self.column.checked_sub(before + 1) {
            Some(start) if self.line == 1 => {
                Self::in_line(&characters, 1, start.min(characters.len()), self.carets)
            }
            _ => self,
        }
    }

    /// Returns whether the marked text starts with this character.
    pub(crate) fn starts_with(&self, sql: &str, character: char) -> bool {
        sql.lines().nth(self.line - 1).and_then(|line| line.chars().nth(self.column - 1))
            == Some(character)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "line {}, column {}:", self.line, self.column)?;
        writeln!(f, "  {}", self.excerpt)?;
        write!(f, "  {}{}", " ".repeat(self.indent), "^".repeat(self.carets))
    }
}

/// Returns the words of the SQL with their line and column, except those in single quotes.
fn words(sql: &str) -> impl Iterator<Item = (usize, usize, String)> {
    let mut words = Vec::new();
    let (mut line, mut column, mut quoted) = (1, 1, false);
    let mut word = String::new();
    for character in sql.chars().chain([' ']) {
        if !quoted && (character.is_alphanumeric() || character == '_') {
            word.push(character);
        } else if !word.is_empty() {
            let length = word.chars().count();
            words.push((line, column - length, std::mem::take(&mut word)));
        }
        quoted ^= character == '\'';
        if character == '\n' {
            (line, column) = (line + 1, 1);
        } else {
            column += 1;
        }
    }
    words.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carets_stand_under_the_word_also_after_tabs_and_wide_characters() {
        assert_eq!(
            Place::new("SELECT x\nFROM\tmetta", 2, 6, None).to_string(),
            "line 2, column 6:\n  FROM metta\n       ^^^^^"
        );
        // 红圆 takes four columns of a terminal.
        let sql = "SELECT '红圆', foo";
        assert_eq!(
            Place::new(sql, 1, 14, None).to_string(),
            format!("line 1, column 14:\n  {sql}\n  {}^^^", " ".repeat(15))
        );
    }

    #[test]
    fn long_line_is_shown_around_the_place() {
        let sql = format!("SELECT {} foo {}", "a,".repeat(200), "b".repeat(200));
        let place = Place::only(&sql, "foo").unwrap();
        let shown = place.to_string();
        let lines: Vec<&str> = shown.lines().collect();
        let at = lines[2].chars().position(|c| c == '^').unwrap();
        assert_eq!(lines[1].chars().skip(at).take(3).collect::<String>(), "foo");
        assert!(lines[1].chars().count() < 110 && lines[2].ends_with("^^^"), "{shown}");
    }

    #[test]
    fn places_outside_the_text_become_its_end() {
        assert_eq!(Place::new("SELECT", 7, 3, None), Place::end("SELECT"));
        assert_eq!(Place::end("SELECT\n").to_string(), "line 1, column 7:\n  SELECT\n        ^");
        assert_eq!(Place::end("").to_string(), "line 1, column 1:\n  \n  ^");
        assert_eq!(
            Place::new("SELECT", 1, 99, None).to_string(),
            "line 1, column 7:\n  SELECT\n        ^"
        );
    }

    #[test]
    fn place_is_moved_into_the_text_that_something_was_put_in_front_of() {
        let (before, text) = ("WHERE ", "a = 1\n AND foo");
        let whole = format!("{before}{text}");
        for word in ["a", "foo"] {
            let moved = Place::only(&whole, word).unwrap().moved(text, before.len());
            assert_eq!(moved, Place::only(text, word).unwrap());
        }
        assert_eq!(Place::end("WHERE a >").moved("a >", before.len()), Place::end("a >"));
    }

    #[test]
    fn words_in_quotes_are_no_places() {
        assert_eq!(Place::only("SELECT 'foo', foo", "foo").unwrap().column, 15);
        assert_eq!(Place::only("SELECT foo, foo", "foo"), None);
        assert_eq!(Place::first("SELECT foo, foo", "FOO").unwrap().column, 8);
    }
}
