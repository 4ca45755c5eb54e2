//! Baking before a server starts.

use std::process::{Command, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};

use super::{ContainerHost, FULL_TIMEOUT, post_note, read_page, release, shut_down};
use crate::support::harness::{MAX_WAIT, eventually_within};
use crate::support::stack::Stack;

/// Returns another command of the program with the same state folder.
pub(super) fn command(host: &ContainerHost, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_try-it-now"));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(host.environment())
        .stdin(Stdio::null());
    command
}

fn bake(host: &ContainerHost) -> tokio::process::Command {
    let file = host.folder.join("templates.toml");
    let mut bake =
        tokio::process::Command::from(command(host, &["bake", "--config", file.to_str().unwrap()]));
    bake.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    bake
}

#[tokio::test]
async fn an_interrupted_bake_leaves_nothing_and_the_next_one_works() {
    let Some(host) = ContainerHost::php() else { return };
    // The bake is interrupted before the instance runs, and as soon as it runs.
    for signal in ["TERM", "INT"] {
        let mut child = bake(&host).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let begun = tokio::time::timeout(MAX_WAIT, lines.next_line()).await.unwrap().unwrap().unwrap();
        assert!(begun.contains("warming up"), "{begun}");
        if signal == "INT" {
            let runs = async || (!host.containers().is_empty()).then_some(());
            eventually_within(FULL_TIMEOUT, "its container exists", runs).await;
        }
        let pid = rustix::process::Pid::from_raw(child.id().unwrap() as i32).unwrap();
        let number =
            if signal == "TERM" { rustix::process::Signal::TERM } else { rustix::process::Signal::INT };
        rustix::process::kill_process(pid, number).unwrap();
        let ended = tokio::time::timeout(MAX_WAIT * 2, child.wait_with_output()).await.unwrap().unwrap();
        host.nodes();
        let output = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{output}");
        assert!(output.contains("interrupted; no partial checkpoint remains"), "{output}");
        host.assert_nothing_left().await;
        let node = host.folder.join("nodes").join(&host.nodes()[0]).join("containers");
        for folder in ["golden", "instances"] {
            assert_eq!(crate::support::leak_check::files_below(&node.join(folder)), [""; 0], "{signal}");
        }
        let snapshots = host.stack.ctr(&["snapshots", "list"]);
        assert!(!snapshots.contains(&format!("golden-{}", host.nodes()[0])), "{snapshots}");
    }
    for output in ["baked in", "already baked"] {
        let done = tokio::time::timeout(FULL_TIMEOUT, bake(&host).output()).await.unwrap().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let lines = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(lines.contains(output), "{done:?}");
        assert!(lines.contains("no known generator repeats"), "{done:?}");
    }
    host.assert_nothing_left().await;
}

#[tokio::test]
async fn a_bake_keeps_the_assigned_instances_of_a_stopped_server_running() {
    let Some(host) = ContainerHost::php() else { return };
    let mut first = host.start_server(&[]).await.full_within(FULL_TIMEOUT).await;
    let instance = first.acquire().await;
    super::post_note(first.port, &instance, "kept").await;
    super::shut_down(&mut first).await;
    let done = tokio::time::timeout(FULL_TIMEOUT, bake(&host).output()).await.unwrap().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let mut second = host.start_server(&[]).await;
    assert_eq!(super::read_page(second.port, &instance).await, (1, vec!["kept".to_owned()]));
    super::release(&second, &instance.id).await;
    super::shut_down(&mut second).await;
    host.assert_nothing_left().await;
}

/// Returns the results of a check of the doctor.
fn results(host: &ContainerHost, check: &str) -> Vec<serde_json::Value> {
    let file = host.folder.join("templates.toml");
    let output = command(host, &["doctor", "--json", "--config", file.to_str().unwrap()]).output().unwrap();
    let results: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    results.into_iter().filter(|result| result["check"] == check).collect()
}

#[tokio::test]
async fn the_doctor_reports_whether_memory_is_shared_and_why_not() {
    let Some(host) = ContainerHost::php() else { return };
    let check = |what: &str| {
        let found = results(&host, "shared memory");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0]["found"].as_str().unwrap().contains(what), "{found:?}");
        found[0]["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(check(": not baked in its present form"), "ok");
    assert!(results(&host, "random numbers").is_empty());
    let done = tokio::time::timeout(FULL_TIMEOUT, bake(&host).output()).await.unwrap().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(check(": instances share "), "ok");
    let numbers = results(&host, "random numbers");
    assert!(numbers.len() == 1 && numbers[0]["verdict"] == "ok", "{numbers:?}");
    // A changed template has no checkpoint yet, and there is no room for its shared memory.
    let file = host.folder.join("templates.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let more = before.replacen("warm_up = [", "warm_up = [\"/\", ", 1);
    assert_ne!(more, before);
    std::fs::write(&file, more).unwrap();
    assert_eq!(check(": not baked in its present form"), "ok");
    let done = tokio::time::timeout(FULL_TIMEOUT, bake(&host).env("SHARED_MEMORY_MAX", "1M").output())
        .await
        .unwrap()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(check(": no memory is shared: its memory of "), "warning");
    host.assert_nothing_left().await;
}

/// An app with two cookies and a field on each page: one cookie and the field are drawn by `Math.random`, whose state is
/// in the memory of the checkpoint, and one cookie by the kernel.
const DRAWS: &str = r#"
const fs = require("fs"), random = fs.openSync("/dev/urandom");
const drawn = () => { const bytes = Buffer.alloc(16); fs.readSync(random, bytes); return bytes.toString("hex"); };
require("http").createServer((request, response) => {
  response.setHeader("set-cookie", ["weak=a" + String(Math.random()).slice(2), "strong=" + drawn()]);
  response.end(`<input type="hidden" name="csrf" value="${Math.random().toString(36).slice(2)}0x">`);
}).listen(80);
"#;

#[tokio::test]
async fn a_bake_reports_values_that_two_restored_instances_repeat() {
    let Some(stack) = crate::support::stack::Stack::find() else { return };
    let more = format!("warm_up = [\"/\"]\ncommand = [\"/usr/bin/node\", \"-e\", '''{DRAWS}''']");
    let host = ContainerHost::new(stack, "node", &more, "path = \"/\"").unwrap();
    let done = tokio::time::timeout(FULL_TIMEOUT, bake(&host).output()).await.unwrap().unwrap();
    let output = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let values = "cookie weak, text after `<input type=\"hidden\" name=\"csrf\" value=\"`";
    assert!(output.contains(&format!("two restored instances drew the same values: {values};")), "{output}");
    let found = results(&host, "random numbers");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["verdict"], "warning");
    assert!(found[0]["found"].as_str().unwrap().ends_with(&values), "{found:?}");
    host.assert_nothing_left().await;
}

#[tokio::test]
async fn a_server_logs_values_that_two_restored_instances_repeat() {
    let Some(stack) = crate::support::stack::Stack::find() else { return };
    let more = format!("warm_up = [\"/\"]\ncommand = [\"/usr/bin/node\", \"-e\", '''{DRAWS}''']");
    let host = ContainerHost::new(stack, "node", &more, "path = \"/\"").unwrap();
    let mut server = host.start_server(&[]).await;
    let log =
        server.log_until_within(FULL_TIMEOUT, |line| line.contains("restored instances repeat values")).await;
    let line = log.iter().find(|line| line.contains("restored instances repeat values")).unwrap();
    assert!(line.contains("cookie weak") && !line.contains("cookie strong"), "{line}");
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}

#[tokio::test]
async fn a_template_with_a_runtime_handler_is_served_without_a_bake_and_bake_says_why() {
    let Some(stack) = Stack::find() else { return };
    let ready = "path = \"/up\"\nbody = \"up\"";
    let Some(host) = ContainerHost::new(stack, "php", "runtime = \"runc\"", ready) else { return };
    let output = tokio::time::timeout(FULL_TIMEOUT, bake(&host).output()).await.unwrap().unwrap();
    host.nodes();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let wanted = ": started, not restored, because its runtime is io.containerd.runc.v2\n";
    assert_eq!(text, format!("{}{wanted}", host.template));
    let sizes = [("POOL_TARGET_SIZE", "1"), ("LOG_LEVEL", "info")];
    let mut server = host.start_server(&sizes).await.full_within(FULL_TIMEOUT).await;
    let instance = server.acquire().await;
    post_note(server.port, &instance, "words").await;
    assert_eq!(read_page(server.port, &instance).await.1, ["words"]);
    assert!(!server.log().iter().any(|line| line.contains("bake started")));
    release(&server, &instance.id).await;
    shut_down(&mut server).await;
    host.assert_nothing_left().await;
}
