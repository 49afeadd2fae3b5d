//! Names of sources that other tools accept and an ingest does not: URLs, commands, joined sources.

use std::path::Path;

/// Returns advice on how to read such a source, or `None` if the name may be a file.
pub(super) fn elsewhere(argument: &str) -> Option<String> {
    if Path::new(argument).exists() {
        return None;
    }
    if let Some(command) = argument.strip_prefix("pipe:") {
        return Some(format!(
            "commands are not supported as sources. Write their output to a file and ingest that: \
             `{command} > 00000.tar`"
        ));
    }
    if argument.contains("::") {
        let parts: Vec<&str> = argument.split("::").collect();
        return Some(format!(
            "sources cannot be joined by `::`. Give each as an argument: {}",
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
                "sources cannot be read from {scheme}://: copy it to this machine first"
            ));
        }
    };
    Some(format!(
        "sources are read from this machine only. Copy them first: `{get}`. An existing dataset \
         may be remote: --dataset accepts its URL"
    ))
}

/// Returns the folder of a path without its scheme: for a pattern, the folder before its first
/// wildcard.
fn folder_of(path: &str) -> &str {
    let plain = path.find(['{', '*', '?', '[']).map_or(path, |place| &path[..place]);
    plain.rsplit_once('/').map_or(plain, |(folder, _)| folder)
}
