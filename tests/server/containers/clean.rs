//! `clean` with two servers, with two state folders, that share a containerd.

use std::process::{Command, Output};

use super::bake::command;
use super::{ContainerHost, FULL_TIMEOUT, read_page};
use crate::support::harness::{Server, eventually_within};
use crate::support::private_containerd::PrivateContainerd;

async fn start(host: &ContainerHost) -> Server {
    let one = [("POOL_TARGET_SIZE", "1"), ("POOL_MIN_SIZE", "1")];
    host.start_server(&one).await.full_within(FULL_TIMEOUT).await
}

async fn kill(server: &mut Server) {
    server.signal("KILL");
    assert_eq!(server.wait_for_exit().await, None);
}

/// Returns how many instances of a server were restored.
pub(super) async fn restores(server: &Server, host: &ContainerHost) -> u64 {
    let series = format!(
        "demo_provisions_total{{template=\"{}\",method=\"criu_restore\",result=\"success\"}} ",
        host.template
    );
    let page = server.request("GET", "/metrics", &[], "").await.text();
    page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or(0)
}

/// Returns the output of a command that succeeds.
fn output_of(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{stdout}{stderr}");
    stdout.into_owned()
}

/// Returns the command that cleans everything. It sees neither the network nor the ranges of ids of the other tests' nodes.
fn clean_all(host: &ContainerHost) -> Command {
    let script =
        "mkdir -p /run/try-it-now && mount -t tmpfs tmpfs /run/try-it-now && exec \"$0\" clean --all";
    let mut apart = Command::new("unshare");
    apart.args(["--mount", "--net", "sh", "-c", script, env!("CARGO_BIN_EXE_try-it-now")]);
    apart.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(host.environment());
    apart
}

#[tokio::test]
async fn a_clean_leaves_the_instances_of_another_state_folder_and_all_takes_them_too() {
    let Some(containerd) = PrivateContainerd::start().await else { return };
    let ready = "path = \"/up\"\nbody = \"up\"";
    let host = || ContainerHost::new(containerd.stack(), "php", "warm_up = [\"/up\"]", ready).unwrap();
    let (ours, theirs) = (host(), host());
    let (mut cleaned, mut other) = tokio::join!(start(&ours), start(&theirs));
    let (lost, kept) = (cleaned.acquire().await, other.acquire().await);
    assert_eq!(read_page(cleaned.port, &lost).await.0, 1);
    assert_eq!(read_page(other.port, &kept).await.0, 1);
    kill(&mut cleaned).await;
    let before = ours.containers().len();
    assert!(before > 0);

    let output = output_of(&mut command(&ours, &["clean"]));
    assert!(output.contains(&format!("containers removed: {before}\n")), "{output}");
    assert!(output.contains("clean --all"), "it says that others stay: {output}");
    ours.assert_nothing_left().await;
    assert_eq!(ours.stack.resources_named(&[&ours.template]), [].into(), "nor a checkpoint");
    assert_eq!(read_page(other.port, &kept).await.0, 2);
    // The shim that both shared, the checkpoint and its memory are still there.
    other = other.full_within(FULL_TIMEOUT).await;
    let restored = restores(&other, &theirs).await;
    let next = other.acquire().await;
    assert_eq!(read_page(other.port, &next).await.0, 1);
    other = other.full_within(FULL_TIMEOUT).await;
    assert!(restores(&other, &theirs).await > restored);

    // Its state folder is lost: no other `clean` knows the node.
    kill(&mut other).await;
    std::fs::remove_dir_all(theirs.folder.join("nodes")).unwrap();
    let output = output_of(&mut command(&theirs, &["clean"]));
    assert!(output.contains("containers removed: 0\n") && output.contains("clean --all"), "{output}");
    assert!(!theirs.containers().is_empty());
    let output = output_of(&mut clean_all(&theirs));
    assert!(!output.contains("which stay"), "{output}");
    eventually_within(FULL_TIMEOUT, "nothing of any node is left", async || {
        let containers = containerd.ctr(&["-n", "try-it-now", "containers", "ls", "--quiet"]);
        let snapshots = theirs.stack.resources_named(&[&theirs.template]);
        (containers.trim().is_empty() && snapshots.is_empty()).then_some(())
    })
    .await;
}
