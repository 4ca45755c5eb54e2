//! Tests of what holds for all pages.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::instance::{EndReason, RateLimited, RateLimits, ReachedLimit};

const HOME: &str = "https://try.example:8443/";
const ID: &str = "0190-request";

fn html(page: &Page) -> &str {
    std::str::from_utf8(&page.html).unwrap()
}

fn policy(page: &Page) -> &str {
    page.policy.to_str().unwrap()
}

fn limited(hourly: u32, daily: u32, seconds: u64) -> Page {
    let limits = RateLimits { hourly, daily, concurrent: 2 };
    let retry_after = Duration::from_secs(seconds);
    rate_limited(&RateLimited { limits, reached: ReachedLimit::Window, retry_after }, ID)
}

fn card(name: &str, ready: usize) -> TemplateCard<'_> {
    TemplateCard {
        name,
        title: "The Shop",
        description: "Sell things.",
        ttl: Duration::from_secs(5400),
        ready,
        running: None,
    }
}

fn running() -> RunningInstance {
    RunningInstance {
        template: "shop".into(),
        id: "shop-abcdefghijklmnop".into(),
        url: "https://shop-abcdefghijklmnop.try.example/".into(),
        remaining: Duration::from_millis(3_723_000),
        credentials: Some("Log in as admin with hunter2.".into()),
    }
}

/// Every error page on the API's host.
fn api_host_errors(text: &str) -> Vec<Page> {
    let limits = RateLimits { hourly: 2, daily: 5, concurrent: 1 };
    let limited = |reached| RateLimited { limits, reached, retry_after: Duration::from_secs(90) };
    vec![
        rate_limited(&limited(ReachedLimit::Window), text),
        rate_limited(&limited(ReachedLimit::Concurrent), text),
        pool_exhausted(text, Duration::from_secs(5), text),
        template_not_found(text),
        internal_error(text),
    ]
}

/// Every error page on an instance's host.
fn instance_host_errors(home: &str, template: &str, id: &str) -> Vec<Page> {
    vec![
        instance_not_found(home, id),
        instance_ended(EndReason::Expired, template, home, id),
        instance_ended(EndReason::Failed, template, home, id),
        instance_ended(EndReason::Failed, "", home, id),
        instance_ended(EndReason::NodeLost, template, home, id),
        instance_ended(EndReason::Unconfirmed, template, home, id),
        app_unreachable(home, id),
        misdirected(home, id),
    ]
}

fn every_page(text: &str) -> Vec<Page> {
    let running = RunningInstance {
        template: text.into(),
        id: text.into(),
        url: text.into(),
        remaining: Duration::from_secs(7),
        credentials: Some(text.into()),
    };
    // The card shows its first character alone.
    let title = format!("<{text}");
    let card = TemplateCard {
        name: text,
        title: &title,
        description: text,
        ttl: Duration::from_secs(60),
        ready: 1,
        running: Some(&running),
    };
    let mut pages = vec![front_page(&[card]), front_page(&[])];
    pages.extend(api_host_errors(text));
    pages.extend(instance_host_errors(text, text, text));
    pages
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any text is put between two rare marks. Between those marks, the page must contain no character that ends a text
    /// or an attribute.
    #[test]
    fn no_text_from_outside_becomes_markup(inner in "[<>\"'&a-z{}/!;= \u{e9}\n-]{0,40}") {
        let text = format!("\u{2e28}{inner}\u{2e29}");
        for page in every_page(&text) {
            prop_assert!(!html(&page).contains("><<"));
            let mut found = 0;
            for piece in html(&page).split('\u{2e28}').skip(1) {
                let (shown, _) = piece.split_once('\u{2e29}').expect("the text is whole");
                prop_assert!(!shown.contains(['<', '>', '"', '\'']), "{}", shown);
                let bare = shown.split('&').skip(1).all(|rest| {
                    ["amp;", "lt;", "gt;", "quot;", "#39;"].iter().any(|entity| rest.starts_with(entity))
                });
                prop_assert!(bare, "{}", shown);
                found += 1;
            }
            prop_assert!(found > 0 || html(&page).contains("nothing to try yet"));
        }
    }
}

#[test]
fn a_policy_contains_the_nonce_of_its_page_and_no_two_pages_share_one() {
    let mut seen = std::collections::HashSet::new();
    for page in every_page("shop").into_iter().chain(every_page("shop")) {
        let nonce = html(&page).split("nonce=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(nonce.len(), 32);
        assert!(policy(&page).contains(&format!("style-src 'nonce-{nonce}'")), "{}", policy(&page));
        let scripts = html(&page).matches("<script").count();
        assert_eq!(html(&page).matches(&format!("nonce=\"{nonce}\"")).count(), 1 + scripts);
        assert_eq!(policy(&page).contains(&format!("script-src 'nonce-{nonce}'")), scripts == 1);
        assert!(seen.insert(nonce.to_owned()));
    }
}

#[test]
fn a_policy_allows_only_what_is_needed() {
    let page = front_page(&[card("shop", 1)]);
    assert!(policy(&page).starts_with("default-src 'none'; "));
    for directive in ["img-src data:", "base-uri 'none'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy(&page).contains(directive), "{directive}");
    }
    for page in every_page("shop") {
        let forms = html(&page).contains("<form");
        assert_eq!(
            policy(&page).contains("form-action 'none'"),
            !forms && !html(&page).contains("EventSource")
        );
        assert!(!policy(&page).contains("unsafe") && !policy(&page).contains('*'));
    }
}

#[test]
fn only_pages_on_an_instances_host_may_be_framed() {
    assert!(api_host_errors(ID).iter().all(|page| policy(page).contains("frame-ancestors 'none'")));
    assert!(
        instance_host_errors(HOME, "shop", ID).iter().all(|page| !policy(page).contains("frame-ancestors")),
    );
}

#[test]
fn a_page_loads_nothing_from_elsewhere() {
    for page in every_page("shop") {
        let html = html(&page);
        for outside in ["src=", "@import", "url(", "style=\"", " onclick", "//cdn", "rel=\"stylesheet\""] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(!html.contains("{{") && !html.contains("}}"));
    }
}

#[test]
fn a_page_has_a_language_one_heading_and_its_landmarks() {
    for page in every_page("shop") {
        let html = html(&page);
        assert!(html.starts_with("<!doctype html>\n<html lang=\"en\">"));
        for once in ["<title>", "<h1>", "<header", "<main", "<footer", "href=\"#main\"", "id=\"main\""] {
            assert_eq!(html.matches(once).count(), 1, "{once}");
        }
    }
}

#[test]
fn the_front_page_has_a_form_for_each_template() {
    let page = front_page(&[card("shop", 3), card("blog", 1)]);
    for wanted in [
        r#"method="post" action="/try/shop" data-try>"#,
        r#"method="post" action="/try/blog" data-try>"#,
        "3 ready now",
        "1 ready now",
        "Each copy lasts 1 hour and 30 minutes.",
        "Sell things.",
        "EventSource(\"/ready\")",
    ] {
        assert!(html(&page).contains(wanted), "{wanted}");
    }
    assert_eq!(html(&page).matches(">Try it now</button>").count(), 2);
    assert!(!html(&page).contains("action=\"/end/"));
}

#[test]
fn with_none_ready_a_template_is_being_prepared_and_can_still_be_tried() {
    let page = front_page(&[card("shop", 0)]);
    assert!(html(&page).contains("<span data-ready-text>being prepared…</span>"));
    assert!(html(&page).contains("action=\"/try/shop\" data-try>"));
    assert!(!html(&page).contains("0 ready"));
}

#[test]
fn without_templates_the_page_says_so() {
    assert!(html(&front_page(&[])).contains("There is nothing to try yet."));
}

#[test]
fn a_running_instance_replaces_the_button_until_it_ends() {
    let running = running();
    let page = front_page(&[TemplateCard { running: Some(&running), ..card("shop", 2) }]);
    for wanted in [
        "data-remaining-ms=\"3723000\"",
        "data-clock>1:02:03</span>",
        "href=\"https://shop-abcdefghijklmnop.try.example/\"",
        "method=\"post\" action=\"/end/shop-abcdefghijklmnop\"",
        "action=\"/try/shop\" data-try hidden>",
    ] {
        assert!(html(&page).contains(wanted), "{wanted}");
    }
}

#[test]
fn a_template_without_a_title_or_description_shows_its_name() {
    let page = front_page(&[TemplateCard { title: " ", description: "", ..card("shop", 1) }]);
    assert!(html(&page).contains("dir=\"auto\">shop</h2>"));
    assert!(html(&page).contains("aria-hidden=\"true\">S</span>"));
    assert!(!html(&page).contains("class=\"about\""));
}

#[test]
fn a_front_page_with_ten_templates_stays_under_40_kilobytes() {
    let description = "An app of which there is a lot to say, in one sentence of a fair length. ".repeat(2);
    let running = running();
    let card = TemplateCard { description: &description, running: Some(&running), ..card("shop", 5) };
    let size = front_page(&[card; 10]).html.len();
    assert!(size < 40_000, "{size} bytes");
}

#[test]
fn an_error_page_has_a_link_to_the_front_page_and_the_requests_id() {
    for page in api_host_errors(ID) {
        assert!(html(&page).contains("href=\"/\">Back to all apps</a>"));
        assert!(html(&page).contains("<span class=\"mono\">0190-request</span>"));
    }
    // With or without the slash at the end of the front page's address.
    for home in [HOME, HOME.trim_end_matches('/')] {
        for page in instance_host_errors(home, "shop", ID) {
            assert!(html(&page).contains("href=\"https://try.example:8443/\""));
            assert!(!html(&page).contains("href=\"/\""));
            assert!(html(&page).contains("<span class=\"mono\">0190-request</span>"));
        }
    }
}

#[test]
fn the_page_of_a_rate_limit_shows_the_limits_and_the_wait_in_words() {
    let check = |page: Page, text: &str| assert!(html(&page).contains(text), "{text}");
    check(limited(2, 5, 1), "Everyone can start 2 copies of this app an hour and 5 a day. You can start");
    check(limited(1, 0, 1), "Everyone can start 1 copy of this app an hour. You");
    check(limited(0, 3, 1), "Everyone can start 3 copies of this app a day. You");
    check(limited(0, 0, 1), "<p class=\"explanation\">You can start the next one in");
    check(limited(2, 5, 2_465), "data-wait-ms=\"2465000\">42 minutes</strong>.");
    let limits = RateLimits { hourly: 2, daily: 5, concurrent: 1 };
    let retry_after = Duration::from_secs(60);
    let at_a_time = RateLimited { limits, reached: ReachedLimit::Concurrent, retry_after };
    check(
        rate_limited(&at_a_time, ID),
        "Everyone can have 1 copy of this app at a time. End one of yours, or wait. You",
    );
}

#[test]
fn the_page_of_an_exhausted_pool_offers_a_retry_with_the_same_template() {
    let page = pool_exhausted("shop", Duration::from_millis(4_200), ID);
    assert!(html(&page).contains("method=\"post\" action=\"/try/shop\""));
    assert!(html(&page).contains("<span id=\"wait\">5 seconds</span>"));
    // Without JavaScript it would never be enabled.
    assert!(!html(&page).contains("data-wait-ms=\"4200\" disabled"));
    assert!(html(&pool_exhausted("shop", Duration::ZERO, ID)).contains(">1 second</span>"));
}

#[test]
fn the_page_of_an_ended_instance_offers_another_on_the_api_host() {
    let expired = instance_ended(EndReason::Expired, "shop", HOME, ID);
    assert!(html(&expired).contains("<h1>Your time with this copy is over</h1>"));
    assert!(html(&expired).contains("href=\"https://try.example:8443/#template-shop\" target=\"_top\""));
    assert!(!html(&expired).contains("<form"), "another site's form is refused");
    let failed = instance_ended(EndReason::Failed, "", HOME, ID);
    assert!(html(&failed).contains("<h1>This copy stopped working</h1>"));
    assert!(!html(&failed).contains("<form"));
    for reason in [EndReason::NodeLost, EndReason::Unconfirmed] {
        let page = instance_ended(reason, "shop", HOME, ID);
        assert!(html(&page).contains("<h1>This copy is no longer available</h1>"));
        assert!(!html(&page).contains("the app ended"));
    }
}

#[test]
fn the_page_of_an_app_that_does_not_respond_can_be_reloaded() {
    assert!(html(&app_unreachable(HOME, ID)).contains("<a class=\"button\" href=\"\">Reload</a>"));
}

#[test]
fn text_has_enough_contrast_to_its_background() {
    let style = include_str!("frame.css");
    let (light, dark) = style.split_once("@media (prefers-color-scheme: dark)").unwrap();
    for palette in [light, dark] {
        let colour = |name: &str| {
            let (_, rest) = palette.split_once(&format!("--{name}: #")).unwrap();
            luminance(rest.split(';').next().unwrap())
        };
        for (text, background) in [
            ("ink", "back"),
            ("ink", "tint"),
            ("soft", "back"),
            ("soft", "glow"),
            ("soft", "card"),
            ("soft", "tint"),
            ("accent", "back"),
            ("accent", "glow"),
            ("accent-ink", "accent"),
            ("accent-ink", "accent-deep"),
            ("good", "card"),
            ("warn", "card"),
            ("warn", "tint"),
            ("bad", "tint"),
        ] {
            let (a, b) = (colour(text), colour(background));
            let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
            assert!(contrast >= 4.5, "{text} on {background}: {contrast:.2}");
        }
    }
}

/// Returns the relative luminance as WCAG 2 defines it.
fn luminance(hex: &str) -> f64 {
    let part = |at: usize| {
        let c = f64::from(u8::from_str_radix(&hex[at..at + 2], 16).unwrap()) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * part(0) + 0.7152 * part(2) + 0.0722 * part(4)
}
