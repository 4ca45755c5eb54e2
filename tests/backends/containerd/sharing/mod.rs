//! Copies of a checkpoint that share the memory that they do not change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use try_it_now::instance::Endpoint;
use try_it_now::runtime::containerd::Settings;
use try_it_now::runtime::{CheckpointStatus, Command, Runtime, StartMethod, StartRequest};
use try_it_now::template::{App, ShareMemory};

use super::restore::has_own_groups;
use super::{Place, REVISION, app, fs, order, php, start, tell, until, within};
use crate::support::leak_check;

mod node_js;
mod programs;

/// Bytes that the app of these tests has in memory.
pub(super) const BULK: u64 = 24 << 20;

/// Holds a text that is far longer than all else of PHP, and says where what each visitor asks for is in it.
const HOLDER: &str = r#"
$all = "";
for ($i = 0; $i < 3 << 19; $i++) $all .= sprintf("%016d", $i);
$more = [];
$listener = stream_socket_server("tcp://127.0.0.1:" . getenv("PORT"));
while (true) {
    $visitor = @stream_socket_accept($listener, 3600);
    if (!$visitor) continue; // woken by a restore
    $words = explode(" ", trim(fgets($visitor)));
    switch ($words[0]) {
        case "write": for ($i = 0; $i < strlen($words[2]); $i++) $all[$words[1] + $i] = $words[2][$i]; break;
        case "read": fwrite($visitor, substr($all, $words[1], 16)); break;
        case "sum": fwrite($visitor, md5($all)); break;
        case "grow": for ($i = 0; $i < $words[1]; $i++) $more[] = str_repeat(chr(65 + $i % 26), 1 << 16); break;
        case "fill": file_put_contents("/filled", str_repeat("x", $words[1] << 20)); break;
        case "drop": $more = []; gc_mem_caches(); break;
        case "right":
            $wrong = 0;
            foreach ($more as $i => $text) if ($text !== str_repeat(chr(65 + $i % 26), 1 << 16)) $wrong++;
            fwrite($visitor, count($more) . " with $wrong wrong");
            break;
    }
    fclose($visitor);
}
"#;

pub(super) async fn bake_holder(runtime: &dyn Runtime, share_memory: ShareMemory) -> App {
    let holder = App { share_memory, ..php(HOLDER) };
    let (id, started) = start(runtime, &holder).await;
    assert_eq!(started.how, StartMethod::Cold);
    assert_eq!(tell(runtime, started.endpoint, "read 16").await, "0000000000000001");
    within(runtime.bake(&id, REVISION, &holder)).await.unwrap();
    holder
}

/// Bytes of memory of the processes whose root holds this id: what is theirs alone and no file's, and their share of all.
pub(super) fn memory(id: &str) -> (u64, u64) {
    let (mut private, mut proportional) = (0, 0);
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        if fs::read_to_string(path.join("root/etc/try-it-now/id")).is_ok_and(|own| own == id) {
            let rollup = fs::read_to_string(path.join("smaps_rollup")).unwrap();
            let sum = |name: &str| -> u64 {
                let lines =
                    rollup.lines().filter_map(|line| line.strip_prefix(name)?.split_whitespace().next());
                lines.map(|kilobytes| kilobytes.parse::<u64>().unwrap() << 10).sum()
            };
            private += sum("Pss_Anon:");
            proportional += sum("Pss:");
        }
    }
    (private, proportional)
}

/// What of a node's memory containerd sees, and so do its containers.
fn attached(place: &Place) -> Vec<String> {
    let folder = place.settings.folder.join("memory");
    let folder = folder.to_str().unwrap();
    let mounts = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let mounts = fs::read_to_string(entry.path().join("mountinfo")).ok()?;
        mounts.lines().find(|line| line.contains(folder)).map(str::to_owned)
    });
    mounts.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_share_what_they_do_not_change_and_see_nothing_of_each_other() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let holder = bake_holder(&runtime, ShareMemory::Auto).await;
    let about = runtime.describe_checkpoint(REVISION, &holder).await.unwrap();
    assert!(about.starts_with("copies share "), "{about}");

    let (a_id, a) = start(&runtime, &holder).await;
    let (b_id, b) = start(&runtime, &holder).await;
    assert_eq!((a.how, b.how), (StartMethod::Restored, StartMethod::Restored));
    let sum = tell(&runtime, a.endpoint, "sum").await;
    assert_eq!(tell(&runtime, b.endpoint, "sum").await, sum);
    for id in [&a_id, &b_id] {
        let (private, proportional) = memory(id.as_str());
        assert!(private > 0 && private < BULK / 4, "{private} bytes of its own");
        assert!(proportional < BULK, "{proportional} bytes");
    }
    tell(&runtime, a.endpoint, "write 1600 visitor-of-a").await;
    tell(&runtime, b.endpoint, "write 1603 b").await;
    assert_eq!(tell(&runtime, a.endpoint, "read 1600").await, "visitor-of-a0100");
    assert_eq!(tell(&runtime, b.endpoint, "read 1600").await, "000b000000000100");
    let (c_id, c) = start(&runtime, &holder).await;
    assert_eq!(tell(&runtime, c.endpoint, "sum").await, sum);
    for id in [a_id, b_id, c_id] {
        within(runtime.stop(&id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_may_want_memory_of_its_own_for_each_copy() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let holder = bake_holder(&runtime, ShareMemory::Off).await;
    let about = runtime.describe_checkpoint(REVISION, &holder).await.unwrap();
    assert_eq!(about, "each copy has memory of its own: its template says so");
    let (id, started) = start(&runtime, &holder).await;
    assert_eq!(started.how, StartMethod::Restored);
    assert_eq!(tell(&runtime, started.endpoint, "read 16").await, "0000000000000001");
    let (private, _) = memory(id.as_str());
    assert!(private >= BULK, "{private} bytes of its own");
    assert_eq!(attached(&place), [""; 0]);
    within(runtime.stop(&id)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_copies_grow_and_shrink_and_stay_right() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let holder = bake_holder(&runtime, ShareMemory::Auto).await;
    let mut copies = Vec::new();
    for _ in 0..20 {
        copies.push(start(&runtime, &holder).await);
    }
    for (number, (id, copy)) in copies.iter().enumerate() {
        assert_eq!(copy.how, StartMethod::Restored, "{id}");
        tell(&runtime, copy.endpoint, &format!("write 0 {number:016}")).await;
        tell(&runtime, copy.endpoint, "grow 40").await;
    }
    for (number, (_, copy)) in copies.iter().enumerate() {
        assert_eq!(tell(&runtime, copy.endpoint, "right").await, "40 with 0 wrong");
        tell(&runtime, copy.endpoint, "drop").await;
        tell(&runtime, copy.endpoint, "grow 20").await;
        assert_eq!(tell(&runtime, copy.endpoint, "right").await, "20 with 0 wrong");
        assert_eq!(tell(&runtime, copy.endpoint, "read 0").await, format!("{number:016}"));
        assert_eq!(tell(&runtime, copy.endpoint, "read 16").await, "0000000000000001");
    }
    let all: u64 = copies.iter().map(|(id, _)| memory(id.as_str()).1).sum();
    assert!(all < 20 * BULK / 2, "{all} bytes in all");
    for (id, _) in copies {
        within(runtime.stop(&id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_memory_outlives_the_server_and_goes_with_the_last_copy() {
    let Some(place) = Place::new() else { return };
    let first = place.open().await;
    let holder = bake_holder(&first, ShareMemory::Auto).await;
    let (id, started) = start(&first, &holder).await;
    tell(&first, started.endpoint, "write 0 changed").await;
    drop(first);

    let runtime = place.open().await;
    within(runtime.fetch(&holder)).await.unwrap();
    assert_eq!(runtime.checkpoint_status(REVISION, &holder).await, CheckpointStatus::Present);
    let (_, other) = start(&runtime, &holder).await;
    assert_eq!(other.how, StartMethod::Restored);
    assert_eq!(tell(&runtime, other.endpoint, "read 0").await, "0000000000000000");
    assert_eq!(tell(&runtime, started.endpoint, "read 0").await, "changed000000000");

    // Replaced by another: the new one's is there, and the old one's only as long as somebody uses it.
    assert!(!attached(&place).is_empty());
    for entry in fs::read_dir(place.checkpoints()).unwrap() {
        fs::remove_file(entry.unwrap().path().join("manifest.json")).unwrap();
    }
    drop(runtime);
    let runtime = place.open().await;
    assert_eq!(leak_check::files(&place.settings.folder.join("memory")), [""; 0]);
    assert_eq!(tell(&runtime, started.endpoint, "read 16").await, "0000000000000001");
    within(runtime.stop(&id)).await.unwrap();
    assert_eq!(tell(&runtime, other.endpoint, "read 16").await, "0000000000000001");
    for id in runtime.list().await.unwrap() {
        within(runtime.stop(&id)).await.unwrap();
    }
    until("nothing of it is mounted", async || attached(&place).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_whose_memory_is_gone_or_spoilt_is_made_anew() {
    let Some(place) = Place::new() else { return };
    for spoil in [false, true] {
        let runtime = place.open().await;
        let holder = bake_holder(&runtime, ShareMemory::Auto).await;
        drop(runtime);
        let key = fs::read_dir(place.checkpoints()).unwrap().next().unwrap().unwrap().file_name();
        let memory = place.settings.folder.join("memory").join(key);
        // As after a start of the host, or a bit that fell over.
        if spoil {
            spoil_memory(&place, &memory);
        } else {
            fs::remove_dir(&memory).or_else(|_| unmount(&memory)).unwrap();
        }
        let runtime = place.open().await;
        within(runtime.fetch(&holder)).await.unwrap();
        assert_eq!(runtime.checkpoint_status(REVISION, &holder).await, CheckpointStatus::Missing);
        let (id, started) = start(&runtime, &holder).await;
        assert_eq!(started.how, StartMethod::Cold);
        within(runtime.stop(&id)).await.unwrap();
    }
}

/// Where the tests see what containerd does.
fn unmount(at: &Path) -> std::io::Result<()> {
    rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH)?;
    fs::remove_dir(at)
}

/// A folder with the mounts of containerd.
fn as_containerd_sees(place: &Place, folder: &Path) -> PathBuf {
    let stream = std::os::unix::net::UnixStream::connect(&place.settings.address).unwrap();
    let containerd = rustix::net::sockopt::socket_peercred(&stream).unwrap().pid;
    let root = format!("/proc/{}/root", containerd.as_raw_nonzero());
    Path::new(&root).join(folder.strip_prefix("/").unwrap())
}

/// Has memory of which it has used the first page only, until a visitor says which to fill.
const HOLLOW: &str = r#"
$libc = FFI::cdef("unsigned char *malloc(size_t); void *memset(void *, int, size_t);");
$bytes = $libc->malloc(1 << 25);
$bytes[0] = 7;
$listener = stream_socket_server("tcp://127.0.0.1:" . getenv("PORT"));
while (true) {
    $visitor = @stream_socket_accept($listener, 3600);
    if (!$visitor) continue; // woken by a restore
    $words = explode(" ", trim(fgets($visitor)));
    if ($words[0] === "fill") $libc->memset($bytes + (int) $words[1], (int) $words[2], (int) $words[3]);
    fwrite($visitor, $bytes[(int) $words[1]]);
    fclose($visitor);
}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_stay_right_when_the_file_system_of_their_memory_is_full() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let hollow = app(&["php", "-d", "extension=ffi.so", "-d", "ffi.enable=true", "-r", HOLLOW]);
    let (id, started) = start(&runtime, &hollow).await;
    assert_eq!(tell(&runtime, started.endpoint, "look 0").await, "7");
    within(runtime.bake(&id, REVISION, &hollow)).await.unwrap();
    let (a_id, a) = start(&runtime, &hollow).await;
    tell(&runtime, a.endpoint, "look 0").await;

    // As by a copy that lets what it maps grow as far as it may. Only who has all rights here can write there.
    let key = fs::read_dir(place.checkpoints()).unwrap().next().unwrap().unwrap().file_name();
    let memory = as_containerd_sees(&place, &place.settings.folder.join("memory").join(key));
    let mut filler = fs::File::create_new(memory.join("filler")).unwrap();
    let page = vec![7; 1 << 12];
    let error = loop {
        if let Err(error) = std::io::Write::write_all(&mut filler, &page) {
            break error;
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);

    // What was there before and what comes now use memory that was theirs and that nobody had touched.
    let (b_id, b) = start(&runtime, &hollow).await;
    assert_eq!(b.how, StartMethod::Restored);
    for (copy, value) in [(&a, 1), (&b, 2)] {
        assert_eq!(tell(&runtime, copy.endpoint, "look 20000000").await, "0");
        let fill = format!("fill 10000 {value} 30000000");
        assert_eq!(tell(&runtime, copy.endpoint, &fill).await, value.to_string());
    }
    for (copy, value) in [(&a, "1"), (&b, "2")] {
        assert_eq!(tell(&runtime, copy.endpoint, "look 20000000").await, value);
    }
    for id in [a_id, b_id] {
        within(runtime.stop(&id)).await.unwrap();
    }
}

/// Writes into the memory through the mounts of containerd.
fn spoil_memory(place: &Place, memory: &Path) {
    use std::os::unix::fs::FileExt;

    let folder = as_containerd_sees(place, memory).join(".mem");
    let file = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_restored_as_it_was() {
    let Some(mut place) = Place::new() else { return };
    place.settings = Settings { shared_memory: 1 << 20, ..place.settings.clone() };
    let runtime = place.open().await;
    let holder = bake_holder(&runtime, ShareMemory::Auto).await;
    let about = runtime.describe_checkpoint(REVISION, &holder).await.unwrap();
    assert!(about.contains("does not fit beside 0 MiB into the 1 MiB there are"), "{about}");
    let (id, started) = start(&runtime, &holder).await;
    assert_eq!(started.how, StartMethod::Restored);
    assert_eq!(tell(&runtime, started.endpoint, "read 16").await, "0000000000000001");
    assert_eq!(attached(&place), [""; 0]);
    within(runtime.stop(&id)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_checkpoint_takes_the_place_of_the_memory_of_the_old() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let holder = bake_holder(&runtime, ShareMemory::Auto).await;
    let (old, copy) = start(&runtime, &holder).await;
    assert_eq!(copy.how, StartMethod::Restored);
    let next = StartRequest { revision: REVISION + 1, ..order(&holder) };
    let started = within(runtime.start(&next)).await.unwrap();
    assert_eq!(started.how, StartMethod::Cold);
    assert_eq!(tell(&runtime, started.endpoint, "read 16").await, "0000000000000001");
    within(runtime.bake(&next.id, REVISION + 1, &holder)).await.unwrap();
    assert_eq!(fs::read_dir(place.settings.folder.join("memory")).unwrap().count(), 1);
    assert_eq!(runtime.checkpoint_status(REVISION, &holder).await, CheckpointStatus::Missing);
    assert_eq!(runtime.checkpoint_status(REVISION + 1, &holder).await, CheckpointStatus::Present);
    assert_eq!(tell(&runtime, copy.endpoint, "read 32").await, "0000000000000002");
    within(runtime.stop(&old)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_no_checkpoint_and_the_one_that_it_is_of_stays() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let holder = bake_holder(&runtime, ShareMemory::Auto).await;
    let (id, copy) = start(&runtime, &holder).await;
    let error = within(runtime.bake(&id, REVISION + 1, &holder)).await.unwrap_err();
    assert!(error.to_string().contains("a copy of a checkpoint cannot be frozen"), "{error}");
    assert_eq!(tell(&runtime, copy.endpoint, "read 16").await, "0000000000000001");
    within(runtime.bake(&id, REVISION, &holder)).await.unwrap();
    assert_eq!(place.all_of(id.as_str()), [""; 0]);
    let (id, copy) = start(&runtime, &holder).await;
    assert_eq!(copy.how, StartMethod::Restored);
    assert_eq!(tell(&runtime, copy.endpoint, "read 16").await, "0000000000000001");
    within(runtime.stop(&id)).await.unwrap();
}

/// The first page of the image's own app.
async fn page(runtime: &dyn Runtime, endpoint: Endpoint) -> Option<String> {
    let mut stream = runtime.connect(endpoint).await.ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    text.lines().next()?.contains(" 200 ").then_some(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_processes_have_in_common_is_shared_where_the_template_says_so() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    for (share_memory, expected) in [(ShareMemory::Auto, false), (ShareMemory::WithShm, true)] {
        let own = App { share_memory, port: 80, command: Vec::new(), ..php("") };
        let revision = REVISION + u64::from(expected);
        let order = StartRequest { revision, ..order(&own) };
        let started = within(runtime.start(&order)).await.unwrap();
        until("its page is there", async || page(&runtime, started.endpoint).await).await;
        within(runtime.bake(&order.id, revision, &own)).await.unwrap();
        let manifests = fs::read_dir(place.checkpoints()).unwrap().flatten();
        let manifests: Vec<_> =
            manifests.map(|entry| fs::read_to_string(entry.path().join("manifest.json")).unwrap()).collect();
        assert_eq!(manifests.len(), 1);
        assert_eq!(manifests[0].contains("\"shm-"), expected);
        for _ in 0..2 {
            let order = StartRequest { revision, ..super::order(&own) };
            let started = within(runtime.start(&order)).await.unwrap();
            assert_eq!(started.how, StartMethod::Restored);
            let first = until("its page is there", async || page(&runtime, started.endpoint).await).await;
            let second = page(&runtime, started.endpoint).await.unwrap();
            // It counts its visits.
            assert!(first.contains("id=\"visits\">2<") && second.contains("id=\"visits\">3<"), "{first}");
            within(runtime.stop(&order.id)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_beside_the_app_left_there_was_not_watched() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let holder = php(HOLDER);
    let golden = order(&holder);
    let started = within(runtime.start(&golden)).await.unwrap();
    assert_eq!(tell(&runtime, started.endpoint, "read 16").await, "0000000000000001");
    let words = ["sh", "-c", "sleep 600 </dev/null >/dev/null 2>&1 &"].map(str::to_owned).into();
    let command = Command { words, env: [].into(), timeout: Duration::from_secs(10) };
    assert_eq!(within(runtime.exec(&golden, command)).await.unwrap().status, Some(0));
    within(runtime.bake(&golden.id, REVISION, &holder)).await.unwrap();
    let about = runtime.describe_checkpoint(REVISION, &holder).await.unwrap();
    assert!(about.starts_with("each copy has memory of its own: process "), "{about}");
    assert!(about.ends_with(" was started by a command beside the app"), "{about}");
    let (_, copy) = start(&runtime, &holder).await;
    assert_eq!(copy.how, StartMethod::Restored);
    assert_eq!(tell(&runtime, copy.endpoint, "read 16").await, "0000000000000001");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_first_copy_changed_the_next_have_for_themselves_from_the_start_as_it_was_baked() {
    const PAGES: u64 = 300;
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let holder = bake_holder(&runtime, ShareMemory::Auto).await;
    let (first, at_first) = start(&runtime, &holder).await;
    assert!(runtime.wants_observation(&first).await);
    let (second, at_second) = start(&runtime, &holder).await;
    let before = memory(second.as_str()).0;
    let whole = tell(&runtime, at_second.endpoint, "sum").await;
    for page in 0..PAGES {
        tell(&runtime, at_first.endpoint, &format!("write {} other", page * 4096)).await;
    }
    within(runtime.observe(&first)).await.unwrap();
    assert!(!runtime.wants_observation(&second).await);
    assert_ne!(tell(&runtime, at_first.endpoint, "sum").await, whole);

    let (third, at_third) = start(&runtime, &holder).await;
    assert_eq!(at_third.how, StartMethod::Restored);
    let more = memory(third.as_str()).0.saturating_sub(before);
    // On version 2 of control groups runc restores, and then a copy has nothing sooner.
    if has_own_groups() {
        assert!(more > PAGES * 4096 * 9 / 10, "{more} bytes more than {before}");
    }
    assert_eq!(tell(&runtime, at_third.endpoint, "sum").await, whole);
    tell(&runtime, at_third.endpoint, "write 4096 again").await;
    assert_eq!(tell(&runtime, at_second.endpoint, "sum").await, whole);
    for id in [first, second, third] {
        within(runtime.stop(&id)).await.unwrap();
    }
}
