//! Clients of HTTP/2: many cookies, bodies, many streams at a time.

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use tokio::time::timeout;

use crate::support::harness::{Answer, MAX_WAIT, h2_collect, h2_request};

use super::super::apps::Apps;
use super::super::random::{NUMBERS_LENGTH, Random, numbers, sha256};

/// Returns a request with as many fields `Cookie` as a browser sends crumbs, and the line that the app must get.
fn with_cookies(host: &str, path: &str, random: &mut Random) -> (Request<()>, String) {
    let count = 1 + random.below(100);
    let cookies: Vec<_> = (0..count).map(|at| format!("c{at}={}", random.token())).collect();
    let mut request = Request::get(format!("http://{host}{path}"));
    for cookie in &cookies {
        request = request.header("cookie", cookie);
    }
    (request.body(()).unwrap(), cookies.join("; "))
}

pub(super) async fn cookies(apps: &Apps, number: u64) {
    let mut random = Random::new(number);
    let host = &apps.nginx[random.below(2)].host;
    let (request, line) = with_cookies(host, "/cookies", &mut random);
    let answer = h2_request(&apps.h2(number).await, request).await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, line));
}

pub(super) async fn fields(apps: &Apps, number: u64) {
    let mut random = Random::new(number);
    let host = &apps.red[random.below(2)].host;
    let (request, line) = with_cookies(host, "/fields", &mut random);
    let answer = h2_request(&apps.h2(number).await, request).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let fields = answer.json();
    assert_eq!(fields["cookie"], line.as_str());
    assert_eq!(fields["host"], host.as_str());
    assert_eq!(fields["x-forwarded-proto"], "http");
}

async fn post_to(apps: &Apps, number: u64, host: &str, path: &str, pieces: Vec<Bytes>) -> Answer {
    let request = Request::post(format!("http://{host}{path}"))
        .header("content-type", "application/octet-stream")
        .body(())
        .unwrap();
    let exchange = async {
        let mut send = apps.h2(number).await.ready().await?;
        let (answer, mut body) = send.send_request(request, false)?;
        let last = pieces.len() - 1;
        for (at, piece) in pieces.into_iter().enumerate() {
            body.send_data(piece, at == last)?;
        }
        h2_collect(answer.await?).await
    };
    let answer: Result<Answer, h2::Error> = timeout(MAX_WAIT, exchange).await.expect("an answer");
    answer.unwrap()
}

pub(super) async fn post(apps: &Apps, number: u64) {
    let mut random = Random::new(number);
    let length = 1 + random.below(150_000);
    let body = random.bytes(length);
    let host = &apps.red[random.below(2)].host;
    let pieces = body.chunks(20_000).map(Bytes::copy_from_slice).collect();
    let answer = post_to(apps, number, host, "/sum", pieces).await;
    assert_eq!((answer.status, answer.text()), (200, format!("{length} {}", sha256(&body))));
}

pub(super) async fn eight_streams(apps: &Apps, number: u64) {
    let connection = apps.h2(number).await;
    let streams = (0..8).map(async |at| {
        let mut random = Random::new(number * 8 + at);
        let from = random.below(NUMBERS_LENGTH - 40_000);
        let request = Request::get(format!("http://{}/numbers/all.txt", apps.nginx[random.below(2)].host))
            .header("range", format!("bytes={from}-{}", from + 39_999))
            .body(())
            .unwrap();
        let answer = h2_request(&connection, request).await.unwrap();
        assert_eq!(answer.status, 206, "{}", answer.text());
        assert_eq!(answer.body, numbers(from, 40_000));
    });
    join_all(streams).await;
}

pub(super) async fn long_poll(apps: &Apps, number: u64) {
    let (token, named) = (Random::new(number).token(), &apps.red[number as usize % 2]);
    let path = format!("http://{}/poll?delay=700&token={token}", named.host);
    let answer = h2_request(&apps.h2(number).await, Request::get(path).body(()).unwrap()).await.unwrap();
    assert_eq!((answer.status, answer.text()), (200, format!("polled {token} {}", named.name)));
}
