//! The configuration of a training run: TOML in which every key but a few has a default.
//!
//! Unknown keys are refused, and the error suggests the nearest known key. Options that contradict
//! each other are refused before anything starts.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config_data::{DataConfig, resolve};
use crate::config_keys;
use crate::config_lora::LoraConfig;
use crate::config_objective::ObjectiveConfig;
use crate::config_optimizer::{LockConfig, OptimizerConfig};
use crate::config_unattended::{
    CheckpointConfig, EvalConfig, GuardConfig, MetricsConfig, TensorBoard,
};
use crate::config_weights::FirstWeights;
use crate::{ContentHash, PathRole, RemoteConfig, SchemaError};

/// A training run. `diptych config` prints one with all its defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Name of the run, which identifies it in the state folder. Letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Folder for the state database and the checkpoints. Relative paths in this file are relative
    /// to its folder.
    #[serde(default = "default_state")]
    pub state: PathBuf,
    /// Seed of the initial weights, the sample order and the augmentation.
    #[serde(default)]
    pub seed: u64,
    pub data: DataConfig,
    pub model: ModelChoice,
    /// Steps, memory and device.
    #[serde(default)]
    pub train: TrainLoopConfig,
    #[serde(default)]
    pub lora: LoraConfig,
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    #[serde(default)]
    pub objective: ObjectiveConfig,
    #[serde(default)]
    pub augment: AugmentConfig,
    /// Reading and decoding of images.
    #[serde(default)]
    pub loader: LoaderConfig,
    /// When checkpoints are saved, and how many are kept.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    #[serde(default)]
    pub eval: EvalConfig,
    #[serde(default)]
    pub guard: GuardConfig,
    #[serde(default)]
    pub metrics: MetricsConfig,
}

/// The model, and where its weights come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelChoice {
    /// A built-in name (`demo`, `ViT-S-32`, `ViT-B-32`, `ViT-B-16`, `ViT-L-14`), a JSON file in
    /// OpenCLIP's format, or a `config.json` of Hugging Face. Default: the model that `weights`
    /// describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Weights to start from: a Hugging Face or OpenCLIP folder, a checkpoint, or a run
    /// (`RUN@best`). These also say which model it is. { image = "…", text = "…" } takes each tower
    /// from its own source. Default: random weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<FirstWeights>,
    /// A `tokenizer.json`, or a `vocab.txt` for WordPiece. Default: the tokenizer in the folder of
    /// `weights`, or else CLIP's byte-pair vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
}

impl ModelChoice {
    /// Returns the path of the model's configuration, or `None` if a built-in name is given.
    pub fn config_file(&self) -> Option<&Path> {
        self.config.as_deref().filter(|name| is_path(name)).map(Path::new)
    }

    /// Returns the name for lists and messages: the configuration's name, or where the weights come
    /// from.
    pub fn name(&self) -> String {
        match (&self.config, &self.weights) {
            (Some(config), _) => config.clone(),
            (None, Some(weights)) => weights.to_string(),
            (None, None) => String::new(),
        }
    }

    fn validate(&self) -> Result<(), String> {
        self.weights.as_ref().map_or(Ok(()), FirstWeights::validate)?;
        match (&self.config, &self.weights) {
            (Some(_), _) | (None, Some(FirstWeights::Whole(_))) => Ok(()),
            (None, Some(FirstWeights::Towers(_))) => {
                Err("model.config is missing: the weights of single towers do not say which model \
                     to build. Set it to a built-in name or a JSON file"
                    .into())
            }
            (None, None) => Err(
                "model.config is missing: set it to a built-in model such as \"ViT-B-32\" or to a \
                 JSON file, or set model.weights to the folder of a Hugging Face or OpenCLIP \
                 model, which describes itself"
                    .into(),
            ),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainLoopConfig {
    /// Pairs per optimizer step, over all ranks together.
    pub batch_size: u64,
    /// Passes over the selection. The last, incomplete batch of each pass is dropped.
    pub epochs: u64,
    /// Pairs that go through the towers at once; 0: the whole batch. Smaller values save memory.
    /// Features are first computed without the values that the gradient needs, then each part is
    /// computed again with them. The gradient is that of the whole batch.
    pub micro_batch_size: u64,
    /// Whether to keep only the input of each block and to compute the rest again for the gradient.
    /// Needs less memory and one more forward pass; the gradient stays the same.
    pub activation_checkpointing: bool,
    /// fp32, bf16 or fp16: the number format of matrix products and attention. Weights, layer norms
    /// and the loss are always fp32.
    pub precision: Precision,
    /// Decay of a moving average of the weights, which is evaluated, saved and exported together
    /// with them; 0: none. Usual: 0.9999.
    pub ema_decay: f64,
    /// Threads of one libtorch operation on the CPU; 0: one per core. Part of what makes a run
    /// reproducible bit for bit.
    pub threads: usize,
    /// `auto` (a GPU if there is one), `cpu`, `cuda` (the first GPU) or `cuda:N`.
    pub device: String,
    /// Towers whose weights stay fixed.
    pub lock: LockConfig,
}

/// The number format of matrix products and attention. Weights, layer norms, features and the loss
/// are always fp32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    #[default]
    Fp32,
    /// The range of fp32 with 8 bits of mantissa.
    Bf16,
    /// 11 bits of mantissa and a small range. Gradients are scaled, and a step whose gradients
    /// overflow is skipped.
    Fp16,
}

/// Random crops of training images (RandomResizedCrop).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentConfig {
    /// Smallest and largest share of the image's area.
    pub scale: [f64; 2],
    /// Smallest and largest ratio of width to height.
    pub ratio: [f64; 2],
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderConfig {
    /// Decoding threads; 0: one per core.
    pub threads: usize,
    /// Number of row groups' worth of pairs that are shuffled together. Part of the sample order.
    pub window_row_groups: usize,
    /// Number of parts that a row group is cut into. Parts are spread over an epoch, so a window
    /// holds pairs of up to window_row_groups × row_group_parts row groups. Part of the sample
    /// order.
    pub row_group_parts: usize,
    /// Bytes in flight, in MiB. A quarter is for images that are read but not decoded, the rest for
    /// decoded samples that the trainer has not taken yet.
    pub queue_mib: u64,
    /// Largest width × height that is decoded.
    pub max_pixels: u64,
    /// Reading of datasets that are URLs.
    pub remote: RemoteConfig,
}

/// Returns whether a model's configuration is given as a path, not as a built-in name.
fn is_path(name: &str) -> bool {
    let ending = Path::new(name).extension();
    name.contains('/') || ending.is_some_and(|ending| ending.eq_ignore_ascii_case("json"))
}

fn default_state() -> PathBuf {
    PathBuf::from("state")
}

impl Default for TrainLoopConfig {
    fn default() -> Self {
        Self {
            batch_size: 256,
            epochs: 32,
            micro_batch_size: 0,
            activation_checkpointing: false,
            precision: Precision::Fp32,
            ema_decay: 0.0,
            threads: 0,
            device: "auto".into(),
            lock: LockConfig::default(),
        }
    }
}

impl Default for AugmentConfig {
    /// Returns OpenCLIP's training transform.
    fn default() -> Self {
        Self { scale: [0.9, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }
}

impl Default for LoaderConfig {
    fn default() -> Self {
        Self {
            threads: 0,
            window_row_groups: 4,
            row_group_parts: 8,
            queue_mib: 256,
            max_pixels: crate::MAX_PIXELS,
            remote: RemoteConfig::default(),
        }
    }
}

/// Keys that were added after the first release. See [`TrainConfig::training_hash`].
const LATER_KEYS: [&str; 5] = [
    "keep_raw_steps = ",
    "keep_one_of = ",
    "suite_every_epochs = ",
    "suite_every_steps = ",
    "suite_max_seconds = ",
];

impl TrainConfig {
    /// Reads and checks a file. Relative paths in it become relative to the file's folder.
    pub fn read(path: &Path) -> Result<Self, SchemaError> {
        let text = std::fs::read_to_string(path).map_err(SchemaError::io(path))?;
        let mut config = Self::parse(&text)
            .map_err(|message| SchemaError::Config { path: path.to_owned(), message })?;
        config.resolve_paths(path.parent().unwrap_or_else(|| Path::new("")));
        Ok(config)
    }

    /// Parses and checks a configuration.
    ///
    /// The error names the line and, for an unknown key, the nearest known one.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = config_keys::parse(text)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), String> {
        let check = |holds: bool, message: String| if holds { Ok(()) } else { Err(message) };
        self.data.validate()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        check(
            !self.name.is_empty()
                && self.name.chars().all(plain)
                && !self.name.starts_with('.')
                && self.name.len() <= 100,
            format!(
                "name must be 1 to 100 letters, digits, '-', '_' or '.', not starting with '.', \
                 got {:?}",
                self.name
            ),
        )?;
        check(
            self.train.batch_size >= 2,
            format!(
                "train.batch_size must be at least 2: a batch of {} has no negatives",
                self.train.batch_size
            ),
        )?;
        check(
            (0.0..1.0).contains(&self.train.ema_decay),
            format!("train.ema_decay must be in [0, 1), got {}", self.train.ema_decay),
        )?;
        check(self.train.epochs >= 1, "train.epochs must be at least 1".into())?;
        self.optimizer.validate()?;
        self.train.lock.validate()?;
        self.model.validate()?;
        self.lora.validate(self.model.weights.is_some())?;
        self.objective.validate()?;
        let [s0, s1] = self.augment.scale;
        check(
            0.0 < s0 && s0 <= s1 && s1 <= 1.0,
            format!(
                "augment.scale must be two numbers in (0, 1], the smaller one first, got [{s0}, \
                 {s1}]"
            ),
        )?;
        let [r0, r1] = self.augment.ratio;
        check(
            0.0 < r0 && r0 <= r1 && r1.is_finite(),
            format!(
                "augment.ratio must be two numbers above 0, the smaller one first, got [{r0}, {r1}]"
            ),
        )?;
        check(
            self.loader.window_row_groups >= 1,
            "loader.window_row_groups must be at least 1".into(),
        )?;
        check(
            self.loader.row_group_parts >= 1,
            "loader.row_group_parts must be at least 1".into(),
        )?;
        check(self.loader.queue_mib >= 1, "loader.queue_mib must be at least 1 MiB".into())?;
        self.loader.remote.validate()?;
        check(self.loader.max_pixels >= 1, "loader.max_pixels must be at least 1".into())?;
        self.checkpoint.validate(&self.eval, self.train.ema_decay > 0.0)?;
        self.eval.validate(!self.data.mix.is_empty())?;
        self.guard.validate()?;
        self.metrics.validate()?;
        let device = self.train.device.as_str();
        let cuda = device.strip_prefix("cuda:").is_some_and(|n| n.parse::<usize>().is_ok());
        let meant = if device == "gpu" { ": did you mean \"cuda\"?" } else { "" };
        check(
            matches!(device, "auto" | "cpu" | "cuda") || cuda,
            format!(
                "train.device must be auto, cpu, cuda or cuda:N (cuda is cuda:0), got \
                 {device:?}{meant}"
            ),
        )
    }

    /// Makes relative paths relative to `folder`.
    pub fn resolve_paths(&mut self, folder: &Path) {
        self.state = folder.join(&self.state);
        let Ok(()) = self.replace_paths(|role, path| {
            Ok::<_, std::convert::Infallible>(resolve(role, path, folder))
        });
    }

    /// Replaces every path in the configuration, except the state folder, by the result of
    /// `replace`.
    ///
    /// Stops at the first error.
    pub fn replace_paths<E>(
        &mut self,
        mut replace: impl FnMut(PathRole, &Path) -> Result<PathBuf, E>,
    ) -> Result<(), E> {
        for path in self.model.weights.as_mut().map(FirstWeights::paths_mut).unwrap_or_default() {
            let replaced = replace(PathRole::Read, path)?;
            // The name of a run is kept as it is.
            if replaced.exists() || FirstWeights::run_name(path).is_none() {
                *path = replaced;
            }
        }
        for (role, path) in self.paths_mut() {
            *path = replace(role, path)?;
        }
        if let Some(config) = self.model.config.as_mut().filter(|name| is_path(name)) {
            *config =
                replace(PathRole::Read, Path::new(config.as_str()))?.to_string_lossy().into_owned();
        }
        Ok(())
    }

    /// Returns all paths except the model's configuration and weights, which may be names.
    fn paths_mut(&mut self) -> Vec<(PathRole, &mut PathBuf)> {
        let EvalConfig { selection, dataset, classes, templates, suite, .. } = &mut self.eval;
        let read = [&mut self.model.tokenizer, selection, classes, templates, suite];
        let board = match &mut self.metrics.tensorboard {
            TensorBoard::Folder(folder) => Some(folder),
            TensorBoard::Wanted(_) => None,
        };
        let written = self.loader.remote.cache.as_mut().into_iter().chain(board);
        let mut paths: Vec<_> = self.data.paths_mut().collect();
        paths.extend(dataset.iter_mut().map(|path| (PathRole::Dataset, path)));
        let read = read.into_iter().flatten();
        paths.extend(read.map(|path| (PathRole::Read, path)));
        paths.extend(written.map(|path| (PathRole::Write, path)));
        paths
    }

    /// Returns all keys as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self)
            .unwrap_or_else(|error| format!("# this configuration has no TOML form: {error}\n"))
    }

    /// Returns a hash of everything that decides the resulting weights.
    ///
    /// Left out is all that may change between a stop and a resume: paths, threads of the loader,
    /// checkpoints, evaluation, guards and metrics. A selection counts by its own hash instead of
    /// its path. Activation checkpointing is left out too, since it gives the same gradient.
    pub fn training_hash(&self) -> ContentHash {
        let decisive = Self {
            state: PathBuf::new(),
            data: self.data.without_paths(),
            loader: LoaderConfig {
                window_row_groups: self.loader.window_row_groups,
                row_group_parts: self.loader.row_group_parts,
                max_pixels: self.loader.max_pixels,
                threads: 0,
                queue_mib: 1,
                remote: RemoteConfig::default(),
            },
            train: TrainLoopConfig { activation_checkpointing: false, ..self.train.clone() },
            checkpoint: CheckpointConfig::default(),
            eval: EvalConfig::default(),
            guard: GuardConfig::default(),
            metrics: MetricsConfig::default(),
            ..self.clone()
        };
        // Later keys that do not change the weights are dropped from the text. So runs of older
        // versions keep their hash and can be resumed.
        let later = |line: &&str| LATER_KEYS.iter().any(|key| line.starts_with(key));
        let text: Vec<_> = decisive
            .to_toml()
            .split_inclusive('\n')
            .filter(|line| !later(line))
            .map(str::to_owned)
            .collect();
        ContentHash::of(text.concat().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "name = \"a\"\n[data]\ndataset = \"d\"\nselection = \
        \"s.parquet\"\n[model]\nconfig = \"demo\"\n";

    #[test]
    fn smallest_configuration_gets_all_defaults() {
        let config = TrainConfig::parse(SMALLEST).unwrap();
        assert_eq!(config.optimizer, OptimizerConfig::default());
        assert_eq!(TrainConfig::parse(&config.to_toml()).unwrap(), config);
    }

    #[test]
    fn typo_names_the_line_and_the_nearest_key() {
        let error = TrainConfig::parse(&format!("{SMALLEST}[train]\nbatchsize = 3\n")).unwrap_err();
        assert!(
            error.contains("line 8")
                && error.contains("batchsize")
                && error.contains("`batch_size`"),
            "{error}"
        );
        let error = TrainConfig::parse(&format!("{SMALLEST}[optimiser]\nlr = 3\n")).unwrap_err();
        assert!(error.contains("optimiser") && error.contains("`optimizer`"), "{error}");
    }

    #[test]
    fn contradictions_are_refused() {
        for (add, says) in [
            ("[train]\nbatch_size = 1\n", "train.batch_size"),
            ("[augment]\nscale = [1.0, 0.5]\n", "augment.scale"),
            ("[eval]\nevery_epochs = 1\n", "eval.selection"),
            ("[train]\ndevice = \"gpu\"\n", "train.device"),
            ("[train]\nprecision = \"int8\"\n", "bf16"),
            ("[train.lock]\nimage_unlocked_groups = 2\n", "train.lock.image = true"),
            ("[optimizer]\nlayer_decay = 0.0\n", "optimizer.layer_decay"),
            ("[lora]\nrank = 8\n", "lora.random_base"),
            ("[lora]\nalpha = 8.0\n", "lora.rank"),
            ("[lora]\nrank = 8\ntargets = [\"mpl\"]\n", "mlp"),
            ("[lora]\nrank = 8\ntargets = []\n", "lora.targets"),
            ("[lora]\nrank = 8\nimage = false\ntext = false\n", "lora.text"),
            ("[optimizer]\ncooldown = 2.0\n", "optimizer.cooldown"),
            ("[optimizer]\nschedule = \"step\"\n", "constant-cooldown"),
            (
                "[objective]\nlabel_smoothing = 0.1\nmask_duplicate_captions = true\n",
                "objective.label_smoothing",
            ),
        ] {
            let error = TrainConfig::parse(&format!("{SMALLEST}{add}")).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert!(
            TrainConfig::parse(&SMALLEST.replace("\"a\"", "\"../a\""))
                .unwrap_err()
                .contains("name")
        );
    }

    #[test]
    fn only_what_decides_the_weights_is_in_the_training_hash() {
        let config = TrainConfig::parse(SMALLEST).unwrap();
        let same = TrainConfig {
            checkpoint: CheckpointConfig { every_steps: 7, ..Default::default() },
            ..config.clone()
        };
        let train =
            TrainLoopConfig { activation_checkpointing: true, ..TrainLoopConfig::default() };
        assert_eq!(config.training_hash(), TrainConfig { train, ..config.clone() }.training_hash());
        let other = TrainConfig { seed: 1, ..config.clone() };
        assert_eq!(config.training_hash(), same.training_hash());
        assert_ne!(config.training_hash(), other.training_hash());
    }
}
