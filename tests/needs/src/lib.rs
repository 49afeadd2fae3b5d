//! `#[needs(data)]`: ignores a test, with the reason, on a machine that lacks something it needs.
//!
//! Rust's test harness decides at compile time which tests are ignored. Environment variables tell
//! what a machine has; `trainer/setup/setup.py` writes them where cargo reads them. Each test
//! records the variable that it was compiled with, so cargo compiles it again when the variable
//! changes.

use proc_macro::{Delimiter, TokenStream, TokenTree};

struct Need {
    name: &'static str,
    /// Set and not empty if the machine has it.
    variable: &'static str,
    reason: &'static str,
}

const NEEDS: [Need; 8] = [
    Need {
        name: "data",
        variable: "DIPTYCH_TEST_DATA",
        reason: "no test data: DIPTYCH_TEST_DATA names its folder",
    },
    Need {
        name: "onnxruntime",
        variable: "DIPTYCH_ONNX_PACKAGES",
        reason: "no onnxruntime: setup.py --tests fetches it",
    },
    Need {
        name: "adbc",
        variable: "DIPTYCH_ADBC_PACKAGES",
        reason: "no ADBC driver: setup.py --tests fetches it",
    },
    Need {
        name: "strace",
        variable: "DIPTYCH_TEST_STRACE",
        reason: "strace is missing or may not trace",
    },
    Need {
        name: "mounts",
        variable: "DIPTYCH_TEST_MOUNTS",
        reason: "mount namespaces are not allowed",
    },
    Need {
        name: "landlock",
        variable: "DIPTYCH_TEST_LANDLOCK",
        reason: "this kernel has no Landlock",
    },
    Need {
        name: "systemd",
        variable: "DIPTYCH_TEST_SYSTEMD",
        reason: "boot.sh --check says why no systemd can start",
    },
    Need {
        name: "systemd_analyze",
        variable: "DIPTYCH_TEST_SYSTEMD_ANALYZE",
        reason: "systemd-analyze is missing",
    },
];

/// Ignores the test below it if the machine lacks the named thing. Stands above `#[test]`.
#[proc_macro_attribute]
pub fn needs(attribute: TokenStream, test: TokenStream) -> TokenStream {
    expand(&attribute.to_string(), test)
        .unwrap_or_else(|message| source(&format!("::core::compile_error!({message:?});")))
}

fn expand(name: &str, test: TokenStream) -> Result<TokenStream, String> {
    let known: Vec<&str> = NEEDS.iter().map(|need| need.name).collect();
    let need = NEEDS.iter().find(|need| need.name == name);
    let need =
        need.ok_or_else(|| format!("needs({name}): a test can need {}", known.join(", ")))?;
    if !is_test(&test) {
        // The harness has then looked for #[ignore] already.
        return Err("#[needs] stands above #[test]".into());
    }
    let mut found = source(&format!(
        "const _: ::core::option::Option<&str> = ::core::option_env!({:?});",
        need.variable
    ));
    if std::env::var_os(need.variable).is_none_or(|value| value.is_empty()) {
        found.extend(source(&format!("#[ignore = {:?}]", need.reason)));
    }
    found.extend(test);
    Ok(found)
}

/// Returns whether one of the attributes is `#[test]`, or another one whose path ends in `test`.
fn is_test(item: &TokenStream) -> bool {
    let mut tokens = item.clone().into_iter();
    while let (Some(TokenTree::Punct(mark)), Some(TokenTree::Group(attribute))) =
        (tokens.next(), tokens.next())
    {
        if mark.as_char() != '#' || attribute.delimiter() != Delimiter::Bracket {
            return false;
        }
        let path = attribute
            .stream()
            .into_iter()
            .take_while(|token| !matches!(token, TokenTree::Group(_)));
        if path.last().is_some_and(|last| last.to_string() == "test") {
            return true;
        }
    }
    false
}

/// Returns Rust source as tokens. All of that source is written in this file.
fn source(text: &str) -> TokenStream {
    text.parse().unwrap_or_default()
}
