//! The `diptych` binary. Parses the command line, runs one command, and turns its end into a
//! message and an exit code. A panic becomes a message that says how to report it.

use std::io::Write;
use std::panic;

use diptych_cli::Command;
use diptych_schemas::outcome::{FAILED, INTERNAL};
use diptych_schemas::words::panic_message;

/// Runs the program. If `main` returned, the exit handlers of libraries would run, and a thread
/// that still computes with libtorch would crash. A command saves everything before it returns, so
/// the process ends without these handlers.
fn main() -> ! {
    let code = run();
    let _ = std::io::stdout().flush();
    signal_hook::low_level::exit(i32::from(code))
}

fn run() -> u8 {
    // Comes first: it writes the environment, which is possible only without other threads.
    let asleep = diptych_trainer::let_idle_threads_sleep();
    // Threads inherit the limits of the thread that starts them.
    let confined = diptych_serve::confine_this_process();
    let cli = diptych_cli::parse();
    let many_files = diptych::allow_many_open_files();
    diptych::start_logging(cli.verbose, matches!(cli.command, Command::Serve(_)));
    if let Err(error) = confined {
        tracing::error!("{error:#}");
        return FAILED;
    }
    if !asleep {
        // Slower next to other work, but correct.
        tracing::debug!("libtorch's idle threads spin: the process had other threads at its start");
    }
    if let Err(error) = many_files {
        tracing::debug!("the limit of open files stays as it is: {error}");
    }
    // The default hook prints a source location and advice about backtraces, which help no user.
    // With -v, the log has them.
    panic::set_hook(Box::new(|info| tracing::debug!("{info}")));
    match panic::catch_unwind(|| diptych::run(cli)) {
        Ok(code) => code,
        Err(payload) => {
            let message = panic_message(payload.as_ref()).unwrap_or("no message");
            tracing::error!(
                "internal error: {message}. This is a bug: run again with -v, and report the output"
            );
            INTERNAL
        }
    }
}
