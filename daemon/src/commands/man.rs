//! `diptych man`: writes the man pages into a folder.

use anyhow::Context;
use diptych_cli::{ManArgs, man_pages};
use diptych_schemas::durable;
use diptych_schemas::outcome::Outcome;

use crate::output::line;

pub(crate) fn run(args: &ManArgs) -> anyhow::Result<Outcome> {
    let folder = &args.folder;
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let pages = man_pages()?;
    for page in &pages {
        durable::write(&folder.join(&page.name), &page.text)?;
    }
    line(format!("{} man pages in {}", pages.len(), folder.display()))?;
    Ok(Outcome::Done)
}
