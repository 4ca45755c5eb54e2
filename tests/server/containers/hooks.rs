//! Hooks on real containers, from the template file to the assigned instance.

use std::time::Duration;

use serde_json::Value;
use try_it_now::instance::NodeId;
use try_it_now::runtime::Runtime as _;
use try_it_now::runtime::containerd::{ContainerdRuntime, ContainerdSettings};

use crate::support::harness::{AcquiredInstance, Answer, Server, eventually_within, request};
use crate::support::stack::{self, Stack};

/// The first start installs an app, and other programs use this machine too.
const BAKE_TIMEOUT: Duration = Duration::from_secs(90);

/// A server with containers. When this is dropped, everything of it in containerd is removed, whether the test has
/// passed or failed.
struct ContainerServer {
    server: Option<Server>,
    stack: Stack,
    node: NodeId,
}

impl ContainerServer {
    /// Starts a server. Returns `None` if no containerd is running.
    async fn start(templates: impl FnOnce() -> String, variables: &[(&str, &str)]) -> Option<Self> {
        let stack = Stack::find()?;
        let (address, path) = (stack.address.to_str().unwrap(), stack.path.to_str().unwrap());
        let own = [("CONTAINER_MODE", "containerd"), ("CONTAINERD_ADDRESS", address), ("PATH", path)];
        let server = Server::with_file(&[&own, variables].concat(), &templates()).await;
        let nodes = std::fs::read_dir(server.folder.join("nodes")).unwrap();
        let node = nodes.map(|entry| entry.unwrap().file_name().into_string().unwrap()).next().unwrap();
        Some(Self { server: Some(server), stack, node: NodeId::parse(&node).unwrap() })
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Waits until its pool is full of restored instances.
    async fn full(mut self) -> Self {
        self.server = Some(self.server.take().unwrap().full_within(BAKE_TIMEOUT).await);
        self
    }

    async fn acquire(&self) -> (AcquiredInstance, Value) {
        let acquired = self.server().call("POST", "/api/v1/demo/acquire", "").await.json();
        (AcquiredInstance::from_json(&acquired), acquired)
    }

    async fn get(&self, instance: &AcquiredInstance, path: &str) -> Answer {
        request(self.server().port, "GET", &instance.host, path, &[], "").await
    }
}

impl Drop for ContainerServer {
    fn drop(&mut self) {
        drop(self.server.take());
        let folder = std::env::temp_dir().join(format!("try-it-now-swept-{}", self.node));
        let settings = ContainerdSettings::new(self.stack.address.clone(), folder.clone(), self.node.clone());
        let settings = ContainerdSettings { may_restore: false, ..settings };
        let clean_up = move || {
            let runtime_for_cleanup =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime_for_cleanup.block_on(async {
                let runtime = ContainerdRuntime::open(settings).await.unwrap();
                for id in runtime.list().await.unwrap() {
                    runtime.stop(&id).await.unwrap();
                }
            });
        };
        // A thread that runs one async runtime cannot block on another.
        let _ = std::thread::spawn(clean_up).join();
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// Returns the files in `/own`, and appends each request to `/record` to one of them.
const NOTEBOOK: &str = r#"
if ($_SERVER["REQUEST_URI"] === "/record") {
    $line = $_SERVER["REQUEST_METHOD"] . " " . $_SERVER["HTTP_X_KEY"] . " " . file_get_contents("php://input");
    file_put_contents("/own/recorded", "$line\n", FILE_APPEND);
    http_response_code(201);
    return;
}
$files = [];
foreach (glob("/own/*") as $file) $files[basename($file)] = file_get_contents($file);
echo json_encode($files);
"#;

fn notebook(hooks: &str) -> String {
    let image = stack::image_archive("php");
    format!(
        r#"
[templates.notebook]
image = "oci:{}"
command = ["sh", "-c", 'mkdir -p /own; printf %s "$PAGE" >/page.php; exec php -q -S 0.0.0.0:80 /page.php']
env = {{ PAGE = '''<?php {NOTEBOOK}''' }}
{hooks}
"#,
        image.display()
    )
}

#[tokio::test]
async fn every_instance_has_its_own_values_in_all_hooks_before_it_is_ready() {
    let hooks = r#"
[templates.notebook.hooks]
random = { KEY = 20, SALT = 64 }
credentials = "{KEY} at {INSTANCE_URL}"
files = { "/own/file" = "{INSTANCE_ID} {INSTANCE_URL} {INSTANCE_HOST} {KEY} {SALT}" }
[[templates.notebook.hooks.http]]
method = "POST"
path = "/record"
headers = { X-Key = "{KEY}" }
body = "{INSTANCE_HOST}"
status = 201
[[templates.notebook.hooks.exec]]
command = ["sh", "-c", 'echo "$INSTANCE_ID $KEY $1" >/own/ran', "own", "{SALT}"]
[[templates.notebook.hooks.bake.http]]
method = "POST"
path = "/record"
headers = { X-Key = "baked" }
[[templates.notebook.hooks.bake.exec]]
command = ["sh", "-c", "echo baked >/own/baked"]
"#;
    let Some(container_server) = ContainerServer::start(|| notebook(hooks), &[]).await else { return };
    let container_server = container_server.full().await;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let (instance, acquired) = container_server.acquire().await;
        let own = container_server.get(&instance, "/").await.json();
        let text = |name: &str| own[name].as_str().unwrap_or_else(|| panic!("{name} in {own}")).to_owned();
        let host = instance.host.split(':').next().unwrap();
        let [id, url, own_host, key, salt] =
            text("file").split(' ').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(
            (id.as_str(), url.as_str(), own_host.as_str()),
            (instance.id.as_str(), instance.url.as_str(), host)
        );
        assert_eq!((key.len(), salt.len()), (20, 64));
        // The hook ran once in the baked instance, whose files this one has, and once in this one.
        assert_eq!(text("recorded"), format!("POST baked \nPOST {key} {host}\n"));
        assert_eq!(text("ran"), format!("{id} {key} {salt}\n"));
        assert_eq!(text("baked"), "baked\n");
        assert_eq!(acquired["credentials"], format!("{key} at {url}"));
        let shown = container_server.server().call("GET", &format!("/api/v1/demo/{id}"), "").await.json();
        assert_eq!(shown["credentials"], acquired["credentials"]);
        keys.extend([key, salt]);
    }
    assert!(keys[0] != keys[2] && keys[1] != keys[3], "{keys:?}");
    let log = container_server.server().log().join("\n");
    assert!(log.contains("baked") && !keys.iter().any(|key| log.contains(key)), "the log has no secret");
}

#[tokio::test]
async fn an_instance_whose_hook_fails_is_never_offered_and_the_log_has_the_reason() {
    let hooks = r#"
[templates.notebook.hooks]
random = { KEY = 20 }
[[templates.notebook.hooks.exec]]
command = ["sh", "-c", "echo no use for {KEY}; exit 9"]
"#;
    let Some(container_server) = ContainerServer::start(|| notebook(hooks), &[]).await else { return };
    let why = "the hook `sh` ended with status 9; its last output: no use for {KEY}";
    eventually_within(BAKE_TIMEOUT, "the reason is logged", async || {
        container_server.server().log().iter().any(|line| line.contains(why)).then_some(())
    })
    .await;
    let stats = container_server.server().stats().await;
    assert_eq!((&stats["ready"], &stats["assigned"]), (&Value::from(0), &Value::from(0)));
    container_server
        .server()
        .call("POST", "/api/v1/demo/acquire", "")
        .await
        .assert_error(503, "POOL_EXHAUSTED");
}

#[tokio::test]
async fn a_restored_sample_app_knows_its_own_id() {
    let path = stack::image_archive("sample");
    let templates = || format!("[templates.sample]\nimage = \"oci:{}\"\n", path.display());
    let Some(container_server) = ContainerServer::start(templates, &[]).await else { return };
    let container_server = container_server.full().await;
    for _ in 0..2 {
        let (instance, _) = container_server.acquire().await;
        let shown = container_server.get(&instance, "/whoami").await.json();
        assert_eq!(shown["id"], instance.id.as_str());
        assert_eq!(shown["host"], instance.host.split(':').next().unwrap());
    }
}

/// Logs in to WordPress. Returns the names and values of the session cookies.
async fn log_in(
    container_server: &ContainerServer,
    instance: &AcquiredInstance,
    password: &str,
) -> Vec<(String, String)> {
    let form = format!("log=admin&pwd={password}&testcookie=1");
    let headers = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Cookie", "wordpress_test_cookie=WP+Cookie+check"),
    ];
    let answer =
        request(container_server.server().port, "POST", &instance.host, "/wp-login.php", &headers, &form)
            .await;
    let cookies = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
    let pairs = cookies.filter_map(|cookie| cookie.split(';').next()?.split_once('='));
    pairs.filter(|(name, _)| !name.contains("test")).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

async fn is_logged_in(
    container_server: &ContainerServer,
    instance: &AcquiredInstance,
    cookies: &[(String, String)],
) -> bool {
    let pairs: Vec<_> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let headers = [("Cookie", pairs.join("; "))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let answer =
        request(container_server.server().port, "GET", &instance.host, "/wp-admin/profile.php", &headers, "")
            .await;
    assert!(matches!(answer.status, 200 | 302), "{}", answer.status);
    answer.status == 200
}

#[tokio::test]
async fn two_instances_of_wordpress_have_passwords_keys_and_sessions_of_their_own() {
    let templates = || {
        let path = format!("{}/deployments/templates/wordpress.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        text.replace("../../target/images/wordpress.tar", stack::image_archive("wordpress").to_str().unwrap())
    };
    let Some(container_server) = ContainerServer::start(templates, &[]).await else { return };
    let container_server = container_server.full().await;
    let (a, b) = (container_server.acquire().await, container_server.acquire().await);
    let password =
        |acquired: &Value| acquired["credentials"].as_str().unwrap().rsplit(' ').next().unwrap().to_owned();
    let passwords = [password(&a.1), password(&b.1)];
    assert_ne!(passwords[0], passwords[1]);
    let (a, b) = (a.0, b.0);
    for wrong in [passwords[1].as_str(), "demo", ""] {
        assert_eq!(log_in(&container_server, &a, wrong).await, [], "{wrong}");
    }
    let cookies = log_in(&container_server, &a, &passwords[0]).await;
    let own = log_in(&container_server, &b, &passwords[1]).await;
    assert!(
        is_logged_in(&container_server, &a, &cookies).await
            && is_logged_in(&container_server, &b, &own).await
    );
    // The names of the cookies contain the address. The values of one instance are sent under the names of the other.
    assert_eq!(cookies.len(), own.len());
    let renamed: Vec<_> =
        own.iter().zip(&cookies).map(|((name, _), (_, value))| (name.clone(), value.clone())).collect();
    assert!(!is_logged_in(&container_server, &b, &renamed).await);
    for (one, other) in [(&a, &b), (&b, &a)] {
        let page = container_server.get(one, "/").await.text();
        assert!(page.contains(&one.url) && !page.contains(&other.id));
    }
}
