//! Numbers formatted for people: short on axes, shares as percentages.

/// Formats a part of a total as a percentage.
pub(crate) fn percent(part: u64, all: u64) -> String {
    let percent = part as f64 / all.max(1) as f64 * 100.0;
    if part > 0 && percent < 0.1 { "<0.1%".into() } else { format!("{percent:.1}%") }
}

/// Formats a fraction as a percentage with up to three digits.
pub(crate) fn percent_of(part: f64) -> String {
    let percent = 100.0 * part;
    if percent.abs() < 10.0 { format!("{percent:.1}%") } else { format!("{percent:.0}%") }
}

/// Formats a number with as few digits as fit on an axis.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    let trimmed = |value: f64, digits: usize, unit: &str| {
        let text = format!("{value:.digits$}");
        let text = if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.')
        } else {
            &text
        };
        format!("{text}{unit}")
    };
    match size {
        _ if size >= 9.995e14 || !size.is_finite() => format!("{value:.1e}"),
        _ if size >= 9.995e8 => trimmed(value / 1e9, 1, "G"),
        _ if size >= 9.995e5 => trimmed(value / 1e6, 1, "M"),
        _ if size >= 9.995e3 => trimmed(value / 1e3, 0, "k"),
        _ if size >= 100.0 => trimmed(value, 0, ""),
        _ if size >= 10.0 => trimmed(value, 1, ""),
        _ if size > 0.0 && size < 1e-3 => format!("{value:.1e}"),
        _ => trimmed(value, 3, ""),
    }
}

/// Returns the first `most` characters of a text. A text that is cut ends in an ellipsis.
pub(crate) fn excerpt(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text[..end].trim_end()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_axes_are_short() {
        let shown: Vec<String> =
            [0.0, 0.25, 2.0, 47.25, 224.0, 12_000.0, 1_500_000.0, 3e9, -0.5, 3e-6]
                .map(short)
                .to_vec();
        assert_eq!(shown, ["0", "0.25", "2", "47.2", "224", "12k", "1.5M", "3G", "-0.5", "3.0e-6"]);
        assert_eq!(
            [2e20, -1e300, f64::INFINITY, f64::NAN].map(short),
            ["2.0e20", "-1.0e300", "inf", "NaN"]
        );
    }

    #[test]
    fn excerpts_end_between_characters() {
        assert_eq!(excerpt("漢字漢字", 4), "漢字漢字");
        assert_eq!(excerpt("漢字 漢字", 3), "漢字…");
    }
}
