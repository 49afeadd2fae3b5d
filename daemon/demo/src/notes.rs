//! The text files beside the demo data: SQL that does the curation and the split, class names, prompt templates, and a
//! README that says what is there and what is wrong with it.

use std::fmt::Write as _;

use super::damage::{KINDS, count};
use super::scene::Composition;

/// One label a line: all compositions, also those that training never sees.
pub(super) fn classes() -> String {
    Composition::all().fold(String::new(), |text, composition| text + &composition.label() + "\n")
}

/// `{}` stands for a class name.
pub(super) const TEMPLATES: &str =
    "a {}\none {}\na picture of a {}\na small {}\na large {}\nthere is a {}\n";

/// Pairs to train on.
pub(super) fn train_sql() -> String {
    let held_out = held_out_list();
    curated(
        "Pairs to train on: whatever is fit for use and shows none of the compositions that are kept for the evaluation.",
        &format!("a.label NOT IN ({held_out})\n  AND a.other NOT IN ({held_out})"),
    )
}

/// Pairs for the evaluation.
pub(super) fn heldout_sql() -> String {
    let held_out = held_out_list();
    curated(
        "Pairs to evaluate retrieval on: each shows a composition of colour and shape that training never saw.",
        &format!("(a.label IN ({held_out})\n    OR a.other IN ({held_out}))"),
    )
}

/// Single objects for zero-shot classification.
pub(super) fn heldout_single_sql() -> String {
    let held_out = held_out_list();
    curated(
        "Pairs for zero-shot classification: one object, of a composition that training never saw. `label` is its class.",
        &format!("a.kind = 'single'\n  AND a.label IN ({held_out})"),
    )
}

/// A query of the pairs that are fit for use and for which `condition` holds; `a` is the pair.
fn curated(purpose: &str, condition: &str) -> String {
    format!(
        "-- {purpose}
WITH usable AS (
  SELECT *
  FROM meta
  WHERE width >= 64 AND height >= 64                  -- no thumbnails
    AND aspect_ratio(width, height) BETWEEN 0.5 AND 2 -- no banners
    AND word_count(caption) >= 3                      -- not \"IMG_0042.jpg\"
    AND token_count(caption) <= 24                    -- no spam
)
SELECT a.uid
FROM usable AS a
WHERE {condition}
  -- Of pairs with the same image, one.
  AND NOT EXISTS (
    SELECT 1 FROM usable AS b
    WHERE b.sha256 = a.sha256 AND b.uid < a.uid)
  -- Of JPEGs of one size that look the same, not the one that was saved again at two thirds of the bytes or less.
  AND NOT EXISTS (
    SELECT 1 FROM usable AS b
    WHERE b.label = a.label AND b.format = 'jpeg' AND a.format = 'jpeg' AND b.width = a.width AND b.height = a.height
      AND 2 * b.bytes >= 3 * a.bytes AND hamming(a.phash, b.phash) <= 2)
"
    )
}

fn held_out_list() -> String {
    let labels: Vec<String> = Composition::all()
        .filter(|composition| composition.held_out())
        .map(|composition| format!("'{}'", composition.label()))
        .collect();
    labels.join(", ")
}

/// What is in the folder.
pub(super) fn readme(seed: u64, scenes: u32) -> String {
    let mut text = format!(
        "Demo data of Diptych: {scenes} drawn scenes with captions, seed {seed}.
Made by `diptych demo-data`; the same seed makes the same bytes. No rights are claimed in it.

Sources (each record is in one of them; all have the same columns)
  scenes-*.tar         KEY.jpg or KEY.png, KEY.txt (caption), KEY.json (columns)
  scenes.parquet       image struct<bytes, path>, caption, columns
  folder/captions.csv  file_name, caption, columns; the files are in folder/images

Columns
  kind      single: one object; count: two or three of the same; relation: two different ones
  label     colour and shape of the main object, as in \"red circle\"; colour and shape also apart
  size      small, large; place: left, right, top, bottom, centre; number: one, two, three
  relation  of the main object to the other one: left of, right of, above, below, inside
  other     colour and shape of the other object
  heldout   true if any object has one of the held-out compositions below; a check of the SQL, not its means
  \"none\" stands where a column does not apply.

Held out: of 6 shapes x 8 colours, colour number j is never shown to training with shape number j mod 6:
  {held_out}
Every colour and every shape is trained on, these pairs of them never, in no scene. The SQL files make the split:
  train.sql            fit for use, none of these compositions
  heldout.sql          fit for use, one of these compositions at least: retrieval
  heldout_single.sql   of those, single objects: zero-shot classification (classes.txt, templates.txt)
Two scenes of every thousand show a red circle left of a blue square, both held out, so that a search for it has something
to find.

Damaged on purpose, beside the good scenes
",
        held_out = held_out_list().replace('\'', ""),
    );
    for kind in &KINDS {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  {:>5}  {}: {}\n         noticed by {}",
            count(kind, scenes),
            kind.name,
            kind.what,
            kind.noticed
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Colour, Shape};
    use super::*;

    #[test]
    fn classes_are_all_pairs_of_a_colour_and_a_shape() {
        let classes = classes();
        let lines: Vec<&str> = classes.lines().collect();
        assert_eq!(lines.len(), 48);
        for colour in Colour::ALL {
            for shape in Shape::ALL {
                assert!(lines.contains(&format!("{} {}", colour.name(), shape.name()).as_str()));
            }
        }
    }

    #[test]
    fn split_in_sql_names_exactly_the_held_out_compositions() {
        let named = |sql: &str| {
            Composition::all()
                .filter(|composition| sql.contains(&format!("'{}'", composition.label())))
                .collect::<Vec<_>>()
        };
        let held_out: Vec<_> =
            Composition::all().filter(|composition| composition.held_out()).collect();
        for sql in [train_sql(), heldout_sql(), heldout_single_sql()] {
            assert_eq!(named(&sql), held_out);
        }
    }
}
