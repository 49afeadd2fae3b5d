//! What is looked at before a job is taken on: that its configuration or arguments can be understood, and that every file and folder in
//! them is one that a request may name.
//!
//! Arguments are taken apart field by field, without a rest, so that a new option does not compile before somebody has said here
//! whether it names a file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;
use diptych_cli::{
    Cli, Command, DatasetArg, DedupArgs, DownloadArgs, EmbedArgs, EvalArgs, EvalOnArgs, ExportArgs,
    IngestArgs, ListArgs, PresetArg, ScoreArgs, SelectArgs,
};
use diptych_schemas::{ModelRef, SuiteConfig, TrainConfig};
use diptych_store::{JobKind, RunName, Store};

use super::Wanted;
use crate::folders::Folders;

/// Checks what is wanted. Gives the name of the run, of a training.
pub(super) fn check(
    wanted: &Wanted,
    store: &Store,
    folders: &Folders,
) -> Result<Option<RunName>, String> {
    let paths: Vec<PathBuf>;
    let (mut run, mut suite) = (None, None);
    if wanted.kind == JobKind::Train {
        if !wanted.args.is_empty() {
            return Err("a training has a config, no args".into());
        }
        let config = config(wanted.config.as_deref(), &wanted.folder)?;
        paths = config.paths();
        suite = config.eval.suite;
        run = Some(RunName::new(&config.name).map_err(|error| error.to_string())?);
    } else {
        if wanted.config.is_some() {
            return Err(format!("only a training has a config; {} has args", wanted.kind.as_str()));
        }
        let command = command(wanted.kind, &wanted.args, store.folder())?;
        if let Command::Eval(args) = &command {
            suite.clone_from(&args.suite);
        }
        paths = named(command)?;
    }
    folders.check(&wanted.folder, Path::new("."))?;
    paths.iter().try_for_each(|path| folders.check(&wanted.folder, path))?;
    // A suite names files of its own, which count as if they were asked for.
    if let Some(suite) = suite {
        let suite =
            SuiteConfig::read(&wanted.folder.join(suite)).map_err(|error| error.to_string())?;
        suite.paths().iter().try_for_each(|path| folders.check(&wanted.folder, path))?;
    }
    Ok(run)
}

/// The configuration of a training, its paths relative to `folder`.
pub(super) fn config(text: Option<&str>, folder: &Path) -> Result<TrainConfig, String> {
    let mut config = TrainConfig::parse(text.ok_or("a training wants a config: its TOML")?)?;
    config.resolve_paths(folder);
    Ok(config)
}

/// The command that a job other than a training is. Models are looked for in the service's state folder.
pub(super) fn command(kind: JobKind, args: &[String], state: &Path) -> Result<Command, String> {
    let given = whole(kind, args, state);
    Ok(Cli::try_parse_from(given)
        .map_err(|error| error.render().to_string().trim_end().to_owned())?
        .command)
}

/// All arguments of the process, its name first.
pub(super) fn whole(kind: JobKind, args: &[String], state: &Path) -> Vec<OsString> {
    let mut whole = vec![OsString::from("diptych"), kind.as_str().into()];
    let asks_the_state =
        matches!(kind, JobKind::Embed | JobKind::Eval | JobKind::Export | JobKind::Score);
    if asks_the_state && !args.iter().any(|arg| arg == "--state" || arg.starts_with("--state=")) {
        whole.extend(["--state".into(), state.into()]);
    }
    whole.extend(args.iter().map(OsString::from));
    whole
}

/// Every file and folder that a command names.
fn named(command: Command) -> Result<Vec<PathBuf>, String> {
    let mut paths = Vec::new();
    match command {
        Command::Ingest(args) => {
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
            if allow_private_hosts {
                return Err("--allow-private-hosts cannot be asked for by a request: run such an ingest by hand".into());
            }
            let ListArgs {
                separator: _,
                columns: _,
                no_header: _,
                text_columns: _,
                encoding: _,
                images_root,
                allow_outside,
            } = lists;
            if allow_outside {
                return Err("--allow-outside cannot be asked for by a request: run such an ingest by hand, or name a folder of this service with --images-root".into());
            }
            paths.push(dataset);
            paths.extend(images_root);
            for source in &sources {
                paths.push(before_the_pattern(source)?);
            }
        }
        Command::Score(args) => {
            let ScoreArgs {
                kinds: _,
                dataset: DatasetArg { dataset },
                selection,
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
            paths.extend([dataset, state]);
            paths.extend(selection.into_iter().chain(centroids));
            paths.extend(
                model.into_iter().chain(model_config).filter_map(|name| file_or_name(&name)),
            );
        }
        Command::Select(args) => {
            let SelectArgs {
                query: _,
                file,
                preset: PresetArg { preset: _, set },
                uids,
                uid_column: _,
                dataset: DatasetArg { dataset },
                state,
                output,
                memory: _,
            } = args;
            paths.extend([dataset, output]);
            paths.extend(file.into_iter().chain(uids).chain(state));
            paths.extend(
                set.iter()
                    .filter_map(|set| set.split_once("=@"))
                    .map(|(_, file)| PathBuf::from(file)),
            );
        }
        Command::Dedup(args) => {
            let DedupArgs {
                dataset: DatasetArg { dataset },
                selection,
                tiers: _,
                keep: _,
                output,
                groups,
                memory: _,
            } = args;
            paths.extend([dataset, output]);
            paths.extend(selection.into_iter().chain(groups));
        }
        Command::Embed(EmbedArgs {
            model,
            dataset: DatasetArg { dataset },
            selection,
            output,
            format: _,
            batch_size: _,
        }) => {
            paths.extend([dataset, selection]);
            paths.extend(output);
            paths.extend(paths_of_model(model.model_ref()));
        }
        Command::Export(args) => {
            paths.extend(paths_of_model(args.model_ref()));
            let ExportArgs {
                name: _,
                model: _,
                model_config: _,
                ema: _,
                run_on: _,
                format: _,
                output,
            } = args;
            paths.push(output);
        }
        Command::Eval(args) => paths.extend(of_eval(*args)),
        _ => return Err("this is no job".into()),
    }
    Ok(paths)
}

fn of_eval(args: EvalArgs) -> Vec<PathBuf> {
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
        output_format: _,
        output,
    } = args;
    let EvalOnArgs {
        dataset,
        selection,
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
    let optional =
        [dataset, selection, benchmark, suite, images, classes, templates, train_selection, json];
    let compared = compare.and_then(|name| file_or_name(&name));
    optional
        .into_iter()
        .flatten()
        .chain(compositional)
        .chain([output])
        .chain(compared)
        .chain(paths_of_model(model.model_ref()))
        .collect()
}

fn paths_of_model(model: ModelRef) -> Vec<PathBuf> {
    let ModelRef { name, config, ema: _, state, device: _, threads: _ } = model;
    let named = [Some(name), config].into_iter().flatten().filter_map(|name| file_or_name(&name));
    named.chain([state]).collect()
}

/// What may be a file and may be a run or a built-in name: as a file, which does no harm to a name, since that lies in the folder itself.
fn file_or_name(name: &str) -> Option<PathBuf> {
    (!name.is_empty()).then(|| name.into())
}

/// The folder that a glob pattern looks in, or the path itself.
fn before_the_pattern(source: &str) -> Result<PathBuf, String> {
    let Some(place) = source.find(['*', '?', '[']) else { return Ok(source.into()) };
    // Upwards steps behind a pattern would lead out of what is checked.
    if source.contains("..") {
        return Err(format!(
            "{source}: a pattern with .. may lead outside of the folders of this service"
        ));
    }
    Ok(source[..place]
        .rsplit_once('/')
        .map_or_else(PathBuf::new, |(folder, _)| format!("{folder}/").into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_schemas::{ServeConfig, ServedDataset};

    struct Place {
        _folder: tempfile::TempDir,
        root: PathBuf,
        store: Store,
        folders: Folders,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["state", "data", "work", "outside"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        let config = ServeConfig {
            state: root.join("state"),
            folders: vec![root.join("work")],
            datasets: vec![ServedDataset { name: "data".into(), path: root.join("data") }],
            ..ServeConfig::default()
        };
        let store = Store::open(&config.state).unwrap();
        Place { _folder: folder, folders: Folders::of(&config), store, root }
    }

    fn wanted(place: &Place, kind: JobKind, args: &str) -> Wanted {
        let args = args
            .split(' ')
            .map(|arg| arg.replace("ROOT", &place.root.display().to_string()))
            .collect();
        Wanted {
            kind,
            config: None,
            args,
            folder: place.root.join("work"),
            priority: 0,
            after: Vec::new(),
        }
    }

    #[test]
    fn files_outside_are_refused_in_every_option_that_names_one() {
        let place = place();
        let suite = |name: &str, folder: &str| {
            let text = format!("[[task]]\nbenchmark = \"{folder}\"\n");
            diptych_schemas::durable::write(&place.root.join("work").join(name), text.as_bytes())
                .unwrap();
        };
        suite("suite.toml", "wds");
        suite("leads-out.toml", "../outside/wds");
        for (kind, args) in [
            (JobKind::Ingest, "a.tar b/*.tar --dataset new"),
            (JobKind::Select, "SELECT --dataset ROOT/data --output train.parquet"),
            (JobKind::Export, "--model RUN@best --format hf --output ROOT/work/out"),
            (JobKind::Export, "RUN@best --format hf --output ROOT/work/out"),
            (JobKind::Eval, "--model RUN --dataset ROOT/data --selection h.parquet"),
            (JobKind::Eval, "--model RUN --suite suite.toml"),
            (JobKind::Score, "clip --model RUN --dataset ROOT/data"),
            (JobKind::Dedup, "--by sha256 --dataset ROOT/data --output unique.parquet"),
            (JobKind::Embed, "--model RUN --dataset ROOT/data --selection h.parquet"),
        ] {
            check(&wanted(&place, kind, args), &place.store, &place.folders)
                .unwrap_or_else(|error| panic!("{args}: {error}"));
        }
        for (kind, args) in [
            (JobKind::Ingest, "/etc/*.conf --dataset new"),
            (JobKind::Ingest, "*/../../outside/x --dataset new"),
            (JobKind::Ingest, "a.tar --dataset ROOT/outside/new"),
            (JobKind::Ingest, "a.csv --dataset new --images-root ROOT/outside"),
            (JobKind::Select, "--file /etc/passwd --dataset ROOT/data --output t.parquet"),
            (JobKind::Select, "SELECT --dataset ROOT/data --output ../outside/t.parquet"),
            (
                JobKind::Select,
                "--preset x --set a=@/etc/passwd --dataset ROOT/data --output t.parquet",
            ),
            (JobKind::Export, "--model /etc --format hf --output out"),
            (JobKind::Export, "/etc --format hf --output out"),
            (JobKind::Export, "--model RUN --format hf --output out --state ROOT/outside"),
            (
                JobKind::Eval,
                "--model RUN --dataset ROOT/data --selection h.parquet --json /tmp/x.json",
            ),
            (
                JobKind::Eval,
                "--model RUN --dataset ROOT/data --selection h.parquet --compare ../outside",
            ),
            (JobKind::Eval, "--model RUN --compositional add.json --images ROOT/outside"),
            (JobKind::Eval, "--model RUN --compositional /etc/passwd --images ROOT/work"),
            (JobKind::Eval, "--model RUN --suite ../outside/suite.toml"),
            (JobKind::Eval, "--model RUN --suite leads-out.toml"),
            (
                JobKind::Dedup,
                "--by sha256 --dataset ROOT/data --output u.parquet --groups ROOT/outside/g.parquet",
            ),
            (
                JobKind::Embed,
                "--model RUN --dataset ROOT/data --selection h.parquet --output ../outside/e",
            ),
            (JobKind::Score, "cluster --centroids /etc/passwd --dataset ROOT/data"),
        ] {
            let error =
                check(&wanted(&place, kind, args), &place.store, &place.folders).unwrap_err();
            assert!(error.contains("outside of the folders"), "{args}: {error}");
        }
    }

    #[test]
    fn a_training_is_checked_by_all_that_its_configuration_names() {
        let place = place();
        let smallest = "name = \"a\"\n[data]\ndataset = \"../data\"\nselection = \"s.parquet\"\n[model]\nconfig = \"demo\"\n";
        let of = |text: String| Wanted {
            config: Some(text),
            args: Vec::new(),
            ..wanted(&place, JobKind::Train, "")
        };
        let run = check(&of(smallest.into()), &place.store, &place.folders).unwrap();
        assert_eq!(run.unwrap().as_str(), "a");
        for more in ["weights = \"/etc/x\"\n", "tokenizer = \"../outside/t.json\"\n"] {
            let error =
                check(&of(format!("{smallest}{more}")), &place.store, &place.folders).unwrap_err();
            assert!(error.contains("outside of the folders"), "{more}: {error}");
        }
        assert!(
            check(&of(smallest.replace("demo", "/etc/m.json")), &place.store, &place.folders)
                .is_err()
        );
        assert!(
            check(&of("name = 3".into()), &place.store, &place.folders)
                .unwrap_err()
                .contains("line 1")
        );
    }

    #[test]
    fn what_is_no_job_or_cannot_be_read_is_refused_in_words() {
        let place = place();
        let error =
            check(&wanted(&place, JobKind::Export, "--modle x"), &place.store, &place.folders)
                .unwrap_err();
        assert!(error.contains("--model"), "{error}");
        let private = wanted(&place, JobKind::Ingest, "a.csv --dataset new --allow-private-hosts");
        assert!(check(&private, &place.store, &place.folders).unwrap_err().contains("by hand"));
        let outside = wanted(&place, JobKind::Ingest, "a.csv --dataset new --allow-outside");
        assert!(check(&outside, &place.store, &place.folders).unwrap_err().contains("by hand"));
    }
}
