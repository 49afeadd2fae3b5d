//! What the end-to-end tests share: a folder of their own, the binary, small data. They see Diptych as a user does: commands,
//! files, messages, exit codes.
//!
//! The binary is the one that `make test` builds just before; `DIPTYCH_BIN` names another.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "this crate is only for tests")]

pub mod pairs;
pub mod server;
pub mod service;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The `diptych` binary.
pub fn binary() -> PathBuf {
    let named = std::env::var_os("DIPTYCH_BIN").map(PathBuf::from);
    let built = || {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), PathBuf::from);
        target.join("debug/diptych")
    };
    let path = named.unwrap_or_else(built);
    assert!(path.is_file(), "{} is not there: run `make test`, or `cargo build --workspace` first", path.display());
    path
}

/// The project's root.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the project").to_owned()
}

/// Real pairs and reference values, where they are; a test that needs them says that it was skipped otherwise.
pub fn reference_data() -> Option<PathBuf> {
    let folder = std::env::var_os("DIPTYCH_TEST_DATA").map_or_else(|| project().join("../shared/data"), PathBuf::from);
    if folder.join("parity").is_dir() {
        return Some(folder);
    }
    println!("skipped: no reference data in {} (DIPTYCH_TEST_DATA names the folder)", folder.display());
    None
}

/// A folder in which a test works, deleted afterwards.
pub struct Work {
    folder: tempfile::TempDir,
}

impl Default for Work {
    fn default() -> Self {
        Self::new()
    }
}

impl Work {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        diptych_schemas::durable::write(&path, bytes.as_ref()).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// `diptych ARGUMENTS…` in this folder, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).current_dir(self.folder.path()).env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// Runs `diptych ARGUMENTS…` in this folder to its end.
    pub fn diptych(&self, arguments: &[&str]) -> Ran {
        Ran::of(arguments, &self.command(arguments).output().unwrap())
    }

    /// The same with variables in its environment.
    pub fn diptych_with(&self, arguments: &[&str], variables: &[(&str, &Path)]) -> Ran {
        let mut command = self.command(arguments);
        Ran::of(arguments, &command.envs(variables.iter().copied()).output().unwrap())
    }

    /// Starts `diptych ARGUMENTS…` in this folder, its output thrown away.
    pub fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// One value of one SQL query.
    pub fn sql(&self, arguments: &[&str], query: &str) -> String {
        let ran = self.diptych(&[&["sql", query, "--format", "csv"], arguments].concat()).ok();
        ran.stdout.lines().nth(1).unwrap_or_default().to_owned()
    }

    /// A small data set in the folder `data` and selections of it: `train.parquet`, `heldout.parquet`.
    pub fn with_demo_data(self, scenes: u32) -> Self {
        self.diptych(&["demo-data", "scenes", "--scenes", &scenes.to_string()]).ok();
        self.diptych(&["ingest", "scenes/*.tar", "scenes/*.parquet", "scenes/folder", "--dataset", "data", "--phash"]).ok();
        self.diptych(&["select", "--file", "scenes/train.sql", "--dataset", "data", "--output", "train.parquet"]).ok();
        self.diptych(&["select", "--file", "scenes/heldout.sql", "--dataset", "data", "--output", "heldout.parquet"]).ok();
        self.write("tiny.json", TINY_MODEL);
        self
    }
}

/// A model that takes milliseconds a step.
pub const TINY_MODEL: &str = r#"{
  "embed_dim": 16,
  "vision_cfg": { "image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8 },
  "text_cfg": { "context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1 }
}"#;

/// A configuration that trains [`TINY_MODEL`] on [`Work::with_demo_data`].
pub fn tiny_config(name: &str, epochs: u32, more: &str) -> String {
    format!(
        "name = \"{name}\"\nstate = \"state\"\nseed = 3\n[data]\ndataset = \"data\"\nselection = \"train.parquet\"\n\
         [model]\nconfig = \"tiny.json\"\n[train]\nbatch_size = 16\nepochs = {epochs}\nthreads = 2\n\
         [optimizer]\nlr = 1e-3\nwarmup_steps = 5\n{more}"
    )
}

/// Weights and moments of a run's last checkpoint.
pub fn final_files(work: &Work, state: &str, run: &str) -> [Vec<u8>; 2] {
    let folder = work.path(&format!("{state}/checkpoints/{run}"));
    let last = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    ["model.safetensors", "optimizer.safetensors"].map(|name| std::fs::read(last.join(name)).unwrap())
}

/// A number in 0..1, different in every run of a test: kills shall not always fall on the same places.
pub fn random() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

/// What a command printed and how it ended.
pub struct Ran {
    pub call: String,
    /// Exit code; none where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    fn of(arguments: &[&str], output: &std::process::Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            call: format!("diptych {}", arguments.join(" ")),
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// It must have ended well.
    pub fn ok(self) -> Self {
        self.ended_with(0)
    }

    pub fn ended_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}\n{}", self.call, self.stdout, self.stderr);
        self
    }

    /// It must have failed with a message of one screen that holds all of these, and without a panic.
    pub fn fails_with(self, says: &[&str]) -> Self {
        let all = format!("{}{}", self.stdout, self.stderr);
        assert!(self.code.is_some_and(|code| code != 0), "{} did not fail\n{all}", self.call);
        for text in says {
            assert!(all.contains(text), "{} does not say {text:?}:\n{all}", self.call);
        }
        assert!(!all.contains("panicked") && !all.contains("internal error"), "{}\n{all}", self.call);
        assert!(all.lines().count() <= 24, "more than a screen:\n{all}");
        self
    }
}
