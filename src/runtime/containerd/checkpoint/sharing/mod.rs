//! Instances that share memory: a checkpoint is rewritten so that the private memory of its processes becomes private
//! mappings of files that all its instances map. An instance takes memory only for the pages that it changes.
//!
//! | file | content |
//! |---|---|
//! | `shared_memory` | the tmpfs of each checkpoint, and the limit of all |
//! | `gaps` | the parts of the files that no mapping covers, which are given back |
//! | `rewrite` | rewriting a checkpoint's folder |
//! | `plan` | which mappings are shared, and where their pages go |
//! | `layout` | where the files are |
//! | `allocator_scan`, `zero_reliance` | whether an app's allocators work with shared memory |
//! | `madvise_trace`, `madvise_events` | which memory an app discards |
//! | `madvise_filter` | the seccomp filter that answers `madvise` for some allocators |
//! | `process_images` | where CRIU's images have the memory of each process |
//! | `image_dir`, `criu_image`, `proto_message`, `refused` | CRIU's image files |
//!
//! # Traps
//! Shared memory is a private mapping of `/dev/.mem/PID.bin`. A mount of its own would cost each restore 3.5 ms. `/dev`
//! must not be `noexec`, else such memory could not become executable, as PCRE's JIT needs.
//!
//! There is one file for each process: CRIU takes mappings of the same place in the same file in a parent and its child
//! for the same memory.
//!
//! An instance that was restored from a checkpoint cannot be frozen, because the files that it maps are in its
//! checkpoint.
//!
//! Memory that any process of an app discarded while it was traced is not shared; whole mappings are left out.
//!
//! A private mapping of a tmpfs allocates a page there when it reads a hole. When the tmpfs is full, the process that
//! accesses a new page is killed (SIGBUS). So the bake allocates whole mappings: else one instance could fill the
//! tmpfs, and others would be killed when they access their own memory.
//!
//! Between the mappings are gaps, into which mappings grow. Their pages are charged to the instances, so all instances
//! together cannot allocate more of them than their common memory limit. Each tmpfs has room for that much, and the gaps
//! are punched when an instance ends and when memory runs out: an instance that reads the gaps reaches its own limit and
//! harms no other.
//!
//! A change of what is shared, or how, must raise `FORMAT` in `manifest` and add a program to
//! `tests/backends/containerd/sharing/programs`.

mod allocator_scan;
mod criu_image;
mod gaps;
mod image_dir;
pub(super) mod layout;
mod madvise_events;
mod madvise_filter;
mod madvise_trace;
mod plan;
mod process_images;
mod proto_message;
mod refused;
mod rewrite;
mod shared_memory;
mod zero_reliance;

#[cfg(test)]
mod tests;

pub(super) use allocator_scan::scan_allocators;
pub(super) use criu_image::CriuImage;
pub(super) use gaps::MappedParts;
pub(super) use image_dir::verify_round_trip;
pub(crate) use madvise_trace::{MadviseTrace, remove_madvise_traces};
pub(super) use plan::stored_memory::{StoredMemory, StoredRange};
pub(super) use process_images::for_each_process;
pub(super) use proto_message::{Malformed, ProtoMessage};
pub(super) use rewrite::Evidence;
pub(super) use shared_memory::ShareError;
pub(crate) use shared_memory::{SharedMemory, remove_all};
pub(super) use zero_reliance::AllocatorReport;
