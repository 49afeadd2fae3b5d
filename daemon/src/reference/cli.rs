//! Every verb with its usage, options and examples, from the clap structs.

use clap::{Arg, Command};
use diptych_cli::GROUPS;

use super::markdown::{code, sentence, start, table};

const ABOUT: &str = "`diptych VERB --help` prints the same. Options that several verbs share mean the same in all of them.";

pub(super) fn page() -> String {
    let mut whole = diptych_cli::command().disable_help_subcommand(true);
    whole.build();
    let mut text = start("Command line", ABOUT);
    let rows = GROUPS.iter().flat_map(|group| {
        group.verbs.iter().enumerate().map(|(place, name)| {
            let about = whole.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let title = if place == 0 { group.title } else { "" };
            let link = format!("[`diptych {name}`](#diptych-{name})");
            vec![title.to_owned(), link, sentence(&about)]
        })
    });
    text += &format!("\n{}\n", table(&["", "verb", "what it does"], rows));
    text += "## Options of all verbs\n\n";
    text += &arguments(&whole, |_| true);
    for verb in visible(&whole) {
        add_verb(verb, 2, &mut text);
    }
    text
}

fn visible(of: &Command) -> impl Iterator<Item = &Command> {
    of.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
}

fn add_verb(verb: &Command, level: usize, text: &mut String) {
    let path = verb.get_bin_name().unwrap_or_else(|| verb.get_name());
    let about = verb.get_long_about().or_else(|| verb.get_about());
    *text += &format!("\n{} {path}\n\n", "#".repeat(level));
    *text += &format!("{}\n\n", sentence(&about.map(ToString::to_string).unwrap_or_default()));
    let usage = verb.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    *text += &format!("```text\n{usage}\n```\n");
    let own = arguments(verb, |arg| !arg.is_global_set() && arg.get_id() != "help");
    if !own.is_empty() {
        *text += &format!("\n{own}");
    }
    let more = verb.get_after_long_help().or_else(|| verb.get_after_help());
    *text += &examples(&more.map(ToString::to_string).unwrap_or_default());
    for nested in visible(verb) {
        add_verb(nested, (level + 1).min(4), text);
    }
}

/// Renders the arguments as a list, those without a dash first.
fn arguments(of: &Command, is_wanted: impl Fn(&Arg) -> bool) -> String {
    let wanted = |arg: &&Arg| !arg.is_hide_set() && is_wanted(arg);
    let positional = of.get_positionals().filter(wanted);
    let options = of.get_opts().chain(
        of.get_arguments().filter(|arg| !arg.is_positional() && !arg.get_action().takes_values()),
    );
    positional.chain(options.filter(wanted)).map(argument).collect()
}

fn argument(arg: &Arg) -> String {
    let value = || {
        let names = arg.get_value_names().unwrap_or_default();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        names.join(" ")
    };
    let takes_value = arg.get_action().takes_values();
    let name = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => String::new(),
    };
    let several = if arg.is_positional() && arg.get_action().takes_values() && is_list(arg) {
        "…"
    } else {
        ""
    };
    let head = match (name.is_empty(), takes_value) {
        (true, _) => format!("{}{several}", value()),
        (false, true) => format!("{name} {}", value()),
        (false, false) => name,
    };
    let help = arg.get_long_help().or_else(|| arg.get_help());
    let mut text = format!(
        "- `{}`: {}",
        head.trim(),
        sentence(&help.map(ToString::to_string).unwrap_or_default())
    );
    let possible = arg.get_possible_values();
    let possible: Vec<_> = possible.iter().filter(|value| !value.is_hide_set()).collect();
    let words = if takes_value { possible } else { Vec::new() };
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if takes_value && !defaults.is_empty() {
        text += &format!(" Default: {}.", code(&defaults.join(" ")));
    }
    if arg.is_required_set() && !arg.is_positional() {
        text += " Required.";
    }
    if words.iter().any(|word| word.get_help().is_some()) {
        text.push('\n');
        for word in words {
            let help = word.get_help().map(ToString::to_string).unwrap_or_default();
            let help = if help.is_empty() { help } else { format!(": {}", sentence(&help)) };
            text += &format!("  - `{}`{help}\n", word.get_name());
        }
        return text;
    }
    if !words.is_empty() {
        let names: Vec<String> = words.iter().map(|word| code(word.get_name())).collect();
        text += &format!(" One of {}.", names.join(", "));
    }
    text + "\n"
}

fn is_list(arg: &Arg) -> bool {
    arg.get_num_args().is_some_and(|count| count.max_values() > 1)
        || matches!(arg.get_action(), clap::ArgAction::Append)
}

/// Renders the text below a verb's options: indented lines are code.
fn examples(text: &str) -> String {
    let (mut rendered, mut is_code) = (String::new(), false);
    for line in text.lines() {
        let indented = line.strip_prefix("  ");
        if indented.is_some() != is_code && !line.is_empty() {
            if is_code {
                rendered.truncate(rendered.trim_end().len());
            }
            rendered += if is_code { "\n```\n\n" } else { "\n```sh\n" };
            is_code = !is_code;
        }
        match indented {
            Some(code) => rendered += &format!("{code}\n"),
            None if line.is_empty() => rendered.push('\n'),
            None => {
                let separator =
                    if rendered.ends_with("\n\n") || rendered.is_empty() { "" } else { "\n" };
                rendered += &format!("{separator}{}\n", sentence(line));
            }
        }
    }
    if is_code {
        rendered.truncate(rendered.trim_end().len());
        rendered += "\n```\n";
    }
    if rendered.is_empty() { rendered } else { format!("\n{}\n", rendered.trim()) }
}
