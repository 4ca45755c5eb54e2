//! containerd's records of containers: created, listed, removed.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use containerd_client::services::v1::container::Runtime as Shim;
use containerd_client::services::v1::{
    Container, CreateContainerRequest, DeleteContainerRequest, GetContainerRequest, ListContainersRequest,
};
use parking_lot::Mutex;
use prost_types::Any;
use serde_json::Value;

use crate::runtime::RuntimeError;
use crate::runtime::containerd::checkpoint::manifest::CheckpointKey;
use crate::runtime::containerd::checkpoint::sharing::MadviseTrace;
use crate::runtime::containerd::client::labels::{
    CHECKPOINT_LABEL, NAMESPACE_LABEL, NODE_LABEL, RESTORER_LABEL, node_filter,
};
use crate::runtime::containerd::client::{Client, ResponseExt, next_message, request};
use crate::runtime::containerd::fault_points::{FaultInjector, FaultPoint};
use crate::runtime::containerd::image::snapshots::SNAPSHOTTER;
use crate::template::RuntimeHandler;

/// Name of containerd's runtime for containers, the shim of runc.
pub(crate) const RUNTIME_NAME: &str = "io.containerd.runc.v2";

/// containerd's type of a runtime specification.
pub(crate) const SPEC_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// What a container is made of.
pub(super) struct ContainerDraft<'a> {
    pub(crate) id: &'a str,
    pub(crate) node: &'a str,
    /// The image's name in containerd.
    pub(crate) image: &'a str,
    /// Number of its network namespace.
    pub(crate) namespace: u32,
    /// Name of the container whose shim makes it; `None` gives it a shim of its own.
    pub(crate) shim: Option<&'a str>,
    pub(crate) spec: &'a Value,
    /// What starts it in place of runc.
    pub(crate) handler: Option<&'a RuntimeHandler>,
    /// Pipe for its input.
    pub(crate) input: &'a Path,
    /// Pipe for its output.
    pub(crate) output: &'a Path,
    /// Owner and group, on this host, of the pipes that the shim makes for the output.
    pub(super) output_owner: (u32, u32),
    /// Folder in which CRIU works.
    pub(super) work_dir: &'a Path,
    /// The checkpoint to restore, and the folder of CRIU's images of it; `None` for a cold start.
    pub(crate) checkpoint: Option<(&'a CheckpointKey, PathBuf)>,
    /// Where the trace of the memory that it discards is stored; `None` if it is not traced.
    pub(crate) madvise_trace: Option<&'a Mutex<Option<io::Result<MadviseTrace>>>>,
    /// The program that the shim runs in place of runc.
    pub(crate) restorer: Option<&'a Path>,
    pub(crate) faults: &'a FaultInjector,
}

/// Creates containerd's record of a container.
///
/// # Errors
/// containerd refuses.
pub(super) async fn create_record(client: &Client, draft: &ContainerDraft<'_>) -> Result<(), RuntimeError> {
    let id = draft.id;
    let spec = serde_json::to_vec(draft.spec).expect("a value is JSON");
    let container = Container {
        id: id.to_owned(),
        labels: labels(draft),
        image: draft.image.to_owned(),
        runtime: Some(Shim {
            name: draft.handler.map_or(RUNTIME_NAME, RuntimeHandler::name).to_owned(),
            options: None,
        }),
        spec: Some(Any { type_url: SPEC_TYPE_URL.to_owned(), value: spec }),
        snapshotter: SNAPSHOTTER.to_owned(),
        snapshot_key: id.to_owned(),
        sandbox: draft.shim.unwrap_or_default().to_owned(),
        ..Default::default()
    };
    let message = CreateContainerRequest { container: Some(container) };
    client.containers().create(request(message)).await.context(|| format!("create the container {id}"))?;
    draft.faults.reached(FaultPoint::Record)
}

fn labels(draft: &ContainerDraft<'_>) -> HashMap<String, String> {
    let checkpoint = draft.checkpoint.as_ref().map(|(key, _)| (CHECKPOINT_LABEL, key.as_str().to_owned()));
    let always = [(NODE_LABEL, draft.node.to_owned()), (NAMESPACE_LABEL, draft.namespace.to_string())];
    let restorer = draft.restorer.map(|link| (RESTORER_LABEL, link.display().to_string()));
    always
        .into_iter()
        .chain(checkpoint)
        .chain(restorer)
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Returns the program that a container's shim runs, unless that is runc.
///
/// # Errors
/// containerd does not answer.
pub(super) async fn restorer_of(client: &Client, id: &str) -> Result<Option<PathBuf>, RuntimeError> {
    let get = GetContainerRequest { id: id.to_owned() };
    let found =
        client.containers().get(request(get)).await.if_found(|| format!("look up the container {id}"))?;
    let found = found.and_then(|answer| answer.container);
    Ok(found.and_then(|container| container.labels.get(RESTORER_LABEL).map(PathBuf::from)))
}

/// Returns the records of a node's containers, or with `None` of all nodes', without their specifications.
///
/// They come one by one: a specification has some 17 KiB, so those of 250 containers are more than gRPC takes in one
/// message.
///
/// # Errors
/// containerd does not answer.
pub(crate) async fn list_containers(
    client: &Client,
    node: Option<&str>,
) -> Result<Vec<Container>, RuntimeError> {
    let message = ListContainersRequest { filters: vec![node_filter(node)] };
    let context = || "list the containers".to_owned();
    let mut parts = client.containers().list_stream(request(message)).await.context(context)?;
    let mut found = Vec::new();
    while let Some(part) = next_message(&mut parts, context).await? {
        found.extend(part.container.map(|container| Container { spec: None, ..container }));
    }
    Ok(found)
}

/// Removes the record of a container, whose task must be gone. One that does not exist is no error.
///
/// # Errors
/// containerd refuses or does not answer.
pub(super) async fn remove_record(client: &Client, id: &str) -> Result<(), RuntimeError> {
    let delete = DeleteContainerRequest { id: id.to_owned() };
    client
        .containers()
        .delete(request(delete))
        .await
        .if_found(|| format!("remove the container {id}"))
        .map(drop)
}
