//! OCI archives that tests write.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

/// The architecture of this host, as images name it.
pub(super) const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// Writes an archive with a single layer, and with a label that makes it differ from those of other tests. Returns the
/// digest of its manifest.
pub(super) fn write(path: &Path, layer: &[u8], label: &str) -> String {
    write_image(path, &[(layer, layer.to_vec(), "")], json!({ "Labels": { "test": label } }))
}

/// Writes an archive of one image. A layer is its content, the bytes that are stored, and what its media type ends with,
/// such as `+gzip`. Returns the digest of the manifest.
pub(super) fn write_image(path: &Path, layers: &[(&[u8], Vec<u8>, &str)], config: Value) -> String {
    let mut blobs = Vec::new();
    let manifest = image_manifest(&mut blobs, layers, config, ARCHITECTURE);
    let index = json!({ "schemaVersion": 2, "manifests": [part("manifest.v1+json", &manifest)] });
    write_blobs(path, &index, &blobs);
    digest_of(&manifest)
}

/// Adds the blobs of an image and returns its manifest.
pub(super) fn image_manifest(
    blobs: &mut Vec<Vec<u8>>,
    layers: &[(&[u8], Vec<u8>, &str)],
    config: Value,
    architecture: &str,
) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|(content, ..)| digest_of(content)).collect();
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = config.to_string().into_bytes();
    let parts: Vec<Value> = layers
        .iter()
        .map(|(_, stored, compression)| part(&format!("layer.v1.tar{compression}"), stored))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": part("config.v1+json", &config),
        "layers": parts,
    });
    let manifest = manifest.to_string().into_bytes();
    blobs.extend(layers.iter().map(|(_, stored, _)| stored.clone()));
    blobs.extend([config, manifest.clone()]);
    manifest
}

/// Writes an archive of these blobs.
pub(super) fn write_blobs(path: &Path, index: &Value, blobs: &[Vec<u8>]) {
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    append(&mut archive, "index.json", 0o644, index.to_string().as_bytes());
    for blob in blobs {
        append(&mut archive, &digest_of(blob).replace("sha256:", "blobs/sha256/"), 0o644, blob);
    }
    fs::write(path, archive.into_inner().unwrap()).unwrap();
}

/// Returns the descriptor of a part of an image.
pub(super) fn part(kind: &str, bytes: &[u8]) -> Value {
    json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": digest_of(bytes),
        "size": bytes.len(),
    })
}

/// Adds a file to a layer.
pub(super) fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    tar.append_data(&mut header, name, Cursor::new(bytes)).unwrap();
}

pub(super) fn digest_of(bytes: &[u8]) -> String {
    let hex: String = digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
