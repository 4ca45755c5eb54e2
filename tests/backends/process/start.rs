//! The environment of a started app, and the reasons why a start fails.

use super::*;

#[tokio::test]
async fn the_environment_has_exactly_the_documented_variables() {
    let fixture = ProcessFixture::new().await;
    let mut app = shell(r"tr '\0' '\n' < /proc/$$/environ; echo ready; exec sleep 600");
    app.env
        .extend([("COLOUR", "blue"), ("PORT", "1"), ("LANG", "C.UTF-8")].map(|(k, v)| (k.into(), v.into())));
    let request = start_request(&app);
    let Endpoint::Direct(address) = with_timeout(fixture.runtime.start(&request)).await.unwrap().endpoint
    else {
        panic!("the endpoint is sealed")
    };
    let output_text = ready(&fixture.runtime, &request.id).await;
    let seen: BTreeSet<&str> = output_text.lines().collect();
    let folder = fixture.settings.instances_dir.join(request.id.as_str());
    let mut documented = BTreeSet::from([
        format!("PATH={}", env::var("PATH").unwrap()),
        format!("HOME={}", folder.join("files").display()),
        format!("TMPDIR={}", folder.join("tmp").display()),
        "LANG=C.UTF-8".to_owned(),
        "COLOUR=blue".to_owned(),
        "HOST=127.0.0.1".to_owned(),
        format!("PORT={}", address.port()),
        format!("INSTANCE_ID={}", request.id),
        format!("INSTANCE_URL={}", request.url),
        format!("INSTANCE_HOST={}", request.host),
        format!("TRY_IT_NOW_NODE={}", fixture.settings.node),
    ]);
    documented.extend(env::var("TZ").map(|tz| format!("TZ={tz}")));
    assert_eq!(seen, documented.iter().map(String::as_str).collect());
    assert!(env::var("CARGO_MANIFEST_DIR").is_ok(), "the server has variables that the app must not see");
}

#[tokio::test]
async fn an_app_has_its_own_session_and_no_open_file_of_the_server() {
    let fixture = ProcessFixture::new().await;
    let script = format!(
        "cut -d' ' -f5,6 /proc/$$/stat; echo $$; cut -d' ' -f5 /proc/$PPID/stat; echo $PPID
        {OPEN_FILES}; echo ready; exec sleep 600"
    );
    let (_, output_text) = fixture.start(&shell(&script)).await;
    let lines: Vec<&str> = output_text.lines().collect();
    assert_eq!(lines[0], format!("{0} {0}", lines[1]), "it leads a process group and a session");
    assert_eq!(
        lines[2], lines[3],
        "its guardian has a process group of its own, so Ctrl-C at the server does not reach it"
    );
    // Every program that starts from here inherits the files that this test's own parent left open.
    let inherited = std::process::Command::new("sh").args(["-c", OPEN_FILES]).output().unwrap();
    let inherited = String::from_utf8(inherited.stdout).unwrap();
    assert_eq!(lines[4..], inherited.lines().collect::<Vec<_>>());
}

/// Prints the shell's open files, including the three standard ones.
const OPEN_FILES: &str = "for f in /proc/$$/fd/*; do echo ${f##*/}; done";

#[tokio::test]
async fn an_instance_works_on_a_copy_of_the_files_that_is_removed_with_it() {
    let fixture = ProcessFixture::new().await;
    let files = fixture.folder.0.join("files");
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
    let (id, output_text) = fixture.start(&app).await;
    let folder = fixture.settings.instances_dir.join(id.as_str());
    assert_eq!(output_text, format!("{}\ngood morning\n", folder.join("files").display()));
    assert_eq!(fs::read_to_string(folder.join("files/text")).unwrap(), "changed\n");
    with_timeout(fixture.runtime.stop(&id)).await.unwrap();
    assert!(!folder.exists());
    assert_eq!(fs::read_to_string(files.join("text")).unwrap(), "good morning\n");
}

#[tokio::test]
async fn missing_files_are_an_error_that_names_them() {
    let fixture = ProcessFixture::new().await;
    let app = App { files: Some(fixture.folder.0.join("nowhere")), ..shell("exit") };
    let error = with_timeout(fixture.runtime.start(&start_request(&app))).await.unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
    assert_eq!(fixture.folder.instance_count(), 0);
}

#[tokio::test]
async fn a_log_stays_bounded_and_keeps_the_end_when_an_app_floods_it() {
    let fixture = ProcessFixture::new().await;
    // Writes 4 MB of numbered lines and then a last one.
    let request = start_request(&shell("seq 1 600000; echo the end; exec sleep 600"));
    with_timeout(fixture.runtime.start(&request)).await.unwrap();
    let log = wait_until("the end is there", async || {
        output(&fixture.runtime, &request.id).await.filter(|text| text.ends_with("600000\nthe end\n"))
    });
    assert_eq!(log.await.len(), OUTPUT_LOG_BYTES);
}

#[tokio::test]
async fn limits_apply() {
    let fixture = ProcessFixture::new().await;
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
    let (_, output_text) = fixture.start(&app).await;
    let numbers: Vec<&str> = output_text.lines().filter(|line| line.parse::<u64>().is_ok()).collect();
    // The numbers are in the shell's units (files, 512 bytes, KiB, seconds, 512 bytes), and the last is the size of the
    // file in bytes.
    assert_eq!(numbers, ["77", "2048", "262144", "100", "0", "1048576"]);
}

#[tokio::test]
async fn an_app_that_spins_is_ended_by_its_cpu_time_limit() {
    let fixture = ProcessFixture::new().await;
    let mut exits = fixture.runtime.exits();
    let mut app = shell("while :; do :; done");
    app.limits.cpu_seconds = Some(1);
    with_timeout(fixture.runtime.start(&start_request(&app))).await.unwrap();
    assert_eq!(with_timeout(exits.recv()).await.unwrap().cause, "signal 24");
}

#[tokio::test]
async fn a_missing_interpreter_of_a_script_is_an_error_that_names_it() {
    let fixture = ProcessFixture::new().await;
    let app = fixture.with_script("#!/no/such/interpreter\n", "exec ./run");
    let app = App { command: vec!["./run".to_owned()], ..app };
    let error = with_timeout(fixture.runtime.start(&start_request(&app))).await.unwrap_err();
    assert!(error.to_string().contains("interpreter"), "{error}");
}

#[tokio::test]
async fn without_a_free_port_the_host_is_exhausted() {
    let folder = TestFolder::new();
    let other_listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other_listener.local_addr().unwrap().port();
    let settings = ProcessSettings { port_range: port..=port, node: NodeId::random(), ..folder.settings() };
    let runtime = ProcessRuntime::open(settings).await.unwrap();
    let error = with_timeout(runtime.start(&start_request(&shell("exit")))).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Exhausted(what) if what.contains("port")), "{error}");
    assert!(runtime.list().await.unwrap().is_empty());
}

async fn refusal(settings: ProcessSettings) -> String {
    ProcessRuntime::open(settings).await.err().expect("it is refused").to_string()
}

#[tokio::test]
async fn a_work_folder_of_another_owner_is_refused_and_left_unchanged() {
    let folder = TestFolder::new();
    let settings = folder.settings();
    fs::create_dir(folder.work()).unwrap();
    let other = folder.work().join("sample-aaaaaaaaaaaaaaaa");
    fs::write(&other, "foreign data").unwrap();
    assert!(refusal(settings.clone()).await.contains("not ours"));
    assert_eq!(fs::read_to_string(&other).unwrap(), "foreign data");

    fs::remove_file(&other).unwrap();
    drop(ProcessRuntime::open(settings.clone()).await.unwrap());
    let node = NodeId::parse("another").unwrap();
    assert!(
        refusal(ProcessSettings { node, ..settings.clone() }).await.contains("belongs to node-under-test")
    );

    let instances_dir = folder.0.join("no/such/parent");
    assert!(refusal(ProcessSettings { instances_dir, ..settings.clone() }).await.contains("no/such/parent"));

    let instances_dir = folder.0.join("link");
    symlink(folder.work(), &instances_dir).unwrap();
    assert!(refusal(ProcessSettings { instances_dir, ..settings }).await.contains("not a folder"));
}

#[tokio::test]
async fn a_guardian_that_cannot_be_started_is_an_error() {
    let folder = TestFolder::new();
    let settings =
        ProcessSettings { program: folder.0.join("nothing"), node: NodeId::random(), ..folder.settings() };
    let runtime = ProcessRuntime::open(settings).await.unwrap();
    assert!(with_timeout(runtime.start(&start_request(&shell("exit")))).await.is_err());
    assert!(runtime.list().await.unwrap().is_empty());
}
