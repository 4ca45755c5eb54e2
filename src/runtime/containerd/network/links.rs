//! Pairs of links, by netlink: one end in a network namespace of an instance, the other in this server's own.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{TryStreamExt, pin_mut};
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Error, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::time::timeout;

use crate::runtime::blocking::apart;

/// The instance's end.
const INNER: &str = "eth0";

/// The loopback's number: it is the first link of every namespace.
const LOOPBACK: u32 = 1;

/// What the alias of this host's end begins with; the node's name follows.
const ALIAS: &str = "try-it-now ";

/// Longest time that the kernel may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// A pair to be made.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The name of this host's end.
    pub(crate) link: String,
    pub(crate) node: String,
    /// This host's address on it.
    pub(crate) gateway: Ipv4Addr,
    /// The instance's.
    pub(crate) address: Ipv4Addr,
    /// The largest packet, in bytes.
    pub(crate) mtu: u32,
}

/// Makes the pair and the namespace, with its loopback up, that holds the instance's end. The pair goes when the
/// namespace does.
///
/// # Errors
/// `AlreadyExists` when another node has this name or address. Nothing is left.
pub(crate) async fn make(home: &Arc<File>, plan: Plan) -> io::Result<File> {
    let (theirs, own) = (plan.clone(), home.clone());
    let namespace = apart("new namespace", move || inner_end(&own, &theirs)).await?;
    match outer_end(&plan).await {
        Ok(()) => Ok(namespace),
        Err(error) => {
            // Not left to the kernel, which removes a namespace some time after its last user.
            let _ = remove(&plan.link).await;
            Err(error)
        }
    }
}

/// In a thread that may leave its namespace.
fn inner_end(home: &File, plan: &Plan) -> io::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let namespace = File::open("/proc/thread-self/ns/net")?;
    without_ipv6("default")?;
    let reactor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    reactor.block_on(netlink(|handle| async move {
        let peer = LinkMessageBuilder::<LinkUnspec>::new().name(&plan.link).mtu(plan.mtu);
        let peer = peer.setns_by_fd(home.as_raw_fd()).build();
        let pair =
            LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth).name(INNER).mtu(plan.mtu);
        let pair = pair.set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
        handle.link().add(pair).execute().await?;
        let index = find(&handle, INNER).await?.header.index;
        for index in [LOOPBACK, index] {
            handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
        }
        // Both addresses of the pair, and so the way to this host's end.
        handle.address().add(index, plan.address.into(), 31).execute().await?;
        let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(plan.gateway).output_interface(index);
        handle.route().add(default.build()).execute().await
    }))?;
    Ok(namespace)
}

async fn outer_end(plan: &Plan) -> io::Result<()> {
    without_ipv6(&plan.link)?;
    netlink(|handle| async move {
        let index = find(&handle, &plan.link).await?.header.index;
        let alias = format!("{ALIAS}{}", plan.node);
        let link = LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::IfAlias(alias));
        handle.link().set(link.up().build()).execute().await?;
        // Alone, and so without a route that the kernel makes up: two nodes of a host that chose the same addresses
        // would both get that one. The route of our own is refused to the second.
        handle.address().add(index, plan.gateway.into(), 32).execute().await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(plan.address, 32);
        let route = route.output_interface(index).scope(RouteScope::Link);
        handle.route().add(route.build()).execute().await
    })
    .await
}

/// No address of IPv6 for a link of the current namespace, or with `default` for all to come.
fn without_ipv6(link: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1") {
        // A kernel without it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Removes a link by the name of this host's end, and with it the other end. One that is not there is no error.
pub(crate) async fn remove(link: &str) -> io::Result<()> {
    netlink(|handle| async move {
        match find(&handle, link).await {
            Ok(found) => handle.link().del(found.header.index).execute().await,
            Err(error) if kind(&error) == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    })
    .await
    // Gone in the meantime, with its namespace.
    .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// This host's ends of the pairs of a node, or of all nodes.
pub(crate) async fn list(node: Option<&str>) -> io::Result<Vec<String>> {
    let links: Vec<LinkMessage> =
        netlink(|handle| async move { handle.link().get().execute().try_collect().await }).await?;
    let ours = links.into_iter().filter_map(|link| {
        let (mut name, mut ours) = (None, false);
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text),
                LinkAttribute::IfAlias(alias) => {
                    ours = alias.strip_prefix(ALIAS).is_some_and(|of| node.is_none_or(|node| node == of));
                }
                _ => {}
            }
        }
        name.filter(|_| ours)
    });
    Ok(ours.collect())
}

/// The largest packet of a link, in bytes.
pub(crate) async fn mtu(link: &str) -> io::Result<Option<u32>> {
    let found = netlink(|handle| async move { find(&handle, link).await }).await?;
    Ok(found.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    }))
}

async fn find(handle: &Handle, name: &str) -> Result<LinkMessage, Error> {
    let found = handle.link().get().match_name(name).execute();
    pin_mut!(found);
    found.try_next().await?.ok_or(Error::RequestFailed)
}

/// Asks the kernel something about the namespace of this thread.
async fn netlink<T, F>(work: impl FnOnce(Handle) -> F) -> io::Result<T>
where
    F: Future<Output = Result<T, Error>>,
{
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let asked = timeout(DEADLINE, work(handle));
    tokio::select! {
        answer = asked => match answer {
            Ok(answer) => answer.map_err(|error| io::Error::new(kind(&error), error)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        },
        () = connection => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

fn kind(error: &Error) -> io::ErrorKind {
    const NO_SUCH_DEVICE: i32 = 19;
    match error {
        Error::NetlinkError(error) if error.raw_code().abs() == NO_SUCH_DEVICE => io::ErrorKind::NotFound,
        Error::NetlinkError(error) => error.to_io().kind(),
        _ => io::ErrorKind::Other,
    }
}
