//! A whole response as bytes, for a connection on which no engine answers.

use bytes::Bytes;

use crate::api::Body;

/// Returns a whole HTTP/1.1 response as bytes. It is the last response of its connection.
pub(super) fn encode_response(response: http::Response<Body>) -> Vec<u8> {
    let (head, body) = response.into_parts();
    let body = match body {
        // A response that is sent this way never assigns an instance.
        Body::Full(bytes) | Body::WithDelivery(bytes, _) => bytes.unwrap_or_default(),
        Body::Stream(_) => Bytes::new(),
    };
    let mut bytes = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(&body);
    bytes
}
