//! A local web server for tests that download: `/N` is image N, anything else is not found.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use image::{ImageFormat, RgbImage};

/// Side of the images in pixels. They are noise, about 20 KB each.
const SIDE: u32 = 80;

pub struct Server {
    port: u16,
    images: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
}

impl Default for Server {
    fn default() -> Self {
        Self::start()
    }
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (images, broken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let server = Self { port, images: Arc::clone(&images), broken: Arc::clone(&broken) };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (images, broken) = (Arc::clone(&images), Arc::clone(&broken));
                std::thread::spawn(move || connection(stream.unwrap(), &images, &broken));
            }
        });
        server
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// Images that were sent.
    pub fn images(&self) -> usize {
        self.images.load(Ordering::SeqCst)
    }

    /// Whether every image is answered by an error.
    pub fn set_broken(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }

    /// A CSV with images `0..count`.
    pub fn list(&self, count: u32) -> String {
        let rows: Vec<String> = (0..count).map(|n| format!("{},image number {n}\n", self.url(&n.to_string()))).collect();
        format!("url,caption\n{}", rows.concat())
    }
}

fn connection(mut stream: TcpStream, images: &AtomicUsize, broken: &AtomicBool) {
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
        let (status, body) = match head.split(' ').nth(1).unwrap()[1..].parse() {
            Ok(_) if broken.load(Ordering::SeqCst) => ("500 Broken", Vec::new()),
            Ok(number) => ("200 OK", noise(number)),
            Err(_) => ("404 Not Found", Vec::new()),
        };
        images.fetch_add(usize::from(!body.is_empty()), Ordering::SeqCst);
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        // A client that was killed does not wait for its answer.
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).is_err() {
            return;
        }
    }
}

fn noise(number: u32) -> Vec<u8> {
    let mut state = number.wrapping_mul(2_654_435_761).max(1);
    let image = RgbImage::from_fn(SIDE, SIDE, |_, _| {
        // xorshift32: Marsaglia, "Xorshift RNGs", 2003.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        image::Rgb([state as u8, (state >> 8) as u8, (state >> 16) as u8])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}
