//! Transfers of gigabytes in both directions use a bounded amount of memory.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::harness::{AcquiredInstance, RawConnection, Server};

const GIGABYTE: usize = 1 << 30;
/// The most by which the server's memory may grow, in KiB.
const MAX_GROWTH: u64 = 64 * 1024;

/// Returns the peak memory of the server so far, in KiB.
fn peak_memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs a transfer and asserts that the server's memory stays within its bound.
async fn assert_bounded_memory(what: &str, server: &Server, transfer: impl Future<Output = ()>) {
    let (before, start) = (peak_memory(server), Instant::now());
    transfer.await;
    // The kernel counts pages for each processor by itself and adds them up roughly, so a peak may even fall a little.
    let growth = peak_memory(server).saturating_sub(before);
    eprintln!("{what}: {:?}, {growth} KiB more", start.elapsed());
    assert!(growth < MAX_GROWTH, "{what}: {growth} KiB more");
}

/// Reads the body of a download, in which byte n is n modulo 251, and checks the first and last byte of each piece.
struct CheckedDownload {
    stream: TcpStream,
    at: usize,
    buf: Vec<u8>,
}

impl CheckedDownload {
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

/// Sends a request on a connection of its own and returns that with the head of the answer read.
async fn request_head(server: &Server, head: String) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(answer).unwrap().to_ascii_lowercase())
}

async fn download_with_a_length(server: &Server, instance: &AcquiredInstance) {
    let head = format!("GET /download?bytes={GIGABYTE} HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host);
    let (stream, answer) = request_head(server, head).await;
    assert!(answer.contains(&format!("content-length: {GIGABYTE}\r\n")), "{answer}");
    CheckedDownload { stream, at: 0, buf: vec![0; 256 * 1024] }.read(GIGABYTE).await;
}

async fn download_in_chunks(server: &Server, instance: &AcquiredInstance) {
    let head =
        format!("GET /download?bytes={GIGABYTE}&chunked=1 HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host);
    let (stream, answer) = request_head(server, head).await;
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

async fn upload_in_chunks(server: &Server, instance: &AcquiredInstance) {
    const PIECE: usize = 128 * 1024;
    let mut connection = RawConnection::connect(server.port).await;
    connection
        .send(format!(
            "POST /upload HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
            instance.host
        ))
        .await;
    // All bytes but one cancel out.
    let mut piece = format!("{PIECE:x}\r\n").into_bytes();
    piece.extend(std::iter::repeat_n(7, PIECE - 1).chain([7 ^ 42]));
    piece.extend(b"\r\n");
    for _ in 0..GIGABYTE / PIECE {
        connection.send(&piece).await;
    }
    // Another piece, so that the sum is not zero.
    connection.send(&piece).await;
    connection.send("0\r\n\r\n").await;
    let sum = connection.read_answer().await.json();
    assert_eq!((&sum["bytes"], &sum["xor"]), (&(GIGABYTE + PIECE).into(), &42.into()));
}

/// Starts large downloads and reads little of them.
async fn stalled_downloads(server: &Server, instance: &AcquiredInstance) {
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let head = format!("GET /download?bytes={GIGABYTE} HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host);
        let mut download =
            CheckedDownload { stream: request_head(server, head).await.0, at: 0, buf: vec![0; 4096] };
        download.read(4096).await;
        waiting.push(download);
    }
    // Serves another visitor meanwhile, long enough for 20 gigabytes to be buffered.
    let head = format!("GET /download?bytes={} HTTP/1.1\r\nHost: {}\r\n\r\n", GIGABYTE / 8, instance.host);
    let stream = request_head(server, head).await.0;
    CheckedDownload { stream, at: 0, buf: vec![0; 256 * 1024] }.read(GIGABYTE / 8).await;
    for download in &mut waiting {
        download.read(8 << 20).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gigabytes_stream_down_in_bounded_memory() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    assert_bounded_memory("down with a length", &server, download_with_a_length(&server, &instance)).await;
    assert_bounded_memory("down in chunks", &server, download_in_chunks(&server, &instance)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_streams_up_in_bounded_memory() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    assert_bounded_memory("up in chunks", &server, upload_in_chunks(&server, &instance)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_who_do_not_read_cost_little_memory() {
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    assert_bounded_memory("stalled", &server, stalled_downloads(&server, &instance)).await;
}

/// Returns the memory of the server, in KiB.
fn memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Returns the memory of the server once it has stayed nearly the same for a while, in KiB.
async fn settled_memory(server: &Server) -> u64 {
    let (mut last, mut unchanged) = (memory(server), 0);
    while unchanged < 10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let present = memory(server);
        unchanged = if present.abs_diff(last) < 64 { unchanged + 1 } else { 0 };
        last = present;
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_costs_the_forwarder_less_than_forty_kibibytes() {
    const CLIENTS: u64 = 100;
    let server = Server::start(&[("HTTP1_ENGINE", "forwarder")]).await;
    let instance = server.acquire().await;
    let head = format!("GET /download?bytes={GIGABYTE} HTTP/1.1\r\nHost: {}\r\n\r\n", instance.host);
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(request_head(&server, head.clone()).await);
    }
    let before = settled_memory(&server).await;
    for _ in 0..CLIENTS {
        clients.push(request_head(&server, head.clone()).await);
    }
    let each = settled_memory(&server).await.saturating_sub(before) / CLIENTS;
    eprintln!("a client that reads nothing: {each} KiB");
    // A piece of its response alone would be 32.
    assert!(each < 40, "{each} KiB for each client");
}
