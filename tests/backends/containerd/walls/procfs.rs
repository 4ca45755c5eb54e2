//! What an instance reads of its host.

use try_it_now::runtime::{Runtime, StartMethod, StartRequest};

use super::super::{REVISION, TestNode, start, with_timeout};
use super::{answers, ask, hostile_app};
use crate::suites::runtime::start_request;

/// The first instance of a checkpoint, which runc restores, is left out: CRIU does not give it the namespace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_instance_does_not_see_its_place_among_the_cgroups_of_the_host() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let app = hostile_app(&test_node);
    let never_baked = StartRequest { will_be_baked: false, ..start_request(&app) };
    let cold = with_timeout(runtime.start(&never_baked)).await.unwrap();
    let (to_bake, _) = start(&runtime, &app).await;
    with_timeout(runtime.bake(&to_bake, REVISION, &app)).await.unwrap();
    let (_, _by_runc) = start(&runtime, &app).await;
    let (_, restored) = start(&runtime, &app).await;
    for (started, method) in [(cold, StartMethod::Cold), (restored, StartMethod::Restored)] {
        assert_eq!(started.method, method);
        for answer in answers(&runtime, &started, &["read /proc/self/cgroup", "read /proc/1/cgroup"]).await {
            assert!(answer.contains(':'), "{method:?}: {answer}");
            let mut paths = answer.lines().map(|line| line.splitn(3, ':').nth(2).unwrap());
            assert!(paths.all(|path| path == "/"), "{method:?}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_instance_reads_nothing_of_the_devices_and_timers_of_the_host() {
    let masked = ["interrupts", "kcore", "keys", "latency_stats", "sched_debug", "timer_list", "timer_stats"];
    let mut questions: Vec<String> = masked.iter().map(|file| format!("read /proc/{file}")).collect();
    questions.extend(["acpi", "asound", "scsi"].map(|folder| format!("list /proc/{folder}")));
    questions.extend(["firmware", "devices/virtual/powercap"].map(|folder| format!("list /sys/{folder}")));
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    ask(&questions, |start, answers| {
        for (question, answer) in questions.iter().zip(answers) {
            let is_silent = answer.is_empty() || answer == "error: No such file or directory";
            assert!(is_silent, "{start}, {question}: {answer}");
        }
    })
    .await;
}
