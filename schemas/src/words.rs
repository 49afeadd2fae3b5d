//! Text forms of numbers and errors, for messages, reports and pages.

use std::any::Any;
use std::error::Error;
use std::path::Path;

/// Operating system errors ENOSPC and EDQUOT, with advice.
const NO_ROOM: [(&str, &str); 2] = [
    (
        "(os error 28)",
        "The disk of that file is full: make room there (`df -h` shows how full disks are) or \
         choose a folder on another disk, then run the same command again",
    ),
    (
        "(os error 122)",
        "Your quota on the disk of that file is used up: make room there or choose a folder on \
         another disk, then run the same command again",
    ),
];

/// Operating system errors EMFILE and ENFILE, with advice. Libraries pass errors on as text, so
/// they are recognised by their text.
const TOO_MANY_OPEN_FILES: [(&str, &str); 2] = [
    (
        "(os error 24)",
        "This process cannot open more files: raise its limit with `ulimit -n 65536` or \
         LimitNOFILE= in its unit",
    ),
    (
        "(os error 23)",
        "This machine cannot open more files: raise the limit with `sysctl fs.file-max`, or stop \
         programs that keep many files open",
    ),
];

/// Jaro-Winkler similarity above which a word counts as a possible intention.
const LIKE: f64 = 0.75;
/// Similarity of words with one typing mistake between them, whatever Jaro and Winkler say.
const ONE_MISTAKE: f64 = 0.95;
/// Characters from which one mistake leaves a word recognisable.
const LONG_ENOUGH: usize = 3;
/// Files of a folder that are compared with a mistyped name.
const NEIGHBOURS: usize = 10_000;

/// Returns the message of a caught panic, or `None` if it is not text.
pub fn panic_message(payload: &(dyn Any + Send)) -> Option<&str> {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
}

/// Returns advice if an error comes from too many open files. No file is damaged in that case.
fn open_files_advice(message: &str) -> Option<&'static str> {
    let known = TOO_MANY_OPEN_FILES.iter().find(|(code, _)| message.contains(code));
    known.map(|(_, advice)| *advice)
}

/// Says that a file cannot be read. `damage` is used if the file's content is the cause.
pub fn unreadable(path: &Path, message: &str, damage: &str) -> String {
    match open_files_advice(message) {
        Some(advice) => format!("{}: {message}. {advice}", path.display()),
        None => format!("{}: {damage}", path.display()),
    }
}

/// Joins an error and its causes into one text, without causes that the text already contains. Adds
/// advice for too many open files and for a full disk.
pub fn describe(error: impl AsRef<dyn Error + 'static>) -> String {
    let error = error.as_ref();
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    // An outer layer may have added more precise advice already.
    let no_room =
        NO_ROOM.iter().find(|(code, _)| text.contains(code) && !text.contains("make room"));
    match open_files_advice(&text).or(no_room.map(|(_, advice)| *advice)) {
        Some(advice) if !text.contains(advice) => format!("{text}. {advice}"),
        _ => text,
    }
}

/// Returns the known word that is most similar to `found`, or `None` if none is similar enough.
pub fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let found = found.to_lowercase();
    let likeness = |word: &str| {
        let word = word.to_lowercase();
        let is_close =
            word.chars().count() >= LONG_ENOUGH && strsim::damerau_levenshtein(&found, &word) <= 1;
        let similar = strsim::jaro_winkler(&found, &word);
        // Long words share letters by chance.
        let is_part = word.contains(&found) || found.contains(&word);
        let keeps_half = strsim::normalized_damerau_levenshtein(&found, &word) >= 0.5;
        match (is_close, is_part || keeps_half) {
            (true, _) => similar.max(ONE_MISTAKE),
            (false, true) => similar,
            (false, false) => 0.0,
        }
    };
    let rated = known.into_iter().map(|word| (likeness(word), word));
    let (likeness, word) = rated.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (likeness > LIKE).then_some(word)
}

/// Returns a question after the nearest known word, as in " (did you mean label?)", or an empty
/// text.
pub fn did_you_mean<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(found, known).map_or_else(String::new, |word| format!(" (did you mean {word}?)"))
}

/// Returns a question after the nearest file or folder next to a path that does not exist, or an
/// empty text. Looks only at those that fulfil a condition.
pub fn did_you_mean_path(path: &Path, is_wanted: impl Fn(&Path) -> bool) -> String {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let entries = std::fs::read_dir(parent.unwrap_or(Path::new("."))).into_iter().flatten();
    let names: Vec<String> = entries
        .flatten()
        .take(NEIGHBOURS)
        .filter(|entry| is_wanted(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let found = path.file_name().unwrap_or_default().to_string_lossy();
    // What exists is not mistyped.
    let others = names.iter().map(String::as_str).filter(|name| *name != found);
    match nearest(&found, others) {
        Some(name) => format!(" (did you mean {}?)", path.with_file_name(name).display()),
        None => String::new(),
    }
}

/// Breaks a text into lines of at most `columns` characters. A longer word has a line of its own.
pub fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Writes a number with a comma between thousands: `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a duration in its two largest units: `2 min 50 s`.
pub fn duration(seconds: f64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    if !seconds.is_finite() {
        return "–".to_owned();
    }
    let seconds = seconds.max(0.0).round() as u64;
    let first = UNITS.iter().position(|(_, size)| seconds >= *size);
    let Some(first) = first else { return "0 s".to_owned() };
    let (name, size) = UNITS[first];
    let rest = UNITS.get(first + 1).map(|(name, next)| (seconds % size / next, name));
    match rest {
        Some((count, next)) if count > 0 => format!("{} {name} {count} {next}", seconds / size),
        _ => format!("{} {name}", seconds / size),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Context {
        text: &'static str,
        source: Box<dyn Error + 'static>,
    }

    impl AsRef<dyn Error + 'static> for Context {
        fn as_ref(&self) -> &(dyn Error + 'static) {
            self
        }
    }

    #[test]
    fn cause_that_a_message_contains_already_is_not_repeated() {
        let full = Box::new(io::Error::other("disk full"));
        let inner = Context { text: "a.bin: disk full", source: full };
        let error = Context { text: "the checkpoint was not written", source: Box::new(inner) };
        assert_eq!(describe(&error), "the checkpoint was not written: a.bin: disk full");
    }

    #[test]
    fn too_many_open_files_are_no_damage() {
        let open = |code| {
            unreadable(
                Path::new("a.parquet"),
                &io::Error::from_raw_os_error(code).to_string(),
                "damaged: restore it",
            )
        };
        for (code, says) in [(24, "ulimit -n"), (23, "fs.file-max")] {
            assert!(open(code).contains(says) && !open(code).contains("damaged"), "{}", open(code));
        }
        // EIO.
        assert_eq!(open(5), "a.parquet: damaged: restore it");
        let cause = Box::new(io::Error::from_raw_os_error(24));
        let error = describe(Context { text: "a.parquet", source: cause });
        assert_eq!(error.matches("ulimit").count(), 1, "{error}");
    }

    #[test]
    fn full_disk_comes_with_what_to_do_once() {
        let cause = Box::new(io::Error::from_raw_os_error(28));
        let error = describe(Context { text: "data/blob/00000.parquet", source: cause });
        assert!(error.contains("data/blob") && error.contains("make room"), "{error}");
        let cause = Box::new(io::Error::from_raw_os_error(28));
        let error = describe(Context { text: "make room on the disk of runs", source: cause });
        assert_eq!(error.matches("make room").count(), 1, "{error}");
    }

    #[test]
    fn nearest_word_is_found_in_any_case_or_none() {
        assert_eq!(nearest("labl", ["caption", "label"]), Some("label"));
        assert_eq!(nearest("BATCH", ["batch", "epochs"]), Some("batch"));
        assert_eq!(nearest("zzz", ["caption", "label"]), None);
        assert_eq!(nearest("tiredness", ["private_address", "timeout"]), None);
        assert_eq!(nearest("datacomp", ["laion", "datacomp-basic"]), Some("datacomp-basic"));
        assert_eq!(nearest("a", []), None);
        assert_eq!(nearest("rn", ["run", "other"]), Some("run"));
        assert_eq!(nearest("a", ["b"]), None);
        assert_eq!(did_you_mean("labl", ["label"]), " (did you mean label?)");
        assert_eq!(did_you_mean("zzz", ["label"]), "");
    }

    #[test]
    fn mistyped_path_gets_its_nearest_neighbour() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["data", "other"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let typed = folder.path().join("dta");
        let right = folder.path().join("data");
        let question = format!(" (did you mean {}?)", right.display());
        assert_eq!(did_you_mean_path(&typed, Path::is_dir), question);
        assert_eq!(did_you_mean_path(&typed, Path::is_file), "");
        assert_eq!(did_you_mean_path(&right, Path::is_dir), "");
    }

    #[test]
    fn durations_are_in_their_two_largest_units() {
        let texts = [0.2, 5.0, 59.7, 170.0, 3725.0, 86_400.0, 100_000.0, f64::NAN].map(duration);
        let expected = ["0 s", "5 s", "1 min", "2 min 50 s", "1 h 2 min", "1 d", "1 d 3 h", "–"];
        assert_eq!(texts, expected);
    }

    #[test]
    fn thousands_are_separated() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
