//! Results of a run's evaluations for a few fixed captions: at the first, a middle and the last
//! evaluation. They show what the model has learned in between.

use diptych_schemas::Uid;
use diptych_schemas::words::thousands;
use maud::{Markup, html};
use serde_json::Value;

use super::Report;
use super::history::{number, text};
use crate::frame::frame;

/// The results of one evaluation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SampledEvaluation {
    step: u64,
    queries: Vec<QueryResult>,
}

#[derive(Clone, Debug, PartialEq)]
struct QueryResult {
    caption: String,
    own_rank: u64,
    found: Vec<FoundImage>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct FoundImage {
    uid: Uid,
    score: f64,
    correct: bool,
}

/// Reads rows of `sample_queries`, ordered by step, query and place. Keeps at most three
/// evaluations.
pub(super) fn evaluations(rows: &[Value]) -> Vec<SampledEvaluation> {
    let mut all: Vec<SampledEvaluation> = Vec::new();
    let mut last = String::new();
    for row in rows {
        let (step, query) = (row["step"].as_u64().unwrap_or(0), text(row, "query"));
        if all.last().is_none_or(|evaluation| evaluation.step != step) {
            all.push(SampledEvaluation { step, queries: Vec::new() });
            last.clear();
        }
        let Some(evaluation) = all.last_mut() else { continue };
        if last != query {
            let own_rank = row["own_rank"].as_u64().unwrap_or(0);
            let caption = text(row, "caption");
            evaluation.queries.push(QueryResult { caption, own_rank, found: Vec::new() });
            last = query;
        }
        if let (Some(answered), Ok(uid)) = (evaluation.queries.last_mut(), text(row, "uid").parse())
        {
            let (score, correct) = (number(row, "score"), row["correct"] == true);
            answered.found.push(FoundImage { uid, score, correct });
        }
    }
    match all.len() {
        0..=3 => all,
        count => [0, count / 2, count - 1].map(|place| all[place].clone()).to_vec(),
    }
}

impl SampledEvaluation {
    pub(super) fn uids(&self) -> impl Iterator<Item = Uid> + '_ {
        self.queries.iter().flat_map(|query| query.found.iter().map(|near| near.uid))
    }
}

/// Builds the section. It is empty if no queries were recorded.
pub(super) fn learning(report: &Report) -> Markup {
    let evaluations = &report.history.sampled;
    let captions = evaluations.last().map_or(&[][..], |evaluation| &evaluation.queries);
    html! {
        @if !captions.is_empty() {
            section {
                h2 { "Search results for the same captions during training" }
                @for query in captions {
                    h3.asked { (query.caption) }
                    div.steps {
                        @for evaluation in evaluations {
                            @let at_step = evaluation
                                .queries
                                .iter()
                                .find(|other| other.caption == query.caption);
                            @if let Some(result) = at_step {
                                div {
                                    p.pale {
                                        "step " (thousands(evaluation.step)) ", own image at rank "
                                        (thousands(result.own_rank))
                                    }
                                    div.near {
                                        @for near in &result.found { (found(report, near)) }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn found(report: &Report, near: &FoundImage) -> Markup {
    html! {
        figure.card.right[near.correct] title={ "uid " (near.uid) } {
            @match report.pairs.get(&near.uid) {
                Some(shown) => (frame(shown)),
                None => div.frame {},
            }
            figcaption { (format!("{:.3}", near.score)) @if near.correct { " ✓" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(step: u64, query: u8, place: u64, correct: bool) -> Value {
        let uid = |byte: u8| Uid([byte; 16]).to_string();
        json!({
            "step": step, "query": uid(query), "caption": format!("caption {query}"), "own_rank": 2,
            "place": place, "uid": uid(place as u8), "score": 0.5, "correct": correct,
        })
    }

    #[test]
    fn first_middle_and_last_evaluation_are_kept_with_their_queries_in_order() {
        let rows: Vec<Value> = (1..=7)
            .flat_map(|step| [row(step, 1, 1, false), row(step, 1, 2, true), row(step, 2, 1, true)])
            .collect();
        let kept = evaluations(&rows);
        assert_eq!(kept.iter().map(|one| one.step).collect::<Vec<_>>(), [1, 4, 7]);
        let last = &kept[2].queries;
        assert_eq!((last.len(), last[0].found.len(), last[1].found.len()), (2, 2, 1));
        assert_eq!(last[0].caption, "caption 1");
        assert!(!last[0].found[0].correct && last[0].found[1].correct);
        assert_eq!(kept[2].uids().count(), 3);
        assert!(evaluations(&[]).is_empty());
        assert_eq!(evaluations(&rows[..6]).len(), 2);
    }
}
