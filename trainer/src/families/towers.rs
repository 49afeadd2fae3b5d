//! The weights of one tower, taken from a whole model or from a model that is such a tower.

use std::collections::BTreeMap;

use tch::Tensor;

use super::list::ModelConfig;
use super::weights::Weights;
use crate::TrainerError;
use crate::nn::parameters::Part;

/// Finds the values for one part of a model, each with its index among all parameters.
///
/// Between families the head keeps its values. All other tensors that are missing or different are
/// an error.
pub(crate) fn tower_weights(
    config: &ModelConfig,
    part: Part,
    weights: &Weights,
) -> Result<Vec<(usize, Tensor)>, TrainerError> {
    let refusal = |message: String| TrainerError::weights(&weights.path, message);
    let name = part.name();
    let specs = config.parameters();
    if !specs.iter().any(|spec| spec.part == part) {
        return Err(refusal(format!(
            "model.weights names a tower ({name}) that the model, {}, does not have",
            config.family()
        )));
    }
    let refuse_other = |differences: Option<String>| match differences {
        None => Ok(()),
        Some(differences) => Err(refusal(format!(
            "{} has a different {name} tower (model and weights): {differences}",
            weights.origin
        ))),
    };
    // Within a family the whole tower is taken, between families the stack that both have.
    let renamed = if config.is_of_the_family_of(&weights.config) {
        refuse_other(config.tower_differences(&weights.config, part))?;
        None
    } else {
        let (Some((ours, our_shape)), Some((theirs, their_shape))) =
            (config.bert_stack(part), weights.config.bert_stack(part))
        else {
            return Err(refusal(format!(
                "{} has no {name} tower that fits {}",
                weights.config.family(),
                config.family()
            )));
        };
        refuse_other(our_shape.differences(&their_shape))?;
        Some((ours, theirs))
    };
    let named: BTreeMap<String, &Tensor> = weights.named().collect();
    let mut found = Vec::new();
    for (place, spec) in specs.iter().enumerate().filter(|(_, spec)| spec.part == part) {
        let there = match renamed.map(|(ours, theirs)| (spec.name.strip_prefix(ours), theirs)) {
            None => spec.name.clone(),
            Some((Some(rest), theirs)) => format!("{theirs}{rest}"),
            Some((None, _)) => continue,
        };
        match named.get(&there) {
            Some(tensor) if tensor.size() == spec.shape => {
                found.push((place, tensor.shallow_clone()));
            }
            Some(tensor) => {
                let size = tensor.size();
                return Err(refusal(format!(
                    "{there} has shape {size:?}, expected {:?}",
                    spec.shape
                )));
            }
            None => {
                return Err(refusal(format!(
                    "{} lacks {there}, which the model's {name} tower needs",
                    weights.origin
                )));
            }
        }
    }
    Ok(found)
}
