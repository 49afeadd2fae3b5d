//! Turns serde's complaint about an unknown key into advice: which key was probably meant.

use serde::de::DeserializeOwned;

/// Parses a configuration; the error says the line, and for an unknown key the nearest known one.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|error| {
        let place = error.span().map_or_else(String::new, |span| {
            let line = text[..span.start].matches('\n').count() + 1;
            format!("line {line}: ")
        });
        format!(
            "{place}{}",
            unknown_key(error.message()).unwrap_or_else(|| error.message().trim_end().to_owned())
        )
    })
}

/// For an error of the form "unknown field `x`, expected one of `a`, `b`", the same in a user's words with the nearest known key.
fn unknown_key(message: &str) -> Option<String> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let found = quoted.next()?;
    let known: Vec<&str> = quoted.collect();
    let nearest = known
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(found, a).total_cmp(&strsim::jaro_winkler(found, b)))?;
    let all = known.join(", ");
    Some(if strsim::jaro_winkler(found, nearest) > 0.75 {
        format!("unknown key `{found}`: did you mean `{nearest}`? (known here: {all})")
    } else {
        format!("unknown key `{found}`; known here: {all}")
    })
}
