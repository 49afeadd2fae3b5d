//! Embeddings as files, for other tools and from them.
//!
//! clip-retrieval's layout, which autofaiss reads too: `img_emb/img_emb_N.npy` and `text_emb/text_emb_N.npy` ([rows, D]), and
//! `metadata/metadata_N.parquet` with the same rows. Or tables, `pairs_N.parquet` and `pairs_N.arrow`, with the columns of [`table`].

mod read;
mod table;
mod write;

pub use read::EmbeddingFiles;
pub use table::{pairs_of, pairs_table};
pub use write::{Request, write};

/// Column with an image's embedding.
const IMAGE: &str = "image_embedding";
/// Column with a caption's embedding.
const TEXT: &str = "text_embedding";
/// Folders of clip-retrieval's layout.
const IMAGES: &str = "img_emb";
const TEXTS: &str = "text_emb";
const METADATA: &str = "metadata";
/// What the names of tables begin with.
const PAIRS: &str = "pairs_";
