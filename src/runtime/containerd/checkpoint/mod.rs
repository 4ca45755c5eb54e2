//! Checkpoints: frozen instances of a template, from which other instances are restored.
//!
//! | file | content |
//! |---|---|
//! | `bake` | freezes an instance into a checkpoint, and removes checkpoints |
//! | `manifest` | what is stored with a checkpoint |
//! | `catalog` | the checkpoints of this node |
//! | `sharing` | rewrites a checkpoint so that its instances share memory |
//! | `freezable` | what CRIU cannot freeze, and what its errors mean |
//! | `connections` | which TCP connections go on in restored instances |
//! | `randomness` | random numbers that differ between the instances of a checkpoint |
//! | `mapped_code` | which programs and libraries a process has mapped |
//! | `prefault` | the pages that a restored instance gets before it runs |
//! | `restore` | the restore itself: this program in place of runc |
//! | `criu` | the version of CRIU |
//! | `procfs` | what `/proc` says of a process in a container |
//!
//! # Traps
//! CRIU may write for a moment after the server that started the freeze has died. So folders of incomplete checkpoints
//! are removed after the containers (`takeover`).
//!
//! On cgroup v1 the freezer cannot stop a cgroup that its CPU limit holds back: freezing fails then.
//!
//! CRIU cannot dump the host's `/dev/null` when a container has it open from outside. So the standard input of an
//! instance is a FIFO that never receives anything, as its output is one.

pub(super) mod bake;
pub(super) mod catalog;
pub(super) mod connections;
pub(super) mod criu;
mod freezable;
pub(super) mod manifest;
mod mapped_code;
pub(super) mod prefault;
mod procfs;
pub(super) mod randomness;
pub(super) mod restore;
pub(super) mod sharing;
