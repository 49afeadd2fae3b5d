//! Weights of any known format: a checkpoint, an OpenCLIP folder or file, or a Hugging Face folder.
//!
//! The format is recognised by the files. If a folder has safetensors and a torch file, the
//! safetensors are read.
//!
//! Invariant: the result has every tensor of its configuration, in the layout's order and shape,
//! f32. It was made for an activation, pooling and preprocessing that this trainer computes. All
//! else is refused by name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use diptych_schemas::ContentHash;
use tch::{Kind, Tensor};

use super::dual_encoder::config::DualEncoderConfig;
use super::dual_encoder::openclip;
use super::list::{ModelConfig, hugging_face_configuration, import_hugging_face};
use super::names::how_to_obtain;
use crate::TrainerError;
use crate::device::shim;
use crate::formats::checkpoint::{
    self, AVERAGE_FILE, CONFIG_FILE, MANIFEST_FILE, MODEL_FILE, TOKENIZER_FILE,
};
use crate::formats::files::{NamedWeights, first_few, read_tensors};
use crate::formats::{hugging_face, tensor_file};

/// The format that weights were read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Checkpoint,
    OpenClipFolder,
    /// A state dict under OpenCLIP's names, or a training checkpoint that contains one.
    OpenClipFile,
    HuggingFaceFolder,
}

impl Origin {
    /// Recognises the format by the files at a path.
    fn detect(path: &Path) -> Result<Self, TrainerError> {
        let has = |name: &str| path.join(name).is_file();
        let has_any = |names: &[&str]| names.iter().any(|name| has(name));
        if path.is_file() {
            return Ok(Self::OpenClipFile);
        }
        if !path.exists() {
            let advice = how_to_obtain(&path.to_string_lossy());
            let message = advice.unwrap_or_else(|| "no such file or folder".into());
            return Err(TrainerError::weights(path, message));
        }
        if has(MANIFEST_FILE) && has(MODEL_FILE) {
            return Ok(Self::Checkpoint);
        }
        if has(openclip::CONFIG_FILE) && has_any(&openclip::WEIGHTS_FILES) {
            return Ok(Self::OpenClipFolder);
        }
        if has(hugging_face::CONFIG_FILE) && has_any(&hugging_face::WEIGHTS_FILES) {
            return Ok(Self::HuggingFaceFolder);
        }
        Err(TrainerError::weights(
            path,
            format!(
                "not weights of a known format. A checkpoint has {MANIFEST_FILE} and {MODEL_FILE}, \
                 an OpenCLIP folder {} and {}, a Hugging Face folder {} and {}",
                openclip::CONFIG_FILE,
                openclip::WEIGHTS_FILES.join(" or "),
                hugging_face::CONFIG_FILE,
                hugging_face::WEIGHTS_FILES.join(" or ")
            ),
        ))
    }
}

impl ModelConfig {
    /// Reads the configuration next to weights. Returns `None` for a bare file of weights, which
    /// has none.
    pub fn from_weights(path: &Path) -> Result<Option<Self>, TrainerError> {
        Ok(match Origin::detect(path)? {
            Origin::OpenClipFile => None,
            Origin::Checkpoint => Some(Self::read(&path.join(CONFIG_FILE))?),
            Origin::OpenClipFolder => Some(Self::read(&path.join(openclip::CONFIG_FILE))?),
            Origin::HuggingFaceFolder => Some(hugging_face_configuration(path)?),
        })
    }
}

/// Returns `tokenizer.json`, or else `vocab.txt`, of the folder of weights, if there is one.
pub fn tokenizer_beside(folder: &Path) -> Option<PathBuf> {
    [TOKENIZER_FILE, hugging_face::VOCABULARY_FILE]
        .map(|name| folder.join(name))
        .into_iter()
        .find(|path| path.is_file())
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checkpoint => "a Diptych checkpoint",
            Self::OpenClipFolder => "an OpenCLIP folder",
            Self::OpenClipFile => "an OpenCLIP file of weights",
            Self::HuggingFaceFolder => "a Hugging Face folder",
        })
    }
}

/// A model's configuration with all its weights, in CPU memory.
pub struct Weights {
    pub config: ModelConfig,
    pub path: PathBuf,
    pub origin: Origin,
    /// In the order of the configuration's parameters.
    pub(crate) tensors: Vec<Tensor>,
}

impl Weights {
    /// Reads weights of any known format.
    ///
    /// `config` describes the model of a bare OpenCLIP file, which does not name it. Weights with a
    /// configuration of their own are refused if it differs from `config`.
    pub fn read(path: &Path, config: Option<&ModelConfig>) -> Result<Self, TrainerError> {
        let weights = Self::recognise(path, config)?;
        if let Some(differences) = config.and_then(|config| config.differences(&weights.config)) {
            return Err(TrainerError::weights(
                path,
                format!(
                    "{} holds a different model than requested (requested and found): \
                     {differences}",
                    weights.origin
                ),
            ));
        }
        Ok(weights)
    }

    /// Reads the moving average of the weights of a checkpoint.
    pub fn read_average(checkpoint: &Path) -> Result<Self, TrainerError> {
        let manifest = checkpoint::verify(checkpoint)?;
        if !manifest.files.contains_key(AVERAGE_FILE) {
            return Err(TrainerError::weights(
                checkpoint,
                "has no moving average, because its run had no train.ema_decay",
            ));
        }
        Self::from_checkpoint(checkpoint, AVERAGE_FILE)
    }

    /// Reads a file of weights of a checkpoint that has been verified.
    fn from_checkpoint(folder: &Path, file: &str) -> Result<Self, TrainerError> {
        let config = ModelConfig::read(&folder.join(CONFIG_FILE))?;
        Self::from_named(folder, Origin::Checkpoint, config, tensor_file::read(&folder.join(file))?)
    }

    fn recognise(path: &Path, config: Option<&ModelConfig>) -> Result<Self, TrainerError> {
        let origin = Origin::detect(path)?;
        if origin == Origin::OpenClipFile {
            let Some(config) = config else {
                return Err(TrainerError::weights(
                    path,
                    "a bare file of weights does not name its model; set its configuration \
                     (--model-config, or model.config with model.weights: a built-in name or a \
                     JSON file), or pass the whole folder",
                ));
            };
            return Self::from_named(
                path,
                Origin::OpenClipFile,
                config.clone(),
                read_tensors(path)?,
            );
        }
        if origin == Origin::Checkpoint {
            checkpoint::verify(path)?;
            return Self::from_checkpoint(path, MODEL_FILE);
        }
        let (config, tensors): (ModelConfig, _) = if origin == Origin::OpenClipFolder {
            let (config, tensors) = openclip::import(path)?;
            (config.into(), tensors)
        } else {
            import_hugging_face(path)?
        };
        Self::from_named(path, origin, config, tensors)
    }

    /// Sorts tensors into the layout's order. Refuses missing, surplus and wrongly shaped ones.
    pub(crate) fn from_named(
        path: &Path,
        origin: Origin,
        config: ModelConfig,
        mut named: BTreeMap<String, Tensor>,
    ) -> Result<Self, TrainerError> {
        let (mut tensors, mut missing, mut shapes) = (Vec::new(), Vec::new(), Vec::new());
        for spec in config.parameters() {
            match named.remove(&spec.name) {
                None => missing.push(spec.name),
                Some(tensor) if tensor.size() != spec.shape => {
                    shapes.push(format!(
                        "{} has shape {:?}, expected {:?}",
                        spec.name,
                        tensor.size(),
                        spec.shape
                    ));
                }
                Some(tensor) if tensor.kind() != Kind::Float => {
                    shapes.push(format!("{} holds no floating-point numbers", spec.name));
                }
                Some(tensor) => tensors.push(tensor.f_contiguous()?),
            }
        }
        let mut problems = Vec::new();
        for (what, names) in [
            ("tensors are missing", missing),
            ("tensors do not belong to the model", named.into_keys().collect()),
            ("tensors have the wrong shape or kind", shapes),
        ] {
            if !names.is_empty() {
                problems.push(format!("{} {what}: {}", names.len(), first_few(&names)));
            }
        }
        if problems.is_empty() {
            return Ok(Self { config, path: path.to_owned(), origin, tensors });
        }
        Err(TrainerError::weights(
            path,
            format!("{origin} does not match its configuration: {}", problems.join("; ")),
        ))
    }

    /// Returns the weights by name, for a family's own `config`.
    pub(crate) fn for_family<'a, C>(&'a self, config: &'a C) -> NamedWeights<'a, C> {
        NamedWeights { config, path: &self.path, tensors: self.named().collect() }
    }

    /// Iterates over the tensors with their names.
    pub(crate) fn named(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.config.parameters().into_iter().map(|spec| spec.name).zip(&self.tensors)
    }

    /// Returns a dual encoder's configuration. Refuses weights of any other family.
    pub fn dual_encoder(&self) -> Result<&DualEncoderConfig, TrainerError> {
        self.config.dual_encoder().map_err(|_| {
            let message =
                format!("these are weights of {}; a dual encoder is needed", self.config.family());
            TrainerError::weights(&self.path, message)
        })
    }

    /// Returns the hash over configuration and weights: a model has the same hash in any format.
    pub fn hash(&self) -> Result<ContentHash, TrainerError> {
        hash(&self.config, &self.tensors)
    }

    /// Returns `tokenizer.json`, or else `vocab.txt`, of the folder of the weights, if there is
    /// one.
    pub fn tokenizer_path(&self) -> Option<PathBuf> {
        tokenizer_beside(&self.path)
    }
}

/// Computes the sha256 over configuration and values, in the order of the configuration's
/// parameters.
pub(crate) fn hash(config: &ModelConfig, tensors: &[Tensor]) -> Result<ContentHash, TrainerError> {
    use sha2::Digest;
    let mut hasher = sha2::Sha256::new();
    hasher.update(config.to_file_json().to_string().as_bytes());
    for tensor in tensors {
        hasher.update(shim::bytes(
            &tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_contiguous()?,
        )?);
    }
    Ok(ContentHash(hasher.finalize().into()))
}
