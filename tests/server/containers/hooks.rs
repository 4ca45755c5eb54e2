//! Hooks, from the file of templates to what a visitor gets, on real containers.

use std::time::Duration;

use serde_json::Value;
use try_it_now::instance::NodeId;
use try_it_now::runtime::Runtime as _;
use try_it_now::runtime::containerd::{ContainerdRuntime, Settings};

use crate::support::harness::{Answer, Demo, Server, eventually_within, request};
use crate::support::stack::{self, Stack};

/// A first start installs an app, and others use the machine too.
const BAKE: Duration = Duration::from_secs(90);

/// A server on containers. Dropped, nothing of it is left in containerd, whatever the test has done or failed to do.
struct Stage {
    server: Option<Server>,
    stack: Stack,
    node: NodeId,
}

impl Stage {
    /// `None` where there is no containerd.
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

    /// Waits until its pool is full of copies.
    async fn full(mut self) -> Self {
        self.server = Some(self.server.take().unwrap().full_within(BAKE).await);
        self
    }

    async fn acquire(&self) -> (Demo, Value) {
        let handed = self.server().call("POST", "/api/v1/demo/acquire", "").await.json();
        (Demo::from_json(&handed), handed)
    }

    async fn get(&self, demo: &Demo, path: &str) -> Answer {
        request(self.server().port, "GET", &demo.host, path, &[], "").await
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.server.take());
        let folder = std::env::temp_dir().join(format!("try-it-now-swept-{}", self.node));
        let settings = Settings::new(self.stack.address.clone(), folder.clone(), self.node.clone());
        let settings = Settings { criu: false, ..settings };
        let sweep = move || {
            let reactor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            reactor.block_on(async {
                let runtime = ContainerdRuntime::open(settings).await.unwrap();
                for id in runtime.list().await.unwrap() {
                    runtime.stop(&id).await.unwrap();
                }
            });
        };
        // A thread that is inside one reactor cannot wait for another.
        let _ = std::thread::spawn(sweep).join();
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// Shows the files in `/own`, and adds what a request to `/tell` says to one of them.
const NOTEBOOK: &str = r#"
if ($_SERVER["REQUEST_URI"] === "/tell") {
    $told = $_SERVER["REQUEST_METHOD"] . " " . $_SERVER["HTTP_X_KEY"] . " " . file_get_contents("php://input");
    file_put_contents("/own/told", "$told\n", FILE_APPEND);
    http_response_code(201);
    return;
}
$files = [];
foreach (glob("/own/*") as $file) $files[basename($file)] = file_get_contents($file);
echo json_encode($files);
"#;

fn notebook(hooks: &str) -> String {
    let image = stack::image("php");
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
async fn every_copy_has_values_of_its_own_in_all_its_hooks_before_it_is_ready() {
    let hooks = r#"
[templates.notebook.hooks]
random = { KEY = 20, SALT = 64 }
credentials = "{KEY} at {INSTANCE_URL}"
files = { "/own/file" = "{INSTANCE_ID} {INSTANCE_URL} {INSTANCE_HOST} {KEY} {SALT}" }
[[templates.notebook.hooks.http]]
method = "POST"
path = "/tell"
headers = { X-Key = "{KEY}" }
body = "{INSTANCE_HOST}"
status = 201
[[templates.notebook.hooks.exec]]
command = ["sh", "-c", 'echo "$INSTANCE_ID $KEY $1" >/own/ran', "own", "{SALT}"]
[[templates.notebook.hooks.bake.http]]
method = "POST"
path = "/tell"
headers = { X-Key = "baked" }
[[templates.notebook.hooks.bake.exec]]
command = ["sh", "-c", "echo baked >/own/baked"]
"#;
    let Some(stage) = Stage::start(|| notebook(hooks), &[]).await else { return };
    let stage = stage.full().await;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let (demo, handed) = stage.acquire().await;
        let own = stage.get(&demo, "/").await.json();
        let text = |name: &str| own[name].as_str().unwrap_or_else(|| panic!("{name} in {own}")).to_owned();
        let host = demo.host.split(':').next().unwrap();
        let [id, url, own_host, key, salt] =
            text("file").split(' ').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(
            (id.as_str(), url.as_str(), own_host.as_str()),
            (demo.id.as_str(), demo.url.as_str(), host)
        );
        assert_eq!((key.len(), salt.len()), (20, 64));
        // Once in the golden instance, which this is a copy of, and once in this one.
        assert_eq!(text("told"), format!("POST baked \nPOST {key} {host}\n"));
        assert_eq!(text("ran"), format!("{id} {key} {salt}\n"));
        assert_eq!(text("baked"), "baked\n");
        assert_eq!(handed["credentials"], format!("{key} at {url}"));
        let shown = stage.server().call("GET", &format!("/api/v1/demo/{id}"), "").await.json();
        assert_eq!(shown["credentials"], handed["credentials"]);
        keys.extend([key, salt]);
    }
    assert!(keys[0] != keys[2] && keys[1] != keys[3], "{keys:?}");
    let log = stage.server().log().join("\n");
    assert!(log.contains("baked") && !keys.iter().any(|key| log.contains(key)), "no secret is in the log");
}

#[tokio::test]
async fn an_instance_whose_hook_fails_is_never_offered_and_the_log_says_why() {
    let hooks = r#"
[templates.notebook.hooks]
random = { KEY = 20 }
[[templates.notebook.hooks.exec]]
command = ["sh", "-c", "echo no use for {KEY}; exit 9"]
"#;
    let Some(stage) = Stage::start(|| notebook(hooks), &[]).await else { return };
    let why = "the hook `sh` ended with status 9; its last output: no use for {KEY}";
    eventually_within(BAKE, "it is told", async || {
        stage.server().log().iter().any(|line| line.contains(why)).then_some(())
    })
    .await;
    let stats = stage.server().stats().await;
    assert_eq!((&stats["ready"], &stats["assigned"]), (&Value::from(0), &Value::from(0)));
    stage.server().call("POST", "/api/v1/demo/acquire", "").await.refused(503, "POOL_EXHAUSTED");
}

#[tokio::test]
async fn a_restored_guest_book_knows_its_own_name() {
    let path = stack::image("sample");
    let templates = || format!("[templates.sample]\nimage = \"oci:{}\"\n", path.display());
    let Some(stage) = Stage::start(templates, &[]).await else { return };
    let stage = stage.full().await;
    for _ in 0..2 {
        let (demo, _) = stage.acquire().await;
        let shown = stage.get(&demo, "/whoami").await.json();
        assert_eq!(shown["id"], demo.id.as_str());
        assert_eq!(shown["host"], demo.host.split(':').next().unwrap());
    }
}

/// Logs in to WordPress: the names and values of the cookies that come of it.
async fn log_in(stage: &Stage, demo: &Demo, password: &str) -> Vec<(String, String)> {
    let form = format!("log=admin&pwd={password}&testcookie=1");
    let headers = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Cookie", "wordpress_test_cookie=WP+Cookie+check"),
    ];
    let answer = request(stage.server().port, "POST", &demo.host, "/wp-login.php", &headers, &form).await;
    let cookies = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
    let pairs = cookies.filter_map(|cookie| cookie.split(';').next()?.split_once('='));
    pairs.filter(|(name, _)| !name.contains("test")).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

async fn is_let_in(stage: &Stage, demo: &Demo, cookies: &[(String, String)]) -> bool {
    let pairs: Vec<_> = cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let headers = [("Cookie", pairs.join("; "))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let answer = request(stage.server().port, "GET", &demo.host, "/wp-admin/profile.php", &headers, "").await;
    assert!(matches!(answer.status, 200 | 302), "{}", answer.status);
    answer.status == 200
}

#[tokio::test]
async fn two_copies_of_wordpress_have_passwords_keys_and_sessions_of_their_own() {
    let templates = || {
        let path = format!("{}/deployments/templates/wordpress.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        text.replace("../../target/images/wordpress.tar", stack::image("wordpress").to_str().unwrap())
    };
    let Some(stage) = Stage::start(templates, &[]).await else { return };
    let stage = stage.full().await;
    let (a, b) = (stage.acquire().await, stage.acquire().await);
    let password =
        |handed: &Value| handed["credentials"].as_str().unwrap().rsplit(' ').next().unwrap().to_owned();
    let passwords = [password(&a.1), password(&b.1)];
    assert_ne!(passwords[0], passwords[1]);
    let (a, b) = (a.0, b.0);
    for wrong in [passwords[1].as_str(), "demo", ""] {
        assert_eq!(log_in(&stage, &a, wrong).await, [], "{wrong}");
    }
    let cookies = log_in(&stage, &a, &passwords[0]).await;
    let own = log_in(&stage, &b, &passwords[1]).await;
    assert!(is_let_in(&stage, &a, &cookies).await && is_let_in(&stage, &b, &own).await);
    // Their names have the address in them. Under the names of the other copy they are what it would look at.
    assert_eq!(cookies.len(), own.len());
    let renamed: Vec<_> =
        own.iter().zip(&cookies).map(|((name, _), (_, value))| (name.clone(), value.clone())).collect();
    assert!(!is_let_in(&stage, &b, &renamed).await);
    for (one, other) in [(&a, &b), (&b, &a)] {
        let page = stage.get(one, "/").await.text();
        assert!(page.contains(&one.url) && !page.contains(&other.id));
    }
}
