//! Parts of files, files that have not changed, and files that are stored compressed.

use crate::support::harness::Answer;

use super::super::apps::Apps;
use super::super::random::{NUMBERS_LENGTH, Random, numbers, sha256};

/// Returns the host and the path of a file of numbers, served by nginx or by Node-RED.
fn file<'a>(apps: &'a Apps, random: &mut Random) -> (&'a str, &'static str) {
    let at = random.below(2);
    match random.below(8) {
        0 => (&apps.red[at].host, "/files/numbers.txt"),
        _ => (&apps.nginx[at].host, "/numbers/all.txt"),
    }
}

async fn ask(apps: &Apps, (host, path): (&str, &str), fields: &str) -> Answer {
    let mut connection = apps.connect().await;
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n\r\n")).await;
    connection.read_answer().await
}

fn check_part(answer: &Answer, from: usize, length: usize) {
    assert_eq!(answer.status, 206, "{}", answer.text());
    let range = format!("bytes {from}-{}/{NUMBERS_LENGTH}", from + length - 1);
    assert_eq!(answer.header("content-range"), range);
    assert_eq!(answer.header("content-length"), length.to_string());
    assert_eq!(answer.body, numbers(from, length));
}

pub(super) async fn one(apps: &Apps, number: u64) {
    let mut random = Random::new(number);
    let length = 1 + random.below(60_000);
    let from = random.below(NUMBERS_LENGTH - length);
    let file = file(apps, &mut random);
    let answer = ask(apps, file, &format!("Range: bytes={from}-{}", from + length - 1)).await;
    check_part(&answer, from, length);
}

pub(super) async fn last_bytes(apps: &Apps, number: u64) {
    let mut random = Random::new(number);
    let length = 1 + random.below(20_000);
    let answer = ask(apps, file(apps, &mut random), &format!("Range: bytes=-{length}")).await;
    check_part(&answer, NUMBERS_LENGTH - length, length);
}

pub(super) async fn two(apps: &Apps, number: u64) {
    let mut random = Random::new(number);
    let (first, second) = (random.below(400_000), 500_000 + random.below(400_000));
    let host = &apps.nginx[random.below(2)].host;
    let fields = format!("Range: bytes={first}-{},{second}-{}", first + 999, second + 1999);
    let answer = ask(apps, (host, "/numbers/all.txt"), &fields).await;
    assert_eq!(answer.status, 206, "{}", answer.text());
    let boundary = answer.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut expected = Vec::new();
    for (from, length) in [(first, 1000), (second, 2000)] {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {from}-{}/{NUMBERS_LENGTH}\r\n\r\n",
            from + length - 1
        );
        expected.extend(head.into_bytes());
        expected.extend(numbers(from, length));
    }
    expected.extend(format!("\r\n--{boundary}--\r\n").into_bytes());
    assert_eq!(answer.body, expected);
}

pub(super) async fn beyond_the_end(apps: &Apps, number: u64) {
    let answer = ask(apps, file(apps, &mut Random::new(number)), "Range: bytes=2000000-").await;
    assert_eq!((answer.status, answer.header("content-range")), (416, "bytes */1048581"));
}

/// Two requests: the tag of the file, then the file unless it has this tag.
pub(super) async fn unchanged(apps: &Apps, number: u64) {
    let (host, path) = file(apps, &mut Random::new(number));
    let mut connection = apps.connect().await;
    connection.send(format!("HEAD {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    let head = connection.read_head().await;
    let tag = head.headers["etag"].to_str().unwrap();
    assert_eq!((head.status, head.headers["content-length"].to_str().unwrap()), (200, "1048581"));
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nIf-None-Match: {tag}\r\n\r\n")).await;
    let answer = connection.read_answer().await;
    assert_eq!((answer.status, answer.header("etag")), (304, tag));
}

/// The compressed bytes arrive as they are stored.
pub(super) async fn compressed(apps: &Apps, number: u64) {
    let file = (&*apps.nginx[number as usize % 2].host, "/numbers/all.txt");
    let answer = ask(apps, file, "Accept-Encoding: gzip").await;
    assert_eq!((answer.status, answer.header("content-encoding")), (200, "gzip"));
    assert_eq!(sha256(&answer.body), apps.compressed_hash);
}
