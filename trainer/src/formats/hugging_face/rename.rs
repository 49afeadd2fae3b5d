//! Renames tensors between OpenCLIP's names and Hugging Face's, with one list for both directions.
//!
//! No value is computed, so both directions are exact. Missing tensors stay missing and unknown
//! ones keep their names. The caller compares the result with the layout, and its message lists
//! both.

use std::collections::BTreeMap;

use tch::Tensor;

use crate::TrainerError;
use crate::nn::parameters::{BlockNames, ParameterSpec};

/// Tensors of ours whose concatenation along the first dimension equals that of tensors of theirs.
pub(crate) struct Rename {
    ours: Vec<String>,
    theirs: Vec<String>,
    change: ShapeChange,
}

/// The difference in shape between one of our tensors and one of theirs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShapeChange {
    Same,
    Transposed,
    /// Theirs has an additional first dimension of size 1.
    TheirsHasOneMore,
    /// Ours has an additional first dimension of size 1.
    OursHasOneMore,
}

pub(crate) fn one(ours: &str, theirs: &str, change: ShapeChange) -> Rename {
    Rename { ours: vec![ours.to_owned()], theirs: vec![theirs.to_owned()], change }
}

pub(crate) fn several(ours: &[String], theirs: &[String]) -> Rename {
    Rename { ours: ours.to_vec(), theirs: theirs.to_vec(), change: ShapeChange::Same }
}

/// Renames a weight and a bias.
pub(crate) fn layer(ours: &str, theirs: &str) -> [Rename; 2] {
    ["weight", "bias"]
        .map(|part| one(&format!("{ours}.{part}"), &format!("{theirs}.{part}"), ShapeChange::Same))
}

/// Renames a pre-norm block. Hugging Face separates query, key and value.
pub(crate) fn block(names: &BlockNames, ours: &str, theirs: &str) -> Vec<Rename> {
    let mut renames: Vec<Rename> = [
        (names.attention_out, "self_attn.out_proj"),
        (names.ln_1, "layer_norm1"),
        (names.ln_2, "layer_norm2"),
        (names.mlp_in, "mlp.fc1"),
        (names.mlp_out, "mlp.fc2"),
    ]
    .into_iter()
    .flat_map(|(name, their_name)| {
        layer(&format!("{ours}.{name}"), &format!("{theirs}.{their_name}"))
    })
    .collect();
    for (name, part) in [(names.qkv_weight, "weight"), (names.qkv_bias, "bias")] {
        let parts =
            ["q", "k", "v"].map(|letter| format!("{theirs}.self_attn.{letter}_proj.{part}"));
        renames.push(several(&[format!("{ours}.{name}")], &parts));
    }
    renames
}

pub(crate) fn to_hf(
    ours: &BTreeMap<String, &Tensor>,
    renames: &[Rename],
) -> Result<BTreeMap<String, Tensor>, TrainerError> {
    let mut theirs = BTreeMap::new();
    for rename in renames {
        let parts: Vec<&Tensor> =
            rename.ours.iter().filter_map(|name| ours.get(name).copied()).collect();
        if let ([only], [name]) = (parts.as_slice(), rename.theirs.as_slice()) {
            let tensor = match rename.change {
                ShapeChange::Same => only.shallow_clone(),
                ShapeChange::Transposed => only.f_transpose(0, 1)?.f_contiguous()?,
                ShapeChange::TheirsHasOneMore => only.f_unsqueeze(0)?,
                ShapeChange::OursHasOneMore => only.f_squeeze_dim(0)?,
            };
            theirs.insert(name.clone(), tensor);
            continue;
        }
        let whole = Tensor::f_cat(&parts, 0)?;
        for (name, part) in rename.theirs.iter().zip(whole.f_chunk(rename.theirs.len() as i64, 0)?)
        {
            theirs.insert(name.clone(), part.f_contiguous()?);
        }
    }
    Ok(theirs)
}

pub(crate) fn from_hf(
    specs: &[ParameterSpec],
    renames: &[Rename],
    mut theirs: BTreeMap<String, Tensor>,
) -> Result<BTreeMap<String, Tensor>, TrainerError> {
    let rows: BTreeMap<&str, i64> = specs
        .iter()
        .map(|spec| (spec.name.as_str(), spec.shape.first().copied().unwrap_or(1)))
        .collect();
    let mut ours = BTreeMap::new();
    for rename in renames {
        if !rename.theirs.iter().all(|name| theirs.contains_key(name)) {
            continue;
        }
        let parts: Vec<Tensor> =
            rename.theirs.iter().filter_map(|name| theirs.remove(name)).collect();
        if let ([only], [name]) = (parts.as_slice(), rename.ours.as_slice()) {
            // A tensor with the wrong shape passes unchanged, and is refused later under its own
            // name.
            let tensor = match rename.change {
                ShapeChange::Transposed if only.dim() == 2 => {
                    only.f_transpose(0, 1)?.f_contiguous()?
                }
                ShapeChange::TheirsHasOneMore if only.size().first() == Some(&1) => {
                    only.f_squeeze_dim(0)?
                }
                ShapeChange::OursHasOneMore => only.f_unsqueeze(0)?,
                _ => only.shallow_clone(),
            };
            ours.insert(name.clone(), tensor);
            continue;
        }
        let whole = Tensor::f_cat(&parts, 0)?;
        let sizes: Vec<i64> = match rename.ours.as_slice() {
            [_] => whole.size().first().copied().into_iter().collect(),
            several => several.iter().filter_map(|name| rows.get(name.as_str()).copied()).collect(),
        };
        if whole.size().first() == Some(&sizes.iter().sum()) {
            for (name, part) in rename.ours.iter().zip(whole.f_split_with_sizes(&sizes, 0)?) {
                ours.insert(name.clone(), part.f_contiguous()?);
            }
        } else {
            theirs.extend(rename.theirs.iter().cloned().zip(parts));
        }
    }
    ours.append(&mut theirs);
    Ok(ours)
}
