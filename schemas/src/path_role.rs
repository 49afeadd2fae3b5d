//! What a file or folder that a configuration names is for. It decides where it may lie when a request names it.

/// The use of a named path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathRole {
    /// Is read, and must be on this machine.
    Read,
    /// Is a dataset that is read: a folder, or a URL that [`is_url`](crate::is_url) knows.
    Dataset,
    /// Is written.
    Write,
}
