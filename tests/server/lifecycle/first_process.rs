//! The server as process 1 of a container.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::harness::{Server, eventually, processes_of};
use crate::support::skip;

/// Lists the children of a process, each with its state.
fn children(parent: i32) -> Vec<(i32, char)> {
    let stats = fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let children = stats.filter_map(|stat| {
        let (pid, rest) = stat.split_once(" (")?;
        let mut fields = rest.rsplit_once(") ")?.1.split(' ');
        let (state, of) = (fields.next()?, fields.next()?);
        (of == parent.to_string()).then(|| (pid.parse().unwrap(), state.chars().next().unwrap()))
    });
    children.collect()
}

#[tokio::test]
async fn the_first_process_reaps_what_dead_guardians_leave_and_ends_with_the_server() {
    if !rustix::process::geteuid().is_root() {
        return skip::skip("only root may make a process namespace");
    }
    let mut server = Server::as_first_process(&[]).await.full().await;
    let (first, _) = children(server.pid() as i32)[0];
    let served = children(first);
    assert_eq!(served.len(), 1, "the server is its only child");
    let killed = processes_of(&server.folder);
    assert!(killed.len() >= 4, "two guardians and their apps: {killed:?}");
    for guardian in killed.iter().filter(|process| !process.is_app) {
        kill_process(Pid::from_raw(guardian.pid).unwrap(), Signal::KILL).unwrap();
    }
    eventually("the pool has replaced both instances", async || {
        let ids: BTreeSet<String> =
            processes_of(&server.folder).into_iter().map(|process| process.instance).collect();
        let is_replaced = ids.len() == 2 && killed.iter().all(|process| !ids.contains(&process.instance));
        (is_replaced && server.stats().await["ready"] == 2).then_some(())
    })
    .await;
    eventually("all dead processes are reaped", async || {
        children(first).iter().all(|(pid, _)| *pid == served[0].0).then_some(())
    })
    .await;
    kill_process(Pid::from_raw(first).unwrap(), Signal::TERM).unwrap();
    assert_eq!(server.wait_for_exit().await, Some(0));
    assert_eq!(processes_of(&server.folder), []);
}
