//! What an app finds when it starts, and why it may not start.

use super::*;

#[tokio::test]
async fn the_environment_is_what_is_promised_and_nothing_else() {
    let host = Host::new().await;
    let mut app = shell(r"tr '\0' '\n' < /proc/$$/environ; echo ready; exec sleep 600");
    app.env
        .extend([("COLOUR", "blue"), ("PORT", "1"), ("LANG", "C.UTF-8")].map(|(k, v)| (k.into(), v.into())));
    let order = order(&app);
    let Endpoint::Direct(address) = within(host.runtime.start(&order)).await.unwrap().endpoint else {
        panic!("it is sealed")
    };
    let words = ready(&host.runtime, &order.id).await;
    let seen: BTreeSet<&str> = words.lines().collect();
    let folder = host.settings.work.join(order.id.as_str());
    let mut promised = BTreeSet::from([
        format!("PATH={}", env::var("PATH").unwrap()),
        format!("HOME={}", folder.join("files").display()),
        format!("TMPDIR={}", folder.join("tmp").display()),
        "LANG=C.UTF-8".to_owned(),
        "COLOUR=blue".to_owned(),
        "HOST=127.0.0.1".to_owned(),
        format!("PORT={}", address.port()),
        format!("INSTANCE_ID={}", order.id),
        format!("INSTANCE_URL={}", order.url),
        format!("INSTANCE_HOST={}", order.host),
        format!("TRY_IT_NOW_NODE={}", host.settings.node),
    ]);
    promised.extend(env::var("TZ").map(|tz| format!("TZ={tz}")));
    assert_eq!(seen, promised.iter().map(String::as_str).collect());
    assert!(env::var("CARGO_MANIFEST_DIR").is_ok(), "the server has variables that the app must not see");
}

#[tokio::test]
async fn an_app_has_its_own_session_and_no_open_file_of_the_server() {
    let host = Host::new().await;
    let script = format!(
        "cut -d' ' -f5,6 /proc/$$/stat; echo $$; cut -d' ' -f5 /proc/$PPID/stat; echo $PPID
        {OPEN_FILES}; echo ready; exec sleep 600"
    );
    let (_, words) = host.start(&shell(&script)).await;
    let lines: Vec<&str> = words.lines().collect();
    assert_eq!(lines[0], format!("{0} {0}", lines[1]), "the leader of a process group and a session");
    assert_eq!(
        lines[2], lines[3],
        "its guardian has a group of its own too, out of reach of the server's Ctrl-C"
    );
    // What this test's own parent left open reaches any program that is started from here.
    let any = std::process::Command::new("sh").args(["-c", OPEN_FILES]).output().unwrap();
    let any = String::from_utf8(any.stdout).unwrap();
    assert_eq!(lines[4..], any.lines().collect::<Vec<_>>());
}

/// Lists the shell's open files, the three standard ones included.
const OPEN_FILES: &str = "for f in /proc/$$/fd/*; do echo ${f##*/}; done";

#[tokio::test]
async fn an_instance_works_on_a_copy_of_the_files_that_goes_with_it() {
    let host = Host::new().await;
    let files = host.place.0.join("files");
    fs::create_dir_all(files.join("bin")).unwrap();
    fs::write(
        files.join("bin/run"),
        "#!/bin/sh\npwd; cat greeting; echo changed > greeting; echo ready; exec sleep 600\n",
    )
    .unwrap();
    fs::set_permissions(files.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(files.join("text"), "good morning\n").unwrap();
    symlink("text", files.join("greeting")).unwrap();
    let app = App { files: Some(files.clone()), ..app(&["bin/run"]) };
    let (id, words) = host.start(&app).await;
    let folder = host.settings.work.join(id.as_str());
    assert_eq!(words, format!("{}\ngood morning\n", folder.join("files").display()));
    assert_eq!(fs::read_to_string(folder.join("files/text")).unwrap(), "changed\n");
    within(host.runtime.stop(&id)).await.unwrap();
    assert!(!folder.exists());
    assert_eq!(fs::read_to_string(files.join("text")).unwrap(), "good morning\n");
}

#[tokio::test]
async fn files_that_are_not_there_are_an_error_that_names_them() {
    let host = Host::new().await;
    let app = App { files: Some(host.place.0.join("nowhere")), ..shell("exit") };
    let error = within(host.runtime.start(&order(&app))).await.unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
    assert_eq!(host.place.folders(), 0);
}

#[tokio::test]
async fn a_log_stays_bounded_and_keeps_the_end_when_an_app_floods_it() {
    let host = Host::new().await;
    // 4 MB of numbered lines, and then the last word.
    let order = order(&shell("seq 1 600000; echo the end; exec sleep 600"));
    within(host.runtime.start(&order)).await.unwrap();
    let log = until("the end is there", async || {
        output(&host.runtime, &order.id).await.filter(|text| text.ends_with("600000\nthe end\n"))
    });
    assert_eq!(log.await.len(), LOG_LIMIT);
}

#[tokio::test]
async fn limits_bite() {
    let host = Host::new().await;
    let mut app = shell(
        "ulimit -n; ulimit -f; ulimit -d; ulimit -t; ulimit -c; head -c 3000000 /dev/zero > big; ls -s --block-size=1 big | cut -d' ' -f1; echo ready; exec sleep 600",
    );
    app.limits = ResourceLimits {
        cpu_seconds: Some(100),
        memory: Some(256 << 20),
        open_files: Some(77),
        file_size: Some(1 << 20),
        ..ResourceLimits::default()
    };
    let (_, words) = host.start(&app).await;
    let numbers: Vec<&str> = words.lines().filter(|line| line.parse::<u64>().is_ok()).collect();
    // In the shell's units: files, 512 bytes, KiB, seconds, 512 bytes; and the size of the file in bytes.
    assert_eq!(numbers, ["77", "2048", "262144", "100", "0", "1048576"]);
}

#[tokio::test]
async fn an_app_that_spins_is_ended_by_its_limit_on_processor_time() {
    let host = Host::new().await;
    let mut exits = host.runtime.exits();
    let mut app = shell("while :; do :; done");
    app.limits.cpu_seconds = Some(1);
    within(host.runtime.start(&order(&app))).await.unwrap();
    assert_eq!(within(exits.recv()).await.unwrap().how, "signal 24");
}

#[tokio::test]
async fn a_script_whose_interpreter_is_missing_is_told_so() {
    let host = Host::new().await;
    let app = host.with_script("#!/no/such/interpreter\n", "exec ./run");
    let app = App { command: vec!["./run".to_owned()], ..app };
    let error = within(host.runtime.start(&order(&app))).await.unwrap_err();
    assert!(error.to_string().contains("interpreter"), "{error}");
}

#[tokio::test]
async fn without_a_free_port_the_host_is_exhausted() {
    let place = Place::new();
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stranger.local_addr().unwrap().port();
    let settings = Settings { ports: port..=port, node: NodeId::random(), ..place.settings() };
    let runtime = ProcessRuntime::open(settings).await.unwrap();
    let error = within(runtime.start(&order(&shell("exit")))).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Exhausted(what) if what.contains("port")), "{error}");
    assert!(runtime.list().await.unwrap().is_empty());
}

async fn refusal(settings: Settings) -> String {
    ProcessRuntime::open(settings).await.err().expect("it is refused").to_string()
}

#[tokio::test]
async fn a_work_folder_that_is_not_ours_is_refused_and_left_alone() {
    let place = Place::new();
    let settings = place.settings();
    fs::create_dir(place.work()).unwrap();
    let other = place.work().join("sample-aaaaaaaaaaaaaaaa");
    fs::write(&other, "dear diary").unwrap();
    assert!(refusal(settings.clone()).await.contains("not ours"));
    assert_eq!(fs::read_to_string(&other).unwrap(), "dear diary");

    fs::remove_file(&other).unwrap();
    drop(ProcessRuntime::open(settings.clone()).await.unwrap());
    let node = NodeId::parse("another").unwrap();
    assert!(refusal(Settings { node, ..settings.clone() }).await.contains("belongs to node-under-test"));

    let work = place.0.join("no/such/parent");
    assert!(refusal(Settings { work, ..settings.clone() }).await.contains("no/such/parent"));

    let work = place.0.join("link");
    symlink(place.work(), &work).unwrap();
    assert!(refusal(Settings { work, ..settings }).await.contains("not a folder"));
}

#[tokio::test]
async fn a_guardian_that_cannot_be_started_is_an_error() {
    let place = Place::new();
    let settings = Settings { guardian: place.0.join("nothing"), node: NodeId::random(), ..place.settings() };
    let runtime = ProcessRuntime::open(settings).await.unwrap();
    assert!(within(runtime.start(&order(&shell("exit")))).await.is_err());
    assert!(runtime.list().await.unwrap().is_empty());
}
