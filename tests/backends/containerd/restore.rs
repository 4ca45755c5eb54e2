//! The program that restores instances in place of runc: runc knows what it has restored, and a failure of CRIU is
//! handled. In the tests of failures, CRIU and runc are scripts.

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use try_it_now::instance::NodeId;
use try_it_now::runtime::containerd::{ContainerdRuntime, ContainerdSettings};
use try_it_now::runtime::{CheckpointStatus, Runtime, StartMethod};

use super::{REVISION, TestNode, bake, env, fs, send_command, start, with_timeout};
use crate::support::stack::Stack;
use crate::support::user_namespaces;

/// The file in a checkpoint with the state that runc wrote for the first instance.
const RUNC_STATE_FILE: &str = "runc.json";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_we_restore_have_the_same_runc_state_as_those_that_runc_restores() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let app = bake(&runtime).await;
    let model = || {
        let checkpoints = fs::read_dir(test_node.checkpoints()).unwrap().map(|entry| entry.unwrap().path());
        checkpoints.map(|folder| folder.join(RUNC_STATE_FILE)).find(|file| file.exists())
    };
    assert_eq!(model(), None);
    let (first, _) = start(&runtime, &app).await;
    let model: Value = serde_json::from_slice(&fs::read(model().unwrap()).unwrap()).unwrap();
    assert_eq!(model["id"], first.as_str());
    let (second, started) = start(&runtime, &app).await;
    assert_eq!(started.method, StartMethod::Restored);
    let runc_state = |id: &str| -> Value {
        let of_runc = format!("/proc/{}/root/run/containerd/runc/try-it-now", test_node.stack.daemon_pid());
        serde_json::from_slice(&fs::read(Path::new(&of_runc).join(id).join("state.json")).unwrap()).unwrap()
    };
    let (by_runc, ours) = (runc_state(first.as_str()), runc_state(second.as_str()));
    // Both states are equal except for the values that belong to each instance.
    let pid = |state: &Value| state["init_process_pid"].as_u64().unwrap();
    let network = |state: &Value| state["config"]["namespaces"][4]["path"].as_str().unwrap().to_owned();
    // Of its user namespace, if it has one.
    let first_id = |state: &Value| state["config"]["uid_mappings"][0]["host_id"].clone();
    let without_own_values = |state: &Value, id: &str| {
        let mut state: Value = serde_json::from_str(&state.to_string().replace(id, "ID")).unwrap();
        for own in
            ["init_process_pid", "init_process_start", "created", "external_descriptors", "namespace_paths"]
        {
            assert!(!state[own].is_null(), "{own}");
            state[own] = Value::Null;
        }
        state["config"]["namespaces"][4]["path"] = Value::Null;
        let first_id = first_id(&state);
        for ids in ["uid_mappings", "gid_mappings"] {
            for mapping in state["config"][ids].as_array_mut().into_iter().flatten() {
                assert_eq!(mapping["host_id"], first_id);
                mapping["host_id"] = Value::Null;
            }
        }
        for device in state["config"]["devices"].as_array_mut().unwrap() {
            for owner in ["uid", "gid"].into_iter().filter(|_| !first_id.is_null()) {
                assert_eq!(device[owner], first_id);
                device[owner] = Value::Null;
            }
        }
        state
    };
    assert_eq!(without_own_values(&by_runc, first.as_str()), without_own_values(&ours, second.as_str()));
    // A network namespace inside a user namespace has no path.
    match user_namespaces::are_in_use() {
        true => assert_ne!(first_id(&by_runc), first_id(&ours)),
        false => assert_ne!(network(&by_runc), network(&ours)),
    }
    for state in [&by_runc, &ours] {
        assert_eq!(state["namespace_paths"]["NEWNS"], format!("/proc/{}/ns/mnt", pid(state)));
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid(state))).unwrap();
        let begun = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap();
        assert_eq!(state["init_process_start"].to_string(), begun);
    }
    // Both are in the same cgroups with the same limits.
    let cgroups = |id: &str| -> Vec<(String, String)> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
        let mut found = Vec::new();
        for folder in hierarchies
            .map(|hierarchy| {
                hierarchy.join("try-it-now").join(format!("{}.instances", test_node.settings.node)).join(id)
            })
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
                // The processes in a cgroup differ, and device rules may be in another order.
                let mut lines: Vec<_> = content.lines().collect();
                lines.sort_unstable();
                let content = if file == "cgroup.procs" { lines.len().to_string() } else { lines.join(" ") };
                found.push((name, content));
            }
        }
        found.sort();
        found
    };
    assert!(!cgroups(second.as_str()).is_empty());
    assert_eq!(cgroups(first.as_str()), cgroups(second.as_str()));
    assert_eq!(send_command(&runtime, started.endpoint, "add").await, "2 old");
    with_timeout(runtime.stop(&second)).await.unwrap();
    with_timeout(runtime.stop(&first)).await.unwrap();
    assert_eq!(runtime.checkpoint_status(REVISION, &app).await, CheckpointStatus::Present);
}

/// A folder in which this program acts as runc, with a script as runc and another one as CRIU.
struct ScriptedRestore {
    folder: PathBuf,
    id: String,
}

impl Drop for ScriptedRestore {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

impl ScriptedRestore {
    /// Returns `None` if containers cannot be tested here. CRIU is `script`, in which `receive` waits for a request and
    /// answers go to `$socket`.
    fn new(script: &str) -> Option<Self> {
        Stack::find()?;
        let id = format!("restorer-{}", NodeId::random());
        let folder = env::temp_dir().join(&id);
        for part in ["bin", "key/images", "work", "bundle/rootfs/proc", "bundle/rootfs/dev", "runc"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        let scripted = Self { folder, id };
        scripted.program("runc", &format!("#!/bin/sh\necho \"$@\" >>{}\n", scripted.at("called").display()));
        scripted.program(
            "criu",
            &format!(
                "#!/bin/sh
receive() {{ dd bs=65536 count=1 <&\"$socket\" >/dev/null 2>&1; }}
socket=$2
{script}
"
            ),
        );
        symlink(env!("CARGO_BIN_EXE_try-it-now"), scripted.at("try-it-now-runc")).unwrap();
        fs::write(scripted.at("key/images/descriptors.json"), "[\"/dev/null\"]").unwrap();
        let network =
            json!({ "linux": { "namespaces": [{ "type": "network", "path": "/proc/self/ns/net" }] } });
        fs::write(scripted.at("bundle/config.json"), network.to_string()).unwrap();
        Some(scripted)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.at("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Makes the scripted runc write the state of a container as the real one does.
    fn record_runc_state(&self) {
        let runc_state = self.at("runc/model-1");
        fs::create_dir_all(&runc_state).unwrap();
        let cgroups =
            ["pids", "memory"].map(|kind| (kind, format!("/sys/fs/cgroup/{kind}/try-it-now/model-1")));
        let state = json!({
            "id": "model-1", "init_process_pid": 7, "init_process_start": 7, "created": "then",
            "config": {
                "rootfs": self.at("bundle/rootfs"),
                "namespaces": [{ "type": "NEWNET", "path": "" }],
                "cgroups": { "pids_limit": 50 },
            },
            "cgroup_paths": cgroups.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "namespace_paths": {},
            "external_descriptors": [],
        });
        fs::write(runc_state.join("state.json"), state.to_string()).unwrap();
        assert!(self.restore("model-1"));
        assert!(self.at("key").join(RUNC_STATE_FILE).exists());
        fs::remove_file(self.at("called")).unwrap();
    }

    /// Runs a restore and returns whether it succeeded.
    fn restore(&self, id: &str) -> bool {
        let mut restorer = Command::new(self.at("try-it-now-runc"));
        let path = [self.at("bin").into_os_string(), env::var_os("PATH").unwrap()].join(":".as_ref());
        restorer.env("PATH", path).arg("--root").arg(self.at("runc")).arg("--log").arg(self.at("log"));
        restorer.args(["--log-format", "json", "restore", "--image-path"]).arg(self.at("key/images"));
        restorer.arg("--work-path").arg(self.at("work")).args(["--detach", "--pid-file"]).arg(self.at("pid"));
        restorer.args(["-no-subreaper", "--bundle"]).arg(self.at("bundle")).arg(id);
        restorer.status().unwrap().success()
    }

    /// Returns the arguments of each call of runc, one line a call.
    fn calls(&self) -> Vec<String> {
        let called = fs::read_to_string(self.at("called")).unwrap_or_default();
        called.lines().map(str::to_owned).collect()
    }

    fn assert_nothing_left(&self) {
        assert!(!self.at("runc").join(&self.id).exists(), "its state is removed");
        assert!(!self.at("pid").exists(), "it has no process");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&self.id), "nothing is mounted: {mounts}");
        assert!(self.at("bundle/rootfs/proc").exists(), "its root is unchanged");
    }

    /// Waits until the cgroups can be removed, which is when all of CRIU has ended. Panics if there are none.
    fn wait_for_cgroup_removal(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.remove_cgroups() {
            assert!(Instant::now() < deadline, "its cgroups exist and become empty");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes its cgroups, as the server does. Returns whether there were any.
    fn remove_cgroups(&self) -> bool {
        let folders = ["pids", "memory"]
            .map(|kind| Path::new("/sys/fs/cgroup").join(kind).join("try-it-now").join(&self.id));
        folders.map(|folder| fs::remove_dir(folder).is_ok()).contains(&true)
    }
}

/// Returns whether this host has cgroup v1: only there we restore without runc.
pub(super) fn restores_without_runc() -> bool {
    !Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

#[test]
fn a_criu_failure_is_reported_and_leaves_nothing() {
    for (case, script, message) in [
        ("ends at once", "exit 1", "CRIU: "),
        ("ends after a request", "receive; exit 1", "CRIU: "),
        (
            "answers with an unknown type",
            r"receive; printf '\010\143\020\001' >&$socket",
            "unknown response of kind 99",
        ),
        ("answers garbage", r"receive; printf '\377\377\377' >&$socket", "CRIU: "),
        (
            "reports a failure",
            r"receive; printf '\010\002\020\000\070\005' >&$socket",
            "failed with error number 5",
        ),
        (
            "reports success without a process",
            r"receive; printf '\010\002\020\001' >&$socket",
            "reported no process",
        ),
        (
            "reports a process that does not exist",
            r"receive; printf '\010\006\020\001\052\023\012\014post-restore\020\377\377\377\077' >&$socket; receive",
            "os error 2",
        ),
    ] {
        let Some(scripted) = ScriptedRestore::new(script) else { return };
        scripted.record_runc_state();
        assert!(!scripted.restore(&scripted.id), "{case}");
        if restores_without_runc() {
            assert_eq!(scripted.calls(), [""; 0], "{case}");
            let log = fs::read_to_string(scripted.at("log")).unwrap();
            let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
            assert_eq!(last["level"], "error", "{case}");
            assert!(last["msg"].as_str().unwrap().contains(message), "{case}: {last}");
            scripted.wait_for_cgroup_removal();
        }
        scripted.assert_nothing_left();
    }
}

#[test]
fn after_a_kill_during_a_restore_its_cgroups_and_state_are_found_by_its_name() {
    let Some(scripted) = ScriptedRestore::new("receive; kill -9 $PPID") else {
        return;
    };
    if !restores_without_runc() {
        return;
    }
    scripted.record_runc_state();
    assert!(!scripted.restore(&scripted.id));
    fs::remove_dir_all(scripted.at("runc").join(&scripted.id)).unwrap();
    scripted.wait_for_cgroup_removal();
    scripted.assert_nothing_left();
}

#[test]
fn what_is_mounted_for_a_restore_is_gone_after_a_kill_and_hinders_no_removal() {
    let Some(scripted) = ScriptedRestore::new("exit 1") else { return };
    // For a user namespace, folders are mounted beside the root.
    let extents = [10, 8, 8, 0, 16, 7, 24, 128, 128, 4, 18, 8, 8, 0, 16, 7, 24, 128, 128, 4];
    let image = [b"magicnum".as_slice(), &(extents.len() as u32).to_le_bytes(), &extents].concat();
    fs::write(scripted.at("key/images/userns-1.img"), image).unwrap();
    let spec = json!({
        "linux": { "uidMappings": [{ "hostID": 200_000 }] },
        "mounts": [{ "destination": "/dev", "type": "bind", "source": scripted.at("key") }],
    });
    fs::write(scripted.at("bundle/config.json"), spec.to_string()).unwrap();
    // The root, whose lower layers get the ids of the user namespace.
    for part in ["lower/1", "lower/2", "disk/upper", "disk/work"] {
        fs::create_dir_all(scripted.at(part)).unwrap();
    }
    fs::write(scripted.at("lower/1/base"), "").unwrap();
    fs::write(scripted.at("lower/2/app"), "").unwrap();
    chown(scripted.at("lower/2/app"), Some(33), Some(34)).unwrap();
    let [lower_1, lower_2, upper, work] =
        ["lower/1", "lower/2", "disk/upper", "disk/work"].map(|part| scripted.at(part).display().to_string());
    let options = format!("volatile\nworkdir={work}\nupperdir={upper}\nlowerdir={lower_2}:{lower_1}");
    fs::write(scripted.at("work/root-options"), options).unwrap();
    let runc = format!(
        "#!/bin/sh\nexec >{}\nls {}\ncd {}\nstat -c '%n %u:%g' base app\necho new >made\nkill -9 $PPID\n",
        scripted.at("called").display(),
        scripted.at("bundle/devices/images").display(),
        scripted.at("bundle/rootfs").display()
    );
    scripted.program("runc", &runc);
    assert!(!scripted.restore(&scripted.id));
    let expected = ["descriptors.json", "userns-1.img", "base 200000:200000", "app 200033:200034"];
    assert_eq!(scripted.calls(), expected, "it is mounted for runc");
    assert!(scripted.at("disk/upper/made").exists());
    // As containerd does.
    for folder in ["bundle/devices", "bundle/layers"] {
        fs::remove_dir_all(scripted.at(folder)).unwrap();
    }
    assert!(scripted.at("lower/2/app").exists(), "the layers are unchanged");
    assert!(scripted.at("key/images/descriptors.json").exists(), "the mounted folder is unchanged");
    scripted.assert_nothing_left();
}

#[test]
fn an_unexpected_situation_falls_back_to_runc() {
    let Some(scripted) = ScriptedRestore::new("exit 1") else { return };
    // No runc state is saved, and runc writes none that could be saved.
    assert!(scripted.restore(&scripted.id));
    assert_eq!(scripted.calls().len(), 1);
    scripted.record_runc_state();
    // Another version of runc.
    scripted
        .program("runc", &format!("#!/bin/sh\n# newer\necho \"$@\" >>{}\n", scripted.at("called").display()));
    assert!(scripted.restore(&scripted.id));
    assert_eq!(scripted.calls().len(), 1);
    scripted.record_runc_state();
    // A container of that name exists.
    fs::create_dir_all(scripted.at("runc").join(&scripted.id)).unwrap();
    assert!(scripted.restore(&scripted.id));
    assert_eq!(scripted.calls().len(), 1);
    fs::remove_dir(scripted.at("runc").join(&scripted.id)).unwrap();
    // The root has no mount point for `/proc`.
    fs::remove_dir(scripted.at("bundle/rootfs/proc")).unwrap();
    assert!(scripted.restore(&scripted.id));
    assert_eq!(scripted.calls().len(), 2);
    fs::create_dir(scripted.at("bundle/rootfs/proc")).unwrap();
    // The specification differs from the one of the saved state.
    fs::write(scripted.at("bundle/config.json"), "{}").unwrap();
    assert!(scripted.restore(&scripted.id));
    assert_eq!(scripted.calls().len(), 3);
    assert!(scripted.calls()[2].ends_with(&scripted.id));
    // The specification has no network.
    scripted.record_runc_state();
    assert!(scripted.restore(&scripted.id));
    assert_eq!(scripted.calls().len(), 1);
    scripted.assert_nothing_left();
    assert!(!scripted.remove_cgroups());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_stop_quickly_although_the_runtime_that_their_shim_calls_was_removed() {
    const MAX_STOP_TIME: Duration = Duration::from_secs(10);
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let app = bake(&runtime).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let (id, started) = start(&runtime, &app).await;
        assert_eq!(started.method, StartMethod::Restored);
        ids.push(id);
    }
    let link = test_node.settings.node_dir.join("try-it-now-runc");
    fs::remove_file(&link).unwrap();
    let begun = Instant::now();
    with_timeout(runtime.stop(&ids[0])).await.unwrap();
    assert_eq!(test_node.resources_of(ids[0].as_str()), [""; 0]);
    // Several instances are stopped at once, by a server that uses another folder.
    drop(runtime);
    let elsewhere = test_node.settings.node_dir.with_extension("elsewhere");
    let moved = fs::canonicalize(&test_node.settings.node_dir).unwrap().with_extension("moved");
    fs::rename(&test_node.settings.node_dir, &moved).unwrap();
    let settings = ContainerdSettings { node_dir: elsewhere.clone(), ..test_node.settings.clone() };
    let runtime = ContainerdRuntime::open(settings).await.unwrap();
    assert!(runtime.list().await.unwrap().is_empty());
    assert!(begun.elapsed() < MAX_STOP_TIME, "{:?}", begun.elapsed());
    for id in &ids {
        assert_eq!(test_node.resources_of(id.as_str()), [""; 0]);
    }
    assert!(!test_node.settings.node_dir.exists(), "the old folder is not created again");
    drop(runtime);
    fs::remove_dir_all(elsewhere).unwrap();
    fs::rename(moved, &test_node.settings.node_dir).unwrap();
}
