//! The memory that instances use, as the runtime reports it and as the kernel counts it.

use try_it_now::instance::InstanceId;
use try_it_now::runtime::{MemoryReport, MemoryUse, Runtime};
use try_it_now::template::ShareMemory;

use super::sharing::{BULK, bake_bulk_app, memory};
use super::{TestNode, send_command, start, with_timeout};

const MIB: u64 = 1 << 20;

async fn report(runtime: &dyn Runtime) -> MemoryReport {
    with_timeout(runtime.memory()).await.unwrap()
}

async fn usage_of(runtime: &dyn Runtime, id: &InstanceId) -> MemoryUse {
    let report = report(runtime).await;
    report.instances.iter().find(|(known, _)| known == id).map(|(_, used)| *used).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_charged_for_what_it_changes_and_shared_memory_counts_once() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    assert_eq!(report(&runtime).await.instances, []);
    let bulk_app = bake_bulk_app(&runtime, ShareMemory::Auto).await;
    let shared = report(&runtime).await.shared;
    assert!(matches!(shared.as_slice(), [(name, bytes)] if name == "sample" && *bytes >= BULK), "{shared:?}");

    let (a_id, a) = start(&runtime, &bulk_app).await;
    send_command(&runtime, a.endpoint, "sum").await;
    // Shared memory is not charged to an instance even while it is the only one that maps all of it.
    let alone = usage_of(&runtime, &a_id).await;
    assert!(alone.private < BULK / 4 && alone.proportional > BULK, "{alone:?}");
    let (b_id, _) = start(&runtime, &bulk_app).await;
    for id in [&a_id, &b_id] {
        let used = usage_of(&runtime, id).await;
        let (private, proportional) = memory(id.as_str());
        // The test reads the same figures a moment later.
        assert!(
            used.private.abs_diff(private) < MIB && used.proportional.abs_diff(proportional) < MIB,
            "{used:?}"
        );
        assert!(used.private < BULK / 4 && used.charged >= used.private, "{used:?}");
        assert!(used.charged < used.private + 8 * MIB, "{used:?}");
    }

    let before = usage_of(&runtime, &a_id).await;
    send_command(&runtime, a.endpoint, "grow 160").await;
    let grown = usage_of(&runtime, &a_id).await;
    assert!(
        grown.private >= before.private + 10 * MIB && grown.charged >= before.charged + 10 * MIB,
        "{grown:?}"
    );
    send_command(&runtime, a.endpoint, "fill 20").await;
    let filled = usage_of(&runtime, &a_id).await;
    // Files that it writes are in memory that is charged to its cgroup and to none of its processes.
    assert!(
        filled.charged >= grown.charged + 18 * MIB && filled.private < grown.private + 4 * MIB,
        "{filled:?}"
    );
    assert!(usage_of(&runtime, &b_id).await.charged < before.charged + MIB);
    let shared_later = report(&runtime).await.shared[0].1;
    assert!(shared_later >= shared[0].1 && shared_later < shared[0].1 + MIB, "{shared_later}");

    with_timeout(runtime.stop(&a_id)).await.unwrap();
    let left: Vec<_> = report(&runtime).await.instances.into_iter().map(|(id, _)| id).collect();
    assert_eq!(left, std::slice::from_ref(&b_id));
    drop(runtime);

    // The next server reports the same.
    let runtime = test_node.open().await;
    let found = report(&runtime).await;
    assert!(found.shared[0].1 >= shared[0].1, "{found:?}");
    assert!(usage_of(&runtime, &b_id).await.private < BULK / 4);
    with_timeout(runtime.stop(&b_id)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_without_sharing_is_charged_for_all_its_memory() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let bulk_app = bake_bulk_app(&runtime, ShareMemory::Off).await;
    assert_eq!(report(&runtime).await.shared, [("sample".to_owned(), 0)]);
    let (id, instance) = start(&runtime, &bulk_app).await;
    send_command(&runtime, instance.endpoint, "read 0").await;
    let used = usage_of(&runtime, &id).await;
    assert!(used.private >= BULK && used.charged >= BULK && used.proportional >= BULK, "{used:?}");
    with_timeout(runtime.stop(&id)).await.unwrap();
}
