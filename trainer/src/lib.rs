//! Trains models of images and texts: models, loss, optimizer, checkpoints, evaluation and file
//! formats.
//!
//! This is the only crate that names `tch`.
//!
//! 1. [`Trainer::step`] does one update; all of it is in `run/step.rs`. The daemon has the loop
//!    around it.
//! 2. On the CPU, with a fixed number of threads, every process computes the same bits. The host
//!    waits for the device once per step.
//! 3. A checkpoint is complete or does not exist. A separate thread writes it from a [`Snapshot`].
//! 4. A request in a configuration or file that this crate cannot compute is refused by name, never
//!    ignored.
//! 5. `unsafe` is confined to `device/shim.rs` and its folder.
//! 6. libtorch is opened when the first tensor is needed. Nothing is linked against it.

mod device;
mod draws;
mod error;
pub mod evaluate;
mod families;
mod formats;
mod nn;
mod objectives;
mod run;

pub use device::{
    CudaLibraries, Device, LIBTORCH, gpu_count, let_idle_threads_sleep, libtorch_folder,
    open_cuda_libraries, open_libtorch, set_threads,
};
pub use draws::masks::MaskVocabulary;
pub use error::TrainerError;
pub use families::dual_encoder::config::{
    AttentionalPool, Bert, DualEncoderConfig, ImagePool, LARGEST_LOGIT_SCALE, TextConfig, TextPool,
    TextProjection, Trunk, VisionConfig,
};
pub use families::masked_lm::config::MaskedLmConfig;
pub use families::weights::{Origin, Weights, tokenizer_beside};
pub use families::{
    DeviceBatch, Encoder, Model, ModelConfig, Uploader, built_in_names, export_hf, export_onnx,
    export_openclip, how_to_obtain,
};
pub use formats::checkpoint::guard::{Due, GuardState, RollBack, Score};
pub use formats::checkpoint::{CheckpointManifest, CheckpointMeta};
pub use formats::hugging_face::tokenizer::TokenizerFiles;
pub use formats::onnx::LARGEST_EMBEDDED;
pub use formats::tensor_file::FileEntry;
pub use nn::parameters::Part;
pub use nn::preprocess::{
    IMAGE_MEAN, IMAGE_STD, ImageInput, PreprocessConfig, TextInput, TokenizerConfig,
};
pub use objectives::{Objective, Scalars, clip_loss};
pub use run::estimate::ModelEstimate;
pub use run::flops;
pub use run::held_out::HeldOutTerms;
pub use run::pair_loss::{EmbeddedPairs, PairLoss, pair_loss};
pub use run::saver::{Saved, Saver};
pub use run::schedule::Schedule;
pub use run::snapshot::Snapshot;
pub use run::timing::{PartTimes, StepPart};
pub use run::trainer::{StepReport, Trainer, TrainerSpec};

/// Checkpoints as folders of files.
pub mod checkpoint {
    pub use crate::formats::checkpoint::{
        CHECKPOINT_VERSION, CheckpointManifest, CheckpointMeta, RejectedFolder, Scan,
        StoredCheckpoint, TOKENIZER_FILE, list, newest, read_manifest, remove, remove_unfinished,
        scan, verify,
    };
    pub use crate::run::snapshot::write;
}
