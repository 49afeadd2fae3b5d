//! Training of CLIP-style dual encoders: models, loss, optimizer, checkpoints, evaluation and the formats of weights. The only
//! crate that names `tch`.
//!
//! 1. [`Trainer::step`] is one update; the whole of it stands in `run/step.rs`. The loop around it is the daemon's.
//! 2. On the CPU, with a fixed number of threads, everything is the same bit for bit in every process. The host waits for the
//!    device once in a step.
//! 3. A checkpoint is whole or does not exist; it is written by a thread of its own from a [`Snapshot`].
//! 4. What a configuration or a file asks for and this crate cannot compute is refused by name, never ignored.
//! 5. `unsafe` lives in `device/shim.rs`.

mod device;
mod draws;
mod error;
pub mod evaluate;
mod families;
mod formats;
mod nn;
mod objectives;
mod run;

pub use device::{CudaLibraries, Device, open_cuda_libraries, restart_with_sleeping_threads, set_threads};
pub use error::TrainerError;
pub use families::dual_encoder::Clip;
pub use families::dual_encoder::config::{
    AttentionalPool, Bert, ImagePool, LARGEST_LOGIT_SCALE, ModelConfig, TextConfig, TextPool, TextProjection, TokenizerConfig,
    Trunk, VisionConfig, built_in_names,
};
pub use families::dual_encoder::encoder::Encoder;
pub use families::dual_encoder::hugging_face::export_hf;
pub use families::dual_encoder::openclip::export_openclip;
pub use families::weights::{Origin, Weights};
pub use formats::checkpoint::guard::{Due, GuardState, RollBack, Score};
pub use formats::checkpoint::{self, CheckpointManifest, CheckpointMeta, Snapshot};
pub use formats::hugging_face::tokenizer::TokenizerFiles;
pub use formats::onnx::{LARGEST_EMBEDDED, export_onnx};
pub use formats::tensor_file::FileEntry;
pub use nn::preprocess::{IMAGE_MEAN, IMAGE_STD, PreprocessConfig};
pub use objectives::contrastive::{Objective, Scalars, clip_loss};
pub use run::flops;
pub use run::saver::{Saved, Saver};
pub use run::schedule::Schedule;
pub use run::timing::{Part, PartTimes};
pub use run::trainer::{StepReport, Trainer, TrainerSpec};
pub use run::upload::{Uploaded, Uploader};
