//! Names of sources that other tools take and an ingest does not: addresses, commands, joined sources.

use std::path::Path;

/// How to get at what other tools read under such a name, and an ingest does not. None for what can be a file here.
pub(super) fn elsewhere(argument: &str) -> Option<String> {
    if Path::new(argument).exists() {
        return None;
    }
    if let Some(command) = argument.strip_prefix("pipe:") {
        return Some(format!(
            "no command is started for a source. Let it write a file, and name that: `{command} > 00000.tar`"
        ));
    }
    if argument.contains("::") {
        let parts: Vec<&str> = argument.split("::").collect();
        return Some(format!(
            "sources are not joined by `::`. Give each as an argument: {}",
            parts.join(" ")
        ));
    }
    let (scheme, rest) = argument.split_once("://")?;
    let get = match scheme.to_ascii_lowercase().as_str() {
        "s3" | "s3a" => format!("aws s3 sync {scheme}://{} .", folder_of(rest)),
        "gs" | "gcs" => format!("gcloud storage cp -r gs://{} .", folder_of(rest)),
        "az" | "azure" | "abfs" | "abfss" | "adl" => "az storage blob download-batch".into(),
        "http" | "https" => format!("curl -fLO \"{argument}\""),
        "hf" => {
            let name = rest.strip_prefix("datasets/").unwrap_or(rest);
            let name = name.splitn(3, '/').take(2).collect::<Vec<_>>().join("/");
            format!("hf download {name} --repo-type dataset --local-dir FOLDER")
        }
        _ => {
            return Some(format!(
                "{scheme}:// is no place that sources are read from: copy it to this machine"
            ));
        }
    };
    Some(format!(
        "sources are read from this machine alone. Copy them first (`{get}`). What an ingest has made can lie elsewhere: --dataset takes the \
         URL of a dataset"
    ))
}

/// The folder of a path without its scheme; a pattern's is what stands before it.
fn folder_of(path: &str) -> &str {
    let plain = path.find(['{', '*', '?', '[']).map_or(path, |place| &path[..place]);
    plain.rsplit_once('/').map_or(plain, |(folder, _)| folder)
}
