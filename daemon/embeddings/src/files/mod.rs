//! Embedding files, exchanged with other tools.
//!
//! Two layouts are known:
//!
//! - clip-retrieval's, which autofaiss reads too: `img_emb/img_emb_N.npy` and
//!   `text_emb/text_emb_N.npy` (each `[rows, dimension]`), and `metadata/metadata_N.parquet` with
//!   the rows in that order.
//! - Tables, `pairs_N.parquet` or `pairs_N.arrow`, with the columns of [`table`].

mod read;
mod table;
mod write;

pub use read::EmbeddingFiles;
pub use table::{pairs_of, pairs_table};
pub use write::{Request, write};

/// Column of image embeddings.
const IMAGE: &str = "image_embedding";
/// Column of caption embeddings.
const TEXT: &str = "text_embedding";
/// Folders of clip-retrieval's layout.
const IMAGES: &str = "img_emb";
const TEXTS: &str = "text_emb";
const METADATA: &str = "metadata";
/// Prefix of the names of tables.
const PAIRS: &str = "pairs_";
