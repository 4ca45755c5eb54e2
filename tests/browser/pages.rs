//! The way of a visitor from the front page into an instance and back.

use serde_json::json;

use crate::chromium::Browser;
use crate::support::harness::{Server, get, request};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// Returns the URL of a server's front page.
pub fn front_page_url(server: &Server) -> String {
    format!("http://localhost:{}/", server.port)
}

/// Returns the id on an instance's page. Asserts that it is the one in the host.
async fn instance_id(browser: &Browser) -> String {
    let id = browser.text("#instance").await;
    let address = browser.address().await;
    assert!(address.starts_with(&format!("http://{id}.localhost:")), "{id} is not at {address}");
    id
}

#[tokio::test]
async fn the_front_page_lists_every_template_and_updates_the_ready_counts() {
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
    browser.open(&front_page_url(&server)).await;
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
    assert!(instance_id(&browser).await.starts_with("guest-book-"));
    assert_eq!(browser.console().await, [""; 0]);
    browser.close().await;
    std::fs::remove_dir_all(&folder).unwrap();
}

/// Returns the seconds of a clock such as `1:00:00` or `59:59`.
fn seconds(clock: &str) -> u32 {
    clock.split(':').fold(0, |sum, part| 60 * sum + part.parse::<u32>().unwrap())
}

#[tokio::test]
async fn a_click_leads_to_an_instance_that_is_live_and_can_be_ended() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&[]).await;
    browser.open(&front_page_url(&server)).await;
    browser.click("#try-default").await;
    let mine = instance_id(&browser).await;
    let host = format!("{mine}.localhost:{}", server.port);
    browser.text_when("#live-text", |text| text.starts_with("Live")).await;
    browser.value("window.sameDocument = true").await;
    browser.write("#name", "Ada").await;
    browser.write("#text", "Private entry").await;
    browser.click("#send").await;
    browser.text_when("#entries", |text| text.contains("Private entry")).await;
    // Another client with the same URL signs the guest book too.
    let posted =
        request(server.port, "POST", &host, "/entries", &[FORM], "name=Grace&text=From+another+client").await;
    assert_eq!(posted.status, 303, "{}", posted.text());
    browser.text_when("#entries", |text| text.contains("From another client")).await;
    assert_eq!(browser.value("window.sameDocument").await, json!(true), "the entry appears without a reload");
    browser.screenshot("sample").await;

    let other = server.acquire().await;
    browser.open(&other.url).await;
    assert_eq!(instance_id(&browser).await, other.id);
    assert_eq!(browser.text("#total").await, "0");
    browser.text("#empty").await;
    assert!(!get(server.port, &other.host, "/").await.text().contains("Private entry"));

    browser.open(&front_page_url(&server)).await;
    assert_eq!(
        browser.value("document.querySelector('#open-default').href").await,
        json!(format!("http://{host}/"))
    );
    let first = browser.text("[data-clock]").await;
    browser.text_when("[data-clock]", |text| seconds(text) < seconds(&first)).await;
    browser.screenshot("front-running").await;
    // The page does not report an instance as ended whose lease was extended elsewhere.
    browser.value("void (instances[0].endsAt = Date.now())").await;
    browser.until("instances[0].endsAt > Date.now()").await;
    browser.text_when("[data-clock]", |text| seconds(text) > 50 * 60).await;
    browser.click("#open-default").await;
    assert_eq!(instance_id(&browser).await, mine);
    browser.client().back().await.unwrap();
    assert_eq!(browser.console().await, [""; 0]);
    browser.click("#end-default").await;
    browser.element("#try-default").await;
    assert_eq!(browser.address().await, front_page_url(&server));
    assert_eq!(get(server.port, &host, "/").await.status, 404);
    assert_eq!(get(server.port, &other.host, "/").await.status, 200);
    browser.close().await;
}

#[tokio::test]
async fn after_the_deadline_every_page_reports_it_and_offers_another_instance() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&[("POOL_DEFAULT_TTL", "10s")]).await;
    browser.open(&front_page_url(&server)).await;
    browser.click("#try-default").await;
    let mine = instance_id(&browser).await;
    let address = browser.address().await;
    browser.open(&front_page_url(&server)).await;
    let clock = browser.text("[data-clock]").await;
    assert!(clock.as_str() > "00:00" && clock.as_str() <= "00:10", "{clock}");
    assert_eq!(browser.text("[data-ended]").await, "Your copy has ended. Thank you for trying it!");
    browser.element("#try-default").await;
    browser.until("document.querySelector('.instance').hidden").await;
    assert_eq!(browser.console().await, [""; 0]);

    browser.open(&address).await;
    assert_eq!(browser.text("h1").await, "Your time with this copy is over");
    assert_eq!(get(server.port, &format!("{mine}.localhost:{}", server.port), "/").await.status, 410);
    browser.screenshot("ended").await;
    let console = browser.console().await;
    assert!(console.iter().all(|said| said.contains("410")), "{console:?}");
    browser.click("main .button").await;
    browser.click("#try-default").await;
    browser.element("#instance").await;
    assert_ne!(instance_id(&browser).await, mine);
    // The page of the app reports the end too.
    browser.text_when("#clock", |text| text == "Ended").await;
    assert!(browser.text("#problem").await.contains("over"));
    browser.close().await;
}

#[tokio::test]
async fn a_browser_makes_the_proof_of_work_by_itself() {
    let Some(browser) = Browser::start().await else { return };
    let settings = [("RATE_LIMIT_HOURLY", "2"), ("PROOF_OF_WORK_ABOVE", "1")];
    let server = Server::start(&settings).await;
    server.acquire().await;
    browser.open(&front_page_url(&server)).await;
    browser.click("#try-default").await;
    assert_eq!(browser.text("h1").await, "One moment, please");
    browser.screenshot("proof-of-work").await;
    browser.click("main button").await;
    browser.element("#instance").await;
    let console = browser.console().await;
    assert!(console.iter().all(|said| said.contains("429")), "{console:?}");
    browser.close().await;
}

#[tokio::test]
async fn every_button_works_without_javascript() {
    let Some(browser) = Browser::without_javascript().await else { return };
    let server = Server::start(&[]).await;
    browser.open(&front_page_url(&server)).await;
    assert!(browser.text(".no-script").await.contains("JavaScript is off"));
    assert_eq!(browser.text("[data-ready-text]").await, "2 ready now");
    browser.click("#try-default").await;
    let mine = instance_id(&browser).await;
    browser.write("#name", "Ada").await;
    browser.write("#text", "By form").await;
    browser.click("#send").await;
    browser.text_when("#entries", |text| text.contains("By form")).await;
    browser.open(&front_page_url(&server)).await;
    browser.click("#end-default").await;
    browser.element("#try-default").await;
    assert_eq!(get(server.port, &format!("{mine}.localhost:{}", server.port), "/").await.status, 404);
    browser.close().await;
}

#[tokio::test]
async fn a_visitor_over_the_limit_or_before_an_exhausted_pool_gets_a_page() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&[("RATE_LIMIT_HOURLY", "1"), ("RATE_LIMIT_DAILY", "5")]).await;
    browser.open(&front_page_url(&server)).await;
    browser.click("#try-default").await;
    instance_id(&browser).await;
    browser.open(&front_page_url(&server)).await;
    browser.click("#end-default").await;
    browser.click("#try-default").await;
    browser.element("main.notice").await;
    assert_eq!(browser.text("h1").await, "That was your last copy for now");
    let answer = browser.text(".explanation").await;
    assert!(answer.contains("1 copy of this app an hour and 5 a day") && answer.contains(" at "), "{answer}");
    browser.screenshot("limited").await;
    let console = browser.console().await;
    assert!(console.iter().all(|said| said.contains("429")), "{console:?}");
    browser.click("main a.button").await;
    browser.element("#try-default").await;

    // A person may type the address of a button or reload the page behind it.
    browser.open(&format!("{}try/default", front_page_url(&server))).await;
    assert_eq!(browser.address().await, front_page_url(&server));
    browser.close().await;

    let server = Server::start(&[("POOL_TARGET_SIZE", "1"), ("POOL_MAX_SIZE", "1")]).await;
    let Some(browser) = Browser::start().await else { return };
    server.acquire().await;
    browser.open(&front_page_url(&server)).await;
    browser.click("#try-default").await;
    browser.element("main.notice").await;
    assert_eq!(browser.text("h1").await, "All copies are taken right now");
    browser.screenshot("busy").await;
    browser.until("!document.querySelector('main button').disabled").await;
    browser.close().await;
}

#[tokio::test]
async fn the_front_page_knows_an_instance_for_as_long_as_it_can_be_extended() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "30s"), ("POOL_MAX_TTL", "2h")]).await;
    let ask = async |method, path: &str, headers: &[(&str, &str)]| {
        request(server.port, method, "localhost", path, headers, "").await
    };
    let acquired = ask("POST", "/try/default", &[]).await;
    assert_eq!(acquired.status, 303);
    let cookie = acquired.header("set-cookie");
    assert!(cookie.contains("Max-Age=7200; HttpOnly; SameSite=Lax"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    let (id, _token) = pair.split_once('=').unwrap().1.split_once('.').unwrap();
    let longer = server.call("POST", &format!("/api/v1/demo/{id}/extend"), r#"{"minutes":30}"#).await;
    assert_eq!(longer.status, 200, "{}", longer.text());
    let front = ask("GET", "/", &[("cookie", pair)]).await;
    assert!(front.text().contains(&format!("/end/{id}")) && front.text().contains(">30:"));
    assert_eq!(front.header("set-cookie"), "");
    // After the end the page forgets the instance.
    server.call("DELETE", &format!("/api/v1/demo/{id}"), "").await;
    let front = ask("GET", "/", &[("cookie", pair)]).await;
    assert!(!front.text().contains(id));
    assert!(front.header("set-cookie").starts_with("instance-default=; Path=/; Max-Age=0"));
}

#[tokio::test]
async fn opening_the_address_of_a_button_assigns_nothing_and_leads_to_the_front_page() {
    let server = Server::start(&[]).await;
    let page = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    for path in ["/try/default", "/try/nothing", "/end/default-aaaaaaaaaaaaaaaa"] {
        for method in ["GET", "HEAD"] {
            let redirect = request(server.port, method, "localhost", path, &[page], "").await;
            assert_eq!((redirect.status, redirect.header("location")), (303, "/"), "{method} {path}");
            let answer = request(server.port, method, "localhost", path, &[], "").await;
            assert_eq!((answer.status, answer.header("allow")), (405, "POST"), "{method} {path}");
        }
    }
    let stats = server.call("GET", "/api/v1/pool/stats", "").await.json();
    assert_eq!(stats["assigned"], json!(0));
}
