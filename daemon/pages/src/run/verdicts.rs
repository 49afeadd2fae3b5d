//! The main findings about a run, as sentences at the top of its page.

use diptych_evaluate::held_out::{HeldOutTrends, evaluations};
use diptych_evaluate::verdict::Verdict;
use diptych_schemas::words::thousands;
use maud::{Markup, html};

use super::Report;
use super::history::{History, number};
use super::page::{LAST_STEPS, shown};
use crate::numbers::{percent_of, short};

/// Effective rank below which the embeddings have collapsed, so that something is wrong.
const COLLAPSED_RANK: f64 = 4.0;
/// Share of the steps' time spent waiting for data above which the page mentions it.
const MUCH_WAITING: f64 = 0.1;

pub(super) fn verdicts(report: &Report) -> Markup {
    let mut good: Vec<String> = Vec::new();
    let mut bad: Vec<String> = Vec::new();
    if let Some(looked) = &report.looked {
        let (found, chance) =
            (looked.retrieval.image_to_text[0], looked.retrieval.chance_image_to_text[0]);
        let at =
            looked.intervals.first().map(|at| format!(" ({})", shown(*at))).unwrap_or_default();
        let result = format!(
            "Of {} held-out images, {} find their caption first{at}: {} times chance.",
            thousands(looked.pairs as u64),
            percent_of(found),
            short(found / chance.max(f64::MIN_POSITIVE))
        );
        if looked.intervals.first().is_some_and(|at| at.low <= chance) {
            bad.push(format!("{result} That is no better than guessing."));
        } else {
            good.push(result);
        }
        if let Some(geometry) = &looked.geometry {
            let rank =
                geometry.images.effective_rank_centred.min(geometry.texts.effective_rank_centred);
            if rank < COLLAPSED_RANK {
                bad.push(format!(
                    "The embeddings span only about {rank:.1} directions: they have nearly \
                     collapsed into one point."
                ));
            }
        }
    }
    let trends = HeldOutTrends::new(&evaluations(&report.history.metrics), &report.history.answers);
    let unclear = match trends.verdict() {
        Verdict::GetsBetter => {
            good.push(trends.words());
            None
        }
        Verdict::Overfits | Verdict::GetsWorse => {
            bad.push(trends.words());
            None
        }
        Verdict::CannotTell => Some(trends.words()),
    };
    if let Some(share) = waiting(&report.history).filter(|share| *share > MUCH_WAITING) {
        bad.push(format!(
            "Waiting for data took {} of the time of the last steps.",
            percent_of(share)
        ));
    }
    if !report.history.events.is_empty() {
        bad.push(match report.history.events.len() {
            1 => "The guards recorded 1 event: see below.".to_owned(),
            count => format!("The guards recorded {count} events: see below."),
        });
    }
    html! {
        @if !good.is_empty() || !bad.is_empty() || unclear.is_some() {
            ul.verdicts {
                @for words in good { li.good { (words) } }
                @if let Some(words) = unclear { li.unclear { (words) } }
                @for words in bad { li.bad { (words) } }
            }
        }
    }
}

/// Returns the share of the last steps' time that was spent waiting for data.
fn waiting(history: &History) -> Option<f64> {
    let waits = history.metrics.get("data_wait_seconds")?;
    let batch = number(&history.record, "samples") / number(&history.record, "step");
    let seconds = history
        .metrics
        .get("samples_per_second")?
        .iter()
        .rev()
        .take(LAST_STEPS)
        .map(|(_, rate)| batch / rate);
    let (waited, took) = (
        waits.iter().rev().take(LAST_STEPS).map(|(_, wait)| wait).sum::<f64>(),
        seconds.sum::<f64>(),
    );
    (took > 0.0 && waited.is_finite()).then_some(waited / took)
}
