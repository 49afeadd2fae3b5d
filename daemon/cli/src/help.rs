//! The text of `diptych --help`: verbs in groups, on one screen.

use std::fmt::Write;

use clap::builder::StyledStr;

use crate::GROUPS;

/// Columns of a group's title.
const TITLE: usize = 10;
/// Columns of a verb's name.
const VERB: usize = 15;

const FOOTER: &str = "\
'diptych VERB --help' shows the options of a verb, with examples. To begin:
'diptych init' writes a configuration, 'diptych ui' opens the browser.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but a source was damaged,
4 stopped by a signal with everything saved, 5 a run stalled.";

/// Returns clap's template for the help of the whole program.
pub(crate) fn template(command: &clap::Command) -> StyledStr {
    let styles = command.get_styles();
    let (heading, literal) = (styles.get_header(), styles.get_literal());
    let mut text = StyledStr::new();
    let mut row = |title: &str, name: &str, about: &str| {
        // The columns count what is seen, without the codes of colours.
        let (after_title, after_name) =
            (TITLE.saturating_sub(title.len()), VERB.saturating_sub(name.len()));
        if name.is_empty() {
            // Writing to a text cannot fail.
            let _ = writeln!(text);
            return;
        }
        let title = format!("{heading}{title}{heading:#}{:after_title$}", "");
        let line = format!("{title}{literal}{name}{literal:#}{:after_name$}{about}", "");
        let _ = writeln!(text, "{line}");
    };
    for group in GROUPS {
        for (place, name) in group.verbs.iter().enumerate() {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            row(if place == 0 { group.title } else { "" }, name, &about);
        }
        row("", "", "");
    }
    row("Options", "-v, --verbose", "Log more (-vv: even more). RUST_LOG works too");
    row("", "-h, --help", "Print this help, or that of a verb");
    row("", "-V, --version", "Print the version");
    let mut template = StyledStr::from("{about}\n\n{usage-heading} {usage}\n\n");
    let _ = write!(template, "{}\n{FOOTER}", text.ansi());
    template
}

#[cfg(test)]
mod tests {
    use crate::command;

    #[test]
    fn help_fits_on_a_screen_of_80_columns_and_50_lines() {
        let help = command().render_help().to_string();
        assert!(help.lines().count() <= 50, "{}\n{help}", help.lines().count());
        for line in help.lines() {
            assert!(line.chars().count() <= 80 && line.trim_end() == line, "{line}");
        }
        assert!(!help.contains('{'), "{help}");
    }
}
