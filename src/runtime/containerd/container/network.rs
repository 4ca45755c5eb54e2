//! The network of an instance that is being started: its namespace, its egress link and its database port.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::instances::RunningContainer;
use crate::instance::InstanceId;
use crate::runtime::blocking::{IoContext, on_own_thread};
use crate::runtime::containerd::host::node_dir::{DATABASE_PORT_RECORD, EGRESS_RECORD};
use crate::runtime::containerd::inner::Inner;
use crate::runtime::containerd::network::database_port::DatabasePort;
use crate::runtime::containerd::network::set_up::NetworkSetUp;
use crate::runtime::namespaces::open_loopback_of;
use crate::runtime::{RuntimeError, StartRequest};

impl Inner {
    /// Gives an instance without a user namespace a network namespace, with all that the app may reach.
    pub(super) async fn assign_network(
        &self,
        request: &StartRequest,
        instance: &RunningContainer,
    ) -> Result<(), RuntimeError> {
        let context = || format!("create the network of {}", request.id);
        let number = if request.app.egress.is_sealed() {
            self.namespaces.create().await.context(context)?
        } else {
            let link = self.egress_links.open(&request.app.egress).await?;
            let namespace = link.namespace();
            *instance.egress_link.lock() = Some(link);
            self.namespaces.hold(namespace.ok_or(RuntimeError::Exhausted("network namespaces"))?)
        };
        instance.namespace.store(number, Ordering::Release);
        let namespace = self.namespaces.file(number).ok_or(RuntimeError::Exhausted("network namespaces"))?;
        self.open_database_port(request, instance, namespace).await.context(context)
    }

    /// Prepares for [`Inner::set_up_network`], which comes when the namespace that an instance makes itself exists.
    pub(super) async fn prepare_set_up(
        &self,
        request: &StartRequest,
        instance: &RunningContainer,
    ) -> Result<NetworkSetUp, RuntimeError> {
        if !request.app.egress.is_sealed() {
            let reserved = self.egress_links.reserve(&request.app.egress).await?;
            *instance.egress_link.lock() = Some(reserved);
        }
        let set_up = NetworkSetUp::open(&self.node_dir.instance_dir(&request.id));
        set_up.context(|| format!("create pipes for the network of {}", request.id))
    }

    /// Sets up the network namespace of an instance's first process. No process of the app runs before.
    ///
    /// # Errors
    /// The process is gone, or the kernel refuses.
    pub(super) async fn set_up_network(
        &self,
        request: &StartRequest,
        instance: &RunningContainer,
        pid: i32,
    ) -> io::Result<()> {
        let namespace = Arc::new(File::open(format!("/proc/{pid}/ns/net"))?);
        let slot = instance.egress_link.lock().as_ref().map(|link| link.slot());
        match slot {
            Some(slot) => self.egress_links.attach(slot, namespace.clone()).await?,
            None => on_own_thread("loopback of an instance", move || open_loopback_of(pid)).await?,
        }
        self.open_database_port(request, instance, namespace.clone()).await?;
        self.namespaces.hold_as(instance.namespace.load(Ordering::Acquire), namespace);
        Ok(())
    }

    async fn open_database_port(
        &self,
        request: &StartRequest,
        instance: &RunningContainer,
        namespace: Arc<File>,
    ) -> io::Result<()> {
        if let (Some(max_connections), Some(server)) = (request.database_connections, &self.database_server) {
            let port = DatabasePort::open(namespace, server.clone(), max_connections).await?;
            *instance.database_port.lock() = Some(port);
        }
        Ok(())
    }

    /// Stores what the next server needs to know about an instance's egress link, if it has one.
    pub(super) fn record_egress_link(
        &self,
        request: &StartRequest,
        instance: &RunningContainer,
    ) -> Result<(), RuntimeError> {
        let link = instance.egress_link.lock();
        let record = link.as_ref().map(|link| self.egress_links.record(link, &request.app.egress));
        let saved = record.map(|record| self.node_dir.save_record(&request.id, EGRESS_RECORD, &record));
        saved.unwrap_or(Ok(())).context(|| format!("record the egress link of {}", request.id))
    }

    /// Stores what the next server needs to know about an instance's database port, if it has one.
    pub(in crate::runtime::containerd) fn record_database_port(
        &self,
        id: &InstanceId,
        instance: &RunningContainer,
    ) -> Result<(), RuntimeError> {
        let port = instance.database_port.lock();
        let save = |port: &DatabasePort| self.node_dir.save_record(id, DATABASE_PORT_RECORD, &port.record()?);
        port.as_ref().map_or(Ok(()), save).context(|| format!("record the database port of {id}"))
    }

    /// Takes over the database port of an instance of an earlier server, if it had one.
    ///
    /// # Errors
    /// The record cannot be read or written, or the port cannot be opened.
    pub(in crate::runtime::containerd) async fn adopt_database_port(
        &self,
        id: &InstanceId,
        instance: &RunningContainer,
    ) -> Result<(), RuntimeError> {
        let context = || format!("adopt the database port of {id}");
        let record = self.node_dir.record(id, DATABASE_PORT_RECORD).context(context)?;
        let namespace = self.namespaces.file(instance.namespace.load(Ordering::Acquire));
        if let (Some(record), Some(namespace), Some(server)) = (record, namespace, &self.database_server) {
            let port = DatabasePort::adopt(record, namespace, server.clone()).await.context(context)?;
            *instance.database_port.lock() = Some(port);
            self.record_database_port(id, instance)?;
        }
        Ok(())
    }
}
