//! `diptych export`: writes a model in OpenCLIP's or Hugging Face's form, or as ONNX graphs.

use diptych_cli::{ExportArgs, ModelFormat};
use diptych_embeddings::models;
use diptych_pipeline::Tokenizer;
use diptych_schemas::outcome::Outcome;
use diptych_trainer::{
    LARGEST_EMBEDDED, TokenizerFiles, Weights, export_hf, export_onnx, export_openclip,
};

use crate::output::line;

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<Outcome> {
    let (weights, tokenizer) = models::read(&args.model_ref())?;
    match args.format {
        ModelFormat::Openclip => export_openclip(&weights, tokenizer.to_json(), &args.output)?,
        ModelFormat::Hf => export_hf(&weights, &files(&weights, &tokenizer)?, &args.output)?,
        ModelFormat::Onnx => {
            export_onnx(&weights, &files(&weights, &tokenizer)?, &args.output, LARGEST_EMBEDDED)?;
        }
    }
    line(format!("{} → {}", weights.path.display(), args.output.display()))?;
    Ok(Outcome::Done)
}

fn files(weights: &Weights, tokenizer: &Tokenizer) -> anyhow::Result<TokenizerFiles> {
    let mut files = TokenizerFiles {
        tokenizer_json: tokenizer.to_json().to_owned(),
        ..TokenizerFiles::default()
    };
    // Only CLIP's own has vocab.json and merges.txt beside it.
    if weights.config.texts().is_some_and(|texts| texts.tokenizer.name.is_none()) {
        let vocabulary = tokenizer.vocab_and_merges()?;
        files.vocab = vocabulary.tokens.into_iter().zip(0..).collect();
        files.merges = vocabulary.merges;
    }
    Ok(files)
}
