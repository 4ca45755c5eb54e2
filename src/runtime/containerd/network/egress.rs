//! The way out for instances of templates with `egress`: a pair of links, an address, and a firewall.
//!
//! | a file | what it knows |
//! |---|---|
//! | `slots` | which addresses are free (pure) |
//! | `links` | making and removing pairs, by netlink |
//! | `rules` | the firewall's table as text (pure) |
//! | `firewall` | that table in the kernel, by `nft` |
//! | `names` | what the names of allow lists lead to |
//!
//! A pair belongs to the namespace that it leads from, and that to who holds it open: what a crashed server held idle is
//! gone with it, and what its instances are in is picked up by the next. A pair without an instance is in no set of the
//! table, which lets nothing through that is not, and is used again after a rest.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::addresses::{AddressPair, AddressPool, REST};
use super::dns::ResolvedNames;
use super::firewall::Firewall;
use super::firewall_rules::{Fixed, Guests, InstanceRules};
use super::links::Plan;
use crate::runtime::RuntimeError;
use crate::runtime::blocking::IoContext;
use crate::telemetry::task;
use crate::template::Egress;
use crate::template::egress::{EgressSettings, public_resolvers};

/// Pairs made ahead once the first was asked for.
const SPARE: usize = 4;

/// Most pairs that are kept for later.
const MOST_IDLE: usize = 32;

/// Addresses that may turn out to be another node's before it is given up.
const TRIES: usize = 16;

/// The largest packet where this host's own is unknown, in bytes.
const MTU: u32 = 1500;

/// Whom instances ask for names where this host asks nobody that they may ask too.
const RESOLVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(1, 1, 1, 1)];

/// All ways out of this node.
#[derive(Debug)]
pub(crate) struct EgressLinks {
    home: Arc<File>,
    node: String,
    /// What the names of this node's links begin with.
    links: String,
    outside: EgressSettings,
    firewall: Firewall,
    names: ResolvedNames,
    slots: Mutex<AddressPool>,
    /// Made ahead.
    spare: Mutex<Vec<EgressLink>>,
    /// Whose turn it is to make some: two at once would make too many.
    filling: tokio::sync::Mutex<()>,
    /// Used before and at rest since then.
    idle: Mutex<VecDeque<(Instant, EgressLink)>>,
    /// What those with an instance may reach, by link.
    in_use: Mutex<BTreeMap<String, (AddressPair, Egress)>>,
    /// The largest packet; `None` before this host was made ready.
    mtu: tokio::sync::Mutex<Option<u32>>,
}

/// A namespace with a way out.
#[derive(Debug)]
pub(crate) struct EgressLink {
    slot: AddressPair,
    namespace: Arc<File>,
}

/// What must be known of an outlet after a crash.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    slot: u32,
    address: Ipv4Addr,
    egress: Egress,
}

impl EgressLink {
    pub(crate) fn namespace(&self) -> Arc<File> {
        self.namespace.clone()
    }
}

impl EgressLinks {
    pub(crate) fn new(node: &str, outside: EgressSettings, path: Option<OsString>) -> io::Result<Arc<Self>> {
        let links = super::addresses::links_of(node);
        let resolvers = outside.resolvers.clone().unwrap_or_else(|| {
            let own = public_resolvers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
            if own.is_empty() { RESOLVERS.to_vec() } else { own }
        });
        let chance = getrandom::u32().map_err(io::Error::other)?;
        let table = format!("{}{node}", super::firewall_rules::TABLE_PREFIX);
        let fixed = Fixed { table, links: links.clone(), range: outside.range, resolvers };
        Ok(Arc::new(Self {
            home: Arc::new(File::open("/proc/thread-self/ns/net")?),
            node: node.to_owned(),
            links,
            firewall: Firewall::new(fixed, path),
            names: ResolvedNames::default(),
            slots: Mutex::new(AddressPool::new(&outside.range, chance)),
            outside,
            spare: Mutex::default(),
            filling: tokio::sync::Mutex::default(),
            idle: Mutex::default(),
            in_use: Mutex::default(),
            mtu: tokio::sync::Mutex::default(),
        }))
    }

    /// What instances have as their `/etc/resolv.conf`.
    pub(crate) fn resolv_conf(&self) -> String {
        self.firewall.resolvers().iter().map(|resolver| format!("nameserver {resolver}\n")).collect()
    }

    /// A namespace from which `egress` can be reached and nothing else.
    pub(crate) async fn take(self: &Arc<Self>, egress: &Egress) -> Result<EgressLink, RuntimeError> {
        let mtu = self.prepare().await?;
        let ready = self.spare.lock().pop().or_else(|| self.rested());
        let outlet = match ready {
            Some(outlet) => outlet,
            None => self.make(mtu).await.doing(|| "make a way out".to_owned())?,
        };
        let outlets = self.clone();
        task::spawn("spare ways out", async move { outlets.fill_up(mtu).await });
        let way = self.names.way(egress).await;
        let link = outlet.slot.link(&self.links);
        let guest = InstanceRules { address: outlet.slot.of_instance(&self.outside.range), way };
        if let Err(source) = self.firewall.admit(&link, guest).await {
            self.discard(outlet).await;
            return Err(RuntimeError::Io { doing: "open the firewall for an instance".to_owned(), source });
        }
        self.in_use.lock().insert(link, (outlet.slot, egress.clone()));
        Ok(outlet)
    }

    /// Takes one back. All that ran in it must have ended.
    ///
    /// # Errors
    /// The firewall could not be told; the outlet is gone all the same.
    pub(crate) async fn give_back(&self, outlet: EgressLink) -> Result<(), RuntimeError> {
        let link = outlet.slot.link(&self.links);
        self.in_use.lock().remove(&link);
        if let Err(source) = self.firewall.dismiss(&link).await {
            self.discard(outlet).await;
            return Err(RuntimeError::Io { doing: format!("close the firewall for {link}"), source });
        }
        if self.idle.lock().len() < MOST_IDLE {
            self.idle.lock().push_back((Instant::now(), outlet));
        } else {
            self.discard(outlet).await;
        }
        Ok(())
    }

    /// What the next server has to know of it.
    pub(crate) fn record(&self, outlet: &EgressLink, egress: &Egress) -> Record {
        let address = outlet.slot.of_instance(&self.outside.range);
        Record { slot: outlet.slot.0, address, egress: egress.clone() }
    }

    /// Picks up the outlet of an instance that a server before this one started, by a process in it. It is let out when
    /// [`Outlets::take_over`] is done.
    ///
    /// # Errors
    /// Nothing is in it any more, or its address is from another range than this server's.
    pub(crate) fn adopt(&self, record: Record, pid: u32) -> io::Result<EgressLink> {
        let slot = AddressPair(record.slot);
        let in_range = u64::from(slot.0) < self.outside.range.size() / 2;
        if !in_range || slot.of_instance(&self.outside.range) != record.address {
            return Err(io::Error::other("EGRESS_RANGE is another now"));
        }
        let outlet = EgressLink { slot, namespace: Arc::new(File::open(format!("/proc/{pid}/ns/net"))?) };
        self.slots.lock().keep(slot);
        self.in_use.lock().insert(slot.link(&self.links), (slot, record.egress));
        Ok(outlet)
    }

    /// After all that runs was adopted: what else is here of this node is removed.
    pub(crate) async fn take_over(self: &Arc<Self>) -> Result<(), RuntimeError> {
        let adopted = self.in_use.lock().clone();
        let egress: Vec<Egress> = adopted.values().map(|(_, egress)| egress.clone()).collect();
        self.names.refresh(&egress).await;
        let guests: Guests =
            adopted.into_iter().map(|(link, (slot, egress))| (link, self.guest(slot, &egress))).collect();
        let doing = || "take over the ways out".to_owned();
        for link in super::links::list(Some(&self.node)).await.doing(doing)? {
            if !guests.contains_key(&link) {
                super::links::remove(&link).await.doing(doing)?;
            }
        }
        let any = !guests.is_empty();
        self.firewall.replace(guests).await.doing(doing)?;
        // What runs goes on running, whatever would be said to a newcomer.
        if any && let Err(error) = self.prepare().await {
            tracing::error!(%error, "instances that were picked up may not get out any more");
        }
        Ok(())
    }

    fn guest(&self, slot: AddressPair, egress: &Egress) -> InstanceRules {
        InstanceRules { address: slot.of_instance(&self.outside.range), way: self.names.known_way(egress) }
    }

    /// Sees once that this host passes packets on, and starts to look after its table.
    async fn prepare(self: &Arc<Self>) -> Result<u32, RuntimeError> {
        let mut ready = self.mtu.lock().await;
        if let Some(mtu) = *ready {
            return Ok(mtu);
        }
        let routes = fs::read_to_string("/proc/thread-self/net/route")
            .doing(|| "read this host's routes".to_owned())?;
        if let Some((network, link)) = self.outside.clash(&routes) {
            return Err(RuntimeError::Start(format!(
                "the addresses for instances, {}, are taken: {link} leads to {network}; set EGRESS_RANGE to a private \
                 range that nothing here uses",
                self.outside.range
            )));
        }
        forward_packets()?;
        let mtu = match default_link(&routes) {
            Some(link) => super::links::mtu(link).await.ok().flatten(),
            None => None,
        };
        task::spawn("ways out", look_after(Arc::downgrade(self)));
        Ok(*ready.insert(mtu.unwrap_or(MTU)))
    }

    fn rested(&self) -> Option<EgressLink> {
        let mut idle = self.idle.lock();
        let (since, _) = idle.front()?;
        if since.elapsed() < REST {
            return None;
        }
        idle.pop_front().map(|(_, outlet)| outlet)
    }

    async fn fill_up(&self, mtu: u32) {
        let _turn = self.filling.lock().await;
        while self.spare.lock().len() < SPARE {
            let outlet = match self.rested() {
                Some(outlet) => outlet,
                None => match self.make(mtu).await {
                    Ok(outlet) => outlet,
                    Err(error) => return tracing::warn!(%error, "no spare way out could be made"),
                },
            };
            self.spare.lock().push(outlet);
        }
    }

    async fn make(&self, mtu: u32) -> io::Result<EgressLink> {
        for _ in 0..TRIES {
            let Some(slot) = self.slots.lock().take(Instant::now()) else { break };
            let plan = Plan {
                link: slot.link(&self.links),
                node: self.node.clone(),
                gateway: slot.of_host(&self.outside.range),
                address: slot.of_instance(&self.outside.range),
                mtu,
            };
            match super::links::make(&self.home, plan).await {
                Ok(namespace) => return Ok(EgressLink { slot, namespace: Arc::new(namespace) }),
                Err(error) => {
                    self.slots.lock().give_back(slot, Instant::now());
                    // Another server of this host has it, whose addresses are from the same range.
                    if error.kind() != io::ErrorKind::AlreadyExists {
                        return Err(error);
                    }
                }
            }
        }
        Err(io::Error::other(format!("no address of {} is free", self.outside.range)))
    }

    async fn discard(&self, outlet: EgressLink) {
        let link = outlet.slot.link(&self.links);
        if let Err(error) = super::links::remove(&link).await {
            tracing::warn!(link, %error, "a link could not be removed");
        }
        self.slots.lock().give_back(outlet.slot, Instant::now());
    }

    /// Looks the names up again, and at the table.
    async fn tend(&self) -> io::Result<()> {
        let in_use = self.in_use.lock().clone();
        let egress: Vec<Egress> = in_use.values().map(|(_, egress)| egress.clone()).collect();
        self.names.refresh(&egress).await;
        let ways = in_use.iter().map(|(link, (_, egress))| (link.clone(), self.names.known_way(egress)));
        if self.firewall.mend().await? {
            tracing::error!("somebody removed the firewall's table of this server; it is there again");
        }
        self.firewall.change(&ways.collect()).await
    }
}

/// As long as the server lives.
async fn look_after(outlets: Weak<EgressLinks>) {
    while let Some(pause) = outlets.upgrade().map(|outlets| outlets.outside.refresh) {
        tokio::time::sleep(pause).await;
        let Some(outlets) = outlets.upgrade() else { return };
        if let Err(error) = outlets.tend().await {
            tracing::error!(%error, "the firewall for instances could not be seen to");
        }
    }
}

/// Has this host pass on what is not for itself, which routers do and others do not.
fn forward_packets() -> Result<(), RuntimeError> {
    const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
    let state = fs::read_to_string(SWITCH).doing(|| format!("read {SWITCH}"))?;
    if state.trim() != "0" {
        return Ok(());
    }
    fs::write(SWITCH, "1").map_err(|error| {
        RuntimeError::Start(format!(
            "instances cannot get out: net.ipv4.ip_forward is 0 and cannot be set ({error}); as root: sysctl -w \
             net.ipv4.ip_forward=1"
        ))
    })?;
    tracing::warn!(
        "set net.ipv4.ip_forward to 1, for a template has egress: from now on this host passes packets on for others too, \
         unless its own firewall forbids that"
    );
    Ok(())
}

/// The link of the default route in `/proc/net/route`.
fn default_link(routes: &str) -> Option<&str> {
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
        fields.first().copied().filter(|_| default)
    })
}

/// Removes the links and the tables of nftables of all nodes from this host, once nothing runs in containers any more.
/// Returns how many of both that were.
///
/// # Errors
/// Something resists.
pub async fn clean() -> Result<usize, RuntimeError> {
    let doing = || "remove the links and the firewall of instances".to_owned();
    let links = super::links::list(None).await.doing(doing)?;
    for link in &links {
        super::links::remove(link).await.doing(doing)?;
    }
    Ok(links.len() + super::firewall::clean(None).await.doing(doing)?)
}
