//! What an image's configuration says about how it is run.

use std::time::Duration;

use serde_json::{Value, json};
use try_it_now::instance::Endpoint;
use try_it_now::runtime::Runtime;
use try_it_now::template::App;

use super::builder::{Layer, image};
use super::{Running, TestNode, cold_and_restored, output, start_request, wait_until, with_timeout};

/// Writes its arguments, its folder and `PATH`, a line each, and an empty line.
const REPORT: &str =
    "#!/bin/sh\nfor word in \"$@\"; do echo \"$word\"; done\npwd\necho $PATH\necho\nexec sleep 600\n";

fn base() -> Vec<u8> {
    Layer::base().file("report", 0o755, REPORT.as_bytes()).bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entrypoint_command_folder_and_path_are_those_of_docker() {
    const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let shell = |script: &str| json!(["/bin/sh", "-c", script]);
    let none: &[&str] = &[];
    let cases: [(Value, &[&str], String); 7] = [
        (json!({ "Entrypoint": ["/report", "a"], "Cmd": ["b c", ""] }), none, format!("a\nb c\n\n/\n{PATH}")),
        (json!({ "Cmd": ["/report", "only"] }), none, format!("only\n/\n{PATH}")),
        // The shell form of CMD, and of ENTRYPOINT, which ignores CMD.
        (json!({ "Cmd": shell("exec /report \"$HOME\"") }), none, format!("/root\n/\n{PATH}")),
        (json!({ "Entrypoint": shell("exec /report x"), "Cmd": ["ignored"] }), none, format!("x\n/\n{PATH}")),
        // The template's command replaces both.
        (
            json!({ "Entrypoint": ["/report", "a"], "Cmd": ["b"] }),
            &["/report", "of the template"],
            format!("of the template\n/\n{PATH}"),
        ),
        // A folder that does not exist is made, whatever user it is for.
        (
            json!({ "Cmd": ["/report"], "WorkingDir": "/srv/app/new", "User": "node" }),
            none,
            format!("/srv/app/new\n{PATH}"),
        ),
        // The last of two values counts, and a program is found in the image's own PATH.
        (
            json!({ "Cmd": ["report"], "Env": ["PATH=/nowhere", "PATH=/:/bin", "WITHOUT_VALUE"] }),
            none,
            "/\n/:/bin".to_owned(),
        ),
    ];
    for (number, (config, command, expected)) in cases.into_iter().enumerate() {
        let app = image(&test_node, &format!("run-{number}"), vec![base()], config.clone());
        let app = App { command: command.iter().map(|word| (*word).to_owned()).collect(), ..app };
        let request = start_request(&app);
        with_timeout(runtime.start(&request)).await.unwrap();
        let seen = wait_until("it reports", async || {
            output(&runtime, &request.id).await.filter(|text| text.ends_with("bin\n\n"))
        });
        assert_eq!(seen.await, format!("{expected}\n\n"), "{config}");
        with_timeout(runtime.stop(&request.id)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_exposed_port_is_the_apps_and_of_several_the_template_names_one() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let serve = "exec httpd -f -p 127.0.0.1:$PORT -h /www";
    let app = |name: &str, ports: Value, port: u16| {
        let config = json!({ "Cmd": ["sh", "-c", serve], "ExposedPorts": ports });
        App { port, ..image(&test_node, name, vec![base()], config) }
    };
    let cases = [
        ("one", json!({ "3000/tcp": {}, "53/udp": {} }), 0, 3000),
        ("plain", json!({ "1880": {} }), 0, 1880),
        ("none", json!({}), 0, 80),
        ("null", Value::Null, 0, 80),
        ("udp", json!({ "53/udp": {} }), 0, 80),
        ("template", json!({ "3000/tcp": {}, "443/tcp": {} }), 443, 443),
    ];
    for (name, ports, of_template, expected) in cases {
        let instance = Running::start(&runtime, &app(name, ports, of_template)).await;
        assert!(
            matches!(instance.started.endpoint, Endpoint::Sealed { port, .. } if port == expected),
            "{name}"
        );
        assert_eq!(instance.page().await, "hello\n", "{name}");
        with_timeout(runtime.stop(instance.id())).await.unwrap();
    }
    let several = app("several", json!({ "8443/tcp": {}, "443/tcp": {}, "80/tcp": {} }), 0);
    let error = with_timeout(runtime.start(&start_request(&several))).await.unwrap_err().to_string();
    assert!(error.contains("the image exposes 80, 443, 8443: set port in the template"), "{error}");
    assert!(runtime.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_health_check_of_an_image_is_known_in_both_forms() {
    let Some(test_node) = TestNode::new() else { return };
    let runtime = test_node.open().await;
    let check = async |name: &str, check: Value| {
        let app =
            image(&test_node, name, vec![base()], json!({ "Cmd": ["sleep", "9"], "Healthcheck": check }));
        assert_eq!(runtime.health_check(&app), None, "the image is not fetched yet");
        with_timeout(runtime.fetch(&app)).await.unwrap();
        runtime.health_check(&app)
    };
    let found =
        check("shell", json!({ "Test": ["CMD-SHELL", "exit 0"], "StartPeriod": 3_000_000_000_u64 })).await;
    let found = found.unwrap();
    assert_eq!(found.command, ["/bin/sh", "-c", "exit 0"]);
    assert_eq!(found.start_period, Duration::from_secs(3));
    let found = check("words", json!({ "Test": ["CMD", "test", "-e", "/up"] })).await;
    assert_eq!(found.unwrap().command, ["test", "-e", "/up"]);
    assert_eq!(check("none", json!({ "Test": ["NONE"] })).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_keep_what_the_image_has_there_and_exist_where_it_has_nothing() {
    let Some(test_node) = TestNode::new() else { return };
    let layer = Layer::base()
        .folder("data/", 0o750, (1000, 33))
        .file("data/seed", 0o600, b"kept")
        .folder("run/", 0o755, (0, 0))
        .folder("var/", 0o755, (0, 0))
        .link("var/run", "/run")
        .folder("run/there/", 0o700, (1000, 33))
        .link("outside", "../../../../..");
    let config = json!({
        "Cmd": ["httpd", "-f", "-p", "127.0.0.1:80", "-h", "/www"],
        "Volumes": { "/data": {}, "/new/below": {}, "/var/run/there": {}, "/outside/tmp": {}, "relative": {}, "/a/../b": {} },
    });
    let app = image(&test_node, "volumes", vec![layer.bytes()], config);
    cold_and_restored(&test_node, &app, async |instance| {
        let seen =
            instance.script("cat /data/seed; echo; stat -c '%a %u %g %F' /data /new/below /run/there").await;
        assert_eq!(seen, "kept\n750 1000 33 directory\n755 0 0 directory\n700 1000 33 directory\n");
        instance.script("test ! -e /b && test ! -e /relative && touch /new/below/written").await;
    })
    .await;
}
