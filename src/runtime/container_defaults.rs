//! What a container may do and use unless its template says otherwise, whatever runs it.

/// Capabilities of an app that runs as root: it may handle files and users inside its own container.
pub(super) const CAPABILITIES: [&str; 10] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Most processes and threads of an instance unless its template says otherwise.
pub(super) const DEFAULT_PIDS: u32 = 512;

/// Soft and hard limit of open files unless the template says otherwise: the defaults of systemd, which Docker's
/// containers have too. What a container would inherit from its engine may be a billion, and some programs close every
/// possible file when they start.
pub(super) const DEFAULT_OPEN_FILES: (u64, u64) = (1024, 524_288);

/// How much the processes of instances are preferred when the host runs out of memory, out of 1000.
pub(super) const OOM_SCORE_ADJ: i32 = 500;
