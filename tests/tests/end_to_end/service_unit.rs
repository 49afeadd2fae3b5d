//! The service under systemd and `make install`: its messages to the supervisor, the unit, the
//! example configuration, the installed files. No systemd runs here: the test is the supervisor.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use diptych_test_support::{eventually, needs};
use diptych_tests::service::Process;
use diptych_tests::{Work, binary, project};

/// How long a test waits before it fails. A message comes within a fraction of it.
const PATIENCE: Duration = Duration::from_mins(1);
/// Interval of the watchdog: short, so that the service reports often.
const WATCHDOG_MICROS: &str = "200000";

/// systemd's end of the socket.
struct Supervisor {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Supervisor {
    fn listen(work: &Work) -> Self {
        let path = work.path("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path }
    }

    /// Starts the service, which is killed if the test fails.
    fn start(&self, work: &Work, arguments: &[&str]) -> Process {
        let mut command = work.command(arguments);
        command
            .env("NOTIFY_SOCKET", &self.path)
            .env("WATCHDOG_USEC", WATCHDOG_MICROS)
            .env_remove("WATCHDOG_PID");
        Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Waits for the next message that has a line with this beginning.
    fn hears(&self, begins: &str) -> Vec<String> {
        eventually(PATIENCE, begins, || {
            let mut bytes = [0; 4096];
            let length = self
                .socket
                .recv(&mut bytes)
                .unwrap_or_else(|error| panic!("no {begins} came: {error}"));
            let message: Vec<String> =
                String::from_utf8_lossy(&bytes[..length]).lines().map(str::to_owned).collect();
            message.iter().any(|line| line.starts_with(begins)).then_some(message)
        })
    }
}

#[test]
fn a_supervisor_hears_that_the_service_is_ready_alive_reloading_and_leaving() {
    let work = Work::new();
    work.write(
        "diptych.toml",
        "state = \"state\"\nlisten = \"127.0.0.1:0\"\n[jobs]\nstop_seconds = 7\n",
    );
    let supervisor = Supervisor::listen(&work);
    let mut service = supervisor.start(&work, &["serve", "diptych.toml"]);

    let ready = supervisor.hears("READY=1");
    assert!(ready.contains(&"STATUS=idle".to_owned()), "{ready:?}");
    work.diptych(&["status", "--state", "state"]).ok();
    for _ in 0..5 {
        supervisor.hears("WATCHDOG=1");
    }

    // Taken over or not, it says when it is done: systemd waits for that.
    for (text, message) in
        [("listen = \"127.0.0.1:0\"\nstate = \"state\"\n", "good"), ("no = \"key\"\n", "bad")]
    {
        work.write("diptych.toml", text);
        service.signal("-HUP");
        let reloading = supervisor.hears("RELOADING=1");
        let time = reloading
            .iter()
            .find_map(|line| line.strip_prefix("MONOTONIC_USEC="))
            .map(str::parse::<u64>);
        assert!(matches!(time, Some(Ok(1..))), "{message}: {reloading:?}");
        supervisor.hears("READY=1");
    }
    work.diptych(&["status", "--state", "state"]).ok();
    supervisor.hears("WATCHDOG=1");

    service.signal("-TERM");
    let stopping = supervisor.hears("STOPPING=1");
    // The 7 seconds for jobs from the start, which a reload does not change, and 5 for requests.
    assert!(stopping.contains(&"EXTEND_TIMEOUT_USEC=12000000".to_owned()), "{stopping:?}");
    assert_eq!(service.ends(), Some(0));
}

/// Returns the value of the last line `KEY=…` of the unit.
fn of_unit(key: &str) -> String {
    let text = std::fs::read_to_string(project().join("daemon/dist/diptych.service")).unwrap();
    let value = text.lines().rev().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("the unit has no {key}")).to_owned()
}

/// Returns whether `systemd-analyze ARGUMENTS… UNIT` succeeds, and its output.
fn systemd_analyze(arguments: &[&str], unit: &Path) -> (bool, String) {
    let output = Command::new("systemd-analyze").args(arguments).arg(unit).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[needs(systemd_analyze)]
#[test]
fn systemd_understands_the_unit_and_finds_it_hardened() {
    let work = Work::new();
    let unit = std::fs::read_to_string(project().join("daemon/dist/diptych.service")).unwrap();
    // What it starts must be there.
    let unit = unit.replace("/usr/bin/diptych", binary().to_str().unwrap());
    let cuda = std::fs::read_to_string(project().join("daemon/dist/cuda.conf")).unwrap();
    for (folder, text) in [("cpu", unit.clone()), ("gpu", format!("{unit}\n{cuda}"))] {
        let path = work.write(&format!("{folder}/diptych.service"), text);
        let (passes, said) = systemd_analyze(&["verify"], &path);
        // An option that it does not know is a warning only.
        let about_it: Vec<&str> =
            said.lines().filter(|line| line.contains("diptych.service")).collect();
        assert!(passes && about_it.is_empty(), "{folder}: {said}");
        let (passes, said) =
            systemd_analyze(&["security", "--offline=true", "--threshold=20"], &path);
        assert!(passes, "{folder}: {said}");
    }
}

#[test]
fn the_example_configuration_has_every_key_with_its_default_and_the_unit_leaves_time_for_it() {
    let work = Work::new();
    let example = std::fs::read_to_string(project().join("daemon/dist/diptych.toml")).unwrap();
    let path = work.write("diptych.toml", &example);
    let read = work.diptych(&["config", "--serve", path.to_str().unwrap()]).ok().stdout;
    let defaults = work.diptych(&["config", "--serve"]).ok().stdout;
    let but_state = |text: &str| {
        text.lines()
            .filter(|line| !line.starts_with("state = "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(but_state(&read), but_state(&defaults));
    for line in defaults.lines().filter(|line| line.contains(" = ") && !line.starts_with("state")) {
        assert!(example.lines().any(|other| other == line), "{line} is not in the example");
    }

    // What is commented out would be understood as well. A key may be there once only.
    let uncommented: Vec<&str> = example
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|rest| rest.contains(" = ") || rest.starts_with('['))
                .unwrap_or(line)
        })
        .filter(|line| {
            !matches!(*line, "folders = []" | "allow = []" | "listen = \"127.0.0.1:8723\"")
        })
        .collect();
    work.write("all.toml", uncommented.join("\n"));
    let all = work.diptych(&["config", "--serve", "all.toml"]).ok().stdout;
    for key in ["tokens = ", "certificate = ", "key = ", "name = ", "path = ", "listen = \"unix:"] {
        assert!(all.contains(key), "{key} is not in\n{all}");
    }

    let stop_seconds: u64 = defaults
        .lines()
        .find_map(|line| line.strip_prefix("stop_seconds = "))
        .unwrap()
        .parse()
        .unwrap();
    let unit_seconds: u64 = of_unit("TimeoutStopSec").parse().unwrap();
    assert!(
        unit_seconds > stop_seconds + 5,
        "systemd kills after {unit_seconds} s what may take {stop_seconds} s and 5 more"
    );
}

#[test]
fn make_install_puts_what_runs_by_itself_and_leaves_a_configuration_alone() {
    let work = Work::new();
    let root = work.path("root");
    let make = |target: &str| {
        let output = Command::new("make")
            .args([target, "PREFIX=/usr"])
            .arg(format!("DESTDIR={}", root.display()))
            .arg(format!("BINARY={}", binary().display()))
            .current_dir(project())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "make {target}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    make("install");
    let configuration = root.join("etc/diptych/diptych.toml");
    let example = std::fs::read(project().join("daemon/dist/diptych.toml")).unwrap();
    assert_eq!(std::fs::read(&configuration).unwrap(), example);
    work.write("root/etc/diptych/diptych.toml", "# mine\n");
    for name in
        ["bash-completion/completions/diptych", "doc/diptych/LICENSE", "doc/diptych/README.md"]
    {
        assert!(root.join("usr/share").join(name).metadata().unwrap().len() > 1000, "{name}");
    }

    // Again, over what runs: the files of the process that runs are not written into.
    let supervisor = Supervisor::listen(&work);
    let mut command = Command::new(root.join("usr/bin/diptych"));
    command
        .args(["serve", "--state", "state", "--listen", "127.0.0.1:0"])
        .current_dir(work.path(""));
    command
        .env_remove("LD_LIBRARY_PATH")
        .env("NOTIFY_SOCKET", &supervisor.path)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut service = Process(command.spawn().unwrap());
    supervisor.hears("READY=1");
    // What it has loaded of libtorch comes from where it was installed, and from nowhere else.
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", service.0.id())).unwrap();
    let names = ["libdiptych_torch", "libtorch", "libc10"];
    let libraries: Vec<&str> =
        maps.lines().filter(|line| names.iter().any(|name| line.contains(name))).collect();
    for name in ["libdiptych_torch.so", "libtorch_cpu.so"] {
        let here = root.join("usr/lib/diptych").join(name);
        assert!(
            libraries.iter().any(|line| line.ends_with(here.to_str().unwrap())),
            "{name}: {libraries:?}"
        );
    }
    assert!(libraries.iter().all(|line| line.contains(root.to_str().unwrap())), "{libraries:?}");
    make("install");
    work.diptych(&["status", "--state", "state"]).ok();
    service.signal("-TERM");
    assert_eq!(service.ends(), Some(0));
    assert_eq!(work.read("root/etc/diptych/diptych.toml"), "# mine\n");

    make("uninstall");
    let left: Vec<_> = walk(&root).into_iter().filter(|path| !path.is_dir()).collect();
    assert_eq!(left, [configuration]);
}

/// Returns everything below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() { [vec![path.clone()], walk(&path)].concat() } else { vec![path] }
        })
        .collect()
}
