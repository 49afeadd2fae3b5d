//! Man pages, made from the command line.

use std::fmt::Write;
use std::io;

use clap_mangen::Man;

use crate::{GROUPS, command};

/// A man page in roff.
#[derive(Debug)]
pub struct ManPage {
    /// Its file name, as in `diptych-ingest.1`.
    pub name: String,
    pub text: Vec<u8>,
}

/// Renders the page of the program and one page for each visible verb.
pub fn man_pages() -> io::Result<Vec<ManPage>> {
    let mut whole = command().disable_help_subcommand(true);
    whole.build();
    let mut pages = Vec::new();
    let mut text = Vec::new();
    let man = man_of(whole.clone());
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    text.extend(groups_in_roff(&whole).into_bytes());
    man.render_options_section(&mut text)?;
    text.extend(ENDING.as_bytes());
    man.render_version_section(&mut text)?;
    pages.push(ManPage { name: man.get_filename(), text: ascii(&text) });
    add_verbs(&whole, &mut pages)?;
    Ok(pages)
}

fn add_verbs(of: &clap::Command, pages: &mut Vec<ManPage>) -> io::Result<()> {
    for verb in of.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let man = man_of(verb.clone());
        let mut text = Vec::new();
        man.render_title(&mut text)?;
        man.render_name_section(&mut text)?;
        man.render_synopsis_section(&mut text)?;
        if verb.get_arguments().any(|arg| !arg.is_hide_set()) {
            man.render_options_section(&mut text)?;
        }
        if verb.has_subcommands() {
            man.render_subcommands_section(&mut text)?;
        }
        let notes = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        text.extend(notes_in_roff(&notes).into_bytes());
        pages.push(ManPage { name: man.get_filename(), text: ascii(&text) });
        add_verbs(verb, pages)?;
    }
    Ok(())
}

fn man_of(verb: clap::Command) -> Man {
    Man::new(verb).manual("Diptych").source(concat!("diptych ", env!("CARGO_PKG_VERSION")))
}

/// Writes characters beyond ASCII as roff's escapes, which need no locale.
fn ascii(text: &[u8]) -> Vec<u8> {
    let mut ascii = String::new();
    for char in String::from_utf8_lossy(text).chars() {
        if char.is_ascii() {
            ascii.push(char);
        } else {
            // Writing to a text cannot fail.
            let _ = write!(ascii, "\\[u{:04X}]", u32::from(char));
        }
    }
    ascii.into_bytes()
}

/// The verbs of each group under a heading.
fn groups_in_roff(whole: &clap::Command) -> String {
    let mut text = String::new();
    for group in GROUPS {
        // Writing to a text cannot fail.
        let _ = writeln!(text, ".SH \"{} VERBS\"", group.title.to_uppercase());
        for name in group.verbs {
            let verb = whole.find_subcommand(name);
            let about = verb.and_then(clap::Command::get_about).map(ToString::to_string);
            let name = name.replace('-', "\\-");
            let about = about.unwrap_or_default();
            let _ = writeln!(text, ".TP\n\\fBdiptych\\-{name}\\fR(1)\n{about}");
        }
    }
    text
}

/// The examples and notes below the options. Lines of examples stay lines.
fn notes_in_roff(notes: &str) -> String {
    let mut text = String::new();
    for line in notes.lines() {
        let plain = line.replace('\\', "\\e").replace('-', "\\-");
        text += &match line {
            "Examples:" => ".SH EXAMPLES\n.nf\n".to_owned(),
            "" => ".fi\n.PP\n".to_owned(),
            // A dot or an apostrophe at the start of a line would be an instruction.
            _ => ["\\&", &plain, "\n"].concat(),
        };
    }
    text + ".fi\n"
}

const ENDING: &str = r#".SH "EXIT STATUS"
.TP
0
The command did what it was asked for.
.TP
1
The command failed, or \fBdiptych doctor\fR found problems.
.TP
2
The command line is wrong.
.TP
3
The command is done, but a source could not be read to its end.
.TP
4
A signal stopped the command, and everything is saved.
.TP
5
A run stalled and left, as guard.stall_action asks.
.SH ENVIRONMENT
.TP
DIPTYCH_SERVER, DIPTYCH_TOKEN
Address and token of the service that \fBdiptych job\fR talks to.
.TP
DIPTYCH_INSTANCE_CREDENTIALS
With the value true, the role of the machine gives credentials for buckets.
.TP
RUST_LOG
A filter for the log, as in diptych=debug.
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_visible_verb_has_a_page_with_its_example() {
        let pages = man_pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|page| page.name.as_str()).collect();
        for verb in GROUPS.iter().flat_map(|group| group.verbs) {
            assert!(names.contains(&format!("diptych-{verb}.1").as_str()), "{verb}");
        }
        for name in ["diptych.1", "diptych-job-submit.1", "diptych-ledger-retry.1"] {
            assert!(names.contains(&name), "{name}");
        }
        for page in &pages {
            let text = String::from_utf8_lossy(&page.text);
            assert!(text.contains(".TH ") && text.is_ascii(), "{}", page.name);
            assert!(page.name == "diptych.1" || text.contains(".SH EXAMPLES"), "{}", page.name);
        }
    }
}
