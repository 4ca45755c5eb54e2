//! The life of an app in the zoo, and the figures of its row.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::app::{App, TemplateText, Verdict};
use super::table::{Measured, write_row};
use super::visitor::Visitor;
use crate::containers::{ContainerHost, release, shut_down};
use crate::support::harness::{Server, eventually_within};
use crate::support::skip::skip;
use crate::support::stack::{self, Stack};

/// The longest time until an instance was started cold, or a checkpoint was made.
const COLD_TIMEOUT: Duration = Duration::from_secs(240);
/// The longest time until an instance was restored.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest time until memory was measured.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(60);
/// The number of restores that are measured.
const RESTORES: usize = 20;
/// Instances have user ids of their own: most images have more users than one, which can be frozen only so.
const USERS: (&str, &str) = ("USER_NAMESPACES", "true");

/// Starts, bakes, restores and visits an app, and writes its row.
pub(super) async fn run(app: &App) {
    let Some(stack) = Stack::find() else { return };
    if !stack::image_archive(app.image).is_file() {
        return skip(&format!("the image {} is missing (run `make zoo`)", app.image));
    }
    let host = ContainerHost::new(stack, app.image, "", "").unwrap();
    write_template(&host, app);
    let cold_millis = start_cold(&host, app).await;
    let measured = restore(&host, app, cold_millis).await;
    write_row(app, &measured);
    host.assert_nothing_left().await;
}

fn write_template(host: &ContainerHost, app: &App) {
    let (name, image) = (format!("templates.{}", host.template), stack::image_archive(app.image));
    let text = match app.template {
        TemplateText::Lines(lines) => {
            let lines = lines.replace("templates.APP", &name);
            format!("[{name}]\nimage = \"oci:{}\"\n{lines}", image.display())
        }
        TemplateText::Shipped => {
            let path = format!("{}/deployments/templates/{}.toml", env!("CARGO_MANIFEST_DIR"), app.image);
            let text = std::fs::read_to_string(path).unwrap();
            let text = text.replace(&format!("templates.{}", app.image), &name);
            text.replace("../../target/images", image.parent().unwrap().to_str().unwrap())
        }
    };
    std::fs::write(host.folder.join("templates.toml"), text).unwrap();
}

/// Starts instances cold, and lets a visitor visit one. Returns the milliseconds of a start whose image was fetched and
/// unpacked before.
async fn start_cold(host: &ContainerHost, app: &App) -> u64 {
    let variables = [USERS, ("CRIU_ENABLED", "false"), ("POOL_TARGET_SIZE", "1")];
    let mut server = host.start_server(&variables).await.full_within(COLD_TIMEOUT).await;
    // The next server uses the folder too.
    server.keep_folder();
    let first = acquire(&server).await;
    // The pool starts the next one.
    let second = eventually_within(COLD_TIMEOUT, "the second instance is ready", async || {
        Starts::of(&server).ready_millis.into_iter().find(|(id, _)| *id != first.instance.id)
    });
    let (_, millis) = second.await;
    (app.visit)(&first).await;
    let shown = (app.shown)(&first).await;
    assert!(shown.contains(&first.word), "a cold instance of {} shows no {}: {shown}", app.name, first.word);
    release(&server, &first.instance.id).await;
    shut_down(&mut server).await;
    millis
}

/// Bakes the app, restores instances, and lets two visitors visit.
async fn restore(host: &ContainerHost, app: &App, cold_millis: u64) -> Measured {
    let server = host.start_server(&[USERS, ("POOL_TARGET_SIZE", "2")]).await;
    eventually_within(COLD_TIMEOUT, "the bake has ended", async || {
        has_line(&server, "checkpoint baked").or_else(|| has_line(&server, "failed to bake checkpoint"))
    })
    .await;
    let mut server = server.full_within(COLD_TIMEOUT).await;
    let restore_millis = match app.verdict {
        Verdict::Restores => Some(median(restores(&server).await)),
        Verdict::Cold { error, .. } => {
            let log = server.log();
            let reason = log.iter().find(|line| line.contains("failed to bake checkpoint"));
            assert!(reason.is_some_and(|line| line.contains(error)), "{log:#?}");
            None
        }
    };

    let (one, other) = (acquire(&server).await, acquire(&server).await);
    let starts = Starts::of(&server);
    for visitor in [&one, &other] {
        let is_restored = starts.restored.contains(&visitor.instance.id);
        assert_eq!(is_restored, restore_millis.is_some(), "{:?}", visitor.instance);
    }
    // Before the visits.
    let private_bytes = private_bytes(&server, &one).await;
    let shared_bytes = shared_bytes(&server).await;
    tokio::join!((app.visit)(&one), (app.visit)(&other));
    for (own, foreign) in [(&one, &other), (&other, &one)] {
        let shown = (app.shown)(own).await;
        assert!(shown.contains(&own.word), "{} does not show {}: {shown}", app.name, own.word);
        assert!(!shown.contains(&foreign.word), "{} shows another visitor's {}", app.name, foreign.word);
    }
    release(&server, &one.instance.id).await;
    assert!((app.shown)(&other).await.contains(&other.word));
    release(&server, &other.instance.id).await;
    let failures = ["failed to restore instance", "failed to make instance", "checkpoint discarded"];
    let failed: Vec<_> = server
        .log()
        .into_iter()
        .filter(|line| failures.iter().any(|failure| line.contains(failure)))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    shut_down(&mut server).await;
    Measured { cold_millis, restore_millis, private_bytes, shared_bytes }
}

/// Restores instances one after another, until there are enough. Returns the milliseconds of each, the last ones first.
async fn restores(server: &Server) -> Vec<u64> {
    loop {
        let mut millis = Starts::of(server).restore_millis();
        if millis.len() >= RESTORES {
            millis.reverse();
            millis.truncate(RESTORES);
            return millis;
        }
        let before = millis.len();
        release(server, &acquire(server).await.instance.id).await;
        eventually_within(RESTORE_TIMEOUT, "another instance is restored", async || {
            let failed = has_line(server, "failed to restore").or_else(|| has_line(server, "failed to bake"));
            assert!(failed.is_none(), "{failed:?}");
            let stats = server.stats().await;
            let is_full = stats["ready"].as_u64()? >= stats["target"].as_u64()?;
            (is_full && Starts::of(server).restore_millis().len() > before).then_some(())
        })
        .await;
    }
}

fn median(mut millis: Vec<u64>) -> u64 {
    millis.sort_unstable();
    millis[millis.len() / 2]
}

/// Waits until the memory of an instance was measured.
async fn private_bytes(server: &Server, visitor: &Visitor) -> u64 {
    eventually_within(MEASURE_TIMEOUT, "the instance is measured", async || {
        let path = format!("/api/v1/demo/{}", visitor.instance.id);
        server.call("GET", &path, "").await.json()["memory"]["private_bytes"].as_u64()
    })
    .await
}

/// Returns how much memory the instances share, or why they share none.
async fn shared_bytes(server: &Server) -> Result<u64, String> {
    if let Some(line) = has_line(server, "memory of checkpoint not shared") {
        let fields: Value = serde_json::from_str(&line).unwrap();
        return Err(fields["why"].as_str().unwrap().to_owned());
    }
    match server.stats().await["templates"][0]["memory"]["shared_bytes"].as_u64() {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err("not restored".to_owned()),
    }
}

/// Acquires an instance, as soon as there is one.
async fn acquire(server: &Server) -> Visitor {
    let acquired = eventually_within(COLD_TIMEOUT, "an instance is acquired", async || {
        let answer = server.call("POST", "/api/v1/demo/acquire", "").await;
        (answer.status == 200).then(|| answer.json())
    });
    Visitor::new(server.port, &acquired.await)
}

fn has_line(server: &Server, text: &str) -> Option<String> {
    server.log().into_iter().find(|line| line.contains(text))
}

/// What the server has logged of its instances.
#[derive(Default)]
struct Starts {
    /// The instances that were restored.
    restored: BTreeSet<String>,
    /// The milliseconds from the begin until the instance was ready, in the order of the log.
    ready_millis: Vec<(String, u64)>,
}

impl Starts {
    fn of(server: &Server) -> Self {
        let mut starts = Self::default();
        for line in server.log() {
            let Ok(fields) = serde_json::from_str::<BTreeMap<String, Value>>(&line) else { continue };
            let (Some(message), Some(id)) = (fields.get("message"), fields.get("id")) else { continue };
            let id = id.as_str().unwrap_or_default().to_owned();
            if message == "launched" && fields["restored"] == true {
                starts.restored.insert(id);
            } else if message == "instance ready" {
                starts.ready_millis.push((id, fields["millis"].as_u64().unwrap()));
            }
        }
        starts
    }

    fn restore_millis(&self) -> Vec<u64> {
        let restored = self.ready_millis.iter().filter(|(id, _)| self.restored.contains(id));
        restored.map(|(_, millis)| *millis).collect()
    }
}
