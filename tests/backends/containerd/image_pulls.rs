//! Images from a registry.

use std::path::PathBuf;

use try_it_now::runtime::{LoginFile, Runtime};
use try_it_now::template::{App, Image};

use super::registry::{PASSWORD, Registry};
use super::{KEEPER, Place, order, php, start, tell, within};

/// This host's, and another, as images name them.
const OURS: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
const OTHER: &str = "s390x";

/// A keeper whose image is from a registry.
fn pulled(reference: &str) -> App {
    App { image: Some(Image::parse(reference, "/".as_ref()).unwrap()), ..php(KEEPER) }
}

async fn answers(place: &Place, app: &App) -> String {
    let runtime = place.open().await;
    let (id, started) = start(&runtime, app).await;
    let answer = tell(&runtime, started.endpoint, "add").await;
    within(runtime.stop(&id)).await.unwrap();
    answer
}

/// What is told when an image is asked for that cannot be had.
async fn refusal(place: &Place, app: &App) -> String {
    let runtime = place.open().await;
    let told = within(runtime.start(&order(app))).await.unwrap_err().to_string();
    assert!(runtime.list().await.unwrap().is_empty());
    told
}

fn with(place: &mut Place, path: PathBuf) {
    place.settings.logins = Some(LoginFile { path, named: true });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_from_a_registry_on_this_host_and_runs() {
    let Some(place) = Place::new() else { return };
    let registry = Registry::start(&place, false);
    registry.push("1", "first", OURS);
    let reference = registry.reference("app:1");
    assert_eq!(answers(&place, &pulled(&reference)).await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_wants_a_login_gets_the_one_of_the_file_and_no_other_works() {
    let Some(mut place) = Place::new() else { return };
    let registry = Registry::start(&place, true);
    registry.push("1", "private", OURS);
    let reference = registry.reference("app:1");
    let app = pulled(&reference);

    let told = refusal(&place, &app).await;
    assert!(told.contains("wants a login, and REGISTRY_AUTH_FILE has none for it"), "{told}");
    with(&mut place, registry.logins("wrong"));
    let told = refusal(&place, &app).await;
    assert!(told.contains("refuses the login that REGISTRY_AUTH_FILE has for it"), "{told}");
    with(&mut place, PathBuf::from("/nowhere/logins.json"));
    let told = refusal(&place, &app).await;
    assert!(told.contains("/nowhere/logins.json: No such file"), "{told}");

    with(&mut place, registry.logins(PASSWORD));
    assert_eq!(answers(&place, &app).await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_pulled_is_told_with_the_reason() {
    let Some(place) = Place::new() else { return };
    let registry = Registry::start(&place, false);
    let (manifest, size) = registry.push("other", "other", OTHER);
    registry.push_index("index", &manifest, size, OTHER);
    let none = format!("app@sha256:{}", "0".repeat(64));
    let platform = format!("it is not for this platform, linux/{OURS}");
    for (name, reason) in [
        ("app:gone", "has no such image or tag"),
        ("nobody/nothing:1", "has no such image or tag"),
        (&none, "has no such image or tag"),
        ("app:other", &platform),
        ("app:index", &platform),
    ] {
        let reference = registry.reference(name);
        let told = refusal(&place, &pulled(&reference)).await;
        assert!(told.contains(reason), "{name}: {told}");
    }
    let reference = registry.reference("app:other");
    drop(registry);
    let told = refusal(&place, &pulled(&reference)).await;
    assert!(told.contains("cannot be reached"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_moves_is_another_image_at_the_next_start_of_the_server_and_a_digest_never_is() {
    let Some(place) = Place::new() else { return };
    let registry = Registry::start(&place, false);
    let (first, _) = registry.push("1", "first", OURS);
    let (tag, pinned) = (registry.reference("app:1"), registry.reference(&format!("app:1@{first}")));
    let told = async |app: &App| {
        let runtime = place.open().await;
        within(runtime.fetch(app)).await.unwrap();
        place.digest_of(app.image.as_ref().unwrap().to_string().as_str())
    };
    assert_eq!(told(&pulled(&tag)).await, first);
    assert_eq!(told(&pulled(&pinned)).await, first);

    let runtime = place.open().await;
    within(runtime.fetch(&pulled(&tag))).await.unwrap();
    let (second, _) = registry.push("1", "second", OURS);
    assert_ne!(first, second);
    // A server that runs keeps to what it found.
    within(runtime.fetch(&pulled(&tag))).await.unwrap();
    assert_eq!(place.digest_of(&tag), first);
    drop(runtime);

    assert_eq!(told(&pulled(&tag)).await, second);
    assert_eq!(told(&pulled(&pinned)).await, first);
    drop(registry);
    // Nobody there: the tag is what it was, and the digest need not be asked for.
    assert_eq!(told(&pulled(&tag)).await, second);
    assert_eq!(told(&pulled(&pinned)).await, first);
}
