//! Records as they are written: image bytes, caption and columns.
//!
//! A sample is a pure function of (seed, record, size). `layouts` writes it.

use image::{ExtendedColorType, ImageError};

use super::caption::{caption, number_word};
use super::damage::{Damage, ERROR_PAGE, Record, junk_caption, spam_caption};
use super::draw::draw;
use super::encode::{ORIENTATIONS, decompression_bomb, jpeg, png, turned_jpeg};
use super::random::{Random, Stream};
use super::scene::{Content, Place, Scene, Size, example_scene, scene};

/// The columns of every record beside its image and caption, as text.
///
/// A column that does not apply is `none`, so that `NOT IN` in SQL need not handle nulls.
pub(super) const COLUMNS: [&str; 10] =
    ["kind", "label", "colour", "shape", "size", "place", "number", "relation", "other", "heldout"];

const NONE: &str = "none";

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) caption: Option<String>,
    pub(super) image: Option<Vec<u8>>,
    /// `jpg` or `png`.
    pub(super) extension: &'static str,
    /// In the order of [`COLUMNS`].
    pub(super) columns: [String; COLUMNS.len()],
}

/// The storage format of a scene.
#[derive(Clone, Copy)]
enum Storage {
    Jpeg { quality: u8 },
    TurnedJpeg { quality: u8, orientation: u8 },
    Png,
    TransparentPng,
}

/// The options that all records share.
#[derive(Clone, Copy)]
pub(super) struct Recipe {
    pub(super) seed: u64,
    pub(super) scenes: u32,
    pub(super) image_size: u32,
}

impl Recipe {
    /// Returns the scene with this number. The first two per thousand are the README's example.
    pub(super) fn scene(&self, index: u32) -> Scene {
        if index < self.scenes / 500 {
            example_scene(self.seed, u64::from(index))
        } else {
            scene(self.seed, u64::from(index))
        }
    }

    /// Returns the format and side of a scene's image. Two thirds are JPEG, of which some are
    /// rotated. A third is PNG, of which some are transparent. There are three sizes.
    fn storage(&self, index: u32) -> (Storage, u32) {
        let mut random = Random::new(self.seed, Stream::File, u64::from(index));
        let quality = random.pick(&[88, 91, 94]);
        let storage = match random.below(100) {
            0..62 => Storage::Jpeg { quality },
            62..66 => Storage::TurnedJpeg { quality, orientation: random.pick(&ORIENTATIONS) },
            66..93 => Storage::Png,
            _ => Storage::TransparentPng,
        };
        let side = random.pick(&[6, 6, 6, 7, 8]) * self.image_size / 6;
        (storage, side)
    }

    /// Returns whether the scene is stored as a plain JPEG, from which near-duplicates are made.
    pub(super) fn is_jpeg(&self, index: u32) -> bool {
        matches!(self.storage(index).0, Storage::Jpeg { .. })
    }

    pub(super) fn sample(&self, record: Record) -> Result<Sample, ImageError> {
        let scene = self.scene(record.scene);
        let random = |stream| Random::new(self.seed, stream, u64::from(record.scene));
        let mut words = random(Stream::Caption);
        let own = caption(&scene, &mut words);
        let caption = match record.damage {
            Some(Damage::MissingCaption) => None,
            Some(Damage::BlankCaption) => Some("   ".to_owned()),
            Some(Damage::JunkCaption) => Some(junk_caption(&mut words)),
            Some(Damage::Spam) => Some(spam_caption(&mut words)),
            Some(Damage::Recaptioned | Damage::NearDuplicate) => {
                let mut words = random(Stream::OtherCaption);
                // Every scene has several captions, so this ends.
                loop {
                    let other = self::caption(&scene, &mut words);
                    if other != own {
                        break Some(other);
                    }
                }
            }
            _ => Some(own),
        };

        let (storage, side) = self.storage(record.scene);
        let extension = match (record.damage, storage) {
            (Some(Damage::Bomb), _) => "png",
            (Some(Damage::TextAsImage), _)
            | (_, Storage::Jpeg { .. } | Storage::TurnedJpeg { .. }) => "jpg",
            _ => "png",
        };
        let picture = || self.picture(&scene, record, storage, side);
        let image = match record.damage {
            Some(Damage::MissingImage) => None,
            Some(Damage::TextAsImage) => Some(ERROR_PAGE.to_vec()),
            Some(Damage::Bomb) => Some(decompression_bomb().map_err(ImageError::IoError)?),
            Some(Damage::HeaderOnly) => Some(picture()?[..16].to_vec()),
            Some(Damage::Truncated) => {
                let whole = picture()?;
                Some(whole[..whole.len() * 3 / 5].to_vec())
            }
            _ => Some(picture()?),
        };
        Ok(Sample { caption, image, extension, columns: columns(&scene) })
    }

    /// Encodes the image file of a record with a picture.
    fn picture(
        &self,
        scene: &Scene,
        record: Record,
        storage: Storage,
        side: u32,
    ) -> Result<Vec<u8>, ImageError> {
        let side = if record.damage == Some(Damage::Thumbnail) { 8 } else { side };
        let transparent = matches!(storage, Storage::TransparentPng);
        let mut look = Random::new(self.seed, Stream::Look, u64::from(record.scene));
        // Only a side of 0 has no picture, and the options exclude it.
        let rgba = draw(scene, side, transparent, &mut look).unwrap_or_default();
        let mut rgb = Vec::with_capacity(rgba.len() / 4 * 3);
        for pixel in rgba.chunks_exact(4) {
            rgb.extend_from_slice(&pixel[..3]);
        }
        match (record.damage, storage) {
            (Some(Damage::NearDuplicate), _) => jpeg(&rgb, side, side, 25),
            (Some(Damage::Banner), _) => {
                let strip: Vec<u8> =
                    rgb.chunks_exact(3 * side as usize).flat_map(|row| row.repeat(8)).collect();
                match storage {
                    Storage::Jpeg { quality } | Storage::TurnedJpeg { quality, .. } => {
                        jpeg(&strip, 8 * side, side, quality)
                    }
                    _ => png(&strip, 8 * side, side, ExtendedColorType::Rgb8),
                }
            }
            (_, Storage::Jpeg { quality }) => jpeg(&rgb, side, side, quality),
            (_, Storage::TurnedJpeg { quality, orientation }) => {
                turned_jpeg(&rgb, side, quality, orientation)
            }
            (_, Storage::Png) => png(&rgb, side, side, ExtendedColorType::Rgb8),
            (_, Storage::TransparentPng) => png(&rgba, side, side, ExtendedColorType::Rgba8),
        }
    }
}

fn columns(scene: &Scene) -> [String; COLUMNS.len()] {
    let (mut size, mut place, mut number, mut relation, mut other) =
        (NONE, NONE, NONE, NONE, NONE.to_owned());
    match scene.content {
        Content::Single { size: its_size, place: its_place } => {
            (size, place, number) = (Size::name(its_size), Place::name(its_place), number_word(1));
        }
        Content::Count { number: its_number, size: its_size } => {
            (size, number) = (its_size.name(), number_word(its_number));
        }
        Content::Relation { relation: its_relation, other: its_other } => {
            (relation, other) = (its_relation.name(), its_other.label());
        }
    }
    let main = scene.main;
    let heldout = if scene.held_out() { "true" } else { "false" };
    [
        scene.kind(),
        &main.label(),
        main.colour.name(),
        main.shape.name(),
        size,
        place,
        number,
        relation,
        &other,
        heldout,
    ]
    .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Cursor;

    use super::super::damage::{KINDS, plan};
    use super::super::scene::{Colour, Composition, Shape};
    use super::*;

    const RECIPE: Recipe = Recipe { seed: 4, scenes: 1000, image_size: 96 };

    fn good(scene: u32) -> Sample {
        RECIPE.sample(Record { scene, damage: None }).unwrap()
    }

    fn damaged(damage: Damage) -> impl Iterator<Item = (u32, Sample)> {
        plan(RECIPE.seed, RECIPE.scenes, |scene| RECIPE.is_jpeg(scene))
            .into_iter()
            .filter(move |record| record.damage == Some(damage))
            .map(|record| (record.scene, RECIPE.sample(record).unwrap()))
    }

    #[test]
    fn training_scenes_never_show_nor_name_a_held_out_composition_and_held_out_ones_always_do() {
        let held_out: Vec<Composition> =
            Composition::all().filter(|composition| composition.held_out()).collect();
        let (mut training, mut kept) = (0, 0);
        for index in 0..1000 {
            let caption = good(index).caption.unwrap();
            let columns = columns(&RECIPE.scene(index));
            let column =
                |name| &columns[COLUMNS.iter().position(|column| *column == name).unwrap()];
            let shows = held_out.iter().any(|composition| {
                let (one, many) = (
                    composition.label(),
                    format!("{} {}", composition.colour.name(), composition.shape.plural()),
                );
                caption.contains(&one) || caption.contains(&many)
            });
            let says = held_out.iter().any(|composition| {
                [column("label"), column("other")].contains(&&composition.label())
            });
            assert_eq!(shows, column("heldout") == "true", "{caption}");
            assert_eq!(shows, says, "{caption}");
            *(if shows { &mut kept } else { &mut training }) += 1;
        }
        assert!(training > 700 && kept > 150, "{training} {kept}");
    }

    #[test]
    fn good_scenes_decode_and_are_both_jpeg_and_png() {
        let mut formats = HashMap::new();
        for index in 0..200 {
            let sample = good(index);
            let bytes = sample.image.unwrap();
            let picture = image::load_from_memory(&bytes).unwrap();
            assert!((96..=128).contains(&picture.width()) && picture.width() == picture.height());
            *formats.entry(sample.extension).or_insert(0) += 1;
        }
        assert!(formats["jpg"] > 100 && formats["png"] > 40, "{formats:?}");
    }

    #[test]
    fn each_damage_is_what_it_says() {
        let dimensions = |bytes: &[u8]| {
            image::ImageReader::new(Cursor::new(bytes.to_vec()))
                .with_guessed_format()
                .unwrap()
                .into_dimensions()
        };
        for kind in &KINDS {
            for (scene, sample) in damaged(kind.damage) {
                let whole = good(scene);
                let words =
                    sample.caption.as_deref().map(|caption| caption.split_whitespace().count());
                let bytes = sample.image.clone().unwrap_or_default();
                let sides = dimensions(&bytes).ok();
                let holds = match kind.damage {
                    Damage::Truncated => {
                        whole.image.unwrap().starts_with(&bytes) && sides.is_some()
                    }
                    Damage::HeaderOnly => bytes.len() == 16 && sides.is_none(),
                    Damage::MissingCaption => words.is_none(),
                    Damage::BlankCaption => words == Some(0),
                    Damage::MissingImage => {
                        sample.image.is_none() && sample.caption == whole.caption
                    }
                    Damage::TextAsImage => {
                        bytes.starts_with(b"<!DOCTYPE") && sample.extension == "jpg"
                    }
                    Damage::Bomb => sides == Some((60_000, 60_000)),
                    Damage::Duplicate => sample == whole,
                    Damage::Recaptioned => {
                        sample.image == whole.image && sample.caption != whole.caption
                    }
                    Damage::NearDuplicate => {
                        let original = whole.image.unwrap();
                        // The SQL tells the copy from the original by this.
                        3 * bytes.len() <= 2 * original.len()
                            && dimensions(&original).ok() == sides
                            && sample.caption != whole.caption
                    }
                    Damage::JunkCaption => words < Some(3),
                    Damage::Spam => words >= Some(30),
                    Damage::Thumbnail => sides == Some((8, 8)),
                    Damage::Banner => sides.is_some_and(|(width, height)| width == 8 * height),
                };
                assert!(
                    holds,
                    "{}: scene {scene}, {} bytes, {sides:?}, {:?}",
                    kind.name,
                    bytes.len(),
                    sample.caption
                );
            }
        }
    }

    #[test]
    fn the_readmes_example_is_there() {
        let example = RECIPE.scene(1);
        assert_eq!(example.main, Composition { colour: Colour::Red, shape: Shape::Circle });
        assert!(good(1).caption.unwrap().contains("blue square"));
    }
}
