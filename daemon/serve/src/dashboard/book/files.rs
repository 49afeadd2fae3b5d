//! The files of the book. A test says which ones are missing here.

macro_rules! chapters {
    ($($name:literal)*) => { &[$(($name, include_str!(concat!("../../../../docs/", $name)))),*] };
}

macro_rules! images {
    ($($name:literal)*) => { &[$(($name, include_bytes!(concat!("../../../../docs/", $name)))),*] };
}

/// The list of chapters, in their order.
pub(super) const SUMMARY: &str = include_str!("../../../../docs/SUMMARY.md");

/// File and text of each chapter.
pub(super) const CHAPTERS: &[(&str, &str)] = chapters![
    "README.md"
    "benchmarks.md"
    "coming-from/clip-benchmark.md"
    "coming-from/clip-retrieval.md"
    "coming-from/datacomp.md"
    "coming-from/openclip.md"
    "coming-from/wandb.md"
    "concepts/checkpoints.md"
    "concepts/dataset.md"
    "concepts/determinism.md"
    "concepts/order.md"
    "concepts/scores.md"
    "concepts/selection.md"
    "concepts/state-folder.md"
    "faq.md"
    "guides/buckets.md"
    "guides/check-and-back-up.md"
    "guides/clusters.md"
    "guides/dashboard.md"
    "guides/deduplicate.md"
    "guides/evaluate.md"
    "guides/export.md"
    "guides/filter-and-balance.md"
    "guides/http.md"
    "guides/install.md"
    "guides/layouts.md"
    "guides/measure.md"
    "guides/monitoring.md"
    "guides/search.md"
    "guides/security.md"
    "guides/service.md"
    "guides/sql.md"
    "guides/training.md"
    "guides/url-lists.md"
    "internals/code-map.md"
    "internals/decisions.md"
    "internals/field-cases.md"
    "internals/promises.md"
    "reference/cli.md"
    "reference/configuration.md"
    "reference/events.md"
    "reference/exit-codes.md"
    "reference/http.md"
    "reference/ledger.md"
    "reference/metrics.md"
    "reference/service-configuration.md"
    "reference/sql.md"
    "troubleshooting.md"
    "tutorials/fine-tune.md"
    "tutorials/first-model.md"
    "tutorials/own-pairs.md"
    "tutorials/session.md"
    "tutorials/weeks.md"
];

/// File and bytes of each picture.
pub(super) const IMAGES: &[(&str, &[u8])] = images![
    "images/dashboard.png"
    "images/emoji-found.png"
    "images/emoji-loss.svg"
    "images/front.png"
];
