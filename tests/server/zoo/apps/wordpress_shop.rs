//! A site with a plugin that has tables, a cart in a session, and orders.

use serde_json::Value;

use crate::zoo::app::{App, TemplateText, Verdict};
use crate::zoo::visitor::{Visitor, between};

pub(in crate::zoo) const APP: App = App {
    name: "WordPress with a shop",
    image: "wordpress-shop",
    shape: "entrypoint of root, Apache with PHP of `www-data`, MariaDB of `mysql` over TCP",
    template: TemplateText::Lines(
        "share_memory = \"with-shm\"\nadmin_path = \"/wp-admin/\"\n\
         warm_up = [\"/\", \"/shop/\", \"/wp-login.php\", \"/wp-json/\", \"/\", \"/shop/\"]\n\
         [templates.APP.env]\nWORDPRESS_CONFIG_EXTRA = \"\"\"\n\
         define('WP_HOME', 'http://' . ($_SERVER['HTTP_HOST'] ?? 'localhost'));\n\
         define('WP_SITEURL', WP_HOME);\n\"\"\"\n\
         [templates.APP.ready]\npath = \"/shop/\"\nbody = \"Cocoa\"\ntimeout = \"200s\"\n",
    ),
    verdict: Verdict::Restores,
    visit: |visitor| Box::pin(visit(visitor)),
    shown: |visitor| Box::pin(shown(visitor)),
};

async fn visit(visitor: &Visitor) {
    let home = visitor.page("/").await;
    assert!(home.contains("A shop of your own"), "{home}");
    assert!(home.contains(&format!("http://{}/", visitor.instance.host)), "{home}");

    assert_eq!(submit(visitor, "little_shop=add&product=1").await, 303);
    assert_eq!(submit(visitor, "little_shop=add&product=1").await, 303);
    assert_eq!(submit(visitor, "little_shop=add&product=3").await, 303);
    assert_eq!(part(visitor, "<ul id=\"cart\">", "</ul>").await, "<li>2 x Tea</li><li>1 x Cocoa</li>");
    let other = visitor.without_cookies();
    assert_eq!(part(&other, "<ul id=\"cart\">", "</ul>").await, "");
    assert_eq!(submit(&other, "little_shop=order&customer=another").await, 409);

    assert_eq!(submit(visitor, &format!("little_shop=order&customer={}", visitor.word)).await, 303);
    assert_eq!(part(visitor, "<ul id=\"cart\">", "</ul>").await, "");
    assert!(part(visitor, "<ul id=\"products\">", "</ul>").await.contains("Tea: 4.50, 18 left"));
    let order = format!("<li>{}: 2 x Tea, 1 x Cocoa, 14.20</li>", visitor.word);
    assert_eq!(part(visitor, "<ol id=\"orders\">", "</ol>").await, order);
    assert_eq!(part(&other, "<ol id=\"orders\">", "</ol>").await, "");

    // The owner of the shop sees all orders.
    let refused = visitor.request("GET", "/wp-json/little-shop/v1/orders", &[], "").await;
    assert_eq!(refused.status, 401, "{}", refused.text());
    visitor.page("/wp-login.php").await;
    let login = visitor.post_form("/wp-login.php", "log=admin&pwd=demo&testcookie=1").await;
    assert_eq!(login.status, 302, "{}", login.text());
}

/// Sends a form of the shop, and returns the status of the answer.
async fn submit(visitor: &Visitor, fields: &str) -> u16 {
    let page = visitor.page("/shop/").await;
    let nonce = between(&page, "name=\"_wpnonce\" value=\"", "\"");
    visitor.post_form("/shop/", &format!("{fields}&_wpnonce={nonce}")).await.status
}

async fn part(visitor: &Visitor, begin: &str, end: &str) -> String {
    between(&visitor.page("/shop/").await, begin, end).to_owned()
}

async fn shown(visitor: &Visitor) -> String {
    let nonce = visitor.page("/wp-admin/admin-ajax.php?action=rest-nonce").await;
    let headers = [("x-wp-nonce", nonce.trim())];
    let answer = visitor.request("GET", "/wp-json/little-shop/v1/orders", &headers, "").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let orders: Vec<Value> = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!(orders.len(), 1, "{orders:?}");
    answer.text()
}
