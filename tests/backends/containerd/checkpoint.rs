//! CheckpointStatus checkpoints, and what is made of them.

use try_it_now::runtime::{CheckpointStatus, Runtime, RuntimeError, StartMethod};

use super::{KEEPER, Place, REVISION, bake, fs, order, php, start, tell, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_baked_is_restored_with_its_memory_and_its_files_and_copies_are_apart() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let keeper = php(KEEPER);
    within(runtime.fetch(&keeper)).await.unwrap();
    assert_eq!(runtime.checkpoint_status(REVISION, &keeper).await, CheckpointStatus::Missing);
    bake(&runtime).await;
    assert_eq!(runtime.checkpoint_status(REVISION, &keeper).await, CheckpointStatus::Present);
    assert_eq!(runtime.checkpoint_status(REVISION + 1, &keeper).await, CheckpointStatus::Missing);
    assert!(runtime.list().await.unwrap().is_empty());

    let (a_id, a) = start(&runtime, &keeper).await;
    let (_, b) = start(&runtime, &keeper).await;
    assert_eq!((a.how, b.how), (StartMethod::Restored, StartMethod::Restored));
    assert_eq!(tell(&runtime, a.endpoint, "add").await, "2 old");
    assert_eq!(tell(&runtime, a.endpoint, "note ,a").await, "2 old,a");
    assert_eq!(tell(&runtime, b.endpoint, "note ,b").await, "1 old,b");
    within(runtime.stop(&a_id)).await.unwrap();
    assert_eq!(tell(&runtime, b.endpoint, "look").await, "1 old,b");
    let (_, c) = start(&runtime, &keeper).await;
    assert_eq!(tell(&runtime, c.endpoint, "look").await, "1 old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_is_found_again_and_one_that_lost_a_part_is_not() {
    let Some(place) = Place::new() else { return };
    let keeper = bake(&place.open().await).await;

    let runtime = place.open().await;
    within(runtime.fetch(&keeper)).await.unwrap();
    assert_eq!(runtime.checkpoint_status(REVISION, &keeper).await, CheckpointStatus::Present);
    let (id, started) = start(&runtime, &keeper).await;
    assert_eq!(started.how, StartMethod::Restored);
    assert_eq!(tell(&runtime, started.endpoint, "look").await, "1 old");
    within(runtime.stop(&id)).await.unwrap();
    drop(runtime);

    for entry in fs::read_dir(place.checkpoints()).unwrap() {
        fs::remove_file(entry.unwrap().path().join("manifest.json")).unwrap();
    }
    let runtime = place.open().await;
    within(runtime.fetch(&keeper)).await.unwrap();
    assert_eq!(runtime.checkpoint_status(REVISION, &keeper).await, CheckpointStatus::Missing);
    assert_eq!(place.all_of(place.settings.node.as_str()), [""; 0]);
    assert_eq!(fs::read_dir(place.checkpoints()).unwrap().count(), 0);
    let (_, started) = start(&runtime, &keeper).await;
    assert_eq!(started.how, StartMethod::Cold);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_cannot_be_restored_is_given_up_and_visitors_get_cold_ones() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let keeper = bake(&runtime).await;
    for entry in fs::read_dir(place.checkpoints()).unwrap() {
        fs::remove_file(entry.unwrap().path().join("images/pstree.img")).unwrap();
    }
    let mut exits = runtime.exits();
    for _ in 0..3 {
        let (_, started) = start(&runtime, &keeper).await;
        assert_eq!(started.how, StartMethod::Cold);
        assert_eq!(tell(&runtime, started.endpoint, "look").await, "0");
    }
    assert_eq!(runtime.checkpoint_status(REVISION, &keeper).await, CheckpointStatus::Missing);
    assert_eq!(place.all_of(place.settings.node.as_str()), [""; 0]);
    assert!(exits.try_recv().is_err(), "a restore that failed is no end of an instance");
    bake(&runtime).await;
    assert_eq!(start(&runtime, &keeper).await.1.how, StartMethod::Restored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bake_that_nobody_waits_for_leaves_a_whole_checkpoint_or_none() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let keeper = php(KEEPER);
    let (id, started) = start(&runtime, &keeper).await;
    tell(&runtime, started.endpoint, "add").await;
    let mut bake = runtime.bake(&id, REVISION, &keeper);
    // Polled once, so it has begun.
    assert!(futures_util::poll!(&mut bake).is_pending());
    drop(bake);
    within(runtime.stop(&id)).await.unwrap();
    assert_eq!(place.all_of(id.as_str()), [""; 0]);
    let whole = runtime.checkpoint_status(REVISION, &keeper).await == CheckpointStatus::Present;
    let (_, started) = start(&runtime, &keeper).await;
    assert_eq!(started.how == StartMethod::Restored, whole);
    assert_eq!(tell(&runtime, started.endpoint, "look").await, if whole { "1" } else { "0" });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_run_cannot_be_baked() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let keeper = php(KEEPER);
    let nobody = order(&keeper).id;
    let error = within(runtime.bake(&nobody, REVISION, &keeper)).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Start(_)), "{error:?}");
    assert_eq!(place.all_of(place.settings.node.as_str()), [""; 0]);
}
