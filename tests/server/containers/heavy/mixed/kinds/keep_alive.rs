//! Many requests on one connection, for different instances too: one after the other, and all at once.

use super::super::apps::Apps;
use super::super::random::{NUMBERS_LENGTH, Random, numbers};

/// Four requests in turn, each for another app.
pub(super) async fn in_turn(apps: &Apps, number: u64) {
    let mut random = Random::new(number);
    let mut connection = apps.connect().await;
    let red = &apps.red[random.below(2)];
    let answer = connection.get(&red.host, "/who").await;
    assert_eq!((answer.status, answer.text()), (200, red.name.clone()));
    let nginx = &apps.nginx[random.below(2)];
    let answer = connection.get(&nginx.host, "/uploads/who").await;
    assert_eq!((answer.status, answer.text()), (200, nginx.name.clone()));
    let shop = &apps.shop[random.below(2)];
    let before = shop.before_page();
    shop.check_page(before, &connection.get(&shop.host, "/").await);
    let answer = connection.get("localhost", "/health").await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &"ok".into()));
}

/// Six requests before the first answer is read.
pub(super) async fn pipelined(apps: &Apps, number: u64) {
    let mut random = Random::new(number);
    let mut connection = apps.connect().await;
    let starts: Vec<_> = (0..6).map(|_| random.below(NUMBERS_LENGTH - 5000)).collect();
    let request = |(at, from): (usize, &usize)| {
        let host = &apps.nginx[at % 2].host;
        format!(
            "GET /numbers/all.txt HTTP/1.1\r\nHost: {host}\r\nRange: bytes={from}-{}\r\n\r\n",
            from + 4999
        )
    };
    connection.send(starts.iter().enumerate().map(request).collect::<String>()).await;
    for from in starts {
        let answer = connection.read_answer().await;
        assert_eq!(answer.status, 206, "{}", answer.text());
        assert_eq!(answer.body, numbers(from, 5000));
    }
}

/// Answers to HEAD have the fields of answers to GET and no body, which the last answer on the connection shows.
pub(super) async fn head(apps: &Apps, number: u64) {
    let at = number as usize % 2;
    let mut connection = apps.connect().await;
    let named = &apps.red[at];
    for (host, path, length) in [
        (&apps.nginx[at].host, "/numbers/all.txt", NUMBERS_LENGTH),
        (&apps.nginx[1 - at].host, "/numbers/", 75),
        (&apps.red[at].host, "/who", named.name.len()),
    ] {
        connection.send(format!("HEAD {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let head = connection.read_head().await;
        assert_eq!(head.status, 200, "{path}: {head:?}");
        assert_eq!(head.headers["content-length"].to_str().unwrap(), length.to_string(), "{path}");
    }
    let answer = connection.get(&named.host, "/who").await;
    assert_eq!((answer.status, answer.text()), (200, named.name.clone()));
}
