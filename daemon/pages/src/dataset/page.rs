//! The page as HTML, with sections in the order of a reader's questions.

use diptych_schemas::words::thousands;
use maud::{Markup, html};

use super::gather::LISTED;
use super::{ComparedPair, Profile, SelectionFacts};
use crate::chart::tables::{bars, funnel};
use crate::frame::{document, frame, tile};
use crate::numbers::{percent, short};
use crate::pairs::PairView;

pub(super) fn page(profile: &Profile) -> Markup {
    let facts = &profile.facts;
    let body = html! {
        header {
            h1 { (profile.name) }
            p.pale { "dataset " code { (first(&profile.dataset_hash, 12)) } }
        }
        section.tiles {
            (tile(
                "pairs",
                &thousands(facts.pairs),
                &format!("{} inputs could not be used", thousands(facts.ledger_rows))
            ))
            (tile(
                "of image files",
                &bytes(facts.image_bytes),
                &format!("{} on average", bytes(facts.image_bytes / facts.pairs.max(1)))
            ))
            (tile(
                "distinct images",
                &percent(facts.images, facts.pairs),
                &format!("{} are byte-for-byte copies", thousands(facts.pairs - facts.images))
            ))
            (tile(
                "distinct captions",
                &percent(facts.captions, facts.pairs),
                &format!("{} are repeated", thousands(facts.pairs - facts.captions))
            ))
            @match facts.same_look {
                Some(same) => {
                    (tile("near-duplicate images", &thousands(same), "equal perceptual hash"))
                }
                None => (tile("near-duplicate images", "–", "ingest with --phash to count them")),
            }
        }
        @if let Some(selection) = &profile.selection { (selection_section(profile, selection)) }
        @else {
            section {
                h2 { "Selection" }
                p.pale {
                    "No selection was named. Add " code { "--selection FILE" }
                    " to see what each condition drops."
                }
            }
        }
        section {
            h2 { "Random pairs" }
            div.grid {
                @for uid in &profile.random {
                    @if let Some(shown) = profile.pairs.get(uid) {
                        (card(&uid.to_string(), shown, None))
                    }
                }
            }
        }
        section {
            h2 { "Sizes, captions, scores" }
            div.charts { @for histogram in &facts.histograms { (histogram.figure()) } }
        }
        section {
            h2 { "Sources and losses" }
            div.charts {
                (bars("Formats", "", &facts.formats, facts.pairs))
                @if !facts.languages.is_empty() {
                    (bars("Languages", "of captions", &facts.languages, facts.pairs))
                }
                (bars("Sources", &format!("the {LISTED} largest"), &facts.sources, facts.pairs))
                (bars(
                    "Ledger",
                    "inputs that did not become a pair",
                    &facts.ledger,
                    facts.ledger_rows
                ))
                (bars(
                    "Repeated captions",
                    &format!("the {LISTED} most frequent"),
                    &facts.repeated,
                    facts.pairs
                ))
            }
        }
        footer.pale { "Made by diptych profile. You can recompute every figure with diptych sql." }
    };
    document(&format!("{} · Diptych profile", profile.name), "", &body)
}

fn selection_section(profile: &Profile, selection: &SelectionFacts) -> Markup {
    html! {
        section {
            h2 {
                "Selection " span.pale { (selection.name) }
            }
            p {
                b { (thousands(selection.rows)) } " pairs, "
                (percent(selection.rows, profile.facts.pairs)) " of the dataset"
                @if selection.stale {
                    " " span.warn {
                        "The dataset has changed since the selection was made: the figures below \
                         are today's."
                    }
                }
            }
            @if !selection.funnel.is_empty() {
                (funnel(
                    &selection
                        .funnel
                        .iter()
                        .map(|step| (step.condition.clone(), step.remaining))
                        .collect::<Vec<_>>()
                ))
            }
            details { summary { "SQL" } pre { code { (selection.sql) } } }
            @for (threshold, kept, dropped) in &selection.thresholds {
                h3 { code { (threshold.condition) } }
                div.sides {
                    (side(profile, "just kept", kept, &threshold.expression))
                    (side(profile, "just dropped", dropped, &threshold.expression))
                }
            }
        }
    }
}

fn side(profile: &Profile, title: &str, pairs: &[ComparedPair], expression: &str) -> Markup {
    html! {
        div.side {
            h4 { (title) }
            @if pairs.is_empty() { p.pale { "none" } }
            div.grid.small {
                @for (uid, value) in pairs {
                    @if let Some(shown) = profile.pairs.get(uid) {
                        (card(&uid.to_string(), shown, value.map(|value| (expression, value))))
                    }
                }
            }
        }
    }
}

fn card(uid: &str, shown: &PairView, value: Option<(&str, f64)>) -> Markup {
    let (width, height) = shown.size;
    html! {
        figure.card title={ "uid " (uid) ", key " (shown.key) } {
            (frame(shown))
            figcaption {
                div.words {
                    @if let Some((expression, value)) = value {
                        b title=(expression) { (short(value)) } " "
                    }
                    (shown.caption)
                }
                div.pale { (width) "×" (height) }
            }
        }
    }
}

fn first(text: &str, characters: usize) -> &str {
    text.get(..characters).unwrap_or(text)
}

/// Formats bytes in decimal units, as file managers and networks do.
fn bytes(count: u64) -> String {
    let units = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let count = count as f64;
    units
        .iter()
        .find(|(size, _)| count >= *size)
        .map_or_else(|| format!("{count} B"), |(size, unit)| format!("{:.1} {unit}", count / size))
}
