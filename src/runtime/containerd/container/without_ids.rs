//! Starts without a user namespace, on hosts that cannot give one to an instance.

use super::instances::RunningContainer;
use crate::instance::Endpoint;
use crate::runtime::containerd::host::{id_ranges, orphans};
use crate::runtime::containerd::image::UnpackedImage;
use crate::runtime::containerd::inner::Inner;
use crate::runtime::{RuntimeError, StartRequest};

impl Inner {
    /// Starts an instance without a user namespace whose start with one failed with `error`, unless one is required. If
    /// that succeeds, and none with a user namespace has ever started, this host cannot do it: later instances have none
    /// either.
    ///
    /// # Errors
    /// `error`, if it cannot be started this way, or if another instance has started with a user namespace.
    pub(super) async fn launch_without_ids(
        &self,
        request: &StartRequest,
        instance: &RunningContainer,
        image: &UnpackedImage,
        error: RuntimeError,
    ) -> Result<Endpoint, RuntimeError> {
        if instance.ids.lock().is_none() || !self.id_ranges.may_do_without() {
            return Err(error);
        }
        self.undo_start(&request.id, instance).await?;
        orphans::remove(&self.socket, request.id.as_str()).await?;
        let launched = self.launch_on_host(request, instance, image, None).await;
        let Ok(endpoint) = launched else { return Err(error) };
        // Another instance has started meanwhile, so this host can do it. The caller removes what was made.
        if !self.id_ranges.may_do_without() {
            return Err(error);
        }
        self.id_ranges.disable();
        id_ranges::warn_of(&error);
        Ok(endpoint)
    }
}
