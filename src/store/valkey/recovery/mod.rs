//! Recovery of a Valkey that lost data.
//!
//! A Valkey that was away may come back with older data, or with none. The nodes then restore what it lost before any
//! step runs, so that no instance is assigned twice and no visitor's instance is forgotten.
//!
//! | file | content |
//! |---|---|
//! | `task.rs` | the task of each node that checks Valkey, and opens and closes terms |
//! | `session.rs` | its conversation with one Valkey process |
//! | `audit.rs` | its checks whether single keys were lost or damaged |
//! | `local_view.rs` | what this node knows of the instances |
//! | `grant_log.rs` | the local view with its journal, and which answers may still be noted in it |
//! | `../scripts/recover_*.lua` | the other half of the conversation |
//!
//! # Terms
//! A Valkey whose state is verified has a *term* (the key `tenure`): a unique name, with an epoch that only grows and
//! the Valkey process in which the state was verified (its run id and the id of its replication history). The text of
//! each step begins with the name of the term, and the step is called by the hash of its text. So Valkey runs a step
//! only if both hold:
//! 1. The step was loaded into this process. Valkey forgets scripts when it ends, and a replica never had them. Steps
//!    are loaded on a connection that ends with its process, right after that process was found to be the one of the
//!    term.
//! 2. The data has that term. It does not after `FLUSHALL`, nor during a recovery, which begins with the removal of the
//!    key.
//!
//! Besides, each new connection asks which process it leads to, and the recovery task asks every
//! [`CHECK_INTERVAL`](task::CHECK_INTERVAL), because a primary may become a replica with older data and then primary
//! again. With all this a claim remains one command, which reads one key more.
//!
//! # Damaged data
//! A Valkey that evicts keys, or that another program writes to, loses single keys: a record without its place in the
//! queue, a queue without its count. Each node checks the data every [`AUDIT_INTERVAL`](audit::AUDIT_INTERVAL) (the
//! sums over all keys, the records of its own instances, and whether Valkey has all that its local view knows), before
//! it believes a snapshot of the routes, and wherever a script fails or an answer is malformed. If the data is damaged,
//! the node removes the term, and a recovery begins as after a restart.
//!
//! # The steps of a recovery
//! Each node that finds a Valkey without a term for its process takes part. A *round* belongs to one process, so
//! another crash in the middle begins a new round.
//!
//! Before the first report the nodes together make the indexes agree with the records (`recover_rebuild.lua`). Unreadable
//! records are removed: a report brings them back.
//! 1. The node reports which nodes there were by the last list of nodes that it got in a term, and all that its [local
//!    view](local_view) knows. The facts about an instance belong to one history, so they may be merged in any order
//!    and any number of times. Each page of a report changes the records and the queues together.
//! 2. When every node on any reported list has reported, a ready instance stays if its owner reported it as ready: the
//!    node that granted it, if one did, has reported that, and then it is not ready. When not all nodes have reported
//!    and no report has come for the recovery timeout, no ready instance stays.
//! 3. The counter of route events jumps beyond what any node has seen, and the stream is removed. So each follower sees
//!    a gap, and takes a new snapshot.
//! 4. A new term begins. Each node that reported opens it.
//!
//! A node that comes later reports to the new term, before it opens it, which instances visitors have. It cannot make
//! an instance ready; and no visitor can have got its ready instances in between, because none of them stayed.
//!
//! # Invariants
//! - **An answer counts only if it is reported.** The answer of a step is noted in the local view, and a grant in the
//!   journal, before the caller gets it. Once a report has begun, an answer to an earlier call is refused (its
//!   [`ReportGeneration`] is over), because the report lacks it.
//! - **An owner that reports ready instances waits for every node that may have granted them.** A node gets a ready
//!   instance of another only once the owner surely has a list of nodes that contains it (`knows` in `claim.lua`). So a
//!   new node gets none for up to [`CHECK_INTERVAL`](task::CHECK_INTERVAL) after its first heartbeat. Of an owner that
//!   does not report no ready instance stays.
//! - **An outage never shortens a list of nodes.** Heartbeats are answered while no term is open, but the lists in
//!   those answers are not adopted.
//! - **An instance that is gone stays gone.** Nodes remember the ends of instances for a while, and Valkey remembers
//!   spent tokens.
//! - **An instance is unclaimed only if Valkey says so.** After each recovery, and after a node was evicted and came
//!   back, the node forgets the instances that it believes to be unclaimed and that Valkey does not have. So it never
//!   reports them as ready later, and its pool ends them.
//!
//! Two things cannot be restored: what visitors were charged by rate limits; and the release of an instance by a node
//! that ended at the same time as the Valkey that lost it. That instance stays assigned until its deadline.

mod audit;
mod grant_log;
mod local_view;
mod session;
mod task;

pub(super) use grant_log::{GrantLog, ReportGeneration, answer_too_late};
pub(super) use local_view::LocalView;
pub(super) use local_view::MissingRecord;
pub(super) use task::run;
