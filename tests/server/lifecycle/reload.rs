//! The file of templates, read again on SIGHUP.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::harness::{Demo, Server, eventually, get, processes_of};

/// A template whose app writes `version` to its log before it serves.
fn template(name: &str, version: &str) -> String {
    let program = env!("CARGO_BIN_EXE_try-it-now");
    format!("[templates.{name}]\ncommand = [\"sh\", \"-c\", \"echo {version}; exec {program} sample-app\"]\n")
}

async fn acquire(server: &Server, template: &str) -> Option<Demo> {
    let body = json!({ "template": template }).to_string();
    let answer = server.call("POST", "/api/v1/demo/acquire", &body).await;
    if answer.status != 200 {
        return None;
    }
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let host = format!("{id}.localhost:{}", server.port);
    Some(Demo { url: format!("http://{host}/"), host, id })
}

async fn version(server: &Server, demo: &Demo) -> String {
    let log = server.call("GET", &format!("/api/v1/demo/{}/logs", demo.id), "").await;
    log.text().lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn templates_come_and_go_and_change_while_the_server_runs() {
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
    server.log_until(|line| line.contains("the templates were read again")).await;
    let server = server.full().await;
    eventually("nothing outdated waits for a visitor", async || {
        let removed = processes_of(&server.folder)
            .iter()
            .any(|p| p.instance.starts_with("removed-") && p.instance != theirs.id);
        (!removed).then_some(())
    })
    .await;
    // Long before the interval at which everything is looked over anyway.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    for (name, expected) in [("changed", "two"), ("kept", "one"), ("added", "one")] {
        for _ in 0..2 {
            let demo = acquire(&server, name).await.unwrap();
            assert_eq!(version(&server, &demo).await, expected, "{name}");
        }
    }
    let body = r#"{"template":"removed"}"#;
    assert_eq!(server.call("POST", "/api/v1/demo/acquire", body).await.status, 404);
    assert_eq!(server.call("GET", "/api/v1/pool/stats?template=removed", "").await.status, 404);
    let front = server.ask("GET", "/", &[], "").await.text();
    assert!(front.contains("/try/added") && !front.contains("/try/removed"));
    // Visitors keep what they have; what did not change was left alone.
    for demo in [&mine, &theirs] {
        assert_eq!(get(server.port, &demo.host, "/").await.status, 200);
        assert_eq!(version(&server, demo).await, "one");
        let path = format!("/api/v1/demo/{}", demo.id);
        assert_eq!(server.call("POST", &format!("{path}/extend"), r#"{"minutes":1}"#).await.status, 200);
    }
    let now = processes_of(&server.folder);
    assert!(kept.iter().all(|process| now.contains(process)));
    let page = server.ask("GET", "/metrics", &[], "").await.text();
    assert!(page.contains("demo_pool_ready_instances{template=\"removed\"} 0\n"), "{page}");
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", theirs.id), "").await.status, 200);
}

#[tokio::test]
async fn an_instance_that_was_being_made_when_its_template_changed_is_not_offered() {
    // It takes until its file is there to answer.
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
            (log.iter().filter(|line| line.contains("the templates were read again")).count() == times)
                .then_some(())
        })
        .await;
    };
    reload(&slow("one"), 1).await;
    eventually("the first version is being made", async || {
        let running = processes_of(&server.folder);
        running.iter().any(|p| command(p.pid).contains("echo one")).then_some(())
    })
    .await;
    reload(&slow("two"), 2).await;
    std::fs::write(&gate, "").unwrap();
    let demo = eventually("one is ready", async || acquire(&server, "default").await).await;
    assert_eq!(version(&server, &demo).await, "two");
}

fn command(pid: i32) -> String {
    String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned()
}

#[tokio::test]
async fn a_mistake_in_the_file_keeps_the_templates_as_they_were_and_says_why() {
    let server = Server::with_file(&[], &template("default", "one")).await.full().await;
    let file = server.folder.join("templates.toml");
    let mistakes = [
        (Some("[templates.default]\ncommand = [\"x\"]\npool = { taget = 1 }\n"), "taget"),
        (Some("[templates.default\n"), "write TOML"),
        (Some(""), "describes no template"),
        (None, "templates.toml"),
    ];
    for (number, (mistake, why)) in mistakes.into_iter().enumerate() {
        match mistake {
            Some(text) => server.write_templates(text),
            None => std::fs::remove_file(&file).unwrap(),
        }
        server.signal("HUP");
        let told = eventually("the mistake is told", async || {
            let log = server.log();
            log.into_iter().filter(|line| line.contains("the templates stay as they were")).nth(number)
        })
        .await;
        assert!(told.contains(why) && told.contains(r#""level":"ERROR""#), "{told}");
    }
    let demo = acquire(&server, "default").await.unwrap();
    assert_eq!(version(&server, &demo).await, "one");
}

#[tokio::test]
async fn a_smaller_pool_gives_up_what_it_has_too_many() {
    let sized = |target: u32| {
        format!("{}pool = {{ target = {target}, min = 0, max = 6 }}\n", template("default", "one"))
    };
    let server = Server::with_file(&[], &sized(4)).await.full().await;
    server.write_templates(&sized(1));
    server.signal("HUP");
    eventually("one is left", async || {
        let stats = server.stats().await;
        (stats["ready"] == 1 && stats["target"] == 1).then_some(())
    })
    .await;
    eventually("the others are taken down", async || {
        (crate::support::harness::instance_folders(&server.folder).len() == 1).then_some(())
    })
    .await;
    server.write_templates(&sized(3));
    server.signal("HUP");
    eventually("the pool grows again", async || (server.stats().await["ready"] == 3).then_some(())).await;
}
