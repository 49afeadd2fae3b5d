//! The SQL tables with their columns, and the functions that Diptych adds.

use anyhow::ensure;
use datafusion::logical_expr::Documentation;
use datafusion::prelude::SessionContext;
use diptych_embeddings::session::with_session;
use diptych_pipeline::sql::allow_files;
use diptych_schemas::{TableDoc, TablePlace, table_docs};

use super::markdown::{code, prose, sentence, start, table};

const ABOUT: &str = "Tables and functions of `diptych sql`, `select`, `eval --where`, the dashboard's console and the service. \
                     The language is DataFusion's SQL. Types are Arrow's.";

/// Functions that make tables, with their meaning. DataFusion keeps no documentation of them.
const TABLE_FUNCTIONS: [(&str, &str, &str); 4] = [
    (
        "nearest",
        "nearest('MODEL', QUERY [, k])",
        "The images nearest to a query, as a table of `uid` and `score`. MODEL is a run, RUN@STEP, RUN@best or a folder. \
         QUERY is a text, `uid('…')` or a vector. Without k it has all images",
    ),
    (
        "read_csv",
        "read_csv('FILE')",
        "A CSV or TSV file, or all that match a pattern. Not in a service",
    ),
    (
        "read_json",
        "read_json('FILE')",
        "A file of JSON lines, or all that match a pattern. Not in a service",
    ),
    (
        "read_parquet",
        "read_parquet('FILE')",
        "A Parquet file, or all that match a pattern. Not in a service",
    ),
];

/// Table functions of DataFusion itself.
const OF_DATAFUSION: [&str; 2] = ["generate_series", "range"];

pub(super) fn page() -> anyhow::Result<String> {
    let mut text = start("SQL tables and functions", ABOUT);
    let docs = table_docs();
    for (place, title, about) in [
        (TablePlace::Dataset, "Tables of a dataset", "With `--dataset FOLDER`."),
        (
            TablePlace::State,
            "Tables of a state folder",
            "With `--state FOLDER`, also while something trains in it.",
        ),
    ] {
        text += &format!("\n## {title}\n\n{about}\n");
        for doc in docs.iter().filter(|doc| doc.place == place) {
            text += &one_table(doc);
        }
        if place == TablePlace::Dataset {
            text += "\n### scored\n\nThe table `meta` with one more column for each score, under the score's name.\n";
        }
    }
    text += &with_session(None, None, async |context| functions(&context))?;
    Ok(text)
}

fn one_table(doc: &TableDoc) -> String {
    let rows = doc.columns.iter().map(|column| {
        let null = if column.field.is_nullable() { "yes" } else { "" };
        vec![
            code(column.field.name()),
            code(&column.field.data_type().to_string()),
            null.to_owned(),
            column.about.to_owned(),
        ]
    });
    let head = ["column", "type", "null", "meaning"];
    format!("\n### {}\n\n{}\n\n{}", doc.name, sentence(doc.about), table(&head, rows))
}

fn functions(context: &SessionContext) -> anyhow::Result<String> {
    allow_files(context);
    let state = context.state();
    let ours = |documentation: Option<&Documentation>| {
        documentation.filter(|doc| doc.doc_section.label.starts_with("Diptych")).cloned()
    };
    let scalar = state.scalar_functions().iter().map(|(name, of)| (name, ours(of.documentation())));
    let aggregate =
        state.aggregate_functions().iter().map(|(name, of)| (name, ours(of.documentation())));
    let mut found: Vec<(String, Documentation)> =
        scalar.chain(aggregate).filter_map(|(name, doc)| Some((name.clone(), doc?))).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let mut text = "\n## Functions\n\nBeside [those of DataFusion](https://datafusion.apache.org/user-guide/sql/scalar_functions.html).\n".to_owned();
    for (name, doc) in found {
        text += &format!(
            "\n### {name}\n\n```sql\n{}\n```\n\n{}\n",
            doc.syntax_example,
            sentence(&doc.description)
        );
        for (argument, meaning) in doc.arguments.into_iter().flatten() {
            text += &format!("\n- `{argument}`: {}", sentence(&meaning));
        }
        if let Some(example) = doc.sql_example {
            let example =
                example.trim().trim_start_matches("```sql").trim_end_matches("```").trim();
            text += &format!("\n```sql\n{example}\n```\n");
        }
    }
    let mut registered: Vec<&str> = state.table_functions().keys().map(String::as_str).collect();
    registered.retain(|name| !OF_DATAFUSION.contains(name));
    registered.sort_unstable();
    let listed = TABLE_FUNCTIONS.map(|(name, ..)| name);
    ensure!(
        registered == listed,
        "table functions are {registered:?}, and the reference lists {listed:?}"
    );
    text += "\n## Functions that make tables\n\n";
    let rows = TABLE_FUNCTIONS
        .map(|(_, syntax, about)| vec![code(syntax), sentence(&prose(about).replace('\\', ""))]);
    Ok(text + &table(&["function", "meaning"], rows))
}
