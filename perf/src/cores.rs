//! Which core runs what: the server has one for itself, and the load, with the apps, another.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The two cores in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cores {
    /// The core of whatever is measured.
    pub(crate) server: usize,
    /// The core of the load.
    pub(crate) load: usize,
}

impl Cores {
    /// The first and the last of those that we may use; the same one twice where there is only one.
    pub(crate) fn choose() -> io::Result<Self> {
        let may = sched_getaffinity(None)?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|core| may.is_set(*core));
        let server = usable.next().ok_or_else(|| io::Error::other("there is no core to run on"))?;
        Ok(Self { server, load: usable.next_back().unwrap_or(server) })
    }

    /// Whether the server has a core of its own.
    pub(crate) fn are_two(self) -> bool {
        self.server != self.load
    }
}

/// Binds the calling thread, and the processes that it will start, to one core.
pub(crate) fn bind_to(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Does something on another core. Processes that it starts stay there.
pub(crate) fn on<T, E: From<io::Error>>(core: usize, act: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let own = sched_getaffinity(None).map_err(io::Error::from)?;
    bind_to(core)?;
    let done = act();
    sched_setaffinity(None, &own).map_err(io::Error::from)?;
    done
}
