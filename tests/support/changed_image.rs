//! Images that tests make of others by a change of their configuration.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

/// Writes an archive of the only image in another archive, with a changed configuration. Returns its name in containerd.
pub(crate) fn write(from: &Path, to: &Path, change: impl FnOnce(&mut Value)) -> String {
    let mut blobs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut archive = tar::Archive::new(File::open(from).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        blobs.insert(name, content);
    }
    let blob = |blobs: &BTreeMap<String, Vec<u8>>, descriptor: &Value| -> Value {
        let name = descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        serde_json::from_slice(&blobs[&name]).unwrap()
    };
    let mut index: Value = serde_json::from_slice(&blobs["index.json"]).unwrap();
    let mut manifest = blob(&blobs, &index["manifests"][0]);
    let mut config = blob(&blobs, &manifest["config"]);
    change(&mut config["config"]);
    manifest["config"] = add(&mut blobs, &manifest["config"], &config);
    index["manifests"][0] = add(&mut blobs, &index["manifests"][0], &manifest);
    let mut changed = tar::Builder::new(Vec::new());
    let mut append = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        changed.append_data(&mut header, name, content).unwrap();
    };
    append("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    append("index.json", index.to_string().as_bytes());
    for (name, content) in blobs.iter().filter(|(name, _)| name.len() == 64) {
        append(&format!("blobs/sha256/{name}"), content);
    }
    fs::write(to, changed.into_inner().unwrap()).unwrap();
    format!("try-it-now.local/archive@{}", index["manifests"][0]["digest"].as_str().unwrap())
}

/// Adds a blob, and returns the descriptor of it in place of `before`.
fn add(blobs: &mut BTreeMap<String, Vec<u8>>, before: &Value, content: &Value) -> Value {
    let content = content.to_string().into_bytes();
    let name: String = digest(&SHA256, &content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut descriptor = before.clone();
    (descriptor["digest"], descriptor["size"]) = (json!(format!("sha256:{name}")), json!(content.len()));
    blobs.insert(name, content);
    descriptor
}
