//! Redirects that the apps make with the port or the host that they know: they lead to the public address.

use crate::support::harness::get;

use super::super::apps::Apps;

pub(super) async fn nginx(apps: &Apps, number: u64) {
    let host = &apps.nginx[number as usize % 2].host;
    let answer = get(apps.port, host, "/numbers?page=1").await;
    let location = format!("http://{host}/numbers/?page=1");
    assert_eq!((answer.status, answer.header("location")), (301, &*location));
}

pub(super) async fn node_red(apps: &Apps, number: u64) {
    let host = &apps.red[number as usize % 2].host;
    let answer = get(apps.port, host, "/away").await;
    let location = format!("http://{host}/who");
    assert_eq!((answer.status, answer.header("location"), &*answer.text()), (302, &*location, "moved"));
}

pub(super) async fn wordpress(apps: &Apps, number: u64) {
    let host = &apps.wordpress[number as usize % 2].host;
    let answer = get(apps.port, host, "/hello-world").await;
    let location = format!("http://{host}/hello-world/");
    assert_eq!((answer.status, answer.header("location")), (301, &*location));
}
