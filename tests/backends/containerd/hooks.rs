//! What makes each copy one of its own: files before its first moment, and commands beside its app.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use try_it_now::runtime::{Command, ExecOutput, OwnFile, Runtime, RuntimeError, StartMethod, StartRequest};
use try_it_now::template::App;

use super::{Image, KEEPER, Place, REVISION, bake, fs, oci_archive, order, php, shell, start, tell, within};

fn command(words: &[&str]) -> Command {
    let words = words.iter().map(|&word| word.to_owned()).collect();
    let env = [("SECRET".to_owned(), "hunter2".to_owned())].into();
    Command { words, env, timeout: Duration::from_secs(10) }
}

async fn run(runtime: &dyn Runtime, order: &StartRequest, words: &[&str]) -> ExecOutput {
    within(runtime.exec(order, command(words))).await.unwrap()
}

async fn output(runtime: &dyn Runtime, order: &StartRequest, words: &[&str]) -> String {
    let ran = run(runtime, order, words).await;
    let text = String::from_utf8(ran.output.to_vec()).unwrap();
    assert_eq!(ran.status, Some(0), "{text}");
    text
}

fn with_files(app: &App, files: &[OwnFile]) -> StartRequest {
    StartRequest { files: files.to_vec(), ..order(app) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_instance_has_files_of_its_own_before_its_first_moment() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let keeper = bake(&runtime).await;
    let files = |note: &str| {
        [
            OwnFile::new("/notes", note),
            OwnFile::new("/etc/app/deep/url", "http://a/\n"),
            OwnFile { mode: 0o600, owner: (33, 34), ..OwnFile::new("/tmp/key", "secret") },
        ]
    };
    let (a, b) = (with_files(&keeper, &files("a's")), with_files(&keeper, &files("b's")));
    for order in [&a, &b] {
        assert_eq!(within(runtime.start(order)).await.unwrap().how, StartMethod::Restored);
    }
    let [a_at, b_at] = [&a, &b].map(|order| output(&runtime, order, &["cat", "/notes"]));
    assert_eq!((a_at.await, b_at.await), ("a's".to_owned(), "b's".to_owned()));
    let seen =
        output(&runtime, &a, &["sh", "-c", "cat /etc/app/deep/url; stat -c '%a %u %g' /tmp/key /tmp /etc"]);
    // What was made on the way to a file is as the image has it.
    assert_eq!(seen.await, "http://a/\n600 33 34\n1777 0 0\n755 0 0\n");
    let introduction =
        output(&runtime, &a, &["sh", "-c", "cd /etc/try-it-now; cat id; echo; cat url; echo; cat host"]);
    assert_eq!(introduction.await, format!("{}\n{}\n{}", a.id, a.url, a.host));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_instance_has_its_files_too() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let order = with_files(&php(KEEPER), &[OwnFile::new("/notes", "mine")]);
    let started = within(runtime.start(&order)).await.unwrap();
    assert_eq!(started.how, StartMethod::Cold);
    assert_eq!(tell(&runtime, started.endpoint, "look").await, "0 mine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_beside_a_restored_app_with_the_same_rights_and_tells_how_it_ended() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let keeper = bake(&runtime).await;
    let order = order(&keeper);
    let started = within(runtime.start(&order)).await.unwrap();
    assert_eq!(started.how, StartMethod::Restored);
    let ran =
        run(&runtime, &order, &["sh", "-c", "echo out; echo $SECRET >&2; echo ,new >>/notes; exit 3"]).await;
    // Two pipes lead out of a container, and nobody knows which is the quicker.
    let told = String::from_utf8(ran.output.to_vec()).unwrap();
    let mut told: Vec<_> = told.lines().collect();
    told.sort_unstable();
    assert_eq!((ran.status, told), (Some(3), vec!["hunter2", "out"]));
    assert_eq!(tell(&runtime, started.endpoint, "look").await, "1 old,new");
    let told = output(&runtime, &order, &["sh", "-c", "echo $INSTANCE_ID $INSTANCE_URL $INSTANCE_HOST"]);
    assert_eq!(told.await, format!("{} {} {}\n", order.id, order.url, order.host));
    // As the app: no rights to gain, the same filter and capabilities, the same network.
    let rights = ["sh", "-c", "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$0/status"];
    let own = output(&runtime, &order, &[rights.as_slice(), &["self"]].concat()).await;
    assert_eq!(own, output(&runtime, &order, &[rights.as_slice(), &["1"]].concat()).await);
    assert!(own.contains("NoNewPrivs:\t1") && own.contains("Seccomp:\t2"), "{own}");
    assert_eq!(output(&runtime, &order, &["sh", "-c", "grep -c : /proc/net/dev"]).await, "1\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_end_of_a_long_output_is_kept() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let order = order(&shell("exec sleep 600"));
    within(runtime.start(&order)).await.unwrap();
    let ran = run(&runtime, &order, &["sh", "-c", "seq 1 100000; echo the end"]).await;
    assert_eq!(ran.status, Some(0));
    assert!(ran.output.ends_with(b"99999\n100000\nthe end\n"));
    assert!(ran.output.len() <= 64 << 10, "{}", ran.output.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_takes_too_long_is_killed_and_the_app_is_not() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let mut exits = runtime.exits();
    let order = order(&php(KEEPER));
    let started = within(runtime.start(&order)).await.unwrap();
    assert_eq!(tell(&runtime, started.endpoint, "add").await, "1");
    let slow = Command {
        timeout: Duration::from_millis(300),
        ..command(&["sh", "-c", "echo begun; exec sleep 4242"])
    };
    let ran = within(runtime.exec(&order, slow)).await.unwrap();
    assert_eq!((ran.status, &ran.output[..]), (None, b"begun\n".as_slice()));
    let left = output(&runtime, &order, &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).await;
    assert!(!left.contains("4242"), "{left}");
    assert_eq!(tell(&runtime, started.endpoint, "look").await, "1");
    assert!(exits.try_recv().is_err(), "the end of a command is no end of the instance");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_missing_and_an_instance_that_is_are_errors() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let order = order(&shell("exec sleep 600"));
    let nobody = within(runtime.exec(&order, command(&["true"]))).await.unwrap_err();
    assert!(matches!(nobody, RuntimeError::Start(_)), "{nobody}");
    within(runtime.start(&order)).await.unwrap();
    let missing = within(runtime.exec(&order, command(&["no-such-program"]))).await.unwrap_err();
    assert!(matches!(&missing, RuntimeError::Start(why) if why.contains("no-such-program")), "{missing}");
    assert_eq!(output(&runtime, &order, &["echo", "fine"]).await, "fine\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_a_command_and_leaves_nothing() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let order = order(&shell("exec sleep 600"));
    within(runtime.start(&order)).await.unwrap();
    let slow = Command { timeout: Duration::from_secs(600), ..command(&["sleep", "600"]) };
    let mut running = runtime.exec(&order, slow);
    // Until there are two of them in there.
    loop {
        tokio::select! {
            ended = &mut running => panic!("{ended:?}"),
            count = output(&runtime, &order, &["sh", "-c", "cat /proc/[0-9]*/comm | grep -c sleep"]) => {
                if count == "2\n" { break }
            }
        }
    }
    within(runtime.stop(&order.id)).await.unwrap();
    let ended = within(running).await;
    assert!(!matches!(ended, Ok(ExecOutput { status: None | Some(0), .. })), "{ended:?}");
    assert_eq!(place.all_of(order.id.as_str()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_has_done_is_frozen_with_the_app() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let keeper = php(KEEPER);
    let order = order(&keeper);
    let started = within(runtime.start(&order)).await.unwrap();
    assert_eq!(tell(&runtime, started.endpoint, "look").await, "0");
    output(&runtime, &order, &["sh", "-c", "echo baked >/notes"]).await;
    within(runtime.bake(&order.id, REVISION, &keeper)).await.unwrap();
    let (_, copy) = start(&runtime, &keeper).await;
    assert_eq!(copy.how, StartMethod::Restored);
    assert_eq!(tell(&runtime, copy.endpoint, "look").await, "0 baked");
}

/// An image whose `/escape` and `/etc/link` lead to a folder of this host.
fn image_with_links(place: &Place, victim: &std::path::Path) -> std::path::PathBuf {
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

    fs::create_dir_all(&place.settings.folder).unwrap();
    let path = place.settings.folder.join("links.tar");
    let manifest = oci_archive::write(&path, &layer, place.settings.node.as_str());
    place.images.lock().unwrap().push(format!("try-it-now.local/archive@{manifest}"));
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_gets_out_of_the_instance_by_a_link_in_its_image() {
    let Some(place) = Place::new() else { return };
    let runtime = place.open().await;
    let victim = place.settings.folder.join("victim");
    fs::create_dir_all(&victim).unwrap();
    let archive = image_with_links(&place, &victim);
    let app = App { image: Some(Image::Tar(archive)), ..shell("exec sleep 600") };
    let inode = fs::metadata(&victim).unwrap().ino();
    for path in ["/escape/stolen", "/climb/tmp/stolen", "/last/stolen"] {
        let order = with_files(&app, &[OwnFile::new(path, "x")]);
        let error = within(runtime.start(&order)).await.unwrap_err();
        assert!(error.to_string().contains("is a link"), "{path}: {error}");
        assert_eq!(place.all_of(order.id.as_str()), [""; 0]);
    }
    // A link at the very place is replaced, and not followed; that there is no shell is what is found wrong then.
    let replaced = with_files(&app, &[OwnFile::new("/last", "x")]);
    let error = within(runtime.start(&replaced)).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::Start(why) if why.contains("sh")), "{error}");
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
    assert_eq!(fs::metadata(&victim).unwrap().ino(), inode);
    // Nor is what the app has left there before it was frozen.
    let keeper = php(KEEPER);
    let golden = order(&keeper);
    within(runtime.start(&golden)).await.unwrap();
    let link = format!("ln -s {} /trap && rm -rf /var/tmp && ln -s / /var/tmp", victim.display());
    output(&runtime, &golden, &["sh", "-c", &link]).await;
    within(runtime.bake(&golden.id, REVISION, &keeper)).await.unwrap();
    for path in ["/trap/stolen", "/var/tmp/stolen"] {
        let order = with_files(&keeper, &[OwnFile::new(path, "x")]);
        let started = within(runtime.start(&order)).await.unwrap();
        assert_eq!(started.how, StartMethod::Cold, "{path}: no copy has it");
        assert_eq!(output(&runtime, &order, &["cat", path]).await, "x");
    }
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
}
