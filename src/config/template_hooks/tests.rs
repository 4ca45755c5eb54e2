//! Tests of the hooks in a file of templates.

use std::path::Path;
use std::time::Duration;

use crate::config::{Config, ConfigErrors, Environment};
use crate::template::hooks::{FileContent, FileHook, Hooks, TemplateText};

fn load(mode: &str, text: &str) -> Result<Config, ConfigErrors> {
    let env: Environment =
        [("HOME", "/home/a"), ("CONTAINER_MODE", mode)].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    Config::load(&env, Some((Path::new("/etc/tin/apps.toml"), text)), Path::new("/bin/try-it-now"))
}

fn hooks(text: &str) -> Hooks {
    let config = load("containerd", text).unwrap_or_else(|errors| panic!("{errors}"));
    config.templates.get("a").unwrap().hooks.clone()
}

fn lines(mode: &str, text: &str) -> Vec<String> {
    load(mode, text).unwrap_err().iter().map(ToString::to_string).collect()
}

fn template_text(text: &str) -> TemplateText {
    TemplateText::parse(text, |_| true).unwrap()
}

const FULL: &str = r#"
[templates.a]
image = "a"
[templates.a.hooks]
random = { ADMIN_PASSWORD = 12, SALT = 64 }
credentials = "Log in as “admin” with {ADMIN_PASSWORD}"
[templates.a.hooks.files]
"/etc/app/url" = "{INSTANCE_URL}\n"
"/etc/app/key" = { text = "{SALT}", mode = "0600", owner = "33:34" }
"/modules/own.zip" = { file = "own.zip" }
[[templates.a.hooks.http]]
method = "POST"
path = "/setup?host={INSTANCE_HOST}"
headers = { Content-Type = "application/json", X-Key = "{SALT}" }
body = '{"url": "{INSTANCE_URL}"}'
status = 302
timeout = "3s"
[[templates.a.hooks.http]]
path = "/second"
[[templates.a.hooks.exec]]
command = ["/app/own", "{INSTANCE_ID}"]
timeout = "5s"
[[templates.a.hooks.bake.exec]]
command = ["sync"]
[[templates.a.hooks.bake.http]]
path = "/flush"
"#;

#[test]
fn every_hook_reaches_its_setting() {
    let hooks = hooks(FULL);
    assert_eq!(hooks.random, [("ADMIN_PASSWORD".to_owned(), 12), ("SALT".to_owned(), 64)].into());
    assert_eq!(hooks.credentials, Some(template_text("Log in as “admin” with {ADMIN_PASSWORD}")));
    let url = FileHook {
        path: "/etc/app/url".into(),
        content: FileContent::Text(template_text("{INSTANCE_URL}\n")),
        mode: 0o644,
        owner: (0, 0),
    };
    let content = FileContent::Text(template_text("{SALT}"));
    let key = FileHook { path: "/etc/app/key".into(), content, mode: 0o600, owner: (33, 34) };
    let content = FileContent::CopyOf { file: "/etc/tin/own.zip".into() };
    let module = FileHook { path: "/modules/own.zip".into(), content, mode: 0o644, owner: (0, 0) };
    assert_eq!(hooks.files, [url, key, module]);
    let [first, second] = hooks.calls.http.as_slice() else { panic!() };
    assert_eq!((first.method.as_str(), first.status, first.timeout.as_secs()), ("POST", Some(302), 3));
    assert_eq!(first.path, template_text("/setup?host={INSTANCE_HOST}"));
    assert_eq!(first.headers["X-Key"], template_text("{SALT}"));
    assert_eq!(first.body, template_text("{\"url\": \"{INSTANCE_URL}\"}"));
    assert_eq!((second.method.as_str(), second.status), ("GET", None));
    assert_eq!(second.timeout, Duration::from_secs(10));
    assert_eq!(hooks.calls.exec[0].command, [template_text("/app/own"), template_text("{INSTANCE_ID}")]);
    assert_eq!(hooks.calls.exec[0].timeout, Duration::from_secs(5));
    assert_eq!(hooks.bake.exec[0].command, [template_text("sync")]);
    assert_eq!(hooks.bake.exec[0].timeout, Duration::from_secs(30));
    assert_eq!(hooks.bake.http[0].path, template_text("/flush"));
}

#[test]
fn a_changed_hook_is_another_revision() {
    let revision = |text: &str| load("containerd", text).unwrap().templates.get("a").unwrap().revision;
    let first = revision(FULL);
    assert_eq!(revision(FULL), first);
    for (from, to) in [
        ("= 64", "= 65"),
        ("{SALT}", "{SALT}."),
        ("\"0600\"", "\"0640\""),
        ("sync", "true"),
        ("302", "303"),
        ("own.zip\"", "my.zip\""),
    ] {
        assert_ne!(revision(&FULL.replacen(from, to, 1)), first, "{from}");
    }
}

#[test]
fn all_errors_in_hooks_are_reported_with_their_lines() {
    let text = r#"
[templates.a]
image = "a"
[templates.a.hooks]
random = { KEY = 16, Key = 16, INSTANCE_ID = 16, PATH = 16, SHORT = 7 }
file = {}
[templates.a.hooks.files]
"etc/app" = "relative"
"/etc/../app" = "climbs"
"/proc/app" = "covered"
"/etc/app" = "file"
"/etc/app/url" = "below a file"
"/etc/unknown" = "{UNKNOWN}"
"/etc/mode" = { text = "x", mode = "u+x" }
"/etc/empty" = {}
"/etc/both" = { text = "x", file = "x" }
"/etc/none" = { file = "" }
"/etc/list" = ["hunter2"]
[[templates.a.hooks.http]]
path = "setup"
method = "post"
headers = { Host = "x", "a b" = "x", X-Key = "{UNKNOWN}" }
[[templates.a.hooks.http]]
path = "/"
status = 99
[[templates.a.hooks.exec]]
command = []
[templates.a.hooks.bake]
exec = ["sync"]
files = {}
"#;
    let reported = lines("containerd", text);
    let expected = [
        ":5: templates.a.hooks.random.Key: the name cannot be used",
        ":5: templates.a.hooks.random.INSTANCE_ID: the name cannot be used",
        ":5: templates.a.hooks.random.PATH: the name cannot be used",
        ":5: templates.a.hooks.random.SHORT: it is no such length; write NAME = LENGTH, from 8",
        ":8: templates.a.hooks.files.etc/app: the path cannot be used",
        ":9: templates.a.hooks.files./etc/../app: the path cannot be used",
        ":10: templates.a.hooks.files./proc/app: a mount of the container hides files there",
        ":12: templates.a.hooks.files./etc/app/url: /etc/app cannot be both a file and a folder",
        ":13: templates.a.hooks.files./etc/unknown: {UNKNOWN} is no known placeholder; the names here are {INSTANCE_ID}, \
         {INSTANCE_URL}, {INSTANCE_HOST}, {KEY}",
        ":14: templates.a.hooks.files./etc/mode.mode: \"u+x\" cannot be used",
        ":15: templates.a.hooks.files./etc/empty.text: it is missing",
        ":16: templates.a.hooks.files./etc/both.file: the file has a text already",
        ":17: templates.a.hooks.files./etc/none.file: \"\" cannot be used; write the path of a file",
        ":18: templates.a.hooks.files./etc/list: it is no text",
        ":21: templates.a.hooks.http.method: \"post\" cannot be used",
        ":20: templates.a.hooks.http.path: it cannot be used",
        ":22: templates.a.hooks.http.headers.Host: it is set by the server",
        ":22: templates.a.hooks.http.headers.X-Key: it has an unknown placeholder",
        ":22: templates.a.hooks.http.headers.a b: it is no name of a header",
        ":25: templates.a.hooks.http.status: 99 cannot be used",
        ":27: templates.a.hooks.exec.command: it names no program",
        ":29: templates.a.hooks.bake.exec: \"sync\" cannot be used; write tables, [[templates.a.hooks.bake.exec]]",
        ":30: templates.a.hooks.bake.files: there is no such key; the keys here are http, exec",
        ":6: templates.a.hooks.file: there is no such key; did you mean files?",
    ];
    for (reported, expected) in reported.iter().zip(expected) {
        assert!(
            reported.starts_with(&format!("/etc/tin/apps.toml{expected}")),
            "{reported}\nis not\n{expected}"
        );
    }
    assert_eq!(reported.len(), expected.len(), "{reported:#?}");
    assert!(!reported.join("\n").contains("hunter2"));
}

#[test]
fn an_app_on_this_host_can_have_http_hooks_only() {
    let ask = "[templates.a]\ncommand = ['x']\n[[templates.a.hooks.http]]\npath = '/own'\n";
    load("process", ask).unwrap();
    let text = "[templates.a]\ncommand = ['x']\n[templates.a.hooks]\nfiles = {}\nbake = {}\n\
                exec = [{ command = ['x'] }]\n";
    let reported: Vec<_> = load("process", text).unwrap_err().into_iter().map(|m| m.key).collect();
    assert_eq!(reported, ["templates.a.hooks.exec", "templates.a.hooks.files", "templates.a.hooks.bake"]);
}

#[test]
fn a_placeholder_needs_its_random_text() {
    let text = "[templates.a]\nimage = 'a'\n[templates.a.hooks]\ncredentials = '{ADMIN_PASSWORD}'\n";
    assert_eq!(
        lines("containerd", text),
        [
            "/etc/tin/apps.toml:4: templates.a.hooks.credentials: {ADMIN_PASSWORD} is no known placeholder; the names here \
          are {INSTANCE_ID}, {INSTANCE_URL}, {INSTANCE_HOST}"
        ]
    );
}
