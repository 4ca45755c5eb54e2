//! Acquires and releases beside all other traffic.

use crate::containers::release;
use crate::support::harness::{Server, get, request};

use super::apps::{acquire, name_node_red};

/// Which app the next visitor tries: WordPress, which takes the most to restore, once in ten.
const APPS: [&str; 10] = ["nginx", "php", "red", "node", "php", "nginx", "wordpress", "node", "red", "nginx"];

/// Acquires an instance, asserts that it is unused, uses it and releases it.
pub(super) async fn visit(server: &Server, template: &str, number: u64) {
    let app = APPS[number as usize % APPS.len()];
    let (instance, _) = acquire(server, &format!("{template}-{app}")).await;
    let (port, host) = (server.port, &*instance.host);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    match app {
        "nginx" => {
            assert_eq!(get(port, host, "/uploads/own").await.status, 404);
            assert_eq!(request(port, "PUT", host, "/uploads/own", &[], "mine").await.status, 201);
            assert_eq!(get(port, host, "/uploads/own").await.text(), "mine");
        }
        "php" => {
            assert!(get(port, host, "/").await.text().contains("id=\"visits\">1<"), "no visit before");
            assert_eq!(request(port, "POST", host, "/", &form, "note=mine").await.status, 303);
            let page = get(port, host, "/").await.text();
            assert!(page.contains("id=\"visits\">2<") && page.contains("<li>mine</li>"), "{page}");
        }
        "red" => {
            assert_eq!(get(port, host, "/who").await.text(), "", "it has no name");
            name_node_red(port, host, &instance.id).await;
            assert_eq!(get(port, host, "/who").await.text(), instance.id);
        }
        "node" => {
            assert!(get(port, host, "/").await.text().contains(" products, 0 in your cart"));
            assert_eq!(request(port, "POST", host, "/cart", &form, "number=7").await.status, 303);
            assert!(get(port, host, "/").await.text().contains(" products, 1 in your cart"));
        }
        _ => {
            let page = get(port, host, "/").await;
            assert_eq!(page.status, 200);
            assert!(page.text().contains(&format!("http://{host}/")), "its links have its own host");
        }
    }
    release(server, &instance.id).await;
    let after = get(port, host, "/").await;
    assert_eq!(after.status, 404, "the instance has ended: {}", after.text());
}
