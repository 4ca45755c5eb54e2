//! Tests of the configuration from a file of templates.

use proptest::prelude::*;

use crate::config::{Config, ConfigErrors, Environment};
use crate::instance::RateLimits;
use crate::template::{Egress, ImageRef, ResourceLimits, ShareMemory};
use std::path::Path;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn load(env: &[(&str, &str)], text: &str) -> Result<Config, ConfigErrors> {
    let env: Environment =
        env.iter().chain(&[("HOME", "/home/a")]).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Config::load(&env, Some((Path::new("/etc/tin/apps.toml"), text)), Path::new("/bin/try-it-now"))
}

fn load_valid(text: &str) -> Config {
    load(&[], text).unwrap_or_else(|errors| panic!("{errors}"))
}

fn lines(text: &str) -> Vec<String> {
    load(&[], text).unwrap_err().iter().map(ToString::to_string).collect()
}

const FULL: &str = r#"
[templates.shop]
title = "A shop"
description = "Sell things."
command = ["node", "{folder}/shop/server.js", "--quiet"]
env = { NODE_ENV = "production", DATA = "{folder}/data" }
files = "./shop/files"
warm_up = ["/", "/list?page=1"]
admin_path = "/admin"
ttl = "30m"
max_ttl = "2h"
silence = "90s"
ready = { path = "/up", status = 204, body = "ok", interval = "10ms", timeout = "5s", recheck_interval = "40s" }
pool = { target = 4, min = 1, max = 8, replenish_threshold = 1, replenish_interval = "1s", concurrency = 2, max_idle_age = "6h" }
rate_limit = { hourly = 0, daily = 9, concurrent = 4 }
limits = { cpu_seconds = 60, memory = "512M", open_files = 256, file_size = 1024 }
"#;

#[test]
fn every_key_reaches_its_setting() {
    let config = load_valid(FULL);
    let shop = config.templates.get("shop").unwrap();
    assert_eq!((shop.title.as_str(), shop.description.as_str()), ("A shop", "Sell things."));
    assert_eq!(shop.app.command, ["node", "/etc/tin/shop/server.js", "--quiet"]);
    assert_eq!(shop.app.env["DATA"], "/etc/tin/data");
    assert_eq!(shop.app.files.as_deref(), Some(Path::new("/etc/tin/shop/files")));
    assert_eq!(shop.warm_up, ["/", "/list?page=1"]);
    assert_eq!(shop.admin_path, "/admin");
    assert_eq!((shop.ttl, shop.max_ttl, shop.silence), (SECOND * 1800, SECOND * 7200, SECOND * 90));
    assert_eq!((shop.ready.path.as_str(), shop.ready.status), ("/up", 204));
    assert_eq!(shop.ready.body.as_deref(), Some("ok"));
    assert_eq!((shop.ready.interval, shop.ready.timeout), (SECOND / 100, SECOND * 5));
    assert_eq!((shop.pool.min, shop.pool.target, shop.pool.max), (1, 4, 8));
    assert_eq!((shop.pool.replenish_threshold, shop.pool.concurrency), (1.0, 2));
    assert_eq!(shop.pool.replenish_interval, SECOND);
    assert_eq!((shop.recheck_interval, shop.pool.max_idle_age), (SECOND * 40, Some(SECOND * 21_600)));
    assert_eq!(shop.rate_limit, RateLimits { hourly: 0, daily: 9, concurrent: 4 });
    assert_eq!((shop.app.limits.cpu_seconds, shop.app.limits.memory), (Some(60), Some(512 << 20)));
    assert_eq!((shop.app.limits.open_files, shop.app.limits.file_size), (Some(256), Some(1024)));
}

#[test]
fn a_template_needs_only_a_command() {
    let config = load_valid("[templates.a]\ncommand = [\"try-it-now\", \"sample-app\"]");
    let template = config.templates.get("a").unwrap();
    assert_eq!(template.title, "a");
    assert_eq!(template.app.command, ["/bin/try-it-now", "sample-app"]);
    assert_eq!((template.ready.path.as_str(), template.ready.status), ("/", 200));
    assert_eq!((template.ready.interval, template.ready.timeout), (SECOND / 20, SECOND * 60));
    assert_eq!((template.admin_path.as_str(), template.silence), ("/", SECOND * 60));
    assert_eq!((template.recheck_interval, template.pool.max_idle_age), (SECOND * 10, None));
}

#[test]
fn a_templates_own_key_wins_over_the_environment_which_wins_over_the_default() {
    let text = "[templates.a]\ncommand = ['x']\nttl = '5m'\npool.target = 6\nrate_limit.daily = 7\n";
    let env = [
        ("POOL_TARGET_SIZE", "8"),
        ("POOL_MAX_SIZE", "9"),
        ("POOL_DEFAULT_TTL", "2m"),
        ("POOL_MAX_TTL", "6m"),
    ];
    let config = load(&env, text).unwrap();
    let a = config.templates.get("a").unwrap();
    assert_eq!((a.ttl, a.max_ttl), (SECOND * 300, SECOND * 360));
    assert_eq!((a.pool.target, a.pool.max, a.pool.min), (6, 9, 3));
    assert_eq!(a.rate_limit, RateLimits { hourly: 2, daily: 7, concurrent: 2 });
}

#[test]
fn the_limit_of_instances_at_a_time_is_the_hourly_one_unless_it_is_set() {
    let text = "[templates.a]\ncommand = ['x']\n[templates.b]\ncommand = ['x']\nrate_limit.hourly = 0\n\
                [templates.c]\ncommand = ['x']\nrate_limit = { hourly = 7, concurrent = 1 }\n";
    let concurrent = |env: &[(&str, &str)]| {
        let config = load(env, text).unwrap();
        ["a", "b", "c"].map(|name| config.templates.get(name).unwrap().rate_limit.concurrent)
    };
    assert_eq!(concurrent(&[]), [2, 0, 1]);
    assert_eq!(concurrent(&[("RATE_LIMIT_HOURLY", "9")]), [9, 0, 1]);
    assert_eq!(concurrent(&[("RATE_LIMIT_CONCURRENT", "5")]), [5, 5, 1]);
    assert_eq!(concurrent(&[("RATE_LIMIT_CONCURRENT", "0")]), [0, 0, 1]);
}

#[test]
fn templates_keep_the_order_of_the_file_and_an_acquire_without_a_name_gets_default_or_the_first() {
    let two = "[templates.z]\ncommand = ['x']\n[templates.a]\ncommand = ['x']\n";
    let config = load_valid(two);
    let names: Vec<_> = config.templates.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["z", "a"]);
    assert_eq!(config.templates.default_name().as_str(), "z");
    let config = load_valid(&format!("{two}[templates.default]\ncommand = ['x']\n"));
    assert_eq!(config.templates.default_name().as_str(), "default");
}

#[test]
fn the_admin_path_of_the_environment_is_for_the_default_template() {
    let text = "[templates.default]\ncommand = ['x']\n[templates.a]\ncommand = ['x']\n";
    let config = load(&[("PS_ADMIN_PATH", "/back")], text).unwrap();
    assert_eq!(config.templates.get("default").unwrap().admin_path, "/back");
    assert_eq!(config.templates.get("a").unwrap().admin_path, "/");
}

#[test]
fn all_errors_of_all_templates_are_reported_with_their_lines() {
    let text = r#"
pool_size = 3
[templates.shop]
ttl = "half an hour"
warmup = ["/"]
ready = { status = "ok", path = "up" }
env = { PORT = "80", KEY = 7 }
[templates.blog]
command = []
image = "blog:1"
port = 0
pool.target = 9
pool.max = 5
max_ttl = "10m"
ttl = "1h"
[templates.Wiki]
command = ["wiki"]
egress = true
[templates]
odd = 1
"#;
    assert_eq!(
        lines(text),
        [
            "/etc/tin/apps.toml:20: templates.odd: 1 cannot be used; write a table, [templates.odd]",
            "/etc/tin/apps.toml:3: templates.shop.command: it is missing; write a list of texts, the program first, \
             such as [\"node\", \"server.js\"]",
            "/etc/tin/apps.toml:7: templates.shop.env.KEY: its value is no text; write NAME = \"value\"",
            "/etc/tin/apps.toml:7: templates.shop.env.PORT: every instance gets its own value; write NAME = \"value\"",
            "/etc/tin/apps.toml:6: templates.shop.ready.path: \"up\" cannot be used; write a path that begins with \
             a slash, such as \"/health\"",
            "/etc/tin/apps.toml:6: templates.shop.ready.status: \"ok\" cannot be used; write a whole number from \
             200 to 599",
            "/etc/tin/apps.toml:4: templates.shop.ttl: \"half an hour\" cannot be used; write a time such as 250ms, \
             30s, 10m, 1h or 1h30m, in quotes, of at least 1s",
            "/etc/tin/apps.toml:5: templates.shop.warmup: there is no such key; did you mean warm_up?",
            "/etc/tin/apps.toml:10: templates.blog.image: it needs containers; set CONTAINER_MODE to containerd, \
             docker or podman, or write a command instead",
            "/etc/tin/apps.toml:9: templates.blog.command: it names no program; write a list of texts, the program \
             first, such as [\"node\", \"server.js\"]",
            "/etc/tin/apps.toml:11: templates.blog.port: 0 cannot be used; write a whole number from 1 to 65535",
            "/etc/tin/apps.toml:15: templates.blog.ttl: 1h is longer than max_ttl, which is 10m; shorten it or raise \
             max_ttl",
            "/etc/tin/apps.toml:12: templates.blog.pool.target: 9 is more than max, which is 5; lower it or raise max",
            "/etc/tin/apps.toml:16: templates.Wiki: the name cannot be used; a template's name is 1 to 46 lower-case \
             letters, digits and dashes, no dash first or last",
            "/etc/tin/apps.toml:18: templates.Wiki.egress: true cannot be used; write \"internet\", or a list such as \
             [\"api.example.com:443\"]",
            "/etc/tin/apps.toml:2: pool_size: there is no such key; the keys here are templates",
        ]
    );
}

const CONTAINERS: (&str, &str) = ("CONTAINER_MODE", "containerd");

#[test]
fn an_image_runs_its_own_command_and_names_its_port_by_default() {
    let text = r#"
[templates.shop]
image = "oci:./images/shop.tar"
command = ["try-it-now", "{folder}"]
env = { DATA = "{folder}" }
port = 8080
limits = { memory = "1G", open_files = 64, file_size = "1G", pids = 200, disk = "1G", cpus = 1.5 }
[templates.blog]
image = "wordpress:6"
limits.cpus = 2
"#;
    let config = load(&[CONTAINERS], text).unwrap_or_else(|errors| panic!("{errors}"));
    let [shop, blog] = ["shop", "blog"].map(|name| config.templates.get(name).unwrap().app.clone());
    assert_eq!(shop.image, Some(ImageRef::Tar("/etc/tin/images/shop.tar".into())));
    // A path of this host means nothing in a container.
    assert_eq!(
        (shop.command.as_slice(), shop.port),
        (["try-it-now", "{folder}"].map(str::to_owned).as_slice(), 8080)
    );
    assert_eq!(shop.env["DATA"], "{folder}");
    let limits = ResourceLimits {
        cpu_seconds: None,
        memory: Some(1 << 30),
        open_files: Some(64),
        file_size: Some(1 << 30),
        pids: Some(200),
        disk: Some(1 << 30),
        millicpus: Some(1500),
    };
    assert_eq!(shop.limits, limits);
    assert_eq!(blog.image, Some(ImageRef::Reference("docker.io/library/wordpress:6".to_owned())));
    assert_eq!((blog.command.len(), blog.port, blog.limits.millicpus), (0, 0, Some(2000)));
}

#[test]
fn keys_for_commands_are_refused_with_an_image_and_keys_for_images_without_one() {
    let text = r#"
[templates.a]
command = ["x"]
[templates.b]
image = "Shop"
files = "f"
command = []
limits = { cpu_seconds = 1, cpus = 0, pids = 0 }
egress = true
"#;
    let reported: Vec<String> =
        load(&[CONTAINERS], text).unwrap_err().into_iter().map(|m| m.key.replace("templates.", "")).collect();
    let expected = ["a.image", "b.image", "b.command", "b.files"];
    assert_eq!(reported[..4], expected);
    assert_eq!(reported[4..], ["b.limits.pids", "b.limits.cpus", "b.limits.cpu_seconds", "b.egress"]);
    let text = "[templates.a]\ncommand = ['x']\nport = 80\nlimits = { pids = 5, disk = 1, cpus = 0.5 }\n";
    let reported = lines(text).join("\n");
    for key in ["a.port", "a.limits.pids", "a.limits.disk", "a.limits.cpus"] {
        assert!(reported.contains(&format!("templates.{key}: ")), "{key} in {reported}");
    }
}

#[test]
fn a_disk_is_part_of_the_memory() {
    let app = |limits: &str| format!("[templates.a]\nimage = 'x'\nlimits = {{ {limits} }}\n");
    for valid in ["disk = '1M'", "disk = '1G'", "memory = '2G', disk = '2G'", "memory = '64M'"] {
        assert!(load(&[CONTAINERS], &app(valid)).is_ok(), "{valid}");
    }
    for invalid in ["disk = '1025M'", "memory = '64M', disk = '65M'", "disk = '1023K'"] {
        let reported = load(&[CONTAINERS], &app(invalid)).unwrap_err().to_string();
        assert!(reported.contains(":3: templates.a.limits.disk: "), "{invalid}: {reported}");
    }
}

#[test]
fn an_invalid_mode_is_the_only_error() {
    let text = "[templates.a]\nimage = 'a'\n[templates.b]\ncommand = ['x']\n";
    assert_eq!(load(&[("CONTAINER_MODE", "vm")], text).unwrap_err().len(), 1);
}

#[test]
fn errors_of_the_environment_and_of_the_file_are_reported_together() {
    let errors = load(&[("SERVER_PORT", "x")], "[templates.a]\n").unwrap_err().to_string();
    assert!(errors.contains("SERVER_PORT") && errors.contains("templates.a.command"), "{errors}");
}

#[test]
fn invalid_toml_is_reported_by_line_and_nothing_is_read_from_it() {
    let found = lines("[templates.a]\ncommand = [\"x\"\nttl = \n[templates.a]\n");
    assert!(!found.is_empty());
    assert!(found.iter().all(|line| line.starts_with("/etc/tin/apps.toml:") && line.contains("write TOML")));
    assert!(
        lines("a = 1\n[templates.a]\ncommand = ['x']\na = = 2\n")[0].starts_with("/etc/tin/apps.toml:4:")
    );
}

#[test]
fn a_file_without_templates_is_an_error() {
    for text in ["", "# nothing\n", "[templates]\n"] {
        assert_eq!(lines(text).len(), 1, "{text}");
    }
}

#[test]
fn a_value_of_the_environment_table_is_never_shown() {
    for text in ["env = { KEY = ['hunter2'] }", "env = { 'A=B' = 'hunter2' }", "env.KEY = \"hunter2\\u0000\""]
    {
        let reported = lines(&format!("[templates.a]\ncommand = ['x']\n{text}\n")).join("\n");
        assert!(!reported.contains("hunter2"), "{reported}");
    }
}

#[test]
fn the_templates_of_this_repository_are_valid_and_set_no_pool_sizes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments");
    let shipped = std::fs::read_dir(folder.join("templates")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = shipped.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    files.push(folder.join("try-it-now.example.toml"));
    assert!(files.len() >= 2);
    let variables = [("HOME", "/home/a"), ("PS_DB_HOST", "db"), ("PS_DB_USER", "u")];
    let mut env: Environment = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let mode = match text.lines().any(|line| line.starts_with("image")) {
            true if text.contains("CONTAINER_MODE=docker") => "docker",
            true => "containerd",
            false => "process",
        };
        env.insert("CONTAINER_MODE".to_owned(), mode.to_owned());
        let config = Config::load(&env, Some((&path, &text)), Path::new("/bin/try-it-now"));
        let config = config.unwrap_or_else(|errors| panic!("{errors}"));
        for template in config.templates.iter().filter(|_| path.starts_with(folder.join("templates"))) {
            assert_eq!((template.pool.target, template.pool.min, template.pool.max), (10, 3, 20));
            assert!(template.app.files.as_ref().is_none_or(|files| files.is_dir()), "{template:?}");
        }
    }
}

#[test]
fn every_line_of_the_example_that_is_commented_out_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deployments/try-it-now.example.toml");
    let text = std::fs::read_to_string(path).unwrap();
    // A line of prose begins with `# `, a key that is left out with `#` alone.
    let all: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_ne!(all.trim(), text.trim());
    load_valid(&all);
}

fn toml_like() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "[templates.a]",
        "[templates]",
        "command",
        "ready",
        "pool",
        "ttl",
        "env",
        "limits",
        "=",
        "{",
        "}",
        "[",
        "]",
        ",",
        ".",
        "\n",
        "\"x\"",
        "'",
        "\"\"\"",
        "1",
        "-1",
        "1e9",
        "nan",
        "1979-05-27",
        "true",
        "#",
        "\\u0000",
        "é",
    ]);
    prop::collection::vec(word, 0..40).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(crate::proptest_config())]

    #[test]
    fn no_file_makes_loading_panic(text in prop_oneof![toml_like(), "\\PC{0,80}".boxed()]) {
        if let Err(errors) = load(&[], &text) {
            prop_assert_eq!(errors.to_string().lines().count(), errors.len(), "{}", errors);
        }
    }

    #[test]
    fn a_good_file_with_one_bad_byte_never_makes_loading_panic(at in 0..FULL.len(), to in any::<char>()) {
        let mut text = FULL.to_owned();
        text.replace_range(at..=at, &to.to_string());
        let _ = load(&[], &text);
    }
}

#[test]
fn egress_is_the_internet_or_a_list_in_any_order() {
    let text = r#"
[templates.a]
image = "a:1"
[templates.b]
image = "a:1"
egress = "internet"
[templates.c]
image = "a:1"
egress = ["B.example:443", "198.51.100.1:80"]
[templates.d]
image = "a:1"
egress = ["198.51.100.1:80", "b.example:443", "b.example:443"]
"#;
    let config = load(&[CONTAINERS], text).unwrap_or_else(|errors| panic!("{errors}"));
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| config.templates.get(name).unwrap());
    assert_eq!((&a.app.egress, &b.app.egress), (&Egress::Sealed, &Egress::Internet));
    let places = ["198.51.100.1:80", "b.example:443"].map(|place| place.parse().unwrap());
    assert_eq!(c.app.egress, Egress::Only(places.to_vec()));
    // The egress is part of what instances are made from.
    assert!(a.revision != b.revision && b.revision != c.revision);
    assert_eq!(c.revision, d.revision);
}

#[test]
fn invalid_egress_is_reported_with_its_line() {
    let text = r#"
[templates.a]
image = "a:1"
egress = "everything"
[templates.b]
image = "a:1"
egress = []
[templates.c]
image = "a:1"
egress = ["10.0.0.1:80", "mail.example:587", "example"]
"#;
    let errors = load(&[CONTAINERS], text).unwrap_err();
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let at = |line: u32, template: &str, rest: &str| {
        format!("/etc/tin/apps.toml:{line}: templates.{template}.egress: {rest}")
    };
    assert_eq!(
        lines,
        [
            at(
                4,
                "a",
                "\"everything\" cannot be used; write \"internet\", or a list such as [\"api.example.com:443\"]"
            ),
            at(7, "b", "it names 0 places; name 1 to 64, or leave it out for none"),
            at(
                10,
                "c",
                "\"10.0.0.1:80\" cannot be used; write a public address: private and reserved ones are never \
                         reached"
            ),
            at(
                10,
                "c",
                "\"mail.example:587\" cannot be used; leave out the ports of mail (25, 465, 587), which are \
                         always closed"
            ),
            at(
                10,
                "c",
                "\"example\" cannot be used; write a host, a colon and a port, such as \"api.example.com:443\""
            ),
        ]
    );
    assert_eq!(
        lines_of_command(),
        [
            "/etc/tin/apps.toml:3: templates.a.egress: a command on this host reaches all that the host reaches; leave it out, or \
          write an image"
        ]
    );
}

fn lines_of_command() -> Vec<String> {
    lines("[templates.a]\ncommand = ['x']\negress = 'internet'\n")
}

#[test]
fn the_addresses_for_egress_are_set_by_the_environment() {
    let text = "[templates.a]\ncommand = ['x']\n";
    let egress = load_valid(text).runtime.egress;
    assert_eq!((egress.range.to_string().as_str(), egress.resolvers), ("10.213.0.0/16", None));
    let set = [("EGRESS_RANGE", "172.20.0.0/20"), ("EGRESS_DNS", "9.9.9.9, 10.0.0.2")];
    let egress = load(&set, text).unwrap().runtime.egress;
    assert_eq!(egress.range.to_string(), "172.20.0.0/20");
    assert_eq!(egress.resolvers.unwrap().len(), 2);
    for range in ["10.213.0.0", "10.213.0.1/16", "8.0.0.0/16", "10.0.0.0/8", "10.0.0.0/30", "172.16.0.0/9"] {
        assert!(load(&[("EGRESS_RANGE", range)], text).is_err(), "{range}");
    }
    for resolvers in ["127.0.0.53", "::1", "0.0.0.0", "dns.example"] {
        assert!(load(&[("EGRESS_DNS", resolvers)], text).is_err(), "{resolvers}");
    }
    let set = [
        ("EGRESS_FORBIDDEN", "db.Example.com, 198.51.100.7"),
        ("EGRESS_PACKETS_PER_SECOND", "5"),
        ("EGRESS_CONNECTIONS_PER_SECOND", "6"),
    ];
    let egress = load(&set, text).unwrap().runtime.egress;
    assert_eq!(egress.forbidden_hosts, ["db.example.com", "198.51.100.7"]);
    assert_eq!((egress.max_packets_per_second, egress.max_connections_per_second), (5, 6));
    for (name, value) in [
        ("EGRESS_FORBIDDEN", "::1"),
        ("EGRESS_FORBIDDEN", "10.0.0.0/8"),
        ("EGRESS_PACKETS_PER_SECOND", "0"),
        ("EGRESS_CONNECTIONS_PER_SECOND", "2000000"),
    ] {
        assert!(load(&[(name, value)], text).is_err(), "{name} {value}");
    }
}

#[test]
fn memory_is_shared_by_default() {
    let text = r#"
[templates.a]
image = "a:1"
[templates.b]
image = "a:1"
share_memory = "auto"
[templates.c]
image = "a:1"
share_memory = "off"
[templates.d]
image = "a:1"
share_memory = "with-shm"
"#;
    let set = [CONTAINERS, ("SHARED_MEMORY_MAX", "2G")];
    let config = load(&set, text).unwrap_or_else(|errors| panic!("{errors}"));
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| config.templates.get(name).unwrap());
    let all = [a, b, c, d].map(|template| template.app.share_memory);
    assert_eq!(all, [ShareMemory::Auto, ShareMemory::Auto, ShareMemory::Off, ShareMemory::WithShm]);
    // The sharing is part of what instances are made from.
    assert_eq!(a.revision, b.revision);
    assert!(a.revision != c.revision && c.revision != d.revision);
    assert_eq!(config.runtime.shared_memory_max, Some(2 << 30));

    let set = [CONTAINERS, ("SHARED_MEMORY_MAX", "much")];
    let errors = load(&set, "[templates.a]\nimage = \"a:1\"\nshare_memory = true\n").unwrap_err();
    let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
    let right = "write \"auto\", \"off\" or \"with-shm\"";
    assert!(
        lines.iter().any(|line| line.starts_with("SHARED_MEMORY_MAX: \"much\" cannot be used")),
        "{lines:?}"
    );
    let expected = format!("/etc/tin/apps.toml:3: templates.a.share_memory: true cannot be used; {right}");
    assert!(lines.contains(&expected), "{lines:?}");

    let errors = load(&[], "[templates.a]\ncommand = [\"a\"]\nshare_memory = \"off\"\n").unwrap_err();
    assert!(
        errors.to_string().contains("templates.a.share_memory: only containers share memory"),
        "{errors}"
    );
}

#[test]
fn with_containers_the_size_of_a_pool_may_be_left_to_the_memory_of_the_host() {
    let containers = [("CONTAINER_MODE", "containerd")];
    let text = "[templates.a]\nimage = 'a:1'\npool = { max = \"auto\", target = 300 }\n\
                [templates.b]\nimage = 'b:1'\npool.max = 40\n[templates.c]\nimage = 'c:1'\n";
    let sizes = |variables: &[(&str, &str)], text: &str| {
        let config = load(variables, text).unwrap();
        config
            .templates
            .iter()
            .map(|template| template.pool)
            .map(|pool| (pool.target, pool.limited_by_memory))
            .collect::<Vec<_>>()
    };
    assert_eq!(sizes(&containers, text), [(300, true), (10, false), (10, false)]);
    let all = [&containers[..], &[("POOL_MAX_SIZE", "auto")]].concat();
    assert_eq!(sizes(&all, text), [(300, true), (10, false), (10, true)]);

    for value in ["\"automatic\"", "\"20\"", "0", "-1", "true", "\"\""] {
        let text = format!("[templates.a]\nimage = 'a:1'\n[templates.a.pool]\nmax = {value}\n");
        let errors = load(&containers, &text).unwrap_err().to_string();
        let right = "cannot be used; write a whole number from 1 to 100000, or \"auto\"";
        let expected = format!("/etc/tin/apps.toml:4: templates.a.pool.max: {value} {right}");
        assert!(cfg!(feature = "runtime-none") || errors == expected, "{errors}");
    }
    let errors =
        load(&[], "[templates.a]\ncommand = ['a']\n[templates.a.pool]\nmax = \"auto\"\n").unwrap_err();
    assert_eq!(
        errors.to_string(),
        "/etc/tin/apps.toml:4: templates.a.pool.max: auto needs containers, because only their use of memory is \
         known; write a number, or serve with CONTAINER_MODE=containerd"
    );
    for (value, right) in [
        ("automatic", "\"automatic\" cannot be used; write a whole number from 1 to"),
        ("0", "\"0\" cannot be used; write a whole number from 1 to"),
        (
            "auto",
            "auto needs containers, because only their use of memory is known; set CONTAINER_MODE=containerd",
        ),
    ] {
        let errors = load(&[("POOL_MAX_SIZE", value)], "[templates.a]\ncommand = ['a']\n").unwrap_err();
        assert!(errors.to_string().starts_with(&format!("POOL_MAX_SIZE: {right}")), "{errors}");
    }
}

#[test]
fn a_runtime_handler_is_a_name_and_needs_an_image() {
    let text = "[templates.a]\nimage = \"a:1\"\nruntime = \"runsc\"\n\n[templates.b]\nimage = \"b:1\"\n";
    let config = load(&[CONTAINERS], text).unwrap();
    let handler = |name: &str| config.templates.get(name).unwrap().app.runtime.clone();
    assert_eq!(handler("a").unwrap().name(), "io.containerd.runsc.v1");
    assert_eq!(handler("b"), None);
    for wrong in ["/usr/bin/runsc", "io.containerd.../x.v1", "", "nowhere"] {
        let text = format!("[templates.a]\nimage = \"a:1\"\nruntime = \"{wrong}\"\n");
        let errors = load(&[CONTAINERS], &text).unwrap_err().to_string();
        assert!(errors.contains("templates.a.runtime: "), "{errors}");
    }
    let errors =
        load(&[], "[templates.a]\ncommand = [\"a\"]\nruntime = \"runsc\"\n").unwrap_err().to_string();
    assert!(errors.contains("templates.a.runtime: only containers have a runtime handler"), "{errors}");
}

#[test]
fn a_user_needs_an_image_and_an_image_may_decide_port_and_readiness() {
    let text = "[templates.a]\nimage = \"a:1\"\nuser = \"node:33\"\nready = { timeout = \"5s\" }\n\
                [templates.b]\nimage = \"a:1\"\nport = 81\nready = { path = \"/up\" }\n";
    let config = load(&[CONTAINERS], text).unwrap_or_else(|errors| panic!("{errors}"));
    let [a, b] = ["a", "b"].map(|name| config.templates.get(name).unwrap());
    assert_eq!((a.app.user.as_deref(), a.app.port, a.ready.yields_to_image), (Some("node:33"), 0, true));
    assert_eq!((b.app.user.as_deref(), b.app.port, b.ready.yields_to_image), (None, 81, false));
    assert_ne!(a.revision, b.revision);
    for wrong in ["", "a b", "a\\u0000"] {
        let text = format!("[templates.a]\nimage = \"a:1\"\nuser = \"{wrong}\"\n");
        let errors = load(&[CONTAINERS], &text).unwrap_err().to_string();
        assert!(errors.contains("templates.a.user: "), "{errors}");
    }
    let errors = load(&[], "[templates.a]\ncommand = [\"a\"]\nuser = \"node\"\n").unwrap_err().to_string();
    assert!(
        errors.contains("templates.a.user: a command on this host runs as the server's user"),
        "{errors}"
    );
}
