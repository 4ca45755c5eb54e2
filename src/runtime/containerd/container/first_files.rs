//! The files and folders that an instance has before it starts.

use std::collections::BTreeMap;

use super::layer_writer::LayerWriter;
use crate::instance::InstanceId;
use crate::runtime::StartRequest;
use crate::runtime::containerd::host::node_dir;
use crate::runtime::identity_files::identity_files;
use crate::runtime::image::ImageConfig;

/// Permissions of the folder of a volume that the image does not have.
const VOLUME_MODE: u32 = 0o755;

/// Makes the folders of an image's volumes that the image does not have, as other container engines do. What it has below
/// such a path stays.
pub(super) fn make_volumes(layer: &LayerWriter, image: &ImageConfig, id: &InstanceId) {
    for path in image.volumes.iter().flat_map(BTreeMap::keys).filter(|path| path.starts_with('/')) {
        if let Err(error) = layer.make_missing_folder(path, VOLUME_MODE) {
            tracing::warn!(%id, path, %error, "failed to create volume folder");
        }
    }
}

/// Writes the files that make a layer this instance's own. A checkpoint's snapshot has the base files already.
pub(super) fn write_first_files(
    layer: &LayerWriter,
    request: &StartRequest,
    is_new: bool,
    resolvers: Option<String>,
) -> std::io::Result<()> {
    let base_files = node_dir::base_files();
    let base_files = base_files.iter().filter(|_| is_new);
    let resolvers = resolvers.map(node_dir::resolv_conf_file);
    let identity_files = identity_files(request)?;
    base_files
        .chain(&identity_files)
        .chain(&resolvers)
        .chain(&request.files)
        .try_for_each(|file| layer.write(file))
}
