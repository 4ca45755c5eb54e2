//! Containers: how one is specified, started or restored, given files, watched, frozen, and ended.
//!
//! | file | what it does |
//! |---|---|
//! | `start`, `stop` | starts an instance and ends it, step by step |
//! | `restored_start` | starts one from a checkpoint, again where that may have failed by chance |
//! | `network` | gives an instance that is started its network |
//! | `instances` | the running instances |
//! | `exit_events` | notices containers that end by themselves |
//! | `record`, `task` | containerd's records and tasks |
//! | `spec`, `seccomp`, `masked_paths` | what a container may do |
//! | `frozen_owners` | ids in the files of a frozen instance |
//! | `disk`, `layer_writer`, `first_files` | where an instance writes, and the files it is given before it starts |
//! | `exec` | commands beside the app |

pub(super) mod disk;
mod exec;
pub(super) mod exit_events;
mod first_files;
mod frozen_owners;
pub(super) mod instances;
mod layer_writer;
mod masked_paths;
mod network;
pub(super) mod record;
mod restored_start;
mod seccomp;
mod spec;
mod start;
mod stop;
pub(super) mod task;
mod without_ids;

pub(super) use task::{freeze, list_processes, remove_task};
