//! `/v1/datasets`: the datasets of the service, with samples to look at.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, AsArray, LargeBinaryArray};
use arrow::datatypes::{UInt32Type, UInt64Type};
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, header};
use axum::response::IntoResponse;
use diptych_pipeline::{Random, decode, fitted};
use diptych_schemas::{
    DatasetManifest, MAX_PIXELS, SchemaError, ServedDataset, Uid, blob_path, column,
};
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};
use parquet::file::metadata::PageIndexPolicy;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::page::{ListQuery, Page};
use super::problem::Problem;
use super::sql::{ask, rows_of, unknown_dataset};
use super::{blocking, given};
use crate::shared::Shared;

/// Number of samples by default, and the most.
const DEFAULT_SAMPLES: u64 = 24;
const MOST_SAMPLES: u64 = 200;
/// Side of a thumbnail in pixels by default, and the largest.
const DEFAULT_SIDE: u32 = 160;
const LARGEST_SIDE: u32 = 1024;

/// A dataset.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Dataset {
    name: String,
    path: String,
    pairs: u64,
    /// Bytes of all images.
    bytes: u64,
    shards: usize,
    /// Inputs that did not become pairs.
    ledger: u64,
    /// The reason why it cannot be read. Null if it can.
    problem: Option<String>,
}

/// A dataset with its details.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Details {
    #[serde(flatten)]
    #[schema(inline)]
    dataset: Dataset,
    /// Counts from all inputs to pairs.
    funnel: Vec<FunnelStage>,
    /// The last selection made from it. Trainings may use another one.
    last_selection: Option<LastSelection>,
    ledger_by_reason: Vec<Reason>,
    formats: Vec<Format>,
    columns: Vec<MetaColumn>,
}

/// A stage of the way from inputs to pairs.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
struct FunnelStage {
    stage: String,
    count: u64,
}

/// The last selection from a dataset.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
struct LastSelection {
    path: String,
    pairs: u64,
}

/// A reason of the ledger, and how often it occurs.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
struct Reason {
    reason: String,
    count: u64,
}

/// An image format, and how many pairs have it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
struct Format {
    format: String,
    count: u64,
}

/// A column of the table `meta`.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
struct MetaColumn {
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

/// A pair.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Sample {
    uid: String,
    caption: String,
    width: u64,
    height: u64,
    source: String,
    /// Address of its thumbnail.
    image: String,
}

fn look(dataset: &ServedDataset) -> Dataset {
    let manifest = DatasetManifest::read(&dataset.path);
    let counted = manifest.as_ref().ok();
    Dataset {
        name: dataset.name.clone(),
        path: dataset.path.display().to_string(),
        pairs: counted.map_or(0, |manifest| manifest.pairs),
        bytes: counted
            .map_or(0, |manifest| manifest.shards.iter().map(|shard| shard.blob_bytes).sum()),
        shards: counted.map_or(0, |manifest| manifest.shards.len()),
        ledger: counted.map_or(0, |manifest| manifest.ledger_rows),
        problem: manifest.err().map(|error| error.to_string()),
    }
}

fn known(shared: &Shared, name: &str) -> Result<ServedDataset, Problem> {
    let current = shared.current();
    current.dataset(name).cloned().ok_or_else(|| unknown_dataset(&current.config.datasets, name))
}

/// Lists the datasets of the service.
#[utoipa::path(
    get,
    path = "/v1/datasets",
    operation_id = "list_datasets",
    params(ListQuery),
    responses((status = OK, body = Page<Dataset>), (status = "default", body = Problem)),
    tag = "datasets",
)]
pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    part: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page<Dataset>>, Problem> {
    let part = given(part)?;
    let datasets = shared.current().config.datasets.clone();
    blocking(move || Ok(Json(part.page(datasets.iter().map(look), |dataset| dataset.name.clone()))))
        .await
}

/// Returns a dataset with its ledger, formats and columns.
#[utoipa::path(
    get,
    path = "/v1/datasets/{name}",
    operation_id = "get_dataset",
    params(("name" = String, Path, description = "Name of a dataset")),
    responses((status = OK, body = Details), (status = "default", body = Problem)),
    tag = "datasets",
)]
pub(super) async fn one(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Details>, Problem> {
    let Path(name) = path?;
    let dataset = known(&shared, &name)?;
    let counts = async |sql: &str| -> Result<Vec<(String, u64)>, Problem> {
        let rows = rows_of(&shared, dataset.clone(), sql.to_owned(), 1000).await?;
        Ok(rows.iter().map(|row| (text(&row[0]), row[1].as_u64().unwrap_or(0))).collect())
    };
    // Entries of the stage `train` may come from other datasets.
    let reasons = "SELECT reason, count(*) FROM ledger WHERE stage <> 'train' \
         GROUP BY reason ORDER BY 2 DESC, 1";
    let reasons = counts(reasons).await?;
    let formats =
        counts("SELECT format, count(*) FROM meta GROUP BY format ORDER BY 2 DESC, 1").await?;
    let nothing = "SELECT * FROM meta LIMIT 0".to_owned();
    let columns = ask(&shared, Some(dataset.clone()), nothing, 1).await?.0.schema;
    let looked = dataset.clone();
    let (looked, selection) = blocking(move || {
        let selection = diptych_pipeline::last_selection(&looked.path);
        Ok((look(&looked), selection.map(|(path, selection)| (path, selection.len() as u64))))
    })
    .await?;
    let stage = |stage: &str, count| FunnelStage { stage: stage.to_owned(), count };
    let funnel = vec![stage("inputs", looked.pairs + looked.ledger), stage("pairs", looked.pairs)];
    let last_selection = selection.map(|(path, pairs): (PathBuf, u64)| LastSelection {
        path: path.display().to_string(),
        pairs,
    });
    Ok(Json(Details {
        dataset: looked,
        funnel,
        last_selection,
        ledger_by_reason: reasons
            .into_iter()
            .map(|(reason, count)| Reason { reason, count })
            .collect(),
        formats: formats.into_iter().map(|(format, count)| Format { format, count }).collect(),
        columns: columns
            .fields()
            .iter()
            .map(|field| MetaColumn {
                name: field.name().clone(),
                kind: field.data_type().to_string(),
            })
            .collect(),
    }))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The choice of samples.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct SampleQuery {
    /// Number of samples: 24 by default, at most 200.
    limit: Option<u64>,
    /// SQL condition over the table `meta`, as after WHERE.
    #[serde(rename = "where")]
    #[param(rename = "where")]
    condition: Option<String>,
    /// Another seed gives other samples.
    seed: Option<u64>,
}

/// Returns random pairs. Uids are hashes, so the pairs that follow a random position are a fair
/// sample.
#[utoipa::path(
    get,
    path = "/v1/datasets/{name}/samples",
    operation_id = "sample_dataset",
    params(("name" = String, Path, description = "Name of a dataset"), SampleQuery),
    responses((status = OK, body = Page<Sample>), (status = "default", body = Problem)),
    tag = "datasets",
)]
pub(super) async fn samples(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<String>, PathRejection>,
    request: Result<Query<SampleQuery>, QueryRejection>,
) -> Result<Json<Page<Sample>>, Problem> {
    let (Path(name), SampleQuery { limit, condition, seed }) = (path?, given(request)?);
    let dataset = known(&shared, &name)?;
    let limit = limit.unwrap_or(DEFAULT_SAMPLES).clamp(1, MOST_SAMPLES);
    let condition =
        condition.filter(|condition| !condition.trim().is_empty()).unwrap_or_else(|| "true".into());
    let mut random = Random::new(seed.unwrap_or(0));
    let place = format!("{:016x}{:016x}", random.next_u64(), random.next_u64());
    // The uids form a ring: pairs before the position follow after the last one.
    let sql = format!(
        "SELECT uid, caption, width, height, source FROM meta WHERE ({condition}) ORDER BY uid < \
         uid('{place}'), uid LIMIT {limit}"
    );
    let rows = rows_of(&shared, dataset, sql, limit).await?;
    let items = rows.iter().map(|row| {
        let uid = text(&row[0]);
        Sample {
            image: image_address(&name, &uid),
            uid,
            caption: row[1].as_str().unwrap_or_default().to_owned(),
            width: row[2].as_u64().unwrap_or(0),
            height: row[3].as_u64().unwrap_or(0),
            source: row[4].as_str().unwrap_or_default().to_owned(),
        }
    });
    Ok(Json(Page { items: items.collect(), next: None }))
}

/// Returns the address of a pair's thumbnail.
pub(super) fn image_address(dataset: &str, uid: &str) -> String {
    format!("/v1/datasets/{dataset}/images/{uid}?size={DEFAULT_SIDE}")
}

/// The size of an image.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct Size {
    /// Longer edge in pixels: 160 by default, at most 1024. A smaller image keeps its size.
    size: Option<u32>,
}

/// Returns the image of a pair as PNG, whatever its own format is. Its longer edge is reduced to
/// `size`.
#[utoipa::path(
    get,
    path = "/v1/datasets/{name}/images/{uid}",
    operation_id = "get_image",
    params(
        ("name" = String, Path, description = "Name of a dataset"),
        ("uid" = String, Path, description = "Uid of a pair: 32 hexadecimal digits"),
        Size,
    ),
    responses(
        (status = OK, body = Vec<u8>, content_type = "image/png"),
        (status = "default", body = Problem),
    ),
    tag = "datasets",
)]
pub(super) async fn image(
    State(shared): State<Arc<Shared>>,
    path: Result<Path<(String, String)>, PathRejection>,
    size: Result<Query<Size>, QueryRejection>,
) -> Result<impl IntoResponse, Problem> {
    let (Path((name, uid)), Size { size }) = (path?, given(size)?);
    let dataset = known(&shared, &name)?;
    let uid: Uid = uid.parse().map_err(|error: SchemaError| Problem::bad(error.to_string()))?;
    let side = size.unwrap_or(DEFAULT_SIDE).clamp(1, LARGEST_SIDE);
    let sql = format!("SELECT shard, row_group, row FROM meta WHERE uid = uid('{uid}')");
    let (found, _) = ask(&shared, Some(dataset.clone()), sql, 1).await?;
    let place = found.batches.iter().find(|batch| batch.num_rows() > 0);
    let [shard, row_group, row] = place
        .map(|batch| [0, 1, 2].map(|number| rows_of_numbers(batch.column(number).as_ref())))
        .ok_or_else(|| Problem::not_found(format!("{name} has no pair {uid}")))?;
    let png = blocking(move || {
        let bytes = image_bytes(&dataset, shard as u32, row_group as usize, row as usize)
            .map_err(|error| Problem::internal(format!("{error:#}")))?;
        let unusable = |error: &dyn std::fmt::Display| {
            Problem::new(
                axum::http::StatusCode::UNPROCESSABLE_ENTITY,
                format!("the image of {uid} cannot be shown: {error}"),
            )
        };
        let image = decode(&bytes, MAX_PIXELS)
            .and_then(|image| fitted(image, side))
            .map_err(|error| unusable(&error))?;
        let mut png = Vec::new();
        PngEncoder::new(&mut png)
            .write_image(&image.pixels, image.width, image.height, ExtendedColorType::Rgb8)
            .map_err(|error| unusable(&error))?;
        Ok(png)
    })
    .await?;
    // The image of a uid never changes.
    let cached =
        (header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=86400, immutable"));
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("image/png")), cached], png))
}

fn rows_of_numbers(column: &dyn Array) -> u64 {
    match column.as_primitive_opt::<UInt32Type>() {
        Some(numbers) => u64::from(numbers.value(0)),
        None => column.as_primitive::<UInt64Type>().value(0),
    }
}

/// Returns the bytes of one image. Reads only the page that holds it.
fn image_bytes(
    dataset: &ServedDataset,
    shard: u32,
    row_group: usize,
    row: usize,
) -> anyhow::Result<Vec<u8>> {
    let path = blob_path(&dataset.path, shard);
    let file = std::fs::File::open(&path).map_err(SchemaError::io(&path))?;
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), [column::IMAGE]);
    let one = RowSelection::from(vec![RowSelector::skip(row), RowSelector::select(1)]);
    let mut reader = builder
        .with_projection(mask)
        .with_row_groups(vec![row_group])
        .with_row_selection(one)
        .build()?;
    let batch = reader.next().ok_or_else(|| {
        anyhow::anyhow!("{}: row group {row_group} has no row {row}", path.display())
    })??;
    let images: &LargeBinaryArray = batch.column(0).as_binary_opt().ok_or_else(|| {
        anyhow::anyhow!("{}: the column of images does not hold bytes", path.display())
    })?;
    Ok(images.value(0).to_vec())
}
