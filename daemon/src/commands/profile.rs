//! `diptych profile`: a dataset as a page.

use std::path::{Path, PathBuf};

use anyhow::bail;
use diptych_pipeline::Selection;
use diptych_schemas::{DatasetManifest, durable};

use diptych_cli::ProfileArgs;
use diptych_embeddings::session::with_session;
use diptych_schemas::outcome::Outcome;
use crate::output::line;
use diptych_schemas::words::thousands;
use diptych_pages::dataset::{ProfileSpec, profile};

/// Beside `dataset.json`: the path of the selection that was made last.
const LAST_SELECTION: &str = "last_selection";
/// Random pairs of a page that a browser still scrolls well.
const MOST_PAIRS: usize = 1000;

pub(crate) fn run(args: &ProfileArgs) -> anyhow::Result<Outcome> {
    if args.pairs > MOST_PAIRS {
        bail!("--pairs {}: at most {MOST_PAIRS} fit on a page", args.pairs);
    }
    let manifest = DatasetManifest::read(&args.dataset)?;
    if manifest.pairs == 0 {
        bail!(
            "{}: there are no pairs in it. `diptych sql \"SELECT reason, count(*) FROM ledger GROUP BY 1\"` says why",
            args.dataset.display()
        );
    }
    let selection = match &args.selection {
        Some(path) => Some((path.clone(), Selection::read(path)?)),
        None => last_selection(&args.dataset),
    };
    let name = std::path::absolute(&args.dataset)?
        .file_name()
        .map_or_else(|| "dataset".into(), |name| name.to_string_lossy().into_owned());
    let spec = ProfileSpec {
        name,
        dataset_hash: manifest.content_hash().to_string(),
        selection: selection.as_ref().map(|(path, selection)| (path.display().to_string(), selection)),
        pairs: args.pairs,
        seed: args.seed,
    };
    let page =
        with_session(Some(&args.dataset), args.state.as_deref(), async |context| Ok(profile(&context, spec).await?.page()))?;
    durable::write(&args.output, page.as_bytes())?;
    line(format!("{}: {} pairs, {} kB", args.output.display(), thousands(manifest.pairs), thousands(page.len() as u64 / 1000)))?;
    Ok(Outcome::Done)
}

/// Keeps in mind which selection was made last. A dataset that cannot be written to has no such memory.
pub(crate) fn remember_selection(dataset: &Path, selection: &Path) {
    let kept = std::path::absolute(selection)
        .map_err(anyhow::Error::from)
        .and_then(|path| Ok(durable::write(&dataset.join(LAST_SELECTION), path.as_os_str().as_encoded_bytes())?));
    if let Err(error) = kept {
        tracing::debug!("the selection is not remembered: {error}");
    }
}

/// The selection that was made last, where it is still there and still this dataset's.
pub(crate) fn last_selection(dataset: &Path) -> Option<(PathBuf, Selection)> {
    let path = PathBuf::from(std::fs::read_to_string(dataset.join(LAST_SELECTION)).ok()?);
    let selection = Selection::read(&path).ok()?;
    Some((path, selection))
}
