//! What every queue does. [`queue_suite`] makes one test of each function for one backend.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use try_it_now::clock::Millis;
use try_it_now::cluster::queue::{Backlog, Job, Lane, Queue, TakenJob};
use try_it_now::instance::{InstanceId, NodeId, TemplateName};

/// A wait that ends only if a job is lost.
pub(crate) const LONG: Duration = Duration::from_secs(20);
/// How long is waited for a job that does not come.
const SHORT: Duration = Duration::from_millis(200);

/// Makes the tests for one backend, from a name and a closure that makes a new queue, with what must live as long as it,
/// or returns `None` if it cannot be tested here.
macro_rules! queue_suite {
    ($backend:ident, $new:expr) => {
        queue_suite! { @ $backend, $new,
            a_job_is_taken_once_and_gone_when_it_is_done
            jobs_with_the_same_id_count_once
            a_job_that_is_not_settled_is_delivered_again
            reports_of_progress_keep_a_job_from_being_delivered_again
            a_job_that_is_retried_later_comes_back_after_the_delay
            a_parked_job_is_listed_with_its_error_and_can_be_put_back
            a_job_that_is_parked_twice_is_listed_once
            a_node_takes_only_from_the_lanes_that_it_names
            a_waiting_take_gets_a_job_that_comes_later
            the_backlog_counts_what_waits_and_what_is_in_progress
            jobs_of_several_lanes_are_all_taken_by_several_workers
        }
    };
    (@ $backend:ident, $new:expr, $($name:ident)*) => {
        mod $backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let Some((queue, _kept)) = ($new)().await else { return };
                    crate::suites::queue::$name(queue).await;
                }
            )*
        }
    };
}

pub(crate) fn template(name: &str) -> TemplateName {
    TemplateName::new(name).unwrap()
}

pub(crate) fn provision(name: &str, slot: u64) -> Job {
    Job::Provision { template: template(name), generation: 1, slot }
}

pub(crate) fn lane(name: &str) -> Lane {
    Lane::Provision(template(name))
}

pub(crate) async fn next(queue: &Arc<dyn Queue>, lanes: &[Lane]) -> TakenJob {
    queue.take(lanes, LONG).await.unwrap().expect("a job waits")
}

pub(crate) async fn is_empty(queue: &Arc<dyn Queue>, lanes: &[Lane]) -> bool {
    queue.take(lanes, SHORT).await.unwrap().is_none()
}

pub(crate) async fn a_job_is_taken_once_and_gone_when_it_is_done(queue: Arc<dyn Queue>) {
    assert!(is_empty(&queue, &[lane("shop")]).await);
    queue.publish(&provision("shop", 1)).await.unwrap();
    let taken = next(&queue, &[lane("shop")]).await;
    assert_eq!((&taken.job, taken.deliveries), (&provision("shop", 1), 1));
    assert!(is_empty(&queue, &[lane("shop")]).await, "it is taken");
    taken.receipt.done().await.unwrap();
    let backlog = queue.backlog(&lane("shop")).await.unwrap();
    assert_eq!((backlog.pending, backlog.in_progress), (0, 0));
}

pub(crate) async fn jobs_with_the_same_id_count_once(queue: Arc<dyn Queue>) {
    for _ in 0..3 {
        queue.publish(&provision("shop", 1)).await.unwrap();
    }
    queue.publish(&provision("shop", 2)).await.unwrap();
    for slot in [1, 2] {
        let taken = next(&queue, &[lane("shop")]).await;
        assert_eq!(taken.job, provision("shop", slot));
        taken.receipt.done().await.unwrap();
    }
    assert!(is_empty(&queue, &[lane("shop")]).await);
}

pub(crate) async fn a_job_that_is_not_settled_is_delivered_again(queue: Arc<dyn Queue>) {
    queue.publish(&provision("shop", 1)).await.unwrap();
    drop(next(&queue, &[lane("shop")]).await);
    let again = next(&queue, &[lane("shop")]).await;
    assert_eq!((&again.job, again.deliveries), (&provision("shop", 1), 2));
    again.receipt.done().await.unwrap();
}

pub(crate) async fn reports_of_progress_keep_a_job_from_being_delivered_again(queue: Arc<dyn Queue>) {
    queue.publish(&provision("shop", 1)).await.unwrap();
    let taken = next(&queue, &[lane("shop")]).await;
    for _ in 0..5 {
        let interval = taken.receipt.progress_interval();
        assert!(queue.take(&[lane("shop")], interval).await.unwrap().is_none());
        taken.receipt.progress().await.unwrap();
    }
    taken.receipt.done().await.unwrap();
    assert!(is_empty(&queue, &[lane("shop")]).await);
}

pub(crate) async fn a_job_that_is_retried_later_comes_back_after_the_delay(queue: Arc<dyn Queue>) {
    queue.publish(&provision("shop", 1)).await.unwrap();
    let delay = Duration::from_millis(600);
    let begun = tokio::time::Instant::now();
    next(&queue, &[lane("shop")]).await.receipt.retry_later(delay).await.unwrap();
    let again = next(&queue, &[lane("shop")]).await;
    assert!(begun.elapsed() >= delay, "{:?}", begun.elapsed());
    assert_eq!(again.deliveries, 2);
    again.receipt.retry_later(Duration::ZERO).await.unwrap();
    let at_once = next(&queue, &[lane("shop")]).await;
    assert_eq!(at_once.deliveries, 3);
    at_once.receipt.done().await.unwrap();
}

pub(crate) async fn a_parked_job_is_listed_with_its_error_and_can_be_put_back(queue: Arc<dyn Queue>) {
    queue.publish(&provision("shop", 1)).await.unwrap();
    let error = "x".repeat(5_000);
    next(&queue, &[lane("shop")]).await.receipt.park(&error, Millis(77)).await.unwrap();
    assert!(is_empty(&queue, &[lane("shop")]).await, "it left its lane");
    let parked = queue.parked().await.unwrap();
    assert_eq!(parked.len(), 1);
    assert_eq!((&parked[0].job, parked[0].deliveries), (&provision("shop", 1), 1));
    assert_eq!((parked[0].error.len(), parked[0].parked_at), (1_000, Millis(77)));
    assert!(!queue.put_back(parked[0].id + 1).await.unwrap(), "there is no such job");
    assert!(queue.put_back(parked[0].id).await.unwrap());
    assert!(!queue.put_back(parked[0].id).await.unwrap(), "it is put back once");
    assert!(queue.parked().await.unwrap().is_empty());
    let again = next(&queue, &[lane("shop")]).await;
    assert_eq!((&again.job, again.deliveries), (&provision("shop", 1), 1));
    again.receipt.done().await.unwrap();
}

pub(crate) async fn a_job_that_is_parked_twice_is_listed_once(queue: Arc<dyn Queue>) {
    queue.publish(&provision("shop", 1)).await.unwrap();
    next(&queue, &[lane("shop")]).await.receipt.park("first", Millis(1)).await.unwrap();
    let id = queue.parked().await.unwrap()[0].id;
    queue.put_back(id).await.unwrap();
    next(&queue, &[lane("shop")]).await.receipt.park("second", Millis(2)).await.unwrap();
    let parked = queue.parked().await.unwrap();
    assert_eq!(parked.iter().map(|parked| &*parked.error).collect::<Vec<_>>(), ["second"]);
}

pub(crate) async fn a_node_takes_only_from_the_lanes_that_it_names(queue: Arc<dyn Queue>) {
    let (here, there) = (NodeId::parse("here").unwrap(), NodeId::parse("there").unwrap());
    let instance = InstanceId::random(&template("shop"));
    let cleanup = Job::Cleanup { node: there.clone(), instance };
    queue.publish(&cleanup).await.unwrap();
    queue.publish(&provision("shop", 1)).await.unwrap();
    assert!(is_empty(&queue, &[Lane::Cleanup(here), lane("blog")]).await);
    let taken = next(&queue, &[Lane::Cleanup(there)]).await;
    assert_eq!(taken.job, cleanup);
    taken.receipt.done().await.unwrap();
}

pub(crate) async fn a_waiting_take_gets_a_job_that_comes_later(queue: Arc<dyn Queue>) {
    let taker = queue.clone();
    let lanes = [lane("shop"), lane("blog")];
    let taking = try_it_now::telemetry::task::spawn("test", async move { next(&taker, &lanes).await });
    assert!(tokio::time::timeout(SHORT, std::future::pending::<()>()).await.is_err());
    let published = tokio::time::Instant::now();
    queue.publish(&provision("blog", 1)).await.unwrap();
    let taken = taking.await.unwrap();
    assert!(published.elapsed() < LONG / 4, "it needs no poll: {:?}", published.elapsed());
    taken.receipt.done().await.unwrap();
}

pub(crate) async fn the_backlog_counts_what_waits_and_what_is_in_progress(queue: Arc<dyn Queue>) {
    assert_eq!(queue.backlog(&lane("shop")).await.unwrap(), Backlog::default());
    for slot in 0..3 {
        queue.publish(&provision("shop", slot)).await.unwrap();
    }
    let before = queue.backlog(&lane("shop")).await.unwrap();
    assert_eq!((before.generation, before.pending, before.in_progress), (0, 3, 0));
    let taken = next(&queue, &[lane("shop")]).await;
    let during = queue.backlog(&lane("shop")).await.unwrap();
    assert_eq!((during.pending, during.in_progress), (2, 1));
    assert!(during.generation > before.generation, "{during:?}");
    taken.receipt.done().await.unwrap();
    let after = queue.backlog(&lane("shop")).await.unwrap();
    assert_eq!((after.generation, after.pending, after.in_progress), (during.generation, 2, 0));
}

pub(crate) async fn jobs_of_several_lanes_are_all_taken_by_several_workers(queue: Arc<dyn Queue>) {
    const JOBS: u64 = 40;
    let names = ["shop", "blog", "wiki"];
    for slot in 0..JOBS {
        for name in names {
            queue.publish(&provision(name, slot)).await.unwrap();
        }
    }
    let lanes = names.map(lane);
    let work = |queue: Arc<dyn Queue>, lanes: [Lane; 3]| async move {
        let mut done = Vec::new();
        while let Some(taken) = queue.take(&lanes, SHORT).await.unwrap() {
            assert_eq!(taken.deliveries, 1, "none is taken and dropped");
            done.push(taken.job.id());
            taken.receipt.done().await.unwrap();
        }
        done
    };
    let workers = (0..3).map(|_| work(queue.clone(), lanes.clone()));
    let done: Vec<String> = futures_util::future::join_all(workers).await.concat();
    assert_eq!(done.len(), names.len() * JOBS as usize);
    assert_eq!(done.iter().collect::<HashSet<_>>().len(), done.len());
}
