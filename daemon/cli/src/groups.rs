//! The groups that `diptych --help` lists the verbs in.

/// A group of verbs.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// Its heading.
    pub title: &'static str,
    /// Its verbs, in the order in which a user meets them.
    pub verbs: &'static [&'static str],
}

/// All groups. Every visible verb is in exactly one of them.
pub const GROUPS: [Group; 6] = [
    Group {
        title: "Data",
        verbs: &[
            "ingest",
            "ledger",
            "sql",
            "profile",
            "score",
            "select",
            "split",
            "balance",
            "preset",
            "uids",
            "dedup",
            "decontaminate",
            "demo-data",
        ],
    },
    Group { title: "Train", verbs: &["init", "config", "train", "plot", "export"] },
    Group { title: "Evaluate", verbs: &["eval", "report"] },
    Group { title: "Search", verbs: &["embed", "search"] },
    Group { title: "Serve", verbs: &["ui", "serve", "job", "token"] },
    Group { title: "Maintain", verbs: &["doctor", "backup", "retype", "bench", "completions"] },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;

    #[test]
    fn every_visible_verb_is_in_exactly_one_group_and_in_the_same_order() {
        let command = command();
        let visible: Vec<&str> = command
            .get_subcommands()
            .filter(|verb| !verb.is_hide_set())
            .map(clap::Command::get_name)
            .collect();
        let grouped: Vec<&str> = GROUPS.iter().flat_map(|group| group.verbs).copied().collect();
        assert_eq!(grouped, visible);
    }

    /// The words of a command line, as a shell splits them.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        for char in line.chars() {
            match (quote, char) {
                (Some(open), char) if open == char => quote = None,
                (None, '\'' | '"') => {
                    quote = Some(char);
                    word.get_or_insert_default();
                }
                (None, '#' | '>' | '|') if word.is_none() => break,
                (None, ' ') => words.extend(word.take()),
                (_, char) => word.get_or_insert_default().push(char),
            }
        }
        words.extend(word);
        words
    }

    fn check_examples(verb: &clap::Command, path: &str) {
        let nested: Vec<_> =
            verb.get_subcommands().filter(|nested| nested.get_name() != "help").collect();
        let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        let text = help.replace("\\\n", " ");
        let examples: Vec<&str> =
            text.lines().map(str::trim).filter(|line| line.starts_with("diptych ")).collect();
        assert!(examples.iter().any(|line| line.starts_with(path)), "{path} has no example");
        for line in help.lines().filter(|line| line.starts_with("  ")) {
            assert!(line.chars().count() <= 80, "{path}: {line}");
        }
        for example in examples {
            if let Err(error) = command().try_get_matches_from(words(example)) {
                panic!("{path}: {example}: {error}");
            }
        }
        for verb in nested {
            check_examples(verb, &format!("{path} {}", verb.get_name()));
        }
    }

    #[test]
    fn every_verb_has_examples_that_parse() {
        for verb in command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            check_examples(verb, &format!("diptych {}", verb.get_name()));
        }
    }
}
