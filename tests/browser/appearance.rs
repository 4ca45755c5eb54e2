//! The appearance of the pages: both color schemes, narrow screens, and what assistive technology receives.

use serde_json::{Value, json};

use crate::chromium::Browser;
use crate::pages::front_page_url;
use crate::support::harness::Server;

/// Emulates a visitor who prefers the color scheme `light` or `dark`.
async fn set_color_scheme(browser: &Browser, scheme: &str) {
    let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
    browser.devtools("Emulation.setEmulatedMedia", json!({"features": features})).await;
}

/// Returns the brightness of the page's background, from 0 to 255.
async fn brightness(browser: &Browser) -> f64 {
    let colour = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)";
    browser.value(&format!("{colour}.reduce((a, b) => a + b) / 3")).await.as_f64().unwrap()
}

/// Asserts that the page has one language, one first-level heading, landmarks, and a name for everything that can be
/// used.
async fn check_basics(browser: &Browser) {
    let page = browser.address().await;
    let basics = browser
        .value(
            "[document.documentElement.lang, document.querySelectorAll('h1').length, \
             document.querySelectorAll('main').length, document.title.length > 0]",
        )
        .await;
    assert_eq!(basics, json!(["en", 1, 1, true]), "{page}");
    let tree = browser.devtools("Accessibility.getFullAXTree", json!({})).await;
    let nodes: Vec<&Value> =
        tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] == json!(false)).collect();
    let usable = ["button", "link", "textbox", "heading", "timer", "region"];
    let mut seen = 0;
    for node in nodes {
        if usable.contains(&node["role"]["value"].as_str().unwrap_or_default()) {
            seen += 1;
            assert!(
                node["name"]["value"].as_str().is_some_and(|name| !name.trim().is_empty()),
                "{page}: {node}"
            );
        }
    }
    assert!(seen >= 3, "{page}");
}

async fn check_narrow(browser: &Browser, name: &str) {
    let narrow = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
    browser.devtools("Emulation.setDeviceMetricsOverride", narrow).await;
    let fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";
    assert_eq!(browser.value(fits).await, json!(true), "{name} scrolls sideways");
    browser.screenshot(&format!("{name}-narrow")).await;
    browser.devtools("Emulation.clearDeviceMetricsOverride", json!({})).await;
}

#[tokio::test]
async fn every_page_reads_well_in_both_palettes_and_on_a_phone() {
    let Some(browser) = Browser::start().await else { return };
    let server = Server::start(&[]).await;
    let instance = server.acquire().await;
    let unknown = format!("http://default-aaaaaaaaaaaaaaaa.localhost:{}/", server.port);
    for (name, address) in
        [("front", front_page_url(&server)), ("sample", instance.url), ("unknown", unknown)]
    {
        for (scheme, bright) in [("light", true), ("dark", false)] {
            set_color_scheme(&browser, scheme).await;
            browser.open(&address).await;
            assert_eq!(brightness(&browser).await > 128.0, bright, "{name} in {scheme}");
            check_basics(&browser).await;
            browser.screenshot(&format!("{name}-{scheme}")).await;
        }
        check_narrow(&browser, name).await;
        let console = browser.console().await;
        assert!(console.iter().all(|said| name == "unknown" && said.contains("404")), "{name}: {console:?}");
    }
    browser.close().await;
}
