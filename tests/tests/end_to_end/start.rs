//! Libraries at the start of a command: libtorch only if it computes with tensors, and an error if
//! libtorch is missing.

use diptych_tests::Work;

#[test]
fn a_command_that_computes_nothing_starts_without_libtorch() {
    let work = Work::new();
    // The system's loader prints what the binary is linked against, and runs nothing.
    let output = work.command(&[]).env("LD_TRACE_LOADED_OBJECTS", "1").output().unwrap();
    let linked = String::from_utf8_lossy(&output.stdout);
    assert!(linked.contains("libc.so"), "{linked}");
    assert!(
        !["libtorch", "libc10", "libgomp", "libdiptych"].iter().any(|name| linked.contains(name)),
        "{linked}"
    );

    // And nothing is opened later: a library that is not there is not missed.
    let nowhere = work.path("nowhere.so");
    let without =
        |arguments: &[&str]| work.diptych_with(arguments, &[("DIPTYCH_TORCH", &nowhere)]).ok();
    without(&["--help"]);
    without(&["--version"]);
    without(&["config"]);
    without(&["demo-data", "scenes", "--scenes", "8"]);
    without(&["ingest", "scenes/folder", "--dataset", "data"]);
    let answer =
        without(&["sql", "SELECT 41 + 1 AS answer", "--dataset", "data", "--format", "csv"]);
    assert_eq!(answer.stdout, "answer\n42\n");
}

#[test]
fn a_library_that_cannot_be_opened_is_an_error_that_names_it() {
    let work = Work::new();
    let fails = |library: &str, message: &str| {
        let library = work.path(library);
        let ran = work.diptych_with(
            &["eval", "--model", "run", "--dataset", "data", "--selection", "heldout.parquet"],
            &[("DIPTYCH_TORCH", &library)],
        );
        assert!(ran.stdout.is_empty(), "{}", ran.stdout);
        ran.fails(1, message).names(&[library.to_str().unwrap(), "DIPTYCH_TORCH"]);
    };
    fails("nowhere.so", "no_libtorch");
    work.write("text.so", "not a library");
    fails("text.so", "libtorch_that_is_no_library");
}

#[test]
fn idle_threads_of_libtorch_sleep_unless_the_user_has_chosen() {
    let work = Work::new();
    // OpenMP prints its settings when it is loaded.
    let policy = |chosen: &[(&str, &str)]| {
        let mut command = work.command(&["train", "nothing.toml"]);
        command
            .env_remove("OMP_WAIT_POLICY")
            .env_remove("GOMP_SPINCOUNT")
            .env("OMP_DISPLAY_ENV", "true");
        let output = command.envs(chosen.iter().copied()).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = printed.lines().find(|line| line.contains("OMP_WAIT_POLICY"));
        line.unwrap_or_else(|| panic!("OpenMP printed no policy: {printed}")).to_owned()
    };
    assert!(policy(&[]).contains("'PASSIVE'"));
    assert!(policy(&[("OMP_WAIT_POLICY", "ACTIVE")]).contains("'ACTIVE'"));
}
