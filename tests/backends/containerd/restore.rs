//! What restores in place of runc: that runc knows what it has restored, and what becomes of it when CRIU does not as it
//! should. There, CRIU and runc are scripts of these tests.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use try_it_now::instance::NodeId;
use try_it_now::runtime::containerd::{ContainerdRuntime, Settings};
use try_it_now::runtime::{CheckpointStatus, Runtime, StartMethod};

use super::{Place, REVISION, bake, env, fs, start, tell, within};
use crate::support::stack::Stack;

/// The file that holds what runc notes of the first copy.
const MODEL: &str = "runc.json";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_that_we_restore_are_noted_as_runc_notes_those_that_it_restores() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let app = bake(&runtime).await;
    let model = || {
        let checkpoints = fs::read_dir(place.checkpoints()).unwrap().map(|entry| entry.unwrap().path());
        checkpoints.map(|folder| folder.join(MODEL)).find(|file| file.exists())
    };
    assert_eq!(model(), None);
    let (first, _) = start(&runtime, &app).await;
    let model: Value = serde_json::from_slice(&fs::read(model().unwrap()).unwrap()).unwrap();
    assert_eq!(model["id"], first.as_str());
    let (second, started) = start(&runtime, &app).await;
    assert_eq!(started.how, StartMethod::Restored);
    let notes = |id: &str| -> Value {
        let of_runc = format!("/proc/{}/root/run/containerd/runc/try-it-now", place.stack.daemon());
        serde_json::from_slice(&fs::read(Path::new(&of_runc).join(id).join("state.json")).unwrap()).unwrap()
    };
    let (by_runc, ours) = (notes(first.as_str()), notes(second.as_str()));
    // All but what is each one's own.
    let pid = |state: &Value| state["init_process_pid"].as_u64().unwrap();
    let network = |state: &Value| state["config"]["namespaces"][4]["path"].as_str().unwrap().to_owned();
    let plain = |state: &Value, id: &str| {
        let mut state: Value = serde_json::from_str(&state.to_string().replace(id, "ID")).unwrap();
        for own in
            ["init_process_pid", "init_process_start", "created", "external_descriptors", "namespace_paths"]
        {
            assert!(!state[own].is_null(), "{own}");
            state[own] = Value::Null;
        }
        state["config"]["namespaces"][4]["path"] = Value::Null;
        state
    };
    assert_eq!(plain(&by_runc, first.as_str()), plain(&ours, second.as_str()));
    assert_ne!(network(&by_runc), network(&ours));
    for state in [&by_runc, &ours] {
        assert_eq!(state["namespace_paths"]["NEWNS"], format!("/proc/{}/ns/mnt", pid(state)));
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid(state))).unwrap();
        let begun = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap();
        assert_eq!(state["init_process_start"].to_string(), begun);
    }
    // In the same groups with the same limits.
    let groups = |id: &str| -> Vec<(String, String)> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
        let mut found = Vec::new();
        for folder in hierarchies
            .map(|hierarchy| hierarchy.join("try-it-now").join(id))
            .filter(|folder| folder.is_dir())
        {
            for file in [
                "memory.limit_in_bytes",
                "memory.memsw.limit_in_bytes",
                "pids.max",
                "cpuset.cpus",
                "devices.list",
                "cpu.cfs_quota_us",
                "cgroup.procs",
            ] {
                let Ok(content) = fs::read_to_string(folder.join(file)) else { continue };
                let name = folder.join(file).display().to_string().replace(id, "ID");
                // Which processes are in it differs, and rules may be in another order.
                let mut lines: Vec<_> = content.lines().collect();
                lines.sort_unstable();
                let content = if file == "cgroup.procs" { lines.len().to_string() } else { lines.join(" ") };
                found.push((name, content));
            }
        }
        found.sort();
        found
    };
    assert!(!groups(second.as_str()).is_empty());
    assert_eq!(groups(first.as_str()), groups(second.as_str()));
    assert_eq!(tell(&runtime, started.endpoint, "add").await, "2 old");
    within(runtime.stop(&second)).await.unwrap();
    within(runtime.stop(&first)).await.unwrap();
    assert_eq!(runtime.checkpoint_status(REVISION, &app).await, CheckpointStatus::Present);
}

/// A folder in which this program takes runc's role, with another runc and another CRIU.
struct Stage {
    folder: PathBuf,
    id: String,
}

impl Drop for Stage {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

impl Stage {
    /// `None` where containers cannot be made. CRIU does what the script says, whose `heard` waits for what it is told, and whose
    /// answers go to `$socket`.
    fn new(script: &str) -> Option<Self> {
        Stack::find()?;
        let id = format!("restorer-{}", NodeId::random());
        let folder = env::temp_dir().join(&id);
        for part in ["bin", "key/images", "work", "bundle/rootfs/proc", "bundle/rootfs/dev", "runc"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        let stage = Self { folder, id };
        stage.program("runc", &format!("#!/bin/sh\necho \"$@\" >>{}\n", stage.at("called").display()));
        stage.program(
            "criu",
            &format!(
                "#!/bin/sh
heard() {{ dd bs=65536 count=1 <&\"$socket\" >/dev/null 2>&1; }}
socket=$2
{script}
"
            ),
        );
        symlink(env!("CARGO_BIN_EXE_try-it-now"), stage.at("try-it-now-runc")).unwrap();
        fs::write(stage.at("key/images/descriptors.json"), "[\"/dev/null\"]").unwrap();
        let network =
            json!({ "linux": { "namespaces": [{ "type": "network", "path": "/proc/self/ns/net" }] } });
        fs::write(stage.at("bundle/config.json"), network.to_string()).unwrap();
        Some(stage)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.at("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Has the scripted runc note a container as the real one would.
    fn note(&self) {
        let notes = self.at("runc/model-1");
        fs::create_dir_all(&notes).unwrap();
        let groups =
            ["pids", "memory"].map(|kind| (kind, format!("/sys/fs/cgroup/{kind}/try-it-now/model-1")));
        let state = json!({
            "id": "model-1", "init_process_pid": 7, "init_process_start": 7, "created": "then",
            "config": {
                "rootfs": self.at("bundle/rootfs"),
                "namespaces": [{ "type": "NEWNET", "path": "" }],
                "cgroups": { "pids_limit": 50 },
            },
            "cgroup_paths": groups.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "namespace_paths": {},
            "external_descriptors": [],
        });
        fs::write(notes.join("state.json"), state.to_string()).unwrap();
        assert!(self.restore("model-1"));
        assert!(self.at("key").join(MODEL).exists());
        fs::remove_file(self.at("called")).unwrap();
    }

    /// Whether a restore works.
    fn restore(&self, id: &str) -> bool {
        let mut restorer = Command::new(self.at("try-it-now-runc"));
        let path = [self.at("bin").into_os_string(), env::var_os("PATH").unwrap()].join(":".as_ref());
        restorer.env("PATH", path).arg("--root").arg(self.at("runc")).arg("--log").arg(self.at("log"));
        restorer.args(["--log-format", "json", "restore", "--image-path"]).arg(self.at("key/images"));
        restorer.arg("--work-path").arg(self.at("work")).args(["--detach", "--pid-file"]).arg(self.at("pid"));
        restorer.args(["-no-subreaper", "--bundle"]).arg(self.at("bundle")).arg(id);
        restorer.status().unwrap().success()
    }

    /// What runc was called with, a line each time.
    fn calls(&self) -> Vec<String> {
        let called = fs::read_to_string(self.at("called")).unwrap_or_default();
        called.lines().map(str::to_owned).collect()
    }

    fn leaves_nothing(&self) {
        assert!(!self.at("runc").join(&self.id).exists(), "its notes are gone");
        assert!(!self.at("pid").exists(), "it has no process");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&self.id), "nothing is mounted: {mounts}");
        assert!(self.at("bundle/rootfs/proc").exists(), "its root is as it was");
    }

    /// Its groups are there, and can be removed once all of CRIU has ended, as the server does.
    fn groups_go(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.remove_groups() {
            assert!(Instant::now() < deadline, "its groups are there, and empty soon");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes its groups, as the server does, and says whether there were any.
    fn remove_groups(&self) -> bool {
        let folders = ["pids", "memory"]
            .map(|kind| Path::new("/sys/fs/cgroup").join(kind).join("try-it-now").join(&self.id));
        folders.map(|folder| fs::remove_dir(folder).is_ok()).contains(&true)
    }
}

/// Groups of version 1, which alone we make.
pub(super) fn has_own_groups() -> bool {
    !Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

#[test]
fn a_criu_that_fails_is_told_of_and_leaves_nothing_behind() {
    for (case, script, said) in [
        ("ends at once", "exit 1", "CRIU: "),
        ("ends when it is asked", "heard; exit 1", "CRIU: "),
        ("answers what is not known", r"heard; printf '\010\143\020\001' >&$socket", "something else (99)"),
        ("answers garbage", r"heard; printf '\377\377\377' >&$socket", "CRIU: "),
        ("says that it failed", r"heard; printf '\010\002\020\000\070\005' >&$socket", "failed with 5"),
        (
            "says that it works, of nothing",
            r"heard; printf '\010\002\020\001' >&$socket",
            "told of no process",
        ),
        (
            "tells of a process that is none",
            r"heard; printf '\010\006\020\001\052\023\012\014post-restore\020\377\377\377\077' >&$socket; heard",
            "os error 2",
        ),
    ] {
        let Some(stage) = Stage::new(script) else { return };
        stage.note();
        assert!(!stage.restore(&stage.id), "{case}");
        if has_own_groups() {
            assert_eq!(stage.calls(), [""; 0], "{case}");
            let log = fs::read_to_string(stage.at("log")).unwrap();
            let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
            assert_eq!(last["level"], "error", "{case}");
            assert!(last["msg"].as_str().unwrap().contains(said), "{case}: {last}");
            stage.groups_go();
        }
        stage.leaves_nothing();
    }
}

#[test]
fn whoever_kills_it_while_criu_works_finds_its_groups_and_its_notes_by_its_name() {
    let Some(stage) = Stage::new("heard; kill -9 $PPID") else {
        return;
    };
    if !has_own_groups() {
        return;
    }
    stage.note();
    assert!(!stage.restore(&stage.id));
    let notes = stage.at("runc").join(&stage.id);
    assert!(notes.join("criu-root/proc").exists(), "its root is still mounted");
    rustix::mount::unmount(notes.join("criu-root"), rustix::mount::UnmountFlags::DETACH).unwrap();
    fs::remove_dir_all(notes).unwrap();
    stage.groups_go();
    stage.leaves_nothing();
}

#[test]
fn what_is_not_as_expected_is_done_by_runc() {
    let Some(stage) = Stage::new("exit 1") else { return };
    // There is no model, and runc notes nothing to make one of.
    assert!(stage.restore(&stage.id));
    assert_eq!(stage.calls().len(), 1);
    stage.note();
    // Another runc.
    stage.program("runc", &format!("#!/bin/sh\n# newer\necho \"$@\" >>{}\n", stage.at("called").display()));
    assert!(stage.restore(&stage.id));
    assert_eq!(stage.calls().len(), 1);
    stage.note();
    // There is one of that name.
    fs::create_dir_all(stage.at("runc").join(&stage.id)).unwrap();
    assert!(stage.restore(&stage.id));
    assert_eq!(stage.calls().len(), 1);
    fs::remove_dir(stage.at("runc").join(&stage.id)).unwrap();
    // The root has no place for mounts.
    fs::remove_dir(stage.at("bundle/rootfs/proc")).unwrap();
    assert!(stage.restore(&stage.id));
    assert_eq!(stage.calls().len(), 2);
    fs::create_dir(stage.at("bundle/rootfs/proc")).unwrap();
    // Another specification than that of the model.
    fs::write(stage.at("bundle/config.json"), "{}").unwrap();
    assert!(stage.restore(&stage.id));
    assert_eq!(stage.calls().len(), 3);
    assert!(stage.calls()[2].ends_with(&stage.id));
    // One without a network.
    stage.note();
    assert!(stage.restore(&stage.id));
    assert_eq!(stage.calls().len(), 1);
    stage.leaves_nothing();
    assert!(!stage.remove_groups());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_are_ended_soon_although_what_their_shim_calls_is_gone_with_its_folder() {
    const SOON: Duration = Duration::from_secs(10);
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let app = bake(&runtime).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let (id, started) = start(&runtime, &app).await;
        assert_eq!(started.how, StartMethod::Restored);
        ids.push(id);
    }
    let link = place.settings.folder.join("try-it-now-runc");
    fs::remove_file(&link).unwrap();
    let begun = Instant::now();
    within(runtime.stop(&ids[0])).await.unwrap();
    assert_eq!(place.all_of(ids[0].as_str()), [""; 0]);
    // Several at once, for a server that has another folder.
    drop(runtime);
    let elsewhere = place.settings.folder.with_extension("elsewhere");
    let moved = fs::canonicalize(&place.settings.folder).unwrap().with_extension("moved");
    fs::rename(&place.settings.folder, &moved).unwrap();
    let settings = Settings { folder: elsewhere.clone(), ..place.settings.clone() };
    let runtime = ContainerdRuntime::open(settings).await.unwrap();
    assert!(runtime.list().await.unwrap().is_empty());
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    for id in &ids {
        assert_eq!(place.all_of(id.as_str()), [""; 0]);
    }
    assert!(!place.settings.folder.exists(), "nothing is left where the link was");
    drop(runtime);
    fs::remove_dir_all(elsewhere).unwrap();
    fs::rename(moved, &place.settings.folder).unwrap();
}
