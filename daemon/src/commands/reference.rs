//! `diptych reference`: the reference pages of the book, made from the code.

use std::fs;

use anyhow::Context;
use diptych_cli::ReferenceArgs;
use diptych_schemas::durable;
use diptych_schemas::outcome::Outcome;

use crate::output::line;
use crate::reference::pages;

pub(crate) fn run(args: &ReferenceArgs) -> anyhow::Result<Outcome> {
    let folder = &args.folder;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    for page in pages()? {
        let file = folder.join(page.file);
        durable::write(&file, page.text.as_bytes())?;
        line(file.display().to_string())?;
    }
    Ok(Outcome::Done)
}
