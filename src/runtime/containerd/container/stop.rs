//! Ends an instance, on request or after its container ended by itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::instances::RunningContainer;
use super::task;
use crate::instance::InstanceId;
use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;
use crate::runtime::containerd::fault_points::FaultPoint;
use crate::runtime::containerd::inner::Inner;

impl Inner {
    /// Handles the exit of an instance's container: reports it and removes the instance, unless the server is ending
    /// the instance itself.
    ///
    /// # Errors
    /// A part of the instance cannot be removed.
    pub(super) async fn handle_exit(
        &self,
        id: &InstanceId,
        instance: &Arc<RunningContainer>,
        cause: String,
    ) -> Result<(), RuntimeError> {
        // The exit may be that of a failed restore, and a start in progress may have another container for the instance
        // by now.
        let _lock = instance.operation_lock.lock().await;
        if instance.is_ending() || matches!(task::running_pid(&self.client, id.as_str()).await, Ok(Some(_))) {
            return Ok(());
        }
        instance.begin_end();
        let cause = instance.end_cause.lock().take().unwrap_or(cause);
        self.instances.report_exit(id, cause);
        self.remove_instance(id, instance).await
    }

    /// Removes an instance completely, and takes it from the list of running instances.
    ///
    /// # Errors
    /// A part of it cannot be removed. It stays in the list, so a later call can try again.
    pub(crate) async fn remove_instance(
        &self,
        id: &InstanceId,
        instance: &Arc<RunningContainer>,
    ) -> Result<(), RuntimeError> {
        instance.begin_end();
        self.undo_start(id, instance).await?;
        self.instances.remove(id, instance);
        instance.removed.cancel();
        let checkpoint = instance.checkpoint.lock().take();
        if let Some(key) = checkpoint {
            self.checkpoints.punch_gaps(Some(&key)).await;
            if !self.checkpoints.contains(&key) {
                self.remove_checkpoint(&key).await;
            }
        }
        self.checkpoints.forget_unused_memory(&self.instances.checkpoints_in_use());
        Ok(())
    }

    /// Removes everything that a start has made so far.
    ///
    /// # Errors
    /// A part of it cannot be removed.
    pub(super) async fn undo_start(
        &self,
        id: &InstanceId,
        instance: &RunningContainer,
    ) -> Result<(), RuntimeError> {
        self.namespaces.release(instance.namespace.swap(0, Ordering::AcqRel));
        instance.database_port.lock().take();
        task::remove_container(&self.client, id.as_str(), &self.faults).await?;
        // Not before all processes that could use the link have ended.
        let link = instance.egress_link.lock().take();
        if let Some(link) = link {
            self.egress_links.release(link).await?;
        }
        instance.disk.lock().take();
        let trace = instance.madvise_trace.lock().take();
        if let Some(Ok(trace)) = trace {
            trace.remove().await;
        }
        self.node_dir.remove(id.as_str()).context(|| format!("remove the folder of {id}"))?;
        if let Some(ids) = instance.ids.lock().take() {
            self.id_ranges.release(ids);
        }
        self.faults.reached(FaultPoint::NoFolder)
    }
}
