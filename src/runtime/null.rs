//! No apps at all: instances that are records only, for benches that need more of them than processes can be made.
//! Only behind the feature `runtime-none`, which no release has.
//!
//! Each instance gets an address of its own out of 127.0.0.0/8, at which nobody listens, unless
//! `CONTAINER_NONE_ENDPOINT` names the one real upstream that all of them share.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Exit, Runtime, RuntimeError, StartMethod, StartRequest, Started};
use crate::instance::InstanceId;

/// Addresses in 127.0.0.0/8 without its first and its last.
const ADDRESSES: u64 = (1 << 24) - 2;
/// A port below it would do as well; nobody listens at any.
const FIRST_PORT: u64 = 1024;

/// Remembers which instances there are. See the module.
#[derive(Debug, Default)]
pub struct NullRuntime {
    endpoint: Option<SocketAddr>,
    started: AtomicU64,
    running: Mutex<HashSet<InstanceId>>,
    /// Kept so that whoever waits for exits waits for ever.
    listener: Mutex<Option<mpsc::UnboundedSender<Exit>>>,
}

impl NullRuntime {
    /// One whose instances all seem to listen at `endpoint`; with `None`, each at an address of its own.
    pub fn new(endpoint: Option<SocketAddr>) -> Self {
        Self { endpoint, ..Self::default() }
    }

    /// The address of the instance that was started as number `n`.
    fn own(n: u64) -> SocketAddr {
        let host = u32::from(Ipv4Addr::new(127, 0, 0, 1)) + (n % ADDRESSES) as u32;
        let port = (FIRST_PORT + n / ADDRESSES) as u16;
        (Ipv4Addr::from(host), port).into()
    }
}

#[async_trait]
impl Runtime for NullRuntime {
    fn name(&self) -> &'static str {
        "none"
    }

    fn runs_apps(&self) -> bool {
        false
    }

    async fn start(&self, order: &StartRequest) -> Result<Started, RuntimeError> {
        if !self.running.lock().insert(order.id.clone()) {
            return Err(RuntimeError::Start(format!("{} runs already", order.id)));
        }
        let at = self.endpoint.unwrap_or_else(|| Self::own(self.started.fetch_add(1, Ordering::Relaxed)));
        Ok(Started { endpoint: at.into(), how: StartMethod::Cold })
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
        let (listener, exits) = mpsc::unbounded_channel();
        *self.listener.lock() = Some(listener);
        exits
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::instance::{Endpoint, TemplateName};
    use crate::template::App;

    fn order() -> StartRequest {
        let id = InstanceId::random(&TemplateName::new("t").unwrap());
        let app = Arc::new(App::default());
        StartRequest {
            id,
            url: String::new(),
            host: String::new(),
            app,
            revision: 1,
            files: Vec::new(),
            to_be_frozen: false,
        }
    }

    #[tokio::test]
    async fn each_instance_has_an_address_of_its_own_on_the_loopback() {
        let runtime = NullRuntime::default();
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let Endpoint::Direct(at) = runtime.start(&order()).await.unwrap().endpoint else { panic!() };
            assert!(at.ip().is_loopback() && seen.insert(at), "{at}");
        }
        assert_eq!(NullRuntime::own(ADDRESSES - 1).to_string(), "127.255.255.254:1024");
        assert_eq!(NullRuntime::own(ADDRESSES).to_string(), "127.0.0.1:1025");
    }

    #[tokio::test]
    async fn all_share_the_upstream_that_is_named() {
        let upstream = SocketAddr::from(([127, 0, 0, 1], 9000));
        let runtime = NullRuntime::new(Some(upstream));
        assert_eq!(runtime.start(&order()).await.unwrap().endpoint, upstream.into());
        assert_eq!(runtime.start(&order()).await.unwrap().endpoint, upstream.into());
    }

    #[tokio::test]
    async fn what_was_started_is_listed_until_it_is_stopped() {
        let (runtime, order) = (NullRuntime::default(), order());
        runtime.start(&order).await.unwrap();
        runtime.start(&order).await.unwrap_err();
        assert_eq!(runtime.list().await.unwrap(), std::slice::from_ref(&order.id));
        runtime.stop(&order.id).await.unwrap();
        runtime.stop(&order.id).await.unwrap();
        assert_eq!(runtime.list().await.unwrap(), []);
    }
}
