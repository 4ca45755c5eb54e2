//! Instances that are records only, for measurements that need more of them than processes fit. No release has it.

use std::collections::HashSet;
use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Exit, Order, Runtime, RuntimeError};
use crate::instance::InstanceId;

/// See the module. All its instances are at one address, where whoever measures may have an app listen.
#[derive(Debug)]
pub struct NoRuntime {
    endpoint: SocketAddr,
    running: Mutex<HashSet<InstanceId>>,
    /// Kept, since a closed one would tell the listener that the runtime is gone.
    listener: Mutex<Option<mpsc::UnboundedSender<Exit>>>,
}

impl NoRuntime {
    /// A runtime whose instances are all said to listen at `endpoint`.
    pub fn new(endpoint: SocketAddr) -> Self {
        Self { endpoint, running: Mutex::default(), listener: Mutex::default() }
    }
}

#[async_trait]
impl Runtime for NoRuntime {
    fn name(&self) -> &'static str {
        "none"
    }

    async fn start(&self, order: &Order) -> Result<SocketAddr, RuntimeError> {
        if self.running.lock().insert(order.id.clone()) {
            Ok(self.endpoint)
        } else {
            Err(RuntimeError::Start(format!("{} runs already", order.id)))
        }
    }

    /// There may be nobody at the address, and a real check of each of a million records takes minutes.
    fn is_ready_once_started(&self) -> bool {
        true
    }

    async fn stop(&self, id: &InstanceId) -> Result<(), RuntimeError> {
        self.running.lock().remove(id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<InstanceId>, RuntimeError> {
        Ok(self.running.lock().iter().cloned().collect())
    }

    async fn logs(&self, id: &InstanceId) -> Option<Bytes> {
        self.running.lock().contains(id).then(Bytes::new)
    }

    fn exits(&self) -> mpsc::UnboundedReceiver<Exit> {
        let (sender, exits) = mpsc::unbounded_channel();
        *self.listener.lock() = Some(sender);
        exits
    }
}
