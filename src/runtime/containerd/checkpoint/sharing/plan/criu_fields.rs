//! The numbers of the fields of CRIU's messages about memory, and their values.

/// The field of `mm_entry` with the mappings.
pub(super) const MAPPINGS: u32 = 14;

/// The fields of `vma_entry`, which describes a mapping.
pub(super) mod vma {
    pub(in super::super) const START: u32 = 1;
    pub(in super::super) const END: u32 = 2;
    pub(in super::super) const OFFSET: u32 = 3;
    pub(in super::super) const FILE: u32 = 4;
    pub(in super::super) const PROTECTION: u32 = 5;
    pub(in super::super) const FLAGS: u32 = 6;
    pub(in super::super) const STATUS: u32 = 7;
    pub(in super::super) const ADVICE: u32 = 9;
    pub(in super::super) const FILE_FLAGS: u32 = 10;

    // Values of `PROTECTION`.
    pub(in super::super) const WRITE: u64 = 2;
    pub(in super::super) const EXECUTE: u64 = 4;

    // Values of `STATUS`.
    pub(in super::super) const REGULAR: u64 = 1;
    pub(in super::super) const HEAP: u64 = 1 << 5;
    pub(in super::super) const FILE_PRIVATE: u64 = 1 << 6;
    const FILE_SHARED: u64 = 1 << 7;
    pub(in super::super) const ANON_PRIVATE: u64 = 1 << 9;
    const MEMFD: u64 = 1 << 14;
    pub(in super::super) const GUARD: u64 = 1 << 16;
    /// Shared anonymous memory, as CRIU records it on newer kernels.
    pub(in super::super) const ANON_SHARED: u64 = REGULAR | FILE_SHARED | MEMFD;

    // Values of `FLAGS`, which are those of `mmap`.
    pub(in super::super) const MAP_SHARED: u64 = 0x1;
    pub(in super::super) const MAP_PRIVATE: u64 = 0x2;
    const MAP_FIXED: u64 = 0x10;
    pub(in super::super) const MAP_ANONYMOUS: u64 = 0x20;
    const MAP_NORESERVE: u64 = 0x4000;
    const MAP_STACK: u64 = 0x2_0000;
    /// The flags that do not change what a page contains. Not among them: mappings that grow downwards, have huge pages
    /// or are locked.
    pub(in super::super) const HARMLESS: u64 =
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE | MAP_STACK;

    /// The advice that memory is zero in a child process.
    pub(in super::super) const WIPE_ON_FORK: u64 = 1 << 18;
    /// The advice that a mapping of a file accepts too: how it is read, huge pages or none, not in core dumps, not in
    /// child processes. Not among it: zero in a child process, merged with equal pages.
    pub(in super::super) const ACCEPTED_ADVICE: u64 = 1 << 1 | 1 << 2 | 1 << 10 | 1 << 14 | 1 << 15 | 1 << 16;
}

/// The fields of `pagemap_entry`, which describes pages that follow each other.
pub(super) mod run {
    pub(in super::super) const ADDRESS: u32 = 1;
    /// The number of pages, as older versions of CRIU write it; 0 in newer ones.
    pub(in super::super) const PAGES_32: u32 = 2;
    pub(in super::super) const IN_PARENT: u32 = 3;
    pub(in super::super) const FLAGS: u32 = 4;
    pub(in super::super) const PAGES: u32 = 5;

    // Values of `FLAGS`.
    pub(in super::super) const PARENT: u64 = 1;
    pub(in super::super) const LAZY: u64 = 2;
    pub(in super::super) const PRESENT: u64 = 4;
}
