//! Turns serde's errors about a configuration into advice: the key, what it accepts, and the likely
//! intention.

use std::ops::Range;

use serde::de::DeserializeOwned;

use crate::words::nearest;

/// Words of other programs and their equivalents here. An alias applies only where its equivalent
/// is a known word.
const ALIASES: [(&str, &str); 15] = [
    ("amp", "fp16"),
    ("amp_bf16", "bf16"),
    ("amp_bfloat16", "bf16"),
    ("pure_bf16", "bf16"),
    ("pure_fp16", "fp16"),
    ("bfloat16", "bf16"),
    ("float16", "fp16"),
    ("half", "fp16"),
    ("float32", "fp32"),
    ("16", "fp16"),
    ("32", "fp32"),
    ("learning_rate", "lr"),
    ("workers", "threads"),
    ("pretrained", "weights"),
    ("wd", "weight_decay"),
];

/// Advice for users who name pretrained weights the way OpenCLIP does.
const PRETRAINED: &str = "weights are read from files: `hf download ORG/NAME --local-dir FOLDER` \
    brings a model of the Hugging Face hub \
                          (such as laion/CLIP-ViT-B-32-laion2B-s34B-b79K), and weights = \
                          \"FOLDER\" starts from it";

/// Parses a configuration. The error names the line and the key, and the nearest known word for an
/// unknown one.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|error| {
        let message = error.message().trim_end();
        let Some(span) = error.span() else { return message.to_owned() };
        let line = text[..span.start].matches('\n').count() + 1;
        let key = key_at(text, &span);
        let said = unknown_key(message)
            .or_else(|| unknown_variant(message, key.as_deref()))
            .or_else(|| wrong_type(message, key.as_deref()))
            .or_else(|| missing_key(message, text, &span))
            .unwrap_or_else(|| message.to_owned());
        format!("line {line}: {said}")
    })
}

/// Returns the key, with its tables, whose value starts at a position: `train.precision`.
fn key_at(text: &str, span: &Range<usize>) -> Option<String> {
    let before = text.get(..span.start)?;
    let equals = before.rfind('=')?;
    let start = before[..equals].rfind(['\n', '{', ',']).map_or(0, |at| at + 1);
    let key = before[start..equals].trim().trim_matches('"');
    let outer = match before[..start].chars().next_back() {
        Some('{') => key_at(text, &(start - 1..start)),
        _ => section_at(before),
    };
    let is_name = |key: &str| key.chars().all(|c| c.is_alphanumeric() || "_-.".contains(c));
    (!key.is_empty() && is_name(key)).then(|| match outer {
        Some(outer) => format!("{outer}.{key}"),
        None => key.to_owned(),
    })
}

/// Returns the table that the last line belongs to.
fn section_at(before: &str) -> Option<String> {
    let header = before.lines().map(str::trim).rfind(|line| line.starts_with('['))?;
    let name = header.trim_start_matches('[').split(']').next()?.trim();
    (!name.is_empty() && !name.contains([',', '"', '='])).then(|| name.to_owned())
}

/// Returns the parts of a message between backquotes.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

fn meant<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let alias = ALIASES.iter().find(|(word, _)| word.eq_ignore_ascii_case(found));
    let alias = alias.and_then(|(_, ours)| known.iter().find(|word| *word == ours));
    alias.copied().or_else(|| nearest(found, known.iter().copied()))
}

/// Explains "unknown field `x`, expected one of `a`, `b`".
fn unknown_key(message: &str) -> Option<String> {
    let words = quoted(message.strip_prefix("unknown field ")?);
    let (found, known) = words.split_first()?;
    let all = known.join(", ");
    if *found == "pretrained" && known.contains(&"weights") {
        return Some(format!("unknown key `{found}`: {PRETRAINED}"));
    }
    Some(match meant(found, known) {
        Some(word) => {
            format!("unknown key `{found}`: did you mean `{word}`? (known here: {all})")
        }
        None => format!("unknown key `{found}`; known here: {all}"),
    })
}

/// Explains "unknown variant `x`, expected one of `a`, `b`".
fn unknown_variant(message: &str, key: Option<&str>) -> Option<String> {
    let words = quoted(message.strip_prefix("unknown variant ")?);
    let (found, known) = words.split_first()?;
    let all = match known.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => known.join(", "),
    };
    let guess = meant(found, known);
    let guess = guess.map_or_else(String::new, |word| format!(": did you mean \"{word}\"?"));
    Some(format!("{} must be {all}, got {found:?}{guess}", key.unwrap_or("it")))
}

/// Explains "invalid type: string "64", expected u64" and "invalid value: …".
fn wrong_type(message: &str, key: Option<&str>) -> Option<String> {
    let rest = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))
        .or_else(|| message.strip_prefix("invalid length: "))?;
    let (found, expected) = rest.split_once(", expected ")?;
    let expected = match expected.trim_start_matches("a nonzero ") {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "path string" | "a borrowed string" => "a text in quotes",
        "a sequence" => "a list in brackets",
        "a map" => "a table",
        other => other.strip_prefix("struct ").map_or(other, |_| "a table"),
    };
    let value = found.split_once(' ').map_or(found, |(_, value)| value).trim_matches('`');
    let (shown, is_text) = match found.split(' ').next() {
        Some("string") => (format!("the text {value}"), true),
        Some("integer" | "floating" | "boolean") => {
            (value.trim_start_matches("point `").to_owned(), false)
        }
        Some("sequence") => ("a list".into(), false),
        Some("map") => ("a table".into(), false),
        _ => (found.to_owned(), false),
    };
    let bare = value.trim_matches('"');
    let advice = match expected {
        "a whole number from 0" | "a whole number" | "a number"
            if is_text && bare.parse::<f64>().is_ok() =>
        {
            format!(": write {bare} without quotes")
        }
        "true or false" if is_text && matches!(bare, "true" | "false") => {
            format!(": write {bare} without quotes")
        }
        "a text in quotes" if !is_text && shown != "a list" && shown != "a table" => {
            format!(": write \"{shown}\"")
        }
        _ => String::new(),
    };
    Some(format!("{} must be {expected}, got {shown}{advice}", key.unwrap_or("it")))
}

/// Explains "missing field `x`", which serde reports for the table that lacks it.
fn missing_key(message: &str, text: &str, span: &Range<usize>) -> Option<String> {
    let words = quoted(message.strip_prefix("missing field ")?);
    let key = words.first()?;
    let section = text.get(span.clone()).filter(|part| part.starts_with('[')).and_then(section_at);
    Some(match section {
        Some(section) => format!("{section}.{key} is missing"),
        None => format!("{key} is missing"),
    })
}

#[cfg(test)]
mod tests {
    use crate::TrainConfig;

    fn error(add: &str) -> String {
        let smallest = "name = \"a\"\n[data]\ndataset = \"d\"\nselection = \
            \"s.parquet\"\n[model]\nconfig = \"demo\"\n";
        TrainConfig::parse(&format!("{smallest}{add}\n")).unwrap_err()
    }

    #[test]
    fn wrong_values_name_the_key_and_what_it_takes() {
        for (add, says) in [
            (
                "[train]\nbatch_size = \"64\"",
                "train.batch_size must be a whole number from 0, got the text \"64\": write 64 \
                 without quotes",
            ),
            (
                "[train]\nbatch_size = 6.5",
                "train.batch_size must be a whole number from 0, got 6.5",
            ),
            ("[train]\nbatch_size = -1", "train.batch_size must be a whole number from 0, got -1"),
            (
                "[optimizer]\nlr = \"1e-3\"",
                "optimizer.lr must be a number, got the text \"1e-3\": write 1e-3 without quotes",
            ),
            ("[train]\nactivation_checkpointing = \"true\"", "write true without quotes"),
            ("[train]\ndevice = 0", "train.device must be a text in quotes, got 0: write \"0\""),
            (
                "[train]\nprecision = \"amp\"",
                "train.precision must be fp32, bf16 or fp16, got \"amp\": did you mean \"fp16\"?",
            ),
            ("[train]\nprecision = \"bf-16\"", "did you mean \"bf16\"?"),
            (
                "[augment]\nscale = [\"0.5\", 1.0]",
                "augment.scale must be a number, got the text \"0.5\"",
            ),
            ("[train]\nlock = { image = 3 }", "train.lock.image must be true or false, got 3"),
        ] {
            let error = error(add);
            assert!(error.contains(says) && error.starts_with("line "), "{error}");
        }
    }

    #[test]
    fn missing_keys_and_keys_of_other_programs_are_named() {
        let missing = TrainConfig::parse("name = \"a\"\n[data]\n[model]\nweights = \"w\"\n");
        assert!(missing.is_err());
        let missing = TrainConfig::parse("[data]\n[model]\nconfig = \"demo\"\n").unwrap_err();
        assert!(missing.contains("name is missing"), "{missing}");
        let known = TrainConfig::parse(
            "name = \"a\"\n[model]\nconfig = \"demo\"\npretrained = \"laion2b_s34b_b79k\"\n",
        )
        .unwrap_err();
        assert!(known.contains("hf download") && known.contains("weights = "), "{known}");
        let known = error("[optimizer]\nlearning_rate = 1.0");
        assert!(known.contains("`lr`"), "{known}");
    }
}
