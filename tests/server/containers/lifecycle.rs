//! From an acquire to nothing left.

use super::{FULL, Host, note, page, release, stop};
use crate::support::harness::get;

#[tokio::test]
async fn a_visitor_has_a_restored_copy_to_herself_and_nothing_of_it_is_left() {
    let Some(host) = Host::php() else { return };
    let mut server = host.serve(&[]).await.full_within(FULL).await;
    let (a, b) = (server.acquire().await, server.acquire().await);
    note(server.port, &a, "mine").await;
    assert_eq!(page(server.port, &a).await, (1, vec!["mine".to_owned()]));
    assert_eq!(page(server.port, &b).await, (1, vec![]));
    let metrics = server.ask("GET", "/metrics", &[], "").await.text();
    let restored = format!(
        r#"demo_provisions_total{{template="{}",method="criu_restore",result="success"}} "#,
        host.template
    );
    let count = metrics.lines().find_map(|line| line.strip_prefix(&restored)?.parse::<u32>().ok());
    assert!(count >= Some(2), "{metrics}");

    release(&server, &a.id).await;
    assert_eq!(get(server.port, &a.host, "/").await.status, 404);
    assert_eq!(page(server.port, &b).await.0, 2);
    release(&server, &b.id).await;
    stop(&mut server).await;
    host.nothing_left().await;
}

#[tokio::test]
async fn what_a_visitor_has_survives_a_stop_of_the_server_and_the_rest_does_not() {
    let Some(host) = Host::php() else { return };
    let first = host.serve(&[]).await.full_within(FULL).await;
    let demo = first.acquire().await;
    note(first.port, &demo, "kept").await;
    let before = first.call("GET", &format!("/api/v1/demo/{}", demo.id), "").await.json();
    let mut first = first.full_within(FULL).await;
    stop(&mut first).await;
    assert_eq!(host.containers(), [demo.id.clone()].into(), "nobody has the others");

    let mut second = host.serve(&[]).await;
    assert_eq!(page(second.port, &demo).await, (1, vec!["kept".to_owned()]));
    let after = second.call("GET", &format!("/api/v1/demo/{}", demo.id), "").await.json();
    for field in ["state", "created_at", "assigned_at", "expires_at"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    let extended = second.call("POST", &format!("/api/v1/demo/{}/extend", demo.id), r#"{"minutes":1}"#).await;
    assert_eq!(extended.status, 200, "{}", extended.text());
    release(&second, &demo.id).await;
    stop(&mut second).await;
    host.nothing_left().await;
}
