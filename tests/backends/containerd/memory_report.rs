//! What instances take of the host's memory, told as the kernel counts it.

use try_it_now::instance::InstanceId;
use try_it_now::runtime::{MemoryReport, MemoryUse, Runtime};
use try_it_now::template::ShareMemory;

use super::sharing::{BULK, bake_holder, memory};
use super::{Place, start, tell, within};

const M: u64 = 1 << 20;

async fn report(runtime: &dyn Runtime) -> MemoryReport {
    within(runtime.memory()).await.unwrap()
}

async fn of(runtime: &dyn Runtime, id: &InstanceId) -> MemoryUse {
    let report = report(runtime).await;
    report.instances.iter().find(|(known, _)| known == id).map(|(_, used)| *used).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_takes_what_it_changes_and_writes_and_what_copies_share_counts_once() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    assert_eq!(report(&runtime).await.instances, []);
    let holder = bake_holder(&runtime, ShareMemory::Auto).await;
    let shared = report(&runtime).await.shared;
    assert!(matches!(shared.as_slice(), [(name, bytes)] if name == "sample" && *bytes >= BULK), "{shared:?}");

    let (a_id, a) = start(&runtime, &holder).await;
    tell(&runtime, a.endpoint, "sum").await;
    // What copies share is not its own either while it is the only one that has looked at all of it.
    let alone = of(&runtime, &a_id).await;
    assert!(alone.private < BULK / 4 && alone.proportional > BULK, "{alone:?}");
    let (b_id, _) = start(&runtime, &holder).await;
    for id in [&a_id, &b_id] {
        let used = of(&runtime, id).await;
        let (private, proportional) = memory(id.as_str());
        // The test reads the same a moment later.
        assert!(
            used.private.abs_diff(private) < M && used.proportional.abs_diff(proportional) < M,
            "{used:?}"
        );
        assert!(used.private < BULK / 4 && used.charged >= used.private, "{used:?}");
        assert!(used.charged < used.private + 8 * M, "{used:?}");
    }

    let before = of(&runtime, &a_id).await;
    tell(&runtime, a.endpoint, "grow 160").await;
    let grown = of(&runtime, &a_id).await;
    assert!(
        grown.private >= before.private + 10 * M && grown.charged >= before.charged + 10 * M,
        "{grown:?}"
    );
    tell(&runtime, a.endpoint, "fill 20").await;
    let filled = of(&runtime, &a_id).await;
    // What it writes lies in memory that is charged to it, and is none of its processes'.
    assert!(filled.charged >= grown.charged + 18 * M && filled.private < grown.private + 4 * M, "{filled:?}");
    assert!(of(&runtime, &b_id).await.charged < before.charged + M);
    let again = report(&runtime).await.shared[0].1;
    assert!(again >= shared[0].1 && again < shared[0].1 + M, "{again}");

    within(runtime.stop(&a_id)).await.unwrap();
    let left: Vec<_> = report(&runtime).await.instances.into_iter().map(|(id, _)| id).collect();
    assert_eq!(left, std::slice::from_ref(&b_id));
    drop(runtime);

    // The next server finds it all again.
    let runtime = place.open().await;
    let found = report(&runtime).await;
    assert!(found.shared[0].1 >= shared[0].1, "{found:?}");
    assert!(of(&runtime, &b_id).await.private < BULK / 4);
    within(runtime.stop(&b_id)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_shares_nothing_takes_all_of_its_memory() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let holder = bake_holder(&runtime, ShareMemory::Off).await;
    assert_eq!(report(&runtime).await.shared, [("sample".to_owned(), 0)]);
    let (id, copy) = start(&runtime, &holder).await;
    tell(&runtime, copy.endpoint, "read 0").await;
    let used = of(&runtime, &id).await;
    assert!(used.private >= BULK && used.charged >= BULK && used.proportional >= BULK, "{used:?}");
    within(runtime.stop(&id)).await.unwrap();
}
