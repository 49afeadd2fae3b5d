//! Training of CLIP-style dual encoders: models, loss, optimizer, checkpoints, evaluation and the formats of weights. The only
//! crate that names `tch`.
//!
//! 1. [`Trainer::step`] is one update; the whole of it stands in `step.rs`. The loop around it is the daemon's.
//! 2. On the CPU, with a fixed number of threads, everything is the same bit for bit in every process. The host waits for the
//!    device once in a step.
//! 3. A checkpoint is whole or does not exist; it is written by a thread of its own from a [`Snapshot`].
//! 4. What a configuration or a file asks for and this crate cannot compute is refused by name, never ignored.
//! 5. `unsafe` lives in `shim.rs` and its folder.
//! 6. libtorch is opened when the first tensor is needed; nothing is linked against it.

mod average;
pub mod checkpoint;
mod config;
mod device;
mod encoder;
mod error;
pub mod evaluate;
pub mod flops;
mod guard;
mod hf;
mod init;
mod layout;
mod learning;
mod lora;
mod model;
mod objective;
mod onnx;
mod openclip;
mod optimizer;
mod patch_dropout;
mod saver;
mod scaler;
mod schedule;
mod shim;
mod step;
mod tensor_file;
mod timing;
mod torch_file;
mod trainer;
mod upload;
mod weights;

pub use checkpoint::{CheckpointManifest, CheckpointMeta, Snapshot};
pub use config::{
    AttentionalPool, Bert, IMAGE_MEAN, IMAGE_STD, ImagePool, LARGEST_LOGIT_SCALE, ModelConfig, PreprocessConfig, TextConfig,
    TextPool, TextProjection, TokenizerConfig, Trunk, VisionConfig, built_in_names,
};
pub use device::{CudaLibraries, Device, let_idle_threads_sleep, open_cuda_libraries, open_libtorch, set_threads};
pub use encoder::Encoder;
pub use error::TrainerError;
pub use guard::{Due, GuardState, RollBack, Score};
pub use hf::{TokenizerFiles, export_hf};
pub use model::Clip;
pub use objective::{Objective, Scalars, clip_loss};
pub use onnx::{LARGEST_EMBEDDED, export_onnx};
pub use openclip::export_openclip;
pub use saver::{Saved, Saver};
pub use schedule::Schedule;
pub use tensor_file::FileEntry;
pub use timing::{Part, PartTimes};
pub use trainer::{StepReport, Trainer, TrainerSpec};
pub use upload::{Uploaded, Uploader};
pub use weights::{Origin, Weights};
