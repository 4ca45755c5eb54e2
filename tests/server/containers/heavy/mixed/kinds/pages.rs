//! Pages and forms of the apps, each with the state of its own instance.

use std::path::Path;

use crate::support::harness::{get, request};

use super::super::apps::Apps;
use super::super::random::{Random, sha256};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

pub(super) async fn php(apps: &Apps, number: u64) {
    let php = &apps.php[number as usize % 2];
    php.check_page(&get(apps.port, &php.host, "/").await);
}

pub(super) async fn note(apps: &Apps, number: u64) {
    let php = &apps.php[number as usize % 2];
    let note = php.note(&format!("note {number} {}", Random::new(number).token()).replace(' ', "-"));
    let answer = request(apps.port, "POST", &php.host, "/", &[FORM], &note).await;
    assert_eq!((answer.status, answer.header("location")), (303, "/"), "{}", answer.text());
}

pub(super) async fn style(apps: &Apps, number: u64) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments/images/php/root/app/public/style.css");
    let answer = get(apps.port, &apps.php[number as usize % 2].host, "/style.css").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.body, std::fs::read(file).unwrap());
}

pub(super) async fn order(apps: &Apps, number: u64) {
    let shop = &apps.shop[number as usize % 2];
    shop.begin_order();
    let body = format!("number={}", number % 1000);
    let answer = request(apps.port, "POST", &shop.host, "/cart", &[FORM], &body).await;
    assert_eq!((answer.status, answer.header("location")), (303, "/"), "{}", answer.text());
    shop.end_order();
}

pub(super) async fn shop(apps: &Apps, number: u64) {
    let shop = &apps.shop[number as usize % 2];
    let before = shop.before_page();
    shop.check_page(before, &get(apps.port, &shop.host, "/").await);
}

pub(super) async fn own_cookie(apps: &Apps, number: u64) {
    let named = &apps.red[number as usize % 2];
    let answer = get(apps.port, &named.host, "/who").await;
    assert_eq!((answer.status, answer.text()), (200, named.name.clone()));
    let cookies = answer.headers.get_all("set-cookie").into_iter().map(|value| value.to_str().unwrap());
    let own = format!("own={}; Path=/", named.name);
    assert_eq!(cookies.collect::<Vec<_>>(), [own.as_str(), "seen=yes; Path=/"]);
}

pub(super) async fn wordpress(apps: &Apps, number: u64) {
    let wordpress = &apps.wordpress[number as usize % 2];
    let posts = wordpress.posts();
    wordpress.check_front_page(posts, &get(apps.port, &wordpress.host, "/").await);
}

/// The session of one instance is valid there and not in the other instance.
pub(super) async fn session(apps: &Apps, number: u64) {
    let (own, other) = (&apps.wordpress[number as usize % 2], &apps.wordpress[(number / 2) as usize % 2]);
    // Each instance reads a cookie whose name follows from its address.
    let name = own.cookie.split('=').next().unwrap();
    let cookie = format!("{name}={}", other.cookie.split_once('=').unwrap().1);
    let page = request(apps.port, "GET", &own.host, "/", &[("cookie", &cookie)], "").await;
    assert_eq!(page.status, 200, "{}", page.text());
    let is_logged_in = page.text().contains("wp-admin/profile.php");
    assert_eq!(is_logged_in, own.host == other.host, "only its own session is valid");
}

pub(super) async fn script(apps: &Apps, number: u64) {
    let host = &apps.wordpress[number as usize % 2].host;
    let answer = get(apps.port, host, "/wp-includes/js/jquery/jquery.min.js").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(sha256(&answer.body), apps.jquery_hash);
}

/// Publishes a post and asserts that the front page shows it.
pub(in super::super) async fn publish(apps: &Apps, number: u64) {
    let wordpress = &apps.wordpress[number as usize % 2];
    wordpress.publish(apps.port).await;
    let posts = wordpress.posts();
    wordpress.check_front_page(posts, &get(apps.port, &wordpress.host, "/").await);
}
