//! Pieces of Markdown that all pages share.

/// Starts a page. `about` is the paragraph below the title.
pub(super) fn start(title: &str, about: &str) -> String {
    format!(
        "# {title}\n\n{about}\n\nThis page is made from the code by `diptych reference`, so it is that of this version.\n"
    )
}

/// Renders a table. Cells are Markdown.
pub(super) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = line(&head);
    text += &format!("|{}\n", "---|".repeat(head.len()));
    for row in rows {
        text += &line(&row);
    }
    text
}

/// Returns text as code.
pub(super) fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

/// Returns running text in which nothing but what is in backquotes is markup.
pub(super) fn prose(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut escaped = String::new();
    for (place, part) in text.split('`').enumerate() {
        if place > 0 {
            escaped.push('`');
        }
        if place % 2 == 1 {
            escaped += part;
            continue;
        }
        for char in part.chars() {
            if matches!(char, '<' | '*' | '[' | ']') {
                escaped.push('\\');
            }
            escaped.push(char);
        }
    }
    escaped
}

/// Returns a sentence with its full stop.
pub(super) fn sentence(text: &str) -> String {
    let text = prose(text);
    if text.is_empty() || text.ends_with(['.', '!', '?', ':', '…']) { text } else { text + "." }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_prose_is_escaped_outside_of_code() {
        assert_eq!(prose("a <b> `<c> *`\n  *d*"), "a \\<b> `<c> *` \\*d\\*");
        assert_eq!(sentence("Reads it"), "Reads it.");
        assert_eq!(
            table(&["a", "b"], [vec!["1|2".into(), "3".into()]]),
            "| a | b |\n|---|---|\n| 1\\|2 | 3 |\n"
        );
    }
}
