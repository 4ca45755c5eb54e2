//! What runc notes of a container in its `state.json`, taken from one that it restored itself. Another of the same checkpoint
//! differs by its name, its network and its processes only.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::other;

/// The file's name, beside CRIU's images.
const FILE: &str = "runc.json";

/// Runc's notes of a container.
const STATE: &str = "state.json";

/// What runc noted of one container, and which runc that was.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RuncState {
    runc: Program,
    /// The container's name.
    id: String,
    /// What runc was given of it, but for what is each one's own.
    spec: Value,
    state: Value,
}

/// A program file; another version of it may note something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Program {
    path: PathBuf,
    bytes: u64,
    modified: i64,
    inode: u64,
}

impl Program {
    fn at(path: &Path) -> io::Result<Self> {
        let file = path.metadata()?;
        Ok(Self { path: path.to_owned(), bytes: file.size(), modified: file.mtime(), inode: file.ino() })
    }
}

/// What is new with each container.
#[derive(Debug)]
pub(super) struct Own<'a> {
    pub(super) id: &'a str,
    /// Its network namespace.
    pub(super) network: &'a str,
    /// Its first process.
    pub(super) pid: i32,
    /// When that began, in ticks since the machine did.
    pub(super) started: u64,
    /// The same by the calendar.
    pub(super) created: String,
    /// What its first three descriptors lead to.
    pub(super) descriptors: Vec<String>,
}

impl RuncState {
    /// That of a checkpoint, if it was made by this runc of what is as this container is.
    pub(super) fn find(images: &Path, runc: &Path, bundle: &Path, id: &str) -> Option<Self> {
        let model: Self = serde_json::from_slice(&fs::read(file(images)?).ok()?).ok()?;
        let fits = model.runc == Program::at(runc).ok()? && model.spec == plain(bundle, id).ok()?;
        fits.then_some(model)
    }

    /// Makes the notes that lie there the model.
    pub(super) fn keep(images: &Path, runc: &Path, bundle: &Path, notes: &Path, id: &str) -> io::Result<()> {
        let state = serde_json::from_slice(&fs::read(notes.join(STATE))?)?;
        let model = Self { runc: Program::at(runc)?, id: id.to_owned(), spec: plain(bundle, id)?, state };
        model.check()?;
        let file = file(images).ok_or(io::ErrorKind::InvalidInput)?;
        // Two may do it at the same time.
        let draft = file.with_extension(format!("{id}.draft"));
        fs::write(&draft, serde_json::to_vec(&model)?)?;
        fs::rename(draft, file)
    }

    /// Whether all that is used of it is there.
    fn check(&self) -> io::Result<()> {
        let state = &self.state;
        let whole = state["id"] == self.id.as_str()
            && state["init_process_pid"].is_u64()
            && state["init_process_start"].is_u64()
            && state["created"].is_string()
            && state["external_descriptors"].is_array()
            && self.network_place().is_some()
            && ["cgroup_paths", "namespace_paths"].iter().all(|part| state[*part].is_object());
        if whole { Ok(()) } else { Err(other("runc notes something else than we know")) }
    }

    fn network_place(&self) -> Option<usize> {
        self.state["config"]["namespaces"].as_array()?.iter().position(|one| one["type"] == "NEWNET")
    }

    /// The same of a container with this name: all that holds the model's name holds this one.
    pub(super) fn of(&self, id: &str) -> io::Result<Self> {
        let text = serde_json::to_string(&self.state)?.replace(&self.id, id);
        Ok(Self { id: id.to_owned(), state: serde_json::from_str(&text)?, ..self.clone() })
    }

    /// What runc would note in these folders.
    pub(super) fn note(&mut self, notes: &Path, own: Own<'_>) -> io::Result<()> {
        let network = self.network_place().ok_or_else(|| other("there is no network"))?;
        let state = &mut self.state;
        state["id"] = json!(own.id);
        state["init_process_pid"] = json!(own.pid);
        state["init_process_start"] = json!(own.started);
        state["created"] = json!(own.created);
        state["external_descriptors"] = json!(own.descriptors);
        state["config"]["namespaces"][network]["path"] = json!(own.network);
        for path in state["namespace_paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut())
        {
            let kind = path.as_str().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
            *path = json!(format!("/proc/{}/ns/{kind}", own.pid));
        }
        let draft = notes.join("state.draft");
        fs::write(&draft, serde_json::to_vec(state)?)?;
        fs::rename(draft, notes.join(STATE))
    }

    /// The container's root.
    pub(super) fn root(&self) -> io::Result<PathBuf> {
        let root = self.state["config"]["rootfs"].as_str().ok_or_else(|| other("there is no root"))?;
        Ok(root.into())
    }

    /// What CRIU is to use in the place of mounts from outside: inside, and outside.
    pub(super) fn mounts(&self) -> Vec<(String, String)> {
        let config = &self.state["config"];
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

    /// The folder of CRIU's settings.
    pub(super) fn criu_config(&self) -> Option<String> {
        let labels = self.state["config"]["labels"].as_array()?;
        let mut labels = labels.iter().filter_map(Value::as_str);
        labels.find_map(|label| label.strip_prefix("org.criu.config=")).map(str::to_owned)
    }

    /// The folders of its control groups.
    pub(super) fn groups(&self) -> Vec<(&str, &Path)> {
        let paths = self.state["cgroup_paths"].as_object().into_iter().flatten();
        paths.filter_map(|(name, path)| Some((name.as_str(), Path::new(path.as_str()?)))).collect()
    }

    /// Its limits, as runc has them.
    pub(super) fn limits(&self) -> &Value {
        &self.state["config"]["cgroups"]
    }
}

/// The specification in a bundle without what is each container's own: its name, its network, its environment.
fn plain(bundle: &Path, id: &str) -> io::Result<Value> {
    let text = fs::read_to_string(bundle.join("config.json"))?.replace(id, "");
    let mut spec: Value = serde_json::from_str(&text)?;
    for namespace in spec["linux"]["namespaces"].as_array_mut().into_iter().flatten() {
        if let Some(namespace) = namespace.as_object_mut() {
            namespace.remove("path");
        }
    }
    if let Some(process) = spec["process"].as_object_mut() {
        process.remove("env");
    }
    Ok(spec)
}

fn file(images: &Path) -> Option<PathBuf> {
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

    /// A folder with images, notes of a container and a runc.
    fn folder(state: &Value) -> Folder {
        let folder =
            std::env::temp_dir().join(format!("try-it-now-model-{}", crate::instance::NodeId::random()));
        fs::create_dir_all(folder.join("key/images")).unwrap();
        fs::create_dir(folder.join("notes")).unwrap();
        fs::write(folder.join("notes/state.json"), state.to_string()).unwrap();
        fs::create_dir(folder.join("bundle")).unwrap();
        fs::write(folder.join("bundle/config.json"), spec("shop-1", 7, 512).to_string()).unwrap();
        fs::write(folder.join("runc"), "one").unwrap();
        Folder(folder)
    }

    #[test]
    fn what_runc_noted_of_one_is_noted_of_the_next_with_its_own_names() {
        let Folder(folder) = &folder(&state());
        let [images, runc, bundle, notes] =
            ["key/images", "runc", "bundle", "notes"].map(|part| folder.join(part));
        assert!(RuncState::find(&images, &runc, &bundle, "shop-1").is_none());
        RuncState::keep(&images, &runc, &bundle, &notes, "shop-1").unwrap();
        fs::write(bundle.join("config.json"), spec("shop-2", 8, 512).to_string()).unwrap();
        let mut model = RuncState::find(&images, &runc, &bundle, "shop-2").unwrap().of("shop-2").unwrap();
        assert_eq!(model.root().unwrap(), Path::new("/run/shop-2/rootfs"));
        assert_eq!(model.criu_config().unwrap(), "/criu.conf");
        assert_eq!(model.groups(), [("pids", Path::new("/sys/fs/cgroup/pids/try-it-now/shop-2"))]);
        let pair = |inside: &str, outside: &str| (inside.to_owned(), outside.to_owned());
        let mounts =
            [pair("/dev", "/memory/shop"), pair("/dev/null", "/dev/null"), pair("/dev/zero", "/dev/zero")];
        assert_eq!(model.mounts(), mounts);
        let own = Own {
            id: "shop-2",
            network: "/proc/9/fd/33",
            pid: 8,
            started: 80,
            created: "now".to_owned(),
            descriptors: vec!["pipe:[2]".to_owned()],
        };
        model.note(&notes, own).unwrap();
        let noted: Value = serde_json::from_slice(&fs::read(notes.join("state.json")).unwrap()).unwrap();
        let mut expected: Value =
            serde_json::from_str(&state().to_string().replace("shop-1", "shop-2")).unwrap();
        expected["init_process_pid"] = json!(8);
        expected["init_process_start"] = json!(80);
        expected["created"] = json!("now");
        expected["config"]["namespaces"][1]["path"] = json!("/proc/9/fd/33");
        expected["namespace_paths"]["NEWNS"] = json!("/proc/8/ns/mnt");
        expected["external_descriptors"] = json!(["pipe:[2]"]);
        assert_eq!(noted, expected);
    }

    #[test]
    fn a_model_of_another_runc_or_none_that_we_know_is_not_used() {
        let Folder(folder) = &folder(&state());
        let [images, runc, bundle, notes] =
            ["key/images", "runc", "bundle", "notes"].map(|part| folder.join(part));
        RuncState::keep(&images, &runc, &bundle, &notes, "shop-1").unwrap();
        fs::write(bundle.join("config.json"), spec("shop-1", 7, 511).to_string()).unwrap();
        assert!(RuncState::find(&images, &runc, &bundle, "shop-1").is_none());
        fs::write(bundle.join("config.json"), spec("shop-1", 7, 512).to_string()).unwrap();
        assert!(RuncState::find(&images, &runc, &bundle, "shop-1").is_some());
        fs::write(&runc, "another").unwrap();
        assert!(RuncState::find(&images, &runc, &bundle, "shop-1").is_none());
        fs::write(folder.join("key/runc.json"), "{").unwrap();
        assert!(RuncState::find(&images, &runc, &bundle, "shop-1").is_none());
        for part in ["id", "init_process_pid", "created", "config", "cgroup_paths", "namespace_paths"] {
            let mut odd = state();
            odd[part] = json!([]);
            fs::write(notes.join("state.json"), odd.to_string()).unwrap();
            RuncState::keep(&images, &runc, &bundle, &notes, "shop-1").unwrap_err();
        }
        fs::write(notes.join("state.json"), "").unwrap();
        RuncState::keep(&images, &runc, &bundle, &notes, "shop-1").unwrap_err();
    }
}
