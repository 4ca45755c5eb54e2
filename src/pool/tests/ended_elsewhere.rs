//! Instances of this node that another node has ended, before the store's stream of events reports it here: the route is
//! closed before the app stops.

use std::time::Duration;

use super::fixture::Fixture;
use crate::instance::{EndReason, InstanceId};
use crate::pool::end::gc::collect;
use crate::proxy::routes::RouteLookup;
use crate::store::{NodeInfo, RouteChange, Store as _};

/// What another node did.
#[derive(Debug, Clone, Copy)]
enum End {
    Eviction,
    Release,
}

/// Returns a pool whose stream of events is not read, with an instance that a visitor has.
async fn assigned() -> (Fixture, InstanceId) {
    let fixture = Fixture::new().await;
    fixture.run_attempt().await;
    let claimed = fixture.claim().await;
    let id = claimed.instance().unwrap().id().clone();
    fixture.pool.supply.apply_route_change(&RouteChange::Set(fixture.records().await[0].clone()));
    assert!(matches!(fixture.find(&id), RouteLookup::Live(_)));
    (fixture, id)
}

impl Fixture {
    fn find(&self, id: &InstanceId) -> RouteLookup {
        self.pool.shared.routes.find(id.as_str())
    }

    async fn end_elsewhere(&self, id: &InstanceId, end: End) {
        match end {
            End::Eviction => {
                let info = NodeInfo {
                    id: self.node.clone(),
                    address: "this.test:1".to_owned(),
                    mode: "process".to_owned(),
                    pools: Vec::new(),
                };
                self.store.heartbeat(&info).await.unwrap();
                assert_eq!(self.store.evict_node(&self.node, Duration::ZERO).await.unwrap().len(), 1);
            }
            End::Release => drop(self.store.release(id).await.unwrap()),
        }
        assert!(matches!(self.find(id), RouteLookup::Live(_)), "nothing has reported it here");
    }

    fn assert_closed(&self, id: &InstanceId, end: End) {
        match (end, self.find(id)) {
            (End::Eviction, RouteLookup::Ended(EndReason::NodeLost))
            | (End::Release, RouteLookup::Absent) => {}
            (_, other) => panic!("{end:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_garbage_collection_closes_the_route_before_it_stops_the_app() {
    for end in [End::Eviction, End::Release] {
        let (fixture, id) = assigned().await;
        fixture.end_elsewhere(&id, end).await;
        assert!(collect(&fixture.pool.supply).await);
        assert_eq!(
            fixture.runtime.running(),
            std::slice::from_ref(&id),
            "{end:?}: the task that stops it has not begun"
        );
        fixture.assert_closed(&id, end);
        fixture.tasks_ended().await;
        assert_eq!(fixture.runtime.running(), [], "{end:?}");
    }
}

#[tokio::test]
async fn the_route_of_an_app_that_dies_after_the_end_is_closed() {
    for end in [End::Eviction, End::Release] {
        let (fixture, id) = assigned().await;
        fixture.end_elsewhere(&id, end).await;
        fixture.pool.supply.fail(&id, "it exited").await;
        fixture.assert_closed(&id, end);
        fixture.tasks_ended().await;
        assert_eq!(fixture.runtime.running(), [], "{end:?}");
    }
}
