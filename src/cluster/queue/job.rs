//! A job: what it asks for, its id, its lane, and its message. Pure.
//!
//! A message comes from outside of this process, so it is decoded strictly: a wrong version, an unknown field or a
//! malformed name makes it malformed as a whole.

use serde::{Deserialize, Serialize};

use crate::instance::{InstanceId, NodeId, TemplateName};

/// The version of the messages that this program writes, and the only one that it reads.
const VERSION: u8 = 1;

/// Most bytes of a message. The longest names need far fewer.
const MAX_MESSAGE: usize = 4_096;

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Job {
    /// Make one instance of a template, on any node, as that node's own configuration describes it: the same template has
    /// different revisions on nodes whose programs have different paths, or during a reload.
    Provision {
        /// The template of the instance.
        template: TemplateName,
        /// How far the lane was delivered when the job was planned, see [`Backlog`].
        generation: u64,
        /// The number of the job among those of its generation.
        slot: u64,
    },
    /// Remove an instance that has ended, with all that belongs to it.
    Cleanup {
        /// The node that ran it, which alone can remove it.
        node: NodeId,
        /// The instance.
        instance: InstanceId,
    },
}

/// The line in which a job waits. Jobs of one lane are taken by the same nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Instances of one template, which every node with that template takes.
    Provision(TemplateName),
    /// Ended instances of one node, which that node alone takes.
    Cleanup(NodeId),
}

/// How many jobs a lane has, and how far it was delivered.
///
/// The ids of jobs that are planned now are those of `generation` from slot `pending` on. Two nodes that plan at the same
/// time see the same numbers, so that their jobs have the same ids and count once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Number of the last message of the lane that was delivered for the first time. It never decreases while the lane
    /// exists.
    pub generation: u64,
    /// Jobs that were never delivered.
    pub pending: usize,
    /// Jobs that were delivered and are neither done nor parked.
    pub in_progress: usize,
}

/// A message that is no job of this version.
#[derive(Debug, thiserror::Error)]
#[error("malformed job: {0}")]
pub struct MalformedJob(String);

#[derive(Serialize)]
struct OutgoingMessage<'a> {
    version: u8,
    job: &'a Job,
}

#[derive(Deserialize)]
struct MessageVersion {
    version: u8,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IncomingMessage {
    #[serde(rename = "version")]
    _version: u8,
    job: Job,
}

impl Job {
    /// Returns the id: `template/generation/slot`, or `cleanup/instance`. Messages with the same id within the queue's
    /// duplicate window count once.
    pub fn id(&self) -> String {
        match self {
            Job::Provision { template, generation, slot, .. } => format!("{template}/{generation}/{slot}"),
            Job::Cleanup { instance, .. } => format!("cleanup/{instance}"),
        }
    }

    /// Returns the lane in which the job waits.
    pub fn lane(&self) -> Lane {
        match self {
            Job::Provision { template, .. } => Lane::Provision(template.clone()),
            Job::Cleanup { node, .. } => Lane::Cleanup(node.clone()),
        }
    }

    /// Returns the message of the job, JSON of less than 4 KiB.
    pub fn encode(&self) -> Vec<u8> {
        let message = OutgoingMessage { version: VERSION, job: self };
        serde_json::to_vec(&message).expect("a job has only texts and numbers")
    }

    /// Reads the message of a job.
    ///
    /// # Errors
    /// The bytes are no message of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, MalformedJob> {
        if bytes.len() > MAX_MESSAGE {
            return Err(MalformedJob(format!("it has {} bytes, more than {MAX_MESSAGE}", bytes.len())));
        }
        let malformed = |error: serde_json::Error| MalformedJob(error.to_string());
        let MessageVersion { version } = serde_json::from_slice(bytes).map_err(malformed)?;
        if version != VERSION {
            return Err(MalformedJob(format!("its version is {version}, this program reads {VERSION}")));
        }
        let message: IncomingMessage = serde_json::from_slice(bytes).map_err(malformed)?;
        Ok(message.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn provision(generation: u64, slot: u64) -> Job {
        Job::Provision { template: TemplateName::new("shop").unwrap(), generation, slot }
    }

    fn cleanup() -> Job {
        let instance = InstanceId::random(&TemplateName::new("shop").unwrap());
        Job::Cleanup { node: NodeId::random(), instance }
    }

    #[test]
    fn a_job_survives_its_message() {
        for job in [provision(u64::MAX, 3), cleanup()] {
            assert_eq!(Job::decode(&job.encode()).unwrap(), job);
        }
        assert_eq!(provision(7, 3).id(), "shop/7/3");
    }

    #[test]
    fn what_is_no_message_of_this_version_is_malformed() {
        let right = String::from_utf8(provision(1, 2).encode()).unwrap();
        let changed = [
            right.replace("\"version\":1", "\"version\":2"),
            right.replace("\"version\":1,", ""),
            right.replace("provision", "remove"),
            right.replace("\"slot\":2", "\"slot\":-2"),
            right.replace("\"slot\":2", "\"slot\":2,\"more\":1"),
            right.replace("\"version\":1", "\"version\":1,\"more\":1"),
            right.replace("\"shop\"", "\"../shop\""),
            right.replace("\"shop\"", "\"shop.>\""),
            right[..right.len() - 1].to_owned(),
            format!("{right}{}", " ".repeat(MAX_MESSAGE)),
            String::new(),
        ];
        for text in changed {
            assert!(Job::decode(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Job::decode(&bytes);
        }
    }
}
