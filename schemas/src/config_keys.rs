//! Turns serde's complaint about an unknown key into advice: which key was probably meant.

/// For an error of the form "unknown field `x`, expected one of `a`, `b`", the same in a user's words with the nearest known key.
pub(crate) fn unknown_key(message: &str) -> Option<String> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let found = quoted.next()?;
    let known: Vec<&str> = quoted.collect();
    let nearest = known.iter().max_by(|a, b| strsim::jaro_winkler(found, a).total_cmp(&strsim::jaro_winkler(found, b)))?;
    let all = known.join(", ");
    Some(if strsim::jaro_winkler(found, nearest) > 0.75 {
        format!("unknown key `{found}`: did you mean `{nearest}`? (known here: {all})")
    } else {
        format!("unknown key `{found}`; known here: {all}")
    })
}
