//! What an instance reads of its host.

use super::ask;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_instance_does_not_see_its_place_among_the_cgroups_of_the_host() {
    ask(&["read /proc/self/cgroup", "read /proc/1/cgroup"], |start, answers| {
        for answer in answers {
            assert!(answer.contains(':'), "{start}: {answer}");
            let mut paths = answer.lines().map(|line| line.splitn(3, ':').nth(2).unwrap());
            assert!(paths.all(|path| path == "/"), "{start}: {answer}");
        }
    })
    .await;
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
