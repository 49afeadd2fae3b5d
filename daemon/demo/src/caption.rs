//! Captions of scenes.
//!
//! Templates vary, so that a model learns words and not sentences. Everything a caption says is
//! true of its scene. It omits facts at random.

use super::random::Random;
use super::scene::{Composition, Content, Place, Relation, Scene, Size};

/// Returns a caption of 3 to 14 words.
pub(super) fn caption(scene: &Scene, random: &mut Random) -> String {
    let Composition { colour, shape } = scene.main;
    let (colour, shape, plural) = (colour.name(), shape.name(), shape.plural());
    match scene.content {
        Content::Single { size, place } => {
            let (size, place) = (size_word(size, random), place_phrase(place, random));
            match random.below(10) {
                0 => format!("a {colour} {shape}"),
                1 => format!("one {colour} {shape}"),
                2 => format!("a picture of a {colour} {shape}"),
                3 => format!("a {size} {colour} {shape}"),
                4 => format!("one {size} {colour} {shape} {place}"),
                5 => format!("{place}, a {colour} {shape}"),
                6 => format!("a picture of a {size} {colour} {shape} {place}"),
                7 => format!("there is a {colour} {shape} {place}"),
                _ => format!("a {size} {colour} {shape} {place}"),
            }
        }
        Content::Count { number, size } => {
            let (number, size) = (number_word(number), size_word(size, random));
            match random.below(5) {
                0 => format!("{number} {colour} {plural}"),
                1 => format!("a picture of {number} {colour} {plural}"),
                2 => format!("there are {number} {size} {colour} {plural}"),
                _ => format!("{number} {size} {colour} {plural}"),
            }
        }
        Content::Relation { relation, other } => {
            let (relation, other) = (relation_phrase(relation, random), other.label());
            match random.below(6) {
                0 => format!("there is a {colour} {shape} {relation} a {other}"),
                1 => format!("a picture of a {colour} {shape} {relation} a {other}"),
                2 => format!("one {colour} {shape} {relation} one {other}"),
                _ => format!("a {colour} {shape} {relation} a {other}"),
            }
        }
    }
}

pub(super) fn number_word(number: u8) -> &'static str {
    match number {
        1 => "one",
        2 => "two",
        _ => "three",
    }
}

fn size_word(size: Size, random: &mut Random) -> &'static str {
    match size {
        Size::Small => random.pick(&["small", "small", "small", "little"]),
        Size::Large => random.pick(&["large", "large", "large", "big"]),
    }
}

fn place_phrase(place: Place, random: &mut Random) -> &'static str {
    match place {
        Place::Left => "on the left",
        Place::Right => "on the right",
        Place::Top => "at the top",
        Place::Bottom => "at the bottom",
        Place::Centre => random.pick(&["in the centre", "in the middle"]),
    }
}

fn relation_phrase(relation: Relation, random: &mut Random) -> &'static str {
    match relation {
        Relation::LeftOf => random.pick(&["left of", "left of", "to the left of"]),
        Relation::RightOf => random.pick(&["right of", "right of", "to the right of"]),
        Relation::Above | Relation::Below | Relation::Inside => relation.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Stream;
    use super::super::scene::{Colour, Shape, scene};
    use super::*;

    #[derive(Default)]
    struct Facts {
        compositions: Vec<Composition>,
        numbers: Vec<u8>,
        sizes: Vec<Size>,
        places: Vec<Place>,
        relations: Vec<Relation>,
    }

    /// Reads a caption's facts word by word, without knowledge of the templates.
    fn read(caption: &str) -> Facts {
        let mut facts = Facts::default();
        let words: Vec<&str> = caption.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let mut colour = None;
        for (at, word) in words.iter().enumerate() {
            colour = Colour::ALL.into_iter().find(|colour| colour.name() == *word).or(colour);
            if let Some(shape) =
                Shape::ALL.into_iter().find(|shape| [shape.name(), shape.plural()].contains(word))
            {
                facts.compositions.push(Composition { colour: colour.take().unwrap(), shape });
            }
            let of = words.get(at + 1) == Some(&"of");
            match *word {
                "one" => facts.numbers.push(1),
                "two" => facts.numbers.push(2),
                "three" => facts.numbers.push(3),
                "small" | "little" => facts.sizes.push(Size::Small),
                "large" | "big" => facts.sizes.push(Size::Large),
                "left" if of => facts.relations.push(Relation::LeftOf),
                "right" if of => facts.relations.push(Relation::RightOf),
                "above" => facts.relations.push(Relation::Above),
                "below" => facts.relations.push(Relation::Below),
                "inside" => facts.relations.push(Relation::Inside),
                "left" => facts.places.push(Place::Left),
                "right" => facts.places.push(Place::Right),
                "top" => facts.places.push(Place::Top),
                "bottom" => facts.places.push(Place::Bottom),
                "centre" | "middle" => facts.places.push(Place::Centre),
                _ => {}
            }
        }
        facts
    }

    #[test]
    fn what_a_caption_says_is_true_of_the_scene() {
        for index in 0..3000 {
            let scene = scene(11, index);
            let caption = caption(&scene, &mut Random::new(11, Stream::Caption, index));
            let Facts { compositions, numbers, sizes, places, relations } = read(&caption);
            assert!((3..=14).contains(&caption.split(' ').count()), "{caption}");
            match scene.content {
                Content::Single { size, place } => {
                    assert_eq!(compositions, [scene.main], "{caption}");
                    assert!(
                        numbers.iter().all(|number| *number == 1)
                            && sizes.iter().all(|found| *found == size),
                        "{caption}"
                    );
                    assert!(
                        places.iter().all(|found| *found == place) && relations.is_empty(),
                        "{caption}"
                    );
                }
                Content::Count { number, size } => {
                    assert_eq!(
                        (compositions, numbers),
                        (vec![scene.main], vec![number]),
                        "{caption}"
                    );
                    assert!(sizes.iter().all(|found| *found == size), "{caption}");
                    assert!(places.is_empty() && relations.is_empty(), "{caption}");
                }
                Content::Relation { relation, other } => {
                    assert_eq!(
                        (compositions, relations),
                        (vec![scene.main, other], vec![relation]),
                        "{caption}"
                    );
                    assert!(places.is_empty() && sizes.is_empty(), "{caption}");
                }
            }
        }
    }
}
