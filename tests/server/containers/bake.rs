//! Baking ahead of a start.

use std::process::{Command, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};

use super::{FULL, Host};
use crate::support::harness::{PATIENCE, eventually_within};

/// The program with another command, for the same state folder.
pub(super) fn command(host: &Host, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_try-it-now"));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(host.variables())
        .stdin(Stdio::null());
    command
}

fn bake(host: &Host) -> tokio::process::Command {
    let file = host.folder.join("templates.toml");
    let mut bake =
        tokio::process::Command::from(command(host, &["bake", "--config", file.to_str().unwrap()]));
    bake.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    bake
}

#[tokio::test]
async fn a_bake_that_is_told_to_end_leaves_nothing_and_the_next_one_works() {
    let Some(host) = Host::php() else { return };
    // Before the instance runs, while it warms up, and as soon as it does.
    for signal in ["TERM", "INT"] {
        let mut child = bake(&host).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let begun = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        assert!(begun.contains("warming up"), "{begun}");
        if signal == "INT" {
            let runs = async || (!host.containers().is_empty()).then_some(());
            eventually_within(FULL, "its instance is there", runs).await;
        }
        let pid = rustix::process::Pid::from_raw(child.id().unwrap() as i32).unwrap();
        let number =
            if signal == "TERM" { rustix::process::Signal::TERM } else { rustix::process::Signal::INT };
        rustix::process::kill_process(pid, number).unwrap();
        let ended = tokio::time::timeout(PATIENCE * 2, child.wait_with_output()).await.unwrap().unwrap();
        host.nodes();
        let told = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{told}");
        assert!(told.contains("interrupted; nothing half made was left"), "{told}");
        host.nothing_left().await;
        let node = host.folder.join("nodes").join(&host.nodes()[0]).join("containers");
        for folder in ["golden", "instances"] {
            assert_eq!(crate::support::leak_check::files(&node.join(folder)), [""; 0], "{signal}");
        }
        let snapshots = host.stack.ctr(&["snapshots", "list"]);
        assert!(!snapshots.contains(&format!("golden-{}", host.nodes()[0])), "{snapshots}");
    }
    for told in ["baked in", "was baked before"] {
        let done = tokio::time::timeout(FULL, bake(&host).output()).await.unwrap().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert!(String::from_utf8_lossy(&done.stdout).contains(told), "{done:?}");
    }
    host.nothing_left().await;
}

#[tokio::test]
async fn a_bake_leaves_alone_what_visitors_have_of_a_server_that_stopped() {
    let Some(host) = Host::php() else { return };
    let mut first = host.serve(&[]).await.full_within(FULL).await;
    let demo = first.acquire().await;
    super::note(first.port, &demo, "kept").await;
    super::stop(&mut first).await;
    let done = tokio::time::timeout(FULL, bake(&host).output()).await.unwrap().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut second = host.serve(&[]).await;
    assert_eq!(super::page(second.port, &demo).await, (1, vec!["kept".to_owned()]));
    super::release(&second, &demo.id).await;
    super::stop(&mut second).await;
    host.nothing_left().await;
}

/// What the doctor says of shared memory.
fn shared_memory(host: &Host) -> Vec<serde_json::Value> {
    let file = host.folder.join("templates.toml");
    let told = command(host, &["doctor", "--json", "--config", file.to_str().unwrap()]).output().unwrap();
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&told.stdout).unwrap();
    findings.into_iter().filter(|finding| finding["check"] == "shared memory").collect()
}

#[tokio::test]
async fn the_doctor_says_whether_copies_share_memory_and_why_not() {
    let Some(host) = Host::php() else { return };
    let said = |what: &str| {
        let found = shared_memory(&host);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0]["found"].as_str().unwrap().contains(what), "{found:?}");
        found[0]["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(said(": not baked as it is now"), "ok");
    let done = tokio::time::timeout(FULL, bake(&host).output()).await.unwrap().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(said(": copies share "), "ok");
    // Another revision of the template, and no room.
    let file = host.folder.join("templates.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let more = before.replacen("warm_up = [", "warm_up = [\"/\", ", 1);
    assert_ne!(more, before);
    std::fs::write(&file, more).unwrap();
    assert_eq!(said(": not baked as it is now"), "ok");
    let done = tokio::time::timeout(FULL, bake(&host).env("SHARED_MEMORY_MAX", "1M").output())
        .await
        .unwrap()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(said(": each copy has memory of its own: its memory of "), "warning");
    host.nothing_left().await;
}
