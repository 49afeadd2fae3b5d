//! Splits text into statements at semicolons outside of texts, quoted names and comments.

/// Returns the statements of a text, without semicolons and without empty ones.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut begin = 0;
    for end in semicolons(text).ends {
        statements.push(&text[begin..end]);
        begin = end + 1;
    }
    statements.push(&text[begin..]);
    let written = |statement: &&str| !is_blank(statement);
    statements.into_iter().filter(written).map(|statement| statement.trim().to_owned()).collect()
}

/// Returns whether a text ends with a semicolon that ends a statement, or holds no statement.
pub(super) fn is_complete(text: &str) -> bool {
    let found = semicolons(text);
    if found.open {
        return false;
    }
    let rest = found.ends.last().map_or(text, |end| &text[end + 1..]);
    is_blank(rest)
}

/// Returns whether there are only comments and spaces.
fn is_blank(text: &str) -> bool {
    semicolons(text).blank
}

struct Semicolons {
    /// Bytes before each semicolon.
    ends: Vec<usize>,
    /// Whether a text, a quoted name or a comment is still open at the end.
    open: bool,
    /// Whether the last part holds only comments and spaces.
    blank: bool,
}

fn semicolons(text: &str) -> Semicolons {
    let mut found = Semicolons { ends: Vec::new(), open: false, blank: true };
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let length = match character {
            // A doubled quote within a text ends it and begins it again at once.
            '\'' | '"' => {
                found.blank = false;
                closed(rest, 1, &character.to_string())
            }
            '-' if rest.starts_with("--") => Some(rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => closed(rest, 2, "*/"),
            ';' => {
                found.ends.push(text.len() - rest.len());
                Some(1)
            }
            other => {
                found.blank &= other.is_whitespace();
                Some(other.len_utf8())
            }
        };
        let Some(length) = length else {
            found.open = true;
            break;
        };
        rest = &rest[length..];
    }
    found
}

/// Counts the bytes to the end of a part that opens with this many bytes and ends with `close`.
/// Returns `None` if it does not end.
fn closed(text: &str, opening: usize, close: &str) -> Option<usize> {
    text[opening..].find(close).map(|place| opening + place + close.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_texts_names_and_comments_end_nothing() {
        let text = "SELECT ';' AS \"a;b\" -- c;\n; /* d; */ ; SELECT 'it''s;' ;\nSELECT 3";
        assert_eq!(split(text), ["SELECT ';' AS \"a;b\" -- c;", "SELECT 'it''s;'", "SELECT 3"]);
        assert_eq!(split(" \n-- nothing\n;;"), Vec::<String>::new());
    }

    #[test]
    fn statement_is_complete_with_its_semicolon() {
        for complete in ["SELECT 1;", "SELECT ';'; -- and so on", "", "-- nothing", "a; b;"] {
            assert!(is_complete(complete), "{complete}");
        }
        for open in ["SELECT 1", "SELECT ';", "SELECT 1 -- ;", "SELECT 1 /* ;", "a; b"] {
            assert!(!is_complete(open), "{open}");
        }
    }
}
