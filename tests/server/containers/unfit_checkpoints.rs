//! Apps whose restored instances do not work.

use super::{ContainerHost, FULL_TIMEOUT, release};
use crate::support::harness::{eventually_within, get};
use crate::support::stack::Stack;

/// Answers with an error once its process is another one than at its start, as an app does that is licensed for one
/// machine. It compares when the process began: the number of a namespace is used again.
pub(super) const LICENSED: &str = r#"
$listener = stream_socket_server("tcp://127.0.0.1:80");
function licence() { return explode(" ", file_get_contents("/proc/self/stat"))[21]; }
$licence = licence();
while (true) {
    $visitor = @stream_socket_accept($listener, 3600);
    if (!$visitor) continue;
    fgets($visitor);
    $status = licence() === $licence ? "200 OK" : "403 Another Machine";
    fwrite($visitor, "HTTP/1.1 $status\r\ncontent-length: 2\r\nconnection: close\r\n\r\nup");
    fclose($visitor);
}
"#;

#[tokio::test]
async fn an_app_that_works_only_cold_is_started_cold_and_the_operator_is_told_once() {
    let Some(stack) = Stack::find() else { return };
    let command = format!("command = [\"php\", \"-r\", {}]", serde_json::to_string(LICENSED).unwrap());
    let Some(host) = ContainerHost::new(stack, "php", &command, "path = \"/\"\ntimeout = \"3s\"") else {
        return;
    };
    let mut server = host
        .start_server(&[
            ("POOL_TARGET_SIZE", "2"),
            ("POOL_MIN_SIZE", "1"),
            ("RATE_LIMIT_HOURLY", "0"),
            ("RATE_LIMIT_DAILY", "0"),
        ])
        .await;
    server = server.full_within(FULL_TIMEOUT).await;
    let instance = server.acquire().await;
    assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
    // It is baked again later, which is of no more use, and visitors go on to get instances.
    let failed = |line: &&str| {
        ["demo_provisions_total", "criu_restore", "error"].iter().all(|word| line.contains(word))
    };
    eventually_within(FULL_TIMEOUT, "a second checkpoint is discarded", async || {
        // Only a pool with room makes instances.
        let acquired = server.call("POST", "/api/v1/demo/acquire", "").await;
        assert_eq!(acquired.status, 200, "{}", acquired.text());
        release(&server, acquired.json()["id"].as_str()?).await;
        let metrics = get(server.port, "localhost", "/metrics").await.text();
        let count: u32 = metrics.lines().find(failed)?.rsplit(' ').next()?.parse().ok()?;
        (count >= 6).then_some(())
    })
    .await;
    let server = server.full_within(FULL_TIMEOUT).await;
    server.acquire().await;
    let told = server.log().iter().filter(|line| line.contains("checkpoint discarded, because")).count();
    assert_eq!(told, 1);
}
