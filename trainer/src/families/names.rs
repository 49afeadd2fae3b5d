//! Advice for model names that are not built in: the most similar name, and how to obtain the
//! weights.

use std::path::Path;

use diptych_schemas::words::nearest;

use super::dual_encoder::config::ONLY_VITS;
use super::list::built_in_names;

/// Prefixes of names of weights in OpenCLIP's `pretrained`.
const TAGS: [&str; 12] = [
    "openai",
    "laion400m",
    "laion2b",
    "laion5b",
    "datacomp",
    "commonpool",
    "webli",
    "dfn2b",
    "dfn5b",
    "metaclip",
    "yfcc15m",
    "cc12m",
];

/// Explains why a text names no model.
pub(super) fn unknown_model(text: &str) -> String {
    if let Some(advice) = how_to_obtain(text) {
        return advice;
    }
    if is_convolutional(text) {
        let kind = if text.to_lowercase().contains("convnext") { "ConvNeXt" } else { "ResNet" };
        return format!("{text} is a {kind}, which is not supported. {ONLY_VITS}");
    }
    let known = built_in_names();
    let plain = |name: &str| {
        let kept = name.chars().filter(char::is_ascii_alphanumeric);
        kept.collect::<String>().to_lowercase()
    };
    // `ViT-B/32`, `vit_b_32` and `ViT-B-32@224` all reduce to the same letters and digits.
    let sought = plain(text);
    let same = known.iter().find(|name| plain(name) == sought).map(String::as_str);
    let meant = same.or_else(|| nearest(text, known.iter().map(String::as_str)));
    match meant {
        Some(name) => format!(
            "neither a built-in model nor a .json file; did you mean {name}? (built in are {} and \
             more; `diptych config --model {name}` prints one)",
            first(&known)
        ),
        None => format!("neither a built-in model ({}) nor a .json file", known.join(", ")),
    }
}

fn first(known: &[String]) -> String {
    let usual = ["demo", "ViT-S-16", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14"];
    let some: Vec<&str> =
        usual.into_iter().filter(|name| known.iter().any(|k| k == name)).collect();
    some.join(", ")
}

/// Explains how to obtain weights named in another program's way.
///
/// Such names are models on the Hugging Face hub, and OpenCLIP's tags. Returns `None` for other
/// texts.
pub fn how_to_obtain(text: &str) -> Option<String> {
    if let Some(advice) = how_to_download(text) {
        return Some(advice);
    }
    let hub = text.rsplit_once("hf-hub:").map(|(_, name)| name);
    let has_tag = |name: &str| TAGS.iter().any(|tag| name.to_lowercase().starts_with(tag));
    if let Some(name) = hub.filter(|name| !name.is_empty()) {
        let folder = name.rsplit('/').next().unwrap_or(name);
        return Some(format!(
            "models of the Hugging Face hub are read from a folder. Download this one with `hf \
             download {name} --local-dir {folder}`, then name the folder (model.weights = \
             \"{folder}\" or --model {folder})"
        ));
    }
    let name = Path::new(text).file_name()?.to_str()?;
    let is_tag = has_tag(name) && !name.contains('.');
    is_tag.then(|| {
        format!(
            "{name} is an OpenCLIP tag, and weights are read from files here. Download some, for \
             example with `hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K --local-dir \
             clip-b32`, and start from them with model.weights = \"clip-b32\" (other models: \
             https://huggingface.co/models?library=open_clip)"
        )
    })
}

/// Returns how to bring weights onto this machine that are named by a URL.
fn how_to_download(text: &str) -> Option<String> {
    // A configuration's folder stands before what it names.
    let hub = ["https://huggingface.co/", "https://hf.co/"];
    if let Some((_, path)) = hub.iter().find_map(|site| text.split_once(site)) {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let (organisation, model) = (parts.next()?, parts.next()?);
        return Some(format!(
            "weights are read from files on this machine: `hf download {organisation}/{model} \
             --local-dir {model}` downloads this model, and then {model} is its name here"
        ));
    }
    ["http://", "https://", "s3://", "gs://", "az://"]
        .iter()
        .any(|scheme| text.contains(scheme))
        .then(|| {
            "weights are read from files on this machine: download them first, and name the file \
             or folder"
                .to_owned()
        })
}

fn is_convolutional(text: &str) -> bool {
    let text = text.to_lowercase();
    let after = text.strip_prefix("rn").or_else(|| text.strip_prefix("resnet"));
    after.is_some_and(|rest| {
        rest.trim_start_matches(['-', '_']).starts_with(|c: char| c.is_ascii_digit())
    }) || text.contains("convnext")
        || text.contains("resnet")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_programs_lead_to_ours() {
        for (text, says) in [
            ("ViT-B/32", "did you mean ViT-B-32?"),
            ("vit_b_16", "did you mean ViT-B-16?"),
            ("ViT-L-14@336px", "did you mean ViT-L-14"),
            ("ViTB32", "did you mean ViT-B-32?"),
            ("ViT-B-33", "did you mean ViT-B-32?"),
            ("RN50", "RN50 is a ResNet"),
            ("RN50x4", "ViT towers"),
            ("convnext_base_w", "ConvNeXt"),
            (
                "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
                "hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K --local-dir",
            ),
            ("laion2b_s34b_b79k", "hf download"),
            ("openai", "hf download"),
            ("https://huggingface.co/openai/clip-vit-base-patch32", "--local-dir clip-vit-base"),
            ("runs/https://example.org/model.bin", "download them first"),
            ("xyz", "neither a built-in model"),
        ] {
            let message = unknown_model(text);
            assert!(message.contains(says), "{message}");
        }
        assert_eq!(
            how_to_obtain("/runs/hf-hub:a/b").map(|message| message.contains("hf download a/b")),
            Some(true)
        );
        assert_eq!(how_to_obtain("/some/folder/model.safetensors"), None);
        assert_eq!(how_to_obtain("runs/datacomp.pt"), None);
    }
}
