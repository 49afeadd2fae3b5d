//! The folder of a dataset: its checks, its lock, and the leftovers of a killed ingest.
//!
//! Only files that the manifest does not name are ever removed, and only if their names have the
//! form of our own.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use diptych_schemas::{DatasetManifest, SchemaError, blob_path, durable, ledger_path, meta_path};

use super::IngestError;

/// The folders of a dataset that an ingest writes.
const FOLDERS: [&str; 3] = ["meta", "blob", "ledger"];
const LOCK: &str = ".lock";

/// Refuses a folder with other content, before anything is written into it.
pub(super) fn check(folder: &Path) -> Result<(), IngestError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(SchemaError::io(folder)(error).into()),
    };
    if folder.join("dataset.json").exists() {
        return Ok(());
    }
    for entry in entries {
        let name = entry.map_err(SchemaError::io(folder))?.file_name();
        let ours = FOLDERS.iter().any(|ours| name == *ours)
            || name == LOCK
            || name == "dataset.json.incomplete";
        if !ours {
            return Err(IngestError::NotADataset {
                path: folder.to_owned(),
                found: name.to_string_lossy().into_owned(),
            });
        }
    }
    Ok(())
}

/// Creates the missing folders.
pub(super) fn create(folder: &Path) -> Result<(), IngestError> {
    let is_new = !folder.exists();
    for name in FOLDERS {
        let path = folder.join(name);
        fs::create_dir_all(&path).map_err(SchemaError::io(path))?;
    }
    if is_new && let Some(parent) = folder.parent() {
        durable::sync_folder(parent)?;
    }
    Ok(())
}

/// Locks the folder for one ingest. The lock ends with the process, however it ends.
pub(super) fn lock(folder: &Path) -> Result<File, IngestError> {
    let path = folder.join(LOCK);
    let failed = |error| IngestError::Schema(SchemaError::Io { path: path.clone(), source: error });
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // Only for the message.
            let _ = file.take(64).read_to_string(&mut owner);
            return Err(IngestError::Locked {
                path: folder.to_owned(),
                owner: owner.trim().to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "process {}", std::process::id()))
        .map_err(failed)?;
    Ok(file)
}

/// Checks that the files in the manifest exist and have the right length.
pub(super) fn check_files(folder: &Path, manifest: &DatasetManifest) -> Result<(), IngestError> {
    let damaged = |path: PathBuf, message: String| Err(IngestError::Damaged { path, message });
    for shard in &manifest.shards {
        let blob = blob_path(folder, shard.shard);
        match fs::metadata(&blob) {
            Ok(found) if found.len() == shard.blob_bytes => {}
            Ok(found) => {
                let message = format!(
                    "it has {} bytes, but dataset.json says {}",
                    found.len(),
                    shard.blob_bytes
                );
                return damaged(blob, message);
            }
            Err(error) => return damaged(blob, error.to_string()),
        }
    }
    let metas = manifest.shards.iter().map(|shard| meta_path(folder, shard.shard));
    for path in
        metas.chain(manifest.ledgers.iter().map(|ledger| ledger_path(folder, ledger.number)))
    {
        if let Err(error) = fs::metadata(&path) {
            return damaged(path, error.to_string());
        }
    }
    Ok(())
}

/// Removes unfinished files, and finished files that no manifest names. Other files stay.
pub(super) fn remove_leftovers(
    folder: &Path,
    manifest: &DatasetManifest,
) -> Result<(), IngestError> {
    let shards: HashSet<u32> = manifest.shards.iter().map(|shard| shard.shard).collect();
    let ledgers: HashSet<u32> = manifest.ledgers.iter().map(|ledger| ledger.number).collect();
    for name in FOLDERS {
        let path = folder.join(name);
        for entry in fs::read_dir(&path).map_err(SchemaError::io(&path))? {
            let entry = entry.map_err(SchemaError::io(&path))?.path();
            let file_name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let named = if name == "ledger" { &ledgers } else { &shards };
            let number = |text: &str| text.parse::<u32>().ok().filter(|_| text.len() >= 5);
            let leftover = match file_name.strip_suffix(&format!(".{}", durable::UNFINISHED)) {
                Some(whole) => whole.strip_suffix(".parquet").and_then(number).is_some(),
                None => file_name
                    .strip_suffix(".parquet")
                    .and_then(number)
                    .is_some_and(|number| !named.contains(&number)),
            };
            if leftover {
                fs::remove_file(&entry).map_err(SchemaError::io(entry))?;
            }
        }
    }
    match fs::remove_file(durable::unfinished(&folder.join("dataset.json"))) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(SchemaError::io(folder)(error).into())
        }
        _ => Ok(()),
    }
}
