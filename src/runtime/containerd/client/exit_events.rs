//! containerd's events tell at once when a container ends.

use std::sync::{Arc, Weak};
use std::time::Duration;

use containerd_client::events::TaskExit;
use containerd_client::services::v1::{ListTasksRequest, SubscribeRequest};
use containerd_client::types::v1::Status;
use prost::Message;

use super::{Answer, NAMESPACE, lasting, request};
use crate::runtime::containerd::client;
use crate::runtime::containerd::host::shared_shim;
use crate::runtime::containerd::{Inner, RuntimeError};
use crate::telemetry::task;

/// Pause before the events are subscribed to again, when containerd is not there.
const PAUSE: Duration = Duration::from_millis(200);

/// Passes the ends on for as long as the runtime lives.
pub(crate) async fn follow(parts: Weak<Inner>) {
    while let Some(parts) = parts.upgrade() {
        if let Err(error) = listen(&parts).await {
            tracing::warn!(%error, "containerd's events are listened to again");
        }
        drop(parts);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn listen(parts: &Arc<Inner>) -> Result<(), RuntimeError> {
    let doing = || "listen to containerd's events".to_owned();
    let filters = vec![format!("topic==\"/tasks/exit\",namespace=={NAMESPACE}")];
    let events = parts.client.events().subscribe(lasting(SubscribeRequest { filters })).await;
    let mut events = events.doing(doing)?;
    // What ended while nobody listened.
    missed(parts).await?;
    let parts = Arc::downgrade(parts);
    while let Some(envelope) = client::next(&mut events, doing).await? {
        let Some(parts) = parts.upgrade() else { return Ok(()) };
        let event = envelope.event.unwrap_or_default();
        let Ok(exit) = TaskExit::decode(event.value.as_slice()) else { continue };
        if shared_shim::is_keeper(&exit.container_id) {
            parts.shim.doubt();
            for id in parts.instances.ids() {
                clear_up(&parts, id.as_str(), "its shim ended".to_owned());
            }
        }
        // A process other than the first is a command that was run in the container.
        if exit.id == exit.container_id {
            clear_up(&parts, &exit.container_id, how(exit.exit_status));
        }
    }
    Ok(())
}

/// In a task of its own: the next event need not wait for it.
fn clear_up(parts: &Arc<Inner>, container: &str, how: String) {
    let Some((id, instance)) = parts.instances.find(container) else { return };
    let parts = parts.clone();
    task::spawn("clear up after a container", async move {
        if let Err(error) = parts.ended(&id, &instance, how).await {
            tracing::warn!(%id, %error, "an instance that ended could not be cleared up");
        }
    });
}

/// As shells have it: beyond 128 it was a signal.
fn how(status: u32) -> String {
    match status.checked_sub(128) {
        None | Some(0) => format!("exit status {status}"),
        Some(signal) => format!("signal {signal}"),
    }
}

async fn missed(parts: &Arc<Inner>) -> Result<(), RuntimeError> {
    let message = ListTasksRequest { filter: String::new() };
    let tasks =
        parts.client.tasks().list(request(message)).await.doing(|| "list the tasks".to_owned())?.tasks;
    for task in tasks.iter().filter(|task| task.status() == Status::Stopped) {
        clear_up(parts, &task.id, how(task.exit_status));
    }
    Ok(())
}
