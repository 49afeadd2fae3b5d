//! Writes and reads embeddings through the store, compared with equal bytes in a plain file.
//!
//! Run it with `cargo bench -p diptych --bench store`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;

use datafusion::prelude::SessionContext;
use diptych_schemas::{ContentHash, Uid};
use diptych_store::{Modality, Store};

const ROWS: usize = 100_000;
const DIM: usize = 512;
const ROWS_AT_ONCE: usize = 1024;
const MEGABYTES: f64 = (ROWS * DIM * 2) as f64 / 1e6;

fn main() {
    let folder =
        tempfile::tempdir_in(std::env::var("DIPTYCH_BENCH_FOLDER").unwrap_or_else(|_| ".".into()))
            .unwrap();
    let image = ContentHash::of(b"image");
    let uids: Vec<Uid> = (0..ROWS).map(|row| Uid::of(&image, &row.to_string())).collect();
    let vectors: Vec<f32> =
        (0..ROWS_AT_ONCE * DIM).map(|i| ((i * 7919) % 2001) as f32 / 1000.0 - 1.0).collect();
    let file = plain_file(folder.path());

    let producer = ContentHash::of(b"weights");
    let state = folder.path().join("state");
    let store = Store::open(&state).unwrap();
    let write = timed(|| {
        let mut writer = store.embedding_writer(producer, Modality::Image, DIM, "").unwrap();
        for uids in uids.chunks(ROWS_AT_ONCE) {
            writer.append(uids, &vectors[..uids.len() * DIM]).unwrap();
        }
        writer.finish().unwrap();
    });
    report("append, 1024 rows acknowledged at once", write, file.0);
    let warm = timed(|| {
        assert_eq!(
            store
                .read_embeddings(producer, Modality::Image)
                .unwrap()
                .read_all()
                .unwrap()
                .uids
                .len(),
            ROWS
        );
    });
    report("read_all, same process", warm, file.1);
    drop(store);
    let mut store = None;
    let open = timed(|| store = Some(Store::open(&state).unwrap()));
    let store = store.unwrap();
    println!("{:<42} {open:8.3} s", "open");
    for name in ["read_all, newly opened", "read_all, again"] {
        let read = timed(|| {
            assert_eq!(
                store
                    .read_embeddings(producer, Modality::Image)
                    .unwrap()
                    .read_all()
                    .unwrap()
                    .uids
                    .len(),
                ROWS
            );
        });
        report(name, read, file.1);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let context = SessionContext::new();
    for (name, table) in store.tables() {
        context.register_table(&name, table).unwrap();
    }
    for query in ["SELECT sum(embedding[1]) FROM embeddings", "SELECT count(*) FROM embeddings"] {
        let took = timed(|| {
            runtime.block_on(async { context.sql(query).await.unwrap().collect().await.unwrap() });
        });
        report(query, took, file.1);
    }
    let size = |path: &Path| path.metadata().unwrap().len() as f64 / 1e6;
    println!("db file {:.0} MB for {MEGABYTES:.0} MB of vectors", size(&state.join("sled/db")));
    let dropped = timed(|| assert!(store.drop_embeddings(producer).unwrap()));
    println!("{:<42} {dropped:8.3} s", "drop_embeddings");
}

/// Returns the seconds to write and fsync, and to read, equal bytes in a plain file.
fn plain_file(folder: &Path) -> (f64, f64) {
    let path = folder.join("plain");
    let chunk = vec![7u8; ROWS_AT_ONCE * DIM * 2];
    let write = timed(|| {
        let mut file = File::create(&path).unwrap();
        for _ in 0..ROWS / ROWS_AT_ONCE {
            file.write_all(&chunk).unwrap();
            file.sync_all().unwrap();
        }
    });
    let read = timed(|| {
        let mut bytes = Vec::new();
        File::open(&path).unwrap().read_to_end(&mut bytes).unwrap();
    });
    println!("{:<42} {write:8.3} s {:8.0} MB/s", "plain file, fsync each MB", MEGABYTES / write);
    println!("{:<42} {read:8.3} s {:8.0} MB/s", "plain file, read", MEGABYTES / read);
    (write, read)
}

fn report(what: &str, seconds: f64, reference: f64) {
    println!(
        "{what:<42} {seconds:8.3} s {:8.0} MB/s {:6.2} x plain file",
        MEGABYTES / seconds,
        seconds / reference
    );
}

fn timed(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}
