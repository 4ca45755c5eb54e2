//! Ends an instance, on request or after its container ended by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::RemoveContainerOptions;

use super::failure::{CONFLICT, EngineContext, status};
use super::inner::Inner;
use super::instances::EngineInstance;
use crate::instance::InstanceId;
use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;

/// Most attempts to remove a container: another removal may be in progress, or the kernel may hold its files for a
/// moment.
const REMOVAL_ATTEMPTS: usize = 50;
/// Pause between two attempts.
const REMOVAL_INTERVAL: Duration = Duration::from_millis(200);

impl Inner {
    /// Handles the exit of an instance's container: reports it and removes the instance, unless the server is ending
    /// the instance itself.
    ///
    /// # Errors
    /// The engine does not answer, or the container cannot be removed.
    pub(super) async fn handle_exit(
        &self,
        id: &InstanceId,
        instance: &Arc<EngineInstance>,
    ) -> Result<(), RuntimeError> {
        let _lock = instance.operation_lock.lock().await;
        let Some(container) = instance.container().filter(|_| !instance.is_ending()) else { return Ok(()) };
        let cause = match self.inspect(id, &container).await? {
            Some(state) if state.running_pid().is_some() => return Ok(()),
            Some(state) => {
                self.instances.keep_output(id, self.output(instance).await);
                state.end_cause()
            }
            None => "its container was removed".to_owned(),
        };
        instance.begin_end();
        self.instances.report_exit(id, cause);
        self.remove_instance(id, instance).await
    }

    /// Removes what a failed start made, and takes the instance from the list. If the engine cannot be asked now, the
    /// next comparison with its list of containers removes the rest.
    pub(super) async fn give_up(&self, id: &InstanceId, instance: &Arc<EngineInstance>) {
        if let Err(error) = self.remove_instance(id, instance).await {
            tracing::warn!(%id, %error, "failed to remove what a failed start made; trying again later");
            self.instances.remove(id, instance);
        }
    }

    /// Removes the files of instances that this server does not have: a crash, or an engine that did not answer, has left
    /// them. Their containers must be gone.
    ///
    /// # Errors
    /// The folder cannot be read, or a file cannot be removed.
    pub(super) async fn remove_lost_files(&self) -> Result<(), RuntimeError> {
        let listed = self.identity.list().await.context(|| "list the files of instances".to_owned())?;
        for id in listed.iter().filter(|id| self.instances.is_unknown(id)) {
            self.identity.remove(id).await.context(|| format!("remove the files of {id}"))?;
        }
        Ok(())
    }

    /// Removes an instance completely, and takes it from the list of running instances.
    ///
    /// # Errors
    /// The engine does not answer, or the container cannot be removed. The instance stays in the list, so a later call
    /// can try again.
    pub(super) async fn remove_instance(
        &self,
        id: &InstanceId,
        instance: &Arc<EngineInstance>,
    ) -> Result<(), RuntimeError> {
        instance.begin_end();
        self.namespaces.release(instance.namespace.load(Ordering::Acquire));
        match instance.container() {
            Some(container) => remove_container(&self.docker, &container).await?,
            // The engine may have made it and not answered.
            None => {
                for listed in self.list_containers(Some(id)).await? {
                    remove_container(&self.docker, &listed.container).await?;
                }
            }
        }
        self.identity.remove(id).await.context(|| format!("remove the files of {id}"))?;
        self.instances.remove(id, instance);
        Ok(())
    }
}

/// Kills and removes a container with its anonymous volumes. One that does not exist is no error.
///
/// # Errors
/// The engine does not answer, or cannot remove it.
pub(super) async fn remove_container(docker: &Docker, container: &str) -> Result<(), RuntimeError> {
    let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
    for attempt in 1.. {
        match docker.remove_container(container, Some(options.clone())).await {
            Err(error) if attempt < REMOVAL_ATTEMPTS && is_temporary(&error) => {
                tokio::time::sleep(REMOVAL_INTERVAL).await;
            }
            answer => return answer.if_found(|| format!("remove the container {container}")).map(drop),
        }
    }
    Ok(())
}

/// Returns whether the engine may be able to remove a container in a moment.
fn is_temporary(error: &Error) -> bool {
    status(error).is_some_and(|status| status == CONFLICT || status >= 500)
}
