//! Huge pages of this program while it acts as runc. Its allocator asks for them, and the kernel clears 2 MiB for each
//! thread of a program that needs a tenth of that and ends soon. That took 2 to 7 ms of a restore. Other programs must not
//! inherit the setting: instances would.

use nix::sys::prctl::set_thp_disable;

/// Has this process get no more huge pages. If the kernel refuses, it is slower.
pub(super) fn avoid() {
    let _ = set_thp_disable(true);
}

/// Starts another program, which may have huge pages.
pub(super) fn allow_to<T>(start: impl FnOnce() -> T) -> T {
    let _ = set_thp_disable(false);
    let started = start();
    avoid();
    started
}
