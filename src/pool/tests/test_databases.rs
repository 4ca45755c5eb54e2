//! Databases that are entries in a list, and which fail on demand.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::instance::{InstanceId, NodeId};
use crate::runtime::{DatabaseAccess, DatabaseError, DatabaseName, Databases};
use crate::template::{Database, Secret};

/// How one creation fails. In each case the database exists afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CreateFault {
    /// It fails half way.
    Fail,
    /// It never returns.
    Hang,
}

#[derive(Default)]
pub(super) struct TestDatabases {
    names: Mutex<BTreeSet<String>>,
    pub(super) next_create: Mutex<Option<CreateFault>>,
    /// The number of next drops that fail.
    pub(super) failing_drops: AtomicUsize,
    /// Notified when a creation hangs.
    pub(super) hanging: Notify,
    /// The number of next lists that fail.
    pub(super) failing_lists: AtomicUsize,
    /// Whether the next list waits after it was made, and what it waits for.
    list_hangs: AtomicBool,
    list_goes_on: Notify,
    /// The databases of other nodes.
    pub(super) others: Mutex<HashMap<NodeId, Arc<TestDatabases>>>,
}

impl TestDatabases {
    /// Makes a database, as this node would.
    pub(super) fn add(&self, name: &str) {
        self.names.lock().insert(name.to_owned());
    }

    /// Has the next list wait after it was made. Returns what is notified then.
    pub(super) fn hang_next_list(&self) -> &Notify {
        self.list_hangs.store(true, Ordering::SeqCst);
        &self.hanging
    }

    /// Lets the list that waits return.
    pub(super) fn go_on(&self) {
        self.list_goes_on.notify_one();
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.names.lock().iter().cloned().collect()
    }
}

fn failed(operation: &str) -> DatabaseError {
    DatabaseError::Failed { operation: operation.to_owned(), why: "as the test wants".to_owned() }
}

#[async_trait]
impl Databases for TestDatabases {
    fn is_configured(&self) -> bool {
        true
    }

    fn access(&self, id: &InstanceId) -> Option<DatabaseAccess> {
        let name = id.as_str().to_owned();
        Some(DatabaseAccess { host: "db.test".to_owned(), port: 3306, user: name.clone(), name })
    }

    async fn create_database(
        &self,
        id: &InstanceId,
        _wanted: &Database,
        _password: &Secret,
    ) -> Result<(), DatabaseError> {
        self.names.lock().insert(id.as_str().to_owned());
        let fault = self.next_create.lock().take();
        match fault {
            None => Ok(()),
            Some(CreateFault::Fail) => Err(failed("create the database")),
            Some(CreateFault::Hang) => {
                self.hanging.notify_one();
                std::future::pending().await
            }
        }
    }

    async fn drop_database(&self, id: &InstanceId) -> Result<(), DatabaseError> {
        let fails = self.failing_drops.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if fails.is_ok() {
            return Err(failed("drop the database"));
        }
        self.names.lock().remove(id.as_str());
        Ok(())
    }

    async fn list(&self) -> Result<Vec<DatabaseName>, DatabaseError> {
        let fails = self.failing_lists.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        if fails.is_ok() {
            return Err(failed("list the databases"));
        }
        let listed = self.names().into_iter().map(DatabaseName).collect();
        if self.list_hangs.swap(false, Ordering::SeqCst) {
            self.hanging.notify_one();
            self.list_goes_on.notified().await;
        }
        Ok(listed)
    }

    async fn drop_unowned(
        &self,
        listed: Vec<DatabaseName>,
        owners: &HashSet<InstanceId>,
    ) -> Result<usize, DatabaseError> {
        let is_owned = |name: &str| owners.iter().any(|id| id.as_str() == name);
        let unowned: Vec<_> = listed.into_iter().filter(|DatabaseName(name)| !is_owned(name)).collect();
        let mut names = self.names.lock();
        Ok(unowned.iter().filter(|DatabaseName(name)| names.remove(name)).count())
    }

    fn of_node(&self, node: &NodeId) -> Arc<dyn Databases> {
        self.others.lock().entry(node.clone()).or_default().clone()
    }

    async fn shut_down(&self, kept: &HashSet<InstanceId>) -> Result<(), DatabaseError> {
        let listed = self.list().await?;
        self.drop_unowned(listed, kept).await.map(drop)
    }
}
