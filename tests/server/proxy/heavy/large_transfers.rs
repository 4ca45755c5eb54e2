//! Gigabytes in both directions, in bounded memory.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::harness::{Demo, Server, Wire};

const GIGABYTE: usize = 1 << 30;
/// What the server's memory may grow by, in KiB.
const GROWTH: u64 = 64 * 1024;

/// The most memory that the server has had so far, in KiB.
fn peak(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs a transfer and asserts that the server's memory stayed within its bound.
async fn bounded(what: &str, server: &Server, transfer: impl Future<Output = ()>) {
    let (before, start) = (peak(server), Instant::now());
    transfer.await;
    let growth = peak(server) - before;
    eprintln!("{what}: {:?}, {growth} KiB more", start.elapsed());
    assert!(growth < GROWTH, "{what}: {growth} KiB more");
}

/// Reads a download's body, of which byte n is n modulo 251, and checks the ends of each piece read.
struct Checked {
    stream: TcpStream,
    at: usize,
    buf: Vec<u8>,
}

impl Checked {
    async fn read(&mut self, until: usize) {
        while self.at < until {
            let most = self.buf.len().min(until - self.at);
            let n = self.stream.read(&mut self.buf[..most]).await.unwrap();
            assert!(n > 0, "the download ended {} bytes early", until - self.at);
            assert_eq!(usize::from(self.buf[0]), self.at % 251);
            assert_eq!(usize::from(self.buf[n - 1]), (self.at + n - 1) % 251);
            self.at += n;
        }
    }
}

/// Asks on a connection of its own and returns it with the head read.
async fn ask(server: &Server, head: String) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(answer).unwrap().to_ascii_lowercase())
}

async fn down_with_a_length(server: &Server, demo: &Demo) {
    let head = format!("GET /download?bytes={GIGABYTE} HTTP/1.1\r\nHost: {}\r\n\r\n", demo.host);
    let (stream, answer) = ask(server, head).await;
    assert!(answer.contains(&format!("content-length: {GIGABYTE}\r\n")), "{answer}");
    Checked { stream, at: 0, buf: vec![0; 256 * 1024] }.read(GIGABYTE).await;
}

async fn down_in_chunks(server: &Server, demo: &Demo) {
    let head = format!("GET /download?bytes={GIGABYTE}&chunked=1 HTTP/1.1\r\nHost: {}\r\n\r\n", demo.host);
    let (stream, answer) = ask(server, head).await;
    assert!(answer.contains("transfer-encoding: chunked\r\n"), "{answer}");
    let mut stream = tokio::io::BufReader::with_capacity(256 * 1024, stream);
    let (mut at, mut buf) = (0, Vec::new());
    loop {
        let mut line = String::new();
        tokio::io::AsyncBufReadExt::read_line(&mut stream, &mut line).await.unwrap();
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        buf.resize(size + 2, 0);
        stream.read_exact(&mut buf).await.unwrap();
        assert_eq!(buf[size..], *b"\r\n");
        if size == 0 {
            break;
        }
        assert_eq!((usize::from(buf[0]), usize::from(buf[size - 1])), (at % 251, (at + size - 1) % 251));
        at += size;
    }
    assert_eq!(at, GIGABYTE);
}

async fn up_in_chunks(server: &Server, demo: &Demo) {
    const PIECE: usize = 128 * 1024;
    let mut wire = Wire::connect(server.port).await;
    wire.send(format!("POST /upload HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n", demo.host))
        .await;
    // Its bytes but one cancel out.
    let mut piece = format!("{PIECE:x}\r\n").into_bytes();
    piece.extend(std::iter::repeat_n(7, PIECE - 1).chain([7 ^ 42]));
    piece.extend(b"\r\n");
    for _ in 0..GIGABYTE / PIECE {
        wire.send(&piece).await;
    }
    // One more, so that the sum is not zero.
    wire.send(&piece).await;
    wire.send("0\r\n\r\n").await;
    let sum = wire.answer().await.json();
    assert_eq!((&sum["bytes"], &sum["xor"]), (&(GIGABYTE + PIECE).into(), &42.into()));
}

/// Visitors who ask for much and read little of it.
async fn stalled(server: &Server, demo: &Demo) {
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let head = format!("GET /download?bytes={GIGABYTE} HTTP/1.1\r\nHost: {}\r\n\r\n", demo.host);
        let mut download = Checked { stream: ask(server, head).await.0, at: 0, buf: vec![0; 4096] };
        download.read(4096).await;
        waiting.push(download);
    }
    // Meanwhile others are served, which is time enough for 20 gigabytes to pile up.
    let head = format!("GET /download?bytes={} HTTP/1.1\r\nHost: {}\r\n\r\n", GIGABYTE / 8, demo.host);
    let stream = ask(server, head).await.0;
    Checked { stream, at: 0, buf: vec![0; 256 * 1024] }.read(GIGABYTE / 8).await;
    for download in &mut waiting {
        download.read(8 << 20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gigabytes_stream_down_in_bounded_memory() {
    let server = Server::start(&[]).await;
    let demo = server.acquire().await;
    bounded("down with a length", &server, down_with_a_length(&server, &demo)).await;
    bounded("down in chunks", &server, down_in_chunks(&server, &demo)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_streams_up_in_bounded_memory() {
    let server = Server::start(&[]).await;
    let demo = server.acquire().await;
    bounded("up in chunks", &server, up_in_chunks(&server, &demo)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_who_do_not_read_cost_little_memory() {
    let server = Server::start(&[]).await;
    let demo = server.acquire().await;
    bounded("stalled", &server, stalled(&server, &demo)).await;
}
