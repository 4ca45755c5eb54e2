//! Follows containerd's events to notice at once when a container ends by itself.

use std::sync::{Arc, Weak};
use std::time::Duration;

use containerd_client::events::TaskExit;
use containerd_client::services::v1::{ListTasksRequest, SubscribeRequest};
use containerd_client::types::v1::Status;
use prost::Message;

use crate::runtime::RuntimeError;
use crate::runtime::containerd::client::{self, NAMESPACE, ResponseExt, request, request_without_deadline};
use crate::runtime::containerd::host::shared_shim;
use crate::runtime::containerd::inner::Inner;
use crate::telemetry::task;

/// Pause before the events are subscribed to again after a failure.
const RESUBSCRIBE_INTERVAL: Duration = Duration::from_millis(200);

/// Handles exit events for as long as the runtime lives.
pub(crate) async fn follow(inner: Weak<Inner>) {
    while let Some(inner) = inner.upgrade() {
        if let Err(error) = handle_events(&inner).await {
            tracing::warn!(%error, "containerd's event stream failed; subscribing again");
        }
        drop(inner);
        tokio::time::sleep(RESUBSCRIBE_INTERVAL).await;
    }
}

async fn handle_events(inner: &Arc<Inner>) -> Result<(), RuntimeError> {
    let context = || "subscribe to containerd's events".to_owned();
    let filters = vec![format!("topic==\"/tasks/exit\",namespace=={NAMESPACE}")];
    let events =
        inner.client.events().subscribe(request_without_deadline(SubscribeRequest { filters })).await;
    let mut events = events.context(context)?;
    // Containers that ended while no subscription existed.
    handle_missed_exits(inner).await?;
    let inner = Arc::downgrade(inner);
    while let Some(envelope) = client::next_message(&mut events, context).await? {
        let Some(inner) = inner.upgrade() else { return Ok(()) };
        let event = envelope.event.unwrap_or_default();
        let Ok(exit) = TaskExit::decode(event.value.as_slice()) else { continue };
        if shared_shim::is_shim_container(&exit.container_id) {
            inner.shared_shim.invalidate();
            for id in inner.instances.ids() {
                end_instance(&inner, id.as_str(), "its shim ended".to_owned());
            }
        }
        // Other processes than the first one are commands that were run in the container.
        if exit.id == exit.container_id {
            end_instance(&inner, &exit.container_id, describe_exit(exit.exit_status));
        }
    }
    Ok(())
}

/// Handles an exit in a task of its own, because the next event must not wait for it.
fn end_instance(inner: &Arc<Inner>, container: &str, cause: String) {
    let Some((id, instance)) = inner.instances.find(container) else { return };
    let inner = inner.clone();
    task::spawn("handle an exit", async move {
        if let Err(error) = inner.handle_exit(&id, &instance, cause).await {
            tracing::warn!(%id, %error, "failed to remove ended instance");
        }
    });
}

/// Describes an exit status by the convention of shells: above 128 it was a signal.
fn describe_exit(status: u32) -> String {
    match status.checked_sub(128) {
        None | Some(0) => format!("exit status {status}"),
        Some(signal) => format!("signal {signal}"),
    }
}

/// Handles the exits of tasks that have ended already.
async fn handle_missed_exits(inner: &Arc<Inner>) -> Result<(), RuntimeError> {
    let message = ListTasksRequest { filter: String::new() };
    let tasks =
        inner.client.tasks().list(request(message)).await.context(|| "list the tasks".to_owned())?.tasks;
    for task in tasks.iter().filter(|task| task.status() == Status::Stopped) {
        end_instance(inner, &task.id, describe_exit(task.exit_status));
    }
    Ok(())
}
