//! Images that tests build: busybox and what a test adds, in an archive as other tools write them.

use std::fs::{self, File};
use std::io::{Cursor, Read};

use serde_json::{Value, json};
use try_it_now::template::{App, ImageRef};

use super::super::{TestNode, oci_archive};
use crate::support::stack;

/// The programs that are links to busybox.
const APPLETS: [&str; 17] = [
    "sh", "httpd", "id", "cat", "ls", "stat", "sleep", "echo", "nc", "grep", "env", "pwd", "test", "touch",
    "readlink", "kill", "md5sum",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1001::/home/node:/bin/sh\nlow:x:70:70::/:\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:node\nnode:x:1001:\naudio:x:29:node,low\n";

/// Returns busybox, linked statically, from the PHP image.
pub(super) fn busybox() -> Vec<u8> {
    let mut outer = tar::Archive::new(File::open(stack::image_archive("php")).unwrap());
    for blob in outer.entries().unwrap().map(Result::unwrap).filter(|blob| blob.size() > 1 << 20) {
        let mut layer = tar::Archive::new(blob);
        for mut entry in layer.entries().unwrap().map(Result::unwrap) {
            if entry.path().unwrap().ends_with("usr/bin/busybox") && entry.size() > 0 {
                let mut program = Vec::new();
                entry.read_to_end(&mut program).unwrap();
                return program;
            }
        }
    }
    panic!("the PHP image has no busybox");
}

/// A layer that is being written.
pub(super) struct Layer(pub(super) tar::Builder<Vec<u8>>);

impl Layer {
    pub(super) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Returns a layer with busybox, its links, and users.
    pub(super) fn base() -> Self {
        let mut layer = Self::new();
        for folder in ["bin/", "dev/", "etc/", "home/", "proc/", "root/", "sys/", "www/"] {
            layer = layer.folder(folder, 0o755, (0, 0));
        }
        layer = layer.folder("tmp/", 0o1777, (0, 0)).folder("home/node/", 0o755, (1000, 1001));
        layer = layer.file("bin/busybox", 0o755, &busybox());
        for applet in APPLETS {
            layer = layer.link(&format!("bin/{applet}"), "busybox");
        }
        let layer =
            layer.file("etc/passwd", 0o644, PASSWD.as_bytes()).file("etc/group", 0o644, GROUP.as_bytes());
        layer.file("www/index.html", 0o644, b"hello\n")
    }

    pub(super) fn file(mut self, name: &str, mode: u32, content: &[u8]) -> Self {
        oci_archive::append(&mut self.0, name, mode, content);
        self
    }

    /// Adds a file whose name begins with a slash, which the crate `tar` does not write by itself.
    pub(super) fn absolute_file(mut self, name: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub(super) fn folder(self, name: &str, mode: u32, owner: (u64, u64)) -> Self {
        self.entry(tar::EntryType::Directory, name, mode, owner, "")
    }

    pub(super) fn link(self, name: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Symlink, name, 0o777, (0, 0), target)
    }

    pub(super) fn entry(
        mut self,
        kind: tar::EntryType,
        name: &str,
        mode: u32,
        (uid, gid): (u64, u64),
        target: &str,
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_size(0);
        if target.is_empty() {
            self.0.append_data(&mut header, name, Cursor::new([])).unwrap();
        } else {
            self.0.append_link(&mut header, name, target).unwrap();
        }
        self
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// Writes an image of these layers with this configuration, and returns an app of it that listens on port 80.
pub(super) fn image(test_node: &TestNode, name: &str, layers: Vec<Vec<u8>>, config: Value) -> App {
    let folder = test_node.settings.node_dir.join("built");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name).with_extension("tar");
    let mut config = config;
    config["Labels"] = json!({ "test": test_node.settings.node.as_str() });
    let layers: Vec<_> = layers.iter().map(|layer| (layer.as_slice(), layer.clone(), "")).collect();
    let manifest = oci_archive::write_image(&path, &layers, config);
    test_node.images.lock().unwrap().push(format!("try-it-now.local/archive@{manifest}"));
    App { image: Some(ImageRef::Tar(path)), port: 80, ..App::default() }
}
