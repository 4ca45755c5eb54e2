//! The firewall's table in the kernel, changed by the program `nft`, one call at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::firewall_rules;
use super::firewall_rules::{AllowedDestinations, InstanceRules, RulesByLink, TABLE_PREFIX, TableConfig};
use crate::runtime::CleanScope;

/// Longest time of one call of `nft`.
const DEADLINE: Duration = Duration::from_secs(10);

/// This node's table. It exists as long as an instance has egress.
#[derive(Debug)]
pub(super) struct Firewall {
    config: TableConfig,
    /// Search path for `nft`, in the form of `PATH`; `None` uses that of this process.
    search_path: Option<OsString>,
    state: Mutex<FirewallState>,
}

#[derive(Debug, Default)]
struct FirewallState {
    /// All instances that are, or should be, in the table.
    instances: RulesByLink,
    /// Addresses that no instance reaches.
    forbidden: BTreeSet<Ipv4Addr>,
    /// Whether the table contains exactly these, as far as this server knows.
    is_current: bool,
}

impl Firewall {
    pub(crate) fn new(config: TableConfig, search_path: Option<OsString>) -> Self {
        Self { config, search_path, state: Mutex::default() }
    }

    /// Returns the name servers that instances may ask.
    pub(crate) fn resolvers(&self) -> &[Ipv4Addr] {
        &self.config.resolvers
    }

    /// Lets an instance's packets pass. Until this returns, none from its link do.
    ///
    /// # Errors
    /// `nft` failed. No packet of the instance passes.
    pub(super) async fn admit(&self, link: &str, rules: InstanceRules) -> io::Result<()> {
        let mut state = self.state.lock().await;
        let text = self.config.add_instance(link, &rules);
        state.instances.insert(link.to_owned(), rules);
        let outcome = self.apply(&mut state, text).await;
        if outcome.is_err() {
            state.instances.remove(link);
            state.is_current = false;
        }
        outcome
    }

    /// Stops an instance's packets. With the last instance the table is deleted.
    ///
    /// # Errors
    /// `nft` failed. Packets may still pass, so the link must be removed or have no sender.
    pub(crate) async fn remove(&self, link: &str) -> io::Result<()> {
        let mut state = self.state.lock().await;
        let Some(rules) = state.instances.remove(link) else { return Ok(()) };
        let text = self.config.remove_instance(link, &rules);
        self.apply(&mut state, text).await
    }

    /// Replaces the table of an earlier server: only these instances' packets pass.
    ///
    /// # Errors
    /// `nft` failed.
    pub(crate) async fn replace(&self, instances: RulesByLink) -> io::Result<()> {
        let mut state = self.state.lock().await;
        (state.instances, state.is_current) = (instances, false);
        match state.instances.is_empty() {
            // Where there is no table, `nft` need not even be installed.
            true if !self.is_in_kernel().await => Ok(()),
            _ => self.apply(&mut state, String::new()).await,
        }
    }

    /// Updates the destinations of allow lists. Links without an instance are ignored.
    ///
    /// # Errors
    /// `nft` failed.
    pub(super) async fn update_destinations(
        &self,
        destinations: &BTreeMap<String, AllowedDestinations>,
    ) -> io::Result<()> {
        let mut state = self.state.lock().await;
        let mut text = String::new();
        for (link, new_destinations) in destinations {
            let Some(rules) = state.instances.get_mut(link) else { continue };
            if let (AllowedDestinations::Only(old), AllowedDestinations::Only(new)) =
                (&rules.destinations, new_destinations)
            {
                text += &self.config.change_destinations(link, old, new);
            }
            rules.destinations = new_destinations.clone();
        }
        if text.is_empty() { Ok(()) } else { self.apply(&mut state, text).await }
    }

    /// Sets the addresses that no instance reaches.
    ///
    /// # Errors
    /// `nft` failed. The next call of any kind tries again.
    pub(super) async fn forbid(&self, addresses: BTreeSet<Ipv4Addr>) -> io::Result<()> {
        let mut state = self.state.lock().await;
        let text = self.config.change_forbidden(&state.forbidden, &addresses);
        state.forbidden = addresses;
        if text.is_empty() || state.instances.is_empty() {
            Ok(())
        } else {
            self.apply(&mut state, text).await
        }
    }

    /// Restores the table if another program deleted it, perhaps with everything else in nftables: until then no rule
    /// restricts the instances. Returns whether that was so.
    ///
    /// # Errors
    /// `nft` failed.
    pub(super) async fn restore_if_missing(&self) -> io::Result<bool> {
        let mut state = self.state.lock().await;
        if state.instances.is_empty() || (state.is_current && self.is_in_kernel().await) {
            return Ok(false);
        }
        state.is_current = false;
        self.apply(&mut state, String::new()).await.map(|()| true)
    }

    /// Brings the table to the state: by the commands `text` if it exists, else by writing all of it.
    async fn apply(&self, state: &mut FirewallState, text: String) -> io::Result<()> {
        if state.instances.is_empty() {
            state.is_current = false;
            return self.run(&["-f", "-"], &self.config.delete()).await.map(drop);
        }
        if state.is_current {
            match self.run(&["-f", "-"], &text).await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "the firewall's table was changed by another program; writing it again");
                    state.is_current = false;
                }
            }
        }
        self.run(&["-f", "-"], &self.config.full_table(&state.instances, &state.forbidden)).await?;
        state.is_current = true;
        Ok(())
    }

    async fn is_in_kernel(&self) -> bool {
        self.run(&["-t", "list", "table", "inet", &self.config.table], "").await.is_ok()
    }

    async fn run(&self, arguments: &[&str], input: &str) -> io::Result<String> {
        nft(self.search_path.as_deref(), arguments, input).await
    }
}

/// Deletes the tables of the nodes in `scope`, and returns how many there were. Without `nft` there are none.
///
/// # Errors
/// `nft` failed.
pub(crate) async fn clean(path: Option<&OsStr>, scope: &CleanScope) -> io::Result<usize> {
    let listed = match nft(path, &["list", "tables", "inet"], "").await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        listed => listed?,
    };
    let names = listed.lines().filter_map(|line| line.trim().strip_prefix("table inet "));
    let is_ours = |name: &&str| name.strip_prefix(TABLE_PREFIX).is_some_and(|node| scope.contains(node));
    let tables: Vec<&str> = names.filter(is_ours).collect();
    let text: String = tables.iter().map(|table| firewall_rules::delete_table(table)).collect();
    nft(path, &["-f", "-"], &text).await?;
    Ok(tables.len())
}

async fn nft(path: Option<&OsStr>, arguments: &[&str], input: &str) -> io::Result<String> {
    let mut command = Command::new("nft");
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let working = async {
        let mut nft = command.spawn()?;
        if let Some(mut stdin) = nft.stdin.take() {
            // An `nft` that does not read to the end states the reason when it exits.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        nft.wait_with_output().await
    };
    let output = timeout(DEADLINE, working).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let first = message.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    Err(io::Error::other(format!("nft: {} ({})", first.trim(), output.status)))
}
