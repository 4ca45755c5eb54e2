//! What a server that ended in disorder leaves to the next.

use try_it_now::runtime::Runtime;

use super::{KEEPER, Place, fs, php, shell, start, tell, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_is_picked_up_and_a_stop_leaves_nothing_of_it() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let (id, started) = start(&runtime, &php(KEEPER)).await;
    assert_eq!(tell(&runtime, started.endpoint, "add").await, "1");
    assert!(place.all_of(id.as_str()).len() >= 4, "a container, its task, its snapshot and its folder");
    drop(runtime);

    let runtime = place.open().await;
    assert_eq!(runtime.list().await.unwrap(), std::slice::from_ref(&id));
    assert_eq!(tell(&runtime, started.endpoint, "look").await, "1");
    // Numbers of networks go on where the one before stopped.
    let (other, newcomer) = start(&runtime, &php(KEEPER)).await;
    assert_ne!(newcomer.endpoint, started.endpoint);
    within(runtime.stop(&id)).await.unwrap();
    assert_eq!(place.all_of(id.as_str()), [""; 0]);
    assert!(runtime.connect(started.endpoint).await.is_err());
    assert_eq!(runtime.list().await.unwrap(), [other]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_nobodys_is_removed() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let (id, _) = start(&runtime, &shell("exec sleep 600")).await;
    drop(runtime);
    let crashed = place.open().await;
    assert_eq!(crashed.list().await.unwrap(), std::slice::from_ref(&id));
    let strange = place.settings.folder.join("instances/sample-nobody");
    fs::create_dir(&strange).unwrap();
    drop(crashed);
    let last = place.open().await;
    assert!(!strange.exists());
    within(last.stop(&id)).await.unwrap();
    assert_eq!(place.all_of(id.as_str()), [""; 0]);
}
