//! OCI archives that tests write.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use ring::digest::{SHA256, digest};
use serde_json::json;

/// Writes an archive with a single layer, and with a label that makes it differ from those of other tests. Returns the
/// digest of its manifest.
pub(super) fn write(path: &Path, layer: &[u8], label: &str) -> String {
    write_for_user(path, layer, label, "")
}

/// Does the same with an image whose processes run as this user.
pub(super) fn write_for_user(path: &Path, layer: &[u8], label: &str, user: &str) -> String {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Labels": { "test": label }, "User": user },
        "rootfs": { "type": "layers", "diff_ids": [digest_of(layer)] },
    });
    let config = config.to_string().into_bytes();
    let part = |kind: &str, bytes: &[u8]| {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest_of(bytes),
            "size": bytes.len(),
        })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": part("config.v1+json", &config),
        "layers": [part("layer.v1.tar", layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let index = json!({ "schemaVersion": 2, "manifests": [part("manifest.v1+json", &manifest)] });
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    append(&mut archive, "index.json", 0o644, index.to_string().as_bytes());
    for blob in [layer, &config, &manifest] {
        append(&mut archive, &digest_of(blob).replace("sha256:", "blobs/sha256/"), 0o644, blob);
    }
    fs::write(path, archive.into_inner().unwrap()).unwrap();
    digest_of(&manifest)
}

/// Adds a file to a layer.
pub(super) fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, name, Cursor::new(bytes)).unwrap();
}

fn digest_of(bytes: &[u8]) -> String {
    let hex: String = digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
