//! Results as text for reading, and as JSON with more details. A second model's results are
//! compared with the first's.

use diptych_schemas::Uid;
use diptych_trainer::evaluate::{
    AveragePrecision, Bootstrap, CALIBRATION_BINS, Geometry, Interval, Predictions, RECALL_AT,
    Recall, Retrieval, Unit, calibration, interval, mcnemar, resample_draws, share_interval,
};
use serde_json::{Value, json};

use super::measure::TaskResult;
use super::text::Text;
use crate::groups::{Group, Groups, by_group};

/// Largest number of confusions and groups in the text. JSON has all.
const PRINTED: usize = 5;

/// The inputs of a report besides the result.
pub struct Context<'a> {
    pub classes: &'a [String],
    pub uids: &'a [Uid],
    pub groups: Option<&'a Groups>,
    /// Without resamples there are no intervals.
    pub bootstrap: Bootstrap,
}

impl Context<'_> {
    /// Computes intervals of columns and of their differences to other columns, in shared
    /// resamples.
    ///
    /// A column is `[draws][images]`.
    fn intervals(
        &self,
        own: Vec<Vec<Vec<Unit>>>,
        other: Vec<Vec<Vec<Unit>>>,
    ) -> anyhow::Result<(Vec<Interval>, Vec<Interval>)> {
        if self.bootstrap.resamples == 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        let count = own.len();
        let images = own.first().and_then(|draws| draws.first()).map_or(0, Vec::len);
        let columns: Vec<_> = own.into_iter().chain(other).collect();
        let resampled = resample_draws(&columns, self.bootstrap)?;
        let (own, other) = resampled.split_at(count);
        let of = |values: &[f64]| interval(values, self.bootstrap.level);
        let differences = own.iter().zip(other).map(|(own, other)| {
            let differences: Vec<f64> =
                own.iter().zip(other).map(|(own, other)| own - other).collect();
            of(&differences)
        });
        let shares = own.iter().map(|own| share_interval(own, self.bootstrap.level, images));
        Ok((shares.collect(), differences.collect()))
    }
}

/// Writes a result to `out`. Returns its name in JSON and its JSON.
///
/// `other` is the result of a second model on the same task.
pub fn report(
    result: &TaskResult,
    other: Option<&TaskResult>,
    with: &Context<'_>,
    out: &mut Text,
) -> anyhow::Result<(String, Value)> {
    match (result, other) {
        (TaskResult::Classes { name, draws, details }, other) => {
            let other = match other {
                Some(TaskResult::Classes { draws, .. }) => Some(draws.as_slice()),
                _ => None,
            };
            Ok((name.clone(), classes((name, draws, details), other, with, out)?))
        }
        (TaskResult::Labels { images, found }, other) => {
            let other = match other {
                Some(TaskResult::Labels { found, .. }) => Some(found),
                _ => None,
            };
            Ok(("multi_label".to_owned(), labels(*images, found, other, with, out)))
        }
        (TaskResult::Pairs { retrieval, units, image_uids }, other) => {
            let other = match other {
                Some(TaskResult::Pairs { retrieval, units, .. }) => {
                    Some((retrieval, units.as_slice()))
                }
                _ => None,
            };
            Ok(("retrieval".to_owned(), pairs((retrieval, units, image_uids), other, with, out)?))
        }
    }
}

/// Reports a classification. Figures are means over the draws; confusions and calibration count the
/// answers of all draws.
fn classes(
    (name, draws, details): (&str, &[Predictions], &Value),
    other: Option<&[Predictions]>,
    with: &Context<'_>,
    out: &mut Text,
) -> anyhow::Result<Value> {
    let pooled = Predictions::pooled(draws);
    let result = pooled.summary();
    let units =
        |draw: &Predictions, k| -> Vec<Unit> { draw.hits(k).into_iter().map(Unit::from).collect() };
    let columns = |draws: &[Predictions]| {
        [1, 5].map(|k| draws.iter().map(|draw| units(draw, k)).collect()).to_vec()
    };
    let (own, differences) =
        with.intervals(columns(draws), other.map(columns).unwrap_or_default())?;
    out.line(format!(
        "\n{:<22}  top-1   top-5   mean per class",
        format!("{}, {} classes", name.replace('_', "-"), result.classes)
    ));
    out.line(format!(
        "  model                {:>6.3}  {:>6.3}  {:>6.3}",
        result.top1, result.top5, result.mean_per_class
    ));
    if let Some(top1) = own.first() {
        out.line(format!("  95% of top-1         {}", interval_text(*top1)));
    }
    out.line(format!(
        "  chance               {:>6.3}  {:>6.3}  {:>6.3}",
        result.chance_top1, result.chance_top5, result.chance_top1
    ));

    let calibrated = calibration(&pooled.confidence, &pooled.hits(1), CALIBRATION_BINS);
    out.line(format!("  calibration error    {:>6.3}", calibrated.expected_error));
    let class_name = |class: usize| with.classes.get(class).map_or("", String::as_str);
    let confusions = pooled.confusions();
    let over =
        if draws.len() > 1 { format!(", in all {} draws", draws.len()) } else { String::new() };
    for &(label, predicted, count) in confusions.iter().take(PRINTED) {
        out.line(format!(
            "  {count:>6} × {} taken for {}{over}",
            class_name(label),
            class_name(predicted)
        ));
    }
    let mut json = json!({
        "images": result.images / draws.len(), "draws": draws.len(), "classes": result.classes,
        "top1": result.top1, "top5": result.top5,
        "mean_per_class": result.mean_per_class, "chance_top1": result.chance_top1,
        "chance_top5": result.chance_top5,
        "calibration": {
            "expected_error": calibrated.expected_error, "maximum_error": calibrated.maximum_error,
            "bins": calibrated.bins.iter()
                .map(|bin| json!({ "images": bin.images, "confidence": bin.confidence,
                "accuracy": bin.accuracy }))
                .collect::<Value>(),
        },
        "per_class": result.per_class.iter().enumerate()
            .map(|(class, of)| json!({
                "class": class_name(class), "images": of.images / draws.len(),
                "recall": of.recall(), "precision": of.precision(),
            }))
            .collect::<Value>(),
        "confusions": confusions.iter()
            .map(|&(label, predicted, images)| json!({
                "class": class_name(label), "taken_for": class_name(predicted), "images": images,
            }))
            .collect::<Value>(),
    });
    if let [top1, top5] = own[..] {
        json["top1_interval"] = as_json(top1);
        json["top5_interval"] = as_json(top5);
    }
    if details.as_object().is_some_and(|details| !details.is_empty()) {
        if let Some(top1) = details["top1_of_draws"].as_array() {
            let each: Vec<_> =
                top1.iter().filter_map(Value::as_f64).map(|top1| format!("{top1:>6.3}")).collect();
            out.line(format!("  top-1 of each draw   {}", each.join("  ")));
        }
        if let Some(c) = details["c"].as_f64() {
            out.line(format!("  C                    {c:>9.3e}"));
        }
        json["details"] = details.clone();
    }
    if let Some(groups) = with.groups {
        let hits: Vec<Vec<bool>> = draws.iter().map(|draw| draw.hits(1)).collect();
        let part = |image: usize| {
            hits.iter().filter(|hits| hits[image]).count() as f64 / draws.len() as f64
        };
        let parts = (0..with.uids.len()).map(|image| Unit { hits: part(image), of: 1.0 }).collect();
        json["groups"] = grouped(&groups.names_of(with.uids), &["top1"], &[parts], out);
    }
    if let Some(other) = other {
        let theirs = Predictions::pooled(other).summary().top1;
        out.line(format!(
            "  compared: {theirs:.3}, difference {:+.3}{}",
            result.top1 - theirs,
            difference_interval_text(differences.first())
        ));
        json["compared"] = json!({
            "top1": theirs, "difference": result.top1 - theirs,
            "difference_interval": differences.first().map(|at| as_json(*at)),
        });
        // The test is for one answer per image, and those of several draws are not independent.
        if let ([own], [other]) = (draws, other) {
            let test = mcnemar(&own.hits(1), &other.hits(1))?;
            let p = if test.p_value < 0.001 {
                format!("{:.1e}", test.p_value)
            } else {
                format!("{:.3}", test.p_value)
            };
            out.line(format!(
                "  McNemar's exact test: {} right only here, {} only there, p = {p}",
                test.only_first, test.only_second
            ));
            json["compared"]["only_here_right"] = json!(test.only_first);
            json["compared"]["only_there_right"] = json!(test.only_second);
            json["compared"]["mcnemar_p"] = json!(test.p_value);
        }
    }
    Ok(json)
}

fn labels(
    images: usize,
    found: &AveragePrecision,
    other: Option<&AveragePrecision>,
    with: &Context<'_>,
    out: &mut Text,
) -> Value {
    let of = |values: &[f64]| (!values.is_empty()).then(|| interval(values, with.bootstrap.level));
    out.line(format!("\nmulti-label, {} classes, {images} images", with.classes.len()));
    out.line(format!("  mean average precision {:>6.3}", found.mean));
    let mut json = json!({
        "images": images, "classes": with.classes.len(), "mean_average_precision": found.mean,
        "per_class": with.classes.iter().zip(&found.per_class)
            .map(|(class, precision)| json!({ "class": class, "average_precision": precision }))
            .collect::<Value>(),
    });
    if let Some(at) = of(&found.resampled) {
        out.line(format!("  95%                    {}", interval_text(at)));
        json["mean_average_precision_interval"] = as_json(at);
    }
    if let Some(other) = other {
        let differences: Vec<f64> =
            found.resampled.iter().zip(&other.resampled).map(|(own, other)| own - other).collect();
        let within = of(&differences);
        let difference = found.mean - other.mean;
        out.line(format!(
            "  compared: {:.3}, difference {difference:+.3}{}",
            other.mean,
            difference_interval_text(within.as_ref())
        ));
        json["compared"] = json!({
            "mean_average_precision": other.mean, "difference": difference,
            "difference_interval": within.map(as_json),
        });
    }
    json
}

fn pairs(
    (result, units, image_uids): (&Retrieval, &[Vec<Unit>], &[Uid]),
    other: Option<(&Retrieval, &[Vec<Unit>])>,
    with: &Context<'_>,
    out: &mut Text,
) -> anyhow::Result<Value> {
    let once =
        |units: &[Vec<Unit>]| units.iter().map(|column| vec![column.clone()]).collect::<Vec<_>>();
    let (own, differences) =
        with.intervals(once(units), other.map(|(_, units)| once(units)).unwrap_or_default())?;
    let header: String = RECALL_AT.map(|k| format!("{:>8}", format!("R@{k}"))).concat();
    let counts = if result.images == result.texts {
        format!("{} pairs", result.images)
    } else {
        format!("{} images, {} captions", result.images, result.texts)
    };
    out.line(format!("\n{:<24}{header}   median rank", format!("retrieval, {counts}")));
    let row = |name: &str, recall: Recall, median: String| {
        let values: String = recall.map(|value| format!("{value:>8.3}")).concat();
        format!("  {name:<22}{values}{median}")
    };
    let directions = [
        (
            "image to text",
            result.image_to_text,
            result.median_rank_image_to_text,
            result.chance_image_to_text,
            0,
        ),
        (
            "text to image",
            result.text_to_image,
            result.median_rank_text_to_image,
            result.chance_text_to_image,
            RECALL_AT.len(),
        ),
    ];
    for (name, recall, median, chance, first) in directions {
        out.line(row(name, recall, format!("{median:>14}")));
        if let Some(at_one) = own.get(first) {
            out.line(format!("    95% of R@1           {}", interval_text(*at_one)));
        }
        out.line(row("  chance", chance, String::new()));
    }
    let three = |intervals: &[Interval], first: usize| -> Value {
        intervals.iter().skip(first).take(RECALL_AT.len()).map(|at| as_json(*at)).collect()
    };
    let mut json = json!({
        "recall_at": RECALL_AT, "image_to_text": result.image_to_text,
        "text_to_image": result.text_to_image,
        "chance_image_to_text": result.chance_image_to_text,
        "chance_text_to_image": result.chance_text_to_image,
        "median_rank_image_to_text": result.median_rank_image_to_text,
        "median_rank_text_to_image": result.median_rank_text_to_image,
        "images": result.images, "texts": result.texts,
    });
    if !own.is_empty() {
        json["image_to_text_intervals"] = three(&own, 0);
        json["text_to_image_intervals"] = three(&own, RECALL_AT.len());
    }
    if let Some(groups) = with.groups {
        let at_one = [units[0].clone(), units[RECALL_AT.len()].clone()];
        json["groups"] = grouped(
            &groups.names_of(image_uids),
            &["image_to_text", "text_to_image"],
            &at_one,
            out,
        );
    }
    if let Some((other, _)) = other {
        for (name, ours, theirs, first) in [
            ("image to text", result.image_to_text, other.image_to_text, 0),
            ("text to image", result.text_to_image, other.text_to_image, RECALL_AT.len()),
        ] {
            let within = difference_interval_text(differences.get(first));
            out.line(format!(
                "  compared, {name} R@1: {:.3}, difference {:+.3}{within}",
                theirs[0],
                ours[0] - theirs[0]
            ));
        }
        json["compared"] = json!({
            "image_to_text": other.image_to_text, "text_to_image": other.text_to_image,
            "image_to_text_difference_intervals": three(&differences, 0),
            "text_to_image_difference_intervals": three(&differences, RECALL_AT.len()),
        });
    }
    Ok(json)
}

/// Reports the figures (R@1 or accuracy, by name) of each group. The worst go to `out`.
pub fn grouped(names: &[&str], figures: &[&str], columns: &[Vec<Unit>], out: &mut Text) -> Value {
    let found = by_group(names, columns);
    let header: Vec<String> = figures.iter().map(|name| name.replace('_', " ")).collect();
    out.line(format!("  by group, the lowest first: {}", header.join(", ")));
    for group in found.iter().take(PRINTED) {
        let values = group
            .values
            .iter()
            .map(|(value, within)| format!("{value:>6.3} ({})", interval_text(*within)));
        out.line(format!(
            "    {}  {} ({})",
            values.collect::<Vec<_>>().join("  "),
            group.name,
            group.count
        ));
    }
    let as_object = |group: &Group| {
        let mut object = json!({ "name": group.name, "count": group.count });
        for (name, (value, within)) in figures.iter().zip(&group.values) {
            object[*name] = json!(value);
            object[format!("{name}_interval")] = as_json(*within);
        }
        object
    };
    found.iter().map(as_object).collect()
}

/// Writes the geometry of embeddings to `out`, and returns it as JSON.
pub fn geometry(found: &Geometry, out: &mut Text) -> Value {
    out.line(format!(
        "\nembeddings: modality gap {:.3}, alignment {:.3}, uniformity {:.3} / {:.3}, effective \
         rank {:.1} / {:.1} (images / captions)",
        found.modality_gap,
        found.alignment,
        found.images.uniformity,
        found.texts.uniformity,
        found.images.effective_rank_centred,
        found.texts.effective_rank_centred
    ));
    let spread = |of: &diptych_trainer::evaluate::Spread| {
        json!({
            "uniformity": of.uniformity, "effective_rank": of.effective_rank,
            "effective_rank_centred": of.effective_rank_centred,
        })
    };
    json!({
        "modality_gap": found.modality_gap, "alignment": found.alignment,
        "images": spread(&found.images), "texts": spread(&found.texts),
    })
}

pub fn interval_text(at: Interval) -> String {
    format!("{:.3} to {:.3}", at.low, at.high)
}

pub fn difference_interval_text(at: Option<&Interval>) -> String {
    at.map_or_else(String::new, |at| format!(" (95%: {:+.3} to {:+.3})", at.low, at.high))
}

pub fn as_json(at: Interval) -> Value {
    json!([at.low, at.high])
}
