//! A store that was away may come back with an older past, or with none. This is how it gets back what it lost before
//! anybody is given anything, so that nothing that was handed out is handed out again, and nothing is forgotten.
//!
//! # Tenures
//! A store that was vouched for has a *tenure*: a name that is its own, with an epoch that only rises and the process of
//! Valkey in which it was vouched for (its run id and the id of its past). All steps begin with the tenure in their text,
//! and are called by the hash of that. So a step is done only by
//! 1. a process that was told the text: Valkey forgets it when it ends, and a replica never had it. It is told on a
//!    connection that ends with its process, right after that process was found to be the one of the tenure;
//! 2. data that has that tenure: not after `FLUSHALL`, nor while a recovery is under way, which begins with its removal.
//!
//! Besides, each new connection asks which process it leads to, and the keeper asks four times a second, for a master may
//! become a replica of an older past and then master again. A claim remains one command, which reads one key more.
//!
//! # A recovery
//! Each server that finds a store without a tenure for its process takes part; a *round* belongs to one process, so that
//! another crash in the middle begins anew.
//! - It tells who was there by the last beat under a tenure, and all that it [knows](local_view). Facts of one history
//!   are merged, in any order and as often as you like. Each page of them moves records and queues together.
//! - When all who were there have told, by anybody's list, what is ready stays if its owner said so: whoever handed it out
//!   has told that, and so it is not ready. When nobody has told anything for a time of patience, and not all have, nothing
//!   that is ready stays.
//! - The counter of events jumps beyond what anybody saw, and the stream is gone: so each follower sees a gap, and takes a
//!   new snapshot.
//!
//! Who comes later tells the new tenure what visitors have. It can make nothing ready, and nobody can have got it in
//! between, for nothing that was ready was left.
//!
//! # What holds
//! - **An answer counts only if it is told.** It is learnt, and what is handed out is in the journal, before the caller
//!   hears of it. Once a report was begun, an answer from before it is refused (the [`Era`](grant_log::Era)), for the
//!   report lacks it.
//! - **Whoever hands out is known to whoever vouches.** A node gets another's ready instance only once the other surely has
//!   an answer that names it (`knows` in `claim.lua`): so each owner who vouches for what is ready waits for all who may
//!   have handed it out. An owner that does not report vouches for nothing.
//! - **A list of who was there never shrinks by an outage:** beats are answered while the gate is closed, but what they
//!   tell then is not taken over.
//! - **What is gone stays gone:** servers remember ends for a while, and the store its released tokens.
//! - **Unclaimed is what the store says.** After each recovery, and when a node was thought dead, what it believes to be
//!   ready and the store lacks is forgotten, so that it is not vouched for later; the pool then ends it.
//!
//! What cannot be had back: what visitors were charged by rate limits, and the release of an instance by a server that ended
//! at the same time as the store that lost it: that instance is assigned until its time is over.

pub(super) mod grant_log;
pub(super) mod local_view;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{RedisError, Script};
use tokio::time::{Instant, timeout};

use super::PIECE;
use super::admission::{Admission, Heard, Open};
use super::connection;
use super::connection::{Transport, unavailable};
use super::record_codec;
use super::script_reply::{Reply, broken};
use crate::instance::{ClaimToken, InstanceId};
use crate::store::{Membership, StoreError};
use crate::template::Secret;

/// How often the process and the tenure are looked at while all is well. It is also how long a new server waits until it
/// gets what others have ready.
const LOOK: Duration = Duration::from_millis(250);

/// Pause after an attempt that failed.
const AGAIN: Duration = Duration::from_millis(50);

/// Pause while others have not told yet.
const WAIT: Duration = Duration::from_millis(20);

/// How it stands with the store.
enum Standing {
    /// It has this tenure for the process that was asked, and this was the number of the newest node's first beat.
    Open(String, u64),
    /// This round of a recovery is under way.
    Closed(String),
}

/// Keeps the gate for ever.
pub(super) async fn keep(gate: Arc<Admission>) {
    let stop = gate.stop.clone();
    let mut keeper = Recovery { gate, wire: None, closed: None };
    tokio::select! {
        () = stop.cancelled() => {}
        () = keeper.run() => {}
    }
}

struct Recovery {
    gate: Arc<Admission>,
    /// To one process, with which it ends.
    wire: Option<Transport>,
    /// Since when the gate is closed.
    closed: Option<Instant>,
}

impl Recovery {
    async fn run(&mut self) {
        loop {
            let fresh = self.wire.is_none();
            let pause = match self.attend().await {
                Ok(()) => LOOK,
                Err(error) => {
                    self.wire = None;
                    if !fresh {
                        // It may only be the connection that ended.
                        continue;
                    }
                    tracing::debug!(%error, "the shared store cannot be looked at");
                    self.gate.failed(&error);
                    AGAIN
                }
            };
            let _woken = timeout(pause, self.gate.wake.notified()).await;
        }
    }

    /// Looks once, and opens the gate if it is closed.
    async fn attend(&mut self) -> Result<(), StoreError> {
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => self.gate.link.in_time(self.gate.link.direct()).await?,
        };
        let process = connection::process(&mut wire).await.map_err(unavailable)?;
        let mut talk = RecoverySession { gate: self.gate.clone(), wire, process };
        loop {
            match talk.standing().await? {
                Standing::Open(tenure, newest) => {
                    let current = self.gate.current().is_some_and(|open| open.tenure == tenure);
                    if current {
                        talk.verify_if_unsure().await?;
                        talk.greet(newest).await?;
                        break;
                    }
                    if talk.open(&tenure, false).await? {
                        self.opened();
                        break;
                    }
                }
                Standing::Closed(round) => {
                    self.gate.shut();
                    if self.closed.is_none() {
                        self.closed = Some(Instant::now());
                        tracing::info!(%round, "nobody vouched for the shared store yet; telling it what is known here");
                    }
                    if let Some(tenure) = talk.recover(&round).await?
                        && talk.open(&tenure, true).await?
                    {
                        self.opened();
                        break;
                    }
                }
            }
        }
        self.wire = Some(talk.wire);
        Ok(())
    }

    fn opened(&mut self) {
        let took = self.closed.take().map(|since| since.elapsed().as_millis());
        tracing::info!(millis = took.map(|took| took as u64), "the shared store is vouched for");
    }
}

/// A talk with one process.
struct RecoverySession {
    gate: Arc<Admission>,
    wire: Transport,
    process: String,
}

impl RecoverySession {
    async fn ask(&mut self, script: &Script, arguments: &[&str]) -> Result<Reply, StoreError> {
        let call = self.gate.other(script, arguments);
        let words: Result<Vec<String>, RedisError> = call.invoke_async(&mut self.wire).await;
        words.map(Reply::new).map_err(unavailable)
    }

    async fn standing(&mut self) -> Result<Standing, StoreError> {
        let gate = self.gate.clone();
        let (epoch, round) = (gate.notebook.lock().epoch.to_string(), nonce());
        let process = self.process.clone();
        let mut reply = self.ask(&gate.scripts.recover_begin, &[&process, &epoch, &round]).await?;
        match reply.text()?.as_str() {
            "open" => Ok(Standing::Open(reply.text()?, reply.number()?)),
            "closed" => Ok(Standing::Closed(reply.text()?)),
            _ => Err(broken()),
        }
    }

    /// Takes part in a round. `None` when it is over without this node's report.
    async fn recover(&mut self, round: &str) -> Result<Option<String>, StoreError> {
        if !self.tell_roster(round).await? || !self.tell("round", round).await? {
            return Ok(None);
        }
        let gate = self.gate.clone();
        let patience = gate.settings.patience.as_millis().to_string();
        let (nonce, node) = (nonce(), gate.node().as_str());
        let mut place = [String::new(), String::new(), "0".to_owned()];
        loop {
            let [state, template, at] = &place;
            let arguments = [round, node, &patience, &nonce, state, template, at];
            let mut reply = self.ask(&gate.scripts.recover_settle, &arguments).await?;
            match reply.text()?.as_str() {
                "wait" => tokio::time::sleep(WAIT).await,
                "more" => place = [reply.text()?, reply.text()?, reply.text()?],
                "open" => return reply.text().map(Some),
                "closed" => return Ok(None),
                _ => return Err(broken()),
            }
        }
    }

    async fn tell_roster(&mut self, round: &str) -> Result<bool, StoreError> {
        let gate = self.gate.clone();
        let cursor = gate.notebook.lock().known.cursor().0.to_string();
        let (roster, number) = {
            let heard = gate.heard.lock();
            (heard.roster.clone(), heard.number.to_string())
        };
        let secret = roster.as_ref().map(|roster| roster.secret.reveal().to_owned()).unwrap_or_default();
        let mut words = vec![round.to_owned(), gate.node().to_string(), cursor, number, secret];
        for member in roster.iter().flat_map(|roster| &roster.members) {
            words.push(member.card.id.to_string());
            words.push(serde_json::to_string(&member.card).map_err(|_| broken())?);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.told(&gate.scripts.recover_roster, &words).await
    }

    /// Tells all that is known, to a round or late to a tenure. False when that is over.
    async fn tell(&mut self, when: &str, which: &str) -> Result<bool, StoreError> {
        let gate = self.gate.clone();
        let report = gate.notebook.lock().begin_report();
        for page in report.chunks(PIECE) {
            let mut words = vec![when, which, gate.node().as_str()];
            words.extend(page.iter().flat_map(|(id, text)| [id.as_str(), text.as_str()]));
            if !self.told(&gate.scripts.recover_report, &words).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn told(&mut self, script: &Script, words: &[&str]) -> Result<bool, StoreError> {
        match self.ask(script, words).await?.text()?.as_str() {
            "ok" => Ok(true),
            "closed" => Ok(false),
            _ => Err(broken()),
        }
    }

    /// Has this server work under a tenure, which it tells what it knows, unless it has. False when that tenure is over.
    async fn open(&mut self, tenure: &str, reported: bool) -> Result<bool, StoreError> {
        let gate = self.gate.clone();
        let told = reported || gate.notebook.lock().is_told(tenure);
        if !told && !self.tell("late", tenure).await? {
            return Ok(false);
        }
        let epoch = tenure.split('.').next().and_then(|epoch| epoch.parse().ok()).ok_or_else(broken)?;
        let steps = gate.scripts.told_under(tenure);
        steps.load(&mut self.wire).await.map_err(unavailable)?;
        let era = gate.notebook.lock().era();
        let open = Open { tenure: tenure.to_owned(), process: self.process.clone(), told: steps, era };
        if !self.verify(&open).await? {
            return Ok(false);
        }
        gate.notebook.lock().told(tenure, epoch);
        gate.open(open);
        Ok(true)
    }

    async fn verify_if_unsure(&mut self) -> Result<(), StoreError> {
        let gate = self.gate.clone();
        if let Some(open) = gate.current().filter(|_| gate.unsure.swap(false, Ordering::AcqRel))
            && !self.verify(&open).await.inspect_err(|_| gate.unsure.store(true, Ordering::Release))?
        {
            gate.close(&open);
        }
        Ok(())
    }

    /// Has the store know that this node knows of the newest, if it is on record itself: until then the newest gets nothing
    /// that is ready here.
    async fn greet(&mut self, newest: u64) -> Result<(), StoreError> {
        let gate = self.gate.clone();
        while gate.heard.lock().acknowledged < newest {
            let number = gate.heard.lock().number;
            let mut reply =
                self.ask(&gate.scripts.inform, &[gate.node().as_str(), &number.to_string()]).await?;
            let tenure = reply.text()?;
            if gate.current().is_none_or(|open| open.tenure != tenure) {
                break;
            }
            let (next, secret) = (reply.number()?, Secret::new(reply.text()?));
            let roster = Membership { members: reply.members()?, secret, returned: false };
            let mut heard = gate.heard.lock();
            // A beat may have been answered meanwhile.
            if next >= heard.number {
                *heard = Heard { roster: Some(roster), number: next, acknowledged: number };
            }
        }
        Ok(())
    }

    /// Asks what became of all that nobody has had, as far as is known here, and forgets what the store does not have. False
    /// when that tenure is over.
    async fn verify(&mut self, open: &Open) -> Result<bool, StoreError> {
        let gate = self.gate.clone();
        let (unclaimed, mark) = {
            let notebook = gate.notebook.lock();
            (notebook.known.unclaimed(), notebook.known.mark())
        };
        for page in unclaimed.chunks(PIECE) {
            let ids: Vec<&str> = page.iter().map(InstanceId::as_str).collect();
            let asked = gate.step(open, &gate.scripts.read, &ids);
            let words: Vec<String> = asked.query_async(&mut self.wire).await.map_err(unavailable)?;
            if words.len() != page.len() + 1 {
                return Ok(false);
            }
            let found = page.iter().zip(&words[1..]);
            let found: Vec<_> = found.map(|(id, text)| (id, record_codec::read(id.as_str(), text))).collect();
            gate.notebook.lock().note(|known| {
                for (id, record) in found {
                    match record {
                        Some(record) => known.merge_if_known(&record),
                        None => known.forget(id, mark),
                    }
                }
            });
        }
        Ok(true)
    }
}

/// A name that nobody has.
fn nonce() -> String {
    record_codec::token(ClaimToken::random())
}
