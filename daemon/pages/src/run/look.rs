//! The model on held-out pairs: its quality with intervals, its worst mistakes, and the images that
//! it finds similar.

use std::borrow::Cow;
use std::collections::HashSet;

use diptych_embeddings::encode::Encoded;
use diptych_embeddings::models::Model;
use diptych_evaluate::classification::Classification;
use diptych_evaluate::groups::{Group, Groups, by_group};
use diptych_evaluate::retrieval::{CaptionedImages, caption_groups};
use diptych_schemas::Uid;
use diptych_trainer::evaluate::{
    Bootstrap, CALIBRATION_BINS, Calibration, Geometry, Interval, Predictions, RECALL_AT,
    Retrieval, Rows, Unit, calibration, cosines, geometry, principal, resample, share_interval,
};

use super::map::neighbourhoods;

/// Most mistakes that are shown of each kind.
const MOST_MISTAKES: usize = 12;
/// Number of images whose neighbours are shown, and of neighbours of each.
const QUERIES: usize = 6;
const NEIGHBOURS: usize = 6;
/// Pairs of the similarity matrix.
const MATRIX: usize = 32;
/// Most points of each kind on the map.
const POINTS: usize = 1000;

/// The input of an inspection.
pub struct Look<'a> {
    pub model: &'a Model,
    pub encoded: &'a Encoded,
    pub classification: Option<&'a Classification>,
    /// Name of the pairs.
    pub name: String,
    /// Number of pairs in the selection, of which only the first were encoded.
    pub of: usize,
    /// Groups of the pairs, and the name of their criterion.
    pub groups: Option<(&'a Groups, &'a str)>,
    pub bootstrap: Bootstrap,
}

/// The result of an inspection.
pub struct ModelInspection {
    pub name: String,
    pub model: String,
    pub pairs: usize,
    pub of: usize,
    pub(super) retrieval: Retrieval,
    /// Intervals of R@1, 5 and 10 from images to texts, then from texts to images.
    pub(super) intervals: Vec<Interval>,
    pub(super) geometry: Option<Geometry>,
    pub(super) classes: Option<Classes>,
    /// The name of the criterion, and each group's R@1 in both directions and top-1.
    pub(super) groups: Option<(String, Vec<Group>)>,
    /// Images with a caption that is nearer than their own, the worst first.
    pub(super) wrong_texts: Vec<Mistake>,
    /// Captions with an image that is nearer than their own, the worst first.
    pub(super) wrong_images: Vec<Mistake>,
    pub(super) neighbours: Vec<Neighbours>,
    pub(super) matrix: Matrix,
    pub(super) map: Map,
}

/// A pair, and the pair that the model preferred to it.
pub(super) struct Mistake {
    pub(super) uid: Uid,
    pub(super) own: f32,
    pub(super) taken: Uid,
    pub(super) score: f32,
}

/// An image, and the images nearest to it with their cosines.
pub(super) struct Neighbours {
    pub(super) uid: Uid,
    pub(super) near: Vec<(Uid, f32)>,
}

pub(super) struct Classes {
    pub(super) names: Vec<String>,
    pub(super) predictions: Predictions,
    pub(super) top1_interval: Option<Interval>,
    pub(super) calibration: Calibration,
    /// Images that were assigned to another class, the most confident first: uid, true class,
    /// predicted class, probability.
    pub(super) wrong: Vec<(Uid, usize, usize, f64)>,
}

/// Cosines of images (rows) and captions (columns) of the same pairs.
pub(super) struct Matrix {
    pub(super) captions: Vec<String>,
    pub(super) scores: Vec<f32>,
}

pub(super) struct Map {
    /// The position of each image, then of each caption.
    pub(super) images: Vec<(f32, f32)>,
    pub(super) texts: Vec<(f32, f32)>,
    pub(super) captions: Vec<String>,
    /// The share of the variance that the map shows.
    pub(super) share: f64,
    /// The position of each image in the map of neighbourhoods, and whether its own caption is the
    /// nearest of all.
    pub(super) neighbourhoods: Option<Vec<(f32, f32)>>,
    pub(super) right: Vec<bool>,
}

impl Look<'_> {
    pub fn look(self) -> anyhow::Result<ModelInspection> {
        let Self { model, encoded, bootstrap, .. } = self;
        let dimension = model.encoder.dimension();
        let rows = |values| Rows { values, dimension };
        let groups = caption_groups(&encoded.captions, false);
        let all: Vec<usize> = (0..groups.len()).collect();
        let captioned = CaptionedImages {
            images: Cow::Borrowed(&encoded.images),
            texts: Cow::Borrowed(&encoded.texts),
            first_rows: all.clone(),
            image_of_text: all,
            image_groups: groups.clone(),
            text_groups: groups.clone(),
        };
        let ranks = captioned.ranks(dimension, &|| true)?;
        let columns = captioned.units(&ranks);
        let intervals = resample(&columns, bootstrap)?
            .iter()
            .map(|values| share_interval(values, bootstrap.level, groups.len()))
            .collect();

        let scores = cosines(rows(&encoded.images), rows(&encoded.texts))?;
        let n = groups.len();
        let of_images = |image: usize, text: usize| scores[image * n + text];
        let wrong_texts = worst(&groups, &encoded.uids, of_images);
        let wrong_images = worst(&groups, &encoded.uids, |text, image| scores[image * n + text]);
        let some = n.min(MATRIX);
        let matrix = Matrix {
            captions: encoded.captions[..some].to_vec(),
            scores: (0..some)
                .flat_map(|image| (0..some).map(move |text| (image, text)))
                .map(|(i, t)| of_images(i, t))
                .collect(),
        };
        let classes =
            self.classification.map(|classification| self.classes(classification)).transpose()?;
        let groups =
            self.groups.map(|(groups, by)| {
                let mut columns = vec![columns[0].clone(), columns[RECALL_AT.len()].clone()];
                columns.extend(classes.as_ref().map(|classes| {
                    classes.predictions.hits(1).into_iter().map(Unit::from).collect()
                }));
                (by.to_owned(), by_group(&groups.names_of(&encoded.uids), &columns))
            });
        let first = n.min(POINTS) * dimension;
        let (images, texts) = (&encoded.images[..first], &encoded.texts[..first]);
        let both = [images, texts].concat();
        let (places, share) = principal(Rows { values: &both, dimension })?;
        let (images_at, texts_at) = places.split_at(places.len() / 2);
        let (start, _) = principal(rows(images))?;
        Ok(ModelInspection {
            model: model.path.display().to_string(),
            pairs: n,
            of: self.of,
            retrieval: ranks.summary(&captioned.image_groups, &captioned.text_groups),
            intervals,
            geometry: if n >= 2 { Some(geometry(rows(images), rows(texts))?) } else { None },
            classes,
            groups,
            wrong_texts,
            wrong_images,
            neighbours: neighbours(encoded, dimension)?,
            matrix,
            map: Map {
                images: images_at.to_vec(),
                texts: texts_at.to_vec(),
                captions: encoded.captions[..n.min(POINTS)].to_vec(),
                share,
                neighbourhoods: neighbourhoods(images, dimension, &start),
                right: ranks
                    .image_to_text
                    .iter()
                    .take(POINTS)
                    .map(|rank| *rank == Some(1))
                    .collect(),
            },
            name: self.name,
        })
    }

    fn classes(&self, classification: &Classification) -> anyhow::Result<Classes> {
        let predictions = classification.predictions(self.model, self.encoded, &|| true)?;
        let hits = predictions.hits(1);
        let column = vec![hits.iter().copied().map(Unit::from).collect()];
        let resampled = resample(&column, self.bootstrap)?;
        let mut wrong: Vec<(Uid, usize, usize, f64)> = (0..hits.len())
            .filter(|row| !hits[*row])
            .map(|row| {
                (
                    self.encoded.uids[row],
                    predictions.labels[row],
                    predictions.predicted[row],
                    predictions.confidence[row],
                )
            })
            .collect();
        wrong.sort_by(|a, b| b.3.total_cmp(&a.3).then(a.0.cmp(&b.0)));
        wrong.truncate(MOST_MISTAKES);
        Ok(Classes {
            names: classification.classes().to_vec(),
            top1_interval: resampled
                .first()
                .map(|values| share_interval(values, self.bootstrap.level, hits.len())),
            calibration: calibration(&predictions.confidence, &hits, CALIBRATION_BINS),
            predictions,
            wrong,
        })
    }
}

impl ModelInspection {
    /// Returns the uids of the pairs whose images are shown.
    pub fn shown(&self) -> Vec<Uid> {
        let wrong = self
            .wrong_texts
            .iter()
            .chain(&self.wrong_images)
            .flat_map(|wrong| [wrong.uid, wrong.taken]);
        let near = self
            .neighbours
            .iter()
            .flat_map(|of| std::iter::once(of.uid).chain(of.near.iter().map(|(uid, _)| *uid)));
        let of_classes =
            self.classes.iter().flat_map(|classes| classes.wrong.iter().map(|wrong| wrong.0));
        let mut all: Vec<Uid> = wrong.chain(near).chain(of_classes).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Returns the queries for which a wrong item is nearer than all right ones, the largest difference
/// first. Each wrong item appears once, so that one image that is near to everything does not fill
/// the page.
fn worst(groups: &[u64], uids: &[Uid], score: impl Fn(usize, usize) -> f32) -> Vec<Mistake> {
    let mut found: Vec<(f32, Mistake)> = Vec::new();
    for query in 0..groups.len() {
        let (mut right, mut wrong) = (f32::NEG_INFINITY, (f32::NEG_INFINITY, 0));
        for item in 0..groups.len() {
            let score = score(query, item);
            if groups[item] == groups[query] {
                right = right.max(score);
            } else if score > wrong.0 {
                wrong = (score, item);
            }
        }
        if wrong.0 > right {
            found.push((
                wrong.0 - right,
                Mistake { uid: uids[query], own: right, taken: uids[wrong.1], score: wrong.0 },
            ));
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.uid.cmp(&b.1.uid)));
    let mut seen = HashSet::new();
    found
        .into_iter()
        .map(|(_, wrong)| wrong)
        .filter(|wrong| seen.insert(wrong.taken))
        .take(MOST_MISTAKES)
        .collect()
}

/// Returns the nearest neighbours of a few images spread over all rows.
fn neighbours(encoded: &Encoded, dimension: usize) -> anyhow::Result<Vec<Neighbours>> {
    let n = encoded.uids.len();
    let asked: Vec<usize> = (0..n.min(QUERIES)).map(|place| place * n / n.min(QUERIES)).collect();
    let queries: Vec<f32> = asked
        .iter()
        .flat_map(|row| encoded.images[row * dimension..][..dimension].iter().copied())
        .collect();
    let scores =
        cosines(Rows { values: &queries, dimension }, Rows { values: &encoded.images, dimension })?;
    let near = asked.iter().zip(scores.chunks_exact(n)).map(|(row, scores)| {
        let mut order: Vec<usize> = (0..n).filter(|other| other != row).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        let near =
            order.into_iter().take(NEIGHBOURS).map(|other| (encoded.uids[other], scores[other]));
        Neighbours { uid: encoded.uids[*row], near: near.collect() }
    });
    Ok(near.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_mistakes_come_first_and_the_same_caption_is_no_mistake() {
        let uids: Vec<Uid> = (0..4_u128).map(|uid| Uid(uid.to_le_bytes())).collect();
        // Queries 0 and 1 have the same caption. Query 0: item 2 is nearer by 0.1. Query 1: the
        // nearest is item 0, which is right. Query 2: item 3 is nearer by 0.5. Query 3: its own
        // item is the nearest.
        let scores = [
            [0.5, 0.4, 0.6, 0.0],
            [0.9, 0.1, 0.2, 0.0],
            [0.0, 0.0, 0.3, 0.8],
            [0.1, 0.1, 0.1, 0.9],
        ];
        let found = worst(&[0, 0, 2, 3], &uids, |query, item| scores[query][item]);
        let short: Vec<_> =
            found.iter().map(|wrong| (wrong.uid, wrong.taken, wrong.own, wrong.score)).collect();
        assert_eq!(short, [(uids[2], uids[3], 0.3, 0.8), (uids[0], uids[2], 0.5, 0.6)]);
    }
}
