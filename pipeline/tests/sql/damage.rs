//! Damaged and missing files of a dataset are named.

use super::*;

#[tokio::test]
async fn damaged_files_are_named() {
    let (folder, _) = dataset();
    let path = folder.path();
    let error = |folder: &Path| {
        session(SessionSpec::new(Some(folder), &stand_ins())).err().unwrap().to_string()
    };

    // A footer with a wrong length.
    let meta = meta_path(path, 1);
    let whole = std::fs::read(&meta).unwrap();
    let mut lying = whole.clone();
    let length = whole.len();
    lying[length - 8..length - 4].copy_from_slice(&0x00ff_ffff_u32.to_le_bytes());
    write(&meta, &lying);
    let message = error(path);
    assert!(message.contains("meta/00001.parquet: its footer claims 16777215 bytes"), "{message}");
    // A meaningless footer.
    let mut nonsense = whole.clone();
    nonsense[length - 40..length - 8].fill(0xee);
    write(&meta, &nonsense);
    let message = failure(&open(path), "SELECT count(caption) FROM meta").await;
    assert!(
        message.contains("meta/00001.parquet") && message.contains("cannot be read"),
        "{message}"
    );
    write(&meta, &whole[..length - 5]);
    assert!(error(path).contains("meta/00001.parquet: "));
    write(&meta, b"PAR1");
    assert!(error(path).contains("too short"));

    // Pages that have changed, with an intact footer.
    let mut garbled = whole.clone();
    for byte in &mut garbled[4..length / 2] {
        *byte = !*byte;
    }
    write(&meta, &garbled);
    let message = failure(&open(path), "SELECT caption, width, source FROM meta").await;
    assert!(message.contains("meta/00001.parquet"), "{message}");

    std::fs::remove_file(&meta).unwrap();
    let message = error(path);
    assert!(message.contains("meta/00001.parquet: dataset.json"), "{message}");
    write(&meta, &whole);
    let blob = blob_path(path, 0);
    let cut = std::fs::read(&blob).unwrap().split_last().unwrap().1.to_vec();
    write(&blob, &cut);
    let message = error(path);
    let lengths = [cut.len(), cut.len() + 1].map(|length| length.to_string());
    assert!(
        message.contains("blob/00000.parquet: ") && lengths.iter().all(|it| message.contains(it)),
        "{message}"
    );
    assert!(error(&path.join("nothing")).contains("is not a dataset"));
}

fn write(path: &Path, bytes: &[u8]) {
    diptych_schemas::durable::write(path, bytes).unwrap();
}
