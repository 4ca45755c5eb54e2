//! Tests of the configuration from environment variables.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::instance::{InstanceId, RateLimits};
use crate::template::{ImageRef, PoolSizes};

fn environment(pairs: &[(&str, &str)]) -> Environment {
    let home = [("HOME", "/home/someone")];
    home.iter().chain(pairs).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn load(pairs: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Config::load(&environment(pairs), None, Path::new("/bin/try-it-now"))
}

fn load_valid(pairs: &[(&str, &str)]) -> Config {
    load(pairs).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The names of the variables with errors, in the order reported.
fn invalid(pairs: &[(&str, &str)]) -> Vec<String> {
    load(pairs).unwrap_err().into_iter().map(|error| error.key).collect()
}

#[test]
fn without_any_variable_everything_has_its_documented_default() {
    let config = load_valid(&[]);
    let seconds = Duration::from_secs;
    assert_eq!(config.log, LogSettings { level: tracing::Level::INFO, format: LogFormat::Json });
    assert_eq!(config.server.listen, SocketAddr::from(([0, 0, 0, 0], 8080)));
    assert_eq!(config.server.read_timeout, seconds(30));
    assert_eq!(config.server.write_timeout, seconds(30));
    assert_eq!(config.server.max_connections, 10_000);
    assert_eq!(config.server.shutdown_grace, seconds(30));
    assert_eq!(config.server.tls, None);
    assert!(config.server.api_hosts.is_empty());
    assert_eq!(config.server.public.base_domain, "localhost");
    assert_eq!(config.server.public.home_url(), "http://localhost:8080/");
    assert_eq!(config.server.trusted_proxies.0.len(), 2);
    assert!(config.server.trusted_proxies.contains("127.0.0.1".parse().unwrap()));
    assert!(config.server.trusted_proxies.contains("::1".parse().unwrap()));
    assert_eq!(config.api_key, None);
    assert_eq!((config.runtime.mode, config.runtime.ports), (RuntimeMode::Process, 32_000..=32_999));
    assert_eq!(config.runtime.containerd_address, Path::new("/run/containerd/containerd.sock"));
    assert!(config.runtime.criu_enabled);
    assert_eq!(config.acquire_timeout, seconds(2));
    assert_eq!(config.state_dir, Path::new("/home/someone/.local/state/try-it-now"));
    assert!(config.warnings.is_empty());

    assert_eq!(config.templates.iter().len(), 1);
    let template = config.templates.get("default").unwrap();
    assert_eq!(config.templates.default_name(), &template.name);
    assert_eq!(template.title, "Guest book");
    assert_eq!(template.app.command, ["/bin/try-it-now", "sample-app"]);
    assert_eq!(template.ready.path, "/health");
    assert_eq!(template.admin_path, "/");
    let pool = PoolSizes {
        target: 10,
        min: 3,
        max: 20,
        limited_by_memory: false,
        replenish_threshold: 0.5,
        replenish_interval: seconds(10),
        concurrency: 4,
        max_idle_age: None,
    };
    assert_eq!(template.pool, pool);
    assert_eq!((template.ttl, template.max_ttl), (seconds(3600), seconds(24 * 3600)));
    assert_eq!(template.rate_limit, RateLimits { hourly: 2, daily: 5, concurrent: 2 });
    assert_eq!(template.silence, seconds(60));
}

/// Each variable of the original service, with its default there or a valid value.
const DOCUMENTED: [(&str, &str); 57] = [
    ("LOG_LEVEL", "info"),
    ("LOG_FORMAT", "json"),
    ("SERVER_HOST", "0.0.0.0"),
    ("SERVER_PORT", "8080"),
    ("SERVER_READ_TIMEOUT", "30s"),
    ("SERVER_WRITE_TIMEOUT", "30s"),
    ("HTTP1_ENGINE", "forwarder"),
    ("API_KEY", ""),
    ("TRUSTED_PROXIES", "127.0.0.1,::1"),
    ("POOL_TARGET_SIZE", "10"),
    ("POOL_MIN_SIZE", "3"),
    ("POOL_MAX_SIZE", "20"),
    ("POOL_REPLENISH_THRESHOLD", "0.5"),
    ("POOL_REPLENISH_INTERVAL", "10s"),
    ("POOL_DEFAULT_TTL", "1h"),
    ("POOL_MAX_TTL", "24h"),
    ("CONTAINER_MODE", "process"),
    ("CONTAINER_IMAGE", ""),
    ("CONTAINER_CHECKPOINT_PATH", ""),
    ("CONTAINER_PORT_RANGE_START", "32000"),
    ("CONTAINER_PORT_RANGE_END", "32999"),
    ("CONTAINERD_ADDRESS", "/run/containerd/containerd.sock"),
    ("CRIU_ENABLED", "true"),
    ("FAST_CGROUP_CHANGES", "true"),
    ("USER_NAMESPACES", "auto"),
    ("BASE_DOMAIN", "localhost"),
    ("VALKEY_ADDR", ""),
    ("VALKEY_PASSWORD", ""),
    ("VALKEY_DB", "0"),
    ("NATS_URL", ""),
    ("NATS_STREAM_NAME", "PROVISIONING"),
    ("NATS_WORKER_COUNT", "3"),
    ("PS_DB_HOST", ""),
    ("PS_DB_PORT", "3306"),
    ("PS_DB_NAME", "tryitnow"),
    ("PS_DB_USER", ""),
    ("PS_DB_PASSWORD", ""),
    ("PS_ADMIN_PATH", ""),
    ("RATE_LIMIT_HOURLY", "2"),
    ("RATE_LIMIT_DAILY", "5"),
    ("RATE_LIMIT_CONCURRENT", ""),
    ("ACQUIRE_TIMEOUT", "2s"),
    ("MAX_CONNECTIONS", "10000"),
    ("MAX_BUFFERED_BYTES", "512M"),
    ("MAX_REQUESTS_PER_CLIENT", "256"),
    ("MAX_REQUESTS_PER_INSTANCE", "512"),
    ("MAX_CONNECTIONS_PER_CLIENT", "256"),
    ("PROOF_OF_WORK_ABOVE", ""),
    ("SHUTDOWN_GRACE", "30s"),
    ("API_HOSTS", ""),
    ("BUTTON_ORIGINS", ""),
    ("PUBLIC_URL", ""),
    ("TLS_CERT", ""),
    ("TLS_KEY", ""),
    ("EGRESS_FORBIDDEN", ""),
    ("EGRESS_PACKETS_PER_SECOND", "20000"),
    ("EGRESS_CONNECTIONS_PER_SECOND", "200"),
];

#[test]
fn every_documented_default_may_be_written_out() {
    assert_eq!(load_valid(&DOCUMENTED), load_valid(&[]));
}

#[test]
fn every_variable_reaches_its_setting() {
    let config = load_valid(&[
        ("LOG_LEVEL", "DEBUG"),
        ("LOG_FORMAT", "text"),
        ("SERVER_HOST", "::1"),
        ("SERVER_PORT", "0"),
        ("MAX_CONNECTIONS", "7"),
        ("MAX_CONNECTIONS_PER_CLIENT", "5"),
        ("SHUTDOWN_GRACE", "0s"),
        ("HTTP1_ENGINE", "Pingora"),
        ("API_KEY", "hunter2"),
        ("API_HOSTS", "Try.Example.com, 10.0.0.1"),
        ("TRUSTED_PROXIES", "10.0.0.0/8"),
        ("BASE_DOMAIN", "Apps.Example.com."),
        ("TLS_CERT", "/c.pem"),
        ("TLS_KEY", "/k.pem"),
        ("STATE_DIR", "/var/lib/tin"),
        ("POOL_TARGET_SIZE", "2"),
        ("RATE_LIMIT_HOURLY", "0"),
        ("RATE_LIMIT_CONCURRENT", "3"),
        ("PS_ADMIN_PATH", "admin-area"),
        ("CONTAINER_PORT_RANGE_START", "40000"),
        ("CONTAINER_PORT_RANGE_END", "40099"),
        ("INSTANCES_MEMORY", "600M"),
        ("INSTANCES_PIDS", "300"),
    ]);
    assert_eq!(config.log, LogSettings { level: tracing::Level::DEBUG, format: LogFormat::Text });
    assert_eq!(config.server.listen.to_string(), "[::1]:0");
    assert_eq!((config.server.max_connections, config.server.shutdown_grace), (7, Duration::ZERO));
    assert_eq!(config.server.max_connections_per_client, 5);
    assert_eq!(config.server.http1_engine, Http1Engine::Pingora);
    assert!(config.api_key.as_ref().unwrap().matches(b"hunter2"));
    assert!(config.server.api_hosts.contains("try.example.com") && config.server.api_hosts.len() == 2);
    assert!(!config.server.trusted_proxies.contains("127.0.0.1".parse().unwrap()));
    assert_eq!(config.server.public.scheme, Scheme::Https);
    assert_eq!(config.server.public.base_domain, "apps.example.com");
    assert_eq!(config.state_dir, Path::new("/var/lib/tin"));
    assert_eq!(config.runtime.ports, 40_000..=40_099);
    assert_eq!(config.runtime.instances_memory, Some(600 << 20));
    assert_eq!(config.runtime.instances_pids, Some(300));
    let template = config.templates.get("default").unwrap();
    assert_eq!((template.pool.min, template.pool.target, template.pool.max), (2, 2, 20));
    assert_eq!(template.rate_limit, RateLimits { hourly: 0, daily: 5, concurrent: 3 });
    assert_eq!(template.admin_path, "/admin-area");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn an_empty_variable_counts_as_not_set_but_an_empty_list_of_proxies_trusts_none() {
    for empty in ["", " "] {
        let config = load_valid(&[("API_KEY", empty), ("NODE_SECRET", empty), ("TRUSTED_PROXIES", empty)]);
        assert_eq!((&config.api_key, &config.node.secret), (&None, &None));
        assert_eq!(config.server.trusted_proxies, TrustedProxies::default());
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }
}

#[test]
fn the_public_url_wins_over_the_address_that_the_server_listens_on() {
    let id = InstanceId::parse("a-aaaaaaaaaaaaaaaa").unwrap();
    let mut public = load_valid(&[
        ("PUBLIC_URL", "https://try.example.com"),
        ("BASE_DOMAIN", "apps.example.com"),
        ("SERVER_PORT", "0"),
    ])
    .server
    .public;
    public.set_bound_port(41_000);
    assert_eq!(public.home_url(), "https://try.example.com/");
    assert_eq!(public.instance_url(&id), "https://a-aaaaaaaaaaaaaaaa.apps.example.com/");

    let mut public = load_valid(&[("SERVER_PORT", "0")]).server.public;
    public.set_bound_port(41_000);
    assert_eq!(public.instance_url(&id), "http://a-aaaaaaaaaaaaaaaa.localhost:41000/");
}

#[test]
fn the_api_answers_the_host_of_the_public_url() {
    let config =
        load_valid(&[("PUBLIC_URL", "https://try.example.com"), ("BASE_DOMAIN", "apps.example.com")]);
    assert!(config.server.api_hosts.contains("try.example.com"));
}

#[test]
fn all_errors_are_reported_at_once() {
    let wrong = [
        ("SERVER_HOST", "somewhere"),
        ("SERVER_PORT", "65536"),
        ("TLS_CERT", "/c.pem"),
        ("BASE_DOMAIN", "10.0.0.1"),
        ("API_HOSTS", "a.example:80"),
        ("BUTTON_ORIGINS", "market.example.org"),
        ("PUBLIC_URL", "apps.example.com"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,all,none"),
        ("SERVER_READ_TIMEOUT", "30"),
        ("MAX_CONNECTIONS", "0"),
        ("HTTP1_ENGINE", "nginx"),
        ("MAX_CONNECTIONS_PER_CLIENT", "0"),
        ("PROOF_OF_WORK_ABOVE", "0"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("CONTAINER_PORT_RANGE_START", "2000"),
        ("CONTAINER_PORT_RANGE_END", "1000"),
        ("VALKEY_ADDR", "valkey"),
        ("NATS_URL", "http://nats:4222"),
        ("NATS_STREAM_NAME", "a.b"),
        ("NATS_WORKER_COUNT", "0"),
        ("CONTAINERD_ADDRESS", "tcp://10.0.0.1:10000"),
        ("CRIU_ENABLED", "perhaps"),
        ("FAST_CGROUP_CHANGES", "perhaps"),
        ("USER_NAMESPACES", "perhaps"),
        ("INSTANCES_MEMORY", "63M"),
        ("INSTANCES_PIDS", "15"),
        ("API_KEY", "schl\u{fc}ssel"),
        ("POOL_TARGET_SIZE", "30"),
        ("POOL_REPLENISH_THRESHOLD", "NaN"),
        ("POOL_DEFAULT_TTL", "48h"),
        ("RATE_LIMIT_DAILY", "-1"),
        ("RATE_LIMIT_CONCURRENT", "many"),
        ("PS_ADMIN_PATH", "a b"),
    ];
    let mut reported = invalid(&wrong);
    // Two bad networks, and the key that the certificate lacks.
    assert_eq!(reported.iter().filter(|at| *at == "TRUSTED_PROXIES").count(), 2);
    reported.dedup();
    let mut expected: Vec<&str> = wrong.iter().map(|(name, _)| *name).collect();
    expected.retain(|name| *name != "TLS_CERT" && *name != "CONTAINER_PORT_RANGE_END");
    expected.push("TLS_KEY");
    reported.sort();
    expected.sort_unstable();
    assert_eq!(reported, expected);
    let text = load(&wrong).unwrap_err().to_string();
    assert!(!text.contains("schl"), "a key is a secret even when it is wrong");
    assert!(
        text.contains("RATE_LIMIT_DAILY: \"-1\" cannot be used; write a whole number from 0 to 4294967295")
    );
}

#[test]
fn an_error_in_the_mode_says_what_to_set_instead() {
    for (mode, says) in [("lxc", "docker or podman"), ("Docker", "docker or podman"), ("vm", "set process")] {
        let errors = load(&[("CONTAINER_MODE", mode), ("CONTAINER_IMAGE", "shop:1")]).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors}");
        assert!(errors.to_string().contains(says), "{errors}");
    }
}

#[test]
fn an_image_is_the_one_template_of_a_server_without_a_file() {
    let config = load_valid(&[
        ("CONTAINER_MODE", "containerd"),
        ("CONTAINER_IMAGE", "you/shop:2"),
        ("CONTAINERD_ADDRESS", "unix:///run/c.sock"),
        ("CRIU_ENABLED", "0"),
        ("PS_ADMIN_PATH", "/admin"),
    ]);
    assert_eq!((config.runtime.mode, config.runtime.criu_enabled), (RuntimeMode::Containerd, false));
    assert_eq!(config.runtime.containerd_address, Path::new("/run/c.sock"));
    let template = config.templates.get("default").unwrap();
    assert_eq!((template.title.as_str(), template.admin_path.as_str()), ("shop", "/admin"));
    assert_eq!(template.app.image, Some(ImageRef::Reference("docker.io/you/shop:2".to_owned())));
    assert_eq!((template.app.command.len(), template.app.port), (0, 0));
    assert_eq!(template.ready.path, "/");

    let containers = ("CONTAINER_MODE", "containerd");
    for wrong in [
        [("CONTAINER_MODE", "process"), ("CONTAINER_IMAGE", "shop:1")],
        [("CONTAINER_MODE", ""), ("CONTAINER_IMAGE", "shop:1")],
        [containers, ("CONTAINER_IMAGE", "")],
        [containers, ("CONTAINER_IMAGE", "Shop")],
        [containers, ("CONTAINER_IMAGE", "oci:./shop.tar")],
    ] {
        assert_eq!(invalid(&wrong), ["CONTAINER_IMAGE"], "{wrong:?}");
    }
    let file = Some((Path::new("/t.toml"), "[templates.a]\nimage = 'a'\n"));
    let both = environment(&[containers, ("CONTAINER_IMAGE", "shop:1")]);
    let config = Config::load(&both, file, Path::new("p")).unwrap();
    assert!(config.warnings[0].starts_with("CONTAINER_IMAGE is ignored"), "{:?}", config.warnings);
}

#[test]
fn the_sockets_of_engines_are_where_their_own_tools_look() {
    let sockets = |pairs: &[(&str, &str)]| {
        let found = load_valid(pairs).runtime.engine_sockets;
        let text = |paths: Vec<std::path::PathBuf>| {
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        (text(found.docker), text(found.podman))
    };
    let (docker, podman) = sockets(&[("XDG_RUNTIME_DIR", "/run/user/7")]);
    assert_eq!(docker, "/run/docker.sock /run/user/7/docker.sock /home/someone/.docker/run/docker.sock");
    assert_eq!(podman, "/run/podman/podman.sock /run/user/7/podman/podman.sock");
    let named = [("DOCKER_HOST", "unix:///d.sock"), ("CONTAINER_HOST", "unix:///p.sock")];
    assert_eq!(sockets(&named), ("/d.sock".to_owned(), "/p.sock".to_owned()));
    // It may be meant for other tools.
    sockets(&[("DOCKER_HOST", "tcp://10.0.0.1:2376"), ("CONTAINER_HOST", "ssh://a")]);
    for (mode, name) in [("docker", "DOCKER_HOST"), ("podman", "CONTAINER_HOST")] {
        let remote = [("CONTAINER_MODE", mode), ("CONTAINER_IMAGE", "shop:1"), (name, "tcp://10.0.0.1:2376")];
        assert_eq!(invalid(&remote), [name]);
    }
}

#[test]
fn logins_are_read_from_the_named_file_or_from_dockers() {
    let path = |pairs: &[(&str, &str)]| {
        let file = load_valid(pairs).runtime.registry_logins.unwrap();
        (file.path.display().to_string(), file.is_explicit)
    };
    assert_eq!(path(&[]), ("/home/someone/.docker/config.json".to_owned(), false));
    assert_eq!(path(&[("DOCKER_CONFIG", "/d")]), ("/d/config.json".to_owned(), false));
    let both = [("DOCKER_CONFIG", "/d"), ("REGISTRY_AUTH_FILE", "/a.json")];
    assert_eq!(path(&both), ("/a.json".to_owned(), true));
}

#[test]
fn each_ignored_variable_is_one_warning_and_no_error() {
    let config = load_valid(&[
        ("CADDY_ADMIN_URL", "http://caddy:2019"),
        ("POOL_TARGETSIZE", "5"),
        ("POOL_SERVICE_HOST", "10.0.0.1"),
        ("PUBLIC_URL", "https://try.example.com"),
    ]);
    assert_eq!(
        config.warnings.iter().map(|w| w.split(' ').next().unwrap()).collect::<Vec<_>>(),
        ["POOL_TARGETSIZE", "PUBLIC_URL", "CADDY_ADMIN_URL"]
    );
}

#[test]
fn a_pool_that_may_grow_beyond_the_ports_is_a_warning() {
    let config = load_valid(&[("CONTAINER_PORT_RANGE_END", "32009")]);
    assert!(config.warnings[0].contains("20 instances") && config.warnings[0].contains("10 ports"));
}

#[test]
fn the_state_folder_follows_the_users_variables() {
    let at = |pairs: &[(&str, &str)]| load_valid(pairs).state_dir;
    assert_eq!(at(&[("XDG_STATE_HOME", "/state")]), Path::new("/state/try-it-now"));
    assert_eq!(at(&[("XDG_STATE_HOME", "state")]), Path::new("/home/someone/.local/state/try-it-now"));
    assert_eq!(at(&[("XDG_STATE_HOME", "/state"), ("STATE_DIR", "/own")]), Path::new("/own"));
    assert_eq!(invalid(&[("HOME", "")]), ["STATE_DIR"]);
}

/// The rows of the tables in `docs/settings.md` below a heading, as cells. The first cell is a name in backquotes.
fn documented(heading: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let rows = section.lines().filter(|line| line.starts_with("| `")).map(cells);
    rows.filter(|row: &Vec<String>| row.len() == 4).collect()
}

fn bare(name: &str) -> &str {
    name.trim_matches('`')
}

#[test]
fn the_document_has_every_variable_with_its_value_and_default() {
    let rows = documented("Environment variables");
    let names: Vec<&str> = rows.iter().map(|row| bare(&row[0])).collect();
    // That variable exists only in builds for benchmarks.
    let settings = settings().into_iter().filter(|setting| setting.name != "CONTAINER_NONE_ENDPOINT");
    let settings: Vec<Setting> = settings.collect();
    for name in &names {
        assert!(settings.iter().any(|setting| setting.name == *name), "{name} is documented, but not read");
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name} is documented twice");
    }
    for Setting { name, default, kind, .. } in &settings {
        let row = rows.iter().find(|row| bare(&row[0]) == *name);
        let row = row.unwrap_or_else(|| panic!("{name} is read, but not documented"));
        assert_eq!(row[1], kind.to_string(), "the value of {name}");
        match default {
            Some(default) => assert_eq!(row[2], format!("`{default}`"), "the default of {name}"),
            // Prose, if anything: a lone literal would claim a default that the code does not have.
            None => {
                let is_literal = row[2].starts_with('`') && row[2].ends_with('`') && !row[2].contains(' ');
                assert!(!is_literal, "{name} has no default {}", row[2]);
            }
        }
        assert!(!row[3].is_empty(), "the meaning of {name}");
    }
}

/// The keys that the tables of a template have, as the errors about unknown keys list them.
fn keys_of_templates() -> Vec<String> {
    const NONE: &str = "qqqqqqqqqqqqqqqq = 1";
    let text = format!(
        "[templates.a]\nimage = 'a'\n{NONE}\n[templates.a.ready]\n{NONE}\n[templates.a.pool]\n{NONE}\n\
         [templates.a.rate_limit]\n{NONE}\n[templates.a.limits]\n{NONE}\n[templates.a.hooks]\n{NONE}\n\
         [templates.a.hooks.files.'/PATH']\n{NONE}\n[[templates.a.hooks.http]]\n{NONE}\n\
         [[templates.a.hooks.exec]]\n{NONE}\n[templates.a.hooks.bake]\n{NONE}\n\
         [templates.a.database]\n{NONE}\n"
    );
    let file = Some((Path::new("/t.toml"), text.as_str()));
    let errors = Config::load(&environment(&[("CONTAINER_MODE", "containerd")]), file, Path::new("p"));
    let mut keys = Vec::new();
    for error in errors.unwrap_err() {
        let Some(list) = error.remedy.strip_prefix("the keys here are ") else { continue };
        let table =
            error.key.replace("templates.a", "").replace("/PATH", "PATH").replace(".qqqqqqqqqqqqqqqq", "");
        keys.extend(list.split(", ").map(|key| format!("{table}.{key}").trim_start_matches('.').to_owned()));
    }
    assert!(keys.len() > 50, "{keys:?}");
    let tables = keys.clone();
    keys.retain(|key| !tables.iter().any(|other| other.starts_with(&format!("{key}."))));
    keys
}

#[test]
fn the_document_has_every_key_of_a_template() {
    let rows = documented("Keys of a template");
    let mut documented: Vec<&str> = rows.iter().map(|row| bare(&row[0])).collect();
    let mut read = keys_of_templates();
    documented.sort_unstable();
    read.sort_unstable();
    assert_eq!(documented, read);
    assert!(rows.iter().all(|row| row.iter().all(|cell| !cell.is_empty())));
}

proptest! {
    #![proptest_config(crate::proptest_config())]

    #[test]
    fn no_environment_makes_loading_panic(
        values in proptest::collection::vec("\\PC{0,20}|[0-9]{0,6}[smh%.,/:]{0,2}", DOCUMENTED.len()),
    ) {
        let pairs = DOCUMENTED.iter().zip(&values).map(|((name, _), value)| ((*name).to_owned(), value.clone()));
        if let Err(errors) = Config::load(&pairs.collect(), None, Path::new("p")) {
            prop_assert_eq!(errors.to_string().lines().count(), errors.len());
        }
    }
}
