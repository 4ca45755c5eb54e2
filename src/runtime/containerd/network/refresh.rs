//! Keeps the routes, the names and the firewall of all links as they should be.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};

use super::addresses::AddressPair;
use super::egress::{EgressLinks, LinkInUse};
use super::firewall_rules::AllowedDestinations;
use super::links;
use super::routes::RoutePlan;
use crate::template::Egress;

impl EgressLinks {
    /// Sets the routes and the name server in the namespace of an instance, and the checks of its packets outside of it. A link that has
    /// no instance any more, or another one, stays as it is.
    ///
    /// # Errors
    /// The kernel refuses, or the port of the name server is in use.
    pub(super) async fn set_up_inside(&self, link: &LinkInUse) -> io::Result<()> {
        let name = link.pair.link_name(&self.link_prefix);
        // A refresh may come so late that the link has another instance.
        let is_current = || {
            let in_use = self.in_use.lock();
            in_use.get(&name).is_some_and(|current| Arc::ptr_eq(&current.marker, &link.marker))
        };
        // The link of an instance that is being started may not exist yet.
        if !is_current() || link.inner.namespace().is_none() {
            return Ok(());
        }
        links::check_senders(&name)?;
        link.inner.serve_names(is_current, &link.egress, &self.names).await?;
        let plan = || self.plan_routes(link.pair, &self.names.known_destinations(&link.egress));
        link.inner.set_routes(|| is_current().then(plan)).await
    }

    /// Returns the routes of an instance that may reach these destinations.
    pub(super) fn plan_routes(&self, pair: AddressPair, destinations: &AllowedDestinations) -> RoutePlan {
        let gateway = pair.of_host(&self.settings.range);
        RoutePlan::new(gateway, destinations, self.firewall.resolvers(), &self.forbidden.addresses())
    }

    /// Sets the routes and the name servers of all these links. A failure concerns one link, and is tried again with the
    /// next refresh.
    pub(super) async fn set_up_all_inside(&self, links: &BTreeMap<String, LinkInUse>) {
        for (name, link) in links {
            if let Err(error) = self.set_up_inside(link).await {
                tracing::error!(link = name, %error, "failed to set routes and name server of an instance");
            }
        }
    }

    /// Resolves the names in use again, and restores what is missing of the firewall's table and of the routes.
    async fn refresh(&self) -> io::Result<()> {
        let in_use = self.in_use.lock().clone();
        // Closed before names are looked up, which may take long.
        self.forbidden.refresh().await;
        self.firewall.forbid(self.forbidden.addresses()).await?;
        self.names.refresh(&egress_of(&in_use)).await;
        self.set_up_all_inside(&in_use).await;
        let destinations =
            in_use.iter().map(|(name, link)| (name.clone(), self.names.known_destinations(&link.egress)));
        if self.firewall.restore_if_missing().await? {
            tracing::error!("the firewall's table was removed by another program; restored");
        }
        self.firewall.update_destinations(&destinations.collect()).await
    }
}

/// Returns what the instances of these links may reach.
pub(super) fn egress_of(links: &BTreeMap<String, LinkInUse>) -> Vec<Egress> {
    links.values().map(|link| link.egress.clone()).collect()
}

/// Refreshes names, firewall and routes for as long as the server lives: in intervals, and when the hosts change that no
/// instance reaches.
pub(super) async fn run_refresh(links: Weak<EgressLinks>) {
    let Some(mut hosts) = links.upgrade().map(|links| links.forbidden.watch()) else { return };
    let mut may_change = true;
    while let Some(pause) = links.upgrade().map(|links| links.settings.refresh_interval) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = hosts.changed(), if may_change => {
                may_change = changed.is_ok();
                // The end of the channel is no change.
                if !may_change {
                    continue;
                }
            }
        }
        let Some(links) = links.upgrade() else { return };
        if let Err(error) = links.refresh().await {
            tracing::error!(%error, "failed to reconcile egress firewall");
        }
    }
}
