//! The deliberate damage and the plan of damaged records.
//!
//! Scraped data has all of these faults, so a demonstration of curation needs them. One table lists
//! each kind, its share, and the part of Diptych that should notice it.

use super::random::{Random, Stream};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    Truncated,
    HeaderOnly,
    MissingCaption,
    BlankCaption,
    MissingImage,
    TextAsImage,
    Bomb,
    Duplicate,
    Recaptioned,
    NearDuplicate,
    JunkCaption,
    Spam,
    Thumbnail,
    Banner,
}

/// One kind of damage.
pub(super) struct Kind {
    pub(super) damage: Damage,
    pub(super) name: &'static str,
    /// Records of this kind per thousand good scenes, at least one in total.
    pub(super) per_mille: u32,
    /// The fault.
    pub(super) what: &'static str,
    /// The part of Diptych that notices it.
    pub(super) noticed: &'static str,
}

pub(super) const KINDS: [Kind; 14] = [
    Kind {
        damage: Damage::Truncated,
        name: "truncated image",
        per_mille: 8,
        what: "the image file ends after three fifths of its bytes; its header is complete",
        noticed: "ingest with perceptual hashes: phash is null; training: skipped, ledger, \
                  corrupt_pixels",
    },
    Kind {
        damage: Damage::HeaderOnly,
        name: "image cut in its header",
        per_mille: 5,
        what: "the first 16 bytes of an image file",
        noticed: "ingest: ledger, corrupt_header",
    },
    Kind {
        damage: Damage::MissingCaption,
        name: "no caption",
        per_mille: 5,
        what: "an image without a caption",
        noticed: "ingest: ledger, missing_caption (empty_caption in a CSV, which has no null)",
    },
    Kind {
        damage: Damage::BlankCaption,
        name: "blank caption",
        per_mille: 3,
        what: "a caption of spaces",
        noticed: "ingest: ledger, empty_caption",
    },
    Kind {
        damage: Damage::MissingImage,
        name: "no image",
        per_mille: 5,
        what: "a caption without an image",
        noticed: "ingest: ledger, missing_image",
    },
    Kind {
        damage: Damage::TextAsImage,
        name: "text named .jpg",
        per_mille: 3,
        what: "an error page of a web server, saved as a picture",
        noticed: "ingest: ledger, unsupported_format",
    },
    Kind {
        damage: Damage::Bomb,
        name: "decompression bomb",
        per_mille: 1,
        what: "a PNG below 2 KB whose header claims 60,000 x 60,000 pixels",
        noticed: "ingest: ledger, too_many_pixels",
    },
    Kind {
        damage: Damage::Duplicate,
        name: "exact duplicate",
        per_mille: 10,
        what: "a copy of an image and its caption under another name",
        noticed: "ingest: ledger, duplicate_pair",
    },
    Kind {
        damage: Damage::Recaptioned,
        name: "same image, other caption",
        per_mille: 10,
        what: "a copy of an image with a different caption",
        noticed: "the SQL: same sha256",
    },
    Kind {
        damage: Damage::NearDuplicate,
        name: "near-duplicate",
        per_mille: 15,
        what: "a picture saved again at low JPEG quality, with a different caption",
        noticed: "the SQL: phash a few bits apart (needs an ingest with perceptual hashes)",
    },
    Kind {
        damage: Damage::JunkCaption,
        name: "caption says nothing",
        per_mille: 15,
        what: "a file name or one word instead of a caption",
        noticed: "the SQL: word_count",
    },
    Kind {
        damage: Damage::Spam,
        name: "caption is spam",
        per_mille: 5,
        what: "a caption of search terms, far longer than any other",
        noticed: "the SQL: token_count",
    },
    Kind {
        damage: Damage::Thumbnail,
        name: "thumbnail",
        per_mille: 6,
        what: "an image of 8 x 8 pixels",
        noticed: "the SQL: width and height",
    },
    Kind {
        damage: Damage::Banner,
        name: "banner",
        per_mille: 4,
        what: "an image eight times as wide as high",
        noticed: "the SQL: aspect_ratio",
    },
];

/// A record to write: the number of its scene and its damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) scene: u32,
    pub(super) damage: Option<Damage>,
}

/// Returns the number of records of a kind beside this many good scenes.
pub(super) fn count(kind: &Kind, scenes: u32) -> u32 {
    ((u64::from(scenes) * u64::from(kind.per_mille)).div_ceil(1000) as u32).max(1)
}

/// Returns all records in the order of writing: each good scene once, mixed with the damaged ones.
///
/// Duplicates copy a good scene, near-duplicates one for which `is_jpeg` holds. Other kinds use
/// scenes of their own, numbered from `scenes` on, so that they replace no good one.
pub(super) fn plan(seed: u64, scenes: u32, is_jpeg: impl Fn(u32) -> bool) -> Vec<Record> {
    let mut random = Random::new(seed, Stream::Plan, 0);
    let mut records: Vec<Record> =
        (0..scenes).map(|scene| Record { scene, damage: None }).collect();
    let mut next = scenes;
    for kind in &KINDS {
        for _ in 0..count(kind, scenes) {
            let scene = match kind.damage {
                Damage::Duplicate | Damage::Recaptioned => random.below(scenes as usize) as u32,
                Damage::NearDuplicate => {
                    let from = random.below(scenes as usize) as u32;
                    // Two thirds of the scenes are JPEG. If none is, any scene is copied.
                    (0..scenes)
                        .map(|ahead| (from + ahead) % scenes)
                        .find(|&scene| is_jpeg(scene))
                        .unwrap_or(from)
                }
                _ => {
                    next += 1;
                    next - 1
                }
            };
            records.push(Record { scene, damage: Some(kind.damage) });
        }
    }
    random.shuffle(&mut records);
    records
}

/// Returns a caption without any information about the picture.
pub(super) fn junk_caption(random: &mut Random) -> String {
    let number = random.below(10_000);
    match random.below(5) {
        0 => format!("IMG_{number:04}.jpg"),
        1 => format!("DSC{number:05}"),
        2 => "untitled".to_owned(),
        3 => format!("photo {}", number % 100),
        _ => "image".to_owned(),
    }
}

/// Returns 30 search terms.
pub(super) fn spam_caption(random: &mut Random) -> String {
    const TERMS: [&str; 12] = [
        "free",
        "wallpaper",
        "hd",
        "4k",
        "download",
        "best",
        "cheap",
        "vector",
        "stock",
        "clipart",
        "click here",
        "new",
    ];
    (0..30).map(|_| random.pick(&TERMS)).collect::<Vec<_>>().join(" ")
}

/// A web server's response for a missing picture.
pub(super) const ERROR_PAGE: &[u8] =
    b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head>\
      <body><h1>Not Found</h1></body></html>\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_holds_every_good_scene_once_and_each_kind_of_damage_in_its_number() {
        for scenes in [1, 100, 2500] {
            let records = plan(9, scenes, |scene| scene % 3 != 0);
            let mut good: Vec<u32> = records
                .iter()
                .filter(|record| record.damage.is_none())
                .map(|record| record.scene)
                .collect();
            good.sort_unstable();
            assert_eq!(good, (0..scenes).collect::<Vec<_>>());
            for kind in &KINDS {
                let of_kind: Vec<_> =
                    records.iter().filter(|record| record.damage == Some(kind.damage)).collect();
                let expected =
                    (f64::from(scenes) * f64::from(kind.per_mille) / 1000.0).ceil() as usize;
                assert_eq!(of_kind.len(), expected.max(1), "{}", kind.name);
                let copies = matches!(
                    kind.damage,
                    Damage::Duplicate | Damage::Recaptioned | Damage::NearDuplicate
                );
                assert!(
                    of_kind.iter().all(|record| (record.scene < scenes) == copies),
                    "{}",
                    kind.name
                );
            }
        }
    }

    #[test]
    fn words_of_junk_and_spam_are_fewer_and_more_than_a_captions() {
        let mut random = Random::new(1, Stream::Plan, 1);
        for _ in 0..200 {
            assert!(junk_caption(&mut random).split(' ').count() < 3);
            assert!(spam_caption(&mut random).split(' ').count() >= 30);
        }
    }
}
