//! From the front page into an app and back.

use serde_json::json;

use crate::chromium::Browser;
use crate::support::harness::{Server, get, request};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// The address of a server's front page.
pub fn home(server: &Server) -> String {
    format!("http://localhost:{}/", server.port)
}

/// What stands on an instance's page as its id, which must be that of its host.
async fn instance(browser: &Browser) -> String {
    let id = browser.text("#instance").await;
    let address = browser.address().await;
    assert!(address.starts_with(&format!("http://{id}.localhost:")), "{id} is not at {address}");
    id
}

#[tokio::test]
async fn the_front_page_lists_every_app_and_counts_what_is_ready_while_it_is_open() {
    let Some(browser) = Browser::start().await else { return };
    let folder = std::env::temp_dir().join(format!("try-it-now-pages-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("apps.toml");
    let apps = r#"
[templates.guest-book]
command = ["try-it-now", "sample-app"]
title = "Guest <book>"
description = "Signed by you."
ready = { path = "/health" }
pool = { target = 2, min = 1, max = 2 }
ttl = "90s"

[templates.other]
command = ["try-it-now", "sample-app"]
ready = { path = "/health" }
pool = { target = 1, min = 1, max = 1 }
"#;
    std::fs::write(&file, apps).unwrap();
    let arguments = ["serve", "--config", file.to_str().unwrap()];
    let server = Server::start_with(&[], &arguments).await.full().await;
    browser.open(&home(&server)).await;
    let titles = browser.value("[...document.querySelectorAll('h2')].map(h => h.textContent)").await;
    assert_eq!(titles, json!(["Guest <book>", "other"]));
    let card = browser.text("#template-guest-book").await;
    assert!(card.contains("Signed by you.") && card.contains("1 minute and 30 seconds"), "{card}");
    let (ready, other) = ("#template-guest-book [data-ready-text]", "#template-other [data-ready-text]");
    assert_eq!(browser.text(ready).await, "2 ready now");
    let first = server.acquire().await;
    browser.text_when(ready, |text| text == "1 ready now").await;
    server.acquire().await;
    browser.text_when(ready, |text| text.starts_with("being prepared")).await;
    server.call("DELETE", &format!("/api/v1/demo/{}", first.id), "").await;
    browser.text_when(ready, |text| text == "1 ready now").await;
    assert_eq!(browser.text(other).await, "1 ready now");
    browser.screenshot("front-two").await;
    browser.click("#try-guest-book").await;
    assert!(instance(&browser).await.starts_with("guest-book-"));
    assert_eq!(browser.console().await, [""; 0]);
    browser.close().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

/// What a clock shows, which may be a whole hour: `1:00:00`, or `59:59`.
fn seconds(clock: &str) -> u32 {
    clock.split(':').fold(0, |sum, part| 60 * sum + part.parse::<u32>().unwrap())
}

#[tokio::test]
async fn a_click_leads_into_an_app_of_ones_own_that_is_live_and_can_be_ended() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&[]).await;
    browser.open(&home(&server)).await;
    browser.click("#try-default").await;
    let mine = instance(&browser).await;
    let host = format!("{mine}.localhost:{}", server.port);
    browser.text_when("#live-text", |text| text.starts_with("Live")).await;
    browser.value("window.sameDocument = true").await;
    browser.write("#name", "Ada").await;
    browser.write("#text", "Mine alone").await;
    browser.click("#send").await;
    browser.text_when("#entries", |text| text.contains("Mine alone")).await;
    // Somebody else with the same address signs too.
    let posted =
        request(server.port, "POST", &host, "/entries", &[FORM], "name=Grace&text=Live+from+afar").await;
    assert_eq!(posted.status, 303, "{}", posted.text());
    browser.text_when("#entries", |text| text.contains("Live from afar")).await;
    assert_eq!(browser.value("window.sameDocument").await, json!(true), "it came without a reload");
    browser.screenshot("sample").await;

    let other = server.acquire().await;
    browser.open(&other.url).await;
    assert_eq!(instance(&browser).await, other.id);
    assert_eq!(browser.text("#total").await, "0");
    browser.text("#empty").await;
    assert!(!get(server.port, &other.host, "/").await.text().contains("Mine alone"));

    browser.open(&home(&server)).await;
    assert_eq!(
        browser.value("document.querySelector('#open-default').href").await,
        json!(format!("http://{host}/"))
    );
    let first = browser.text("[data-clock]").await;
    browser.text_when("[data-clock]", |text| seconds(text) < seconds(&first)).await;
    browser.screenshot("front-running").await;
    // A copy whose time was extended elsewhere is not called ended.
    browser.value("void (copies[0].endsAt = Date.now())").await;
    browser.until("copies[0].endsAt > Date.now()").await;
    browser.text_when("[data-clock]", |text| seconds(text) > 50 * 60).await;
    browser.click("#open-default").await;
    assert_eq!(instance(&browser).await, mine);
    browser.client().back().await.unwrap();
    assert_eq!(browser.console().await, [""; 0]);
    browser.click("#end-default").await;
    browser.element("#try-default").await;
    assert_eq!(browser.address().await, home(&server));
    assert_eq!(get(server.port, &host, "/").await.status, 404);
    assert_eq!(get(server.port, &other.host, "/").await.status, 200);
    browser.close().await;
}

#[tokio::test]
async fn when_the_time_is_over_every_page_says_so_and_offers_another_copy() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&[("POOL_DEFAULT_TTL", "10s")]).await;
    browser.open(&home(&server)).await;
    browser.click("#try-default").await;
    let mine = instance(&browser).await;
    let address = browser.address().await;
    browser.open(&home(&server)).await;
    let clock = browser.text("[data-clock]").await;
    assert!(clock.as_str() > "00:00" && clock.as_str() <= "00:10", "{clock}");
    assert_eq!(browser.text("[data-over]").await, "Your copy has ended. Thank you for trying it!");
    browser.element("#try-default").await;
    browser.until("document.querySelector('.copy').hidden").await;
    assert_eq!(browser.console().await, [""; 0]);

    browser.open(&address).await;
    assert_eq!(browser.text("h1").await, "Your time with this copy is over");
    assert_eq!(get(server.port, &format!("{mine}.localhost:{}", server.port), "/").await.status, 410);
    browser.screenshot("ended").await;
    let console = browser.console().await;
    assert!(console.iter().all(|said| said.contains("410")), "{console:?}");
    browser.click("main button").await;
    browser.element("#instance").await;
    assert_ne!(instance(&browser).await, mine);
    // Whoever stays in the app sees it run out there.
    browser.text_when("#clock", |text| text == "Ended").await;
    assert!(browser.text("#problem").await.contains("over"));
    browser.close().await;
}

#[tokio::test]
async fn every_button_works_without_javascript() {
    let Some(browser) = Browser::without_javascript().await else { return };
    let server = Server::start(&[]).await;
    browser.open(&home(&server)).await;
    assert!(browser.text(".still").await.contains("JavaScript is off"));
    assert_eq!(browser.text("[data-ready-text]").await, "2 ready now");
    browser.click("#try-default").await;
    let mine = instance(&browser).await;
    browser.write("#name", "Ada").await;
    browser.write("#text", "By form").await;
    browser.click("#send").await;
    browser.text_when("#entries", |text| text.contains("By form")).await;
    browser.open(&home(&server)).await;
    browser.click("#end-default").await;
    browser.element("#try-default").await;
    assert_eq!(get(server.port, &format!("{mine}.localhost:{}", server.port), "/").await.status, 404);
    browser.close().await;
}

#[tokio::test]
async fn who_has_had_enough_or_comes_too_early_is_told_in_a_page() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&[("RATE_LIMIT_HOURLY", "1"), ("RATE_LIMIT_DAILY", "5")]).await;
    browser.open(&home(&server)).await;
    browser.click("#try-default").await;
    instance(&browser).await;
    browser.open(&home(&server)).await;
    browser.click("#end-default").await;
    browser.click("#try-default").await;
    browser.element("main.notice").await;
    assert_eq!(browser.text("h1").await, "That was your last copy for now");
    let told = browser.text(".what").await;
    assert!(told.contains("1 copy of this app an hour and 5 a day") && told.contains(" at "), "{told}");
    browser.screenshot("limited").await;
    let console = browser.console().await;
    assert!(console.iter().all(|said| said.contains("429")), "{console:?}");
    browser.click("main a.button").await;
    browser.element("#try-default").await;

    // A person may type the address of the button, or reload where it led.
    browser.open(&format!("{}try/default", home(&server))).await;
    assert_eq!(browser.address().await, home(&server));
    browser.close().await;

    let server = Server::start(&[("POOL_TARGET_SIZE", "1"), ("POOL_MAX_SIZE", "1")]).await;
    let Some(browser) = Browser::start().await else { return };
    server.acquire().await;
    browser.open(&home(&server)).await;
    browser.click("#try-default").await;
    browser.element("main.notice").await;
    assert_eq!(browser.text("h1").await, "All copies are taken right now");
    browser.screenshot("busy").await;
    browser.until("!document.querySelector('main button').disabled").await;
    browser.close().await;
}

#[tokio::test]
async fn the_front_page_knows_a_copy_for_as_long_as_it_can_be_extended() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "30s"), ("POOL_MAX_TTL", "2h")]).await;
    let ask = async |method, path: &str, headers: &[(&str, &str)]| {
        request(server.port, method, "localhost", path, headers, "").await
    };
    let taken = ask("POST", "/try/default", &[]).await;
    assert_eq!(taken.status, 303);
    let cookie = taken.header("set-cookie");
    assert!(cookie.contains("Max-Age=7200; HttpOnly; SameSite=Lax"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    let id = pair.split_once('=').unwrap().1;
    let longer = server.call("POST", &format!("/api/v1/demo/{id}/extend"), r#"{"minutes":30}"#).await;
    assert_eq!(longer.status, 200, "{}", longer.text());
    let front = ask("GET", "/", &[("cookie", pair)]).await;
    assert!(front.text().contains(&format!("/end/{id}")) && front.text().contains(">30:"));
    assert_eq!(front.header("set-cookie"), "");
    // Once it is over the page forgets it.
    server.call("DELETE", &format!("/api/v1/demo/{id}"), "").await;
    let front = ask("GET", "/", &[("cookie", pair)]).await;
    assert!(!front.text().contains(id));
    assert!(front.header("set-cookie").starts_with("instance-default=; Path=/; Max-Age=0"));
}

#[tokio::test]
async fn the_address_of_a_button_spends_nothing_and_leads_a_person_home() {
    let server = Server::start(&[]).await;
    let page = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    for path in ["/try/default", "/try/nothing", "/end/default-aaaaaaaaaaaaaaaa"] {
        for method in ["GET", "HEAD"] {
            let led = request(server.port, method, "localhost", path, &[page], "").await;
            assert_eq!((led.status, led.header("location")), (303, "/"), "{method} {path}");
            let told = request(server.port, method, "localhost", path, &[], "").await;
            assert_eq!((told.status, told.header("allow")), (405, "POST"), "{method} {path}");
        }
    }
    let stats = server.call("GET", "/api/v1/pool/stats", "").await.json();
    assert_eq!(stats["assigned"], json!(0));
}
