//! An instance from its acquire to its removal.

use super::{ContainerHost, FULL_TIMEOUT, post_note, read_page, release, shut_down};
use crate::support::harness::get;

#[tokio::test]
async fn a_visitor_gets_a_restored_instance_and_its_release_leaves_nothing() {
    let Some(host) = ContainerHost::php() else { return };
    let mut server = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    let (a, b) = (server.acquire().await, server.acquire().await);
    post_note(server.port, &a, "mine").await;
    assert_eq!(read_page(server.port, &a).await, (1, vec!["mine".to_owned()]));
    assert_eq!(read_page(server.port, &b).await, (1, vec![]));
    let metrics = server.request("GET", "/metrics", &[], "").await.text();
    let restored = format!(
        r#"demo_provisions_total{{template="{}",method="criu_restore",result="success"}} "#,
        host.template
    );
    let count = metrics.lines().find_map(|line| line.strip_prefix(&restored)?.parse::<u32>().ok());
    assert!(count >= Some(2), "{metrics}");

    release(&server, &a.id).await;
    assert_eq!(get(server.port, &a.host, "/").await.status, 404);
    assert_eq!(read_page(server.port, &b).await.0, 2);
    release(&server, &b.id).await;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

#[tokio::test]
async fn only_assigned_instances_survive_a_shutdown_of_the_server() {
    let Some(host) = ContainerHost::php() else { return };
    let first = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    let instance = first.acquire().await;
    post_note(first.port, &instance, "kept").await;
    let before = first.call("GET", &format!("/api/v1/demo/{}", instance.id), "").await.json();
    let mut first = first.full_within(FULL_TIMEOUT).await;
    shut_down(&mut first).await;
    assert_eq!(host.containers(), [instance.id.clone()].into(), "ready instances end with the server");

    let mut second = host.start_server(&[]).await;
    assert_eq!(read_page(second.port, &instance).await, (1, vec!["kept".to_owned()]));
    let after = second.call("GET", &format!("/api/v1/demo/{}", instance.id), "").await.json();
    for field in ["state", "created_at", "assigned_at", "expires_at"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    let extended =
        second.call("POST", &format!("/api/v1/demo/{}/extend", instance.id), r#"{"minutes":1}"#).await;
    assert_eq!(extended.status, 200, "{}", extended.text());
    release(&second, &instance.id).await;
    shut_down(&mut second).await;
    host.assert_nothing_left().await;
}
