//! The state that runc records of a container in its `state.json`.
//!
//! Runc restores the first instance of each checkpoint. The state that it records is stored with the checkpoint, as
//! `runc.json`. The state of another instance of the checkpoint differs only in its name, its network and its
//! processes. With another runc, or a container that is specified differently, runc does the restore again.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::runtime::containerd::host::private_files;

/// The name of the stored state in a checkpoint's folder.
const FILE: &str = "runc.json";

/// The name of runc's file in the container's folder of state.
const STATE: &str = "state.json";

/// The state that runc recorded of one container, as it is stored. Texts, because another container's state is the same
/// text with another name, and one parse of it is enough.
#[derive(Debug, Serialize, Deserialize)]
struct StoredState {
    runc: ProgramFile,
    /// The container's name.
    id: String,
    /// The container's specification without what differs for each instance.
    spec: String,
    /// The content of `state.json`.
    state: String,
}

/// The state that runc would record of one container, up to the values that it gets when it is restored.
#[derive(Debug)]
pub(super) struct RuncState(Value);

/// A program file. Another version of the program may record other state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ProgramFile {
    path: PathBuf,
    bytes: u64,
    modified: i64,
    inode: u64,
}

impl ProgramFile {
    fn at(path: &Path) -> io::Result<Self> {
        let file = path.metadata()?;
        Ok(Self { path: path.to_owned(), bytes: file.size(), modified: file.mtime(), inode: file.ino() })
    }
}

/// What differs in the state of each container.
#[derive(Debug)]
pub(super) struct InstanceValues<'a> {
    pub(super) id: &'a str,
    /// The path of its network namespace; empty if it was made for the container.
    pub(super) network: &'a str,
    /// The first id on the host of its user namespace, if it has one.
    pub(super) first_id: Option<u32>,
    /// The number of its first process on the host.
    pub(super) pid: i32,
    /// When the first process started, in ticks since the host started.
    pub(super) start_ticks: u64,
    /// When the container was created, as a timestamp of RFC 3339.
    pub(super) created: String,
    /// The targets of its first three descriptors.
    pub(super) descriptors: Vec<String>,
}

impl RuncState {
    /// Returns the state for the container with this name, if this runc recorded that of one of the same checkpoint with
    /// the same specification.
    pub(super) fn find(images: &Path, runc: &Path, spec: &Value, id: &str) -> Option<Self> {
        let stored: StoredState = serde_json::from_slice(&fs::read(stored_state(images)?).ok()?).ok()?;
        if stored.runc != ProgramFile::at(runc).ok()? || stored.spec != common_spec(spec, id) {
            return None;
        }
        serde_json::from_str(&stored.state.replace(&stored.id, id)).ok().map(Self)
    }

    /// Stores the state that runc has recorded of a container with the container's checkpoint.
    ///
    /// # Errors
    /// The state cannot be read or written, or lacks something that is needed later.
    pub(super) fn save(
        images: &Path,
        runc: &Path,
        spec: &Value,
        state_dir: &Path,
        id: &str,
    ) -> io::Result<()> {
        let text = fs::read_to_string(state_dir.join(STATE))?;
        Self(serde_json::from_str(&text)?).check(id)?;
        let runc = ProgramFile::at(runc)?;
        let stored = StoredState { runc, id: id.to_owned(), spec: common_spec(spec, id), state: text };
        let file = stored_state(images).ok_or(io::ErrorKind::InvalidInput)?;
        // Two processes may do this at the same time.
        let draft = file.with_extension(format!("{id}.draft"));
        private_files::write(&draft, &serde_json::to_vec(&stored)?)?;
        fs::rename(draft, file)
    }

    /// Checks that the state has everything that is used later.
    fn check(&self, id: &str) -> io::Result<()> {
        let state = &self.0;
        let is_complete = state["id"] == id
            && state["init_process_pid"].is_u64()
            && state["init_process_start"].is_u64()
            && state["created"].is_string()
            && state["external_descriptors"].is_array()
            && self.network_index().is_some()
            && ["cgroup_paths", "namespace_paths"].iter().all(|part| state[*part].is_object());
        if is_complete { Ok(()) } else { Err(io::Error::other("runc recorded state of an unknown form")) }
    }

    /// Returns the index of the network namespace in the list of namespaces.
    fn network_index(&self) -> Option<usize> {
        self.0["config"]["namespaces"].as_array()?.iter().position(|one| one["type"] == "NEWNET")
    }

    /// Sets the values of a container, and writes the state to its folder as runc would.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn record(&mut self, state_dir: &Path, values: InstanceValues<'_>) -> io::Result<()> {
        let network =
            self.network_index().ok_or_else(|| io::Error::other("the container has no network namespace"))?;
        let state = &mut self.0;
        state["id"] = json!(values.id);
        state["init_process_pid"] = json!(values.pid);
        state["init_process_start"] = json!(values.start_ticks);
        state["created"] = json!(values.created);
        state["external_descriptors"] = json!(values.descriptors);
        state["config"]["namespaces"][network]["path"] = json!(values.network);
        if let Some(first) = values.first_id {
            for ids in ["uid_mappings", "gid_mappings"] {
                state["config"][ids][0]["host_id"] = json!(first);
            }
            // Those of root.
            for device in state["config"]["devices"].as_array_mut().into_iter().flatten() {
                (device["uid"], device["gid"]) = (json!(first), json!(first));
            }
        }
        for path in state["namespace_paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut())
        {
            let kind = path.as_str().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
            *path = json!(format!("/proc/{}/ns/{kind}", values.pid));
        }
        let draft = state_dir.join("state.draft");
        fs::write(&draft, serde_json::to_vec(state)?)?;
        fs::rename(draft, state_dir.join(STATE))
    }

    /// Returns the path of the container's root.
    ///
    /// # Errors
    /// Runc recorded none.
    pub(super) fn root(&self) -> io::Result<PathBuf> {
        let root =
            self.0["config"]["rootfs"].as_str().ok_or_else(|| io::Error::other("runc recorded no root"))?;
        Ok(root.into())
    }

    /// Returns the mounts from outside of the container: for each path inside, the path on the host.
    pub(super) fn mounts(&self) -> Vec<(String, String)> {
        let config = &self.0["config"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |name: &str| config[name].as_array().into_iter().flatten();
        let binds = list("mounts").filter(|mount| mount["device"] == "bind");
        let mut mounts: Vec<_> =
            binds.map(|mount| (text(&mount["destination"]), text(&mount["source"]))).collect();
        if list("mask_paths").next().is_some() {
            mounts.push(("/dev/null".to_owned(), "/dev/null".to_owned()));
        }
        mounts.extend(list("devices").map(|device| (text(&device["path"]), text(&device["path"]))));
        mounts
    }

    /// Returns the path of CRIU's configuration file.
    pub(super) fn criu_config(&self) -> Option<String> {
        let labels = self.0["config"]["labels"].as_array()?;
        let mut labels = labels.iter().filter_map(Value::as_str);
        labels.find_map(|label| label.strip_prefix("org.criu.config=")).map(str::to_owned)
    }

    /// Returns the folders of the container's cgroups, each with its controller.
    pub(super) fn cgroups(&self) -> Vec<(&str, &Path)> {
        let paths = self.0["cgroup_paths"].as_object().into_iter().flatten();
        paths.filter_map(|(name, path)| Some((name.as_str(), Path::new(path.as_str()?)))).collect()
    }

    /// Returns the container's limits in runc's form.
    pub(super) fn limits(&self) -> &Value {
        &self.0["config"]["cgroups"]
    }
}

/// Returns a specification without what differs for each instance: its name, its network, its ids, its environment.
fn common_spec(spec: &Value, id: &str) -> String {
    let mut spec = spec.clone();
    for namespace in spec["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
        if let Some(namespace) = namespace.as_object_mut() {
            namespace.remove("path");
        }
    }
    for ids in ["uidMappings", "gidMappings"] {
        for range in spec["linux"][ids].as_array_mut().into_iter().flatten() {
            range["hostID"] = Value::Null;
        }
    }
    if let Some(process) = spec["process"].as_object_mut() {
        process.remove("env");
    }
    spec.to_string().replace(id, "")
}

/// Returns the path of the stored state of the checkpoint with these image files.
fn stored_state(images: &Path) -> Option<PathBuf> {
    Some(images.parent()?.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> Value {
        json!({
            "id": "shop-1", "init_process_pid": 7, "init_process_start": 70, "created": "then",
            "config": {
                "rootfs": "/run/shop-1/rootfs",
                "namespaces": [{ "type": "NEWPID", "path": "" }, { "type": "NEWNET", "path": "/proc/9/fd/8" }],
                "mounts": [
                    { "device": "proc", "source": "proc", "destination": "/proc" },
                    { "device": "bind", "source": "/memory/shop", "destination": "/dev" },
                ],
                "devices": [{ "path": "/dev/zero" }],
                "mask_paths": ["/proc/keys"],
                "labels": ["bundle=/run/shop-1", "org.criu.config=/criu.conf"],
                "cgroups": { "pids_limit": 5 },
            },
            "cgroup_paths": { "pids": "/sys/fs/cgroup/pids/try-it-now/shop-1" },
            "namespace_paths": { "NEWNS": "/proc/7/ns/mnt" },
            "external_descriptors": ["pipe:[1]"],
            "unknown": true,
        })
    }

    fn spec(id: &str, network: u32, pids: u32) -> Value {
        json!({
            "process": { "env": [format!("INSTANCE_ID={id}"), format!("N={network}")], "args": ["app"] },
            "linux": {
                "namespaces": [{ "type": "network", "path": format!("/proc/9/fd/{network}") }],
                "cgroupsPath": format!("/try-it-now/{id}"),
                "resources": { "pids": { "limit": pids } },
            },
        })
    }

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// A folder with a checkpoint, the state of a container and a runc.
    fn folder(state: &Value) -> Folder {
        let folder =
            std::env::temp_dir().join(format!("try-it-now-runc-state-{}", crate::instance::NodeId::random()));
        fs::create_dir_all(folder.join("key/images")).unwrap();
        fs::create_dir(folder.join("state")).unwrap();
        fs::write(folder.join("state/state.json"), state.to_string()).unwrap();
        fs::write(folder.join("runc"), "one").unwrap();
        Folder(folder)
    }

    #[test]
    fn the_state_of_one_instance_is_recorded_with_the_values_of_the_next() {
        let Folder(folder) = &folder(&state());
        let [images, runc, state_dir] = ["key/images", "runc", "state"].map(|part| folder.join(part));
        assert!(RuncState::find(&images, &runc, &spec("shop-1", 7, 512), "shop-1").is_none());
        RuncState::save(&images, &runc, &spec("shop-1", 7, 512), &state_dir, "shop-1").unwrap();
        let mut recorded = RuncState::find(&images, &runc, &spec("shop-2", 8, 512), "shop-2").unwrap();
        assert_eq!(recorded.root().unwrap(), Path::new("/run/shop-2/rootfs"));
        assert_eq!(recorded.criu_config().unwrap(), "/criu.conf");
        assert_eq!(recorded.cgroups(), [("pids", Path::new("/sys/fs/cgroup/pids/try-it-now/shop-2"))]);
        let pair = |inside: &str, outside: &str| (inside.to_owned(), outside.to_owned());
        let mounts =
            [pair("/dev", "/memory/shop"), pair("/dev/null", "/dev/null"), pair("/dev/zero", "/dev/zero")];
        assert_eq!(recorded.mounts(), mounts);
        let values = InstanceValues {
            id: "shop-2",
            network: "/proc/9/fd/33",
            first_id: None,
            pid: 8,
            start_ticks: 80,
            created: "now".to_owned(),
            descriptors: vec!["pipe:[2]".to_owned()],
        };
        recorded.record(&state_dir, values).unwrap();
        let written: Value =
            serde_json::from_slice(&fs::read(state_dir.join("state.json")).unwrap()).unwrap();
        let mut expected: Value =
            serde_json::from_str(&state().to_string().replace("shop-1", "shop-2")).unwrap();
        expected["init_process_pid"] = json!(8);
        expected["init_process_start"] = json!(80);
        expected["created"] = json!("now");
        expected["config"]["namespaces"][1]["path"] = json!("/proc/9/fd/33");
        expected["namespace_paths"]["NEWNS"] = json!("/proc/8/ns/mnt");
        expected["external_descriptors"] = json!(["pipe:[2]"]);
        assert_eq!(written, expected);
    }

    #[test]
    fn state_of_another_runc_or_of_an_unknown_form_is_not_used() {
        let Folder(folder) = &folder(&state());
        let [images, runc, state_dir] = ["key/images", "runc", "state"].map(|part| folder.join(part));
        let own = spec("shop-1", 7, 512);
        let find = |spec: &Value| RuncState::find(&images, &runc, spec, "shop-1");
        let save = || RuncState::save(&images, &runc, &own, &state_dir, "shop-1");
        save().unwrap();
        assert!(find(&spec("shop-1", 7, 511)).is_none());
        assert!(find(&own).is_some());
        fs::write(&runc, "another").unwrap();
        assert!(find(&own).is_none());
        fs::write(folder.join("key/runc.json"), "{").unwrap();
        assert!(find(&own).is_none());
        for part in ["id", "init_process_pid", "created", "config", "cgroup_paths", "namespace_paths"] {
            let mut incomplete = state();
            incomplete[part] = json!([]);
            fs::write(state_dir.join("state.json"), incomplete.to_string()).unwrap();
            save().unwrap_err();
        }
        fs::write(state_dir.join("state.json"), "").unwrap();
        save().unwrap_err();
    }
}
