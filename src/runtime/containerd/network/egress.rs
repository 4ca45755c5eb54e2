//! Links to the internet for instances of templates with `egress`: a veth pair, an address, routes, and a place in the
//! firewall.
//!
//! Each of two walls holds alone. The firewall's table judges packets in this host's namespace; other programs may delete
//! it. The routes in the instance's namespace lead to the same destinations only, and no instance can change them. Both
//! end with the last process in the namespace, not with this server.
//!
//! A veth pair belongs to the namespace at its inner end, and that namespace to the process that holds it open. So the
//! spare pairs of a crashed server are gone with it, and the pairs of its instances are adopted by the next server. A
//! pair without an instance is in no set of the firewall's table, so no packet from it passes. A released pair is used
//! again after the cooldown of its address.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::addresses::{ADDRESS_COOLDOWN, AddressPair, AddressPool};
use super::dns::ResolvedNames;
use super::dns_responder;
use super::firewall::Firewall;
use super::firewall_rules::{AllowedDestinations, InstanceRules, RulesByLink, TableConfig};
use super::forbidden::ForbiddenHosts;
use super::forwarding::{default_link, forward_packets};
use super::inner_end::InnerEnd;
use super::refresh::{egress_of, run_refresh};
use crate::instance::NodeId;
use crate::runtime::blocking::IoContext;
use crate::runtime::{CleanScope, RuntimeError};
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
    pub(super) home: Arc<File>,
    pub(super) node: String,
    /// Prefix of the names of this node's links.
    pub(super) link_prefix: String,
    pub(super) settings: EgressSettings,
    pub(super) firewall: Firewall,
    pub(super) names: Arc<ResolvedNames>,
    pub(super) forbidden: ForbiddenHosts,
    pub(super) addresses: Mutex<AddressPool>,
    /// Links made ahead.
    spare: Mutex<Vec<EgressLink>>,
    /// Held by the task that makes links ahead: two at once would make too many.
    refill_lock: tokio::sync::Mutex<()>,
    /// Released links, with the time of their release.
    idle: Mutex<VecDeque<(Instant, EgressLink)>>,
    /// The links that have an instance, by name.
    pub(super) in_use: Mutex<BTreeMap<String, LinkInUse>>,
    /// The largest packet in bytes; `None` before this host was prepared.
    mtu: tokio::sync::Mutex<Option<u32>>,
}

/// A network namespace with a link to the internet.
#[derive(Debug)]
pub(crate) struct EgressLink {
    pub(super) pair: AddressPair,
    pub(super) inner: Arc<InnerEnd>,
    /// Whether another instance may have the link later. A link in the namespace of an instance's own ends with it.
    pub(super) is_reusable: bool,
}

/// A link that has an instance, and what the instance may reach.
#[derive(Debug, Clone)]
pub(super) struct LinkInUse {
    pub(super) pair: AddressPair,
    pub(super) inner: Arc<InnerEnd>,
    pub(super) egress: Egress,
    /// Differs between two uses of one link.
    pub(super) marker: Arc<()>,
}

impl LinkInUse {
    fn new(link: &EgressLink, egress: Egress) -> Self {
        Self { pair: link.pair, inner: link.inner.clone(), egress, marker: Arc::default() }
    }
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

    /// Returns the namespace; `None` if it does not exist yet.
    pub(crate) fn namespace(&self) -> Option<Arc<File>> {
        self.inner.namespace()
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
        forbidden_hosts: watch::Receiver<BTreeSet<String>>,
    ) -> io::Result<Arc<Self>> {
        let link_prefix = super::addresses::link_prefix(node);
        let resolvers = settings.resolvers.clone().unwrap_or_else(|| {
            let host_resolvers =
                public_resolvers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
            if host_resolvers.is_empty() { DEFAULT_RESOLVERS.to_vec() } else { host_resolvers }
        });
        let random = getrandom::u32().map_err(io::Error::other)?;
        let table = format!("{}{node}", super::firewall_rules::TABLE_PREFIX);
        let table_config = TableConfig {
            table,
            link_prefix: link_prefix.clone(),
            range: settings.range,
            resolvers,
            max_packets: settings.max_packets_per_second,
            max_new_connections: settings.max_connections_per_second,
        };
        Ok(Arc::new(Self {
            home: Arc::new(File::open("/proc/thread-self/ns/net")?),
            node: node.to_owned(),
            link_prefix,
            firewall: Firewall::new(table_config, search_path),
            names: Arc::default(),
            forbidden: ForbiddenHosts::new(forbidden_hosts, settings.forbidden_hosts.clone()),
            addresses: Mutex::new(AddressPool::new(&settings.range, random)),
            settings,
            spare: Mutex::default(),
            refill_lock: tokio::sync::Mutex::default(),
            idle: Mutex::default(),
            in_use: Mutex::default(),
            mtu: tokio::sync::Mutex::default(),
        }))
    }

    /// Returns the content of `/etc/resolv.conf` for the instances of a template.
    pub(crate) fn resolv_conf(&self, egress: &Egress) -> String {
        let own = [dns_responder::ADDRESS];
        let resolvers = match egress {
            Egress::Only(_) => &own[..],
            Egress::Internet | Egress::Sealed => self.firewall.resolvers(),
        };
        resolvers.iter().map(|resolver| format!("nameserver {resolver}\n")).collect()
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

    /// Opens the firewall for a link, and sets up its inside if that exists.
    pub(super) async fn admit(&self, link: EgressLink, egress: &Egress) -> Result<EgressLink, RuntimeError> {
        self.names.resolve(egress).await;
        let name = link.pair.link_name(&self.link_prefix);
        let opened = LinkInUse::new(&link, egress.clone());
        // First of all: from now on a refresh updates the link.
        self.in_use.lock().insert(name.clone(), opened.clone());
        let rules = self.rules_of(&opened);
        let outcomes = tokio::join!(self.set_up_inside(&opened), self.firewall.admit(&name, rules));
        if let Err(source) = outcomes.0.and(outcomes.1) {
            self.in_use.lock().remove(&name);
            if let Err(error) = self.firewall.remove(&name).await {
                tracing::warn!(link = name, %error, "failed to close the firewall");
            }
            self.discard(link).await;
            return Err(RuntimeError::Io {
                operation: "open the firewall and the routes for an instance".to_owned(),
                source,
            });
        }
        Ok(link)
    }

    /// Releases a link. All processes in it must have ended.
    ///
    /// # Errors
    /// The firewall could not be changed; the link is removed nevertheless.
    pub(crate) async fn release(&self, link: EgressLink) -> Result<(), RuntimeError> {
        let name = link.pair.link_name(&self.link_prefix);
        self.in_use.lock().remove(&name);
        link.inner.stop_names().await;
        if let Err(source) = self.firewall.remove(&name).await {
            self.discard(link).await;
            return Err(RuntimeError::Io { operation: format!("close the firewall for {name}"), source });
        }
        if link.is_reusable && self.idle.lock().len() < MAX_IDLE_LINKS {
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
        let inner = Arc::new(InnerEnd::new(Arc::new(File::open(format!("/proc/{pid}/ns/net"))?)));
        self.addresses.lock().mark_used(pair);
        // Its namespace is the instance's own, or of an earlier server.
        let link = EgressLink { pair, inner, is_reusable: false };
        let in_use = LinkInUse::new(&link, record.egress);
        self.in_use.lock().insert(pair.link_name(&self.link_prefix), in_use);
        Ok(link)
    }

    /// Removes what belongs to this node and was not adopted, and renews the firewall. Comes after all adoptions.
    ///
    /// # Errors
    /// The kernel or `nft` refuses.
    pub(crate) async fn take_over(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let adopted = self.in_use.lock().clone();
        self.names.refresh(&egress_of(&adopted)).await;
        if !adopted.is_empty() {
            self.forbidden.refresh().await;
        }
        let rules: RulesByLink =
            adopted.iter().map(|(name, link)| (name.clone(), self.rules_of(link))).collect();
        let context = || "take over the egress links".to_owned();
        for link in super::links::list(Some(&self.node)).await.context(context)? {
            if !rules.contains_key(&link) {
                super::links::remove(&link).await.context(context)?;
            }
        }
        let any = !rules.is_empty();
        self.firewall.forbid(self.forbidden.addresses()).await.context(context)?;
        self.firewall.replace(rules).await.context(context)?;
        self.set_up_all_inside(&adopted).await;
        // Adopted instances keep running even if a new one would be refused.
        if any && let Err(error) = self.prepare().await {
            tracing::error!(%error, "failed to prepare host for egress; adopted instances may be cut off");
        }
        Ok(())
    }

    fn rules_of(&self, link: &LinkInUse) -> InstanceRules {
        InstanceRules {
            address: link.pair.of_instance(&self.settings.range),
            destinations: self.names.known_destinations(&link.egress),
        }
    }

    /// Prepares this host once: checks its routes, turns packet forwarding on, and starts the refresh task. Returns the
    /// largest packet in bytes.
    pub(super) async fn prepare(self: &Arc<Self>) -> Result<u32, RuntimeError> {
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
        self.forbidden.refresh().await;
        self.firewall.forbid(self.forbidden.addresses()).await.context(|| "close the firewall".to_owned())?;
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
                Ok(namespace) => {
                    let inner = Arc::new(InnerEnd::new(namespace));
                    // The routes of most instances, so that these need not wait for them.
                    let plan = || Some(self.plan_routes(pair, &AllowedDestinations::AnyPublic));
                    inner.set_routes(plan).await?;
                    return Ok(EgressLink { pair, inner, is_reusable: true });
                }
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

    async fn discard(&self, link: EgressLink) {
        let name = link.pair.link_name(&self.link_prefix);
        if let Err(error) = super::links::remove(&name).await {
            tracing::warn!(link = name, %error, "failed to remove egress link");
        }
        self.addresses.lock().release(link.pair, Instant::now());
    }
}

/// Removes the links and the firewall tables of the nodes in `scope` from this host. None of their instances may run any
/// more. Returns how many links and tables that were.
///
/// # Errors
/// The kernel or `nft` refuses.
pub async fn clean(scope: &CleanScope) -> Result<usize, RuntimeError> {
    let context = || "remove the links and the firewall of instances".to_owned();
    let mut removed = super::firewall::clean(None, scope).await.context(context)?;
    for node in scope.filters() {
        for link in super::links::list(node.map(NodeId::as_str)).await.context(context)? {
            super::links::remove(&link).await.context(context)?;
            removed += 1;
        }
    }
    Ok(removed)
}
