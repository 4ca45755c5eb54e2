//! The null runtime: instances are records without an app, for benches that need more instances than processes can be
//! started. It exists only with the feature `runtime-none`, which no release has.
//!
//! Each instance gets an address of its address_of in 127.0.0.0/8, where no app listens, unless
//! `CONTAINER_NONE_ENDPOINT` names one real upstream that all instances share.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Exit, Runtime, RuntimeError, StartMethod, StartRequest, Started};
use crate::instance::InstanceId;

/// Number of addresses in 127.0.0.0/8 without the first and the last.
const ADDRESSES: u64 = (1 << 24) - 2;
/// Port of the first addresses. Any port would do, because no app listens there.
const FIRST_PORT: u64 = 1024;

/// A runtime that starts no processes and only remembers which instances exist.
#[derive(Debug, Default)]
pub struct NullRuntime {
    endpoint: Option<SocketAddr>,
    started: AtomicU64,
    running: Mutex<HashSet<InstanceId>>,
    /// Kept so that a receiver of exits waits for ever.
    exit_listener: Mutex<Option<mpsc::UnboundedSender<Exit>>>,
}

impl NullRuntime {
    /// Returns a runtime whose instances all seem to listen at `endpoint`; with `None`, each has an address of its
    /// address_of.
    pub fn new(endpoint: Option<SocketAddr>) -> Self {
        Self { endpoint, ..Self::default() }
    }

    /// Returns the address of the `n`-th instance.
    fn address_of(n: u64) -> SocketAddr {
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

    async fn start(&self, request: &StartRequest) -> Result<Started, RuntimeError> {
        if !self.running.lock().insert(request.id.clone()) {
            return Err(RuntimeError::Start(format!("{} runs already", request.id)));
        }
        let at =
            self.endpoint.unwrap_or_else(|| Self::address_of(self.started.fetch_add(1, Ordering::Relaxed)));
        Ok(Started { endpoint: at.into(), method: StartMethod::Cold })
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
        *self.exit_listener.lock() = Some(sender);
        exits
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::instance::{Endpoint, TemplateName};
    use crate::template::App;

    fn request() -> StartRequest {
        let id = InstanceId::random(&TemplateName::new("t").unwrap());
        StartRequest::new(id, String::new(), String::new(), Arc::new(App::default()), 1)
    }

    #[tokio::test]
    async fn each_instance_has_an_address_of_its_own_on_the_loopback() {
        let runtime = NullRuntime::default();
        let mut seen = HashSet::new();
        for _ in 0..1000 {
            let Endpoint::Direct(at) = runtime.start(&request()).await.unwrap().endpoint else { panic!() };
            assert!(at.ip().is_loopback() && seen.insert(at), "{at}");
        }
        assert_eq!(NullRuntime::address_of(ADDRESSES - 1).to_string(), "127.255.255.254:1024");
        assert_eq!(NullRuntime::address_of(ADDRESSES).to_string(), "127.0.0.1:1025");
    }

    #[tokio::test]
    async fn all_share_the_upstream_that_is_named() {
        let upstream = SocketAddr::from(([127, 0, 0, 1], 9000));
        let runtime = NullRuntime::new(Some(upstream));
        assert_eq!(runtime.start(&request()).await.unwrap().endpoint, upstream.into());
        assert_eq!(runtime.start(&request()).await.unwrap().endpoint, upstream.into());
    }

    #[tokio::test]
    async fn what_was_started_is_listed_until_it_is_stopped() {
        let (runtime, request) = (NullRuntime::default(), request());
        runtime.start(&request).await.unwrap();
        runtime.start(&request).await.unwrap_err();
        assert_eq!(runtime.list().await.unwrap(), std::slice::from_ref(&request.id));
        runtime.stop(&request.id).await.unwrap();
        runtime.stop(&request.id).await.unwrap();
        assert_eq!(runtime.list().await.unwrap(), []);
    }
}
