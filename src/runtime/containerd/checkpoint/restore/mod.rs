//! Restores instances: this program in place of runc, as containerd's shim calls it.
//!
//! For the command `restore` this program asks CRIU directly, which saves the start of runc and one of two starts of
//! CRIU. For every other command this process becomes runc. Runc must know the containers that were restored without it:
//! so runc does the first restore of a checkpoint, and this program writes the state that runc recorded of it for each
//! later one, with that container's own values. If anything is not as expected before CRIU is asked, runc does the
//! restore: with cgroup v2, for example, where only runc sets up the rules for devices.
//!
//! | file | content |
//! |---|---|
//! | `command` | the entry point, and the choice between CRIU and runc |
//! | `request` | the arguments of a restore |
//! | `root` | the root of the container, mounted for its range of ids (`id_mapping`) |
//! | `mapped_images` | CRIU's images for that range |
//! | `runc_state` | what runc records of a container, and the runc that recorded it |
//! | `criu_restore` | the steps of a restore with CRIU, and their undo |
//! | `criu_rpc` | CRIU's messages |
//! | `cgroup_v1` | cgroups as runc creates them |
//! | `runc_fallback` | what a shim calls after the node's folder is removed |
//!
//! # Traps
//! The shim calls this program as long as the instance exists. So the program is called through a link in the node's
//! folder, which each server renews when it starts. Without the link the instance could not be ended.
//!
//! A change of the link's name, or of how the shim finds it, also concerns `client/runc_options.rs` and `RESTORER_LABEL`
//! in `client/labels.rs`. What runc is asked for and records is checked in `runc_state`. The test is
//! `tests/backends/containerd/restore.rs`.
//!
//! Without `CAP_SYS_RESOURCE`, limits of a process can only be lowered, also by runc and CRIU. Then only images whose
//! processes are all uid 0 can be restored.

mod cgroup_v1;
mod command;
mod criu_restore;
mod criu_rpc;
mod huge_pages;
mod id_mapping;
mod mapped_images;
mod request;
mod root;
mod runc_fallback;
mod runc_state;

pub(crate) use command::{LINK_NAME, SET_UP_COMMAND, SET_UP_RESTORED_COMMAND, run_internal_command};
pub(crate) use mapped_images::make_readable;
pub(crate) use root::mount_by_restorer;
pub(crate) use runc_fallback::RuncFallback;
