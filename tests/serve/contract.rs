//! The HTTP contract, endpoint by endpoint.

use crate::harness::{Server, get};

#[tokio::test]
async fn a_visitor_gets_an_app_of_their_own_on_its_own_host() {
    let server = Server::start(&[]).await;
    let (a, b) = (server.acquire().await, server.acquire().await);
    assert_ne!(a.id, b.id);
    for demo in [&a, &b] {
        let page = get(server.port, &demo.host, "/").await;
        assert_eq!(page.status, 200, "{}", page.text());
        assert!(page.text().contains(&demo.id));
    }
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", a.id), "").await.status, 200);
    assert_eq!(get(server.port, &a.host, "/").await.status, 404);
    assert_eq!(get(server.port, &b.host, "/").await.status, 200);
}
