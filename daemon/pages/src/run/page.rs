//! The page as HTML: first whether the model is good, then what it gets wrong, then why.

use diptych_evaluate::groups::Group;
use diptych_pipeline::median;
use diptych_schemas::Uid;
use diptych_schemas::words::thousands;
use diptych_trainer::evaluate::{Interval, RECALL_AT};
use maud::{Markup, html};
use serde_json::Value;

use super::Report;
use super::curves::curves;
use super::history::{History, number, text};
use super::learning::learning;
use super::look::{Classes, Map, Matrix, Mistake, ModelInspection, Neighbours};
use super::reliability::reliability;
use super::summary::summary;
use super::verdicts::verdicts;
use crate::chart::heat_map::HeatMap;
use crate::chart::scatter::{Point, scatter};
use crate::chart::tables::funnel;
use crate::chart::{Key, KeyShape, figure};
use crate::frame::{document, frame, tile};
use crate::numbers::{percent_of, short};

const OWN_STYLE: &str = include_str!("style.css");
/// Number of last steps whose median gives the throughput.
pub(super) const LAST_STEPS: usize = 100;
/// Most classes and confusions that are listed.
const LISTED: usize = 10;
/// Most groups that are listed.
const GROUPS: usize = 20;

pub(super) fn page(report: &Report) -> Markup {
    let history = &report.history;
    let record = &history.record;
    let body = html! {
        header {
            h1 { (history.run) }
            p.pale {
                (text(record, "model")) ", " (text(record, "state"))
                ", step " (thousands(record["step"].as_u64().unwrap_or(0)))
                " of " (thousands(record["total_steps"].as_u64().unwrap_or(0))) ", "
                (thousands(record["samples"].as_u64().unwrap_or(0))) " samples, "
                (minute(record, "started")) " to " (minute(record, "updated")) " UTC, Diptych "
                (text(record, "version"))
            }
        }
        (summary(report))
        (verdicts(report))
        section.tiles { (tiles(report)) }
        @if let Some(looked) = &report.looked { (evaluation(report, looked)) }
        @else {
            section {
                h2 { "Evaluation" }
                p.pale {
                    "There are no held-out pairs. Name some with " code { "--selection FILE" }
                    " (and " code { "--dataset" } ")."
                }
            }
        }
        (learning(report))
        section {
            h2 { "Training curves" }
            div.charts { (curves(history, report.beside.as_ref())) }
        }
        @if !history.events.is_empty() {
            section {
                h2 { "Guard events" }
                table.plain {
                    @for event in &history.events {
                        tr {
                            td.number { (thousands(event["step"].as_u64().unwrap_or(0))) }
                            td { code { (text(event, "kind")) } }
                            td { (text(event, "message")) }
                        }
                    }
                }
            }
        }
        @if !report.funnel.is_empty() {
            section { h2 { "Training data" } (funnel(&report.funnel)) }
        }
        section { h2 { "Checkpoints" } (checkpoints(history)) }
        section {
            h2 { "Configuration" }
            details open { summary { "Show all" } pre { code { (history.config()) } } }
            details {
                summary { "Hashes of the inputs" }
                table.plain {
                    @for name in ["config", "selection", "dataset", "tokenizer"] {
                        tr {
                            td { (name) }
                            td { code { (text(record, &format!("{name}_hash"))) } }
                        }
                    }
                }
            }
        }
        footer.pale {
            "Made by diptych report. You can recompute every figure with diptych sql and diptych \
             eval."
        }
    };
    document(&format!("{} · Diptych report", history.run), OWN_STYLE, &body)
}

/// Returns a time of a record as text, to the minute.
fn minute(record: &Value, name: &str) -> String {
    text(record, name).replace('T', " ").chars().take(16).collect()
}

fn tiles(report: &Report) -> Markup {
    let history = &report.history;
    let last = |name: &str| history.last(name).map(|(_, value)| value);
    let recent = |name: &str| {
        let values = history.metrics.get(name)?;
        Some(median(values.iter().rev().take(LAST_STEPS).map(|(_, value)| *value)))
    };
    let known = |value: Option<String>| value.unwrap_or_else(|| "–".into());
    let beside = |name: &str, digits: usize| match &report.beside {
        Some(other) => other
            .last(name)
            .map(|(_, value)| format!("{}: {value:.digits$}", other.run))
            .unwrap_or_default(),
        None => String::new(),
    };
    let speeds = match beside("samples_per_second", 1) {
        other if other.is_empty() => format!("median of the last {LAST_STEPS} steps"),
        other => format!("median of the last {LAST_STEPS} steps; last of {other}"),
    };
    html! {
        @if let Some(looked) = &report.looked {
            @let found = &looked.retrieval;
            (tile(
                "image to text R@1",
                &format!("{:.3}", found.image_to_text[0]),
                &format!("chance {:.4}", found.chance_image_to_text[0])
            ))
            (tile(
                "text to image R@1",
                &format!("{:.3}", found.text_to_image[0]),
                &format!("chance {:.4}", found.chance_text_to_image[0])
            ))
            @if let Some(classes) = &looked.classes {
                @let found = classes.predictions.summary();
                (tile(
                    "zero-shot top-1",
                    &format!("{:.3}", found.top1),
                    &format!("chance {:.3}, top-5 {:.3}", found.chance_top1, found.top5)
                ))
            }
        }
        @if let Some(loss) = last("heldout/loss") {
            (tile("held-out loss", &format!("{loss:.3}"), &batches(history)))
        }
        (tile(
            "training loss",
            &known(last("loss").map(|loss| format!("{loss:.3}"))),
            &beside("loss", 3)
        ))
        (tile("samples a second", &known(recent("samples_per_second").map(short)), &speeds))
        @if let Some(mfu) = recent("mfu") {
            (tile("MFU", &percent_of(mfu), "of the device's peak"))
        }
    }
}

/// Returns a remark about the batches over which the held-out loss was computed.
fn batches(history: &History) -> String {
    history
        .last("heldout/loss_batch_size")
        .map_or_else(|| "batches as in training".into(), |(_, size)| format!("one batch of {size}"))
}

fn evaluation(report: &Report, looked: &ModelInspection) -> Markup {
    let found = &looked.retrieval;
    let row = |name: &str, recall: [f64; 3], chance: [f64; 3], median: f64, first: usize| {
        html! {
            tr {
                td { (name) }
                @for (place, value) in recall.iter().enumerate() {
                    @let interval = looked.intervals.get(first + place);
                    td.number {
                        b { (format!("{value:.3}")) }
                        @if let Some(at) = interval { div.pale { (shown(*at)) } }
                        div.pale { "chance " (format!("{:.4}", chance[place])) }
                    }
                }
                td.number { (short(median)) }
            }
        }
    };
    html! {
        section {
            h2 { "Evaluation " span.pale { (looked.name) } }
            p.pale {
                (thousands(looked.pairs as u64))
                @if looked.pairs < looked.of { " of " (thousands(looked.of as u64)) }
                " pairs, by " code { (looked.model) }
                ". Pairs with equal captions count as right for each other. Small figures: \
                 intervals that hold 95% of the resamples."
            }
            table.plain {
                thead {
                    tr {
                        th { "retrieval" }
                        @for k in RECALL_AT { th.number { "R@" (k) } }
                        th.number { "median rank" }
                    }
                }
                (row(
                    "image to text",
                    found.image_to_text,
                    found.chance_image_to_text,
                    found.median_rank_image_to_text,
                    0
                ))
                (row(
                    "text to image",
                    found.text_to_image,
                    found.chance_text_to_image,
                    found.median_rank_text_to_image,
                    RECALL_AT.len()
                ))
            }
            @if let Some(geometry) = &looked.geometry {
                p {
                    "Embeddings: modality gap " (short(geometry.modality_gap))
                    ", alignment " (short(geometry.alignment))
                    ", uniformity of images " (short(geometry.images.uniformity))
                    " and captions " (short(geometry.texts.uniformity))
                    ", effective rank " (short(geometry.images.effective_rank_centred))
                    " and " (short(geometry.texts.effective_rank_centred)) "."
                }
            }
        }
        @if let Some(classes) = &looked.classes { (classification(report, classes)) }
        @if let Some((by, groups)) = &looked.groups { (parts(by, groups)) }
        section {
            h2 { "Worst mistakes" }
            h3 { "Images that are nearer to another caption than to their own" }
            (mistakes(report, &looked.wrong_texts, "own caption", "preferred"))
            h3 { "Captions that are nearer to another image than to their own" }
            (mistakes(report, &looked.wrong_images, "own image", "preferred"))
        }
        section {
            h2 { "Most similar images" }
            @for Neighbours { uid, near } in &looked.neighbours {
                div.row {
                    (picture(report, *uid, &html! { "" }))
                    span.arrow { "→" }
                    @for (uid, score) in near {
                        (picture(report, *uid, &html! { b { (format!("{score:.3}")) } }))
                    }
                }
            }
        }
        section {
            h2 { "Embedding maps" }
            div.charts.wide { (matrix(&looked.matrix)) (map(&looked.map)) }
        }
    }
}

fn classification(report: &Report, classes: &Classes) -> Markup {
    let found = classes.predictions.summary();
    let name = |class: usize| classes.names.get(class).map_or("", String::as_str);
    // Classes without images have no recall.
    let recalls = found
        .per_class
        .iter()
        .enumerate()
        .filter_map(|(class, of)| Some((class, of.recall()?, of.images)));
    let mut recalls: Vec<(usize, f64, usize)> = recalls.collect();
    recalls.sort_by(|a, b| a.1.total_cmp(&b.1).then(b.2.cmp(&a.2)).then(a.0.cmp(&b.0)));
    html! {
        section {
            h2 { "Zero-shot classification" }
            p {
                "top-1 " b { (format!("{:.3}", found.top1)) }
                @if let Some(at) = classes.top1_interval { " (" (shown(at)) ")" }
                ", top-5 " b { (format!("{:.3}", found.top5)) }
                ", mean per class " (format!("{:.3}", found.mean_per_class))
                ", chance " (format!("{:.3}", found.chance_top1))
                ", expected calibration error "
                (format!("{:.3}", classes.calibration.expected_error))
            }
            div.sides.three {
                div.side {
                    h4 { "Worst classes" }
                    table.plain {
                        @for (class, recall, images) in recalls.into_iter().take(LISTED) {
                            tr {
                                td { (name(class)) }
                                td.number { (percent_of(recall)) }
                                td.number.pale { "of " (images) }
                            }
                        }
                    }
                }
                div.side {
                    h4 { "Most frequent confusions" }
                    table.plain {
                        @let confusions = classes.predictions.confusions();
                        @for (label, predicted, count) in confusions.into_iter().take(LISTED) {
                            tr {
                                td { (name(label)) }
                                td { "predicted as " (name(predicted)) }
                                td.number { (count) }
                            }
                        }
                    }
                }
                (reliability(&classes.calibration))
            }
            h3 { "Most confident mistakes" }
            div.grid {
                @for (uid, label, predicted, confidence) in &classes.wrong {
                    @let below = html! {
                        b { (name(*predicted)) } " " (percent_of(*confidence))
                        div.pale { "is " (name(*label)) }
                    };
                    (picture(report, *uid, &below))
                }
            }
        }
    }
}

/// Builds the figures of the groups with the lowest results.
fn parts(by: &str, groups: &[Group]) -> Markup {
    let names = ["image to text R@1", "text to image R@1", "top-1"];
    let columns = groups.first().map_or(0, |group| group.values.len());
    html! {
        section {
            h2 { "By " code { (by) } }
            @if groups.len() > GROUPS {
                p.pale { "The lowest " (GROUPS) " of " (thousands(groups.len() as u64)) " groups." }
            }
            table.plain {
                thead {
                    tr {
                        th { "group" }
                        th.number { "pairs" }
                        @for name in names.iter().take(columns) { th.number { (name) } }
                    }
                }
                @for group in groups.iter().take(GROUPS) { tr {
                    td { (group.name) }
                    td.number { (thousands(group.count as u64)) }
                    @for (value, within) in &group.values {
                        td.number { b { (format!("{value:.3}")) } div.pale { (shown(*within)) } }
                    }
                } }
            }
        }
    }
}

fn mistakes(report: &Report, wrong: &[Mistake], own: &str, taken: &str) -> Markup {
    html! {
        @if wrong.is_empty() { p.pale { "none" } }
        div.pairs {
            @for wrong in wrong {
                @let own_score = html! {
                    span.pale { (own) " " } b { (format!("{:.3}", wrong.own)) }
                    div { (caption(report, wrong.uid)) }
                };
                @let taken_score = html! {
                    span.warn { (taken) " " (format!("{:.3}", wrong.score)) }
                    div { (caption(report, wrong.taken)) }
                };
                div.mistake {
                    (picture(report, wrong.uid, &own_score))
                    (picture(report, wrong.taken, &taken_score))
                }
            }
        }
    }
}

fn caption(report: &Report, uid: Uid) -> &str {
    report.pairs.get(&uid).map_or("", |shown| shown.caption.as_str())
}

fn picture(report: &Report, uid: Uid, below: &Markup) -> Markup {
    html! {
        figure.card title={ "uid " (uid) ": " (caption(report, uid)) } {
            @match report.pairs.get(&uid) {
                Some(shown) => (frame(shown)),
                None => div.frame { span.broken { "not in the dataset" } },
            }
            figcaption { div.words { (below) } }
        }
    }
}

/// Draws cosines as shades. The diagonal of a good model stands out.
fn matrix(matrix: &Matrix) -> Markup {
    let map = HeatMap { names: &matrix.captions, values: &matrix.scores };
    let title = format!("Cosines of {} pairs", matrix.captions.len());
    let note =
        html! { (map.legend()) " rows: images, columns: captions; the diagonal should stand out" };
    figure(&title, &[], &note, &map.draw("similarity matrix"))
}

fn map(map: &Map) -> Markup {
    let key = |series, name: &str| {
        let shape = if series == 0 { KeyShape::Disc } else { KeyShape::Diamond };
        Key { series, shape, name: name.to_owned() }
    };
    let kinds = [(0, &map.images), (1, &map.texts)];
    let points: Vec<Point<'_>> = kinds
        .into_iter()
        .flat_map(|(series, places)| {
            places.iter().zip(&map.captions).map(move |(at, name)| Point { at: *at, series, name })
        })
        .collect();
    let variance =
        html! { "first two principal components, " (percent_of(map.share)) " of the variance" };
    let neighbours =
        html! { "t-SNE: points close together are similar; distances between groups mean nothing" };
    html! {
        (figure(
            "Embeddings",
            &[key(0, "images"), key(1, "captions")],
            &variance,
            &scatter("embedding map", &points)
        ))
        @if let Some(places) = &map.neighbourhoods {
            @let points: Vec<Point<'_>> = places
                .iter()
                .zip(&map.right)
                .zip(&map.captions)
                .map(|((at, right), name)| Point { at: *at, series: usize::from(!right), name })
                .collect();
            (figure(
                "Neighbourhoods of images",
                &[key(0, "own caption is nearest"), key(1, "another caption is nearest")],
                &neighbours,
                &scatter("neighbourhoods of images", &points)
            ))
        }
    }
}

fn checkpoints(history: &History) -> Markup {
    let at = |name: &str, step: u64| {
        let found = history.metrics.get(name)?.iter().find(|(of, _)| *of == step);
        found.map(|(_, value)| format!("{value:.3}"))
    };
    html! {
        @if history.checkpoints.is_empty() { p.pale { "none" } } @else {
            table.plain {
                thead {
                    tr {
                        th.number { "step" }
                        th.number { "epoch" }
                        th.number { "i2t R@1" }
                        th.number { "t2i R@1" }
                        th { "path" }
                    }
                }
                @for checkpoint in history.checkpoints.iter().rev() {
                    @let step = checkpoint["step"].as_u64().unwrap_or(0);
                    tr {
                        td.number { (thousands(step)) }
                        td.number { (short(number(checkpoint, "epoch"))) }
                        td.number { (at("heldout/i2t_recall@1", step).unwrap_or_default()) }
                        td.number { (at("heldout/t2i_recall@1", step).unwrap_or_default()) }
                        td { code { (text(checkpoint, "path")) } }
                    }
                }
            }
        }
    }
}

pub(super) fn shown(at: Interval) -> String {
    format!("{:.3} to {:.3}", at.low, at.high)
}
