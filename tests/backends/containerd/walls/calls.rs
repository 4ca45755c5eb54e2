//! Every system call and every socket, compared with what an app may use.

use std::collections::BTreeMap;

use super::ask;

const EPERM: i64 = 1;
const ENOSYS: i64 = 38;
const EPROTONOSUPPORT: i64 = 93;
const EAFNOSUPPORT: i64 = 97;
/// The program's word for a call that ended the process.
const BAD_CALL: i64 = -2;

/// The newest call that the filter knows. Newer ones are answered as by an older kernel.
const NEWEST: i64 = 456;

/// The calls of x86-64 that are refused, with their numbers.
const REFUSED: &str = "
    syslog=103 mknod=133 uselib=134 ustat=136 sysfs=139 vhangup=153 modify_ldt=154 pivot_root=155 _sysctl=156
    adjtimex=159 acct=163 settimeofday=164 mount=165 umount2=166 swapon=167 swapoff=168 reboot=169 sethostname=170
    setdomainname=171 iopl=172 ioperm=173 create_module=174 init_module=175 delete_module=176 get_kernel_syms=177
    query_module=178 quotactl=179 nfsservctl=180 getpmsg=181 putpmsg=182 afs_syscall=183 tuxcall=184 security=185
    io_setup=206 io_destroy=207 io_getevents=208 io_submit=209 io_cancel=210 lookup_dcookie=212 epoll_ctl_old=214
    epoll_wait_old=215 remap_file_pages=216 clock_settime=227 vserver=236 mbind=237 set_mempolicy=238
    get_mempolicy=239 kexec_load=246 add_key=248 request_key=249 keyctl=250 migrate_pages=256 mknodat=259
    unshare=272 vmsplice=278 move_pages=279 perf_event_open=298 fanotify_init=300 fanotify_mark=301
    name_to_handle_at=303 open_by_handle_at=304 clock_adjtime=305 setns=308 process_vm_writev=311 kcmp=312
    finit_module=313 kexec_file_load=320 bpf=321 userfaultfd=323 io_pgetevents=333 io_uring_setup=425
    io_uring_enter=426 io_uring_register=427 open_tree=428 move_mount=429 fsopen=430 fsconfig=431 fsmount=432
    fspick=433 pidfd_getfd=438 process_madvise=440 mount_setattr=442 quotactl_fd=443 memfd_secret=447
    process_mrelease=448 set_mempolicy_home_node=450 map_shadow_stack=453";

/// Returns what is wrong with the program's answers.
fn wrong_calls(answer: &str) -> Vec<String> {
    let refused: BTreeMap<i64, &str> = REFUSED
        .split_whitespace()
        .map(|word| word.split_once('=').unwrap())
        .map(|(name, number)| (number.parse().unwrap(), name))
        .collect();
    let mut wrong = Vec::new();
    let mut last = -1;
    for pair in answer.split_whitespace() {
        let (number, error) = pair.split_once(':').unwrap();
        let (number, error): (i64, i64) = (number.parse().unwrap(), error.parse().unwrap());
        assert_eq!(number, last + 1);
        last = number;
        let name = refused.get(&number);
        let is_right = match number {
            // All flags make namespaces; asked for by reference they cannot be judged.
            56 => error == EPERM,
            435 => error == ENOSYS,
            // No family and no type.
            41 | 53 => error == EPERM,
            _ if number > NEWEST => error == ENOSYS,
            // `uretprobe` and `uprobe`: the kernel lets them pass every filter, and they do nothing for a program.
            335 | 336 => true,
            // These numbers mean nothing on x86-64.
            337..=423 => error == EPERM,
            _ if name.is_some() => error == EPERM,
            _ => error != EPERM && error != BAD_CALL,
        };
        if !is_right {
            wrong.push(format!("{number} {}: {error}", name.unwrap_or(&"")));
        }
    }
    assert_eq!(last, 470);
    wrong
}

#[cfg(target_arch = "x86_64")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_instance_reaches_only_the_listed_system_calls() {
    ask(&["calls", "x32", "namespaces"], |start, answers| {
        assert_eq!(wrong_calls(&answers[0]), Vec::<String>::new(), "{start}");
        // The same calls by the numbers of another calling convention.
        let reached = answers[1].split_whitespace().filter(|pair| !pair.ends_with(":-2"));
        let reached: Vec<&str> = reached.filter(|pair| !pair.ends_with(":38")).collect();
        assert_eq!(reached, Vec::<&str>::new(), "{start}");
        let errors = answers[2].split_whitespace().filter_map(|word| word.split_once(':'));
        let errors: Vec<_> = errors.map(|(_, error)| error.parse::<i64>().unwrap()).collect();
        assert_eq!(errors, [EPERM; 16], "{start}: {}", answers[2]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_instance_opens_only_unix_tcp_udp_and_route_sockets() {
    ask(&["sockets"], |start, answers| {
        let (pairs, sockets): (Vec<&str>, Vec<&str>) =
            answers[0].lines().partition(|line| line.starts_with("pair "));
        assert_eq!(pairs, ["pair 1,1", "pair 1,2", "pair 1,5"], "{start}");
        let mut opened = Vec::new();
        for line in sockets {
            let (socket, error) = line.split_once(':').unwrap();
            let numbers: Vec<i64> = socket.split(',').map(|number| number.parse().unwrap()).collect();
            let (family, kind, protocol) = (numbers[0], numbers[1], numbers[2]);
            let error: i64 = error.parse().unwrap();
            match (family, kind, protocol) {
                _ if error == 0 => opened.push((family, kind, protocol)),
                // Programs fall back from MPTCP, and do without the kernel's audit, only after these answers.
                (2 | 10, _, 132 | 136 | 256 | 262) | (16, _, 1..=31) => {
                    assert_eq!(error, EPROTONOSUPPORT, "{start}: {line}");
                }
                (1 | 2 | 10 | 16 | 64.., ..) => {}
                _ => assert_eq!(error, EAFNOSUPPORT, "{start}: {line}"),
            }
        }
        opened.dedup();
        let internet = |family| [(family, 1, 0), (family, 1, 6), (family, 2, 0), (family, 2, 17)];
        let unix = [1, 2, 5].into_iter().flat_map(|kind| [(1, kind, 0), (1, kind, 1)]);
        let expected = unix.chain(internet(2)).chain(internet(10)).chain([(16, 2, 0), (16, 3, 0)]);
        assert_eq!(opened, expected.collect::<Vec<_>>(), "{start}");
    })
    .await;
}
