use super::*;
use diptych_schemas::{RemoteAccess, ServeConfig, ServedDataset};

struct Place {
    _folder: tempfile::TempDir,
    root: PathBuf,
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
    let folders = Folders::from_config(&config).unwrap();
    Place { _folder: folder, folders, root }
}

fn checked(place: &Place, wanted: &JobRequest) -> Result<CheckedJob, String> {
    check(wanted.into(), &place.root.join("state"), &place.folders)
}

fn wanted(place: &Place, kind: JobKind, args: &str) -> JobRequest {
    let args =
        args.split(' ').map(|arg| arg.replace("ROOT", &place.root.display().to_string())).collect();
    JobRequest {
        kind,
        config: None,
        args,
        folder: place.root.join("work"),
        priority: 0,
        after: Vec::new(),
    }
}

fn refusal(checked: Result<CheckedJob, String>) -> String {
    checked.err().unwrap()
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
        (JobKind::Embed, "--model RUN --dataset ROOT/data"),
        (JobKind::Embed, "--model RUN --dataset ROOT/data --where width>64"),
        (JobKind::Eval, "--model RUN --dataset ROOT/data --where width>64"),
        (
            JobKind::Select,
            "width>64 --dataset ROOT/data --output train.parquet --table u=u.parquet",
        ),
    ] {
        checked(&place, &wanted(&place, kind, args))
            .unwrap_or_else(|error| panic!("{args}: {error}"));
    }
    for (kind, args) in [
        (JobKind::Ingest, "/etc/*.conf --dataset new"),
        (JobKind::Ingest, "*/../../outside/x --dataset new"),
        (JobKind::Ingest, "a.tar --dataset ROOT/outside/new"),
        (JobKind::Select, "--file /etc/passwd --dataset ROOT/data --output t.parquet"),
        (JobKind::Select, "SELECT --dataset ROOT/data --output ../outside/t.parquet"),
        (JobKind::Select, "SELECT --dataset ROOT/data --output t.parquet --table u=/etc/passwd"),
        (JobKind::Select, "--dataset ROOT/data --output t.parquet --selection /etc/passwd"),
        (JobKind::Embed, "--model RUN --dataset ROOT/data --selection /etc/passwd"),
        (JobKind::Select, "--preset x --set a=@/etc/passwd --dataset ROOT/data --output t.parquet"),
        (JobKind::Export, "--model /etc --format hf --output out"),
        (JobKind::Export, "/etc --format hf --output out"),
        (JobKind::Export, "--model RUN --format hf --output out --state ROOT/outside"),
        (JobKind::Eval, "--model RUN --dataset ROOT/data --selection h.parquet --json /tmp/x.json"),
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
        let error = refusal(checked(&place, &wanted(&place, kind, args)));
        let is_refused = ["outside the folders", "leave the folders"];
        assert!(is_refused.iter().any(|says| error.contains(says)), "{args}: {error}");
    }
}

#[test]
fn a_training_is_checked_by_all_that_its_configuration_names() {
    let place = place();
    let smallest = "name = \"a\"\n[data]\ndataset = \"../data\"\nselection = \
         \"s.parquet\"\n[model]\nconfig = \"demo\"\n";
    let of = |text: String| JobRequest {
        config: Some(text),
        args: Vec::new(),
        ..wanted(&place, JobKind::Train, "")
    };
    let run = checked(&place, &of(smallest.into())).unwrap().run().unwrap();
    assert_eq!(run.unwrap().as_str(), "a");
    for more in ["weights = \"/etc/x\"\n", "tokenizer = \"../outside/t.json\"\n"] {
        let error = refusal(checked(&place, &of(format!("{smallest}{more}"))));
        assert!(error.contains("outside the folders"), "{more}: {error}");
    }
    for model in ["/etc/m.json", "/etc/M.JSON"] {
        assert!(checked(&place, &of(smallest.replace("demo", model))).is_err(), "{model}");
    }
    assert!(refusal(checked(&place, &of("name = 3".into()))).contains("line 1"));
    // Outputs must not lie in the state folder, and inputs elsewhere must be allowed by name.
    for (more, says) in [
        ("[metrics]\ntensorboard = \"../state/sled\"\n", "inside the state folder"),
        ("[loader.remote]\ncache = \"../state/jobs\"\n", "inside the state folder"),
        ("[loader.remote.options]\ngoogle_service_account_path = \"/etc/passwd\"\n", "cannot set"),
        ("[eval]\nselection = \"../state/sled/db\"\n", "belongs to the store"),
    ] {
        let error = refusal(checked(&place, &of(format!("{smallest}{more}"))));
        assert!(error.contains(says), "{more}: {error}");
    }
    let remote = smallest.replace("../data", "http://127.0.0.1/data");
    assert!(refusal(checked(&place, &of(remote))).contains("remote.allow"));
}

#[test]
fn sources_elsewhere_are_read_where_the_allow_list_says_so_and_nowhere_else() {
    let mut place = place();
    let asked = |place: &Place, source: &str| {
        let job = wanted(place, JobKind::Ingest, &format!("{source} --dataset new"));
        checked(place, &job).map(drop)
    };
    let inside = [
        "https://data.example.org/sets/a.tar",
        "https://data.example.org/sets/{00..99}.tar",
        "s3://bucket/sets/a/",
        "s3://bucket/sets/a/*.tar",
        "hf://datasets/who/what/a.tar",
    ];
    let outside = [
        "https://data.example.org/other/a.tar",
        "https://data.example.org/{sets,other}/a.tar",
        "https://data.example.org/sets/{.,}./other/a.tar",
        "http://data.example.org/sets/a.tar",
        "s3://bucket/sets-of-others/a.tar",
        "s3://bucket/*/a.tar",
        "s3://bucket/sets/../other/a.tar",
        "hf://datasets/who/else/a.tar",
        "http://169.254.169.254/latest/meta-data",
        "http://[fd00:ec2::254]/latest",
        "http://2852039166/latest",
    ];
    for source in inside.iter().chain(&outside) {
        assert!(asked(&place, source).is_err(), "nothing is allowed by default: {source}");
    }
    let allow = [
        "https://data.example.org/sets",
        "s3://bucket/sets",
        "https://huggingface.co/datasets/who/what",
        // Whoever writes this does not get it either.
        "http://169.254.169.254/",
    ];
    let config = ServeConfig {
        state: place.root.join("state"),
        folders: vec![place.root.join("work")],
        remote: RemoteAccess { allow: allow.map(str::to_owned).into() },
        ..ServeConfig::default()
    };
    place.folders = Folders::from_config(&config).unwrap();
    for source in inside {
        asked(&place, source).unwrap();
    }
    for source in outside {
        assert!(asked(&place, source).is_err(), "{source}");
    }
    // A file of that name may be gone when the ingest looks for it.
    let named = place.root.join("work/https:/other.example");
    std::fs::create_dir_all(&named).unwrap();
    diptych_schemas::durable::write(&named.join("a.tar"), b"").unwrap();
    assert!(asked(&place, "https://other.example/a.tar").unwrap_err().contains("remote.allow"));
    // A job is kept, and so would be its secrets.
    for secret in [
        "https://me:HIDDEN@data.example.org/sets/a.tar",
        "https://data.example.org/sets/a.tar?sig=HIDDEN",
    ] {
        let error = asked(&place, secret).unwrap_err();
        assert!(error.contains("no password") && !error.contains("HIDDEN"), "{error}");
    }
}

#[test]
fn what_is_no_job_or_cannot_be_read_is_refused_in_words() {
    let place = place();
    let error = refusal(checked(&place, &wanted(&place, JobKind::Export, "--modle x")));
    assert!(error.contains("--model"), "{error}");
    let private = wanted(&place, JobKind::Ingest, "a.csv --dataset new --allow-private-hosts");
    assert!(refusal(checked(&place, &private)).contains("by hand"));
}

/// Parts of names that climb, match several names, are links, or look like something else.
const PARTS: [&str; 46] = [
    "..",
    ".",
    "...",
    ".. ",
    "a",
    "a.tar",
    "b",
    "*",
    "?",
    "**",
    ".?",
    "?.",
    ".*",
    "*.",
    "[.].",
    ".[.]",
    "[.][.]",
    "[!a].",
    "{.,..}",
    "{..,a}",
    "..{,/}",
    "{.}{.}",
    ".{.,a}",
    "{..}",
    "{0..3}",
    "{a,b}",
    "{",
    "}",
    "out",
    "in",
    "loop",
    "nowhere",
    "up",
    "a:",
    "s3:",
    "http:",
    "file:",
    "x:",
    "%2e%2e",
    "\u{ff0e}\u{ff0e}",
    "\u{2024}\u{2024}",
    "..\u{301}",
    "\\..",
    "~",
    "",
    "\u{202e}..",
];

/// Makes a place with links that lead outside, inside, upwards, to themselves and nowhere, and with
/// files around it that must not be read or destroyed.
fn trapped_place() -> Place {
    use std::os::unix::fs::symlink;
    let place = place();
    for (name, text) in [
        ("outside/secret.tar", "secret"),
        ("outside/a/a.tar", "secret"),
        ("state/sled/db", "store"),
        ("state/lock", ""),
        ("state/jobs/1/log", "log"),
        ("state/checkpoints/run/model", "weights"),
        ("work/a/a.tar", "pairs"),
        ("work/a/b/a.tar", "pairs"),
        ("work/b/a.tar", "pairs"),
        ("work/.hidden/a.tar", "pairs"),
        ("work/a.tar", "pairs"),
    ] {
        let path = place.root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        diptych_schemas::durable::write(&path, text.as_bytes()).unwrap();
    }
    for (to, link) in [
        ("outside", "work/out"),
        ("work/b", "work/in"),
        ("work/loop", "work/loop"),
        ("outside/new", "work/nowhere"),
        ("outside/a/..", "work/a/up"),
        ("state", "work/b/out"),
    ] {
        symlink(place.root.join(to), place.root.join(link)).unwrap();
    }
    place
}

/// Returns every file outside `work` with its contents.
fn around(place: &Place) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["state", "data", "outside"].map(|name| place.root.join(name)).into();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

/// Returns the paths that an ingest in `folder` opens for a source, using the same functions.
fn opened(folder: &Path, source: &str) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for name in source_names(folder, source).unwrap_or_default() {
        match name {
            SourceName::Path(path) => paths.push(path),
            SourceName::Pattern(pattern) => paths.extend(pattern.matches().unwrap_or_default()),
        }
    }
    let held: Vec<PathBuf> =
        paths.iter().flat_map(|path| sources_at(path).unwrap_or_default()).collect();
    paths.into_iter().chain(held).filter_map(|path| path.canonicalize().ok()).collect()
}

/// Returns names that once led outside, and random ones.
fn strange_names(random: &mut rand::rngs::StdRng, root: &Path, count: usize) -> Vec<String> {
    use rand::Rng;
    use rand::seq::IndexedRandom;
    let mut names: Vec<String> = [
        "a://../../outside/secret.tar",
        "a://../../x",
        ".?/outside/secret.tar",
        ".?/*/secret.tar",
        "a/.?/.?/outside/secret.tar",
        ".{.,}/outside/secret.tar",
        "{.,a}{.,b}/outside/secret.tar",
        "..{/outside,}/secret.tar",
        "{..,a}/outside/secret.tar",
        "../state/sled/db",
        "s3://../../outside/secret.tar",
        "http://../../outside/secret.tar",
        "file:///etc/passwd",
        "out/secret.tar",
        "b/out/sled/db",
        "a/up/../outside/secret.tar",
        "/proc/self/root/etc/passwd",
        "//etc/passwd",
    ]
    .map(str::to_owned)
    .into();
    names.extend((0..count).map(|_| {
        let parts = random.random_range(1..7);
        let parts = (0..parts).map(|_| *PARTS.choose(random).unwrap());
        let mut name = parts.collect::<Vec<_>>().join("/");
        match random.random_range(0..12) {
            0 => name.insert_str(0, "a://"),
            1 => name.insert_str(0, "s3://"),
            2 => name.insert_str(0, &format!("{}/", root.display())),
            3 => name.push_str("outside/secret.tar"),
            4 => name.push_str("/outside/*"),
            5 => name.push_str("/state/sled/db"),
            _ => {}
        }
        name
    }));
    names
}

/// Requests jobs that read and write a name, and does what they would do if they are allowed.
/// Returns the number of reads and writes.
fn try_name(place: &Place, name: &str) -> (usize, usize) {
    let (work, state) = (place.root.join("work"), place.root.join("state"));
    let ask = |kind, args: &[&str]| {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let folder = work.clone();
        let wanted =
            JobRequest { kind, config: None, args, folder, priority: 0, after: Vec::new() };
        checked(place, &wanted).is_ok()
    };
    let may_be_read = |path: &Path| {
        path.starts_with(&work) || path == state || path.starts_with(state.join("checkpoints"))
    };
    let (mut read, mut written) = (0, 0);
    if ask(JobKind::Ingest, &["--dataset", "new", "--", name]) {
        for path in opened(&work, name) {
            assert!(may_be_read(&path), "{name:?} opens {}", path.display());
            read += 1;
        }
    }
    // With `=`, any text that follows is the value.
    let [dataset, output] = ["dataset", "output"].map(|option| format!("--{option}={name}"));
    if !name.is_empty() && ask(JobKind::Dedup, &["--by", "sha256", &dataset, &output]) {
        // Write as a job would: relative to its folder, with missing parent folders created.
        let path = work.join(name);
        if path.parent().is_some_and(|parent| std::fs::create_dir_all(parent).is_ok())
            && std::fs::File::create_new(&path).is_ok()
        {
            let real = path.canonicalize().unwrap();
            assert!(real.starts_with(&work), "{name:?} writes {}", real.display());
            written += 1;
            // Make room for other names.
            std::fs::remove_file(real).unwrap();
        }
    }
    (read, written)
}

#[test]
fn ten_thousand_strange_names_stay_inside() {
    use rand::SeedableRng;
    let mut random = rand::rngs::StdRng::seed_from_u64(diptych_test_support::seed());
    let (mut read, mut written) = (0, 0);
    // Folders that were created stay until the next place. So they lead on, and `**` does not find
    // ever more of them.
    for _ in 0..20 {
        let place = trapped_place();
        let before = around(&place);
        for name in strange_names(&mut random, &place.root, 500) {
            let (of_name, into_name) = try_name(&place, &name);
            (read, written) = (read + of_name, written + into_name);
        }
        assert!(around(&place) == before, "something outside has changed");
    }
    assert!(
        read > 500 && written > 500,
        "too few names were taken: {read} read, {written} written"
    );
}
