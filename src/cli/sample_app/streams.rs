//! Uploads and downloads of any length in bounded memory, with content that the client can check.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::timeout;

use super::form::field;
use super::response::{self, AppResponse};

/// The largest download, in bytes.
const MAX_DOWNLOAD: u64 = 2 << 30;
/// The longest pause between two pieces of an upload.
const MAX_UPLOAD_PAUSE: Duration = Duration::from_secs(60);

/// Byte `n` of a download is `n % PERIOD`. A prime number, so that a lost, repeated or moved piece shows.
const PERIOD: usize = 251;
/// One piece of a download. Its length is a whole number of periods, so that every piece begins with the pattern's
/// first byte, and about 64 KiB.
static PIECE: [u8; PERIOD * 261] = {
    let mut piece = [0; PERIOD * 261];
    let mut n = 0;
    while n < piece.len() {
        piece[n] = (n % PERIOD) as u8;
        n += 1;
    }
    piece
};

/// Answers `GET /download?bytes=N[&chunked=1]`: N bytes of the pattern, with a length unless the client wants it
/// chunked.
pub(super) fn download(query: Option<&str>) -> AppResponse {
    let query = query.unwrap_or_default();
    let wanted = field(query, "bytes").ok().flatten().and_then(|text| text.parse::<u64>().ok());
    let Some(bytes) = wanted.filter(|bytes| *bytes <= MAX_DOWNLOAD) else {
        return response::text(
            StatusCode::BAD_REQUEST,
            "give the size as ?bytes=N, N from 0 to 2147483648\n",
        );
    };
    let chunked = field(query, "chunked").is_ok_and(|value| value.as_deref() == Some("1"));
    let pieces = stream::unfold(bytes, |left| async move {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE.len());
        (size > 0).then(|| (Bytes::from_static(&PIECE[..size]), left - size as u64))
    });
    let mut response = response::streamed("application/octet-stream", pieces);
    if !chunked {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    }
    response
}

/// Answers `POST /upload`: the number of received bytes, and the XOR of all bytes.
pub(super) async fn upload(mut body: Incoming) -> AppResponse {
    let (mut bytes, mut sum) = (0u64, 0u8);
    loop {
        match timeout(MAX_UPLOAD_PAUSE, body.frame()).await {
            Err(_) => return response::text(StatusCode::REQUEST_TIMEOUT, "the upload stopped\n"),
            Ok(Some(Err(_))) => return response::text(StatusCode::BAD_REQUEST, "the upload broke off\n"),
            Ok(None) => return response::json(StatusCode::OK, &json!({ "bytes": bytes, "xor": sum })),
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    bytes += data.len() as u64;
                    sum ^= xor(data);
                }
            }
        }
    }
}

/// Returns the XOR of all bytes. It takes eight bytes at a time, because a test sends gigabytes through unoptimised
/// builds.
fn xor(data: &[u8]) -> u8 {
    let (words, rest) = data.as_chunks::<8>();
    let wide = words.iter().fold(0, |sum, word| sum ^ u64::from_ne_bytes(*word));
    wide.to_ne_bytes().iter().chain(rest).fold(0, |sum, byte| sum ^ byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(query: &str) -> (http::HeaderMap, Vec<u8>) {
        let (head, body) = download(Some(query)).into_parts();
        (head.headers, body.collect().await.unwrap().to_bytes().to_vec())
    }

    #[tokio::test]
    async fn a_download_has_the_pattern_across_its_pieces() {
        let (headers, bytes) = body("bytes=150000").await;
        assert_eq!(headers[CONTENT_LENGTH], "150000");
        assert!(bytes.iter().enumerate().all(|(n, byte)| usize::from(*byte) == n % PERIOD));
        assert_eq!(bytes.len(), 150_000);
    }

    #[tokio::test]
    async fn a_chunked_download_has_no_length_header_and_an_empty_one_no_bytes() {
        let (headers, bytes) = body("chunked=1&bytes=70000").await;
        assert!(!headers.contains_key(CONTENT_LENGTH));
        assert_eq!(bytes.len(), 70_000);
        assert_eq!(body("bytes=0").await.1.len(), 0);
    }

    #[test]
    fn a_size_that_is_missing_or_over_the_limit_is_refused() {
        for query in [None, Some(""), Some("bytes=x"), Some("bytes=-1"), Some("bytes=2147483649")] {
            assert_eq!(download(query).status(), StatusCode::BAD_REQUEST, "{query:?}");
        }
        assert_eq!(download(Some("bytes=2147483648")).status(), StatusCode::OK);
    }

    #[test]
    fn the_checksum_is_the_xor_of_all_bytes() {
        let data: Vec<u8> = (0..=255u8).chain([1, 2, 4, 9, 200]).collect();
        let one_by_one = data.iter().fold(0, |sum, byte| sum ^ byte);
        assert_eq!(xor(&data), one_by_one);
        assert_eq!(xor(&[]), 0);
    }
}
