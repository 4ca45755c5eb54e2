//! Layers and archives as other tools write them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use try_it_now::runtime::Runtime;
use try_it_now::template::{App, ImageRef};

use super::builder::{Layer, image};
use super::{Running, TestNode, cold_and_restored, start_request, with_timeout};
use crate::containerd::oci_archive;
use crate::support::user_namespaces;

const SERVE: [&str; 6] = ["httpd", "-f", "-p", "127.0.0.1:80", "-h", "/www"];

/// Returns what a program writes that reads these bytes.
fn through(program: &str, arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// Returns an app of an archive at this path, whose image the test node removes in the end.
fn app_of(test_node: &TestNode, path: &Path) -> App {
    // Whatever its digest is: the names of images that this test has imported are found by their label.
    test_node.images.lock().unwrap().push("try-it-now.local/archive@".to_owned() + &digest_in(path));
    App { image: Some(ImageRef::Tar(path.to_owned())), port: 80, ..App::default() }
}

/// Returns the digest of the only manifest of an archive; a text that no image has, where it has no index.
fn digest_in(path: &Path) -> String {
    let mut archive = tar::Archive::new(fs::File::open(path).unwrap());
    let entries = archive.entries().unwrap().filter_map(Result::ok);
    let mut index = entries.filter(|entry| entry.path().is_ok_and(|path| path.ends_with("index.json")));
    let index: Option<Value> = index.next().and_then(|entry| serde_json::from_reader(entry).ok());
    index
        .and_then(|index| Some(index["manifests"][0]["digest"].as_str()?.to_owned()))
        .unwrap_or("none".to_owned())
}

fn folder(test_node: &TestNode) -> std::path::PathBuf {
    let folder = test_node.settings.node_dir.join("built");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The configuration of an image that only this test has.
fn config(test_node: &TestNode) -> Value {
    json!({ "Cmd": SERVE, "Labels": { "test": test_node.settings.node.as_str() } })
}

async fn assert_serves(test_node: &TestNode, app: &App) {
    let runtime = test_node.open().await;
    let instance = Running::start(&runtime, app).await;
    assert_eq!(instance.page().await, "hello\n");
    with_timeout(runtime.stop(instance.id())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upper_layers_remove_hide_and_keep_what_lies_below_started_or_restored() {
    let Some(test_node) = TestNode::new() else { return };
    let hard = tar::EntryType::Link;
    let lower = Layer::base()
        .file("keep/a", 0o644, b"a")
        .file("keep/removed", 0o644, b"x")
        .file("opaque/old", 0o644, b"x")
        .file("gone/below", 0o644, b"x")
        .file("first", 0o4755, b"same file")
        .entry(hard, "second", 0o4755, (0, 0), "first")
        .folder("sticky/", 0o3777, (1000, 33))
        .file("twice", 0o600, b"old")
        .file("twice", 0o644, b"new")
        .absolute_file("/absolute", b"absolute")
        .file("./dotted", 0o644, b"dotted")
        .file(&format!("{}/{}", "d".repeat(90), "f".repeat(200)), 0o644, b"long");
    let upper = Layer::new()
        .file("keep/.wh.removed", 0o644, b"")
        .file("opaque/.wh..wh..opq", 0o644, b"")
        .file("opaque/new", 0o644, b"x")
        .file(".wh.gone", 0o644, b"");
    let app = image(&test_node, "whiteouts", vec![lower.bytes(), upper.bytes()], json!({ "Cmd": SERVE }));
    let script = format!(
        "ls /keep /opaque; test -e /gone || echo no gone; stat -c '%h %a' /first /second; stat -c '%a %u %g' /sticky; \
         cat /twice /absolute /dotted /{}/{}; echo; test -k /sticky && test -u /second && echo bits",
        "d".repeat(90),
        "f".repeat(200)
    );
    let expected =
        "/keep:\na\n\n/opaque:\nnew\nno gone\n2 4755\n2 4755\n3777 1000 33\nnewabsolutedottedlong\nbits\n";
    cold_and_restored(&test_node, &app, async |instance| {
        assert_eq!(instance.script(&script).await, expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn extended_attributes_file_capabilities_and_sparse_files_are_kept() {
    let Some(test_node) = TestNode::new() else { return };
    let source = folder(&test_node).join("source");
    fs::create_dir_all(source.join("files")).unwrap();
    let capable = source.join("files/capable");
    fs::write(&capable, super::builder::busybox()).unwrap();
    // cap_net_bind_service=ep in the kernel's form.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::setxattr(&capable, "security.capability", &capability, rustix::fs::XattrFlags::empty())
        .unwrap();
    std::os::unix::fs::symlink("capable", source.join("files/cat")).unwrap();
    let sparse = fs::File::create(source.join("files/sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (64 << 20) - 3).unwrap();
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    fs::set_permissions(&capable, fs::Permissions::from_mode(0o755)).unwrap();
    let from = source.to_str().unwrap();
    // containerd and Docker refuse sparse files in the older format of GNU tar.
    let arguments =
        ["--xattrs", "--xattrs-include=*", "--sparse", "--format=pax", "-C", from, "-cf", "-", "."];
    let layer = through("tar", &arguments, b"");
    assert!(layer.len() < 16 << 20, "the layer is not sparse");
    let config = json!({ "Cmd": SERVE, "User": "node" });
    let app = image(&test_node, "attributes", vec![Layer::base().bytes(), layer], config);
    let runtime = test_node.open().await;
    let instance = Running::start(&runtime, &app).await;
    let seen = instance.script("stat -c '%s' /files/sparse; /files/cat /www/index.html").await;
    assert_eq!(seen, "67108864\nhello\n");
    // Without reading the gap, which takes seconds on a busy machine.
    assert_eq!(
        instance.script("/bin/busybox tail -c 5 /files/sparse | /bin/busybox tr '\\0' 0").await,
        "00end"
    );
    let path = format!("/proc/{}/root/files/capable", pid_of(&instance));
    let mut value = [0_u8; 32];
    let length = rustix::fs::getxattr(&path, "security.capability", &mut value).unwrap();
    // On this host they hold for the root of the instance's user namespace.
    let on_host = match user_namespaces::are_in_use() {
        true => {
            let root = fs::metadata(&path).unwrap().uid();
            assert_ne!(root, 0);
            [&[1, 0, 0, 3], &capability[4..], &root.to_le_bytes()].concat()
        }
        false => capability.to_vec(),
    };
    assert_eq!(value[..length], on_host);
}

/// Returns the number of a process of an instance.
fn pid_of(instance: &Running<'_>) -> i32 {
    let id = instance.id().as_str();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of_it =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(id));
    numbers.find(of_it).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_layers_are_unpacked() {
    let Some(test_node) = TestNode::new() else { return };
    let layer = Layer::base().bytes();
    for (program, media_type) in [("gzip", "+gzip"), ("zstd", "+zstd")] {
        let stored = through(program, &["-c"], &layer);
        assert!(stored.len() < layer.len());
        let path = folder(&test_node).join(program).with_extension("tar");
        oci_archive::write_image(&path, &[(&layer, stored, media_type)], config(&test_node));
        assert_serves(&test_node, &app_of(&test_node, &path)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_image_for_several_platforms_this_hosts_is_run() {
    let Some(test_node) = TestNode::new() else { return };
    let layer = Layer::base().bytes();
    let other = if oci_archive::ARCHITECTURE == "arm64" { "amd64" } else { "arm64" };
    let mut blobs = Vec::new();
    let mut entry = |architecture: &str, os: &str, variant: &str, name: &str| {
        let mut of_it = config(&test_node);
        of_it["Env"] = json!([format!("FOR={name}")]);
        let layers = [(layer.as_slice(), layer.clone(), "")];
        let manifest = oci_archive::image_manifest(&mut blobs, &layers, of_it, architecture);
        let mut part = oci_archive::part("manifest.v1+json", &manifest);
        part["platform"] = json!({ "architecture": architecture, "os": os });
        if !variant.is_empty() {
            part["platform"]["variant"] = json!(variant);
        }
        part
    };
    let entries = [
        entry("unknown", "unknown", "", "attestation"),
        entry(other, "linux", "", "other"),
        entry(oci_archive::ARCHITECTURE, "linux", "v9", "newer"),
        entry(oci_archive::ARCHITECTURE, "linux", "", "host"),
    ];
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    let inner = index.to_string().into_bytes();
    let nested = json!({ "schemaVersion": 2, "manifests": [oci_archive::part("index.v1+json", &inner)] });
    blobs.push(inner);
    let runtime = test_node.open().await;
    for (name, index) in [("flat", &index), ("nested", &nested)] {
        let path = folder(&test_node).join(name).with_extension("tar");
        oci_archive::write_blobs(&path, index, &blobs);
        let instance = Running::start(&runtime, &app_of(&test_node, &path)).await;
        assert_eq!(instance.script("echo $FOR").await, "host\n", "{name}");
        with_timeout(runtime.stop(instance.id())).await.unwrap();
    }
    for entry in index["manifests"].as_array().unwrap() {
        let name = format!("try-it-now.local/archive@{}", entry["digest"].as_str().unwrap());
        test_node.images.lock().unwrap().push(name);
    }
}

/// Writes an archive as `docker save` did before version 25: a layer is in a folder of its own, and a layer that occurs
/// twice is a link.
fn docker_save(path: &Path, layer: &[u8], config: &Value, prefix: &str) {
    let config = json!({
        "architecture": oci_archive::ARCHITECTURE, "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": [oci_archive::digest_of(layer), oci_archive::digest_of(layer)] },
    });
    let config = config.to_string().into_bytes();
    let name = oci_archive::digest_of(&config).replace("sha256:", "");
    let manifest = json!([{
        "Config": format!("{name}.json"), "RepoTags": ["app:latest"], "Layers": ["one/layer.tar", "two/layer.tar"],
    }]);
    let archive = Layer::new()
        .file(&format!("{prefix}one/layer.tar"), 0o644, layer)
        .file(&format!("{prefix}one/VERSION"), 0o644, b"1.0")
        .link(&format!("{prefix}two/layer.tar"), "../one/layer.tar")
        .file(&format!("{prefix}{name}.json"), 0o644, &config)
        .file(&format!("{prefix}manifest.json"), 0o644, manifest.to_string().as_bytes())
        .file(&format!("{prefix}repositories"), 0o644, b"{}");
    fs::write(path, archive.bytes()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_of_docker_save_old_new_and_compressed_are_run() {
    let Some(test_node) = TestNode::new() else { return };
    let layer = Layer::base().bytes();
    let folder = folder(&test_node);
    let before = test_node.stack.ctr(&["images", "list", "--quiet"]);
    let (old, dotted) = (folder.join("old.tar"), folder.join("dotted.tar"));
    docker_save(&old, &layer, &config(&test_node), "");
    docker_save(&dotted, &layer, &config(&test_node), "./");
    let new = folder.join("new.tar");
    oci_archive::write_image(&new, &[(&layer, layer.clone(), "")], config(&test_node));
    let mut paths = vec![old.clone(), dotted, new.clone()];
    for (path, name) in [(old, "old.tar.gz"), (new, "new.tar.gz")] {
        let compressed = folder.join(name);
        fs::write(&compressed, through("gzip", &["-c"], &fs::read(path).unwrap())).unwrap();
        paths.push(compressed);
    }
    for path in &paths {
        let app = App { image: Some(ImageRef::Tar(path.clone())), port: 80, ..App::default() };
        assert_serves(&test_node, &app).await;
        // Known by its digest, it is not imported again.
        assert_serves(&test_node, &app).await;
    }
    // Only this test has images with its label, and no digest of them is known here.
    let after = test_node.stack.ctr(&["images", "list", "--quiet"]);
    let label = test_node.settings.node.as_str().to_owned();
    for name in after.lines().filter(|name| !before.lines().any(|known| known == *name)) {
        let digest = test_node.digest_of(name);
        // An image of another test may be gone by now.
        let content = |digest: &str| test_node.stack.try_ctr(&["content", "get", digest]).unwrap_or_default();
        let manifest: Value = serde_json::from_str(&content(&digest)).unwrap_or_default();
        let config = manifest["config"]["digest"].as_str().unwrap_or_default();
        if !config.is_empty() && content(config).contains(&label) {
            test_node.images.lock().unwrap().push(name.to_owned());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_archive_of_one_image_is_refused_with_the_reason() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let folder = folder(&test_node);
    let plain = Layer::new().file("some/file", 0o644, b"x").bytes();
    let two = json!([{ "Config": "a.json", "Layers": [] }, { "Config": "b.json", "Layers": [] }]).to_string();
    let absent = json!([{ "Config": "a.json", "Layers": ["../../../../etc/passwd"] }]).to_string();
    let manifest = |text: &str| {
        Layer::new().file("a.json", 0o644, b"{}").file("manifest.json", 0o644, text.as_bytes()).bytes()
    };
    let looped = Layer::new().file("a.json", 0o644, b"{}").link("x", "y").link("y", "x");
    let looped = looped.file("manifest.json", 0o644, br#"[{ "Config": "a.json", "Layers": ["x"] }]"#).bytes();
    let cases = [
        ("plain", plain.clone(), "neither index.json nor manifest.json"),
        ("two", manifest(&two), "it contains 2 images, not one"),
        ("absent", manifest(&absent), "it has no etc/passwd"),
        ("looped", looped, "it has no "),
        ("zstd", through("zstd", &["-c"], &plain), "it is compressed with zstd"),
        ("broken", b"\x1f\x8b not gzip".to_vec(), "read the image in "),
    ];
    for (name, bytes, expected) in cases {
        let path = folder.join(name).with_extension("tar");
        fs::write(&path, bytes).unwrap();
        let app = App { image: Some(ImageRef::Tar(path)), port: 80, ..App::default() };
        let error = with_timeout(runtime.start(&start_request(&app))).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    assert!(runtime.list().await.unwrap().is_empty());
}
