//! Paths of Unix sockets. The kernel accepts at most 107 bytes. A longer path is reached through
//! its folder, which is held open.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Most bytes of `sun_path`, without the final zero.
const LONGEST: usize = 107;

/// Name of the socket in a state folder on which its owner answers.
pub const SOCKET: &str = "socket";

/// A path by which a socket can be bound or connected to while this value lives.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    _folder: Option<File>,
}

impl SocketPath {
    pub fn new(socket: &Path) -> io::Result<Self> {
        if socket.as_os_str().len() <= LONGEST {
            return Ok(Self { path: socket.to_owned(), _folder: None });
        }
        let folder = File::open(socket.parent().unwrap_or(Path::new("/")))?;
        let near = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        let path = near.join(socket.file_name().unwrap_or_default());
        Ok(Self { path, _folder: Some(folder) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn socket_of_a_long_path_is_bound_and_reached() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let socket = deep.join(SOCKET);
        assert!(UnixListener::bind(&socket).is_err(), "the kernel takes longer paths than it did");
        let bound = SocketPath::new(&socket).unwrap();
        let _listener = UnixListener::bind(bound.path()).unwrap();
        drop(bound);
        assert!(socket.exists());
        UnixStream::connect(SocketPath::new(&socket).unwrap().path()).unwrap();
    }
}
