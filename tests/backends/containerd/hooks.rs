//! Hooks of the runtime: files that an instance has before it runs, and commands that run beside its app.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use try_it_now::runtime::{
    ExecCommand, ExecOutput, InstanceFile, Runtime, RuntimeError, StartMethod, StartRequest,
};
use try_it_now::template::App;

use super::{
    COUNTER_APP, ImageRef, REVISION, TestNode, bake, fs, oci_archive, php, send_command, shell, start,
    start_request, with_timeout,
};

fn command(words: &[&str]) -> ExecCommand {
    let words = words.iter().map(|&word| word.to_owned()).collect();
    let env = [("SECRET".to_owned(), "hunter2".to_owned())].into();
    ExecCommand { argv: words, env, timeout: Duration::from_secs(10) }
}

async fn run(runtime: &dyn Runtime, request: &StartRequest, words: &[&str]) -> ExecOutput {
    with_timeout(runtime.exec(request, command(words))).await.unwrap()
}

async fn output(runtime: &dyn Runtime, request: &StartRequest, words: &[&str]) -> String {
    let ran = run(runtime, request, words).await;
    let text = String::from_utf8(ran.output.to_vec()).unwrap();
    assert_eq!(ran.status, Some(0), "{text}");
    text
}

fn with_files(app: &App, files: &[InstanceFile]) -> StartRequest {
    StartRequest { files: files.to_vec(), ..start_request(app) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_instance_has_its_own_files_before_it_runs() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let counter = bake(&runtime).await;
    let files = |note: &str| {
        [
            InstanceFile::new("/notes", note),
            InstanceFile::new("/etc/app/deep/url", "http://a/\n"),
            InstanceFile { mode: 0o600, owner: (33, 34), ..InstanceFile::new("/tmp/key", "secret") },
        ]
    };
    let (a, b) = (with_files(&counter, &files("a's")), with_files(&counter, &files("b's")));
    for request in [&a, &b] {
        assert_eq!(with_timeout(runtime.start(request)).await.unwrap().method, StartMethod::Restored);
    }
    let [a_at, b_at] = [&a, &b].map(|request| output(&runtime, request, &["cat", "/notes"]));
    assert_eq!((a_at.await, b_at.await), ("a's".to_owned(), "b's".to_owned()));
    let seen =
        output(&runtime, &a, &["sh", "-c", "cat /etc/app/deep/url; stat -c '%a %u %g' /tmp/key /tmp /etc"]);
    // The folders on the path of a file have the permissions of the image.
    assert_eq!(seen.await, "http://a/\n600 33 34\n1777 0 0\n755 0 0\n");
    let introduction =
        output(&runtime, &a, &["sh", "-c", "cd /etc/try-it-now; cat id; echo; cat url; echo; cat host"]);
    assert_eq!(introduction.await, format!("{}\n{}\n{}", a.id, a.url, a.host));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_started_instance_has_its_own_files_too() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let request = with_files(&php(COUNTER_APP), &[InstanceFile::new("/notes", "mine")]);
    let started = with_timeout(runtime.start(&request)).await.unwrap();
    assert_eq!(started.method, StartMethod::Cold);
    assert_eq!(send_command(&runtime, started.endpoint, "look").await, "0 mine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_beside_a_restored_app_with_the_same_rights_and_reports_its_exit() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let counter = bake(&runtime).await;
    let request = start_request(&counter);
    let started = with_timeout(runtime.start(&request)).await.unwrap();
    assert_eq!(started.method, StartMethod::Restored);
    let ran =
        run(&runtime, &request, &["sh", "-c", "echo out; echo $SECRET >&2; echo ,new >>/notes; exit 3"])
            .await;
    // A container has two output pipes, and either may be the faster one.
    let text = String::from_utf8(ran.output.to_vec()).unwrap();
    let mut text: Vec<_> = text.lines().collect();
    text.sort_unstable();
    assert_eq!((ran.status, text), (Some(3), vec!["hunter2", "out"]));
    assert_eq!(send_command(&runtime, started.endpoint, "look").await, "1 old,new");
    let text = output(&runtime, &request, &["sh", "-c", "echo $INSTANCE_ID $INSTANCE_URL $INSTANCE_HOST"]);
    assert_eq!(text.await, format!("{} {} {}\n", request.id, request.url, request.host));
    // The command has the rights of the app: no new privileges, the same seccomp filter and capabilities, the same
    // network.
    let rights = ["sh", "-c", "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$0/status"];
    let own = output(&runtime, &request, &[rights.as_slice(), &["self"]].concat()).await;
    assert_eq!(own, output(&runtime, &request, &[rights.as_slice(), &["1"]].concat()).await);
    assert!(own.contains("NoNewPrivs:\t1") && own.contains("Seccomp:\t2"), "{own}");
    assert_eq!(output(&runtime, &request, &["sh", "-c", "grep -c : /proc/net/dev"]).await, "1\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_end_of_a_long_output_is_kept() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let request = start_request(&shell("exec sleep 600"));
    with_timeout(runtime.start(&request)).await.unwrap();
    let ran = run(&runtime, &request, &["sh", "-c", "seq 1 100000; echo the end"]).await;
    assert_eq!(ran.status, Some(0));
    assert!(ran.output.ends_with(b"99999\n100000\nthe end\n"));
    assert!(ran.output.len() <= 64 << 10, "{}", ran.output.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_takes_too_long_is_killed_and_the_app_is_not() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let mut exits = runtime.exits();
    let request = start_request(&php(COUNTER_APP));
    let started = with_timeout(runtime.start(&request)).await.unwrap();
    assert_eq!(send_command(&runtime, started.endpoint, "add").await, "1");
    let slow = ExecCommand {
        timeout: Duration::from_millis(300),
        ..command(&["sh", "-c", "echo begun; exec sleep 4242"])
    };
    let ran = with_timeout(runtime.exec(&request, slow)).await.unwrap();
    assert_eq!((ran.status, &ran.output[..]), (None, b"begun\n".as_slice()));
    let left = output(&runtime, &request, &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).await;
    assert!(!left.contains("4242"), "{left}");
    assert_eq!(send_command(&runtime, started.endpoint, "look").await, "1");
    assert!(exits.try_recv().is_err(), "the exit of a command is not reported as that of the instance");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_program_and_a_missing_instance_are_errors() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let request = start_request(&shell("exec sleep 600"));
    let unknown = with_timeout(runtime.exec(&request, command(&["true"]))).await.unwrap_err();
    assert!(matches!(unknown, RuntimeError::Start(_)), "{unknown}");
    with_timeout(runtime.start(&request)).await.unwrap();
    let missing = with_timeout(runtime.exec(&request, command(&["no-such-program"]))).await.unwrap_err();
    assert!(matches!(&missing, RuntimeError::Start(why) if why.contains("no-such-program")), "{missing}");
    assert_eq!(output(&runtime, &request, &["echo", "fine"]).await, "fine\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_a_command_and_leaves_nothing() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let request = start_request(&shell("exec sleep 600"));
    with_timeout(runtime.start(&request)).await.unwrap();
    let slow = ExecCommand { timeout: Duration::from_secs(600), ..command(&["sleep", "600"]) };
    let mut running = runtime.exec(&request, slow);
    // Waits until two such commands run.
    loop {
        tokio::select! {
            ended = &mut running => panic!("{ended:?}"),
            count = output(&runtime, &request, &["sh", "-c", "cat /proc/[0-9]*/comm | grep -c sleep"]) => {
                if count == "2\n" { break }
            }
        }
    }
    with_timeout(runtime.stop(&request.id)).await.unwrap();
    let ended = with_timeout(running).await;
    assert!(!matches!(ended, Ok(ExecOutput { status: None | Some(0), .. })), "{ended:?}");
    assert_eq!(test_node.resources_of(request.id.as_str()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_effects_of_a_command_are_in_the_checkpoint() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let counter = php(COUNTER_APP);
    let request = start_request(&counter);
    let started = with_timeout(runtime.start(&request)).await.unwrap();
    assert_eq!(send_command(&runtime, started.endpoint, "look").await, "0");
    output(&runtime, &request, &["sh", "-c", "echo baked >/notes"]).await;
    with_timeout(runtime.bake(&request.id, REVISION, &counter)).await.unwrap();
    let (_, restored) = start(&runtime, &counter).await;
    assert_eq!(restored.method, StartMethod::Restored);
    assert_eq!(send_command(&runtime, restored.endpoint, "look").await, "0 baked");
}

/// Writes an image whose `/escape`, `/climb` and `/last` are links that lead to this host.
fn image_with_links(test_node: &TestNode, victim: &std::path::Path) -> std::path::PathBuf {
    let mut layer = tar::Builder::new(Vec::new());
    for (name, target) in [("escape", victim), ("climb", std::path::Path::new("../../../../../../../.."))] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, name, target).unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    layer.append_link(&mut header, "last", victim.join("stolen")).unwrap();
    let layer = layer.into_inner().unwrap();

    fs::create_dir_all(&test_node.settings.node_dir).unwrap();
    let path = test_node.settings.node_dir.join("links.tar");
    let manifest = oci_archive::write(&path, &layer, test_node.settings.node.as_str());
    test_node.images.lock().unwrap().push(format!("try-it-now.local/archive@{manifest}"));
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_hook_escapes_the_instance_through_a_link() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let victim = test_node.settings.node_dir.join("victim");
    fs::create_dir_all(&victim).unwrap();
    let archive = image_with_links(&test_node, &victim);
    let app = App { image: Some(ImageRef::Tar(archive)), ..shell("exec sleep 600") };
    let inode = fs::metadata(&victim).unwrap().ino();
    for path in ["/escape/stolen", "/climb/tmp/stolen", "/last/stolen"] {
        let request = with_files(&app, &[InstanceFile::new(path, "x")]);
        let error = with_timeout(runtime.start(&request)).await.unwrap_err();
        assert!(error.to_string().contains("is a link"), "{path}: {error}");
        assert_eq!(test_node.resources_of(request.id.as_str()), [""; 0]);
    }
    // A link at the path of the file itself is replaced and not followed. Then the start fails because the image has no
    // shell.
    let replaced = with_files(&app, &[InstanceFile::new("/last", "x")]);
    let error = with_timeout(runtime.start(&replaced)).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Start(why) if why.contains("sh")), "{error}");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
    assert_eq!(fs::metadata(&victim).unwrap().ino(), inode);
    // A link that the app created before the bake is not followed either.
    let counter = php(COUNTER_APP);
    let baked = start_request(&counter);
    with_timeout(runtime.start(&baked)).await.unwrap();
    let link = format!("ln -s {} /trap && rm -rf /var/tmp && ln -s / /var/tmp", victim.display());
    output(&runtime, &baked, &["sh", "-c", &link]).await;
    with_timeout(runtime.bake(&baked.id, REVISION, &counter)).await.unwrap();
    for path in ["/trap/stolen", "/var/tmp/stolen"] {
        let request = with_files(&counter, &[InstanceFile::new(path, "x")]);
        let started = with_timeout(runtime.start(&request)).await.unwrap();
        assert_eq!(started.method, StartMethod::Cold, "{path}: no restore can have this file");
        assert_eq!(output(&runtime, &request, &["cat", path]).await, "x");
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
}
