//! Starts an instance. A step that failed is undone by the caller, which removes whatever the engine has of the
//! instance.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;

use bollard::body_full;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptions, UploadToContainerOptions};
use bytes::Bytes;

use super::failure::{CONFLICT, EngineContext, NOT_FOUND, said, status};
use super::inner::Inner;
use super::inspect::Container;
use super::instances::EngineInstance;
use super::labels;
use super::request_body::{ContainerNetwork, container_body};
use super::settings::Reach;
use super::stop::remove_container;
use crate::instance::Endpoint;
use crate::runtime::blocking::IoContext;
use crate::runtime::identity_files::identity_files;
use crate::runtime::{InstanceFile, RuntimeError, StartMethod, StartRequest, Started};

/// Most containers that are made for one start.
const START_ATTEMPTS: usize = 5;

impl Inner {
    /// Makes an instance's container and starts it.
    ///
    /// # Errors
    /// A step failed. The caller removes what was made.
    pub(super) async fn start(
        &self,
        request: &StartRequest,
        instance: &EngineInstance,
    ) -> Result<Started, RuntimeError> {
        let image = self.fetch_image(&request.app).await?;
        let port = image.config.port(&request.app)?;
        let network = self.network(&request.app).await?;
        let namespace = (self.reach == Reach::Namespace).then(|| self.namespaces.reserve());
        let labels = labels::of_instance(&self.node, &request.id, namespace);
        let mut body = container_body(request, self.kind, &image.id, port, &network, self.limits, labels)?;
        let upload = self.place_files(request, &mut body).await?;
        let container = match self.launch(request, instance, &body, upload).await {
            Err(RuntimeError::Start(why)) if self.identity.is_named_in(&why) => {
                self.launch_without_mounts(request, instance, &mut body, &why).await?
            }
            launched => launched?,
        };
        // One that is gone already has ended, too.
        let state = self.inspect(&request.id, &container).await?.unwrap_or_default();
        instance.pid.store(state.running_pid().unwrap_or(0), Ordering::Release);
        let endpoint = self.endpoint(&container, instance, &state, namespace, port, &network)?;
        Ok(Started { endpoint, method: StartMethod::Cold })
    }

    /// Has the container mount its files, where it can and they are no more than those of each instance. Else returns
    /// the archive that must be put into it.
    async fn place_files(
        &self,
        request: &StartRequest,
        body: &mut ContainerCreateBody,
    ) -> Result<Option<Bytes>, RuntimeError> {
        if self.has_mounts.load(Ordering::Acquire) && request.files.is_empty() {
            let operation = || format!("write the files of {}", request.id);
            let identity = identity_files(request).context(operation)?;
            let mounts = self.identity.write(&request.id, identity).await.context(operation)?;
            body.host_config.get_or_insert_default().mounts = Some(mounts);
            return Ok(None);
        }
        archive(request).map(Some)
    }

    /// Launches an instance whose mounts the engine has refused: it does not see this server's folder, which shows only
    /// when it is used. Later instances have no mounts, which is logged once.
    async fn launch_without_mounts(
        &self,
        request: &StartRequest,
        instance: &EngineInstance,
        body: &mut ContainerCreateBody,
        why: &str,
    ) -> Result<String, RuntimeError> {
        if self.has_mounts.swap(false, Ordering::AcqRel) {
            tracing::warn!(
                engine = self.kind.name(),
                why,
                remedy = "put STATE_DIR where the engine sees the same folder",
                "starts take longer: the engine cannot mount files of this server"
            );
        }
        if let Some(container) = instance.container() {
            remove_container(&self.docker, &container).await?;
        }
        self.identity.remove(&request.id).await.context(|| format!("remove the files of {}", request.id))?;
        if let Some(config) = &mut body.host_config {
            config.mounts = None;
        }
        self.launch(request, instance, body, Some(archive(request)?)).await
    }

    /// Makes a container with its files and starts it. Returns the engine's id of it.
    ///
    /// **Trap.** Of many containers that are made at once, Podman 4 loses the file system of a few between the upload of
    /// files and the start, and never finds it again. Such a container is replaced by another one.
    async fn launch(
        &self,
        request: &StartRequest,
        instance: &EngineInstance,
        body: &ContainerCreateBody,
        upload: Option<Bytes>,
    ) -> Result<String, RuntimeError> {
        let operation = || format!("start {}", request.id);
        let _permit = self.starts.acquire().await;
        for attempt in 1.. {
            let container = self.create(request, body.clone()).await?;
            instance.set_container(container.clone());
            if let Some(archive) = &upload {
                self.upload(request, &container, archive.clone()).await?;
            }
            match self.docker.start_container(&container, None).await {
                Err(error) if attempt < START_ATTEMPTS && has_lost_files(&error) => {
                    tracing::debug!(id = %request.id, attempt, %error, "container replaced");
                    remove_container(&self.docker, &container).await?;
                }
                answer => return answer.start_context(operation).map(|()| container),
            }
        }
        Err(RuntimeError::Start("the engine starts no container".to_owned()))
    }

    /// Makes a container. If the engine cannot keep the limit of its disk, the container has none, which is logged once.
    async fn create(
        &self,
        request: &StartRequest,
        mut body: ContainerCreateBody,
    ) -> Result<String, RuntimeError> {
        // The name is for people who look at the engine's list; nothing finds a container by it.
        let options = CreateContainerOptions { name: Some(request.id.to_string()), ..Default::default() };
        let has_limit = body.host_config.as_ref().is_some_and(|config| config.storage_opt.is_some());
        let mut made = None;
        if has_limit && self.has_disk_limits.load(Ordering::Acquire) {
            let answer = self.docker.create_container(Some(options.clone()), body.clone()).await;
            match answer {
                Err(error) if refuses_disk_limit(&error) => self.report_no_disk_limits(&error),
                answer => made = Some(answer),
            }
        }
        let answer = match made {
            Some(answer) => answer,
            None => {
                if let Some(config) = &mut body.host_config {
                    config.storage_opt = None;
                }
                self.docker.create_container(Some(options), body).await
            }
        };
        match answer {
            Ok(created) => Ok(created.id),
            Err(error) => {
                let names_image = said(&error).is_some_and(|text| text.to_lowercase().contains("image"));
                if let (Some(NOT_FOUND), true, Some(image)) =
                    (status(&error), names_image, &request.app.image)
                {
                    // The next start looks it up and fetches it again.
                    self.images.forget(image);
                }
                if status(&error) == Some(CONFLICT) {
                    let text = format!("the engine has a container with the name {} already", request.id);
                    return Err(RuntimeError::Start(text));
                }
                Err(error).start_context(|| format!("make a container for {}", request.id))
            }
        }
    }

    fn report_no_disk_limits(&self, error: &bollard::errors::Error) {
        if self.has_disk_limits.swap(false, Ordering::AcqRel) {
            tracing::warn!(
                engine = self.kind.name(),
                %error,
                remedy = "put the engine's data on btrfs, or on XFS with the mount option pquota, or set CONTAINER_MODE=containerd",
                "limits.disk has no effect: the engine cannot limit what a container writes"
            );
        }
    }

    /// Puts an archive of files into a container, which does not run yet.
    async fn upload(
        &self,
        request: &StartRequest,
        container: &str,
        archive: Bytes,
    ) -> Result<(), RuntimeError> {
        let options = UploadToContainerOptions { path: "/".to_owned(), ..Default::default() };
        let written = self.docker.upload_to_container(container, Some(options), body_full(archive)).await;
        written.start_context(|| format!("put files into {}", request.id))
    }

    /// Returns where the app will listen, and holds the container's network namespace.
    fn endpoint(
        &self,
        container: &str,
        instance: &EngineInstance,
        state: &Container,
        namespace: Option<u32>,
        port: u16,
        network: &ContainerNetwork,
    ) -> Result<Endpoint, RuntimeError> {
        if let Some(number) = namespace {
            instance.namespace.store(number, Ordering::Release);
            match state.running_pid() {
                Some(pid) => self.hold_namespace(number, pid, container),
                // It has ended already, which is reported as its exit.
                None => tracing::debug!(container, "container ended at once"),
            }
            return Ok(Endpoint::Sealed { namespace: number, port });
        }
        let published = state.published_port(port);
        if published.is_none() && state.running_pid().is_some() {
            let text = format!("the engine published no port of the network {network:?}");
            return Err(RuntimeError::Start(text));
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, published.unwrap_or(port)));
        Ok(Endpoint::Direct(address))
    }

    /// Holds the network namespace of a container under its number.
    pub(super) fn hold_namespace(&self, number: u32, pid: u32, container: &str) {
        if let Err(error) = self.namespaces.hold_own(number, pid, container) {
            // It has ended already, which is reported as its exit.
            tracing::debug!(container, %error, "failed to open the network of an instance");
        }
    }
}

/// Returns whether a start failed because the engine has lost the file system of the container.
fn has_lost_files(error: &bollard::errors::Error) -> bool {
    said(error).is_some_and(|text| text.contains("mounting storage for container"))
}

/// Returns whether the engine made no container because its storage cannot limit what one writes.
fn refuses_disk_limit(error: &bollard::errors::Error) -> bool {
    said(error).is_some_and(|text| text.contains("storage-opt") || text.contains("storage options"))
}

/// Returns all files of an instance as a tar file.
fn archive(request: &StartRequest) -> Result<Bytes, RuntimeError> {
    let identity = identity_files(request);
    let packed = identity.and_then(|identity| tar_of(identity.iter().chain(&request.files)));
    packed.context(|| format!("pack the files of {}", request.id))
}

/// Returns files as a tar file.
fn tar_of<'a>(files: impl Iterator<Item = &'a InstanceFile>) -> std::io::Result<Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(file.content.len() as u64);
        header.set_mode(file.mode);
        header.set_uid(u64::from(file.owner.0));
        header.set_gid(u64::from(file.owner.1));
        let path = file.path.trim_start_matches('/');
        archive.append_data(&mut header, path, &*file.content)?;
    }
    Ok(archive.into_inner()?.into())
}
