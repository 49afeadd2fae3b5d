//! Collects the facts of a dataset's profile with SQL. In large datasets, statistics that read
//! every caption use a sample.

use anyhow::Context;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use datafusion::prelude::SessionContext;
use diptych_pipeline::sql::query;
use diptych_schemas::Uid;

use super::median::median;
use crate::chart::Scale;
use crate::chart::histogram::Histogram;
use crate::numbers::short;

/// Largest number of pairs whose captions are all read. Above it, a sample is read.
const SAMPLE: u64 = 1_000_000;
/// Bins of a histogram.
const BINS: usize = 40;
/// Rows of a list.
pub(super) const LISTED: usize = 12;

/// SQL condition for `x` to be a number that has a place on an axis.
const FINITE: &str = "NOT isnan(x) AND abs(x) <= 1.7976931348623157e308";

/// Names and their counts.
pub(super) type Counts = Vec<(String, u64)>;

/// Everything that the page shows about a dataset apart from its images.
pub(super) struct DatasetFacts {
    pub(super) pairs: u64,
    pub(super) image_bytes: u64,
    pub(super) images: u64,
    pub(super) captions: u64,
    /// Pairs whose image has the perceptual hash of another. `None` if the dataset has no
    /// perceptual hashes.
    pub(super) same_look: Option<u64>,
    pub(super) formats: Counts,
    pub(super) sources: Counts,
    pub(super) languages: Counts,
    pub(super) ledger: Counts,
    pub(super) ledger_rows: u64,
    pub(super) repeated: Counts,
    pub(super) histograms: Vec<Histogram>,
}

/// A numeric column that is counted in bins.
struct Measure {
    title: String,
    note: String,
    /// SQL of the number.
    sql: String,
    /// SQL of the table and its conditions.
    from: String,
    scale: Scale,
}

/// Runs a query with a small result and returns its rows as (text, number), whatever their types
/// are.
pub(super) async fn counts(context: &SessionContext, sql: &str) -> anyhow::Result<Counts> {
    let mut found = Vec::new();
    for batch in rows(context, sql).await? {
        let names = cast(batch.column(0), &DataType::Utf8)?;
        let numbers = cast(batch.column(1), &DataType::UInt64)?;
        for row in 0..batch.num_rows() {
            let name =
                if names.is_null(row) { "(none)" } else { names.as_string::<i32>().value(row) };
            found.push((
                name.to_owned(),
                numbers.as_primitive::<arrow::datatypes::UInt64Type>().value(row),
            ));
        }
    }
    Ok(found)
}

/// Runs a query with one row and returns its numbers. A null becomes `None`.
pub(super) async fn numbers(
    context: &SessionContext,
    sql: &str,
) -> anyhow::Result<Vec<Option<f64>>> {
    let batches = rows(context, sql).await?;
    let batch = batches
        .iter()
        .find(|batch| batch.num_rows() > 0)
        .context("a query of totals returned no row")?;
    let mut found = Vec::new();
    for column in batch.columns() {
        let column = cast(column, &DataType::Float64)?;
        found.push(column.is_valid(0).then(|| column.as_primitive::<Float64Type>().value(0)));
    }
    Ok(found)
}

/// Runs a query and returns the uids of its first column, each once, with the number of its second
/// column if there is one.
pub(super) async fn uids(
    context: &SessionContext,
    sql: &str,
) -> anyhow::Result<Vec<(Uid, Option<f64>)>> {
    let mut found: Vec<(Uid, Option<f64>)> = Vec::new();
    for batch in rows(context, sql).await? {
        let values =
            batch.columns().get(1).map(|column| cast(column, &DataType::Float64)).transpose()?;
        for row in 0..batch.num_rows() {
            let uid = Uid::try_from(batch.column(0).as_fixed_size_binary().value(row))?;
            let value = values.as_ref().filter(|values| values.is_valid(row));
            if found.iter().all(|(known, _)| *known != uid) {
                found.push((
                    uid,
                    value.map(|values| values.as_primitive::<Float64Type>().value(row)),
                ));
            }
        }
    }
    Ok(found)
}

async fn rows(context: &SessionContext, sql: &str) -> anyhow::Result<Vec<RecordBatch>> {
    Ok(query(context, sql).await?.collect().await?)
}

pub(super) async fn gather(context: &SessionContext) -> anyhow::Result<DatasetFacts> {
    // Perceptual hashes and languages come with the source or as scores. The table `scored` has
    // both.
    let totals = numbers(
        context,
        "SELECT count(*), coalesce(sum(bytes), 0), count(DISTINCT sha256), count(DISTINCT \
         caption), count(phash), count(DISTINCT phash) FROM scored",
    )
    .await?;
    let total = |index: usize| totals[index].unwrap_or(0.0) as u64;
    let pairs = total(0);
    let grouped = |column: &str, table: &str| {
        format!(
            "SELECT {column}, count(*) FROM {table} GROUP BY {column} ORDER BY count(*) DESC, \
             {column} LIMIT {LISTED}"
        )
    };
    let has_language = total_of(context, "SELECT count(language) FROM scored").await? > 0;
    Ok(DatasetFacts {
        pairs,
        image_bytes: total(1),
        images: total(2),
        captions: total(3),
        same_look: (total(4) > 0).then(|| total(4) - total(5)),
        formats: counts(context, &grouped("format", "meta")).await?,
        sources: counts(context, &grouped("source", "meta"))
            .await?
            .into_iter()
            .map(|(path, count)| (file_name(&path), count))
            .collect(),
        languages: if has_language {
            counts(context, &grouped("language", "scored")).await?
        } else {
            Vec::new()
        },
        ledger: counts(
            context,
            &format!(
                "SELECT reason || ' (' || disposition || ', ' || stage || ')' AS what, count(*) \
                 FROM ledger GROUP BY what ORDER BY count(*) DESC, what LIMIT {LISTED}"
            ),
        )
        .await?,
        ledger_rows: total_of(context, "SELECT count(*) FROM ledger").await?,
        repeated: counts(
            context,
            &format!(
                "SELECT caption, count(*) FROM meta GROUP BY caption HAVING count(*) > 1 ORDER BY \
                 count(*) DESC, caption LIMIT {LISTED}"
            ),
        )
        .await?,
        histograms: histograms(context, pairs).await?,
    })
}

async fn total_of(context: &SessionContext, sql: &str) -> anyhow::Result<u64> {
    Ok(numbers(context, sql).await?.first().copied().flatten().unwrap_or(0.0) as u64)
}

async fn histograms(context: &SessionContext, pairs: u64) -> anyhow::Result<Vec<Histogram>> {
    let sampled = pairs > SAMPLE;
    let sample = if sampled {
        format!("meta WHERE hash_fraction(uid) < {:e}", SAMPLE as f64 / pairs as f64)
    } else {
        "meta".to_owned()
    };
    let of_sample =
        |note: &str| if sampled { format!("{note}, of a sample of 1M") } else { note.to_owned() };
    let measure = |title: &str, note: String, sql: &str, from: &str, scale| Measure {
        title: title.into(),
        note,
        sql: sql.into(),
        from: from.into(),
        scale,
    };
    let mut measures = vec![
        measure("Shorter edge", "pixels".into(), "least(width, height)", "meta", Scale::Log),
        measure(
            "Aspect ratio",
            "width / height".into(),
            "CAST(width AS DOUBLE) / greatest(height, 1)",
            "meta",
            Scale::Log,
        ),
        measure("Image file", "bytes".into(), "bytes", "meta", Scale::Log),
        measure(
            "Caption",
            of_sample("characters"),
            "character_length(caption)",
            &sample,
            Scale::Linear,
        ),
        measure("Caption", of_sample("words"), "word_count(caption)", &sample, Scale::Linear),
        measure(
            "Caption",
            of_sample("CLIP tokens; 77 fit"),
            "token_count(caption)",
            &sample,
            Scale::Linear,
        ),
    ];
    for (name, count) in
        counts(context, "SELECT name, count(value) FROM scores GROUP BY name ORDER BY name").await?
    {
        if count > 0 {
            let from = format!("scores WHERE name = '{}'", name.replace('\'', "''"));
            measures.push(measure(&name, "score".into(), "value", &from, Scale::Linear));
        }
    }
    let mut found = Vec::new();
    for measure in &measures {
        found.extend(histogram(context, measure).await?);
    }
    Ok(found)
}

/// Counts values in bins from the lowest to the highest. If a few values lie far out, the bins end
/// at the 99.5th percentile: larger values count into the last bin, and the note says so. Returns
/// `None` if there are no values.
async fn histogram(
    context: &SessionContext,
    measure: &Measure,
) -> anyhow::Result<Option<Histogram>> {
    let Measure { title, note, sql, from, scale } = measure;
    let inner = format!("SELECT CAST({sql} AS DOUBLE) AS x FROM {from}");
    let ends = format!(
        "SELECT min(x), max(x), approx_percentile_cont(0.995) WITHIN GROUP (ORDER BY x), avg(x), \
         count(x) FROM ({inner}) WHERE {FINITE}"
    );
    let ends = numbers(context, &ends).await?;
    let [Some(low), Some(high), Some(nearly), Some(mean), Some(count)] = ends[..] else {
        return Ok(None);
    };
    let least = low;
    let low = if *scale == Scale::Log { low.max(1e-3) } else { low };
    let cut = *scale == Scale::Linear && high - low > 2.0 * (nearly - low) && nearly > low;
    let top = if cut { nearly } else { high };
    let (from_place, to_place) = (scale.forward(low), scale.forward(top));
    // Whole numbers in a short range get bins of their own.
    let whole = *scale == Scale::Linear
        && low.fract() == 0.0
        && high.fract() == 0.0
        && mean.fract() != 0.0
        && top - low < BINS as f64;
    let bins = if whole {
        (top - low) as usize + 1
    } else if top > low {
        BINS
    } else {
        1
    };
    let width = if whole { 1.0 } else { (to_place - from_place) / bins as f64 };
    let mut counted = vec![0; bins];
    let place =
        if *scale == Scale::Log { format!("ln(greatest(x, {low:e}))") } else { "x".to_owned() };
    let bin = if width > 0.0 {
        format!("floor(({place} - {from_place:e}) / {width:e})")
    } else {
        "0".to_owned()
    };
    let binned = format!(
        "SELECT CAST(least({}, greatest(0, {bin})) AS INT) AS bin, count(*) FROM ({inner}) WHERE \
         {FINITE} GROUP BY 1",
        bins - 1
    );
    for (bin, count) in counts(context, &binned).await? {
        if let Some(place) = bin.parse::<usize>().ok().and_then(|bin| counted.get_mut(bin)) {
            *place = count;
        }
    }
    let finite = format!("SELECT x FROM ({inner}) WHERE {FINITE}");
    let median = match median(context, &finite, (count as u64, least, high)).await? {
        Some(median) => format!(" · median {}", short(median)),
        None => String::new(),
    };
    let mut note = format!("{note}{median} · mean {}", short(mean));
    if cut {
        note = format!("{note} · values up to {} are in the last bar", short(high));
    }
    let range = if whole { (low, top + 1.0) } else { (low, top) };
    Ok(Some(Histogram {
        title: title.clone(),
        note,
        scale: *scale,
        range,
        counts: counted,
        whole,
        marks: Vec::new(),
    }))
}

/// Returns the last part of a path or URL, which tells sources apart in little room.
fn file_name(path: &str) -> String {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path).to_owned()
}
