//! Shared parts of the end-to-end tests: a folder for each, the binary, small data, messages. They
//! see Diptych as a user does: commands, files, messages, exit codes.
//!
//! The binary is the one that `make test` builds just before. `DIPTYCH_BIN` names another one.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "this crate is only for tests")]

pub mod messages;
pub mod pairs;
pub mod server;
pub mod service;

use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use diptych_test_support::eventually;
use service::{PATIENCE, Process};

/// Longer than any command of a test takes.
const LONGEST: Duration = Duration::from_mins(15);

/// Returns the path of the `diptych` binary.
pub fn binary() -> PathBuf {
    let named = std::env::var_os("DIPTYCH_BIN").map(PathBuf::from);
    let built = || {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| project().join("target"), PathBuf::from);
        target.join("debug/diptych")
    };
    let path = named.unwrap_or_else(built);
    assert!(
        path.is_file(),
        "{} is not there: run `make test`, or `cargo build --workspace` first",
        path.display()
    );
    path
}

/// Returns the project's root.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the project")
        .to_owned()
}

/// The folder of a test, deleted afterwards.
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

    /// Returns `diptych ARGUMENTS…` in this folder, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs `diptych ARGUMENTS…` in this folder to its end.
    pub fn diptych(&self, arguments: &[&str]) -> Ran {
        Ran::of(arguments, self.command(arguments))
    }

    /// Runs `diptych ARGUMENTS…` with variables in its environment.
    pub fn diptych_with(&self, arguments: &[&str], variables: &[(&str, &Path)]) -> Ran {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        Ran::of(arguments, command)
    }

    /// Starts `diptych ARGUMENTS…` in this folder, without its output.
    pub fn start(&self, arguments: &[&str]) -> Process {
        Process(
            self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(),
        )
    }

    /// Starts `command` with its messages in a file of this folder.
    pub fn start_with_log(&self, mut command: Command, log: &str) -> Process {
        Process(command.stderr(File::create(self.path(log)).unwrap()).spawn().unwrap())
    }

    /// Waits for a line of a file that contains `says`, and returns it.
    pub fn waits_for_line(&self, log: &str, says: &str) -> String {
        let whole_line = |line: &&str| line.ends_with('\n') && line.contains(says);
        eventually(PATIENCE, says, || {
            self.read(log).split_inclusive('\n').find(whole_line).map(str::to_owned)
        })
    }

    /// Returns the message of the first event of a kind in the folder `state`, whoever owns it.
    /// `None` if there is no such event, or no store yet.
    pub fn event(&self, kind: &str) -> Option<String> {
        let query =
            format!("SELECT message FROM events WHERE kind = '{kind}' ORDER BY step LIMIT 1");
        let ran = self.diptych(&["sql", &query, "--state", "state", "--format", "jsonl"]);
        let row: serde_json::Value = serde_json::from_str(ran.stdout.lines().next()?).ok()?;
        row["message"].as_str().map(str::to_owned)
    }

    /// Waits for an event of a kind, and checks that its message, but for its figures, is the
    /// snapshot `train/EVENT_KIND`.
    #[track_caller]
    pub fn waits_for_event(&self, kind: &str) {
        let message = eventually(PATIENCE, &format!("the event {kind}"), || self.event(kind));
        messages::check_without_figures("train", &format!("event_{kind}"), &message);
    }

    /// Returns the value of one SQL query.
    pub fn sql(&self, arguments: &[&str], query: &str) -> String {
        let ran = self.diptych(&[&["sql", query, "--format", "csv"], arguments].concat()).ok();
        ran.stdout.lines().nth(1).unwrap_or_default().to_owned()
    }

    /// Makes a small dataset in the folder `data`, and the selections `train.parquet` and
    /// `heldout.parquet` of it.
    pub fn with_demo_data(self, scenes: u32) -> Self {
        self.diptych(&["demo-data", "scenes", "--scenes", &scenes.to_string()]).ok();
        self.diptych(&[
            "ingest",
            "scenes/*.tar",
            "scenes/*.parquet",
            "scenes/folder",
            "--dataset",
            "data",
            "--phash",
        ])
        .ok();
        self.diptych(&[
            "select",
            "--file",
            "scenes/train.sql",
            "--dataset",
            "data",
            "--output",
            "train.parquet",
        ])
        .ok();
        self.diptych(&[
            "select",
            "--file",
            "scenes/heldout.sql",
            "--dataset",
            "data",
            "--output",
            "heldout.parquet",
        ])
        .ok();
        self.write("tiny.json", TINY_MODEL);
        self
    }
}

/// A model whose steps take milliseconds.
pub const TINY_MODEL: &str = r#"{
  "embed_dim": 16,
  "vision_cfg": { "image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8 },
  "text_cfg": { "context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1 }
}"#;

/// Returns a configuration that trains [`TINY_MODEL`] on [`Work::with_demo_data`].
pub fn tiny_config(name: &str, epochs: u32, more: &str) -> String {
    format!(
        "name = \"{name}\"\nstate = \"state\"\nseed = 3\n[data]\ndataset = \"data\"\nselection = \"train.parquet\"\n\
         [model]\nconfig = \"tiny.json\"\n[train]\nbatch_size = 16\nepochs = {epochs}\nthreads = 2\n\
         [optimizer]\nlr = 1e-3\nwarmup_steps = 2\n{more}"
    )
}

/// Returns the weights and the moments of a run's last checkpoint.
pub fn final_files(work: &Work, state: &str, run: &str) -> [Vec<u8>; 2] {
    let folder = work.path(&format!("{state}/checkpoints/{run}"));
    let last =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    ["model.safetensors", "optimizer.safetensors"]
        .map(|name| std::fs::read(last.join(name)).unwrap())
}

/// Output and end of a command.
pub struct Ran {
    /// The command line as a shell takes it.
    pub call: String,
    /// The first word after `diptych`.
    command: String,
    /// Exit code. `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Runs a command to its end. Its output goes to files, so that one that hangs fails its test.
    fn of(arguments: &[&str], mut command: Command) -> Self {
        let call = messages::shell(&[&["diptych"], arguments].concat());
        let [mut stdout, mut stderr] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        command.stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
        let mut process = Process(command.spawn().unwrap());
        let status =
            eventually(LONGEST, &format!("the end of {call}"), || process.0.try_wait().unwrap());
        let text = |file: &mut File| {
            let mut bytes = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Self {
            call,
            command: arguments.first().map(|word| (*word).to_owned()).unwrap_or_default(),
            code: status.code(),
            stdout: text(&mut stdout),
            stderr: text(&mut stderr),
        }
    }

    /// Checks that it ended well.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.ended_with(0)
    }

    /// Checks its exit code.
    #[track_caller]
    pub fn ended_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}\n{}", self.call, self.stdout, self.stderr);
        self
    }

    /// Checks that the command failed with this exit code, and that its message is the snapshot
    /// `message` of its command: one screen, without a panic.
    #[track_caller]
    pub fn fails(self, code: i32, message: &str) -> Self {
        let command = self.command.clone();
        self.ended_with(code).says(&command, message)
    }

    /// Checks that what it printed is a snapshot: one screen, without a panic.
    #[track_caller]
    pub fn says(self, command: &str, message: &str) -> Self {
        let all = self.printed();
        for never in ["panicked", "internal error"] {
            assert!(!all.contains(never), "{}\n{all}", self.call);
        }
        assert!(all.lines().count() <= 24, "more than a screen:\n{all}");
        let ending = match self.code {
            Some(0) => String::new(),
            Some(code) => format!("(exit code {code})\n"),
            None => "(ended by a signal)\n".to_owned(),
        };
        messages::check(command, message, &format!("$ {}\n{all}{ending}", self.call));
        self
    }

    /// Checks that what it printed names these files, rows, keys or figures. Never prose: that is
    /// for snapshots.
    #[track_caller]
    pub fn names(self, data: &[&str]) -> Self {
        let all = self.printed();
        for text in data {
            assert!(all.contains(text), "{} does not name {text:?}:\n{all}", self.call);
        }
        self
    }

    /// Returns standard output and standard error, each with a line break at its end.
    fn printed(&self) -> String {
        let parts = [&self.stdout, &self.stderr].map(|text| text.trim_end());
        parts.iter().filter(|text| !text.is_empty()).flat_map(|text| [text, "\n"]).collect()
    }
}
