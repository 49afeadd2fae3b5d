//! Every key of both configurations, from their schemas.

use diptych_schemas::{KeyReference, serve_keys, train_keys};

use super::markdown::{code, prose, sentence, start};

pub(super) fn train_page() -> anyhow::Result<String> {
    let about = "Keys of the TOML file that `diptych train` reads. `diptych config` prints one with all of them, and \
                 `diptych config --keys train` explains a section. Relative paths are relative to the file.";
    Ok(start("Configuration", about) + &keys(&train_keys()?))
}

pub(super) fn serve_page() -> String {
    let about = "Keys of the TOML file that `diptych serve` reads. `diptych config --serve` prints one with all of them.";
    start("Configuration of the service", about) + &keys(&serve_keys())
}

fn keys(keys: &[KeyReference]) -> String {
    let mut text = "\n## At the top of the file\n\n".to_owned();
    for key in keys {
        text += &if key.is_section { section(key) } else { entry(key) };
    }
    text
}

fn section(key: &KeyReference) -> String {
    format!("\n## \\[{}\\]\n\n{}\n\n", key.key, sentence(&key.text))
}

fn entry(key: &KeyReference) -> String {
    let mut text = format!("- `{}`: {}. ", key.key, key.kind.name);
    text += &match (&key.default, key.example) {
        (Some(default), _) => format!("Default: {}. ", code(default)),
        (None, Some(example)) => format!("No default; for example {}. ", code(example)),
        (None, None) => String::new(),
    };
    text += &format!("{}\n", sentence(&key.text));
    for (word, meaning) in &key.kind.words {
        let meaning =
            if meaning.is_empty() { String::new() } else { format!(": {}", prose(meaning)) };
        text += &format!("  - `{word}`{meaning}\n");
    }
    text
}
