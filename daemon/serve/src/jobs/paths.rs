//! Checks of a job before it is accepted, and again before it starts. Its configuration or
//! arguments must be valid, and every file, folder and URL in them must be one that a request may
//! name.
//!
//! Arguments are destructured field by field, without `..`. So a new option does not compile until
//! someone has decided here whether it names a file. Sources are expanded as the ingest expands
//! them, and each one is checked.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;
use diptych_cli::{
    Cli, Command, DatasetArg, DedupArgs, DownloadArgs, EmbedArgs, EvalArgs, EvalOnArgs, ExportArgs,
    IngestArgs, ListArgs, PairsArgs, PresetArg, ScoreArgs, SelectArgs,
};
use diptych_embeddings::models::checkpoint_folder;
use diptych_pipeline::ingest::{SourceName, source_names, sources_at};
use diptych_schemas::{FirstWeights, ModelRef, PathRole, SuiteConfig, TrainConfig};
use diptych_store::{JobKind, JobRecord, RunName};

use super::JobRequest;
use crate::folders::Folders;

/// Most files that the sources of one ingest may name.
const MOST_SOURCES: usize = 1_000_000;

/// A job as it was requested.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestedJob<'a> {
    kind: JobKind,
    config: Option<&'a str>,
    args: &'a [String],
    folder: &'a Path,
}

impl<'a> From<&'a JobRequest> for RequestedJob<'a> {
    fn from(wanted: &'a JobRequest) -> Self {
        let JobRequest { kind, config, args, folder, .. } = wanted;
        Self { kind: *kind, config: config.as_deref(), args, folder }
    }
}

impl<'a> From<&'a JobRecord> for RequestedJob<'a> {
    fn from(job: &'a JobRecord) -> Self {
        let JobRecord { kind, config, args, folder, .. } = job;
        Self { kind: *kind, config: config.as_deref(), args, folder }
    }
}

/// A job whose names have all been checked.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub(super) enum CheckedJob {
    /// A training whose paths are resolved.
    Train(Box<TrainConfig>),
    Command(CheckedCommand),
}

pub(super) struct CheckedCommand {
    /// The folder where its relative paths begin, with links resolved.
    pub(super) folder: PathBuf,
    pub(super) command: Command,
}

impl CheckedJob {
    /// Returns the name of the run that a training trains.
    pub(super) fn run(&self) -> Result<Option<RunName>, String> {
        let Self::Train(config) = self else { return Ok(None) };
        RunName::new(&config.name).map(Some).map_err(|error| error.to_string())
    }
}

/// Checks a requested job.
pub(super) fn check(
    asked: RequestedJob<'_>,
    state: &Path,
    folders: &Folders,
) -> Result<CheckedJob, String> {
    let folder = folders.resolve(asked.folder, Path::new("."), PathRole::Read)?;
    let (checked, suite) = if asked.kind == JobKind::Train {
        if !asked.args.is_empty() {
            return Err("a training takes a config and no args".into());
        }
        let mut config =
            TrainConfig::parse(asked.config.ok_or("a training needs a config, as TOML")?)?;
        config.loader.remote.check_request()?;
        config.replace_paths(|role, path| folders.resolve(&folder, path, role))?;
        // Names of existing files are absolute paths now. Other names may be those of runs.
        for run in config.model.weights.iter().flat_map(FirstWeights::run_names) {
            if !checkpoint_folder(state, run).is_dir() {
                return Err(format!(
                    "model.weights: {run}: no such file or folder, and no run with this name has a \
                     checkpoint"
                ));
            }
        }
        let suite = config.eval.suite.clone();
        (CheckedJob::Train(Box::new(config)), suite)
    } else {
        if asked.config.is_some() {
            let kind = asked.kind.as_str();
            return Err(format!("only a training takes a config; {kind} takes args"));
        }
        let command = command(asked.kind, asked.args, state)?;
        let names = Names { folder: &folder, folders };
        let suite = names.check(&command)?;
        (CheckedJob::Command(CheckedCommand { folder, command }), suite)
    };
    // A suite names files of its own, which are checked as if the request named them.
    if let Some(suite) = suite {
        let suite = SuiteConfig::read(&suite).map_err(|error| error.to_string())?;
        for (role, path) in suite.paths() {
            folders.resolve(Path::new("/"), &path, role)?;
        }
        // A training runs inside the service's own process, which runs no SQL from clients.
        if asked.kind == JobKind::Train && suite.tasks.iter().any(|task| task.condition.is_some()) {
            return Err("a training cannot use where in a suite: make a selection with `diptych \
                 select` and name that"
                .into());
        }
    }
    Ok(checked)
}

/// Parses the command of a job that is not a training. Models are looked up in the service's state
/// folder.
pub(super) fn command(kind: JobKind, args: &[String], state: &Path) -> Result<Command, String> {
    let given = whole(kind, args, state);
    Ok(Cli::try_parse_from(given)
        .map_err(|error| error.render().to_string().trim_end().to_owned())?
        .command)
}

/// Returns all arguments of the process, starting with its name.
pub(super) fn whole(kind: JobKind, args: &[String], state: &Path) -> Vec<OsString> {
    let mut whole = vec![OsString::from("diptych"), kind.as_str().into()];
    let uses_the_state =
        matches!(kind, JobKind::Embed | JobKind::Eval | JobKind::Export | JobKind::Score);
    if uses_the_state && !args.iter().any(|arg| arg == "--state" || arg.starts_with("--state=")) {
        whole.extend(["--state".into(), state.into()]);
    }
    whole.extend(args.iter().map(OsString::from));
    whole
}

/// Checker of the names in a command.
struct Names<'a> {
    folder: &'a Path,
    folders: &'a Folders,
}

impl Names<'_> {
    fn one(&self, role: PathRole, path: &Path) -> Result<PathBuf, String> {
        self.folders.resolve(self.folder, path, role)
    }

    fn all<'p>(
        &self,
        role: PathRole,
        paths: impl IntoIterator<Item = &'p PathBuf>,
    ) -> Result<(), String> {
        paths.into_iter().try_for_each(|path| self.one(role, path).map(drop))
    }

    /// Checks every file and folder that a command names. Returns its suite, which names more.
    fn check(&self, command: &Command) -> Result<Option<PathBuf>, String> {
        use PathRole::{Dataset, Read, Write};
        match command {
            Command::Ingest(args) => self.check_ingest(args)?,
            Command::Score(args) => {
                let ScoreArgs {
                    kinds: _,
                    dataset: DatasetArg { dataset },
                    pairs: PairsArgs { selection, condition: _ },
                    name: _,
                    model,
                    model_config,
                    run_on: diptych_cli::RunOnArgs { state, device: _, threads: _ },
                    centroids,
                    embeddings: _,
                    batch_size: _,
                    save_every: _,
                    no_progress: _,
                } = args;
                self.one(Write, dataset)?;
                self.all(Read, selection.iter().chain(centroids))?;
                self.folders.resolve_state(self.folder, state)?;
                model.iter().chain(model_config).try_for_each(|name| self.file_or_name(name))?;
            }
            Command::Select(args) => {
                let SelectArgs {
                    query: _,
                    file,
                    preset: PresetArg { preset: _, set },
                    uids,
                    uid_column: _,
                    dataset: DatasetArg { dataset },
                    selection,
                    tables,
                    state,
                    output,
                    unremembered: _,
                    memory: _,
                } = args;
                self.all(Write, [dataset, output])?;
                let tables = tables.iter().map(|(_, file)| file);
                self.all(Read, file.iter().chain(uids).chain(selection).chain(tables))?;
                let of_set = set.iter().filter_map(|set| set.split_once("=@"));
                self.all(Read, &of_set.map(|(_, file)| PathBuf::from(file)).collect::<Vec<_>>())?;
                if let Some(state) = state
                    && self.folders.resolve_state(self.folder, state)? == self.folders.state()
                {
                    return Err(
                        "--state: a selection cannot read the state folder of the service. \
                         Score the dataset instead (`diptych score clip`), and select by that"
                            .into(),
                    );
                }
            }
            Command::Dedup(args) => {
                let DedupArgs {
                    dataset: DatasetArg { dataset },
                    pairs: PairsArgs { selection, condition: _ },
                    tiers: _,
                    keep: _,
                    output,
                    groups,
                    memory: _,
                } = args;
                self.all(Write, [dataset, output].into_iter().chain(groups))?;
                self.all(Read, selection)?;
            }
            Command::Embed(args) => {
                let EmbedArgs {
                    model,
                    dataset: DatasetArg { dataset },
                    pairs: PairsArgs { selection, condition: _ },
                    output,
                    format: _,
                    batch_size: _,
                } = args;
                self.one(Dataset, dataset)?;
                self.all(Read, selection)?;
                self.all(Write, output)?;
                self.model(&model.model_ref())?;
            }
            Command::Export(args) => {
                self.model(&args.model_ref())?;
                let ExportArgs {
                    name: _,
                    model: _,
                    model_config: _,
                    ema: _,
                    run_on: _,
                    format: _,
                    output,
                } = args;
                self.one(Write, output)?;
            }
            Command::Eval(args) => return self.check_eval(args),
            _ => return Err("this command cannot run as a job".into()),
        }
        Ok(None)
    }

    fn check_ingest(&self, args: &IngestArgs) -> Result<(), String> {
        let IngestArgs {
            sources,
            dataset: DatasetArg { dataset },
            caption_column: _,
            image_column: _,
            url_column: _,
            captions: _,
            lists,
            dotted_keys: _,
            max_pixels: _,
            max_image_mib: _,
            row_group_mib: _,
            shard_mib: _,
            verify: _,
            phash: _,
            download,
        } = args;
        let ListArgs {
            separator: _,
            columns: _,
            no_header: _,
            text_columns: _,
            encoding: _,
            images_root,
            allow_outside,
        } = lists;
        if *allow_outside {
            return Err("--allow-outside is not allowed in a request: run the ingest by hand, or \
                 name a folder of this service with --images-root"
                .into());
        }
        self.all(PathRole::Read, images_root)?;
        let DownloadArgs {
            concurrency: _,
            per_host: _,
            host_interval_ms: _,
            connect_timeout: _,
            read_timeout: _,
            total_timeout: _,
            max_redirects: _,
            retries: _,
            max_wait: _,
            buffer_mib: _,
            user_agent: _,
            ignore_robots_txt: _,
            ignore_opt_outs: _,
            allow_private_hosts,
        } = download;
        if *allow_private_hosts {
            return Err(
                "--allow-private-hosts is not allowed in a request: run the ingest by hand".into(),
            );
        }
        self.one(PathRole::Write, dataset)?;
        let mut count = 0;
        sources.iter().try_for_each(|source| self.source(source, &mut count))
    }

    /// Checks every file that an argument of an ingest stands for now. Files that do not exist yet
    /// are checked again before the job starts.
    fn source(&self, source: &str, count: &mut usize) -> Result<(), String> {
        for name in source_names(self.folder, source).map_err(|error| error.to_string())? {
            let paths = match name {
                SourceName::Path(path) => vec![path],
                SourceName::Pattern(pattern) => {
                    if pattern.climbs() {
                        return Err(format!(
                            "{source}: a pattern with .. after a wildcard is not allowed, since it \
                             may leave the folders of this service"
                        ));
                    }
                    // Check the folder before reading it.
                    self.one(PathRole::Read, &pattern.folder())?;
                    pattern.matches().map_err(|error| error.to_string())?
                }
            };
            for path in paths {
                let real = self.one(PathRole::Read, &path)?;
                // The ingest itself reports files that do not exist or cannot be recognized.
                let held =
                    if real.is_dir() { sources_at(&path).unwrap_or_default() } else { Vec::new() };
                self.all(PathRole::Read, &held)?;
                *count += 1 + held.len();
                if *count > MOST_SOURCES {
                    return Err(format!(
                        "{source}: the sources name more than {MOST_SOURCES} files; split the job"
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_eval(&self, args: &EvalArgs) -> Result<Option<PathBuf>, String> {
        let EvalArgs {
            model,
            on,
            how: _,
            suite,
            max_seconds: _,
            compositional,
            images,
            compare,
            no_cache: _,
            json,
            output_format,
            output,
        } = args;
        let EvalOnArgs {
            dataset,
            pairs: PairsArgs { selection, condition: _ },
            benchmark,
            tasks: _,
            classes,
            label_column: _,
            templates,
            train_selection,
            more_captions: _,
            strict_pairs: _,
            group_by: _,
        } = on;
        let read = [selection, benchmark, images, classes, templates, train_selection];
        self.all(PathRole::Dataset, dataset)?;
        self.all(PathRole::Read, read.into_iter().flatten().chain(compositional))?;
        // Nothing is written to `output` without a format.
        let written = json.iter().chain(output_format.is_some().then_some(output));
        self.all(PathRole::Write, written)?;
        compare.iter().try_for_each(|name| self.file_or_name(name))?;
        self.model(&model.model_ref())?;
        suite.as_ref().map(|suite| self.one(PathRole::Read, suite)).transpose()
    }

    fn model(&self, model: &ModelRef) -> Result<(), String> {
        let ModelRef { name, config, ema: _, state, device: _, threads: _ } = model;
        self.folders.resolve_state(self.folder, state)?;
        [Some(name), config.as_ref()]
            .into_iter()
            .flatten()
            .try_for_each(|name| self.file_or_name(name))
    }

    /// Checks a name that may be a file. If there is no such file, it may be the name of a run or a
    /// built-in name.
    fn file_or_name(&self, name: &str) -> Result<(), String> {
        let run = name.split_once('@').map_or(name, |(run, _)| run);
        let is_name = RunName::new(run).is_ok() && !name.contains('/');
        if is_name && self.folder.join(name).symlink_metadata().is_err() {
            return Ok(());
        }
        self.one(PathRole::Read, Path::new(name)).map(drop)
    }
}

#[cfg(test)]
mod tests;
