//! What an instance shares with others stays as it is, whatever root in it tries; and what it uses counts for it alone.

use try_it_now::runtime::{Runtime, StartMethod};
use try_it_now::template::{App, ResourceLimits};

use super::super::{REVISION, TestNode, app, send_command, start, with_timeout};

/// Executes the one line that each visitor sends. `write` tries to change the files of shared memory in every way, and
/// answers which of them succeeded.
const ATTACK_APP: &str = r#"
$libc = FFI::cdef("int open(const char *, int); long write(int, const char *, size_t); int fchmod(int, unsigned);
    unsigned char *mmap(void *, size_t, int, int, int, long); void *memset(void *, int, size_t);
    long lseek(int, long, int); int close(int);
    int mount(const char *, const char *, const char *, unsigned long, void *); int umount2(const char *, int);
    int shmget(int, size_t, int); unsigned char *shmat(int, void *, int); int semget(int, int, int); int msgget(int, int);
    int fallocate(int, int, long, long); int ftruncate(int, long);");
// The files of its memory map too: the root of a user namespace cannot list them.
function shared_files() {
    preg_match_all("~/dev/\.mem/\S+~", file_get_contents("/proc/self/maps"), $found);
    return array_unique(array_merge(glob("/dev/.mem/*"), $found[0]));
}
$bulk = str_repeat("0123456789abcdef", 1 << 16);
$listener = stream_socket_server("tcp://127.0.0.1:" . getenv("PORT"));
while (true) {
    $visitor = @stream_socket_accept($listener, 3600);
    if (!$visitor) continue; // woken by a restore
    $words = explode(" ", trim(fgets($visitor)));
    $answer = "done";
    switch ($words[0]) {
        case "sum":
            $answer = "";
            foreach (shared_files() as $path) $answer .= md5(file_get_contents($path, false, null, 0, 1 << 20));
            $answer = $answer ?: "none";
            break;
        case "write":
            $succeeded = [];
            foreach (array_merge(shared_files(), ["/dev/.mem", "/dev/null", "/dev"]) as $path) {
                if ($path !== "/dev/null" && $libc->open($path, 2) >= 0) $succeeded[] = "open $path for writing";
                if (@chmod($path, 0777)) $succeeded[] = "chmod $path";
                if (@chown($path, 1)) $succeeded[] = "chown $path";
                if ($path !== "/dev" && @unlink($path)) $succeeded[] = "remove $path";
                if (@rename($path, "$path.old")) $succeeded[] = "rename $path";
                if (@file_put_contents("$path/new", "x")) $succeeded[] = "create a file in $path";
            }
            foreach (shared_files() as $path) {
                $file = $libc->open($path, 0);
                if ($file < 0) continue;
                if ($libc->write($file, "x", 1) > 0) $succeeded[] = "write";
                if ($libc->fchmod($file, 0777) === 0) $succeeded[] = "fchmod";
                if ($libc->ftruncate($file, 0) === 0) $succeeded[] = "truncate";
                if ($libc->fallocate($file, 3, 0, 4096) === 0) $succeeded[] = "punch";
                if ($libc->open("/proc/self/fd/$file", 2) >= 0) $succeeded[] = "reopen";
                $shared = $libc->mmap(NULL, 4096, 3, 1, $file, 0);
                if (FFI::cast("long", $shared)->cdata !== -1) $succeeded[] = "map shared";
                // The kernel lets a process write to its own private mapping, which makes a copy.
                $private = $libc->mmap(NULL, 4096, 1, 2, $file, 0);
                $own = $libc->open("/proc/self/mem", 2);
                $libc->lseek($own, FFI::cast("long", $private)->cdata, 0);
                $libc->write($own, "hostile", 7);
                $libc->close($own);
            }
            foreach (@scandir("/proc/self/map_files") ?: [] as $range)
                if (str_contains((string) @readlink("/proc/self/map_files/$range"), ".mem")
                    && $libc->open("/proc/self/map_files/$range", 2) >= 0) $succeeded[] = "reopen a mapping";
            if ($libc->mount("none", "/dev", NULL, 32 | 4096, NULL) === 0) $succeeded[] = "remount";
            if ($libc->umount2("/dev", 2) === 0) $succeeded[] = "unmount";
            $answer = implode(", ", $succeeded) ?: "none";
            break;
        case "share":
            // System V memory, semaphores and messages with a key that others may use too.
            $answer = min($libc->shmget(4711, 4096, 0666 | 01000), $libc->semget(4711, 1, 0666 | 01000),
                $libc->msgget(4711, 0666 | 01000)) >= 0 ? "made" : "refused";
            break;
        case "find":
            $found = [$libc->shmget(4711, 4096, 0), $libc->semget(4711, 1, 0), $libc->msgget(4711, 0)];
            $answer = max($found) >= 0 ? "found" : "none";
            break;
        case "shm":
            $memory = $libc->shmat($libc->shmget(0, $words[1] << 20, 0666 | 01000), NULL, 0);
            $libc->memset($memory, 7, $words[1] << 20);
            break;
        case "files":
            mkdir("/many");
            for ($count = 0; $count < $words[1] && @touch("/many/$count"); $count++);
            $answer = $count;
            break;
    }
    fwrite($visitor, $answer);
    fclose($visitor);
}
"#;

fn attack_app() -> App {
    let limits = ResourceLimits { memory: Some(96 << 20), disk: Some(16 << 20), ..ResourceLimits::default() };
    let command = ["php", "-d", "extension=ffi.so", "-d", "ffi.enable=true", "-r", ATTACK_APP];
    App { limits, ..app(&command) }
}

/// Bakes the app if its instances are to be restored. Returns how they start.
async fn prepare(runtime: &dyn Runtime, attack_app: &App, is_restored: bool) -> StartMethod {
    if !is_restored {
        return StartMethod::Cold;
    }
    let (id, started) = start(runtime, attack_app).await;
    send_command(runtime, started.endpoint, "ready").await;
    with_timeout(runtime.bake(&id, REVISION, attack_app)).await.unwrap();
    let about = runtime.describe_checkpoint(REVISION, attack_app).await.unwrap();
    assert!(about.starts_with("instances share "), "{about}");
    StartMethod::Restored
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn root_in_an_instance_cannot_change_what_instances_share() {
    for is_restored in [false, true] {
        let Some(test_node) = TestNode::new() else { return };
        let runtime = test_node.open().await;
        let attack_app = attack_app();
        let method = prepare(&runtime, &attack_app, is_restored).await;
        let (_, hostile) = start(&runtime, &attack_app).await;
        let (_, good) = start(&runtime, &attack_app).await;
        assert_eq!((hostile.method, good.method), (method, method));
        let before = send_command(&runtime, good.endpoint, "sum").await;
        assert_eq!(before == "none", !is_restored);
        assert_eq!(send_command(&runtime, hostile.endpoint, "write").await, "none");
        assert_eq!(send_command(&runtime, good.endpoint, "sum").await, before);
        let (_, later) = start(&runtime, &attack_app).await;
        assert_eq!(send_command(&runtime, later.endpoint, "sum").await, before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn system_v_memory_and_files_of_an_instance_count_for_it_alone() {
    for is_restored in [false, true] {
        let Some(test_node) = TestNode::new() else { return };
        let runtime = test_node.open().await;
        let mut exits = runtime.exits();
        let attack_app = attack_app();
        let method = prepare(&runtime, &attack_app, is_restored).await;
        let (hostile_id, hostile) = start(&runtime, &attack_app).await;
        let (_, good) = start(&runtime, &attack_app).await;
        assert_eq!((hostile.method, good.method), (method, method));
        assert_eq!(send_command(&runtime, hostile.endpoint, "share").await, "made");
        assert_eq!(send_command(&runtime, good.endpoint, "find").await, "none");
        assert_eq!(send_command(&runtime, hostile.endpoint, "find").await, "found");
        // A disk of 16 MiB has room for 4096 files, some of which exist.
        let files = send_command(&runtime, hostile.endpoint, "files 5000").await;
        assert!(files.parse::<u32>().unwrap() < 4096, "{files} files");
        assert_eq!(send_command(&runtime, good.endpoint, "files 100").await, "100");
        let mut stream = runtime.connect(hostile.endpoint).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"shm 128\n").await.unwrap();
        let exit = with_timeout(exits.recv()).await.unwrap();
        assert_eq!((exit.id, exit.cause.as_str()), (hostile_id, "signal 9"));
        assert_eq!(send_command(&runtime, good.endpoint, "shm 8").await, "done");
    }
}
