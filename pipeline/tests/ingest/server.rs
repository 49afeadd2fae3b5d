//! A local web server that can misbehave: the tests write the bytes of its answers themselves.
//!
//! It listens on all of 127.0.0.0/8 at one port, so that one server acts as any number of hosts.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The input of a handler: the request, and the connection for the answer.
pub(crate) struct Call<'a> {
    /// Without its port.
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) headers: String,
    /// Number of requests for this path of this host, including this one.
    pub(crate) times: usize,
    pub(crate) stream: &'a mut TcpStream,
}

impl Call<'_> {
    /// Sends bytes. It does not matter if the client has disconnected already.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).and_then(|()| self.stream.flush()).is_ok()
    }

    pub(crate) fn status(&mut self, status: &str, headers: &str, body: &[u8]) {
        let length = body.len();
        self.send(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n"));
        self.send(body);
    }

    pub(crate) fn image(&mut self, number: u32) {
        self.status("200 OK", "Content-Type: image/png\r\n", &super::build::png(number));
    }

    /// Sends nothing more and waits until the client disconnects.
    pub(crate) fn stall(&mut self) {
        let _ = self.stream.set_read_timeout(Some(Duration::from_secs(20)));
        let _ = self.stream.read(&mut [0; 16]);
        self.close();
    }

    pub(crate) fn close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

pub(crate) struct Server {
    pub(crate) port: u16,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Answers every request by `handler`, each connection on a separate thread.
    pub(crate) fn start(handler: impl Fn(&mut Call) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("0.0.0.0", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(HashMap::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let server =
            Self { port, asked: Arc::clone(&asked), connections: Arc::clone(&connections) };
        let handler = Arc::new(handler);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                connections.fetch_add(1, Ordering::SeqCst);
                let (handler, asked) = (Arc::clone(&handler), Arc::clone(&asked));
                std::thread::spawn(move || connection(stream.unwrap(), &*handler, &asked));
            }
        });
        server
    }

    /// The URL of a path of host `127.0.X.Y`.
    pub(crate) fn url(&self, host: u16, path: &str) -> String {
        format!("http://127.0.{}.{}:{}{path}", host / 250, host % 250 + 1, self.port)
    }

    /// Number of requests for each path, all hosts together, without robots.txt.
    pub(crate) fn asked(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for (place, count) in self.asked.lock().unwrap().iter() {
            let (_, path) = place.split_once('/').unwrap();
            if path != "robots.txt" {
                *counts.entry(format!("/{path}")).or_default() += count;
            }
        }
        counts
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn robots_asked(&self) -> usize {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .filter(|(place, _)| place.ends_with("/robots.txt"))
            .map(|(_, count)| count)
            .sum()
    }
}

fn connection(
    mut stream: TcpStream,
    handler: &dyn Fn(&mut Call),
    asked: &Mutex<HashMap<String, usize>>,
) {
    let _ = stream.set_nodelay(true);
    loop {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let host = host.rsplit_once(':').unwrap().0.to_owned();
        let times = {
            let mut asked = asked.lock().unwrap();
            let times = asked.entry(format!("{host}{path}")).or_default();
            *times += 1;
            *times
        };
        handler(&mut Call { host, path, headers: head, times, stream: &mut stream });
    }
}
