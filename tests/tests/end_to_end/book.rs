//! The book's commands run as they stand, and its pages keep their size.
//!
//! A chapter is one script of bash, in a fresh folder with the demo's scenes. In a block marked
//! `console`, lines that begin with `$ ` are commands, and a backslash at the end of a line goes on.
//! The other lines are output, which is not compared. A command must end with exit status 0, or
//! with N if its block ends with the line `exit status N`. A block with `title=NAME` is written to
//! that file. Blocks marked `console,no-run` are left out.
//!
//! ```text
//! DIPTYCH_CHAPTER=guides/sql.md cargo test --workspace --test end_to_end -- book
//! ```

use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use diptych_tests::service::Process;
use diptych_tests::{Work, binary, project};

/// Where the book lies, from the project's root.
const BOOK: &str = "daemon/docs";

/// Names the one chapter to run.
const ONE: &str = "DIPTYCH_CHAPTER";

/// Time that one command may take.
const LONGEST: Duration = Duration::from_mins(4);

/// Chapters that run at the same time.
const AT_ONCE: usize = 2;

/// Lines of output that a failure shows.
const SHOWN: usize = 30;

/// Files of the project with the most lines that they may have.
const FRONT_PAGES: [(&str, usize); 2] = [("README.md", 120), ("ARCHITECTURE.md", 150)];

#[test]
fn commands_of_every_chapter_run() {
    let work = Work::new();
    let bin = work.path("bin");
    fs::create_dir(&bin).unwrap();
    symlink(binary().canonicalize().unwrap(), bin.join("diptych")).unwrap();
    work.diptych(&["demo-data", "scenes"]).ok();
    let one = std::env::var(ONE).ok();
    let chapters = chapters().into_iter().filter(|name| one.as_ref().is_none_or(|one| one == name));
    let chapters: Vec<(String, Vec<Step>)> = chapters
        .map(|name| {
            let text = fs::read_to_string(project().join(BOOK).join(&name)).unwrap();
            let steps = steps(&text);
            (name, steps)
        })
        .filter(|(_, steps)| steps.iter().any(|step| step.is_command))
        .collect();
    assert!(!chapters.is_empty(), "no chapter has a command");
    let (next, failures) = (Mutex::new(chapters.iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some((name, steps)) = next.lock().unwrap().next() else { return };
                    let chapter = Chapter { name, steps, work: &work };
                    if let Err(failure) = chapter.run() {
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn front_pages_stay_short() {
    for (name, most) in FRONT_PAGES {
        let lines = fs::read_to_string(project().join(name)).unwrap().lines().count();
        assert!(lines <= most, "{name} has {lines} lines, and may have {most}");
    }
}

/// Files of all chapters, relative to the book's folder.
fn chapters() -> Vec<String> {
    fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else if entry.path().extension().is_some_and(|ending| ending == "md") {
                found.push(name);
            }
        }
    }
    let mut found = Vec::new();
    walk(&project().join(BOOK), "", &mut found);
    found.sort();
    found
}

/// A command, or a file to write.
#[derive(Debug, PartialEq)]
struct Step {
    /// Of the chapter, from 1.
    line: usize,
    script: String,
    is_command: bool,
}

/// Returns what a chapter's blocks do.
fn steps(text: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else { continue };
        let block: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```").collect();
        let mut words = info.split([' ', ',']).filter(|word| !word.is_empty());
        let language = words.next();
        let words: Vec<&str> = words.collect();
        let first = number + 2;
        if let Some(title) = words.iter().find_map(|word| word.strip_prefix("title=")) {
            let script = format!("cat > {title} <<'__END__'\n{}\n__END__", block.join("\n"));
            steps.push(Step { line: first, script, is_command: false });
        } else if language == Some("console") && !words.contains(&"no-run") {
            steps.extend(commands(&block, first));
        }
    }
    steps
}

/// Returns the commands of a block whose first line is `first`.
fn commands(block: &[&str], first: usize) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for (at, line) in block.iter().enumerate() {
        match (line.strip_prefix("$ "), steps.last_mut().filter(|_| goes_on)) {
            (_, Some(step)) => step.script.extend(["\n", line]),
            (Some(command), None) => {
                steps.push(Step { line: first + at, script: command.to_owned(), is_command: true });
            }
            (None, None) => continue,
        }
        goes_on = line.ends_with('\\');
    }
    let status = block.last().and_then(|line| line.trim().strip_prefix("exit status "));
    if let (Some(status), Some(step)) = (status, steps.last_mut()) {
        step.script = format!(
            "set +e\n{}\n__status=$?\nset -e\n\
             if [ $__status != {status} ]; then echo \"exit status $__status, not {status}\"; exit 1; fi",
            step.script
        );
    }
    steps
}

struct Chapter<'a> {
    name: &'a str,
    steps: &'a [Step],
    work: &'a Work,
}

impl Chapter<'_> {
    /// Runs the chapter. The error names the line of the command that failed, and shows its output.
    fn run(&self) -> Result<(), String> {
        let place = self.work.path(&format!("chapters/{}", self.name.replace('/', "+")));
        let folder = place.join("folder");
        fs::create_dir_all(place.join("home")).unwrap();
        fs::create_dir(&folder).unwrap();
        let copied =
            Command::new("cp").arg("-r").arg(self.work.path("scenes")).arg(&folder).status();
        assert!(copied.unwrap().success());
        let mut process = self.start(&place, &folder);
        let (mut seen, mut since) = (0, Instant::now());
        let status = loop {
            if let Some(status) = process.0.try_wait().unwrap() {
                break Some(status);
            }
            let written = fs::metadata(place.join("places")).map_or(0, |file| file.len());
            if written > seen {
                (seen, since) = (written, Instant::now());
            }
            if since.elapsed() > LONGEST {
                break None;
            }
            thread::sleep(Duration::from_millis(20));
        };
        // What a chapter started and forgot belongs to its process group.
        let group = format!("-{}", process.0.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let output = fs::read(place.join("output")).unwrap();
        let places = fs::read_to_string(place.join("places")).unwrap_or_default();
        fs::remove_dir_all(&place).unwrap();
        let how = match status {
            Some(status) if status.success() => return Ok(()),
            Some(status) => status.to_string(),
            None => format!("not done after {LONGEST:?}"),
        };
        let output = String::from_utf8_lossy(&output);
        let lines: Vec<&str> = output.lines().collect();
        let line = places.lines().last().unwrap_or("1");
        let shown = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
        Err(format!("{BOOK}/{}:{line}: {how}\n{shown}", self.name))
    }

    fn start(&self, place: &Path, folder: &Path) -> Process {
        let mut script = String::from("set -euo pipefail\n");
        for Step { line, script: step, .. } in self.steps {
            writeln!(script, "echo {line} >> \"$BOOK_PLACES\"\n{step}").unwrap();
        }
        let file = place.join("script");
        diptych_schemas::durable::write(&file, script.as_bytes()).unwrap();
        let output = File::create(place.join("output")).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let bin: PathBuf = self.work.path("bin");
        let mut command = Command::new("bash");
        command
            .arg(file)
            .current_dir(folder)
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("HOME", place.join("home"))
            .env("BOOK_PLACES", place.join("places"))
            // What leaves this machine is refused.
            .envs(
                ["http_proxy", "https_proxy", "all_proxy"].map(|name| (name, "http://127.0.0.1:9")),
            )
            .env("no_proxy", "127.0.0.1,localhost")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0);
        Process(command.spawn().unwrap())
    }
}

#[test]
fn blocks_become_commands_and_files() {
    let text = "# A\n\n```toml title=run.toml\na = 1\n```\n\n```console\n$ diptych a \\\n    --b\nout\n$ false\nexit status 1\n```\n\
                ```console,no-run\n$ no\n```\n```sh\n$ no\n```\n";
    let found = steps(text);
    assert_eq!(found.iter().map(|step| step.line).collect::<Vec<_>>(), [4, 8, 11]);
    assert_eq!(found[0].script, "cat > run.toml <<'__END__'\na = 1\n__END__");
    assert_eq!(found[1].script, "diptych a \\\n    --b");
    assert!(found[2].script.contains("\nfalse\n") && found[2].script.contains("!= 1 ]"));
}

#[test]
fn failure_names_the_line_and_shows_the_output() {
    let work = Work::new();
    fs::create_dir(work.path("scenes")).unwrap();
    fs::create_dir(work.path("bin")).unwrap();
    let run = |text: &str| Chapter { name: "a/b.md", steps: &steps(text), work: &work }.run();
    assert_eq!(run("```console\n$ cd scenes\n$ [ $(basename $PWD) = scenes ]\n```\n"), Ok(()));
    assert_eq!(run("```console\n$ (exit 3)\nexit status 3\n```\n"), Ok(()));
    let failure =
        run("\n```console\n$ true\nwords\n$ echo said; false | cat\n$ true\n```\n").unwrap_err();
    assert_eq!(failure, "daemon/docs/a/b.md:5: exit status: 1\nsaid");
    let failure = run("```console\n$ true\nexit status 2\n```\n").unwrap_err();
    assert_eq!(failure, "daemon/docs/a/b.md:2: exit status: 1\nexit status 0, not 2");
}
