//! The verbs of a container: made and started or restored, frozen, removed. Each leaves nothing behind when it fails,
//! once [`remove`] was called with the same id.

pub(super) mod disk;
pub(super) mod exec;
pub(super) mod instances;
pub(super) mod layer_writer;
pub(super) mod seccomp;
pub(super) mod spec;
pub(super) mod start;
pub(super) mod stop;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use containerd_client::services::v1::container::Runtime as Shim;
use containerd_client::services::v1::{
    CheckpointTaskRequest, Container, CreateContainerRequest, CreateTaskRequest, DeleteContainerRequest,
    DeleteTaskRequest, GetContainerRequest, GetRequest, KillRequest, ListPidsRequest, StartRequest,
    WaitRequest,
};
use containerd_client::types::Mount;
use containerd_client::types::v1::{Process, Status};
use parking_lot::Mutex;
use prost_types::Any;
use serde_json::Value;

use super::super::RuntimeError;
use super::checkpoint::catalog::Key;
use super::checkpoint::restore::RestoredLink;
use super::checkpoint::sharing::Watch;
use super::client::runc_options::{CheckpointOptions, RuncOptions};
use super::client::{Answer, Client, request};
use super::fault_points::{FaultPoint, Watcher};
use super::image::snapshots;
use super::image::snapshots::SNAPSHOTTER;
use super::takeover::orphans;

/// What runs the containers.
pub(super) const RUNC: &str = "io.containerd.runc.v2";

/// How containerd calls a specification.
pub(super) const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The label that says in which of our network namespaces a container is.
pub(super) const NAMESPACE_LABEL: &str = "try-it-now/namespace";

/// The label that says which of our checkpoints a container was restored from.
pub(super) const CHECKPOINT_LABEL: &str = "try-it-now/checkpoint";

/// The label that says what a container's shim calls in place of runc.
const RESTORER_LABEL: &str = "try-it-now/restorer";

/// What containerd writes before the words of runc, which it gives no code of its own.
const RUNC_REFUSED: &str = "OCI runtime";

pub(super) const SIGKILL: u32 = 9;

/// What to make.
pub(super) struct ContainerDraft<'a> {
    pub(super) id: &'a str,
    pub(super) node: &'a str,
    /// The image's name in containerd.
    pub(super) image: &'a str,
    pub(super) namespace: u32,
    /// The container whose shim makes it; `None` gives it a shim of its own.
    pub(super) shim: Option<&'a str>,
    pub(super) spec: &'a Value,
    /// The pipe for its input.
    pub(super) input: &'a Path,
    /// The pipe for its output.
    pub(super) output: &'a Path,
    /// Where CRIU works.
    pub(super) work: &'a Path,
    /// What to restore, and CRIU's images of it; `None` starts the command.
    pub(super) checkpoint: Option<(&'a Key, PathBuf)>,
    /// Where to keep who watches what it does with its memory; `None` where nobody is to.
    pub(super) watch: Option<&'a Mutex<Option<io::Result<Watch>>>>,
    /// What the shim runs in place of runc.
    pub(super) restorer: Option<&'a Path>,
    pub(super) watcher: &'a Watcher,
}

/// Makes containerd's record of it.
pub(super) async fn record(client: &Client, draft: &ContainerDraft<'_>) -> Result<(), RuntimeError> {
    let id = draft.id;
    let spec = serde_json::to_vec(draft.spec).expect("a value is JSON");
    let container = Container {
        id: id.to_owned(),
        labels: labels(draft),
        image: draft.image.to_owned(),
        runtime: Some(Shim { name: RUNC.to_owned(), options: None }),
        spec: Some(Any { type_url: SPEC.to_owned(), value: spec }),
        snapshotter: SNAPSHOTTER.to_owned(),
        snapshot_key: id.to_owned(),
        sandbox: draft.shim.unwrap_or_default().to_owned(),
        ..Default::default()
    };
    let message = CreateContainerRequest { container: Some(container) };
    client.containers().create(request(message)).await.doing(|| format!("make the container {id}"))?;
    draft.watcher.done(FaultPoint::Record)
}

/// Makes its task of what is on record: its shim, its root, and where nothing is restored its first process.
pub(super) async fn prepare(
    client: &Client,
    draft: &ContainerDraft<'_>,
    mounts: Vec<Mount>,
) -> Result<(), RuntimeError> {
    let id = draft.id;
    let text = |path: &Path| path.display().to_string();
    let options = RuncOptions {
        program: draft.restorer.map(text).unwrap_or_default(),
        criu_image_path: draft.checkpoint.as_ref().map(|(_, images)| text(images)).unwrap_or_default(),
        criu_work_path: text(draft.work),
    };
    let message = CreateTaskRequest {
        container_id: id.to_owned(),
        rootfs: mounts,
        stdin: text(draft.input),
        stdout: text(draft.output),
        stderr: text(draft.output),
        options: Some(options.to_any()),
        ..Default::default()
    };
    let made = client.tasks().create(request(message)).await.doing(|| format!("make the task of {id}"));
    let made = made.map_err(blame_the_app)?;
    if let Some(watch) = draft.watch {
        // Its first process is there, and waits for its start.
        let begun = Watch::begin(draft.node, id, made.pid).await;
        *watch.lock() = Some(begun);
    }
    draft.watcher.done(FaultPoint::Task)
}

/// Runs its command, or has CRIU restore it.
pub(super) async fn start(client: &Client, id: &str, watcher: &Watcher) -> Result<(), RuntimeError> {
    let message = StartRequest { container_id: id.to_owned(), exec_id: String::new() };
    let started = client.tasks().start(request(message)).await.doing(|| format!("start {id}"));
    started.map_err(blame_the_app)?;
    watcher.done(FaultPoint::Start)
}

fn labels(draft: &ContainerDraft<'_>) -> HashMap<String, String> {
    let from = draft.checkpoint.as_ref().map(|(key, _)| (CHECKPOINT_LABEL, key.as_str().to_owned()));
    let always = [(super::NODE_LABEL, draft.node.to_owned()), (NAMESPACE_LABEL, draft.namespace.to_string())];
    let restorer = draft.restorer.map(|link| (RESTORER_LABEL, link.display().to_string()));
    always.into_iter().chain(from).chain(restorer).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What runc refused is wrong with the app, such as a program that its image lacks; the rest, with this host.
pub(super) fn blame_the_app(error: RuntimeError) -> RuntimeError {
    match error {
        RuntimeError::Io { source, .. } if source.to_string().contains(RUNC_REFUSED) => {
            RuntimeError::Start(source.to_string())
        }
        other => other,
    }
}

/// Writes the memory of all its processes to `images`, and ends them.
pub(super) async fn freeze(
    client: &Client,
    id: &str,
    images: &Path,
    work: &Path,
) -> Result<(), RuntimeError> {
    let options = CheckpointOptions {
        exit: true,
        file_locks: true,
        cgroups_mode: "soft".to_owned(),
        image_path: images.display().to_string(),
        work_path: work.display().to_string(),
    };
    let message = CheckpointTaskRequest {
        container_id: id.to_owned(),
        parent_checkpoint: String::new(),
        options: Some(options.to_any()),
    };
    client.tasks().checkpoint(request(message)).await.doing(|| format!("freeze {id}")).map(drop)
}

/// Removes its task, itself and its snapshot, as far as they exist.
pub(super) async fn remove(client: &Client, id: &str, watcher: &Watcher) -> Result<(), RuntimeError> {
    remove_task(client, id).await?;
    watcher.done(FaultPoint::NoTask)?;
    remove_record(client, id).await?;
    watcher.done(FaultPoint::NoRecord)?;
    snapshots::remove(client, id).await?;
    watcher.done(FaultPoint::NoSnapshot)
}

/// The number of its first process, if that lives.
pub(super) async fn lives(client: &Client, id: &str) -> Result<Option<u32>, RuntimeError> {
    let process = process(client, id).await?;
    Ok(process.filter(|process| process.status() == Status::Running).map(|process| process.pid))
}

/// What containerd knows of its first process.
pub(super) async fn process(client: &Client, id: &str) -> Result<Option<Process>, RuntimeError> {
    let message = GetRequest { container_id: id.to_owned(), exec_id: String::new() };
    let task = client.tasks().get(request(message)).await.if_known(|| format!("look at the task of {id}"))?;
    Ok(task.and_then(|answer| answer.process))
}

/// The numbers of all its processes.
pub(super) async fn processes(client: &Client, id: &str) -> Result<Vec<u32>, RuntimeError> {
    let message = ListPidsRequest { container_id: id.to_owned() };
    let answer = client.tasks().list_pids(request(message)).await.doing(|| format!("look at {id}"))?;
    Ok(answer.processes.into_iter().map(|process| process.pid).collect())
}

/// Ends its processes, if it has any.
pub(super) async fn remove_task(client: &Client, id: &str) -> Result<(), RuntimeError> {
    let _turn = client.turn_to_end().await;
    let kill = KillRequest { container_id: id.to_owned(), signal: SIGKILL, all: true, ..Default::default() };
    let killed = client.tasks().kill(request(kill.clone())).await;
    // One that has ended by itself cannot be killed, and that is as well.
    let ended = match killed.if_known(|| format!("end {id}")) {
        Ok(_) => end_task(client, id).await,
        Err(error) => Err(error),
    };
    if ended.is_ok() {
        return ended;
    }
    let mended = match called(client, id).await? {
        Some(link) => {
            let mended = RestoredLink::at(&link).await;
            mended.map_err(|source| RuntimeError::Io {
                doing: format!("let the shim of {id} call runc"),
                source,
            })?
        }
        None => None,
    };
    if mended.is_some() {
        let _ = client.tasks().kill(request(kill)).await;
    }
    end_task(client, id).await
}

/// What its shim calls, if that is not runc.
async fn called(client: &Client, id: &str) -> Result<Option<PathBuf>, RuntimeError> {
    let get = GetContainerRequest { id: id.to_owned() };
    let found = client.containers().get(request(get)).await.if_known(|| format!("look at {id}"))?;
    let found = found.and_then(|answer| answer.container);
    Ok(found.and_then(|container| container.labels.get(RESTORER_LABEL).map(PathBuf::from)))
}

/// Waits for its end, and removes it.
async fn end_task(client: &Client, id: &str) -> Result<(), RuntimeError> {
    match process(client, id).await {
        // A task whose restore failed never had a process, and whoever waits for its end waits without end.
        Ok(Some(process)) if process.status() != Status::Unknown && process.pid == 0 => {}
        Ok(Some(process)) if process.status() != Status::Unknown => {
            let wait = WaitRequest { container_id: id.to_owned(), ..Default::default() };
            client.tasks().wait(request(wait)).await.if_known(|| format!("wait for the end of {id}"))?;
        }
        // There is no task, or its shim is gone, and with it all who could end its processes.
        _ => drop(orphans::end_processes(id).await?),
    }
    match delete_task(client, id).await {
        // Of a task whose shim is gone containerd says so once, and forgets it.
        Err(_) => delete_task(client, id).await,
        deleted => deleted,
    }
}

async fn delete_task(client: &Client, id: &str) -> Result<(), RuntimeError> {
    let delete = DeleteTaskRequest { container_id: id.to_owned() };
    client.tasks().delete(request(delete)).await.if_known(|| format!("remove the task of {id}")).map(drop)
}

/// Forgets it. Its task must be gone.
pub(super) async fn remove_record(client: &Client, id: &str) -> Result<(), RuntimeError> {
    let delete = DeleteContainerRequest { id: id.to_owned() };
    client
        .containers()
        .delete(request(delete))
        .await
        .if_known(|| format!("remove the container {id}"))
        .map(drop)
}
