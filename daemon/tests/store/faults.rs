//! Failures of the file system: a full disk, a file system that becomes read-only, a disk that
//! reports errors.
//!
//! strace injects the faults, and mount name spaces provide small file systems.
//! Without them these tests are ignored.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use diptych_store::Store;
use diptych_test_support::needs;

use crate::process::*;

/// Environment variable with the mount point within the name space.
const INNER: &str = "DIPTYCH_STORE_TEST_MOUNT";

/// Builds `program ARGUMENTS… COMMAND` with the command's variables.
fn within<S: AsRef<OsStr>>(program: &str, arguments: &[S], command: &Command) -> Command {
    let mut outer = Command::new(program);
    outer.args(arguments).arg(command.get_program()).args(command.get_args());
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    outer
}

#[needs(strace)]
#[test]
fn writes_that_begin_to_fail_end_the_work_in_words_and_lose_nothing() {
    // After this many writes of a thread, all writes fail: in the middle of the work, or soon after
    // the start.
    for (fault, says) in [
        ("pwrite64:error=EROFS:when=60+", "Read-only"),
        ("pwrite64:error=ENOSPC:when=25+", "No space"),
        ("pwrite64:error=EIO:when=4+", "Input/output"),
        ("fsync:error=EIO:when=30+", "Input/output"),
    ] {
        let state = tempfile::tempdir().unwrap();
        let inject = format!("inject={fault}");
        let strace = ["-f", "-o", "/dev/null", "-e", "trace=pwrite64,fsync", "-e", &inject];
        let mut process =
            KilledProcess::start(within("strace", &strace, &command("work", state.path())));
        while process.wait().is_some() {}
        let error = process.error.clone().unwrap_or_default();
        assert!(error.contains(says), "{fault}: {error:?} after {:?}", process.acknowledged);
        process.kill();
        assert_work_is_whole(state.path(), process.acknowledged.unwrap_or(0));
    }
}

#[needs(mounts)]
#[test]
fn full_file_system_loses_nothing_and_work_goes_on_when_there_is_room() {
    in_a_name_space("full_file_system", |mount| {
        let (state, filler) = (mount.join("state"), mount.join("filler"));
        let mut acknowledged = 0;
        for kilobytes in [3000, 2000, 1000] {
            fs::File::create(&filler).unwrap().write_all(&vec![1; kilobytes << 10]).unwrap();
            let mut process = KilledProcess::start(command("work", &state));
            while process.wait().is_some() {}
            let error = process.error.clone().unwrap_or_default();
            assert!(error.contains("No space"), "{error:?} after {:?}", process.acknowledged);
            process.kill();
            acknowledged = acknowledged.max(process.acknowledged.unwrap_or(0));
            fs::remove_file(&filler).unwrap();
            assert_work_is_whole(&state, acknowledged);
        }
        assert!(acknowledged > 0);
    });
}

#[needs(mounts)]
#[test]
fn state_folder_that_became_read_only_is_refused_in_words_and_is_whole_afterwards() {
    in_a_name_space("state_folder_that_became_read_only", |mount| {
        let state = mount.join("state");
        let mut process = KilledProcess::start(command("work", &state));
        for _ in 0..3 {
            process.wait().unwrap();
        }
        process.kill();
        let remount = |how: &str| {
            let ran = Command::new("mount")
                .args(["-o", &format!("remount,{how}")])
                .arg(mount)
                .status()
                .unwrap();
            assert!(ran.success(), "remount,{how}");
        };
        remount("ro");
        let error = Store::open(&state).unwrap_err().to_string();
        assert!(error.contains("Read-only") && error.contains(state.to_str().unwrap()), "{error}");
        remount("rw");
        assert_work_is_whole(&state, process.acknowledged.unwrap());
    });
}

/// Runs the rest of a test again in a process that has a file system of 8 MB of its own.
fn in_a_name_space(test: &str, inner: impl FnOnce(&Path)) {
    if let Some(mount) = std::env::var_os(INNER) {
        return inner(Path::new(&mount));
    }
    let mount = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=8m none \"$0\" && exec \"$@\"";
    let arguments: Vec<&str> = vec!["-rm", "sh", "-c", script, mount.path().to_str().unwrap()];
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args([&format!("faults::{test}"), "--nocapture"]).env(INNER, mount.path());
    let ran = within("unshare", &arguments, &again).output().unwrap();
    let said =
        String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}
