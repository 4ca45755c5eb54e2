//! The pool when nothing is ready, and templates that cannot be provisioned.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::harness::{Server, eventually, get, processes_of};

#[tokio::test]
async fn an_exhausted_pool_answers_with_the_time_to_retry() {
    let server = Server::start(&[("POOL_MAX_SIZE", "2")]).await;
    let mine = [server.acquire().await, server.acquire().await];
    let start = Instant::now();
    let refused = server.call("POST", "/api/v1/demo/acquire", "").await;
    assert!(start.elapsed() < Duration::from_secs(1), "an exhausted pool answers without a wait");
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("POOL_EXHAUSTED")));
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    let stats = server.stats().await;
    assert_eq!((&stats["assigned"], &stats["ready"], &stats["warming"]), (&2.into(), &0.into(), &0.into()));
    assert_eq!(server.call("DELETE", &format!("/api/v1/demo/{}", mine[0].id), "").await.status, 200);
    eventually("the pool has an instance again", async || {
        (server.call("POST", "/api/v1/demo/acquire", "").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_instance_is_provisioned_on_demand_when_the_target_is_zero() {
    let settings = [
        ("POOL_TARGET_SIZE", "0"),
        ("POOL_MIN_SIZE", "0"),
        ("POOL_MAX_SIZE", "6"),
        ("ACQUIRE_TIMEOUT", "15s"),
    ];
    let server = Server::start(&settings).await;
    assert_eq!(server.stats().await["warming"], 0);
    let instance = server.acquire().await;
    assert_eq!(get(server.port, &instance.host, "/").await.status, 200);
    // Five at the same time are more than are provisioned at a time: each gets an instance of its own.
    let (a, b, c, d, e) = tokio::join!(
        server.acquire(),
        server.acquire(),
        server.acquire(),
        server.acquire(),
        server.acquire()
    );
    let ids = std::collections::HashSet::from([instance.id, a.id, b.id, c.id, d.id, e.id]);
    assert_eq!(ids.len(), 6);
    assert_eq!(server.call("POST", "/api/v1/demo/acquire", "").await.status, 503);
}

#[tokio::test]
async fn visitors_who_come_faster_than_the_pool_fills_wait_for_their_turn() {
    let settings = [("POOL_TARGET_SIZE", "1"), ("POOL_MAX_SIZE", "8"), ("ACQUIRE_TIMEOUT", "15s")];
    let server = Server::start(&settings).await;
    for _ in 0..8 {
        server.acquire().await;
    }
    assert_eq!(server.stats().await["assigned"], 8);
}

#[tokio::test]
async fn a_visitor_does_not_wait_longer_than_the_acquire_timeout() {
    let server = Server::with_file(
        &[("ACQUIRE_TIMEOUT", "1s")],
        "[templates.default]\ncommand = [\"sleep\", \"1000\"]\n",
    )
    .await;
    let start = Instant::now();
    let refused = server.call("POST", "/api/v1/demo/acquire", "").await;
    let took = start.elapsed();
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("POOL_EXHAUSTED")));
    assert!(refused.headers.contains_key("retry-after"));
    assert!((900..5_000).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn a_visitor_who_leaves_the_wait_queue_lets_others_in() {
    let settings = [
        ("POOL_TARGET_SIZE", "0"),
        ("POOL_MIN_SIZE", "0"),
        ("POOL_MAX_SIZE", "2"),
        ("ACQUIRE_TIMEOUT", "15s"),
    ];
    let server = Server::start(&settings).await;
    for _ in 0..3 {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        let head = b"POST /api/v1/demo/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(head).await.unwrap();
        drop(stream);
    }
    let instance = eventually("an instance is ready", async || {
        let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
        (answer.status == 200).then(|| answer.json()["id"].as_str().unwrap().to_owned())
    })
    .await;
    assert_eq!(get(server.port, &format!("{instance}.localhost"), "/").await.status, 200);
}

const BROKEN: &str = r#"
[templates.good]
command = ["try-it-now", "sample-app"]
[templates.false]
command = ["false"]
[templates.missing]
command = ["no-such-program-anywhere"]
[templates.silent]
command = ["sleep", "1000"]
ready = { timeout = "1s" }
"#;

async fn problem(server: &Server, template: &str) -> Option<String> {
    let stats = server.call("GET", &format!("/api/v1/pool/stats?template={template}"), "").await.json();
    Some(stats["templates"][0]["problem"].as_str()?.to_owned())
}

#[tokio::test]
async fn a_broken_template_reports_why_and_does_not_affect_the_others() {
    let server = Server::with_file(&[], BROKEN).await;
    for (template, why) in [
        ("false", "the app ended before it was ready"),
        ("missing", "no-such-program-anywhere"),
        ("silent", "was not ready within 1s"),
    ] {
        let output = eventually("its problem is reported", async || problem(&server, template).await).await;
        assert!(output.contains(why), "{template}: {output}");
        let body = serde_json::json!({ "template": template }).to_string();
        let refused = server.call("POST", "/api/v1/demo/acquire", &body).await;
        assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("POOL_EXHAUSTED")));
        assert!(refused.headers.contains_key("retry-after"));
    }
    let good = server.acquire().await;
    assert!(good.id.starts_with("good-"));
    assert_eq!(get(server.port, &good.host, "/").await.status, 200);
    assert_eq!(problem(&server, "good").await, None);
    eventually("the good template is filled again", async || {
        let stats = server.call("GET", "/api/v1/pool/stats?template=good", "").await.json();
        (stats["ready"].as_u64()? + stats["warming"].as_u64()? >= 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_broken_template_is_retried_with_backoff() {
    let file = "[templates.default]\ncommand = [\"false\"]\npool = { target = 2, min = 0, max = 4 }\n";
    let start = Instant::now();
    let server = Server::with_file(&[], file).await;
    let attempts = async || {
        let page = server.request("GET", "/metrics", &[], "").await.text();
        let series = r#"demo_provisions_total{template="default",method="cold_start",result="error"} "#;
        page.lines().find_map(|line| line.strip_prefix(series)?.parse::<u64>().ok()).unwrap_or(0)
    };
    // Two are tried at a time, and before the third round there are delays of one and two seconds.
    eventually("the third round", async || (attempts().await > 4).then_some(())).await;
    assert!(start.elapsed() >= Duration::from_secs(3), "{:?}", start.elapsed());
    // Nothing of the attempts is left.
    eventually("all processes are removed", async || processes_of(&server.folder).is_empty().then_some(()))
        .await;
}

#[tokio::test]
async fn a_corrected_template_is_retried_immediately() {
    let server = Server::with_file(&[], "[templates.default]\ncommand = [\"false\"]\n").await;
    eventually("its problem is reported", async || problem(&server, "default").await).await;
    server.write_templates("[templates.default]\ncommand = [\"try-it-now\", \"sample-app\"]\n");
    server.signal("HUP");
    server.log_until(|line| line.contains("templates reloaded")).await;
    let server = server.full().await;
    assert_eq!(problem(&server, "default").await, None);
}

#[tokio::test]
async fn waiting_visitors_are_served_in_the_order_of_their_arrival() {
    let program = env!("CARGO_BIN_EXE_try-it-now");
    let gate = std::env::temp_dir().join(format!("try-it-now-gate-{}", uuid::Uuid::now_v7()));
    // Each time that the folder is created, one app removes it and starts.
    let through = format!("until rmdir {} 2>/dev/null; do sleep 0.02; done", gate.display());
    let file = format!(
        "[templates.default]\ncommand = [\"sh\", \"-c\", \"{through}; exec {program} sample-app\"]\n\
         pool = {{ target = 0, min = 0, max = 3, concurrency = 3 }}\n"
    );
    let server = Server::with_file(&[("ACQUIRE_TIMEOUT", "20s")], &file).await;
    let mut waiting = Vec::new();
    for place in 1..=3 {
        let port = server.port;
        waiting.push(try_it_now::telemetry::task::spawn("visitor", async move {
            crate::support::harness::request(port, "POST", "localhost", "/api/v1/demo/acquire", &[], "")
                .await
                .status
        }));
        eventually("one more visitor waits", async || {
            (server.stats().await["warming"] == place).then_some(())
        })
        .await;
    }
    for place in 0..3 {
        std::fs::create_dir(&gate).unwrap();
        eventually("one more visitor is served", async || {
            (server.stats().await["assigned"] == place + 1).then_some(())
        })
        .await;
        eventually("the first waiting visitor is served", async || {
            waiting[place].is_finished().then_some(())
        })
        .await;
        assert!(waiting[place + 1..].iter().all(|visitor| !visitor.is_finished()));
    }
    for visitor in waiting {
        assert_eq!(visitor.await.unwrap(), 200);
    }
}
