//! `diptych sql` over a state folder that a service owns: the service is asked.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use datafusion::datasource::MemTable;
use diptych_serve::{ARROW_STREAM, TRUNCATED};
use reqwest::{Method, header};
use serde_json::{Value, json};

use super::{Service, wait_for};

/// The result of a query, whole.
pub(crate) fn ask(address: &str, sql: &str, dataset: Option<&Path>) -> anyhow::Result<MemTable> {
    let service = Service::at(address, None)?;
    wait_for(async {
        let dataset = match dataset {
            Some(folder) => Some(name_of(&service, folder).await?),
            None => None,
        };
        let question =
            service.request(Method::POST, "/v1/sql").header(header::ACCEPT, ARROW_STREAM);
        let answer =
            service.send(question.json(&json!({ "query": sql, "dataset": dataset }))).await?;
        if answer.headers().get(TRUNCATED).is_some_and(|truncated| truncated == "1") {
            bail!(
                "the result is larger than what the service answers at once (64 MiB): ask for less, or through Flight SQL"
            );
        }
        let bytes = answer.bytes().await.context("the service's answer")?;
        let reader = StreamReader::try_new(&bytes[..], None).context("the service's answer")?;
        let schema = reader.schema();
        let batches =
            reader.collect::<Result<Vec<RecordBatch>, _>>().context("the service's answer")?;
        MemTable::try_new(Arc::clone(&schema), vec![batches])
            .context("columns of the same name: give them different ones (AS)")
    })
}

/// The name under which a service knows a dataset's folder.
async fn name_of(service: &Service, folder: &Path) -> anyhow::Result<String> {
    let whole = folder.canonicalize().with_context(|| folder.display().to_string())?;
    let page: Value = service.get("/v1/datasets?limit=1000").await?;
    let datasets = page["items"].as_array().into_iter().flatten();
    let same = |dataset: &&Value| {
        dataset["path"]
            .as_str()
            .is_some_and(|path| Path::new(path).canonicalize().is_ok_and(|path| path == whole))
    };
    let found = datasets.clone().find(same).and_then(|dataset| dataset["name"].as_str());
    found.map(str::to_owned).with_context(|| {
        format!(
            "the service that owns the state folder does not have the dataset {}: add it to its configuration ([[dataset]]), or ask \
             without --state",
            folder.display()
        )
    })
}
