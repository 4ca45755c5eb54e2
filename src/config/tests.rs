//! The environment's side of the configuration.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::instance::{InstanceId, Limits};
use crate::template::{Image, PoolSizes};

fn environment(pairs: &[(&str, &str)]) -> Environment {
    let home = [("HOME", "/home/someone")];
    home.iter().chain(pairs).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn load(pairs: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    Config::load(&environment(pairs), None, Path::new("/bin/try-it-now"))
}

fn fine(pairs: &[(&str, &str)]) -> Config {
    load(pairs).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// The names at fault, in the order told.
fn at_fault(pairs: &[(&str, &str)]) -> Vec<String> {
    load(pairs).unwrap_err().into_iter().map(|mistake| mistake.at).collect()
}

#[test]
fn without_any_variable_everything_has_its_documented_default() {
    let config = fine(&[]);
    let seconds = Duration::from_secs;
    assert_eq!(config.log, Log { level: tracing::Level::INFO, format: LogFormat::Json });
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
    let later = Later { nats_stream_name: "PROVISIONING".to_owned(), nats_worker_count: 3, ps_db_port: 3306 };
    assert_eq!(config.later, later);
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
        by_memory: false,
        replenish_threshold: 0.5,
        replenish_interval: seconds(10),
        concurrency: 4,
    };
    assert_eq!(template.pool, pool);
    assert_eq!((template.ttl, template.max_ttl), (seconds(3600), seconds(24 * 3600)));
    assert_eq!(template.rate_limit, Limits { hourly: 2, daily: 5 });
    assert_eq!(template.silence, seconds(60));
}

/// Each name that the contract documents, with a value that is its default or fit for use.
const DOCUMENTED: [(&str, &str); 44] = [
    ("LOG_LEVEL", "info"),
    ("LOG_FORMAT", "json"),
    ("SERVER_HOST", "0.0.0.0"),
    ("SERVER_PORT", "8080"),
    ("SERVER_READ_TIMEOUT", "30s"),
    ("SERVER_WRITE_TIMEOUT", "30s"),
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
    ("BASE_DOMAIN", "localhost"),
    ("VALKEY_ADDR", ""),
    ("VALKEY_PASSWORD", ""),
    ("VALKEY_DB", "0"),
    ("NATS_URL", ""),
    ("NATS_STREAM_NAME", "PROVISIONING"),
    ("NATS_WORKER_COUNT", "3"),
    ("PS_DB_HOST", ""),
    ("PS_DB_PORT", ""),
    ("PS_DB_NAME", ""),
    ("PS_DB_USER", ""),
    ("PS_DB_PASSWORD", ""),
    ("PS_ADMIN_PATH", ""),
    ("RATE_LIMIT_HOURLY", "2"),
    ("RATE_LIMIT_DAILY", "5"),
    ("ACQUIRE_TIMEOUT", "2s"),
    ("MAX_CONNECTIONS", "10000"),
    ("SHUTDOWN_GRACE", "30s"),
    ("API_HOSTS", ""),
    ("PUBLIC_URL", ""),
    ("TLS_CERT", ""),
    ("TLS_KEY", ""),
];

#[test]
fn every_documented_default_may_be_written_out() {
    assert_eq!(fine(&DOCUMENTED), fine(&[]));
}

#[test]
fn every_variable_reaches_its_place() {
    let config = fine(&[
        ("LOG_LEVEL", "DEBUG"),
        ("LOG_FORMAT", "text"),
        ("SERVER_HOST", "::1"),
        ("SERVER_PORT", "0"),
        ("MAX_CONNECTIONS", "7"),
        ("SHUTDOWN_GRACE", "0s"),
        ("API_KEY", "hunter2"),
        ("API_HOSTS", "Try.Example.com, 10.0.0.1"),
        ("TRUSTED_PROXIES", "10.0.0.0/8"),
        ("BASE_DOMAIN", "Demo.Example.com."),
        ("TLS_CERT", "/c.pem"),
        ("TLS_KEY", "/k.pem"),
        ("STATE_DIR", "/var/lib/tin"),
        ("POOL_TARGET_SIZE", "2"),
        ("RATE_LIMIT_HOURLY", "0"),
        ("PS_ADMIN_PATH", "admin-demo"),
        ("CONTAINER_PORT_RANGE_START", "40000"),
        ("CONTAINER_PORT_RANGE_END", "40099"),
    ]);
    assert_eq!(config.log, Log { level: tracing::Level::DEBUG, format: LogFormat::Text });
    assert_eq!(config.server.listen.to_string(), "[::1]:0");
    assert_eq!((config.server.max_connections, config.server.shutdown_grace), (7, Duration::ZERO));
    assert!(config.api_key.as_ref().unwrap().matches(b"hunter2"));
    assert!(config.server.api_hosts.contains("try.example.com") && config.server.api_hosts.len() == 2);
    assert!(!config.server.trusted_proxies.contains("127.0.0.1".parse().unwrap()));
    assert_eq!(config.server.public.scheme, Scheme::Https);
    assert_eq!(config.server.public.base_domain, "demo.example.com");
    assert_eq!(config.state_dir, Path::new("/var/lib/tin"));
    assert_eq!(config.runtime.ports, 40_000..=40_099);
    let template = config.templates.get("default").unwrap();
    assert_eq!((template.pool.min, template.pool.target, template.pool.max), (2, 2, 20));
    assert_eq!(template.rate_limit, Limits { hourly: 0, daily: 5 });
    assert_eq!(template.admin_path, "/admin-demo");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn the_public_url_rules_over_what_the_server_listens_on() {
    let id = InstanceId::parse("a-aaaaaaaaaaaaaaaa").unwrap();
    let mut public = fine(&[
        ("PUBLIC_URL", "https://try.example.com"),
        ("BASE_DOMAIN", "demo.example.com"),
        ("SERVER_PORT", "0"),
    ])
    .server
    .public;
    public.bound(41_000);
    assert_eq!(public.home_url(), "https://try.example.com/");
    assert_eq!(public.instance_url(&id), "https://a-aaaaaaaaaaaaaaaa.demo.example.com/");

    let mut public = fine(&[("SERVER_PORT", "0")]).server.public;
    public.bound(41_000);
    assert_eq!(public.instance_url(&id), "http://a-aaaaaaaaaaaaaaaa.localhost:41000/");
}

#[test]
fn the_api_answers_the_host_of_the_public_url() {
    let config = fine(&[("PUBLIC_URL", "https://try.example.com"), ("BASE_DOMAIN", "demo.example.com")]);
    assert!(config.server.api_hosts.contains("try.example.com"));
}

#[test]
fn every_mistake_is_told_at_once() {
    let wrong = [
        ("SERVER_HOST", "somewhere"),
        ("SERVER_PORT", "65536"),
        ("TLS_CERT", "/c.pem"),
        ("BASE_DOMAIN", "10.0.0.1"),
        ("API_HOSTS", "a.example:80"),
        ("PUBLIC_URL", "demo.example.com"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,all,none"),
        ("SERVER_READ_TIMEOUT", "30"),
        ("MAX_CONNECTIONS", "0"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("CONTAINER_PORT_RANGE_START", "2000"),
        ("CONTAINER_PORT_RANGE_END", "1000"),
        ("VALKEY_ADDR", "valkey"),
        ("NATS_URL", "nats://nats:4222"),
        ("CONTAINERD_ADDRESS", "tcp://10.0.0.1:10000"),
        ("CRIU_ENABLED", "perhaps"),
        ("API_KEY", "schl\u{fc}ssel"),
        ("POOL_TARGET_SIZE", "30"),
        ("POOL_REPLENISH_THRESHOLD", "NaN"),
        ("POOL_DEFAULT_TTL", "48h"),
        ("RATE_LIMIT_DAILY", "-1"),
        ("PS_ADMIN_PATH", "a b"),
    ];
    let mut told = at_fault(&wrong);
    // Two bad networks, and the key that the certificate lacks.
    assert_eq!(told.iter().filter(|at| *at == "TRUSTED_PROXIES").count(), 2);
    told.dedup();
    let mut expected: Vec<&str> = wrong.iter().map(|(name, _)| *name).collect();
    expected.retain(|name| *name != "TLS_CERT" && *name != "CONTAINER_PORT_RANGE_END");
    expected.push("TLS_KEY");
    told.sort();
    expected.sort_unstable();
    assert_eq!(told, expected);
    let text = load(&wrong).unwrap_err().to_string();
    assert!(!text.contains("schl"), "a key is a secret even when it is wrong");
    assert!(
        text.contains("RATE_LIMIT_DAILY: \"-1\" cannot be used; write a whole number from 0 to 4294967295")
    );
}

#[test]
fn modes_that_this_build_lacks_say_the_way_over() {
    for (mode, says) in
        [("docker", "under containerd"), ("podman", "under containerd"), ("vm", "set process")]
    {
        let mistakes = load(&[("CONTAINER_MODE", mode), ("CONTAINER_IMAGE", "shop:1")]).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{mistakes}");
        assert!(mistakes.to_string().contains(says), "{mistakes}");
    }
}

#[test]
fn an_image_describes_the_one_template_of_a_server_without_a_file() {
    let config = fine(&[
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
    assert_eq!(template.app.image, Some(Image::Reference("docker.io/you/shop:2".to_owned())));
    assert_eq!((template.app.command.len(), template.app.port), (0, 80));
    assert_eq!(template.ready.path, "/");

    let containers = ("CONTAINER_MODE", "containerd");
    for wrong in [
        [("CONTAINER_MODE", "process"), ("CONTAINER_IMAGE", "shop:1")],
        [("CONTAINER_MODE", ""), ("CONTAINER_IMAGE", "shop:1")],
        [containers, ("CONTAINER_IMAGE", "")],
        [containers, ("CONTAINER_IMAGE", "Shop")],
        [containers, ("CONTAINER_IMAGE", "oci:./shop.tar")],
    ] {
        assert_eq!(at_fault(&wrong), ["CONTAINER_IMAGE"], "{wrong:?}");
    }
    let file = Some((Path::new("/t.toml"), "[templates.a]\nimage = 'a'\n"));
    let both = environment(&[containers, ("CONTAINER_IMAGE", "shop:1")]);
    let config = Config::load(&both, file, Path::new("p")).unwrap();
    assert!(config.warnings[0].starts_with("CONTAINER_IMAGE is ignored"), "{:?}", config.warnings);
}

#[test]
fn logins_are_where_the_operator_says_or_where_docker_keeps_them() {
    let path = |pairs: &[(&str, &str)]| {
        let file = fine(pairs).runtime.logins.unwrap();
        (file.path.display().to_string(), file.named)
    };
    assert_eq!(path(&[]), ("/home/someone/.docker/config.json".to_owned(), false));
    assert_eq!(path(&[("DOCKER_CONFIG", "/d")]), ("/d/config.json".to_owned(), false));
    let both = [("DOCKER_CONFIG", "/d"), ("REGISTRY_AUTH_FILE", "/a.json")];
    assert_eq!(path(&both), ("/a.json".to_owned(), true));
}

#[test]
fn what_is_ignored_is_told_once_and_is_no_mistake() {
    let config = fine(&[
        ("CADDY_ADMIN_URL", "http://caddy:2019"),
        ("PS_DB_HOST", "db"),
        ("PS_DB_PASSWORD", "hunter2"),
        ("POOL_TARGETSIZE", "5"),
        ("POOL_SERVICE_HOST", "10.0.0.1"),
        ("PUBLIC_URL", "https://try.example.com"),
    ]);
    assert_eq!(
        config.warnings.iter().map(|w| w.split(' ').next().unwrap()).collect::<Vec<_>>(),
        ["POOL_TARGETSIZE", "PUBLIC_URL", "CADDY_ADMIN_URL", "PS_DB_HOST,"]
    );
    assert!(!config.warnings.join("\n").contains("hunter2"));
}

#[test]
fn a_pool_that_outgrows_the_ports_is_warned_of() {
    let config = fine(&[("CONTAINER_PORT_RANGE_END", "32009")]);
    assert!(config.warnings[0].contains("20 instances") && config.warnings[0].contains("10 ports"));
}

#[test]
fn the_state_folder_follows_the_users_wishes() {
    let at = |pairs: &[(&str, &str)]| fine(pairs).state_dir;
    assert_eq!(at(&[("XDG_STATE_HOME", "/state")]), Path::new("/state/try-it-now"));
    assert_eq!(at(&[("XDG_STATE_HOME", "state")]), Path::new("/home/someone/.local/state/try-it-now"));
    assert_eq!(at(&[("XDG_STATE_HOME", "/state"), ("STATE_DIR", "/own")]), Path::new("/own"));
    assert_eq!(at_fault(&[("HOME", "")]), ["STATE_DIR"]);
}

proptest! {
    #[test]
    fn no_environment_makes_loading_panic(
        values in proptest::collection::vec("\\PC{0,20}|[0-9]{0,6}[smh%.,/:]{0,2}", DOCUMENTED.len()),
    ) {
        let pairs = DOCUMENTED.iter().zip(&values).map(|((name, _), value)| ((*name).to_owned(), value.clone()));
        if let Err(mistakes) = Config::load(&pairs.collect(), None, Path::new("p")) {
            prop_assert_eq!(mistakes.to_string().lines().count(), mistakes.len());
        }
    }
}
