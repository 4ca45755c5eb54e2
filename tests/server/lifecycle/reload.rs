//! The template file, which the server reads again on SIGHUP.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::harness::{AcquiredInstance, Server, eventually, get, processes_of};

/// Returns a template whose app writes `version` to its log before it serves.
fn template(name: &str, version: &str) -> String {
    let program = env!("CARGO_BIN_EXE_try-it-now");
    format!("[templates.{name}]\ncommand = [\"sh\", \"-c\", \"echo {version}; exec {program} sample-app\"]\n")
}

async fn acquire(server: &Server, template: &str) -> Option<AcquiredInstance> {
    let body = json!({ "template": template }).to_string();
    let answer = server.call("POST", "/api/v1/demo/acquire", &body).await;
    if answer.status != 200 {
        return None;
    }
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let host = format!("{id}.localhost:{}", server.port);
    Some(AcquiredInstance { url: format!("http://{host}/"), host, id })
}

async fn version(server: &Server, instance: &AcquiredInstance) -> String {
    let log = server.call("GET", &format!("/api/v1/demo/{}/logs", instance.id), "").await;
    log.text().lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn templates_are_added_changed_and_removed_while_the_server_runs() {
    let files = [template("changed", "one"), template("removed", "one"), template("kept", "one")];
    let server = Server::with_file(&[], &files.concat()).await.full().await;
    let mine = acquire(&server, "changed").await.unwrap();
    let theirs = acquire(&server, "removed").await.unwrap();
    let kept: Vec<_> =
        processes_of(&server.folder).into_iter().filter(|p| p.instance.starts_with("kept-")).collect();
    let server = server.full().await;

    let start = Instant::now();
    server.write_templates(
        &[template("changed", "two"), template("kept", "one"), template("added", "one")].concat(),
    );
    server.signal("HUP");
    server.log_until(|line| line.contains("templates reloaded")).await;
    let server = server.full().await;
    eventually("no outdated instance is ready", async || {
        let removed = processes_of(&server.folder)
            .iter()
            .any(|p| p.instance.starts_with("removed-") && p.instance != theirs.id);
        (!removed).then_some(())
    })
    .await;
    // This is much shorter than the interval of the reconcile loop.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    for (name, expected) in [("changed", "two"), ("kept", "one"), ("added", "one")] {
        for _ in 0..2 {
            let instance = acquire(&server, name).await.unwrap();
            assert_eq!(version(&server, &instance).await, expected, "{name}");
        }
    }
    let body = r#"{"template":"removed"}"#;
    assert_eq!(server.call("POST", "/api/v1/demo/acquire", body).await.status, 404);
    assert_eq!(server.call("GET", "/api/v1/pool/stats?template=removed", "").await.status, 404);
    let front = server.request("GET", "/", &[], "").await.text();
    assert!(front.contains("/try/added") && !front.contains("/try/removed"));
    // Assigned instances stay, and the unchanged template is not touched.
    for instance in [&mine, &theirs] {
        assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
        assert_eq!(version(&server, instance).await, "one");
        let path = format!("/api/v1/demo/{}", instance.id);
        assert_eq!(server.call("POST", &format!("{path}/extend"), r#"{"minutes":1}"#).await.status, 200);
    }
    let now = processes_of(&server.folder);
    assert!(kept.iter().all(|process| now.contains(process)));
    let page = server.request("GET", "/metrics", &[], "").await.text();
    assert!(page.contains("demo_pool_ready_instances{template=\"removed\"} 0\n"), "{page}");
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", theirs.id), "").await.status, 200);
}

#[tokio::test]
async fn a_warming_instance_of_a_changed_template_is_not_offered() {
    // The app answers only once its file exists.
    let program = env!("CARGO_BIN_EXE_try-it-now");
    let server = Server::with_file(&[], "[templates.default]\ncommand = [\"sleep\", \"1000\"]\n").await;
    let gate = server.folder.join("gate");
    let slow = |version: &str| {
        let wait = format!("until [ -e {} ]; do sleep 0.02; done", gate.display());
        format!(
            "[templates.default]\ncommand = [\"sh\", \"-c\", \"echo {version}; {wait}; exec {program} sample-app\"]\n"
        )
    };
    let reload = async |file: &str, times: usize| {
        server.write_templates(file);
        server.signal("HUP");
        eventually("the file is read", async || {
            let log = server.log();
            (log.iter().filter(|line| line.contains("templates reloaded")).count() == times).then_some(())
        })
        .await;
    };
    reload(&slow("one"), 1).await;
    eventually("the first version is warming", async || {
        let running = processes_of(&server.folder);
        running.iter().any(|p| command(p.pid).contains("echo one")).then_some(())
    })
    .await;
    reload(&slow("two"), 2).await;
    std::fs::write(&gate, "").unwrap();
    let instance = eventually("an instance is ready", async || acquire(&server, "default").await).await;
    assert_eq!(version(&server, &instance).await, "two");
}

fn command(pid: i32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned()
}

#[tokio::test]
async fn an_invalid_file_leaves_the_templates_unchanged_and_logs_why() {
    let server = Server::with_file(&[], &template("default", "one")).await.full().await;
    let file = server.folder.join("templates.toml");
    let cases = [
        (Some("[templates.default]\ncommand = [\"x\"]\npool = { taget = 1 }\n"), "taget"),
        (Some("[templates.default\n"), "write TOML"),
        (Some(""), "describes no template"),
        (None, "templates.toml"),
    ];
    for (number, (content, why)) in cases.into_iter().enumerate() {
        match content {
            Some(text) => server.write_templates(text),
            None => std::fs::remove_file(&file).unwrap(),
        }
        server.signal("HUP");
        let output = eventually("the error is logged", async || {
            let log = server.log();
            log.into_iter().filter(|line| line.contains("failed to reload templates")).nth(number)
        })
        .await;
        assert!(output.contains(why) && output.contains(r#""level":"ERROR""#), "{output}");
    }
    let instance = acquire(&server, "default").await.unwrap();
    assert_eq!(version(&server, &instance).await, "one");
}

#[tokio::test]
async fn a_smaller_pool_retires_its_surplus_instances() {
    let sized = |target: u32| {
        format!("{}pool = {{ target = {target}, min = 0, max = 6 }}\n", template("default", "one"))
    };
    let server = Server::with_file(&[], &sized(4)).await.full().await;
    server.write_templates(&sized(1));
    server.signal("HUP");
    eventually("one ready instance is left", async || {
        let stats = server.stats().await;
        (stats["ready"] == 1 && stats["target"] == 1).then_some(())
    })
    .await;
    eventually("the others are removed", async || {
        (crate::support::harness::instance_folders(&server.folder).len() == 1).then_some(())
    })
    .await;
    server.write_templates(&sized(3));
    server.signal("HUP");
    eventually("the pool grows again", async || (server.stats().await["ready"] == 3).then_some(())).await;
}
