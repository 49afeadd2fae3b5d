//! The data of an evaluation: pairs, classes, groups and further captions.
//!
//! They are read before the model, so that errors appear at once.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use arrow::array::AsArray;
use diptych_embeddings::embed::subset;
use diptych_embeddings::encode::Encoded;
use diptych_embeddings::pairs::{chosen_pairs, name_of_pairs};
use diptych_embeddings::values::{column_texts, for_each_value};
use diptych_pipeline::Selection;
use diptych_schemas::words::thousands;
use diptych_schemas::{PairChoice, Uid, column};

use super::benchmark::{Benchmark, Kind};
use super::source::EmbeddingSource;
use crate::classification::{Classes, Classification};
use crate::groups::Groups;
use crate::request::{ClassSource, Control, PairSource, Subject, Task};
use crate::retrieval::CaptionedImages;

/// Everything that an evaluation needs except the model.
pub struct EvalData {
    /// Name of the selection or benchmark in results.
    pub name: String,
    pub dataset: PathBuf,
    pub selection: Selection,
    pub classification: Option<Arc<Classification>>,
    /// Labelled pairs to learn from.
    pub train: Option<Train>,
    pub groups: Option<Groups>,
    images: Images,
    pub tasks: Vec<Task>,
    /// Whether only the exact pair is right.
    pub strict: bool,
    /// Notes on the pairs for the user, one line each.
    pub notes: Vec<String>,
}

pub struct Train {
    pub dataset: PathBuf,
    pub selection: Selection,
    pub classification: Arc<Classification>,
}

/// Pairs that share an image, and further captions.
#[derive(Default)]
struct Images {
    sha256: HashMap<Uid, Vec<u8>>,
    captions: HashMap<Uid, Vec<String>>,
    /// Whether each line of a caption is a caption of its own, as in CLIP_benchmark's `.txt`.
    by_line: bool,
}

impl EvalData {
    /// Reads the data that `tasks` need.
    ///
    /// The images of a benchmark are first read into the state folder. `control` can stop that.
    pub fn read(
        subject: &Subject,
        tasks: &[Task],
        state: &Path,
        control: Control<'_>,
    ) -> anyhow::Result<Self> {
        let mut data = match &subject.source {
            PairSource::Benchmark(folder) => Self::from_benchmark(folder, tasks, state, control)?,
            PairSource::Dataset { dataset, pairs, classes, train_selection } => Self::from_dataset(
                dataset,
                pairs,
                classes.as_ref(),
                train_selection.as_deref(),
                tasks,
            )?,
        };
        data.strict = subject.strict_pairs;
        for task in &data.tasks {
            let name = task.name();
            if *task != Task::Retrieval && data.classification.is_none() {
                bail!(
                    "{name} needs classes; pass --label-column (and --classes), or --benchmark \
                     with classnames.txt"
                );
            }
            if task.learns() && data.train.is_none() {
                bail!(
                    "{name} needs labelled pairs to learn from; pass --train-selection, or a \
                     benchmark with a train folder"
                );
            }
            // Checked before anything is encoded.
            if let Some(classification) =
                data.classification.as_ref().filter(|_| *task != Task::Retrieval)
            {
                classification.check(&data.selection.uids)?;
            }
        }
        control.check()?;
        if data.tasks.contains(&Task::Retrieval) && data.dataset.is_dir() {
            let by_line = data.images.by_line;
            data.images = Images {
                by_line,
                ..Images::read(&data.dataset, &data.selection, &subject.more_captions)?
            };
        } else if !subject.more_captions.is_empty() {
            bail!("--more-captions works only for retrieval in a local dataset folder");
        }
        if let Some(name) = &subject.group_by {
            data.groups =
                Some(Groups::read(&data.dataset, &data.selection, name).context("--group-by")?);
        }
        Ok(data)
    }

    fn from_dataset(
        dataset: &Path,
        pairs: &PairChoice,
        classes: Option<&ClassSource>,
        train_selection: Option<&Path>,
        tasks: &[Task],
    ) -> anyhow::Result<Self> {
        let mut selection = chosen_pairs(dataset, pairs)?;
        let train_pairs = |path: &Path| chosen_pairs(dataset, &PairChoice::of_selection(path));
        let mut train_selection = train_selection.map(train_pairs).transpose()?;
        let read = |of: &ClassSource| {
            let classes = match &of.names {
                Some(names) => Classes::listed_in(names),
                None => Classes::labels_of([&selection].into_iter().chain(&train_selection)),
            };
            Classification::read(dataset, &classes, &of.label_column, of.templates.as_deref())
                .map(Arc::new)
        };
        let classification = classes.map(read).transpose()?;
        let mut notes = Vec::new();
        let by_labels = classes.is_some_and(|of| of.names.is_none());
        let retrieval_alone =
            !tasks.is_empty() && tasks.iter().all(|task| *task == Task::Retrieval);
        if let Some(classification) =
            classification.as_ref().filter(|_| by_labels && !retrieval_alone)
        {
            for (what, selection) in
                [("", Some(&mut selection)), (" to learn from", train_selection.as_mut())]
            {
                let Some(selection) = selection else { continue };
                let without = keep_labelled(selection, classification);
                if without > 0 {
                    notes.push(format!(
                        "left out {} pairs{what} without a label",
                        thousands(without as u64)
                    ));
                }
            }
        }
        let train = match (train_selection, &classification) {
            (Some(selection), Some(classification)) => Some(Train {
                dataset: dataset.to_owned(),
                selection,
                classification: Arc::clone(classification),
            }),
            _ => None,
        };
        let mut tasks = tasks.to_vec();
        if tasks.is_empty() {
            tasks.extend(classes.is_some().then_some(Task::ZeroShot));
            tasks.push(Task::Retrieval);
        }
        Ok(Self {
            name: name_of_pairs(dataset, pairs),
            dataset: dataset.to_owned(),
            selection,
            classification,
            train,
            groups: None,
            images: Images::default(),
            tasks,
            strict: false,
            notes,
        })
    }

    fn from_benchmark(
        folder: &Path,
        tasks: &[Task],
        state: &Path,
        control: Control<'_>,
    ) -> anyhow::Result<Self> {
        let benchmark = Benchmark::read(folder)?;
        let Some(dataset) = benchmark.split("test", state, control)? else {
            bail!(
                "{} has neither a test folder with tars nor folders by class; CLIP_benchmark's \
                 layout has test/0.tar, test/1.tar, …",
                folder.display()
            );
        };
        let classification = |dataset: &Path| {
            let classes = match (benchmark.class_names(), &benchmark.folders) {
                (Some(names), folders) => Classes::File { names, labels: folders.clone() },
                (None, folders) => Classes::Named(folders.clone().unwrap_or_default()),
            };
            let templates = benchmark.templates();
            Classification::read(dataset, &classes, Benchmark::label_column(), templates.as_deref())
                .map(Arc::new)
        };
        let has_classes = benchmark.kind != Kind::Captions;
        let learns = tasks.iter().any(|task| task.learns());
        let train =
            match learns.then(|| benchmark.split("train", state, control)).transpose()?.flatten() {
                Some(dataset) if has_classes => Some(Train {
                    selection: all_of(&dataset)?,
                    classification: classification(&dataset)?,
                    dataset,
                }),
                _ => None,
            };
        let by_default = match benchmark.kind {
            Kind::Classes => Task::ZeroShot,
            Kind::ManyClasses => Task::MultiLabel,
            Kind::Captions => Task::Retrieval,
        };
        Ok(Self {
            name: benchmark.name.clone(),
            selection: all_of(&dataset)?,
            classification: has_classes.then(|| classification(&dataset)).transpose()?,
            train,
            groups: None,
            images: Images { by_line: true, ..Images::default() },
            tasks: if tasks.is_empty() { vec![by_default] } else { tasks.to_vec() },
            dataset,
            strict: false,
            notes: Vec::new(),
        })
    }

    /// Groups encoded pairs into images with all their captions. Pairs with equal image files are
    /// one image.
    ///
    /// If an image has several captions, only its own are right. If none has, pairs with the same
    /// caption are right for each other, unless the data is strict.
    pub fn captioned<'a>(
        &self,
        towers: &EmbeddingSource<'_>,
        encoded: &'a Encoded,
    ) -> anyhow::Result<CaptionedImages<'a>> {
        let dimension = towers.dimension();
        let mut found = CaptionedImages::default();
        let mut number_of = HashMap::new();
        let mut captions: Vec<String> = Vec::new();
        for (row, (uid, caption)) in encoded.uids.iter().zip(&encoded.captions).enumerate() {
            let sha256 = self.images.sha256.get(uid).cloned().unwrap_or_else(|| uid.0.to_vec());
            let next = number_of.len();
            let image = *number_of.entry(sha256).or_insert(next);
            if image == next {
                found.first_rows.push(row);
            }
            let lines = caption.lines().map(str::trim).filter(|line| !line.is_empty());
            let own: Vec<String> = if self.images.by_line {
                lines.map(str::to_owned).collect()
            } else {
                vec![caption.clone()]
            };
            for text in
                own.into_iter().chain(self.images.captions.get(uid).cloned().unwrap_or_default())
            {
                captions.push(text);
                found.image_of_text.push(image);
            }
        }
        found.images = if found.first_rows.len() == encoded.uids.len() {
            Cow::Borrowed(&encoded.images)
        } else {
            let rows =
                found.first_rows.iter().map(|row| &encoded.images[row * dimension..][..dimension]);
            rows.flatten().copied().collect()
        };
        let plain = captions == encoded.captions;
        found.texts = if plain {
            Cow::Borrowed(&encoded.texts)
        } else {
            Cow::Owned(towers.encode_texts(&captions)?)
        };
        let one_each = found.image_of_text.len() == number_of.len();
        let mut groups = HashMap::new();
        found.text_groups = captions
            .iter()
            .zip(&found.image_of_text)
            .map(|(caption, image)| {
                let image = *image as u64;
                if self.strict || !one_each {
                    image
                } else {
                    *groups.entry(caption.as_str()).or_insert(image)
                }
            })
            .collect();
        // With one caption per image, text n belongs to image n.
        found.image_groups = if one_each {
            found.text_groups.clone()
        } else {
            (0..number_of.len() as u64).collect()
        };
        Ok(found)
    }
}

/// Drops pairs without a label. Returns how many.
fn keep_labelled(selection: &mut Selection, classification: &Classification) -> usize {
    let rows: Vec<usize> =
        (0..selection.len()).filter(|row| classification.has_label(selection.uids[*row])).collect();
    let without = selection.len() - rows.len();
    if without > 0 {
        *selection = subset(selection, &rows);
    }
    without
}

fn all_of(dataset: &Path) -> anyhow::Result<Selection> {
    chosen_pairs(dataset, &PairChoice::default())
}

impl Images {
    fn read(dataset: &Path, selection: &Selection, more: &[String]) -> anyhow::Result<Self> {
        let mut found = Self { sha256: sha256_of(dataset, selection)?, ..Self::default() };
        for name in more {
            for (uid, text) in column_texts(dataset, selection, name).context("--more-captions")? {
                let list =
                    serde_json::from_str::<Vec<String>>(&text).unwrap_or_else(|_| vec![text]);
                let list = list.into_iter().filter(|text| !text.trim().is_empty());
                found.captions.entry(uid).or_default().extend(list);
            }
        }
        Ok(found)
    }
}

fn sha256_of(dataset: &Path, selection: &Selection) -> anyhow::Result<HashMap<Uid, Vec<u8>>> {
    let selected: HashSet<Uid> = selection.uids.iter().copied().collect();
    let mut found = HashMap::with_capacity(selected.len());
    for_each_value(dataset, column::SHA256, "the hashes of the images", |uid, hashes, row| {
        if selected.contains(&uid) {
            found.insert(uid, hashes.as_fixed_size_binary().value(row).to_vec());
        }
    })?;
    Ok(found)
}
