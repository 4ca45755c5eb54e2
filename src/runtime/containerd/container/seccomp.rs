//! The seccomp filter: which system calls an app may make. It allows what ordinary programs use, and nothing that
//! reaches outside of the container. The list follows what container engines allow by default, without the calls that
//! need capabilities which no instance has, and without io_uring, whose state CRIU cannot checkpoint.
//!
//! It is narrower than the list of engines where a call only helps an attacker: `pidfd_getfd`, `name_to_handle_at`,
//! `memfd_secret`, `vmsplice`, `remap_file_pages`, `process_mrelease`, and the calls that place memory on nodes.
//! `ptrace` stays: it reaches processes of the own container only, and crash reporters need it.
//!
//! Sockets are allowed by family, type and protocol: see [`socket_rules`]. Socket families are the part of the kernel
//! with the most holes, and any user may load their modules.
//!
//! Runc answers `ENOSYS` instead of `EPERM` to calls that are newer than the newest one of the list.

use serde_json::{Value, json};

/// System calls that are allowed with any arguments.
const ALLOWED: &str = "
    accept accept4 access alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chroot clock_getres
    clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
    epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group
    faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue
    futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64
    getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
    getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl ioprio_get ioprio_set kill lchown lgetxattr link linkat listen listxattr llistxattr
    lremovexattr lseek lsetxattr lstat madvise membarrier memfd_create mincore mkdir mkdirat mlock mlock2 mlockall
    mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap msgctl msgget msgrcv
    msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause pidfd_open
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2
    prlimit64 process_vm_readv pselect6 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
    recvfrom recvmmsg recvmsg removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
    select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area
    set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid
    setreuid setrlimit setsid setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd
    signalfd4 splice stat statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
    timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork wait4 waitid write
    writev";

/// All flags of `clone` that make a namespace.
const CLONE_NEW: u64 = 0x7E02_0000;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EPROTONOSUPPORT: u32 = 93;
const EAFNOSUPPORT: u32 = 97;

const AF_UNIX: u64 = 1;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const AF_NETLINK: u64 = 16;
const FAMILIES: [u64; 4] = [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK];

const SOCK_STREAM: u64 = 1;
const SOCK_DGRAM: u64 = 2;
const SOCK_RAW: u64 = 3;
const SOCK_SEQPACKET: u64 = 5;
/// `SOCK_NONBLOCK` and `SOCK_CLOEXEC`, which a program may add to a type.
const SOCK_FLAGS: u64 = 0x8_0800;

const IPPROTO_TCP: u64 = 6;
const IPPROTO_UDP: u64 = 17;
/// SCTP, UDP-Lite, SMC and MPTCP. A kernel without these modules answers `EPROTONOSUPPORT`, after which programs fall
/// back to TCP and UDP: Go, for example, asks for MPTCP first. CRIU can freeze none of them.
const OTHER_PROTOCOLS: [u64; 4] = [132, 136, 256, 262];
/// The protocol of netlink that reads addresses and routes.
const NETLINK_ROUTE: u64 = 0;

/// The part of an argument that the kernel reads of an `int`. Programs may leave anything in the other half.
const INT: u64 = 0xFFFF_FFFF;

/// The part of a mode that is the type of a file.
const S_IFMT: u64 = 0o170_000;
/// The types of files that `mknod` may make: none, which makes a plain file, a plain file, a FIFO and a UNIX socket.
const FILE_TYPES: [u64; 4] = [0, 0o100_000, 0o010_000, 0o140_000];
/// The calls that make a landlock sandbox.
const LANDLOCK: [&str; 3] = ["landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self"];

/// Returns the filter in the form of the runtime specification. `may_be_frozen` says whether the instance may become a
/// checkpoint: CRIU would lose its landlock sandboxes without a word, so programs get the answer of a kernel without landlock.
pub(crate) fn filter(may_be_frozen: bool) -> Value {
    let names: Vec<&str> = ALLOWED.split_whitespace().collect();
    let mut rules = vec![
        json!({ "names": names, "action": "SCMP_ACT_ALLOW" }),
        allow("clone", &[masked(0, CLONE_NEW, 0)]),
        // Its flags lie in memory, where a filter cannot see them; programs then fall back to `clone`.
        json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }),
        // Programs may ask which kind of system they run on, and may not choose another.
        allow("personality", &[masked(0, INT, INT)]),
        allow("personality", &[masked(0, INT, 0)]),
        match may_be_frozen {
            true => json!({ "names": LANDLOCK, "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }),
            false => json!({ "names": LANDLOCK, "action": "SCMP_ACT_ALLOW" }),
        },
    ];
    // Pipes and sockets with names are everyday; device files would reach the host's devices.
    for (call, mode) in [("mknod", 1), ("mknodat", 2)] {
        rules.extend(FILE_TYPES.map(|file_type| allow(call, &[masked(mode, S_IFMT, file_type)])));
    }
    rules.extend(socket_rules());
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": architectures(),
        "syscalls": rules,
    })
}

/// Returns the rules for new sockets. Allowed are UNIX sockets, TCP and UDP, and netlink for routes. What is refused gets
/// the answer of a kernel that was built without it, because programs have a way on from that: `EPERM` would end
/// programs that report to the kernel's audit, for example. Raw sockets get `EPERM`, as without `CAP_NET_RAW`.
///
/// No two rules match the same arguments, because then the order of rules would count.
fn socket_rules() -> Vec<Value> {
    let family = |family| masked(0, INT, family);
    let kind = |kind| masked(1, INT & !SOCK_FLAGS, kind);
    let protocol = |protocol| masked(2, INT, protocol);
    let mut rules = Vec::new();
    for of_unix in [SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET] {
        rules.extend(["socket", "socketpair"].map(|call| allow(call, &[family(AF_UNIX), kind(of_unix)])));
    }
    for internet in [AF_INET, AF_INET6] {
        for (of_it, carrier) in [(SOCK_STREAM, IPPROTO_TCP), (SOCK_DGRAM, IPPROTO_UDP)] {
            for number in [0, carrier] {
                rules.push(allow("socket", &[family(internet), kind(of_it), protocol(number)]));
            }
        }
        for other in OTHER_PROTOCOLS {
            rules.push(refuse_socket(EPROTONOSUPPORT, &[family(internet), protocol(other)]));
        }
    }
    for of_netlink in [SOCK_RAW, SOCK_DGRAM] {
        rules.push(allow("socket", &[family(AF_NETLINK), kind(of_netlink), protocol(NETLINK_ROUTE)]));
    }
    for (mask, value) in blocks_without(0, 5, &[NETLINK_ROUTE]) {
        rules.push(refuse_socket(EPROTONOSUPPORT, &[family(AF_NETLINK), masked(2, mask, value)]));
    }
    for (mask, value) in blocks_without(0, 6, &FAMILIES) {
        rules.push(refuse_socket(EAFNOSUPPORT, &[masked(0, mask, value)]));
    }
    rules
}

fn allow(call: &str, arguments: &[Value]) -> Value {
    json!({ "names": [call], "action": "SCMP_ACT_ALLOW", "args": arguments })
}

fn refuse_socket(errno: u32, arguments: &[Value]) -> Value {
    json!({ "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": arguments })
}

/// Returns the condition that an argument has this value in the bits of the mask.
fn masked(index: u32, mask: u64, value: u64) -> Value {
    json!({ "index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ" })
}

/// Returns masks and values that match the numbers from `start` to `start + 2^bits - 1` except those in `without`. A
/// filter has no condition for several unequal numbers.
fn blocks_without(start: u64, bits: u32, without: &[u64]) -> Vec<(u64, u64)> {
    let size = 1 << bits;
    if !without.iter().any(|number| (start..start + size).contains(number)) {
        return vec![(INT & !(size - 1), start)];
    }
    if bits == 0 {
        return Vec::new();
    }
    let mut blocks = blocks_without(start, bits - 1, without);
    blocks.extend(blocks_without(start + size / 2, bits - 1, without));
    blocks
}

fn architectures() -> Value {
    match std::env::consts::ARCH {
        "aarch64" => json!(["SCMP_ARCH_AARCH64"]),
        _ => json!(["SCMP_ARCH_X86_64"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_reaches_past_the_container_is_allowed() {
        let allowed: Vec<&str> = ALLOWED.split_whitespace().collect();
        for call in [
            "mount",
            "umount2",
            "unshare",
            "setns",
            "bpf",
            "init_module",
            "finit_module",
            "kexec_load",
            "reboot",
            "io_uring_setup",
            "add_key",
            "keyctl",
            "perf_event_open",
            "userfaultfd",
            "swapon",
            "settimeofday",
            "clone",
            "clone3",
            "socket",
            "personality",
            "open_by_handle_at",
            "mknod",
            "mknodat",
            "pivot_root",
            "pidfd_getfd",
            "name_to_handle_at",
            "memfd_secret",
            "vmsplice",
            "remap_file_pages",
            "process_vm_writev",
            "kcmp",
            "fanotify_init",
            "socketpair",
        ] {
            assert!(!allowed.contains(&call), "{call}");
        }
    }

    #[test]
    fn no_call_is_listed_twice() {
        let mut calls: Vec<&str> = ALLOWED.split_whitespace().collect();
        let listed = calls.len();
        calls.sort_unstable();
        calls.dedup();
        assert_eq!(calls.len(), listed);
    }

    /// Returns what the rules of a call answer to these arguments: an action and an error number. Panics if two rules
    /// match.
    fn answer(rules: &[Value], call: &str, arguments: [u64; 3]) -> (String, u64) {
        let matching = rules.iter().filter(|rule| {
            let conditions = rule["args"].as_array().into_iter().flatten();
            let holds = |condition: &Value| {
                let number = |name: &str| condition[name].as_u64().unwrap();
                assert_eq!(condition["op"], "SCMP_CMP_MASKED_EQ");
                arguments[number("index") as usize] & number("value") == number("valueTwo")
            };
            rule["names"].as_array().unwrap().contains(&call.into()) && conditions.into_iter().all(holds)
        });
        let found: Vec<_> = matching
            .map(|rule| {
                (rule["action"].as_str().unwrap().to_owned(), rule["errnoRet"].as_u64().unwrap_or_default())
            })
            .collect();
        assert!(found.len() <= 1, "{call} {arguments:?}");
        found.into_iter().next().unwrap_or(("SCMP_ACT_ERRNO".to_owned(), u64::from(EPERM)))
    }

    #[test]
    fn exactly_one_rule_answers_for_each_socket() {
        let rules = socket_rules();
        let answer = |call: &str, arguments| answer(&rules, call, arguments);
        let garbage = 0xABCD_EF01_0000_0000;
        let mut allowed = 0;
        for family in 0..=64 {
            for kind in 0..=10 {
                for protocol in (0..=40).chain([58, 115, 132, 136, 255, 256, 262, 512]) {
                    let answered = answer("socket", [family, kind, protocol]);
                    let with_flags = [family | garbage, kind | SOCK_FLAGS | garbage, protocol | garbage];
                    assert_eq!(answered, answer("socket", with_flags), "{family} {kind} {protocol}");
                    allowed += u32::from(answered.0 == "SCMP_ACT_ALLOW" && family != AF_UNIX);
                    if !FAMILIES.contains(&family) && family < 64 {
                        assert_eq!(answered, ("SCMP_ACT_ERRNO".to_owned(), u64::from(EAFNOSUPPORT)));
                    }
                }
            }
        }
        assert_eq!(allowed, 2 * 2 * 2 + 2);
        // For the audit of the kernel, and multipath TCP.
        for refused in [[16, 3, 9], [2, 1, 262], [10, 1, 262]] {
            assert_eq!(answer("socket", refused).1, u64::from(EPROTONOSUPPORT), "{refused:?}");
        }
        assert_eq!(answer("socket", [2, 3, 1]).1, u64::from(EPERM));
        assert_eq!(answer("socketpair", [AF_UNIX, SOCK_STREAM, 0]).0, "SCMP_ACT_ALLOW");
        assert_eq!(answer("socketpair", [AF_INET, SOCK_STREAM, 0]).1, u64::from(EPERM));
    }
}
