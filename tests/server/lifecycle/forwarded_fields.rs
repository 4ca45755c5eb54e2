//! Whose forwarded fields are believed: what the log and the doctor say of it, and a proxy that forwards what a
//! visitor claims.

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::harness::{Server, request};
use crate::support::nginx::Nginx;

const EMPTY: [(&str, &str); 2] = [("POOL_TARGET_SIZE", "0"), ("POOL_MIN_SIZE", "0")];

/// Returns the exit status of the doctor, and its result of the check `check`.
async fn run_doctor(variables: &[(&str, &str)], arguments: &[&str], check: &str) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_try-it-now"))
        .args(["doctor", "--json"])
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("STATE_DIR", std::env::temp_dir())
        .envs(variables.iter().copied())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let results: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    let result = results.into_iter().find(|result| result["check"] == check);
    (output.status.code(), result.unwrap_or_else(|| panic!("{text}")))
}

#[tokio::test]
async fn the_doctor_finds_a_proxy_that_forwards_the_field_of_a_visitor_unchanged() {
    let server = Server::start_with(&EMPTY, &[]).await;
    let port = server.port.to_string();
    let wrong = ["", "proxy_set_header X-Forwarded-For $http_x_forwarded_for;"];
    let right = [
        "proxy_set_header X-Forwarded-For $remote_addr;",
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
    ];
    for (directives, is_right) in
        wrong.map(|one| (one, false)).into_iter().chain(right.map(|one| (one, true)))
    {
        let Some(nginx) = Nginx::start(server.port, directives).await else { return };
        // The proxy is what PUBLIC_URL names, or else --url.
        let url = nginx.url();
        let by_setting =
            run_doctor(&[("SERVER_PORT", &port), ("PUBLIC_URL", &url)], &[], "forwarded fields").await;
        let by_argument = run_doctor(&[("SERVER_PORT", &port)], &["--url", &url], "forwarded fields").await;
        for (code, result) in [by_setting, by_argument] {
            let verdict = if is_right { "ok" } else { "failed" };
            assert_eq!(
                (code, &result["verdict"]),
                (Some(i32::from(!is_right)), &json!(verdict)),
                "{directives}: {result}"
            );
            assert!(result["found"].as_str().unwrap().contains(&url), "{result}");
            assert_eq!(is_right, result["remedy"].is_null(), "{result}");
        }
    }
}

#[tokio::test]
async fn the_doctor_says_why_it_did_not_check_the_way_to_the_server() {
    let server = Server::start_with(&EMPTY, &[]).await;
    let (port, own) = (server.port.to_string(), format!("http://localhost:{}", server.port));
    let settings = [("SERVER_PORT", &*port)];
    let (_, itself) = run_doctor(&settings, &["--url", &own], "forwarded fields").await;
    assert_eq!(itself["verdict"], "ok");
    assert!(itself["found"].as_str().unwrap().starts_with("not checked: "), "{itself}");
    // A host that this server has no name for, and a port where nothing listens.
    let unknown = format!("http://127.0.0.1:{}", free_port().await);
    let (code, unreachable) = run_doctor(&settings, &["--url", &unknown], "forwarded fields").await;
    assert_eq!((code, &unreachable["verdict"]), (Some(0), &json!("warning")), "{unreachable}");
    assert!(unreachable["found"].as_str().unwrap().starts_with("not checked "), "{unreachable}");
}

async fn free_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn the_log_and_the_doctor_name_the_trusted_proxies_and_warn_of_apps_that_are_among_them() {
    for (list, shown, has_apps) in [
        (None, "127.0.0.1, ::1", true),
        (Some("10.0.0.5,fd00::/8"), "10.0.0.5, fd00::/8", false),
        (Some(""), "no proxy", false),
    ] {
        let more = list.map(|list| ("TRUSTED_PROXIES", list));
        let settings: Vec<_> = EMPTY.into_iter().chain(more).collect();
        let server = Server::start_with(&settings, &[]).await;
        let log = server.log_until(|line| line.contains(r#""listening""#)).await;
        let lines: Vec<Value> = log.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let listening = lines.iter().find(|line| line["trusted_proxies"].is_string()).unwrap();
        assert_eq!(listening["trusted_proxies"], shown, "{listening}");
        let is_warned = log.iter().any(|line| line.contains("may claim any client address"));
        assert_eq!(is_warned, has_apps, "{list:?}");
        let variables: Vec<_> = more.into_iter().collect();
        let (_, result) = run_doctor(&variables, &[], "trusted proxies").await;
        assert!(result["found"].as_str().unwrap().contains(&format!("from {shown}")), "{result}");
        assert_eq!(result["verdict"], if has_apps { "warning" } else { "ok" });
    }
}

#[tokio::test]
async fn a_caller_sees_its_own_address_without_a_key_as_trusted_proxies_forward_it() {
    let fields = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", "https")];
    for (list, address, secure) in [("127.0.0.1", "203.0.113.9", true), ("", "127.0.0.1", false)] {
        let settings = [&EMPTY[..], &[("TRUSTED_PROXIES", list), ("API_KEY", "s3cret")]].concat();
        let server = Server::start_with(&settings, &[]).await;
        let seen = request(server.port, "GET", "localhost", "/api/v1/client?any", &fields, "").await;
        assert_eq!(
            (seen.status, seen.json()),
            (200, json!({"address": address, "secure": secure})),
            "{list:?}"
        );
        assert_eq!(seen.header("cache-control"), "no-store");
        assert_eq!(
            request(server.port, "POST", "localhost", "/api/v1/client", &fields, "").await.status,
            405
        );
        assert_eq!(
            request(server.port, "GET", "localhost", "/api/v1/client/", &fields, "").await.status,
            401
        );
    }
}
