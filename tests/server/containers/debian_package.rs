//! The Debian package, in a Debian with systemd and without network: installed, upgraded, removed, purged.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::FULL_TIMEOUT;
use crate::support::debian_root::DebianRoot;
use try_it_now::runtime::engine::EngineKind;

use crate::support::engine_stack::{containers_of, engine_socket};
use crate::support::harness::{AcquiredInstance, Answer, eventually, eventually_within, request};
use crate::support::skip::skip;
use crate::support::stack::image_archive;

/// Where the engine's socket and the image appear in the Debian.
const SOCKET: &str = "run/engine.sock";
const IMAGE: &str = "run/sample.tar";

/// A package of the program under test, removed when this is dropped.
struct Package(PathBuf);

impl Package {
    /// Packs the program with this revision. Returns `None` and prints why if the tool is missing.
    fn build(revision: &str) -> Option<Self> {
        if !Command::new("cargo")
            .args(["deb", "--version"])
            .output()
            .is_ok_and(|output| output.status.success())
        {
            skip("cargo-deb is missing (run `make package-tools`)");
            return None;
        }
        let file = std::env::temp_dir().join(format!("try-it-now-{}.deb", uuid::Uuid::now_v7()));
        let mut build = Command::new("deployments/debian/build");
        build.arg("dev").arg(&file).args(["--fast", "--deb-revision", revision]);
        let output = build.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(Self(file))
    }

    /// Installs it in a Debian, over an older one if there is one.
    fn install(&self, debian: &DebianRoot) {
        std::fs::copy(&self.0, debian.path("/root/package.deb")).unwrap();
        debian.run("dpkg --install /root/package.deb && rm /root/package.deb");
    }
}

impl Drop for Package {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The service in a Debian, which listens on a port that the system chose.
struct Service<'a>(&'a DebianRoot);

impl Service<'_> {
    /// Returns the process id, inside, of the running service.
    fn pid(&self) -> String {
        let pid = self.0.run("systemctl show --property MainPID --value try-it-now");
        assert_ne!(pid, "0\n", "the service does not run");
        pid.trim().to_owned()
    }

    /// Returns what the running service logs when it listens.
    async fn listening(&self) -> Value {
        let read = format!("journalctl --quiet --output cat _PID={}", self.pid());
        eventually("the service logs its port", async || {
            let log = self.0.run(&read);
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            lines.into_iter().find(|line| line["port"].is_u64() && line["node"].is_string())
        })
        .await
    }

    async fn call(
        &self,
        method: &str,
        host: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let port = u16::try_from(self.listening().await["port"].as_u64().unwrap()).unwrap();
        request(port, method, host, path, headers, body).await
    }

    /// Waits until an instance is ready, and acquires it.
    async fn acquire(&self) -> AcquiredInstance {
        eventually_within(FULL_TIMEOUT, "an instance is ready", async || {
            let answer = self.call("POST", "localhost", "/api/v1/demo/acquire", &[], "").await;
            (answer.status == 200).then(|| AcquiredInstance::from_json(&answer.json()))
        })
        .await
    }

    /// Returns the names in the guest book of an instance.
    async fn signatures(&self, host: &str) -> Value {
        let answer = self.call("GET", host, "/entries", &[], "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let book = answer.json();
        book["entries"].as_array().unwrap().iter().map(|entry| entry["name"].clone()).collect()
    }
}

/// Appends lines to the file of variables, as an operator does.
fn set_variables(debian: &DebianRoot, lines: &str) {
    debian.run(&format!("printf '{lines}' >> /etc/try-it-now/try-it-now.env"));
}

/// Removes what the node of a Debian has in its engine, if the test ends before a removal of the package does.
struct EngineCleanup<'a>(&'a DebianRoot);

impl Drop for EngineCleanup<'_> {
    fn drop(&mut self) {
        let variables =
            format!("CONTAINER_MODE=docker STATE_DIR=/var/lib/try-it-now DOCKER_HOST=unix:///{SOCKET}");
        self.0.try_run(&format!("systemctl stop try-it-now; {variables} try-it-now clean"));
    }
}

#[tokio::test]
async fn an_installed_service_runs_without_rights_only_once_it_is_enabled_and_a_purge_leaves_nothing() {
    let Some(package) = Package::build("1") else { return };
    let Some(debian) = DebianRoot::boot(&[]).await else { return };
    let users = "cat /etc/passwd /etc/group /etc/shadow /etc/gshadow";
    let before = (debian.files(), debian.run(users));

    package.install(&debian);
    let state = debian.try_run("systemctl is-enabled try-it-now; systemctl is-active try-it-now");
    assert_eq!(String::from_utf8_lossy(&state.stdout), "disabled\ninactive\n");
    assert_eq!(debian.run("stat -c '%U %a' /var/lib/try-it-now"), "try-it-now 700\n");
    assert_eq!(debian.run("stat -c '%U %a' /etc/try-it-now/try-it-now.env"), "root 600\n");
    let defaults = debian.run("try-it-now config --env-file");
    assert_eq!(debian.run("cat /etc/try-it-now/try-it-now.env"), defaults);
    assert_eq!(debian.run("systemd-analyze verify try-it-now.service 2>&1"), "");
    assert!(debian.path("/usr/share/man/man1/try-it-now-serve.1.gz").is_file());
    debian.run("bash -n /usr/share/bash-completion/completions/try-it-now");

    set_variables(&debian, "SERVER_PORT=0\\n");
    debian.run("systemctl enable --now try-it-now");
    let service = Service(&debian);
    let status = debian.run(&format!("cat /proc/{}/status", service.pid()));
    let user = debian.run("id --user try-it-now");
    for line in
        [format!("Uid:\t{}", user.trim()), "NoNewPrivs:\t1".into(), "CapBnd:\t0000000000000000".into()]
    {
        assert!(status.lines().any(|own| own.starts_with(&line)), "{line} in\n{status}");
    }
    let instance = service.acquire().await;
    assert_eq!(service.signatures(&instance.host).await, json!([]));
    debian.run("systemctl reload try-it-now");
    assert_eq!(service.signatures(&instance.host).await, json!([]), "a reload ends no instance");

    debian.run("dpkg --remove try-it-now");
    assert!(debian.path("/etc/try-it-now/try-it-now.env").is_file(), "only a purge removes configuration");
    debian.run("dpkg --purge try-it-now");
    let after = (debian.files(), debian.run(users));
    let left: Vec<_> = after.0.difference(&before.0).collect();
    assert!(left.is_empty(), "a purge left {left:?}");
    assert!(before.0.is_subset(&after.0), "a purge removed what was there before");
    assert_eq!(after.1, before.1, "the users are those before the installation");
}

#[tokio::test]
async fn an_upgrade_keeps_containers_of_visitors_and_configuration_and_a_removal_ends_them() {
    let Some(socket) = engine_socket(EngineKind::Docker) else { return };
    let (Some(old), Some(new)) = (Package::build("1"), Package::build("2")) else { return };
    let files = [(socket.as_path(), SOCKET), (&image_archive("sample"), IMAGE)];
    let Some(debian) = DebianRoot::boot(&files).await else { return };
    let _cleanup = EngineCleanup(&debian);
    old.install(&debian);
    let templates = format!(
        "[templates.book]\nimage = \"oci:/{IMAGE}\"\nport = 80\negress = \"internet\"\n\
         ready = {{ path = \"/health\" }}\nlimits = {{ open_files = 1024 }}\n\
         pool = {{ target = 1, min = 0, max = 3 }}\n"
    );
    std::fs::write(debian.path("/etc/try-it-now/templates.toml"), &templates).unwrap();
    set_variables(
        &debian,
        &format!("SERVER_PORT=0\\nCONTAINER_MODE=docker\\nDOCKER_HOST=unix:///{SOCKET}\\n"),
    );
    let drop_in = debian.path("/etc/systemd/system/try-it-now.service.d/unprivileged.conf");
    std::fs::remove_file(&drop_in).unwrap();
    debian.run("systemctl daemon-reload && systemctl enable --now try-it-now");
    let service = Service(&debian);
    let node = service.listening().await["node"].as_str().unwrap().to_owned();
    let instance = service.acquire().await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let signed = service.call("POST", &instance.host, "/entries", &form, "name=Ada&text=Hello").await;
    assert!(signed.status < 400, "{}", signed.text());
    assert_eq!(service.signatures(&instance.host).await, json!(["Ada"]));

    let pid = service.pid();
    let variables = debian.run("cat /etc/try-it-now/try-it-now.env");
    new.install(&debian);
    assert_eq!(
        debian.run("dpkg-query --show --showformat '${Version}' try-it-now").split_once('-').unwrap().1,
        "2"
    );
    assert_ne!(service.pid(), pid, "the service was restarted");
    assert_eq!(service.listening().await["node"], node.as_str());
    assert_eq!(service.signatures(&instance.host).await, json!(["Ada"]), "the visitor's instance lives on");
    assert_eq!(debian.run("cat /etc/try-it-now/try-it-now.env"), variables);
    assert_eq!(debian.run("cat /etc/try-it-now/templates.toml"), templates);
    assert!(!drop_in.exists(), "a file that the operator removed stays removed");
    assert!(!containers_of(&socket, &node).await.is_empty());

    debian.run("dpkg --remove try-it-now");
    assert_eq!(containers_of(&socket, &node).await.len(), 0);
    debian.run("dpkg --purge try-it-now");
    assert!(!debian.path("/var/lib/try-it-now").exists() && !debian.path("/etc/try-it-now").exists());
}
