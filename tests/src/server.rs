//! A web server for tests. It serves ranges of files, like a plain server and like an object store
//! with S3's paths, and fails on demand.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request of a client.
#[derive(Clone, Debug)]
pub struct Request {
    /// Number of requests before it.
    pub number: u64,
    pub method: String,
    /// Without the leading slash.
    pub path: String,
    pub range: Option<Range<u64>>,
    /// Behind the question mark.
    pub query: String,
    /// The header `Authorization`.
    pub authorization: Option<String>,
}

/// A wrong or late answer to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// No fault: the honest answer.
    Honest,
    /// The connection is closed at once.
    Drop,
    /// The connection is closed in the middle of the body.
    BreakOff,
    /// The honest answer, later.
    Late(Duration),
    /// Nothing, for as long as the server lives.
    Hang,
    Status(u16),
    /// Another range than the requested one, with a matching header.
    OtherRange,
    /// The whole file, with status 200.
    WholeFile,
    /// More bytes than requested.
    TooMuch,
    /// As many bytes as requested, some of them changed.
    OtherBytes,
    /// An honest answer with another ETag, as of a changed file.
    OtherVersion,
    /// An honest answer that claims another file size in bytes.
    Size(u64),
}

type Faults = dyn Fn(&Request) -> Fault + Send + Sync;

/// Serves until it is dropped.
pub struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
}

struct Shared {
    folder: PathBuf,
    faults: Box<Faults>,
    next: AtomicU64,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub fn start(
        folder: &Path,
        faults: impl Fn(&Request) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (requests, stop) = (Arc::default(), Arc::default());
        let server = Self { address, requests: Arc::clone(&requests), stop: Arc::clone(&stop) };
        let (folder, faults) = (folder.to_owned(), Box::new(faults));
        let shared = Arc::new(Shared { folder, faults, next: AtomicU64::new(0), requests, stop });
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&shared);
                // A client that goes away is none of the server's business.
                std::thread::spawn(move || drop(shared.answer(stream)));
            }
        });
        server
    }

    /// `http://ADDRESS/NAME`
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns all requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it up.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut first = String::new();
        reader.read_line(&mut first)?;
        let mut words = first.split_whitespace();
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (mut range, mut authorization) = (None, None);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            if let Some(bytes) = line.to_lowercase().trim().strip_prefix("range: bytes=") {
                let (start, end) = bytes.split_once('-').unwrap();
                range = Some(start.parse().unwrap()..end.parse::<u64>().unwrap() + 1);
            }
            if line.to_lowercase().starts_with("authorization: ") {
                authorization = line.trim().split_once(": ").map(|(_, value)| value.to_owned());
            }
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (path, query) = (decoded(path.trim_start_matches('/')), query.to_owned());
        let method = method.to_owned();
        let request = Request { number, method, path, range, query, authorization };
        self.requests.lock().unwrap().push(request.clone());
        let fault = (self.faults)(&request);
        self.send(&mut stream, &request, &fault)
    }

    fn send(
        &self,
        stream: &mut TcpStream,
        request: &Request,
        fault: &Fault,
    ) -> std::io::Result<()> {
        match fault {
            Fault::Drop => return Ok(()),
            Fault::Late(time) => std::thread::sleep(*time),
            Fault::Hang => {
                while !self.stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                return Ok(());
            }
            Fault::Status(status) => {
                return write!(stream, "HTTP/1.1 {status} Trouble\r\ncontent-length: 0\r\n\r\n");
            }
            _ => {}
        }
        if request.query.contains("list-type=2") {
            let body = self.listed(request);
            return write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
        }
        let Ok(file) = std::fs::read(self.folder.join(&request.path)) else {
            return write!(stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        };
        let size = if let Fault::Size(size) = fault { *size } else { file.len() as u64 };
        let mark = if matches!(fault, Fault::OtherVersion) { "other" } else { "first" };
        let common = format!(
            "etag: \"{mark}\"\r\nlast-modified: Tue, 24 Nov 2026 10:00:00 GMT\r\nconnection: close\r\n"
        );
        let Some(mut range) = request.range.clone().filter(|_| !matches!(fault, Fault::WholeFile))
        else {
            write!(stream, "HTTP/1.1 200 OK\r\n{common}content-length: {size}\r\n\r\n")?;
            return if request.method == "HEAD" { Ok(()) } else { stream.write_all(&file) };
        };
        range.end = range.end.min(file.len() as u64);
        if range.is_empty() {
            return write!(
                stream,
                "HTTP/1.1 416 Range Not Satisfiable\r\ncontent-length: 0\r\n\r\n"
            );
        }
        if matches!(fault, Fault::OtherRange) {
            range = range.start.saturating_sub(1)..range.end - 1;
        }
        let mut body = file[range.start as usize..range.end as usize].to_vec();
        if matches!(fault, Fault::OtherBytes) {
            body.iter_mut().skip(20).step_by(97).for_each(|byte| *byte ^= 0x55);
        }
        write!(stream, "HTTP/1.1 206 Partial Content\r\n{common}")?;
        write!(stream, "content-range: bytes {}-{}/{size}\r\n", range.start, range.end - 1)?;
        match fault {
            Fault::TooMuch => {
                body.extend([7; 1000]);
                write!(stream, "content-length: {}\r\n\r\n", body.len())?;
                stream.write_all(&body)
            }
            Fault::BreakOff => {
                write!(stream, "content-length: {}\r\n\r\n", body.len())?;
                stream.write_all(&body[..body.len() / 2])
            }
            _ => {
                write!(stream, "content-length: {}\r\n\r\n", body.len())?;
                stream.write_all(&body)
            }
        }
    }
}

impl Shared {
    /// Returns S3's answer to a request for the objects of a bucket, which is a folder here.
    fn listed(&self, request: &Request) -> String {
        let bucket = self.folder.join(request.path.trim_end_matches('/'));
        let given = |name: &str| {
            let mut parts = request.query.split('&').filter_map(|part| part.split_once('='));
            parts.find(|(found, _)| *found == name).map(|(_, value)| decoded(value))
        };
        let prefix = given("prefix").unwrap_or_default();
        let (mut found, mut folders) = (String::new(), vec![bucket.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let key = path.strip_prefix(&bucket).unwrap().to_string_lossy().into_owned();
                let Some(rest) = key.strip_prefix(&prefix) else { continue };
                if given("delimiter").is_none() || !rest.contains('/') {
                    let size = entry.metadata().unwrap().len().to_string();
                    found.extend([
                        "<Contents><Key>",
                        &key,
                        "</Key><LastModified>2026-11-24T10:00:00.000Z</LastModified>",
                        "<ETag>&quot;first&quot;</ETag><Size>",
                        &size,
                        "</Size></Contents>",
                    ]);
                }
            }
        }
        format!("<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>")
    }
}

/// Decodes a URL's path: Google's client escapes all but letters and digits.
fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(part[2..].bytes());
    }
    String::from_utf8(bytes).unwrap()
}
