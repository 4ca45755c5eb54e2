//! Checkpoints whose instances do not become ready.

use crate::pool::Supply;
use crate::pool::template_pool::TemplatePool;
use crate::template::Template;

/// Counts a restored instance that did not become ready. After several, discards the checkpoint, so that instances are
/// started cold, and logs it once as an error.
pub(super) async fn record_failed_restore(
    supply: &Supply,
    template_pool: &TemplatePool,
    template: &Template,
    why: &str,
) {
    let bake_state = &template_pool.bake_state;
    if !template_pool.wants(template.revision) || !bake_state.record_failed_restore() {
        return;
    }
    if let Err(error) = supply.runtime.discard_checkpoint(template.revision, &template.app).await {
        tracing::warn!(template = %template.name, %error, "failed to discard checkpoint");
        return;
    }
    let is_first = bake_state.record_failure(why.to_owned());
    bake_state.set_settled(None);
    let pause = bake_state.pause().unwrap_or_default();
    if is_first {
        tracing::error!(
            template = %template.name, why, ?pause,
            "checkpoint discarded, because its instances do not become ready; instances are started cold, which is slower"
        );
    } else {
        tracing::debug!(template = %template.name, why, ?pause, "checkpoint discarded again");
    }
    // Nothing speaks against a cold start.
    template_pool.forget_failures();
}
