//! Tests of compositional understanding, read from the files that their authors publish.
//!
//! SugarCrepe's JSON has an image, its caption and a wrong one. Winoground's lines have two images
//! and two captions of the same words.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};
use diptych_embeddings::models::Model;
use diptych_schemas::SchemaError;
use diptych_schemas::words::thousands;
use diptych_trainer::evaluate::{Bootstrap, Unit, Winoground, resample, share_interval};
use serde::Deserialize;
use serde_json::{Value, json};

use super::report::grouped;
use super::request::Control;
use super::text::Text;

/// Images that are encoded at once.
const AT_ONCE: usize = 64;
/// Largest number of wrong answers in JSON.
const LISTED: usize = 100;
/// Extensions that an image's name may lack in Winoground's lines.
const ENDINGS: [&str; 4] = ["", ".png", ".jpg", ".jpeg"];

/// A file of examples.
pub struct Test {
    pub name: String,
    examples: Vec<Example>,
}

struct Example {
    id: String,
    tag: Option<String>,
    images: Images,
    /// The first caption belongs to the first image.
    captions: [String; 2],
}

enum Images {
    /// Its caption is the first.
    One(PathBuf),
    Two([PathBuf; 2]),
}

/// An example of SugarCrepe.
#[derive(Deserialize)]
struct SugarCrepeExample {
    filename: String,
    caption: String,
    negative_caption: String,
}

/// An example of Winoground.
#[derive(Deserialize)]
struct WinogroundExample {
    id: Value,
    #[serde(default)]
    collapsed_tag: Option<String>,
    image_0: String,
    image_1: String,
    caption_0: String,
    caption_1: String,
}

impl Test {
    /// Reads a file, and finds its images in the folder `images`.
    pub fn read(file: &Path, images: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).map_err(SchemaError::io(file))?;
        let in_file = || file.display().to_string();
        let examples = if let Ok(choices) =
            serde_json::from_str::<serde_json::Map<String, Value>>(&text)
            && choices.values().all(Value::is_object)
        {
            let one = |(id, value): (String, Value)| {
                let at = || format!("{}, example {id}", in_file());
                let choice: SugarCrepeExample = serde_json::from_value(value).with_context(at)?;
                let image = image_file(images, &choice.filename).with_context(at)?;
                anyhow::Ok(Example {
                    tag: None,
                    images: Images::One(image),
                    captions: [choice.caption, choice.negative_caption],
                    id,
                })
            };
            choices.into_iter().map(one).collect::<anyhow::Result<Vec<_>>>()?
        } else {
            let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            let one = |(number, line): (usize, &str)| {
                let at = || format!("{}, line {}", in_file(), number + 1);
                let four: WinogroundExample = serde_json::from_str(line).with_context(|| {
                    format!(
                        "{}: neither SugarCrepe's JSON (filename, caption, negative_caption) nor a \
                         line of Winoground",
                        at()
                    )
                })?;
                let [first, second] = [&four.image_0, &four.image_1]
                    .map(|name| image_file(images, name).with_context(at));
                anyhow::Ok(Example {
                    id: four.id.to_string(),
                    tag: four.collapsed_tag.filter(|tag| !tag.is_empty()),
                    images: Images::Two([first?, second?]),
                    captions: [four.caption_0, four.caption_1],
                })
            };
            lines.map(one).collect::<anyhow::Result<Vec<_>>>()?
        };
        if examples.is_empty() {
            bail!("{} has no examples", in_file());
        }
        let two =
            examples.iter().filter(|example| matches!(example.images, Images::Two(_))).count();
        if two != 0 && two != examples.len() {
            bail!("{} has examples of both kinds; use one file per kind", in_file());
        }
        let name = file
            .file_stem()
            .map_or_else(|| "examples".into(), |stem| stem.to_string_lossy().into_owned());
        Ok(Self { name, examples })
    }

    /// Returns the names of the figures, the strictest last.
    pub fn figure_names(&self) -> &'static [&'static str] {
        match self.examples[0].images {
            Images::One(_) => &["accuracy"],
            Images::Two(_) => &["text", "image", "group"],
        }
    }
}

/// Finds an image in the folder. Names that lead out of the folder are refused.
fn image_file(folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
    if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
        bail!("the image name {name:?} leads out of the folder of images");
    }
    let found = ENDINGS
        .iter()
        .map(|ending| folder.join(format!("{name}{ending}")))
        .find(|path| path.is_file());
    found.with_context(|| format!("there is no image {name} in {}", folder.display()))
}

/// The result of a test.
pub struct TestScores<'a> {
    test: &'a Test,
    /// Cosines of each example: one or two images, by two captions.
    scores: Vec<Vec<[f32; 2]>>,
    /// Chance of each figure of [`Test::figure_names`].
    chances: Vec<f64>,
    /// Whether each example is right, for each figure.
    columns: Vec<Vec<bool>>,
}

/// Encodes the images and captions of the tests, and scores the model.
pub fn run<'a>(
    model: &Model,
    tests: &[&'a Test],
    control: Control<'_>,
) -> anyhow::Result<Vec<TestScores<'a>>> {
    let images = encode_images(model, tests, control)?;
    let of_test = |test: &&'a Test| {
        control.check()?;
        tested(model, test, &images)
    };
    tests.iter().map(of_test).collect()
}

/// Encodes each image once. Returns unit rows by path.
fn encode_images<'a>(
    model: &Model,
    tests: &[&'a Test],
    control: Control<'_>,
) -> anyhow::Result<HashMap<&'a Path, Vec<f32>>> {
    let mut paths: Vec<&Path> = tests
        .iter()
        .flat_map(|test| &test.examples)
        .flat_map(|example| example.images.paths())
        .collect();
    paths.sort_unstable();
    paths.dedup();
    let mut rows = HashMap::with_capacity(paths.len());
    for part in paths.chunks(AT_ONCE) {
        control.check()?;
        let mut pixels = Vec::new();
        for path in part {
            let bytes = std::fs::read(path).map_err(SchemaError::io(*path))?;
            pixels.extend(model.pixels(&bytes).with_context(|| path.display().to_string())?);
        }
        let encoded = model.encoder.encode_images(&pixels)?;
        rows.extend(
            part.iter()
                .copied()
                .zip(encoded.chunks_exact(model.encoder.dimension()).map(<[f32]>::to_vec)),
        );
    }
    Ok(rows)
}

impl Images {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let (first, second) = match self {
            Self::One(path) => (path, None),
            Self::Two([first, second]) => (first, Some(second)),
        };
        std::iter::once(first).chain(second).map(PathBuf::as_path)
    }
}

fn tested<'a>(
    model: &Model,
    test: &'a Test,
    images: &HashMap<&Path, Vec<f32>>,
) -> anyhow::Result<TestScores<'a>> {
    let captions: Vec<String> =
        test.examples.iter().flat_map(|example| example.captions.clone()).collect();
    let texts = model.encode_texts(&captions)?;
    let dimension = model.encoder.dimension();
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let mut scores: Vec<Vec<[f32; 2]>> = Vec::with_capacity(test.examples.len());
    for (example, texts) in test.examples.iter().zip(texts.chunks_exact(2 * dimension)) {
        let (first, second) = texts.split_at(dimension);
        let of = |path| {
            let image = images.get(path).context("an image that was not encoded")?;
            anyhow::Ok([cosine(image, first), cosine(image, second)])
        };
        scores.push(example.images.paths().map(of).collect::<anyhow::Result<_>>()?);
    }
    let (chances, columns) = match &test.examples[0].images {
        Images::One(_) => (vec![0.5], vec![scores.iter().map(|of| of[0][0] > of[0][1]).collect()]),
        Images::Two(_) => {
            let found: Vec<Winoground> =
                scores.iter().map(|of| Winoground::judge([of[0], of[1]])).collect();
            let columns = vec![
                found.iter().map(|found| found.text).collect(),
                found.iter().map(|found| found.image).collect(),
                found.iter().map(|found| found.group()).collect(),
            ];
            (Winoground::CHANCE.to_vec(), columns)
        }
    };
    Ok(TestScores { test, scores, chances, columns })
}

impl TestScores<'_> {
    pub fn name(&self) -> &str {
        &self.test.name
    }

    /// Returns the figures by name: shares of the examples, the strictest last.
    pub fn figures(&self) -> Vec<(String, f64)> {
        let part = |column: &Vec<bool>| {
            column.iter().filter(|right| **right).count() as f64 / column.len() as f64
        };
        self.test
            .figure_names()
            .iter()
            .map(|name| (*name).to_owned())
            .zip(self.columns.iter().map(part))
            .collect()
    }

    /// Returns whether each example is right, for each figure.
    pub fn units(&self) -> Vec<Vec<Unit>> {
        self.columns.iter().map(|column| column.iter().copied().map(Unit::from).collect()).collect()
    }

    /// Writes the result to `out`, and returns it as JSON.
    pub fn report(&self, bootstrap: Bootstrap, out: &mut Text) -> anyhow::Result<Value> {
        let examples = &self.test.examples;
        let intervals = if bootstrap.resamples == 0 {
            Vec::new()
        } else {
            resample(&self.units(), bootstrap)?
                .iter()
                .map(|values| share_interval(values, bootstrap.level, examples.len()))
                .collect()
        };
        out.line(format!("\n{}, {} examples", self.name(), thousands(examples.len() as u64)));
        let mut json = json!({ "examples": examples.len() });
        for (place, ((name, value), chance)) in self.figures().iter().zip(&self.chances).enumerate()
        {
            let within = intervals
                .get(place)
                .map(|at| format!("   95%: {:.3} to {:.3}", at.low, at.high))
                .unwrap_or_default();
            out.line(format!("  {name:<20} {value:>6.3}   chance {chance:.3}{within}"));
            json[name] = json!(value);
            json[format!("chance_{name}")] = json!(chance);
            if let Some(at) = intervals.get(place) {
                json[format!("{name}_interval")] = json!([at.low, at.high]);
            }
        }
        // The last figure is the strictest.
        let strict = self.columns.last().map_or(&[][..], Vec::as_slice);
        let tags: Vec<&str> =
            examples.iter().filter_map(|example| example.tag.as_deref()).collect();
        if tags.len() == strict.len() && !tags.is_empty() {
            let units = strict.iter().copied().map(Unit::from).collect();
            let name = self.test.figure_names().last().copied().unwrap_or_default();
            json["groups"] = grouped(&tags, &[name], &[units], out);
        }
        let wrong =
            examples.iter().zip(strict).zip(&self.scores).filter(|((_, right), _)| !**right);
        json["wrong"] = wrong
            .take(LISTED)
            .map(|((example, _), scores)| {
                json!({ "id": example.id, "captions": example.captions,
            "cosines": scores })
            })
            .collect();
        Ok(json)
    }
}
