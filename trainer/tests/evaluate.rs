//! Compares every figure of an evaluation with scikit-learn, torchmetrics, CLIP_benchmark or scipy
//! on the same embeddings.
//!
//! Inputs and values: `tests/reference/make_evaluation_values.py`.
#![expect(clippy::unwrap_used, reason = "tests say what is wrong by failing")]

use std::path::Path;

use diptych_trainer::TrainerError;
use diptych_trainer::evaluate::{
    Bootstrap, CALIBRATION_BINS, GoOn, Labelled, Rows, Unit, Vote, average_precision, calibration,
    classify, fit, geometry, interval, mcnemar, nearest, resample, retrieval, sweep, wilson,
};
use serde_json::Value;
use tch::{Kind, Tensor};

/// Images of the training part. The others are for the test.
const TRAIN: usize = 180;
const D: usize = 12;
const CLASSES: usize = 7;

struct Data {
    values: Value,
    tensors: Vec<(String, Tensor)>,
}

impl Data {
    fn read() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let values = std::fs::read_to_string(folder.join("evaluation.json")).unwrap();
        let tensors = Tensor::read_safetensors(folder.join("evaluation.safetensors")).unwrap();
        Self { values: serde_json::from_str(&values).unwrap(), tensors }
    }

    fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors.iter().find(|(found, _)| found == name).unwrap().1
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.tensor(name).to_kind(Kind::Float).reshape([-1]).try_into().unwrap()
    }

    fn whole(&self, name: &str) -> Vec<i64> {
        self.tensor(name).reshape([-1]).try_into().unwrap()
    }

    fn labels(&self) -> Vec<usize> {
        self.whole("labels").into_iter().map(|label| label as usize).collect()
    }

    /// Returns all numbers of a value, in order.
    fn numbers(&self, group: &str, name: &str) -> Vec<f64> {
        fn walk(value: &Value, found: &mut Vec<f64>) {
            match value {
                Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
                value => found.push(value.as_f64().unwrap()),
            }
        }
        let mut found = Vec::new();
        walk(&self.values[group][name], &mut found);
        found
    }
}

fn rows(values: &[f32]) -> Rows<'_> {
    Rows { values, dimension: D }
}

fn close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance, "{what}: {found} instead of {expected}");
    }
}

#[test]
fn retrieval_of_several_captions_is_clip_benchmarks() {
    let data = Data::read();
    let groups: Vec<u64> =
        data.whole("image_of_text").into_iter().map(|image| image as u64).collect();
    let (images, texts) = (data.floats("images"), data.floats("texts"));
    let numbers: Vec<u64> = (0..(images.len() / D) as u64).collect();
    let found = retrieval(rows(&images), &numbers, rows(&texts), &groups, &|| true).unwrap();
    let expected = |name| data.numbers("retrieval", name);
    close(&found.image_to_text, &expected("image_to_text"), 1e-12, "image to text");
    close(&found.text_to_image, &expected("text_to_image"), 1e-12, "text to image");
    close(
        &[found.median_rank_image_to_text],
        &expected("median_rank_image_to_text"),
        0.0,
        "median rank",
    );
    close(
        &[found.median_rank_text_to_image],
        &expected("median_rank_text_to_image"),
        0.0,
        "median rank",
    );
}

#[test]
fn accuracy_confusion_and_calibration_are_scikit_learns_and_torchmetrics() {
    let data = Data::read();
    let labels = data.labels();
    let predictions =
        classify(rows(&data.floats("points")), &labels, rows(&data.floats("classes")), 10.0)
            .unwrap();
    let found = predictions.summary();
    let expected = |name| data.numbers("classification", name);
    close(
        &[found.top1, found.top5],
        &[expected("top1"), expected("top5")].concat(),
        1e-12,
        "accuracy",
    );
    close(&[found.mean_per_class], &expected("mean_per_class"), 1e-12, "mean per class");
    let confusion: Vec<f64> = predictions.confusion_matrix().into_iter().map(f64::from).collect();
    close(&confusion, &expected("confusion"), 0.0, "confusion");
    let column = |of: fn(&diptych_trainer::evaluate::ClassAccuracy) -> f64| -> Vec<f64> {
        found.per_class.iter().map(of).collect()
    };
    close(&column(|class| class.recall().unwrap()), &expected("recall"), 1e-12, "recall");
    close(
        &column(|class| class.precision().unwrap_or(0.0)),
        &expected("precision"),
        1e-12,
        "precision",
    );
    close(&column(|class| class.images as f64), &expected("support"), 0.0, "images");

    let calibrated = calibration(&predictions.confidence, &predictions.hits(1), CALIBRATION_BINS);
    close(&[calibrated.expected_error], &expected("ece_15"), 1e-6, "expected calibration error");
    close(&[calibrated.maximum_error], &expected("mce_15"), 1e-6, "maximum calibration error");
    assert_eq!(calibrated.bins.iter().map(|bin| bin.images).sum::<usize>(), labels.len());
}

#[test]
fn average_precision_is_scikit_learns_with_and_without_ties_and_clip_benchmarks() {
    let data = Data::read();
    let several = data.whole("several");
    let classes_of: Vec<Vec<usize>> = several
        .chunks_exact(CLASSES)
        .map(|row| (0..CLASSES).filter(|class| row[*class] == 1).collect())
        .collect();
    let of = |points: &[f32], classes: &[f32]| {
        average_precision(rows(points), &classes_of, rows(classes), Bootstrap::default())
    };
    let found = of(&data.floats("points"), &data.floats("classes")).unwrap();
    let within = interval(&found.resampled, 0.95);
    assert!(
        within.low < found.mean && found.mean < within.high && within.high - within.low < 0.5,
        "{within:?}"
    );
    assert_eq!(found.per_class[CLASSES - 1], None, "a class without images");
    let of_classes: Vec<f64> = found.per_class.iter().flatten().copied().collect();
    for name in ["sklearn", "torchmetrics", "clip_benchmark"] {
        close(&of_classes, &data.numbers("multi_label", name), 1e-6, name);
    }
    close(
        &[found.mean],
        &[of_classes.iter().sum::<f64>() / of_classes.len() as f64],
        1e-12,
        "mean",
    );
    let coarse = (data.floats("coarse_points"), data.floats("coarse_classes"));
    let found = of(&coarse.0, &coarse.1).unwrap();
    let of_classes: Vec<f64> = found.per_class.iter().flatten().copied().collect();
    close(&of_classes, &data.numbers("multi_label", "sklearn_with_ties"), 1e-9, "with ties");
}

#[test]
fn nearest_neighbours_vote_as_dinos() {
    let data = Data::read();
    let (points, labels) = (data.floats("points"), data.labels());
    let train = Labelled { rows: rows(&points[..TRAIN * D]), labels: &labels[..TRAIN] };
    let test = Labelled { rows: rows(&points[TRAIN * D..]), labels: &labels[TRAIN..] };
    for (name, vote) in
        [("weighted", Vote::Weighted { temperature: 0.07 }), ("majority", Vote::Majority)]
    {
        let found = nearest(train, test, CLASSES, 20, vote, &|| true).unwrap();
        let found: Vec<f64> = found.predicted.iter().map(|class| *class as f64).collect();
        close(&found, &data.numbers("knn", name), 0.0, name);
    }
}

#[test]
fn linear_probe_is_scikit_learns_logistic_regression() {
    let data = Data::read();
    let (points, labels) = (data.floats("points"), data.labels());
    let cases = data.values["probe"].as_array().unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let number = |name: &str| case[name].as_f64().unwrap();
        let (classes, c) = (number("classes") as usize, number("c"));
        // The last classes only, renumbered from 0.
        let part = |range: std::ops::Range<usize>| -> (Vec<f32>, Vec<usize>) {
            let kept = range.filter(|row| labels[*row] >= CLASSES - classes);
            let kept: Vec<usize> = kept.collect();
            let values =
                kept.iter().flat_map(|row| points[row * D..][..D].iter().copied()).collect();
            (values, kept.iter().map(|row| labels[*row] - (CLASSES - classes)).collect())
        };
        let (train, test) = (part(0..TRAIN), part(TRAIN..labels.len()));
        let probe =
            fit(Labelled { rows: rows(&train.0), labels: &train.1 }, classes, c, &|| true).unwrap();
        let what = format!("{classes} classes, C {c}, {} iterations", probe.iterations);
        close(&[probe.loss], &[number("loss")], 1e-4, &what);
        let found = probe.classify(Labelled { rows: rows(&test.0), labels: &test.1 }).unwrap();
        close(&[found.summary().top1], &[number("test_accuracy")], 1e-3, &what);
    }
}

#[test]
fn sweep_finds_the_peak_of_the_whole_grid() {
    let data = Data::read();
    let (points, labels) = (data.floats("points"), data.labels());
    let train = Labelled { rows: rows(&points[..TRAIN * D]), labels: &labels[..TRAIN] };
    let held = Labelled { rows: rows(&points[TRAIN * D..]), labels: &labels[TRAIN..] };
    let found = sweep(train, held, CLASSES, &|| true).unwrap();
    // Every second decade, and then at most two more for each of the strides 8, 4, 2, 1.
    assert!((7..=15).contains(&found.tried.len()), "{found:?}");
    let best = found.tried.iter().map(|(_, top1)| *top1).fold(0.0, f64::max);
    let chosen = found.tried.iter().find(|(c, _)| *c == found.c).unwrap();
    assert_eq!(chosen.1, best);
    let at_chosen =
        fit(train, CLASSES, found.c, &|| true).unwrap().classify(held).unwrap().summary().top1;
    assert_eq!(at_chosen, best);
}

#[test]
fn what_takes_long_stops_where_it_is_told_to() {
    let data = Data::read();
    let (points, labels) = (data.floats("points"), data.labels());
    let train = Labelled { rows: rows(&points[..TRAIN * D]), labels: &labels[..TRAIN] };
    let test = Labelled { rows: rows(&points[TRAIN * D..]), labels: &labels[TRAIN..] };
    let groups: Vec<u64> = (0..labels.len() as u64).collect();
    // Each time one more call is allowed, so that every place that calls it is stopped once.
    let stops_after_up_to = |most: usize, run: &dyn Fn(GoOn<'_>) -> Result<(), TrainerError>| {
        for allowed in 0..most {
            let calls = std::cell::Cell::new(0);
            let found = run(&|| calls.replace(calls.get() + 1) < allowed);
            assert!(matches!(found, Err(TrainerError::Stopped)), "after {allowed}: {found:?}");
            assert_eq!(calls.get(), allowed + 1, "it continued after a stop");
        }
    };
    stops_after_up_to(10, &|go_on| fit(train, CLASSES, 1.0, go_on).map(drop));
    stops_after_up_to(10, &|go_on| sweep(train, test, CLASSES, go_on).map(drop));
    stops_after_up_to(1, &|go_on| {
        nearest(train, test, CLASSES, 5, Vote::Majority, go_on).map(drop)
    });
    stops_after_up_to(1, &|go_on| {
        retrieval(rows(&points), &groups, rows(&points), &groups, go_on).map(drop)
    });
}

#[test]
fn a_class_without_training_images_is_never_predicted() {
    let data = Data::read();
    let (points, mut labels) = (data.floats("points"), data.labels());
    // Class 3 becomes a class without training images.
    labels[..TRAIN].iter_mut().filter(|label| **label == 3).for_each(|label| *label = 4);
    let probe = fit(
        Labelled { rows: rows(&points[..TRAIN * D]), labels: &labels[..TRAIN] },
        CLASSES,
        1.0,
        &|| true,
    )
    .unwrap();
    let found = probe
        .classify(Labelled { rows: rows(&points[TRAIN * D..]), labels: &labels[TRAIN..] })
        .unwrap();
    assert!(
        found.predicted.iter().all(|class| *class != 3)
            && found.confidence.iter().all(|value| value.is_finite())
    );
    assert!(
        fit(Labelled { rows: rows(&points[..D]), labels: &labels[..1] }, CLASSES, 1.0, &|| true)
            .is_err()
    );
}

#[test]
fn intervals_are_those_of_resampled_coins_and_the_paired_test_is_scipys() {
    let data = Data::read();
    let units: Vec<Unit> = (0..400).map(|n| Unit::from(n < 240)).collect();
    let found = resample(&[units], Bootstrap { resamples: 4000, ..Bootstrap::default() }).unwrap();
    let found = interval(&found[0], 0.95);
    // Quantiles of 4000 draws have a standard deviation of about 0.001 here.
    close(
        &[found.low, found.high],
        &data.numbers("trust", "interval_of_240_in_400"),
        0.005,
        "interval",
    );
    let squares: Vec<f64> = (0..10).map(|n| f64::from(n * n)).collect();
    let quantiles = data.numbers("trust", "quantiles");
    close(
        &[interval(&squares, 0.95).low, interval(&squares, 0.0).low, interval(&squares, 0.95).high],
        &quantiles,
        1e-9,
        "quantiles",
    );

    for case in data.numbers("trust", "wilson").chunks_exact(4) {
        let found = wilson(case[0] / case[1], case[1] as usize);
        close(&[found.low, found.high], &case[2..], 1e-9, "wilson");
    }

    for case in data.numbers("trust", "mcnemar").chunks_exact(3) {
        let (a, b) = (case[0] as usize, case[1] as usize);
        // Another 5 images are right for both.
        let first: Vec<bool> = (0..a + b + 5).map(|n| n < a || n >= a + b).collect();
        let second: Vec<bool> = (0..a + b + 5).map(|n| n >= a).collect();
        let found = mcnemar(&first, &second).unwrap();
        assert_eq!((found.only_first, found.only_second), (a, b));
        close(&[found.p_value], &[case[2]], 1e-9, "p value");
    }
}

#[test]
fn gap_alignment_uniformity_and_effective_rank_are_those_of_the_papers() {
    let data = Data::read();
    let (images, texts) = (data.floats("images"), data.floats("texts"));
    let of_text: Vec<f32> = data
        .whole("image_of_text")
        .into_iter()
        .flat_map(|image| images[image as usize * D..][..D].iter().copied())
        .collect();
    let found = geometry(rows(&of_text), rows(&texts)).unwrap();
    let expected = |name| data.numbers("geometry", name);
    close(&[found.modality_gap], &expected("gap"), 1e-9, "gap");
    close(&[found.alignment], &expected("alignment"), 1e-9, "alignment");
    close(&[found.texts.uniformity], &expected("uniformity"), 1e-9, "uniformity");
    close(&[found.images.effective_rank], &expected("effective_rank"), 1e-6, "effective rank");
    close(
        &[found.images.effective_rank_centred],
        &expected("effective_rank_centred"),
        1e-6,
        "effective rank about the mean",
    );
}
