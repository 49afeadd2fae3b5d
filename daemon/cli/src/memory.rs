//! The memory limit of verbs that compute over whole datasets.

use clap::Args;

const LEAST: usize = 64 << 20;

#[derive(Debug, Args)]
pub struct MemoryArg {
    /// Memory for sorts, joins and keys, as in 512MiB or 4GiB. The rest goes to temporary files in
    /// TMPDIR [default: half of the available memory]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory_limit: Option<usize>,
}

/// Parses a size in bytes, or with one of the usual units.
fn bytes(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit: usize = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "kb" => 1_000,
        "m" | "mib" => 1 << 20,
        "mb" => 1_000_000,
        "g" | "gib" => 1 << 30,
        "gb" => 1_000_000_000,
        other => {
            return Err(format!("unknown unit {other:?}; use KiB, MiB, GiB, KB, MB or GB"));
        }
    };
    let number: f64 = digits
        .trim()
        .parse()
        .map_err(|_| "expected a number with a unit, as in 512MiB".to_owned())?;
    let size = (number * unit as f64) as usize;
    if size < LEAST {
        Err("must be at least 64MiB: with less, even small sorts fail".into())
    } else {
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_usual_units() {
        assert_eq!(bytes("512MiB"), Ok(512 << 20));
        assert_eq!(bytes("1.5 gib"), Ok(3 << 29));
        assert_eq!(bytes("200000000"), Ok(200_000_000));
        for wrong in ["", "MiB", "1 parsec", "12MiB", "-1GiB", "NaNGiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
