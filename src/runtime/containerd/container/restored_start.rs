//! Starts an instance from a checkpoint, again where the first restore may have failed by chance.

use super::instances::RunningContainer;
use crate::instance::Endpoint;
use crate::runtime::blocking::blocking;
use crate::runtime::containerd::checkpoint::connections;
use crate::runtime::containerd::checkpoint::manifest::CheckpointKey;
use crate::runtime::containerd::host::orphans;
use crate::runtime::containerd::image::UnpackedImage;
use crate::runtime::containerd::inner::Inner;
use crate::runtime::{RuntimeError, StartRequest};

/// Most restores of one instance where the order in which its processes are restored decides whether they succeed.
const RESTORE_ATTEMPTS: usize = 8;

impl Inner {
    /// Makes an instance from a checkpoint. Whether data on its way between two processes can be restored depends on which
    /// of the two is restored first, so then a failed restore is tried again.
    pub(super) async fn launch_restored(
        &self,
        request: &StartRequest,
        instance: &RunningContainer,
        image: &UnpackedImage,
        key: &CheckpointKey,
    ) -> Result<Endpoint, RuntimeError> {
        let mut attempt = 1;
        loop {
            let error = match self.launch(request, instance, image, Some(key)).await {
                Err(error @ RuntimeError::Start(_)) if attempt < RESTORE_ATTEMPTS => error,
                outcome => return outcome,
            };
            let images = self.checkpoints.images_dir(key);
            if !blocking(move || connections::have_unsent_data(&images)).await {
                return Err(error);
            }
            tracing::debug!(id = %request.id, attempt, %error, "failed to restore connections; trying again");
            self.undo_start(&request.id, instance).await?;
            orphans::remove(&self.socket, request.id.as_str()).await?;
            attempt += 1;
        }
    }
}
