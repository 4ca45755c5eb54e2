//! Links in network namespaces that do not exist yet when the instance's start begins.

use std::fs::File;
use std::io;
use std::sync::Arc;

use tokio::time::Instant;

use super::addresses::AddressPair;
use super::egress::{EgressLink, EgressLinks};
use super::inner_end::InnerEnd;
use super::links::LinkPair;
use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;
use crate::template::Egress;

impl EgressLinks {
    /// Opens the firewall for a link that [`EgressLinks::attach`] will make in a namespace of the instance's own.
    ///
    /// # Errors
    /// This host cannot forward packets, no address is free, or the firewall cannot be set up.
    pub(crate) async fn reserve(self: &Arc<Self>, egress: &Egress) -> Result<EgressLink, RuntimeError> {
        self.prepare().await?;
        let pair = self.free_pair().await?;
        let inner = Arc::new(InnerEnd::reserved());
        self.admit(EgressLink { pair, inner, is_reusable: false }, egress).await
    }

    /// Allocates a pair of addresses that no node of this host uses.
    async fn free_pair(&self) -> Result<AddressPair, RuntimeError> {
        let on_host = super::links::own_addresses().await;
        let on_host = on_host.context(|| "read the addresses of this host".to_owned())?;
        let mut taken = Vec::new();
        let mut addresses = self.addresses.lock();
        let free = loop {
            match addresses.allocate(Instant::now()) {
                Some(pair) if on_host.contains(&pair.of_host(&self.settings.range)) => taken.push(pair),
                found => break found,
            }
        };
        for pair in taken {
            addresses.release(pair, Instant::now());
        }
        free.ok_or(RuntimeError::Exhausted("addresses for egress"))
    }

    /// Makes a reserved link, with its inner end in this namespace, and sets up its inside.
    ///
    /// # Errors
    /// The kernel refuses, or another node of this host uses the link's address.
    pub(crate) async fn attach(self: &Arc<Self>, slot: u32, namespace: Arc<File>) -> io::Result<()> {
        let mtu = self.prepare().await.map_err(io::Error::other)?;
        let pair = AddressPair(slot);
        let in_use = self.in_use.lock().get(&pair.link_name(&self.link_prefix)).cloned();
        let in_use = in_use.ok_or(io::ErrorKind::NotFound)?;
        super::links::attach(&self.home, namespace.clone(), self.link_pair(pair, mtu)).await?;
        in_use.inner.fill(namespace);
        self.set_up_inside(&in_use).await
    }

    pub(super) fn link_pair(&self, pair: AddressPair, mtu: u32) -> LinkPair {
        LinkPair {
            name: pair.link_name(&self.link_prefix),
            node: self.node.clone(),
            gateway: pair.of_host(&self.settings.range),
            address: pair.of_instance(&self.settings.range),
            mtu,
        }
    }
}
