//! Links to the internet for instances of templates with `egress`: a veth pair, an address, and a place in the
//! firewall.
//!
//! A veth pair belongs to the namespace at its inner end, and that namespace to the process that holds it open. So the
//! spare pairs of a crashed server are gone with it, and the pairs of its instances are adopted by the next server. A
//! pair without an instance is in no set of the firewall's table, so no packet from it passes. A released pair is used
//! again after the cooldown of its address.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::addresses::{ADDRESS_COOLDOWN, AddressPair, AddressPool};
use super::dns::ResolvedNames;
use super::firewall::Firewall;
use super::firewall_rules::{InstanceRules, RulesByLink, TableConfig};
use super::links::LinkPair;
use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;
use crate::telemetry::task;
use crate::template::Egress;
use crate::template::egress::{EgressSettings, public_resolvers};

/// Links made ahead once the first one was needed.
const SPARE_LINKS: usize = 4;

/// Most released links that are kept for later instances.
const MAX_IDLE_LINKS: usize = 32;

/// Most addresses that are tried for a link, because another node of this host may use them.
const MAX_ADDRESS_ATTEMPTS: usize = 16;

/// The largest packet where the one of this host's own link is unknown, in bytes.
const DEFAULT_MTU: u32 = 1500;

/// Name servers for instances where this host uses none that instances may reach.
const DEFAULT_RESOLVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(1, 1, 1, 1)];

/// All links of this node.
#[derive(Debug)]
pub(crate) struct EgressLinks {
    home: Arc<File>,
    node: String,
    /// Prefix of the names of this node's links.
    link_prefix: String,
    settings: EgressSettings,
    firewall: Firewall,
    names: ResolvedNames,
    addresses: Mutex<AddressPool>,
    /// Links made ahead.
    spare: Mutex<Vec<EgressLink>>,
    /// Held by the task that makes links ahead: two at once would make too many.
    refill_lock: tokio::sync::Mutex<()>,
    /// Released links, with the time of their release.
    idle: Mutex<VecDeque<(Instant, EgressLink)>>,
    /// Allowed destinations of the links that have an instance, by the link's name.
    in_use: Mutex<BTreeMap<String, (AddressPair, Egress)>>,
    /// The largest packet in bytes; `None` before this host was prepared.
    mtu: tokio::sync::Mutex<Option<u32>>,
}

/// A network namespace with a link to the internet.
#[derive(Debug)]
pub(crate) struct EgressLink {
    pair: AddressPair,
    /// The namespace that was made with the link; `None` if the link is in the namespace of an instance's own, or will
    /// be, so that the link ends with it.
    namespace: Option<Arc<File>>,
}

/// What a server stores about the link of an instance for the server after a crash.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EgressRecord {
    slot: u32,
    address: Ipv4Addr,
    egress: Egress,
}

impl EgressLink {
    pub(crate) fn slot(&self) -> u32 {
        self.pair.0
    }

    /// Returns the namespace that was made with the link.
    pub(crate) fn namespace(&self) -> Option<Arc<File>> {
        self.namespace.clone()
    }
}

impl EgressLinks {
    /// Returns the links of a node. Nothing is made before the first one is needed.
    ///
    /// # Errors
    /// This server's own network namespace cannot be opened.
    pub(crate) fn new(
        node: &str,
        settings: EgressSettings,
        search_path: Option<OsString>,
    ) -> io::Result<Arc<Self>> {
        let link_prefix = super::addresses::link_prefix(node);
        let resolvers = settings.resolvers.clone().unwrap_or_else(|| {
            let host_resolvers =
                public_resolvers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
            if host_resolvers.is_empty() { DEFAULT_RESOLVERS.to_vec() } else { host_resolvers }
        });
        let random = getrandom::u32().map_err(io::Error::other)?;
        let table = format!("{}{node}", super::firewall_rules::TABLE_PREFIX);
        let table_config =
            TableConfig { table, link_prefix: link_prefix.clone(), range: settings.range, resolvers };
        Ok(Arc::new(Self {
            home: Arc::new(File::open("/proc/thread-self/ns/net")?),
            node: node.to_owned(),
            link_prefix,
            firewall: Firewall::new(table_config, search_path),
            names: ResolvedNames::default(),
            addresses: Mutex::new(AddressPool::new(&settings.range, random)),
            settings,
            spare: Mutex::default(),
            refill_lock: tokio::sync::Mutex::default(),
            idle: Mutex::default(),
            in_use: Mutex::default(),
            mtu: tokio::sync::Mutex::default(),
        }))
    }

    /// Returns the content of `/etc/resolv.conf` for instances.
    pub(crate) fn resolv_conf(&self) -> String {
        self.firewall.resolvers().iter().map(|resolver| format!("nameserver {resolver}\n")).collect()
    }

    /// Opens a link for an instance: a namespace from which only the destinations of `egress` can be reached.
    ///
    /// # Errors
    /// This host cannot forward packets, or the link or the firewall cannot be set up.
    pub(crate) async fn open(self: &Arc<Self>, egress: &Egress) -> Result<EgressLink, RuntimeError> {
        let mtu = self.prepare().await?;
        let ready = self.spare.lock().pop().or_else(|| self.take_idle());
        let link = match ready {
            Some(link) => link,
            None => self.make(mtu).await.context(|| "create an egress link".to_owned())?,
        };
        let links = self.clone();
        task::spawn("spare egress links", async move { links.refill(mtu).await });
        self.admit(link, egress).await
    }

    /// Opens the firewall for a link that [`EgressLinks::attach`] will make in a namespace of the instance's own.
    ///
    /// # Errors
    /// This host cannot forward packets, no address is free, or the firewall cannot be set up.
    pub(crate) async fn reserve(self: &Arc<Self>, egress: &Egress) -> Result<EgressLink, RuntimeError> {
        self.prepare().await?;
        let pair = self.addresses.lock().allocate(Instant::now());
        let pair = pair.ok_or(RuntimeError::Exhausted("addresses for egress"))?;
        self.admit(EgressLink { pair, namespace: None }, egress).await
    }

    /// Makes a reserved link, with its inner end in this namespace.
    ///
    /// # Errors
    /// The kernel refuses, or another node of this host uses the link's address.
    pub(crate) async fn attach(self: &Arc<Self>, pair: u32, namespace: Arc<File>) -> io::Result<()> {
        let mtu = self.prepare().await.map_err(io::Error::other)?;
        super::links::attach(&self.home, namespace, self.link_pair(AddressPair(pair), mtu)).await
    }

    /// Opens the firewall for a link.
    async fn admit(&self, link: EgressLink, egress: &Egress) -> Result<EgressLink, RuntimeError> {
        let destinations = self.names.resolve(egress).await;
        let name = link.pair.link_name(&self.link_prefix);
        let rules = InstanceRules { address: link.pair.of_instance(&self.settings.range), destinations };
        if let Err(source) = self.firewall.admit(&name, rules).await {
            self.discard(link).await;
            return Err(RuntimeError::Io {
                operation: "open the firewall for an instance".to_owned(),
                source,
            });
        }
        self.in_use.lock().insert(name, (link.pair, egress.clone()));
        Ok(link)
    }

    /// Releases a link. All processes in it must have ended.
    ///
    /// # Errors
    /// The firewall could not be changed; the link is removed nevertheless.
    pub(crate) async fn release(&self, link: EgressLink) -> Result<(), RuntimeError> {
        let name = link.pair.link_name(&self.link_prefix);
        self.in_use.lock().remove(&name);
        if let Err(source) = self.firewall.remove(&name).await {
            self.discard(link).await;
            return Err(RuntimeError::Io { operation: format!("close the firewall for {name}"), source });
        }
        if link.namespace.is_some() && self.idle.lock().len() < MAX_IDLE_LINKS {
            self.idle.lock().push_back((Instant::now(), link));
        } else {
            self.discard(link).await;
        }
        Ok(())
    }

    /// Returns what the next server needs to know about a link.
    pub(crate) fn record(&self, link: &EgressLink, egress: &Egress) -> EgressRecord {
        let address = link.pair.of_instance(&self.settings.range);
        EgressRecord { slot: link.pair.0, address, egress: egress.clone() }
    }

    /// Adopts the link of an instance that an earlier server started, by a process in its namespace. The firewall
    /// allows its packets when [`EgressLinks::take_over`] is done.
    ///
    /// # Errors
    /// The process is gone, or the link's address is not from this server's range.
    pub(crate) fn adopt(&self, record: EgressRecord, pid: u32) -> io::Result<EgressLink> {
        let pair = AddressPair(record.slot);
        let in_range = u64::from(pair.0) < self.settings.range.address_count() / 2;
        if !in_range || pair.of_instance(&self.settings.range) != record.address {
            return Err(io::Error::other("its address is outside of EGRESS_RANGE"));
        }
        File::open(format!("/proc/{pid}/ns/net"))?;
        let link = EgressLink { pair, namespace: None };
        self.addresses.lock().mark_used(pair);
        self.in_use.lock().insert(pair.link_name(&self.link_prefix), (pair, record.egress));
        Ok(link)
    }

    /// Removes what belongs to this node and was not adopted, and renews the firewall. Comes after all adoptions.
    ///
    /// # Errors
    /// The kernel or `nft` refuses.
    pub(crate) async fn take_over(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let adopted = self.in_use.lock().clone();
        let egress: Vec<Egress> = adopted.values().map(|(_, egress)| egress.clone()).collect();
        self.names.refresh(&egress).await;
        let rules: RulesByLink =
            adopted.into_iter().map(|(link, (pair, egress))| (link, self.rules_of(pair, &egress))).collect();
        let context = || "take over the egress links".to_owned();
        for link in super::links::list(Some(&self.node)).await.context(context)? {
            if !rules.contains_key(&link) {
                super::links::remove(&link).await.context(context)?;
            }
        }
        let any = !rules.is_empty();
        self.firewall.replace(rules).await.context(context)?;
        // Adopted instances keep running even if a new one would be refused.
        if any && let Err(error) = self.prepare().await {
            tracing::error!(%error, "failed to prepare host for egress; adopted instances may be cut off");
        }
        Ok(())
    }

    fn rules_of(&self, pair: AddressPair, egress: &Egress) -> InstanceRules {
        InstanceRules {
            address: pair.of_instance(&self.settings.range),
            destinations: self.names.known_destinations(egress),
        }
    }

    /// Prepares this host once: checks its routes, turns packet forwarding on, and starts the refresh task. Returns the
    /// largest packet in bytes.
    async fn prepare(self: &Arc<Self>) -> Result<u32, RuntimeError> {
        let mut ready = self.mtu.lock().await;
        if let Some(mtu) = *ready {
            return Ok(mtu);
        }
        let routes = fs::read_to_string("/proc/thread-self/net/route")
            .context(|| "read this host's routes".to_owned())?;
        if let Some((network, link)) = self.settings.conflicting_route(&routes) {
            return Err(RuntimeError::Start(format!(
                "the range for instances, {}, is in use: {link} leads to {network}; set EGRESS_RANGE to a private \
                 range that this host does not use",
                self.settings.range
            )));
        }
        forward_packets()?;
        let mtu = match default_link(&routes) {
            Some(link) => super::links::mtu(link).await.ok().flatten(),
            None => None,
        };
        task::spawn("egress refresh", run_refresh(Arc::downgrade(self)));
        Ok(*ready.insert(mtu.unwrap_or(DEFAULT_MTU)))
    }

    fn take_idle(&self) -> Option<EgressLink> {
        let mut idle = self.idle.lock();
        let (since, _) = idle.front()?;
        if since.elapsed() < ADDRESS_COOLDOWN {
            return None;
        }
        idle.pop_front().map(|(_, link)| link)
    }

    async fn refill(&self, mtu: u32) {
        let _lock = self.refill_lock.lock().await;
        while self.spare.lock().len() < SPARE_LINKS {
            let link = match self.take_idle() {
                Some(link) => link,
                None => match self.make(mtu).await {
                    Ok(link) => link,
                    Err(error) => return tracing::warn!(%error, "failed to create spare egress link"),
                },
            };
            self.spare.lock().push(link);
        }
    }

    async fn make(&self, mtu: u32) -> io::Result<EgressLink> {
        for _ in 0..MAX_ADDRESS_ATTEMPTS {
            let Some(pair) = self.addresses.lock().allocate(Instant::now()) else { break };
            match super::links::create(&self.home, self.link_pair(pair, mtu)).await {
                Ok(namespace) => return Ok(EgressLink { pair, namespace: Some(Arc::new(namespace)) }),
                Err(error) => {
                    self.addresses.lock().release(pair, Instant::now());
                    // It exists if another server of this host, with the same range, uses it.
                    if error.kind() != io::ErrorKind::AlreadyExists {
                        return Err(error);
                    }
                }
            }
        }
        Err(io::Error::other(format!("no address of {} is free", self.settings.range)))
    }

    fn link_pair(&self, pair: AddressPair, mtu: u32) -> LinkPair {
        LinkPair {
            name: pair.link_name(&self.link_prefix),
            node: self.node.clone(),
            gateway: pair.of_host(&self.settings.range),
            address: pair.of_instance(&self.settings.range),
            mtu,
        }
    }

    async fn discard(&self, link: EgressLink) {
        let name = link.pair.link_name(&self.link_prefix);
        if let Err(error) = super::links::remove(&name).await {
            tracing::warn!(link = name, %error, "failed to remove egress link");
        }
        self.addresses.lock().release(link.pair, Instant::now());
    }

    /// Resolves the names in use again, and restores the firewall's table if it is missing.
    async fn refresh(&self) -> io::Result<()> {
        let in_use = self.in_use.lock().clone();
        let egress: Vec<Egress> = in_use.values().map(|(_, egress)| egress.clone()).collect();
        self.names.refresh(&egress).await;
        let destinations =
            in_use.iter().map(|(link, (_, egress))| (link.clone(), self.names.known_destinations(egress)));
        if self.firewall.restore_if_missing().await? {
            tracing::error!("the firewall's table was removed by another program; restored");
        }
        self.firewall.update_destinations(&destinations.collect()).await
    }
}

/// Refreshes names and firewall for as long as the server lives.
async fn run_refresh(links: Weak<EgressLinks>) {
    while let Some(pause) = links.upgrade().map(|links| links.settings.refresh_interval) {
        tokio::time::sleep(pause).await;
        let Some(links) = links.upgrade() else { return };
        if let Err(error) = links.refresh().await {
            tracing::error!(%error, "failed to reconcile egress firewall");
        }
    }
}

/// Makes this host forward packets, which routers do and other hosts do not.
fn forward_packets() -> Result<(), RuntimeError> {
    const SYSCTL: &str = "/proc/sys/net/ipv4/ip_forward";
    let state = fs::read_to_string(SYSCTL).context(|| format!("read {SYSCTL}"))?;
    if state.trim() != "0" {
        return Ok(());
    }
    fs::write(SYSCTL, "1").map_err(|error| {
        RuntimeError::Start(format!(
            "instances cannot reach the internet: net.ipv4.ip_forward is 0 and cannot be set ({error}); as root: \
             sysctl -w net.ipv4.ip_forward=1"
        ))
    })?;
    tracing::warn!(
        "set net.ipv4.ip_forward to 1 because a template has egress; this host now forwards packets of other hosts \
         too, unless its own firewall forbids it"
    );
    Ok(())
}

/// Returns the link of the default route in `/proc/net/route`.
fn default_link(routes: &str) -> Option<&str> {
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        fields.first().copied().filter(|_| default)
    })
}

/// Removes the links and the firewall tables of all nodes from this host. No instance may run any more. Returns how
/// many links and tables that were.
///
/// # Errors
/// The kernel or `nft` refuses.
pub async fn clean() -> Result<usize, RuntimeError> {
    let context = || "remove the links and the firewall of instances".to_owned();
    let links = super::links::list(None).await.context(context)?;
    for link in &links {
        super::links::remove(link).await.context(context)?;
    }
    Ok(links.len() + super::firewall::clean(None).await.context(context)?)
}
