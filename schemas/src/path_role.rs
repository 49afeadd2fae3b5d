//! The roles of files and folders in a configuration. The role decides where a path in a request
//! may point.

/// The role of a path in a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathRole {
    /// Is read, and must be on this machine.
    Read,
    /// Is a dataset that is read: a folder, or a URL that [`is_url`](crate::is_url) recognises.
    Dataset,
    /// Is written.
    Write,
}
