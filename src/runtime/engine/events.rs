//! Notices containers that ended: by the engine's events at once, and by its list of containers whatever was missed.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use futures_util::TryStreamExt;
use tokio::time::{Instant, timeout_at};

use super::failure::EngineContext;
use super::inner::Inner;
use super::instances::EngineInstance;
use super::labels;
use super::stop::remove_container;
use crate::instance::InstanceId;
use crate::runtime::RuntimeError;
use crate::telemetry::task;

/// Pause before the events are subscribed to again after a failure.
const RESUBSCRIBE_INTERVAL: Duration = Duration::from_millis(300);
/// Time after a subscription at which it exists for certain. What ended in between is noticed by the comparison then.
const SETTLING_TIME: Duration = Duration::from_secs(1);
/// Time between two comparisons while events arrive.
const COMPARISON_INTERVAL: Duration = Duration::from_secs(20);

/// Handles exits for as long as the runtime lives.
pub(super) async fn follow(inner: Weak<Inner>) {
    let mut is_reported = false;
    while let Some(strong) = inner.upgrade() {
        let kind = strong.kind;
        let ended = handle_events(strong).await;
        if let Err(error) = ended {
            // Once for each time that the engine is away.
            if !is_reported {
                tracing::warn!(engine = kind.name(), %error, "engine's event stream failed; subscribing again");
            }
            is_reported = true;
        } else if is_reported {
            tracing::info!(engine = kind.name(), "engine's event stream ended; subscribing again");
            is_reported = false;
        }
        tokio::time::sleep(RESUBSCRIBE_INTERVAL).await;
    }
}

/// Follows the events until they end. Returns without an error if the engine answered meanwhile.
async fn handle_events(inner: Arc<Inner>) -> Result<(), RuntimeError> {
    let mut filters = labels::node_filter(Some(&inner.node));
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    let options = EventsOptions { filters: Some(filters), ..Default::default() };
    let mut events = std::pin::pin!(inner.docker.events(Some(options)));
    let inner = Arc::downgrade(&inner);
    let mut compare_at = Instant::now() + SETTLING_TIME;
    compare(&inner).await?;
    loop {
        match timeout_at(compare_at, events.try_next()).await {
            Err(_) => {
                compare_at = Instant::now() + COMPARISON_INTERVAL;
                compare(&inner).await?;
            }
            Ok(next) => match next.engine_context(|| "follow the engine's events".to_owned())? {
                Some(event) => handle_event(&inner, &event),
                None => return Ok(()),
            },
        }
        if inner.strong_count() == 0 {
            return Ok(());
        }
    }
}

fn handle_event(inner: &Weak<Inner>, event: &EventMessage) {
    let is_end = matches!(event.action.as_deref(), Some("die" | "died" | "destroy" | "remove"));
    let container = event.actor.as_ref().and_then(|actor| actor.id.as_deref());
    if let (true, Some(container), Some(inner)) = (is_end, container, inner.upgrade())
        && let Some((id, instance)) = inner.instances.find(container)
    {
        end_instance(&inner, id, instance);
    }
}

/// Handles an exit in a task of its own, because the next event must not wait for it.
fn end_instance(inner: &Arc<Inner>, id: InstanceId, instance: Arc<EngineInstance>) {
    let inner = inner.clone();
    task::spawn("handle an exit", async move {
        if let Err(error) = inner.handle_exit(&id, &instance).await {
            tracing::warn!(%id, %error, "failed to remove ended instance");
        }
    });
}

/// Compares the instances with the engine's list: those without a running container have ended, and containers without
/// an instance are removed.
async fn compare(inner: &Weak<Inner>) -> Result<(), RuntimeError> {
    let Some(inner) = inner.upgrade() else { return Ok(()) };
    // Before the list is read: an instance that is started meanwhile is not expected in it.
    let known = inner.instances.all();
    let listed = inner.list_containers(None).await?;
    let running: HashSet<&str> =
        listed.iter().filter(|one| one.is_running).map(|one| &*one.container).collect();
    for (id, instance) in known {
        let Some(container) = instance.container() else { continue };
        if !running.contains(container.as_str()) {
            end_instance(&inner, id, instance);
        }
    }
    for one in &listed {
        // A start in progress may not know its container yet, and a stop removes the container first.
        if one.id.as_ref().is_none_or(|id| inner.instances.is_unknown(id)) {
            tracing::info!(container = one.container, "container without an instance removed");
            remove_container(&inner.docker, &one.container).await?;
        }
    }
    inner.remove_lost_files().await
}
