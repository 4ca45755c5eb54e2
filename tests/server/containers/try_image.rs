//! The command `try-image`, with the real program.

use std::os::unix::fs::symlink;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::bake::command;
use super::unfit_checkpoints::LICENSED;
use super::{ContainerHost, FULL_TIMEOUT};
use crate::support::harness::{MAX_WAIT, eventually_within, get};
use crate::support::stack::{self, Stack};

/// The longest time of one trial on a busy machine.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(180);

/// Makes a state folder with an image whose name is that of the test's template, so that everything of the trial has it
/// in its name.
fn host_with(image: &str) -> Option<(ContainerHost, String)> {
    let host = ContainerHost::new(Stack::find()?, image, "", "path = \"/\"")?;
    let archive = host.folder.join(&host.template).with_extension("tar");
    symlink(stack::image_archive(image), &archive).unwrap();
    Some((host, format!("oci:{}", archive.display())))
}

fn trial(host: &ContainerHost, image: &str, options: &[&str]) -> tokio::process::Command {
    let mut trial = tokio::process::Command::from(command(host, &["try-image", image]));
    trial.args(options).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    trial
}

async fn run(host: &ContainerHost, image: &str, options: &[&str]) -> (Option<i32>, String, String) {
    let ended = tokio::time::timeout(TRIAL_TIMEOUT, trial(host, image, options).output()).await;
    let Output { status, stdout, stderr } = ended.unwrap().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Lists what is in the folder of trials.
fn nodes_left(host: &ContainerHost) -> Vec<String> {
    let entries = std::fs::read_dir(host.folder.join("try-image/nodes")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

async fn assert_trial_left_nothing(host: &ContainerHost, nodes: &[String]) {
    assert_eq!(nodes_left(host), [""; 0]);
    host.assert_nothing_left().await;
    let names: Vec<&str> = nodes.iter().map(String::as_str).collect();
    if !names.is_empty() {
        let mut left = host.stack.resources_named(&names);
        // The container of the shared shim belongs to no node.
        left.retain(|trace| !trace.contains("shared-shim-") && !trace.contains("never-run"));
        assert!(left.is_empty(), "{left:#?}");
    }
}

/// Tries an image, serves the suggested template, and tries the image again beside the server.
async fn is_served_as_suggested(image: &str, page_status: u16) {
    let Some((host, name)) = host_with(image) else { return };
    let (code, output, progress) = run(&host, &name, &["--json"]).await;
    assert_eq!(code, Some(0), "{output}{progress}");
    assert!(progress.contains("measuring a cold start") && progress.contains("restoring"), "{progress}");
    let result: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(result["verdict"], "restores", "{output}");
    assert_eq!(result["restores_ms"].as_array().unwrap().len(), 5, "{output}");
    for known in ["cold_ms", "bake_ms", "restore_ms", "private_memory_bytes", "port"] {
        assert!(result[known].as_f64().is_some_and(|number| number > 0.0), "{known}: {output}");
    }
    assert_eq!(result["user"]["name"], "root", "{output}");
    assert_trial_left_nothing(&host, &[]).await;

    std::fs::write(host.folder.join("templates.toml"), result["template"].as_str().unwrap()).unwrap();
    let server = host.start_server(&[("POOL_TARGET_SIZE", "1"), ("POOL_MIN_SIZE", "1")]).await;
    let server = server.full_within(FULL_TIMEOUT).await;
    let instance = server.acquire().await;
    assert_eq!(get(server.port, &instance.host, "/").await.status, page_status);
    let (code, output, _) = run(&host, &name, &[]).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains(result["template"].as_str().unwrap()), "{output}");
    assert_eq!(get(server.port, &instance.host, "/").await.status, page_status);
    assert_eq!(nodes_left(&host), [""; 0]);
}

#[tokio::test]
async fn php_is_served_by_the_template_that_its_trial_suggests() {
    is_served_as_suggested("php", 200).await;
}

#[tokio::test]
async fn node_is_served_by_the_template_that_its_trial_suggests() {
    is_served_as_suggested("node", 200).await;
}

#[tokio::test]
async fn nginx_without_pages_and_without_exposed_ports_is_served_by_the_suggested_template() {
    is_served_as_suggested("nginx", 403).await;
}

#[tokio::test]
async fn an_app_that_works_only_cold_has_a_status_of_its_own_and_the_reason() {
    let Some((host, name)) = host_with("php") else { return };
    let (code, output, _) = run(&host, &name, &["--timeout", "3s", "--command", "php", "-r", LICENSED]).await;
    assert_eq!(code, Some(3), "{output}");
    assert!(
        output.contains("cold only: a restored instance does not work: step `answer` failed"),
        "{output}"
    );
    assert!(output.contains("answered 403"), "{output}");
    assert!(output.contains("cold start") && output.contains("command = [\"php\", \"-r\","), "{output}");
    let stopped = "sleep 1000 & kill -STOP $!; exec php -S 127.0.0.1:80 -t /";
    let (code, output, _) = run(&host, &name, &["--command", "sh", "-c", stopped]).await;
    assert_eq!(code, Some(3), "{output}");
    assert!(output.contains("cold only: cannot be baked: step `freeze` failed"), "{output}");
    assert!(output.contains("stopped"), "{output}");
    assert_trial_left_nothing(&host, &[]).await;
}

#[tokio::test]
async fn what_does_not_work_is_reported_with_its_reason() {
    let Some((host, name)) = host_with("php") else { return };
    let broken = host.folder.join("broken.tar");
    std::fs::write(&broken, "no archive".repeat(200)).unwrap();
    let broken = format!("oci:{}", broken.display());
    let ends = ["--command", "sh", "-c", "echo license missing >&2; exit 7"];
    let speaks_no_http = "$s = stream_socket_server('tcp://127.0.0.1:80'); echo 'listening'; \
                          while (true) if ($v = @stream_socket_accept($s, 60)) { fwrite($v, \"-ERR\\r\\n\"); fclose($v); }";
    let no_http = ["--timeout", "2s", "--command", "php", "-r", speaks_no_http];
    let server_error = "$s = stream_socket_server('tcp://0.0.0.0:80'); \
                        while (true) if ($v = @stream_socket_accept($s, 60)) { fgets($v); \
                        fwrite($v, \"HTTP/1.1 503 Busy\\r\\ncontent-length: 0\\r\\n\\r\\n\"); fclose($v); }";
    let busy = ["--timeout", "2s", "--command", "php", "-r", server_error];
    let cases: [(&str, &[&str], i32, &[&str]); 9] = [
        (&name, &ends, 1, &["does not work: the app ended (exit status 7)", "license missing"]),
        (&name, &["--timeout", "1s", "--command", "sleep", "60"], 1, &["within 1s: it listens on no port"]),
        (&name, &no_http, 1, &["port 80: it does not answer as HTTP does", "listening"]),
        (&name, &busy, 1, &["port 80: GET / answers 503"]),
        (
            &name,
            &["--command", "/no/such/program"],
            1,
            &["does not work: cannot start the app", "/no/such/program"],
        ),
        (&broken, &[], 1, &["it is not an archive of an image: it is not a tar file"]),
        ("127.0.0.1:1/none:1", &[], 1, &["does not work: ", "127.0.0.1:1/none:1"]),
        ("oci:/nowhere.tar", &[], 64, &["cannot read the image in /nowhere.tar: No such file"]),
        ("Capital:1", &[], 64, &["write the name of the image in small letters"]),
    ];
    for (image, options, status, texts) in cases {
        let (code, output, errors) = run(&host, image, options).await;
        let output = format!("{output}{errors}");
        assert_eq!(code, Some(status), "{image} {options:?}: {output}");
        for text in texts {
            assert!(output.contains(text), "{image} {options:?}: {output}");
        }
    }
    assert_trial_left_nothing(&host, &[]).await;
}

#[tokio::test]
async fn a_trial_without_containerd_names_the_remedy() {
    let Some((mut host, name)) = host_with("php") else { return };
    let real = std::mem::replace(&mut host.stack.address, host.folder.join("missing.sock"));
    let (code, output, errors) = run(&host, &name, &[]).await;
    host.stack.address = real;
    assert_eq!((code, output.as_str()), (Some(1), ""), "{errors}");
    assert!(errors.contains("missing.sock") && errors.contains("start containerd"), "{errors}");
}

#[tokio::test]
async fn an_interrupted_trial_leaves_nothing_and_a_killed_one_is_removed_by_the_next() {
    let Some((host, name)) = host_with("php") else { return };
    let mut nodes = Vec::new();
    for (signal, progress_at) in
        [("KILL", "restoring"), ("KILL", "starting it"), ("TERM", "baking"), ("INT", "measuring")]
    {
        let mut child = trial(&host, &name, &[]).spawn().unwrap();
        let mut progress = child.stderr.take().unwrap();
        let mut text = String::new();
        let reading = async {
            let mut part = [0; 1024];
            while !text.contains(progress_at) {
                let read = tokio::io::AsyncReadExt::read(&mut progress, &mut part).await.unwrap();
                assert!(read > 0, "{text}");
                text.push_str(&String::from_utf8_lossy(&part[..read]));
            }
        };
        tokio::time::timeout(TRIAL_TIMEOUT, reading).await.unwrap();
        nodes.extend(nodes_left(&host));
        if progress_at == "starting it" {
            let runs = async || (!host.containers().is_empty()).then_some(());
            eventually_within(FULL_TIMEOUT, "its container exists", runs).await;
        }
        let pid = rustix::process::Pid::from_raw(child.id().unwrap() as i32).unwrap();
        let send = |signal| rustix::process::kill_process(pid, signal).unwrap();
        // It stops, so that it does not end before the signal.
        send(rustix::process::Signal::STOP);
        let (code, _, errors) = run(&host, &name, &[]).await;
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains("another try-image runs"), "{errors}");
        send(match signal {
            "KILL" => rustix::process::Signal::KILL,
            "TERM" => rustix::process::Signal::TERM,
            _ => rustix::process::Signal::INT,
        });
        send(rustix::process::Signal::CONT);
        let rest = async {
            let _ = tokio::io::AsyncReadExt::read_to_string(&mut progress, &mut text).await;
            child.wait().await.unwrap()
        };
        let ended = tokio::time::timeout(MAX_WAIT * 3, rest).await.unwrap();
        if signal == "KILL" {
            assert_eq!(nodes_left(&host).len(), 1, "{text}");
        } else {
            assert_eq!(ended.code(), Some(1), "{text}");
            assert!(text.contains("interrupted; everything of the trial was removed"), "{text}");
            assert_trial_left_nothing(&host, &nodes).await;
        }
    }
    let (code, output, errors) = run(&host, &name, &[]).await;
    assert_eq!(code, Some(0), "{output}{errors}");
    assert_trial_left_nothing(&host, &nodes).await;
}
