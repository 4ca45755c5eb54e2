//! What an image declares, where its template says nothing: the health check and the port.

use std::time::Duration;

use serde_json::{Value, json};

use super::{ContainerHost, FULL_TIMEOUT, exec_in, release};
use crate::support::changed_image;
use crate::support::harness::{Server, eventually_within, get};
use crate::support::stack::{self, Stack};

/// Starts the app of the PHP image on its port, which is healthy after two seconds.
const ENTRYPOINT: &str = "(sleep 2; touch /tmp/healthy) & exec \"$@\"";
/// Records its runs, and succeeds when the app is healthy.
const CHECK: &str = "cat /proc/sys/kernel/random/uuid >> /tmp/runs; test -e /tmp/healthy";
/// The port that the image exposes, in place of 80.
const PORT: u16 = 8081;

/// An image in containerd, removed when this is dropped.
struct BuiltImage {
    stack: Stack,
    name: String,
}

impl Drop for BuiltImage {
    fn drop(&mut self) {
        self.stack.ctr(&["images", "remove", &self.name]);
    }
}

/// Returns a host with a template of the PHP image with this health check. The template names neither a port nor a
/// check, and gives the app one second.
fn host_with(health_check: &Value) -> Option<(ContainerHost, BuiltImage)> {
    let host = ContainerHost::new(Stack::find()?, "php", "", "path = \"/\"")?;
    let archive = host.folder.join("checked.tar");
    let name = changed_image::write(&stack::image_archive("php"), &archive, |config| {
        let entrypoint = config["Entrypoint"].as_array().cloned().unwrap_or_default();
        let own = ["sh", "-c", ENTRYPOINT, "sh"].map(Value::from);
        config["Entrypoint"] = own.into_iter().chain(entrypoint).collect();
        config["ExposedPorts"] = json!({ format!("{PORT}/tcp"): {} });
        config["Healthcheck"] = health_check.clone();
        config["Labels"] = json!({ "test": host.template });
    });
    let template = format!(
        "[templates.{0}]\nimage = \"oci:{1}\"\n[templates.{0}.ready]\ntimeout = \"1s\"\n",
        host.template,
        archive.display()
    );
    std::fs::write(host.folder.join("templates.toml"), template).unwrap();
    let built = BuiltImage { stack: host.stack.clone(), name };
    Some((host, built))
}

async fn start(host: &ContainerHost, criu: &str) -> Server {
    let variables = [("POOL_TARGET_SIZE", "2"), ("POOL_MIN_SIZE", "1"), ("CRIU_ENABLED", criu)];
    host.start_server(&variables).await
}

/// Acquires an instance of a server, and returns the runs of the check in it.
async fn runs_of_one(host: &ContainerHost, server: &Server) -> Vec<String> {
    let instance = server.acquire().await;
    assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
    // It is healthy, and was so when it was offered.
    let text = exec_in(host, &instance, &["cat", "/tmp/runs"]);
    assert_eq!(exec_in(host, &instance, &["ls", "/tmp/healthy"]).trim(), "/tmp/healthy");
    let port = exec_in(host, &instance, &["cat", "/proc/net/tcp"]);
    assert!(port.contains(&format!(":{PORT:04X} ")), "{port}");
    release(server, &instance.id).await;
    let runs: Vec<_> = text.lines().map(str::to_owned).collect();
    assert!(runs.len() >= 2, "the check failed before the app was healthy: {runs:?}");
    runs
}

async fn an_instance_is_offered_when_it_is_healthy(health_check: Value) {
    let Some((host, _built)) = host_with(&health_check) else { return };
    let mut server = start(&host, "false").await.full_within(FULL_TIMEOUT).await;
    assert_ne!(runs_of_one(&host, &server).await, runs_of_one(&host, &server).await);
    super::shut_down(&mut server).await;
    let mut server = start(&host, "true").await;
    // The first may have been started cold, before the bake.
    let mut earlier = Vec::new();
    for _ in 0..4 {
        server = server.full_within(FULL_TIMEOUT).await;
        let runs = runs_of_one(&host, &server).await;
        if runs == earlier {
            // The check ran before the bake only: a restored instance is ready when it answers.
            return;
        }
        earlier = runs;
    }
    panic!("no two instances came from one checkpoint without another run of the check: {earlier:?}");
}

#[tokio::test]
async fn an_image_with_a_health_check_of_the_shell_is_offered_when_it_is_healthy() {
    an_instance_is_offered_when_it_is_healthy(json!({
        "Test": ["CMD-SHELL", CHECK],
        "Interval": Duration::from_millis(300).as_nanos() as u64,
        "StartPeriod": Duration::from_secs(60).as_nanos() as u64,
        "Retries": 1,
    }))
    .await;
}

#[tokio::test]
async fn an_image_with_a_health_check_of_a_program_is_offered_when_it_is_healthy() {
    an_instance_is_offered_when_it_is_healthy(json!({
        "Test": ["CMD", "sh", "-c", CHECK],
        "StartPeriod": Duration::from_secs(60).as_nanos() as u64,
    }))
    .await;
}

#[tokio::test]
async fn an_image_that_is_never_healthy_is_never_offered_and_the_log_says_what_its_check_wrote() {
    let Some((host, _built)) = host_with(&json!({ "Test": ["CMD", "sh", "-c", "echo no database; exit 4"] }))
    else {
        return;
    };
    let server = start(&host, "true").await;
    let logged = async || {
        let says = |line: &String| line.contains("health check exited with 4: no database");
        server.log().iter().any(says).then_some(())
    };
    eventually_within(FULL_TIMEOUT, "the log says why", logged).await;
    let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
    assert_ne!(answer.status, 200, "{}", answer.text());
}
