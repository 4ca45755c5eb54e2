//! The ordered stream of changes from which a proxy builds its route table.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::instance::{Instance, InstanceId};

/// A position in the store's ordered stream of route events; later events have greater cursors. The first event has
/// cursor 1, so `Cursor(0)` means "from the beginning".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub u64);

/// A change of an instance that proxies must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteChange {
    /// The instance's record after the change: it became assigned, its deadline moved, it expired, or its claim was
    /// undone and it is ready again.
    ///
    /// An undone claim is published as the ready record and never as `Gone`: a follower would end an instance that is
    /// gone, and the route table would not accept the next claim of it.
    Set(Instance),
    /// The instance is gone.
    Gone(InstanceId),
}

/// The route events after a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteEvents {
    /// The changes in order, each with its cursor; empty when none came in time. There may be more than these: continue
    /// from the last cursor. Applied in order to a snapshot, they lead to the same table as a newer snapshot.
    Changes(Vec<(Cursor, RouteChange)>),
    /// The stream no longer holds the events after that cursor, or never issued that cursor (it belongs to another
    /// store, or this store began anew). The follower must take a new snapshot.
    Gap,
}

impl RouteChange {
    /// Applies the change to a table of the instances that proxies must know.
    pub fn apply(self, table: &mut HashMap<InstanceId, Instance>) {
        match self {
            RouteChange::Set(record) if record.lease().is_none() => drop(table.remove(record.id())),
            RouteChange::Set(record) => drop(table.insert(record.id().clone(), record)),
            RouteChange::Gone(id) => drop(table.remove(&id)),
        }
    }
}
