//! `diptych profile`: writes a page about a dataset.

use anyhow::bail;
use diptych_cli::ProfileArgs;
use diptych_embeddings::session::with_session;
use diptych_pages::dataset::{ProfileSpec, profile};
use diptych_pipeline::Selection;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;
use diptych_schemas::{DatasetManifest, durable};

use crate::client::reading::state_tables;
use crate::output::line;

/// Most random pairs on a page that a browser still scrolls well.
const MOST_PAIRS: usize = 1000;

pub(crate) fn run(args: &ProfileArgs) -> anyhow::Result<Outcome> {
    if args.pairs > MOST_PAIRS {
        bail!("--pairs {}: at most {MOST_PAIRS} fit on a page", args.pairs);
    }
    let manifest = DatasetManifest::read(&args.dataset)?;
    if manifest.pairs == 0 {
        bail!(
            "{}: the dataset has no pairs. `diptych ledger --dataset {}` shows why",
            args.dataset.display(),
            args.dataset.display()
        );
    }
    let selection = match &args.selection {
        Some(path) => Some((path, Selection::read(path)?)),
        None => None,
    };
    let name = std::path::absolute(&args.dataset)?
        .file_name()
        .map_or_else(|| "dataset".into(), |name| name.to_string_lossy().into_owned());
    let spec = ProfileSpec {
        name,
        dataset_hash: manifest.content_hash().to_string(),
        selection: selection
            .as_ref()
            .map(|(path, selection)| (path.display().to_string(), selection)),
        pairs: args.pairs,
        seed: args.seed,
    };
    let state = args.state.as_deref().map(state_tables).transpose()?;
    let page = with_session(Some(&args.dataset), state, async |context| {
        Ok(profile(&context, spec).await?.page())
    })?;
    durable::write(&args.output, page.as_bytes())?;
    line(format!(
        "{}: {} pairs, {} kB",
        args.output.display(),
        thousands(manifest.pairs),
        thousands(page.len() as u64 / 1000)
    ))?;
    Ok(Outcome::Done)
}
