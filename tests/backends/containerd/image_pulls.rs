//! Pulls of images from a registry.

use std::path::PathBuf;

use try_it_now::runtime::{LoginFile, Runtime};
use try_it_now::template::{App, ImageRef};

use super::registry::{PASSWORD, Registry};
use super::{COUNTER_APP, TestNode, php, send_command, start, start_request, with_timeout};

/// The architecture of this host and another one, as images name them.
const HOST_ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
const OTHER_ARCHITECTURE: &str = "s390x";

/// Returns a counter app whose image comes from a registry.
fn app_from(reference: &str) -> App {
    App { image: Some(ImageRef::parse(reference, "/".as_ref()).unwrap()), ..php(COUNTER_APP) }
}

async fn start_and_ask(test_node: &TestNode, app: &App) -> String {
    let runtime = test_node.open().await;
    let (id, started) = start(&runtime, app).await;
    let answer = send_command(&runtime, started.endpoint, "add").await;
    with_timeout(runtime.stop(&id)).await.unwrap();
    answer
}

/// Returns the error of a start whose image cannot be pulled.
async fn pull_error(test_node: &TestNode, app: &App) -> String {
    let runtime = test_node.open().await;
    let error = with_timeout(runtime.start(&start_request(app))).await.unwrap_err().to_string();
    assert!(runtime.list().await.unwrap().is_empty());
    error
}

fn set_auth_file(test_node: &mut TestNode, path: PathBuf) {
    test_node.settings.logins = Some(LoginFile { path, is_explicit: true });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_from_a_registry_on_this_host_and_runs() {
    let Some(test_node) = TestNode::new() else { return };
    let registry = Registry::start(&test_node, false);
    registry.push("1", "first", HOST_ARCHITECTURE);
    let reference = registry.reference("app:1");
    assert_eq!(start_and_ask(&test_node, &app_from(&reference)).await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_with_a_login_accepts_only_the_credentials_of_the_auth_file() {
    let Some(mut test_node) = TestNode::new() else { return };
    let registry = Registry::start(&test_node, true);
    registry.push("1", "private", HOST_ARCHITECTURE);
    let reference = registry.reference("app:1");
    let app = app_from(&reference);

    let error = pull_error(&test_node, &app).await;
    assert!(error.contains("wants a login, and REGISTRY_AUTH_FILE has none for it"), "{error}");
    set_auth_file(&mut test_node, registry.logins("wrong"));
    let error = pull_error(&test_node, &app).await;
    assert!(error.contains("refuses the login that REGISTRY_AUTH_FILE has for it"), "{error}");
    set_auth_file(&mut test_node, PathBuf::from("/nowhere/logins.json"));
    let error = pull_error(&test_node, &app).await;
    assert!(error.contains("/nowhere/logins.json: No such file"), "{error}");

    set_auth_file(&mut test_node, registry.logins(PASSWORD));
    assert_eq!(start_and_ask(&test_node, &app).await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_pull_reports_the_reason() {
    let Some(test_node) = TestNode::new() else { return };
    let registry = Registry::start(&test_node, false);
    let (manifest, size) = registry.push("other", "other", OTHER_ARCHITECTURE);
    registry.push_index("index", &manifest, size, OTHER_ARCHITECTURE);
    let none = format!("app@sha256:{}", "0".repeat(64));
    let platform = format!("it is not for this platform, linux/{HOST_ARCHITECTURE}");
    for (name, reason) in [
        ("app:gone", "has no such image or tag"),
        ("nobody/nothing:1", "has no such image or tag"),
        (&none, "has no such image or tag"),
        ("app:other", &platform),
        ("app:index", &platform),
    ] {
        let reference = registry.reference(name);
        let error = pull_error(&test_node, &app_from(&reference)).await;
        assert!(error.contains(reason), "{name}: {error}");
    }
    let reference = registry.reference("app:other");
    drop(registry);
    let error = pull_error(&test_node, &app_from(&reference)).await;
    assert!(error.contains("cannot be reached"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_tag_is_pulled_at_the_next_start_of_the_server_and_a_digest_never_changes() {
    let Some(test_node) = TestNode::new() else { return };
    let registry = Registry::start(&test_node, false);
    let (first, _) = registry.push("1", "first", HOST_ARCHITECTURE);
    let (tag, pinned) = (registry.reference("app:1"), registry.reference(&format!("app:1@{first}")));
    let error = async |app: &App| {
        let runtime = test_node.open().await;
        with_timeout(runtime.fetch(app)).await.unwrap();
        test_node.digest_of(app.image.as_ref().unwrap().to_string().as_str())
    };
    assert_eq!(error(&app_from(&tag)).await, first);
    assert_eq!(error(&app_from(&pinned)).await, first);

    let runtime = test_node.open().await;
    with_timeout(runtime.fetch(&app_from(&tag))).await.unwrap();
    let (second, _) = registry.push("1", "second", HOST_ARCHITECTURE);
    assert_ne!(first, second);
    // A running server keeps the image that it has pulled.
    with_timeout(runtime.fetch(&app_from(&tag))).await.unwrap();
    assert_eq!(test_node.digest_of(&tag), first);
    drop(runtime);

    assert_eq!(error(&app_from(&tag)).await, second);
    assert_eq!(error(&app_from(&pinned)).await, first);
    drop(registry);
    // Without the registry, the tag keeps its image, and the digest needs no request.
    assert_eq!(error(&app_from(&tag)).await, second);
    assert_eq!(error(&app_from(&pinned)).await, first);
}
