//! The table in the kernel: the program `nft` is told what changes, one call after the other.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::firewall_rules;
use super::firewall_rules::{Fixed, Guests, InstanceRules, OutboundInterface, TABLE_PREFIX};

/// Longest time of one change.
const DEADLINE: Duration = Duration::from_secs(10);

/// This node's table. It stands as long as an instance has a way out.
#[derive(Debug)]
pub(crate) struct Firewall {
    fixed: Fixed,
    /// Where `nft` is looked for.
    path: Option<OsString>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// All that are, or are to be, in the table.
    guests: Guests,
    /// Whether the table holds these and no others, as far as we know.
    stands: bool,
}

impl Firewall {
    pub(crate) fn new(fixed: Fixed, path: Option<OsString>) -> Self {
        Self { fixed, path, state: Mutex::default() }
    }

    pub(crate) fn resolvers(&self) -> &[std::net::Ipv4Addr] {
        &self.fixed.resolvers
    }

    /// Lets an instance out. Until this returns nothing passes from its link.
    pub(crate) async fn admit(&self, link: &str, guest: InstanceRules) -> io::Result<()> {
        let mut state = self.state.lock().await;
        let text = self.fixed.admit(link, &guest);
        state.guests.insert(link.to_owned(), guest);
        let outcome = self.update(&mut state, text).await;
        if outcome.is_err() {
            state.guests.remove(link);
            state.stands = false;
        }
        outcome
    }

    /// Lets an instance out no more. With the last one the table goes.
    ///
    /// # Errors
    /// It may be let out still. Its link must be removed or left without a sender.
    pub(crate) async fn dismiss(&self, link: &str) -> io::Result<()> {
        let mut state = self.state.lock().await;
        let Some(guest) = state.guests.remove(link) else { return Ok(()) };
        let text = self.fixed.dismiss(link, &guest);
        self.update(&mut state, text).await
    }

    /// Takes over: these are let out, and whoever else was is not.
    pub(crate) async fn replace(&self, guests: Guests) -> io::Result<()> {
        let mut state = self.state.lock().await;
        *state = State { guests, stands: false };
        match state.guests.is_empty() {
            // Where there is no table, there need not even be a program to remove it.
            true if !self.stands().await => Ok(()),
            _ => self.update(&mut state, String::new()).await,
        }
    }

    /// What the names of allow lists lead to now; links that are not there are passed over.
    pub(crate) async fn change(&self, ways: &BTreeMap<String, OutboundInterface>) -> io::Result<()> {
        let mut state = self.state.lock().await;
        let mut text = String::new();
        for (link, way) in ways {
            let Some(guest) = state.guests.get_mut(link) else { continue };
            if let (
                OutboundInterface::Only { places: old, .. },
                OutboundInterface::Only { places: new, .. },
            ) = (&guest.way, way)
            {
                text += &self.fixed.change(link, old, new);
            }
            guest.way = way.clone();
        }
        if text.is_empty() { Ok(()) } else { self.update(&mut state, text).await }
    }

    /// Makes the table anew if somebody has removed it, with whatever else was in nftables perhaps: until then instances
    /// are held by nothing. Whether it was so.
    pub(crate) async fn mend(&self) -> io::Result<bool> {
        let mut state = self.state.lock().await;
        if state.guests.is_empty() || (state.stands && self.stands().await) {
            return Ok(false);
        }
        state.stands = false;
        self.update(&mut state, String::new()).await.map(|()| true)
    }

    /// Brings the table to what the state says: by `text` where it stands, else anew.
    async fn update(&self, state: &mut State, text: String) -> io::Result<()> {
        if state.guests.is_empty() {
            state.stands = false;
            return self.run(&["-f", "-"], &self.fixed.gone()).await.map(drop);
        }
        if state.stands {
            match self.run(&["-f", "-"], &text).await {
                Ok(_) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "the firewall's table was not as it was left and is made anew");
                    state.stands = false;
                }
            }
        }
        self.run(&["-f", "-"], &self.fixed.whole(&state.guests)).await?;
        state.stands = true;
        Ok(())
    }

    async fn stands(&self) -> bool {
        self.run(&["-t", "list", "table", "inet", &self.fixed.table], "").await.is_ok()
    }

    async fn run(&self, arguments: &[&str], input: &str) -> io::Result<String> {
        nft(self.path.as_deref(), arguments, input).await
    }
}

/// Removes the tables of all nodes; how many there were. Without the program there are none.
pub(crate) async fn clean(path: Option<&OsStr>) -> io::Result<usize> {
    let listed = match nft(path, &["list", "tables", "inet"], "").await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        listed => listed?,
    };
    let names = listed.lines().filter_map(|line| line.trim().strip_prefix("table inet "));
    let ours: Vec<&str> = names.filter(|name| name.starts_with(TABLE_PREFIX)).collect();
    let text: String = ours.iter().map(|table| firewall_rules::gone(table)).collect();
    nft(path, &["-f", "-"], &text).await?;
    Ok(ours.len())
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
            // One that does not read to the end says why when it ends.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        nft.wait_with_output().await
    };
    let output = timeout(DEADLINE, working).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let first = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    Err(io::Error::other(format!("nft: {} ({})", first.trim(), output.status)))
}
