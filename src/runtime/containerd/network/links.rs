//! Veth pairs, by netlink: one end in the network namespace of an instance, the other in this server's own.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{TryStreamExt, pin_mut};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Error, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::time::timeout;

use crate::runtime::blocking::on_own_thread;
use crate::runtime::namespaces::open_low_ports;

/// Name of the instance's end.
const INNER_NAME: &str = "eth0";

/// Index of the loopback: it is the first link of every namespace.
const LOOPBACK: u32 = 1;

/// Prefix of the alias of this host's end; the node's id follows. `clean` and the next server find links by it.
const ALIAS_PREFIX: &str = "try-it-now ";

/// Longest time of a request to the kernel.
const DEADLINE: Duration = Duration::from_secs(10);

/// A veth pair to be created.
#[derive(Debug, Clone)]
pub(super) struct LinkPair {
    /// Name of this host's end.
    pub(crate) name: String,
    pub(crate) node: String,
    /// Address of this host's end.
    pub(super) gateway: Ipv4Addr,
    /// Address of the instance's end.
    pub(crate) address: Ipv4Addr,
    /// The largest packet, in bytes.
    pub(super) mtu: u32,
}

/// Creates a namespace, and a veth pair with its inner end in it. The pair vanishes with the namespace.
///
/// # Errors
/// `AlreadyExists` if another node uses this name or address. Nothing remains.
pub(crate) async fn create(home: &Arc<File>, pair: LinkPair) -> io::Result<Arc<File>> {
    let namespace = on_own_thread("new namespace", || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        File::open("/proc/thread-self/ns/net")
    });
    let namespace = Arc::new(namespace.await?);
    attach(home, namespace.clone(), pair).await?;
    Ok(namespace)
}

/// Creates a veth pair with its inner end in a namespace that exists, and brings the loopback there up. The namespace
/// has no route to the outside yet: see [`RoutePlan::apply`](super::routes::RoutePlan::apply).
///
/// # Errors
/// `AlreadyExists` if another node uses this name or address. Nothing remains of the pair.
pub(super) async fn attach(home: &Arc<File>, namespace: Arc<File>, pair: LinkPair) -> io::Result<()> {
    let (inner_pair, home) = (pair.clone(), home.clone());
    on_own_thread("link of an instance", move || {
        setns(&*namespace, CloneFlags::CLONE_NEWNET)?;
        create_inner_end(&home, &inner_pair)
    })
    .await?;
    match set_up_outer_end(&pair).await {
        Ok(()) => Ok(()),
        Err(error) => {
            // Not left to the kernel, which removes a namespace only some time after its last use.
            let _ = remove(&pair.name).await;
            Err(error)
        }
    }
}

/// Creates the pair. The thread is in the namespace of the inner end.
fn create_inner_end(home: &File, pair: &LinkPair) -> io::Result<()> {
    disable_ipv6("default")?;
    open_low_ports();
    let reactor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    reactor.block_on(netlink(|handle| async move {
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name(&pair.name).mtu(pair.mtu);
        let peer = peer.setns_by_fd(home.as_raw_fd()).build();
        let veth =
            LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth).name(INNER_NAME).mtu(pair.mtu);
        let veth = veth.set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
        handle.link().add(veth).execute().await?;
        let index = find(&handle, INNER_NAME).await?.header.index;
        for index in [LOOPBACK, index] {
            handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
        }
        // With a prefix of 32 bits the kernel adds no route, so this host's end is no destination.
        handle.address().add(index, pair.address.into(), 32).execute().await
    }))
}

async fn set_up_outer_end(pair: &LinkPair) -> io::Result<()> {
    disable_ipv6(&pair.name)?;
    check_senders(&pair.name)?;
    netlink(|handle| async move {
        let index = find(&handle, &pair.name).await?.header.index;
        let alias = format!("{ALIAS_PREFIX}{}", pair.node);
        let link = LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::IfAlias(alias));
        handle.link().set(link.up().build()).execute().await?;
        // With a prefix of 32 bits the kernel adds no route of its own. Two nodes of a host that chose the same
        // addresses would both get such a route; the explicit route below is refused to the second one.
        handle.address().add(index, pair.gateway.into(), 32).execute().await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(pair.address, 32);
        let route = route.output_interface(index).scope(RouteScope::Link);
        handle.route().add(route.build()).execute().await
    })
    .await
}

/// Disables IPv6 for a link of the thread's namespace, or with `default` for all links to come.
fn disable_ipv6(name: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1") {
        // The kernel has no IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Has the kernel drop packets from the outer end `name` that are not from the one address behind it, and never deliver
/// them to a loopback address, without the firewall too. A host may have other defaults, and its programs may apply them
/// when they notice the link; so this is repeated.
///
/// # Errors
/// There is no such link.
pub(super) fn check_senders(name: &str) -> io::Result<()> {
    for (setting, value) in
        [("rp_filter", "1"), ("route_localnet", "0"), ("accept_local", "0"), ("accept_redirects", "0")]
    {
        set_ipv4(name, setting, value)?;
    }
    Ok(())
}

/// Stops checks of senders in the instance's namespace, where the thread is. All packets there come from this host, which
/// is no destination, so a check would drop them.
///
/// # Errors
/// There is no inner end.
pub(super) fn accept_all_senders() -> io::Result<()> {
    ["all", INNER_NAME].into_iter().try_for_each(|link| set_ipv4(link, "rp_filter", "0"))
}

/// Sets a kernel setting of IPv4 of a link of the thread's namespace.
fn set_ipv4(link: &str, name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/ipv4/conf/{link}/{name}"), value)
}

/// Returns the IPv4 addresses of this host.
///
/// # Errors
/// The kernel does not answer.
pub(super) async fn own_addresses() -> io::Result<Vec<Ipv4Addr>> {
    let found: Vec<AddressMessage> =
        netlink(|handle| async move { handle.address().get().execute().try_collect().await }).await?;
    let addresses =
        found.into_iter().flat_map(|message| message.attributes).filter_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(address),
            _ => None,
        });
    Ok(addresses.collect())
}

/// Removes the pair whose outer end has this name. One that does not exist is no error.
///
/// # Errors
/// The kernel refuses.
pub(crate) async fn remove(name: &str) -> io::Result<()> {
    netlink(|handle| async move {
        match find(&handle, name).await {
            Ok(found) => handle.link().del(found.header.index).execute().await,
            Err(error) if error_kind(&error) == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    })
    .await
    // Gone in the meantime, with its namespace.
    .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Returns the names of the outer ends of the pairs of a node, or with `None` of all nodes.
///
/// # Errors
/// The kernel does not answer.
pub(crate) async fn list(node: Option<&str>) -> io::Result<Vec<String>> {
    let links: Vec<LinkMessage> =
        netlink(|handle| async move { handle.link().get().execute().try_collect().await }).await?;
    let names = links.into_iter().filter_map(|link| {
        let (mut name, mut is_listed) = (None, false);
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text),
                LinkAttribute::IfAlias(alias) => {
                    is_listed =
                        alias.strip_prefix(ALIAS_PREFIX).is_some_and(|id| node.is_none_or(|node| node == id));
                }
                _ => {}
            }
        }
        name.filter(|_| is_listed)
    });
    Ok(names.collect())
}

/// Returns the largest packet of a link, in bytes.
///
/// # Errors
/// There is no such link.
pub(super) async fn mtu(name: &str) -> io::Result<Option<u32>> {
    let found = netlink(|handle| async move { find(&handle, name).await }).await?;
    Ok(found.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    }))
}

/// Returns the index of the instance's end, in its namespace.
///
/// # Errors
/// There is none.
pub(super) async fn find_inner_end(handle: &Handle) -> Result<u32, Error> {
    Ok(find(handle, INNER_NAME).await?.header.index)
}

async fn find(handle: &Handle, name: &str) -> Result<LinkMessage, Error> {
    let found = handle.link().get().match_name(name).execute();
    pin_mut!(found);
    found.try_next().await?.ok_or(Error::RequestFailed)
}

/// Sends requests to the kernel that concern the namespace of this thread.
pub(super) async fn netlink<T, F>(work: impl FnOnce(Handle) -> F) -> io::Result<T>
where
    F: Future<Output = Result<T, Error>>,
{
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let request = timeout(DEADLINE, work(handle));
    tokio::select! {
        answer = request => match answer {
            Ok(answer) => answer.map_err(|error| io::Error::new(error_kind(&error), error)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        },
        () = connection => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

fn error_kind(error: &Error) -> io::ErrorKind {
    const NO_SUCH_DEVICE: i32 = 19;
    match error {
        Error::NetlinkError(error) if error.raw_code().abs() == NO_SUCH_DEVICE => io::ErrorKind::NotFound,
        Error::NetlinkError(error) => error.to_io().kind(),
        _ => io::ErrorKind::Other,
    }
}
