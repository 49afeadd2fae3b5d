//! The text files of the demo data: SQL for curation and the split, class names, prompt templates,
//! and a README.

use std::fmt::Write as _;

use super::damage::{KINDS, count};
use super::scene::Composition;

/// Returns the class names, one per line: all compositions, including those that training never
/// sees.
pub(super) fn classes() -> String {
    Composition::all().fold(String::new(), |text, composition| text + &composition.label() + "\n")
}

/// Prompt templates. `{}` stands for a class name.
pub(super) const TEMPLATES: &str =
    "a {}\none {}\na picture of a {}\na small {}\na large {}\nthere is a {}\n";

/// Returns SQL that selects the pairs for training.
pub(super) fn train_sql() -> String {
    let held_out = held_out_list();
    curated(
        "Pairs for training: all usable ones without a held-out composition.",
        &format!("a.label NOT IN ({held_out})\n  AND a.other NOT IN ({held_out})"),
    )
}

/// Returns SQL that selects the pairs for evaluation.
pub(super) fn heldout_sql() -> String {
    let held_out = held_out_list();
    curated(
        "Pairs for evaluating retrieval: each shows a composition of colour and shape that \
         training never saw.",
        &format!("(a.label IN ({held_out})\n    OR a.other IN ({held_out}))"),
    )
}

/// Returns SQL that selects single objects for zero-shot classification.
pub(super) fn heldout_single_sql() -> String {
    let held_out = held_out_list();
    curated(
        "Pairs for zero-shot classification: one object, of a composition that training never saw. \
         `label` is its class.",
        &format!("a.kind = 'single'\n  AND a.label IN ({held_out})"),
    )
}

/// Returns SQL that selects the usable pairs for which `condition` holds. In it, `a` is the pair.
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
  -- Keep one of the pairs with the same image.
  AND NOT EXISTS (
    SELECT 1 FROM usable AS b
    WHERE b.sha256 = a.sha256 AND b.uid < a.uid)
  -- Drop near-duplicates: JPEGs of equal size that look the same, saved again at two thirds of
  -- the bytes or less.
  AND NOT EXISTS (
    SELECT 1 FROM usable AS b
    WHERE b.label = a.label AND b.format = 'jpeg' AND a.format = 'jpeg'
      AND b.width = a.width AND b.height = a.height
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

/// Returns the README, which describes the folder.
pub(super) fn readme(seed: u64, scenes: u32) -> String {
    let mut text = format!(
        "Demo data of Diptych: {scenes} drawn scenes with captions, seed {seed}.
`diptych demo-data` made it, and makes the same bytes from the same seed.
No rights are claimed in it.

Sources (each record is in one of them, with the same columns)
  scenes-*.tar         KEY.jpg or KEY.png, KEY.txt (caption), KEY.json (columns)
  scenes.parquet       image struct<bytes, path>, caption, columns
  folder/captions.csv  file_name, caption, columns; the images are in folder/images

Columns
  kind      single: one object; count: two or three of the same; relation: two different ones
  label     colour and shape of the main object, such as \"red circle\"; also alone, in the
            columns colour and shape
  size      small, large; place: left, right, top, bottom, centre; number: one, two, three
  relation  of the main object to the other one: left of, right of, above, below, inside
  other     colour and shape of the other object
  heldout   true if any object has a held-out composition (see below); a check of the SQL, which
            does not use it
  A column that does not apply is \"none\".

Held out: of 6 shapes x 8 colours, training never sees colour number j with shape number j mod 6:
  {held_out}
Training shows every colour and every shape, but never these combinations. The SQL files make the
split:
  train.sql            usable pairs without these compositions
  heldout.sql          usable pairs with at least one of them: retrieval
  heldout_single.sql   those with a single object: zero-shot classification (classes.txt,
                       templates.txt)
Two scenes per thousand show a red circle left of a blue square, both held out, so that a search
for them finds something.

Deliberately damaged records, in addition to the good scenes
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
