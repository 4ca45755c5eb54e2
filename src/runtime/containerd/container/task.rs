//! containerd's tasks, which are the running containers: created, started or restored, frozen, ended.
//!
//! A failed operation leaves nothing behind once [`remove_container`] was called with the same id.

use std::io;
use std::path::Path;

use containerd_client::services::v1::{
    CheckpointTaskRequest, CreateTaskRequest, DeleteTaskRequest, GetRequest, KillRequest, ListPidsRequest,
    StartRequest, WaitRequest,
};
use containerd_client::types::Mount;
use containerd_client::types::v1::{Process, Status};

use super::record::{ContainerDraft, remove_record, restorer_of};
use crate::runtime::RuntimeError;
use crate::runtime::containerd::checkpoint::restore::RuncFallback;
use crate::runtime::containerd::checkpoint::sharing::MadviseTrace;
use crate::runtime::containerd::client::runc_options::{CheckpointOptions, RuncOptions};
use crate::runtime::containerd::client::{Client, ResponseExt, request};
use crate::runtime::containerd::fault_points::{FaultInjector, FaultPoint};
use crate::runtime::containerd::host::orphans;
use crate::runtime::containerd::image::snapshots;
use crate::template::RuntimeHandler;

/// How containerd's error texts begin when runc refused. containerd has no error code for it.
const RUNC_ERROR_PREFIX: &str = "OCI runtime";

pub(super) const SIGKILL: u32 = 9;

/// Creates the task of a recorded container: its shim, its root file system, and unless it is restored its first
/// process.
///
/// # Errors
/// [`RuntimeError::Start`] if runc refuses, [`RuntimeError::Io`] if containerd does.
pub(super) async fn create_task(
    client: &Client,
    draft: &ContainerDraft<'_>,
    mounts: Vec<Mount>,
) -> Result<(), RuntimeError> {
    let id = draft.id;
    let text = |path: &Path| path.display().to_string();
    let options = RuncOptions {
        output_user: draft.output_owner.0,
        output_group: draft.output_owner.1,
        program: draft.restorer.map(text).unwrap_or_default(),
        criu_image_path: draft.checkpoint.as_ref().map(|(_, images)| text(images)).unwrap_or_default(),
        criu_work_path: text(draft.work_dir),
    };
    let message = CreateTaskRequest {
        container_id: id.to_owned(),
        rootfs: mounts,
        stdin: text(draft.input),
        stdout: text(draft.output),
        stderr: text(draft.output),
        // Another handler knows other options.
        options: draft.handler.is_none().then(|| options.to_any()),
        ..Default::default()
    };
    let created =
        client.tasks().create(request(message)).await.context(|| format!("create the task of {id}"));
    let created = created.map_err(|error| classify_handler_error(error, draft.handler))?;
    if let Some(trace) = draft.madvise_trace {
        // The first process exists, and waits to be started.
        let started = MadviseTrace::start(draft.node, id, created.pid).await;
        *trace.lock() = Some(started);
    }
    draft.faults.reached(FaultPoint::Task)
}

/// Starts the container's command, or has CRIU restore it. Returns the number of its first process.
///
/// # Errors
/// [`RuntimeError::Start`] if runc refuses, [`RuntimeError::Io`] if containerd does.
pub(super) async fn start_task(
    client: &Client,
    id: &str,
    faults: &FaultInjector,
) -> Result<u32, RuntimeError> {
    let message = StartRequest { container_id: id.to_owned(), exec_id: String::new() };
    let started = client.tasks().start(request(message)).await.context(|| format!("start {id}"));
    let pid = started.map_err(classify_runc_error)?.pid;
    faults.reached(FaultPoint::Start)?;
    Ok(pid)
}

/// Turns an error of containerd that a handler is missing into [`RuntimeError::Start`] with what to do, and an error of
/// runc as [`classify_runc_error`] does.
fn classify_handler_error(error: RuntimeError, handler: Option<&RuntimeHandler>) -> RuntimeError {
    match (error, handler) {
        (RuntimeError::Io { source, .. }, Some(handler)) if is_missing(&source, handler) => {
            RuntimeError::Start(format!(
                "its runtime handler {} is not installed: install {} where containerd finds it (its PATH), or change \
                 `runtime` in the template",
                handler.name(),
                handler.shim()
            ))
        }
        (error, _) => classify_runc_error(error),
    }
}

/// Returns whether containerd did not find the program of a handler. containerd has no error code for it.
fn is_missing(source: &io::Error, handler: &RuntimeHandler) -> bool {
    let text = source.to_string();
    text.contains(&handler.shim()) && text.contains("not installed")
}

/// Turns an error of runc into [`RuntimeError::Start`]. What runc refuses is the app's fault, such as a program that
/// its image lacks; other errors are this host's.
pub(super) fn classify_runc_error(error: RuntimeError) -> RuntimeError {
    match error {
        RuntimeError::Io { source, .. } if source.to_string().contains(RUNC_ERROR_PREFIX) => {
            RuntimeError::Start(source.to_string())
        }
        other => other,
    }
}

/// Writes the memory of all its processes to the folder `images`, and ends them. The content of its network namespace is
/// not written; `has_own_network` says that the namespace was made with the container.
///
/// # Errors
/// CRIU failed; its log is in `work_dir`.
pub(crate) async fn freeze(
    client: &Client,
    id: &str,
    images: &Path,
    work_dir: &Path,
    has_own_network: bool,
) -> Result<(), RuntimeError> {
    let options = CheckpointOptions {
        empty_namespaces: has_own_network.then(|| "network".to_owned()).into_iter().collect(),
        exit: true,
        file_locks: true,
        cgroups_mode: "soft".to_owned(),
        image_path: images.display().to_string(),
        work_path: work_dir.display().to_string(),
    };
    let message = CheckpointTaskRequest {
        container_id: id.to_owned(),
        parent_checkpoint: String::new(),
        options: Some(options.to_any()),
    };
    client.tasks().checkpoint(request(message)).await.context(|| format!("freeze {id}")).map(drop)
}

/// Removes a container's task, record and snapshot, as far as they exist.
///
/// # Errors
/// A process does not end, or containerd refuses.
pub(crate) async fn remove_container(
    client: &Client,
    id: &str,
    faults: &FaultInjector,
) -> Result<(), RuntimeError> {
    remove_task(client, id).await?;
    faults.reached(FaultPoint::NoTask)?;
    remove_record(client, id).await?;
    faults.reached(FaultPoint::NoRecord)?;
    snapshots::remove(client, id).await?;
    faults.reached(FaultPoint::NoSnapshot)
}

/// Returns the number of a container's first process; `None` if it does not run.
///
/// # Errors
/// containerd does not answer.
pub(crate) async fn running_pid(client: &Client, id: &str) -> Result<Option<u32>, RuntimeError> {
    let process = first_process(client, id).await?;
    Ok(process.filter(|process| process.status() == Status::Running).map(|process| process.pid))
}

/// Returns what containerd knows of a container's first process.
///
/// # Errors
/// containerd does not answer.
pub(crate) async fn first_process(client: &Client, id: &str) -> Result<Option<Process>, RuntimeError> {
    let message = GetRequest { container_id: id.to_owned(), exec_id: String::new() };
    let task = client.tasks().get(request(message)).await.if_found(|| format!("look up the task of {id}"))?;
    Ok(task.and_then(|answer| answer.process))
}

/// Returns the numbers of all processes of a container.
///
/// # Errors
/// The container has no task, or containerd does not answer.
pub(crate) async fn list_processes(client: &Client, id: &str) -> Result<Vec<u32>, RuntimeError> {
    let message = ListPidsRequest { container_id: id.to_owned() };
    let answer =
        client.tasks().list_pids(request(message)).await.context(|| format!("list the processes of {id}"))?;
    Ok(answer.processes.into_iter().map(|process| process.pid).collect())
}

/// Kills a container's processes and removes its task, if it has one.
///
/// # Errors
/// A process does not end, or containerd refuses.
pub(crate) async fn remove_task(client: &Client, id: &str) -> Result<(), RuntimeError> {
    let _permit = client.end_permit().await;
    let kill = KillRequest { container_id: id.to_owned(), signal: SIGKILL, all: true, ..Default::default() };
    let killed = client.tasks().kill(request(kill.clone())).await;
    // A task that has ended by itself cannot be killed, which is no error.
    let ended = match killed.if_found(|| format!("kill {id}")) {
        Ok(_) => wait_and_delete_task(client, id).await,
        Err(error) => Err(error),
    };
    if ended.is_ok() {
        return ended;
    }
    let fallback = match restorer_of(client, id).await? {
        Some(link) => {
            let fallback = RuncFallback::install_if_missing(&link).await;
            fallback.map_err(|source| RuntimeError::Io {
                operation: format!("let the shim of {id} call runc"),
                source,
            })?
        }
        None => None,
    };
    if fallback.is_some() {
        let _ = client.tasks().kill(request(kill)).await;
    }
    wait_and_delete_task(client, id).await
}

/// Waits for the task's end, and deletes it.
async fn wait_and_delete_task(client: &Client, id: &str) -> Result<(), RuntimeError> {
    match first_process(client, id).await {
        // A task whose restore failed never had a process, and a wait for its end would last for ever.
        Ok(Some(process)) if process.status() != Status::Unknown && process.pid == 0 => {}
        Ok(Some(process)) if process.status() != Status::Unknown => {
            let wait = WaitRequest { container_id: id.to_owned(), ..Default::default() };
            client.tasks().wait(request(wait)).await.if_found(|| format!("wait for the end of {id}"))?;
        }
        // There is no task, or its shim is gone and with it every program that could end its processes.
        _ => drop(orphans::kill_processes(id).await?),
    }
    match delete_task(client, id).await {
        // Once its shim is gone, containerd fails to delete a task once, and then forgets it.
        Err(_) => delete_task(client, id).await,
        deleted => deleted,
    }
}

async fn delete_task(client: &Client, id: &str) -> Result<(), RuntimeError> {
    let delete = DeleteTaskRequest { container_id: id.to_owned() };
    client.tasks().delete(request(delete)).await.if_found(|| format!("remove the task of {id}")).map(drop)
}
