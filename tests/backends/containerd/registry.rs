//! A registry that belongs to one test, and the images in it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::{TestNode, stack};

/// The credentials that a registry with a login accepts.
pub(super) const USER: &str = "anna";
pub(super) const PASSWORD: &str = "open:sesame";
/// The line that `htpasswd -B` writes for them, with the lowest cost.
const HTPASSWD: &str = "anna:$2y$04$2./KwroMkCVzQ271sW6/gu8502ZwjGK6cdqlJ.LeF5gIozB7IjDNm\n";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The longest time that one answer may take.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// Debian's `docker-registry`, on a port and in a folder of its own. When this is dropped, everything of it is removed.
pub(super) struct Registry {
    server: Child,
    folder: PathBuf,
    pub(super) address: SocketAddr,
    wants_login: bool,
}

impl Registry {
    /// Starts a registry. With `wants_login` only [`USER`] has access.
    pub(super) fn start(test_node: &TestNode, wants_login: bool) -> Self {
        let folder = test_node.settings.node_dir.with_extension("registry");
        fs::create_dir_all(&folder).unwrap();
        let auth = match wants_login {
            true => json!({ "htpasswd": { "realm": "test", "path": folder.join("htpasswd") } }),
            false => Value::Null,
        };
        fs::write(folder.join("htpasswd"), HTPASSWD).unwrap();
        let mut config = json!({
            "version": 0.1,
            "log": { "level": "info" },
            "storage": { "filesystem": { "rootdirectory": folder.join("data") } },
            "http": { "addr": "127.0.0.1:0" },
        });
        if !auth.is_null() {
            config["auth"] = auth;
        }
        // JSON is YAML.
        fs::write(folder.join("config.yml"), config.to_string()).unwrap();
        let mut server = Command::new("docker-registry")
            .env("PATH", &test_node.stack.path)
            .args(["serve".as_ref(), folder.join("config.yml").as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("`make stack` installs docker-registry");
        let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
        let address = lines.by_ref().find_map(|line| {
            let line = line.ok()?;
            let at = line.split_once("listening on ")?.1;
            at.split(['"', ' ', ',']).next()?.parse().ok()
        });
        // The pipe is read until its end, else a full pipe would block the registry.
        std::thread::spawn(move || lines.for_each(drop));
        let address = address.expect("the registry ended before it logged its address");
        test_node.images.lock().unwrap().push(format!("{address}/"));
        Self { server, folder, address, wants_login }
    }

    /// Returns the reference of an image in this registry.
    pub(super) fn reference(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// Writes an auth file with `password` for this registry and returns its path.
    pub(super) fn logins(&self, password: &str) -> PathBuf {
        let pair = STANDARD.encode(format!("{USER}:{password}"));
        let file = self.folder.join(format!("logins-{}.json", password.len()));
        fs::write(&file, json!({ "auths": { self.address.to_string(): { "auth": pair } } }).to_string())
            .unwrap();
        file
    }

    /// Pushes the PHP image as `app:tag`, with a label that makes it differ from others and with this architecture.
    /// Returns the digest and the size of its manifest.
    pub(super) fn push(&self, tag: &str, label: &str, architecture: &str) -> (String, usize) {
        let archive = Archive::read(&stack::image_archive("php"));
        let mut manifest: Value = serde_json::from_slice(archive.blob(&archive.manifest)).unwrap();
        let mut config: Value =
            serde_json::from_slice(archive.blob(text(&manifest["config"]["digest"]))).unwrap();
        config["architecture"] = architecture.into();
        config["config"]["Labels"] = json!({ "label": label });
        let config = config.to_string().into_bytes();
        manifest["config"]["digest"] = digest_of(&config).into();
        manifest["config"]["size"] = config.len().into();
        self.push_blob(&config);
        for layer in manifest["layers"].as_array().unwrap() {
            self.push_blob(archive.blob(text(&layer["digest"])));
        }
        let manifest = manifest.to_string().into_bytes();
        self.put(&format!("/v2/app/manifests/{tag}"), MANIFEST, &manifest);
        (digest_of(&manifest), manifest.len())
    }

    /// Pushes an index as `app:tag` that names the architecture of an image.
    pub(super) fn push_index(&self, tag: &str, manifest: &str, size: usize, architecture: &str) {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{
                "mediaType": MANIFEST,
                "digest": manifest,
                "size": size,
                "platform": { "os": "linux", "architecture": architecture },
            }],
        });
        self.put(&format!("/v2/app/manifests/{tag}"), INDEX, index.to_string().as_bytes());
    }

    fn push_blob(&self, blob: &[u8]) {
        let (status, head) = self.ask("POST", "/v2/app/blobs/uploads/", "", &[]);
        assert_eq!(status, 202, "{head}");
        let upload = head.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap();
        let path = upload.find("/v2/").map(|at| &upload[at..]).unwrap();
        let and = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{and}digest={}", digest_of(blob));
        self.put(&path, "application/octet-stream", blob);
    }

    fn put(&self, path: &str, kind: &str, body: &[u8]) {
        let (status, head) = self.ask("PUT", path, kind, body);
        assert_eq!(status, 201, "{head}");
    }

    /// Sends one request and returns the status and the whole text of its answer.
    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(MAX_WAIT)).unwrap();
        let login = match self.wants_login {
            true => {
                format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{USER}:{PASSWORD}")))
            }
            false => String::new(),
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n{login}\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.replace("\r\n", "\n"))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// An OCI archive in memory.
struct Archive {
    /// The digest of the manifest of its only image.
    manifest: String,
    blobs: Vec<(String, Vec<u8>)>,
}

impl Archive {
    fn read(path: &Path) -> Self {
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        let (mut manifest, mut blobs) = (None, Vec::new());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().file_name().unwrap_or_default().to_str().unwrap().to_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            if name == "index.json" {
                let index: Value = serde_json::from_slice(&bytes).unwrap();
                manifest = Some(text(&index["manifests"][0]["digest"]).to_owned());
            }
            blobs.push((format!("sha256:{name}"), bytes));
        }
        Self { manifest: manifest.unwrap(), blobs }
    }

    fn blob(&self, digest: &str) -> &[u8] {
        &self.blobs.iter().find(|(name, _)| name == digest).unwrap().1
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn digest_of(bytes: &[u8]) -> String {
    let sum = digest(&SHA256, bytes);
    let hex: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
