//! A process tree that takes all processors: it runs alone, since it starves the tests beside it.

use super::*;

#[tokio::test]
async fn a_process_tree_that_grows_without_end_is_ended() {
    let fixture = ProcessFixture::new().await;
    // Twenty processes at a time, each of which starts its successor in another session and ends, so that the process
    // ids never repeat.
    let app = fixture.with_script(
        "echo >> runs; setsid ./run &",
        "for i in $(seq 20); do ./run; done
        while [ $(wc -l < runs) -lt 500 ]; do :; done; echo ready; exec sleep 600",
    );
    let (id, _) = fixture.start(&app).await;
    with_timeout(fixture.runtime.stop(&id)).await.unwrap();
    assert_eq!(fixture.folder.instance_count(), 0);
    assert!(processes_of(&id).is_empty());
}

/// Lists the living processes that carry the id of this instance.
fn processes_of(id: &InstanceId) -> Vec<Pid> {
    let label = format!("INSTANCE_ID={id}");
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let carries = |pid: &Pid| {
        fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero()))
            .is_ok_and(|block| block.split(|b| *b == 0).any(|variable| variable == label.as_bytes()))
    };
    pids.filter(carries).filter(|pid| alive(*pid)).collect()
}
