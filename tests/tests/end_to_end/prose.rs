//! Rules for comments: how doc comments begin, how long their sentences are, how long lines are.
//!
//! Alone, and for crates that are not in [`CLEAN`] yet:
//!
//! ```text
//! DIPTYCH_PROSE="schemas/ trainer/" cargo test --workspace --test end_to_end -- prose
//! ```
//!
//! A crate joins by a line in [`CLEAN`]: its folder with a slash at the end.

use crate::tidy::sources;

/// Starts of the paths that keep the rules. `"daemon/"` would be all crates of the daemon.
const CLEAN: [&str; 4] = ["daemon/", "pipeline/", "schemas/", "trainer/"];

/// Names folders that are checked too, separated by spaces.
const MORE: &str = "DIPTYCH_PROSE";

/// Columns of a line.
const COLUMNS: usize = 100;

/// Words of a sentence in a doc comment.
const WORDS: usize = 30;

/// Words that end in a dot and end no sentence.
const ABBREVIATIONS: [&str; 14] = [
    "e.g.", "i.e.", "etc.", "cf.", "vs.", "al.", "Fig.", "Sec.", "No.", "approx.", "resp.", "ca.",
    "Dr.", "St.",
];

#[test]
fn comments_are_plain_and_lines_fit() {
    let more = std::env::var(MORE).unwrap_or_default();
    let checked: Vec<&str> = CLEAN.into_iter().chain(more.split_whitespace()).collect();
    let is_checked =
        |name: &str| checked.iter().any(|folder| name.starts_with(folder.trim_start_matches("./")));
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| is_checked(name))
        .flat_map(|(name, text)| {
            offences(&text)
                .into_iter()
                .map(move |Offence { line, what }| format!("{name}:{line}: {what}"))
        })
        .collect();
    assert!(found.is_empty(), "{} offences:\n{}", found.len(), found.join("\n"));
}

/// A place that breaks a rule.
#[derive(Debug, PartialEq)]
struct Offence {
    /// Counted from 1.
    line: usize,
    what: String,
}

fn offences(text: &str) -> Vec<Offence> {
    let literals = literals(text);
    let mut found: Vec<Offence> = text
        .lines()
        .zip(&literals)
        .enumerate()
        .filter(|(_, (line, literal))| is_too_long(line, **literal))
        .map(|(number, (line, _))| Offence {
            line: number + 1,
            what: format!("{} columns, {COLUMNS} at most", line.chars().count()),
        })
        .collect();
    for block in doc_blocks(text, &literals) {
        found.extend(block.offences());
    }
    found.sort_by_key(|offence| offence.line);
    found
}

/// Returns whether a line has too many columns.
///
/// A line may be longer where column 101 lies in a string literal, since `cargo fmt` breaks none of
/// them. A comment may be longer where one word alone does not fit, as in a link.
fn is_too_long(line: &str, last_is_literal: bool) -> bool {
    if line.chars().count() <= COLUMNS || last_is_literal {
        return false;
    }
    let indent = line.chars().take_while(|char| char.is_whitespace()).count();
    let longest = line.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0);
    let is_comment = line.trim_start().starts_with("//");
    !(is_comment && (line.contains("://") || indent + "/// ".len() + longest > COLUMNS))
}

/// Where a scan of Rust code stands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Code,
    LineComment,
    /// Nested so deep.
    BlockComment(usize),
    Text,
    /// Its end has so many `#`.
    RawText(usize),
}

/// For each line, returns whether column 101 lies in a string literal or just behind its end.
fn literals(text: &str) -> Vec<bool> {
    let mut place = Place::Code;
    text.split_inclusive('\n')
        .map(|line| {
            let chars: Vec<char> = line.chars().collect();
            let (mut at, mut is_literal) = (0, false);
            while at < chars.len() {
                let before = place;
                let step = advance(&chars, at, &mut place);
                let in_text = |place| matches!(place, Place::Text | Place::RawText(_));
                let reaches = at <= COLUMNS && COLUMNS < at + step;
                // A comma or bracket behind a literal stays on its line.
                let behind = chars[at..].iter().all(|char| "\",;)?}]\n".contains(*char));
                if (in_text(before) || in_text(place)) && (reaches || (at < COLUMNS && behind)) {
                    is_literal = true;
                }
                at += step;
            }
            if place == Place::LineComment {
                place = Place::Code;
            }
            is_literal
        })
        .collect()
}

/// Moves over the next characters. Returns how many they are.
fn advance(chars: &[char], at: usize, place: &mut Place) -> usize {
    let rest = &chars[at..];
    let starts = |text: &str| text.chars().zip(rest).filter(|(a, b)| a == *b).count() == text.len();
    match *place {
        Place::Code if starts("//") => *place = Place::LineComment,
        Place::Code if starts("/*") => {
            *place = Place::BlockComment(1);
            return 2;
        }
        Place::Code if starts("'\\") => {
            // An escaped character, up to its end.
            return 3 + rest.iter().skip(3).position(|char| *char == '\'').map_or(0, |end| end + 1);
        }
        Place::Code if starts("'") && rest.get(2) == Some(&'\'') => return 3,
        Place::Code if starts("\"") => *place = Place::Text,
        Place::Code if starts("r\"") || starts("r#") => {
            let hashes = rest[1..].iter().take_while(|char| **char == '#').count();
            let in_a_name = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
            let is_byte = at > 0 && chars[at - 1] == 'b';
            if rest.get(1 + hashes) == Some(&'"') && (!in_a_name || is_byte) {
                *place = Place::RawText(hashes);
                return 2 + hashes;
            }
        }
        Place::BlockComment(depth) if starts("*/") => {
            *place = if depth == 1 { Place::Code } else { Place::BlockComment(depth - 1) };
            return 2;
        }
        Place::BlockComment(depth) if starts("/*") => {
            *place = Place::BlockComment(depth + 1);
            return 2;
        }
        Place::Text if starts("\\") => return 2.min(rest.len()),
        Place::Text if starts("\"") => *place = Place::Code,
        Place::RawText(hashes) if starts("\"") => {
            if rest[1..].iter().take_while(|char| **char == '#').count() >= hashes {
                *place = Place::Code;
                return 1 + hashes;
            }
        }
        Place::Code
        | Place::LineComment
        | Place::BlockComment(_)
        | Place::Text
        | Place::RawText(_) => {}
    }
    1
}

/// The lines of a doc comment, without its slashes.
struct DocBlock<'a> {
    /// The number of each line, and its text.
    lines: Vec<(usize, &'a str)>,
}

/// Returns the doc comments of a file.
fn doc_blocks<'a>(text: &'a str, literals: &[bool]) -> Vec<DocBlock<'a>> {
    let mut blocks: Vec<DocBlock> = Vec::new();
    let mut open = None;
    for (number, (line, literal)) in text.lines().zip(literals).enumerate() {
        let line = line.trim_start();
        let marker = ["//!", "///"]
            .into_iter()
            .find(|marker| line.starts_with(marker) && !line.starts_with("////") && !literal);
        if let Some(marker) = marker {
            let entry = (number + 1, &line[marker.len()..]);
            match blocks.last_mut().filter(|_| open == Some(marker)) {
                Some(block) => block.lines.push(entry),
                None => blocks.push(DocBlock { lines: vec![entry] }),
            }
        }
        open = marker;
    }
    blocks
}

impl DocBlock<'_> {
    fn offences(&self) -> Vec<Offence> {
        let mut found = Vec::new();
        if let Some((line, text)) = self.lines.iter().find(|(_, text)| !text.trim().is_empty()) {
            for start in ["What", "The same"] {
                let rest = text.trim_start().strip_prefix(start);
                if rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric)) {
                    let what = format!("the comment begins with {start:?}");
                    found.push(Offence { line: *line, what });
                }
            }
        }
        for paragraph in self.paragraphs() {
            found.extend(paragraph.offences());
        }
        found
    }

    /// Splits into running text, without code, tables and headings. Items of lists stand alone.
    fn paragraphs(&self) -> Vec<Paragraph> {
        let mut found = vec![Paragraph::default()];
        let mut fence = None;
        for &(line, text) in &self.lines {
            let trimmed = text.trim();
            let marker = ["```", "~~~"].into_iter().find(|marker| trimmed.starts_with(marker));
            if let Some(marker) = marker {
                fence = match fence {
                    None => Some(marker),
                    Some(open) if open == marker => None,
                    Some(open) => Some(open),
                };
                found.push(Paragraph::default());
                continue;
            }
            let is_code =
                text.starts_with("     ") && found.last().is_some_and(Paragraph::is_empty);
            let is_none = trimmed.is_empty()
                || trimmed.starts_with(['|', '#'])
                || (trimmed.starts_with('[') && trimmed.contains("]: "))
                || is_code;
            if fence.is_some() {
                continue;
            }
            let item = item(trimmed);
            if is_none || item.is_some() {
                found.push(Paragraph::default());
            }
            if !is_none && let Some(paragraph) = found.last_mut() {
                paragraph.push(line, item.unwrap_or(trimmed));
            }
        }
        found
    }
}

/// Returns the text of an item of a list.
fn item(line: &str) -> Option<&str> {
    let number = line.trim_start_matches(|char: char| char.is_ascii_digit());
    let bullet = ["- ", "* ", "+ "].into_iter().find_map(|bullet| line.strip_prefix(bullet));
    bullet.or_else(|| number.strip_prefix(". ").filter(|_| number.len() < line.len()))
}

/// Words of running text, each with the line that it stands in.
#[derive(Default)]
struct Paragraph {
    words: Vec<(usize, String)>,
}

impl Paragraph {
    fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    fn push(&mut self, line: usize, text: &str) {
        self.words.extend(text.split_whitespace().map(|word| (line, word.to_owned())));
    }

    fn offences(&self) -> Vec<Offence> {
        let mut found = Vec::new();
        let (mut count, mut first) = (0, None);
        let words = self.without_code();
        for (at, (line, word)) in words.iter().enumerate() {
            first.get_or_insert(*line);
            count += usize::from(word.contains(char::is_alphanumeric));
            let next = words.get(at + 1).map(|(_, word)| word.as_str());
            if ends_a_sentence(word, next) {
                if count > WORDS {
                    let what = format!("a sentence of {count} words, {WORDS} at most");
                    found.push(Offence { line: first.unwrap_or(*line), what });
                }
                (count, first) = (0, None);
            }
        }
        found
    }

    /// Joins the words of each code span and of each link's address into one word.
    fn without_code(&self) -> Vec<(usize, String)> {
        let mut joined: Vec<(usize, String)> = Vec::new();
        let mut is_open = false;
        for (line, word) in &self.words {
            match joined.last_mut().filter(|_| is_open) {
                Some((_, code)) => *code += word,
                None => joined.push((*line, word.clone())),
            }
            if word.matches('`').count() % 2 == 1 {
                is_open = !is_open;
            }
        }
        joined
    }
}

/// Returns whether a sentence ends with a word, before `next` or the end of its paragraph.
fn ends_a_sentence(word: &str, next: Option<&str>) -> bool {
    let Some(next) = next else { return true };
    let bare = word.trim_end_matches(['"', '\'', ')', ']', '”', '*', '_']);
    let opening = ['(', '"', '\'', '“', '[', '*', '_'];
    let abbreviated = bare.trim_start_matches(opening);
    let begins = next.trim_start_matches(opening).chars().next();
    bare.ends_with(['.', '!', '?'])
        && !ABBREVIATIONS.contains(&abbreviated)
        && begins.is_none_or(|char| !char.is_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(usize, String)> {
        offences(text).into_iter().map(|Offence { line, what }| (line, what)).collect()
    }

    fn words(count: usize) -> String {
        vec!["word"; count].join(" ")
    }

    #[test]
    fn first_words_are_refused_where_a_doc_comment_begins() {
        let text = "//! What it is.\n\nfn a() {}\n/// A number.\n/// What it is.\n    /// The same.\n// What.\n";
        assert_eq!(found(text), [(1, "the comment begins with \"What\"".to_owned())]);
        assert_eq!(found("/// The same.\nfn a() {}\n///\n/// What, then?\n").len(), 2);
        assert_eq!(found("/// Whatever it is.\n/// The sameness of it.\n"), []);
    }

    #[test]
    fn long_sentences_are_found_in_running_text() {
        let long = words(31);
        for text in [
            format!("/// {long}.\n"),
            format!("/// Short.\n/// {} and\n/// more.\n", words(29)),
            format!("/// - {long}\n"),
            format!("//! 1. {long}\n"),
            format!("/// {} e.g. {}.\n", words(15), words(15)),
            format!("/// {} (e.g. {}).\n", words(15), words(15)),
            format!("/// {} 0.5 {}.\n", words(15), words(15)),
            format!("/// ```\n/// code\n/// ```\n/// {long}\n"),
        ] {
            let marker = &text[..3];
            let text = text.replace(
                "word word word word word ",
                &format!("word word word word word\n{marker} "),
            );
            assert_eq!(found(&text).len(), 1, "{text}");
        }
    }

    #[test]
    fn what_is_no_sentence_is_not_counted() {
        let long = words(31);
        let broken = |text: &str| text.replace("word word word word ", "word word word word\n/// ");
        for text in [
            format!("/// {}. {}.\n", words(20), words(20).replacen('w', "W", 1)),
            format!("/// {}\n///\n/// {}\n", words(20), words(20)),
            format!("/// - {}\n/// - {}\n", words(20), words(20)),
            format!("/// `{long}` is one.\n"),
            format!("/// ```\n/// {long}\n/// ```\n"),
            format!("/// | {long} |\n").replace("word word word word ", "word "),
            format!("// {long}\n"),
            "/// a × b → c × d → e × f → g × h → i × j → k × l → m × n → o × p → q × r → s × t\n"
                .into(),
        ] {
            let text =
                if text.contains('|') || text.starts_with("// ") { text } else { broken(&text) };
            let sentences = found(&text).into_iter().filter(|(_, what)| what.contains("sentence"));
            assert_eq!(sentences.count(), 0, "{text}");
        }
    }

    #[test]
    fn lines_are_too_long_but_for_literals_and_links() {
        let long = "a".repeat(90);
        for text in [
            format!("    // {}\n", words(20)),
            format!("    let {long} = call(1, 2);\n"),
            format!("    call(\"short\"); // {}\n", words(20)),
            format!("    call(\"short\", {long}, b);\n"),
            format!("    let a = '\"'; let {long} = \"b\" + c;\n"),
        ] {
            assert_eq!(found(&text).len(), 1, "{text}");
        }
        for text in [
            format!("// {}\n", words(19)),
            format!("    // See https://example.org/{long}\n"),
            format!("/// [`{}`]\n", long.repeat(2)),
            format!("    call(\"{}\");\n", words(20)),
            format!("    call(\"{long}12\"),\n"),
            format!("    let a = \"\n{}\n\";\n", words(30)),
            format!("    let a = r#\"\n\" {} \"\n\"#;\n", words(30)),
        ] {
            assert_eq!(found(&text), [], "{text}");
        }
    }
}
