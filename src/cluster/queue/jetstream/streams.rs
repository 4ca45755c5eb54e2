//! The two streams of a queue: their names, subjects and settings, and the consumers of the first. Pure.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};

use super::super::{Job, Lane};

/// Within this time a message id counts once.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Age at which a job is removed that no node takes: it is a hint, which is given again while the work is missing.
const MAX_JOB_AGE: Duration = Duration::from_secs(60 * 60);

/// Age at which a parked job is removed.
const MAX_PARKED_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Most parked jobs. The oldest is removed for a further one.
const MAX_PARKED: i64 = 1_000;

/// How long a consumer is kept that no node uses.
const CONSUMER_TTL: Duration = Duration::from_secs(60 * 60);

/// The names of a queue's streams.
#[derive(Debug, Clone)]
pub(super) struct StreamNames {
    /// The stream of jobs.
    pub(super) jobs: String,
    /// The stream of parked jobs.
    pub(super) parked: String,
}

impl StreamNames {
    /// Returns the names that follow from that of the stream of jobs.
    pub(super) fn new(jobs: &str) -> Self {
        Self { jobs: jobs.to_owned(), parked: format!("{jobs}_PARKED") }
    }

    /// Returns the subject of a lane. Names of templates and nodes have no dots, so they are one token each.
    pub(super) fn subject(&self, lane: &Lane) -> String {
        let jobs = &self.jobs;
        match lane {
            Lane::Provision(template) => format!("{jobs}.provision.{template}"),
            Lane::Cleanup(node) => format!("{jobs}.cleanup.{node}"),
        }
    }

    /// Returns the subject of a parked job, which is that job's alone.
    pub(super) fn parked_subject(&self, job: &Job) -> String {
        format!("{}.parked.{}", self.jobs, job.id().replace('/', "."))
    }

    /// Returns the subject of all parked jobs.
    pub(super) fn all_parked(&self) -> String {
        format!("{}.parked.>", self.jobs)
    }

    /// Returns the settings of the stream of jobs: each message is removed once it is done.
    pub(super) fn jobs_config(&self) -> Config {
        Config {
            name: self.jobs.clone(),
            subjects: vec![format!("{}.provision.*", self.jobs), format!("{}.cleanup.*", self.jobs)],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            duplicate_window: DUPLICATE_WINDOW,
            max_age: MAX_JOB_AGE,
            num_replicas: 1,
            ..Config::default()
        }
    }

    /// Returns the settings of the stream of parked jobs: one message for each, the last.
    pub(super) fn parked_config(&self) -> Config {
        Config {
            name: self.parked.clone(),
            subjects: vec![self.all_parked()],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            discard: DiscardPolicy::Old,
            max_messages: MAX_PARKED,
            max_messages_per_subject: 1,
            max_age: MAX_PARKED_AGE,
            num_replicas: 1,
            ..Config::default()
        }
    }

    /// Returns the settings of a lane's consumer, which all nodes that take from the lane share.
    pub(super) fn consumer(&self, lane: &Lane, ack_wait: Duration) -> pull::Config {
        let name = match lane {
            Lane::Provision(template) => format!("provision-{template}"),
            Lane::Cleanup(node) => format!("cleanup-{node}"),
        };
        pull::Config {
            durable_name: Some(name),
            filter_subject: self.subject(lane),
            ack_policy: AckPolicy::Explicit,
            ack_wait,
            // Without limit: a worker counts, and parks what failed too often.
            max_deliver: -1,
            inactive_threshold: CONSUMER_TTL,
            ..pull::Config::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::{InstanceId, NodeId, TemplateName};

    #[test]
    fn subjects_of_jobs_and_of_parked_jobs_never_overlap() {
        let names = StreamNames::new("WORK");
        let template = TemplateName::new("shop").unwrap();
        let job = Job::Provision { template: template.clone(), generation: 2, slot: 3 };
        assert_eq!(names.subject(&job.lane()), "WORK.provision.shop");
        assert_eq!(names.parked_subject(&job), "WORK.parked.shop.2.3");
        let (node, instance) = (NodeId::random(), InstanceId::random(&template));
        let cleanup = Job::Cleanup { node: node.clone(), instance: instance.clone() };
        assert_eq!(names.subject(&cleanup.lane()), format!("WORK.cleanup.{node}"));
        assert_eq!(names.parked_subject(&cleanup), format!("WORK.parked.cleanup.{instance}"));
        assert_eq!(names.jobs_config().subjects, ["WORK.provision.*", "WORK.cleanup.*"]);
    }
}
