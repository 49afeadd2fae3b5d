//! The installed unit under a running systemd: it is active once it answers, saves when it stops,
//! and comes back after a kill or a hang with its training continued. Ignored if no systemd can be
//! started (`tests/systemd/boot.sh --check` says why).

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use diptych_test_support::{eventually, needs};
use diptych_tests::service::PATIENCE;
use diptych_tests::{Work, binary, project, tiny_config};
use serde_json::Value;

const STATE: &str = "/var/lib/diptych";

/// A machine of its own, as systemd sees it. It ends with the child, which ends with its standard
/// input.
struct Machine {
    boot: Child,
    first: String,
}

impl Machine {
    fn boot(stage: &PathBuf) -> Self {
        let mut command = Command::new("bash");
        command
            .arg(project().join("tests/systemd/boot.sh"))
            .arg(stage)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut boot = command.spawn().unwrap();
        let mut first = String::new();
        BufReader::new(boot.stdout.take().unwrap()).read_line(&mut first).unwrap();
        // Before that it ends by itself within a minute, and has said why.
        assert!(!first.is_empty(), "boot.sh ended: {}", boot.wait().unwrap());
        Self { boot, first: first.trim().to_owned() }
    }

    fn run(&self, command: &[&str]) -> Output {
        let mut inside = Command::new("nsenter");
        inside
            .args(["-t", &self.first, "-m", "-p", "-C", "-u", "-i", "-n", "-r", "-w"])
            .args(command);
        inside.env("DIPTYCH_SERVER", "http://127.0.0.1:8723").output().unwrap()
    }

    /// Returns the output of a command, which must succeed.
    fn ok(&self, command: &[&str]) -> String {
        let ran = self.run(command);
        let [out, error] =
            [ran.stdout, ran.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(ran.status.success(), "{command:?}: {out}{error}\n{}", self.log());
        out
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&self.run(&["journalctl", "-u", "diptych", "--no-pager"]).stdout)
            .into_owned()
    }

    fn property(&self, name: &str) -> String {
        self.ok(&["systemctl", "show", "diptych", "--value", "-p", name]).trim().to_owned()
    }

    /// Returns the step of the running training, once the service answers.
    fn step(&self) -> Option<u64> {
        let ran = self.run(&["/usr/local/bin/diptych", "status", "--json"]);
        let status: Value = serde_json::from_slice(&ran.stdout).ok()?;
        status["running"][0]["step"].as_u64()
    }

    fn waits_for_step(&self, step: u64) -> u64 {
        eventually(PATIENCE, &format!("step {step}"), || self.step().filter(|now| *now >= step))
    }

    fn waits_for_restart(&self, number: u32) {
        eventually(PATIENCE, "systemd to start it again", || {
            (self.property("NRestarts") == number.to_string()
                && self.property("ActiveState") == "active")
                .then_some(())
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.boot.stdin.take());
        let _ = self.boot.wait();
    }
}

#[needs(systemd)]
#[test]
fn service_under_a_real_systemd_is_back_after_a_kill_and_a_standstill_and_leaves_with_all_saved() {
    let work = Work::new().with_demo_data(120);
    let stage = work.path("stage");
    let installed = Command::new("make")
        .args(["install", "PREFIX=/usr/local"])
        .arg(format!("DESTDIR={}", stage.display()))
        .arg(format!("BINARY={}", binary().display()))
        .current_dir(project())
        .output()
        .unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let home = stage.join(STATE.trim_start_matches('/'));
    std::fs::create_dir_all(home.parent().unwrap()).unwrap();
    std::fs::create_dir(&home).unwrap();
    for name in ["data", "train.parquet", "tiny.json"] {
        diptych_schemas::durable::publish(&work.path(name), &home.join(name)).unwrap();
    }
    let config = tiny_config(
        "run",
        100_000,
        "[checkpoint]\nevery_epochs = 0\nevery_steps = 20\nkeep_last = 2\n",
    );
    work.write("stage/var/lib/diptych/run.toml", config);
    let machine = Machine::boot(&stage);

    // Started means that it answers.
    machine.ok(&["systemctl", "start", "diptych"]);
    assert_eq!(
        (machine.property("StatusText").as_str(), machine.property("User").as_str()),
        ("idle", "diptych")
    );
    machine.ok(&["sh", "-c", &format!("cd {STATE} && /usr/local/bin/diptych submit run.toml")]);
    let reached = machine.waits_for_step(50);
    eventually(PATIENCE, "a status line", || {
        machine.property("StatusText").contains("run step").then_some(())
    });

    machine.ok(&["systemctl", "kill", "-s", "KILL", "--kill-whom=main", "diptych"]);
    machine.waits_for_restart(1);
    assert!(machine.waits_for_step(reached) >= reached);

    machine.ok(&["systemctl", "reload", "diptych"]);

    // A process that stands still is not fed any more, and ended by the watchdog.
    machine.ok(&["sh", "-c", "mkdir -p /run/systemd/system/diptych.service.d && printf '[Service]\\nWatchdogSec=3\\n' > /run/systemd/system/diptych.service.d/soon.conf"]);
    machine.ok(&["systemctl", "daemon-reload"]);
    machine.ok(&["systemctl", "restart", "diptych"]);
    let reached = machine.waits_for_step(reached + 1);
    machine.ok(&["systemctl", "kill", "-s", "STOP", "--kill-whom=main", "diptych"]);
    machine.waits_for_restart(1);
    let log = machine.log();
    assert!(log.contains("Watchdog timeout"), "{log}");
    let reached = machine.waits_for_step(reached.saturating_sub(20) + 1);

    machine.ok(&["systemctl", "stop", "diptych"]);
    assert_eq!(
        (machine.property("Result").as_str(), machine.property("ExecMainStatus").as_str()),
        ("success", "0")
    );
    let saved = machine.ok(&[
        "/usr/local/bin/diptych",
        "sql",
        "SELECT max(step) FROM checkpoints",
        "--state",
        STATE,
        "--format",
        "csv",
    ]);
    let saved: u64 = saved.lines().nth(1).unwrap().parse().unwrap();
    assert!(saved >= reached, "{saved} is before {reached}");
    machine.ok(&["/usr/local/bin/diptych", "doctor", STATE]);
    // journald has levels of its own, so that it can be asked for what is wrong.
    let errors = machine.ok(&[
        "journalctl",
        "-u",
        "diptych",
        "_COMM=diptych",
        "-p",
        "err",
        "--no-pager",
        "-q",
    ]);
    assert_eq!(errors.trim(), "", "nothing that it said itself was an error");
}
