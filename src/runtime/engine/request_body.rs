//! The request that makes an instance's container. Pure.
//!
//! The engine merges it with what the image says: entrypoint, arguments, variables, user and working directory.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, PortBinding, ResourcesUlimits,
};

use super::settings::EngineKind;
use crate::runtime::container_defaults::{CAPABILITIES, DEFAULT_OPEN_FILES, DEFAULT_PIDS, OOM_SCORE_ADJ};
use crate::runtime::{RuntimeError, StartRequest};

/// Nanoseconds of processor time in a thousandth of a processor's second.
const NANOS_PER_MILLICPU: i64 = 1_000_000;

/// How much output the engine keeps of an instance: two files, of which the older one is removed.
const LOG_FILE_SIZE: &str = "512k";
const LOG_FILES: &str = "2";

/// Lets every process of the container listen on every port.
const LOW_PORTS: (&str, &str) = ("net.ipv4.ip_unprivileged_port_start", "0");

/// The network of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContainerNetwork {
    /// A loopback and nothing else.
    Sealed,
    /// The engine's network of this name, which leads to the internet.
    Open(String),
    /// The same, and the app's port is published on 127.0.0.1.
    Published(String),
}

/// What the engine may give to a process, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EngineLimits {
    /// Most open files.
    pub(super) open_files: Option<u64>,
    /// Most processes of one user.
    pub(super) processes: Option<u64>,
}

impl EngineLimits {
    /// Reads them out of `/proc/PID/limits`.
    pub(super) fn parse(text: &str) -> Self {
        let hard = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        Self { open_files: hard("Max open files"), processes: hard("Max processes") }
    }
}

/// Returns the request.
///
/// # Errors
/// The template wants what the engine cannot do.
pub(super) fn container_body(
    request: &StartRequest,
    kind: EngineKind,
    image: &str,
    port: u16,
    network: &ContainerNetwork,
    limits: EngineLimits,
    labels: HashMap<String, String>,
) -> Result<ContainerCreateBody, RuntimeError> {
    let app = &*request.app;
    let exposed = format!("{port}/tcp");
    let (network_mode, is_published) = match network {
        ContainerNetwork::Sealed => ("none", false),
        ContainerNetwork::Open(name) => (name.as_str(), false),
        ContainerNetwork::Published(name) => (name.as_str(), true),
    };
    let memory = i64::try_from(app.limits.container_memory()).ok();
    let host_config = HostConfig {
        memory,
        // As much as the memory alone: no swap.
        memory_swap: memory,
        nano_cpus: Some(i64::from(app.limits.container_millicpus()) * NANOS_PER_MILLICPU),
        pids_limit: Some(i64::from(app.limits.pids.unwrap_or(DEFAULT_PIDS))),
        ulimits: Some(ulimits(request, kind, limits)),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        oom_score_adj: Some(i64::from(OOM_SCORE_ADJ)),
        sysctls: Some(HashMap::from([(LOW_PORTS.0.to_owned(), LOW_PORTS.1.to_owned())])),
        network_mode: Some(network_mode.to_owned()),
        port_bindings: is_published.then(|| {
            let free_port =
                PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
            HashMap::from([(exposed.clone(), Some(vec![free_port]))])
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(
                [("max-size", LOG_FILE_SIZE), ("max-file", LOG_FILES)]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
            ),
        }),
        // Only a limit that the template names: most engines cannot keep one.
        storage_opt: app.limits.disk.map(|bytes| HashMap::from([("size".to_owned(), bytes.to_string())])),
        runtime: handler(request, kind)?,
        ..Default::default()
    };
    Ok(ContainerCreateBody {
        image: Some(image.to_owned()),
        hostname: Some("instance".to_owned()),
        user: app.user.clone(),
        env: Some(environment(request, port, is_published)),
        // A command replaces the image's entrypoint and its arguments.
        entrypoint: (!app.command.is_empty()).then(|| app.command.clone()),
        cmd: (!app.command.is_empty()).then(Vec::new),
        exposed_ports: is_published.then(|| vec![exposed]),
        // The pool runs health checks itself, and only until the instance is ready. Podman has no check that is none.
        healthcheck: (kind == EngineKind::Docker).then(no_health_check),
        stop_signal: Some("SIGKILL".to_owned()),
        stop_timeout: Some(0),
        labels: Some(labels),
        host_config: Some(host_config),
        ..Default::default()
    })
}

/// Returns the variables in addition to those of the image: the template's, then the promised ones.
fn environment(request: &StartRequest, port: u16, is_published: bool) -> Vec<String> {
    let port = port.to_string();
    // The engine forwards a published port to the container's address, where an app on its loopback does not listen.
    let host = if is_published { "0.0.0.0" } else { "127.0.0.1" };
    let mut variables: BTreeMap<&str, &str> =
        request.app.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    variables.extend([
        ("HOST", host),
        ("PORT", &port),
        ("INSTANCE_ID", request.id.as_str()),
        ("INSTANCE_URL", &request.url),
        ("INSTANCE_HOST", &request.host),
    ]);
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// Returns the limits of each process. Without `CAP_SYS_RESOURCE` an engine can only lower its own.
fn ulimits(request: &StartRequest, kind: EngineKind, engine: EngineLimits) -> Vec<ResourcesUlimits> {
    let of = &request.app.limits;
    let most = engine.open_files.unwrap_or(u64::MAX);
    let (soft, hard) = of.open_files.map_or(DEFAULT_OPEN_FILES, |files| (files, files));
    let mut limits = vec![ulimit("nofile", soft.min(most), hard.min(most)), ulimit("core", 0, 0)];
    limits.extend(of.file_size.map(|size| ulimit("fsize", size, size)));
    // Podman raises the limit of processes in every container, even where it may not. What counts for an instance is
    // the limit of its cgroup.
    if let (EngineKind::Podman, Some(processes)) = (kind, engine.processes) {
        limits.push(ulimit("nproc", processes, processes));
    }
    limits
}

fn no_health_check() -> HealthConfig {
    HealthConfig { test: Some(vec!["NONE".to_owned()]), ..Default::default() }
}

fn ulimit(name: &str, soft: u64, hard: u64) -> ResourcesUlimits {
    let number = |value: u64| i64::try_from(value).ok();
    ResourcesUlimits { name: Some(name.to_owned()), soft: number(soft), hard: number(hard) }
}

/// Returns the name of the template's runtime handler among the runtimes of Docker.
fn handler(request: &StartRequest, kind: EngineKind) -> Result<Option<String>, RuntimeError> {
    let Some(handler) = &request.app.runtime else { return Ok(None) };
    match kind {
        EngineKind::Docker => Ok(handler.name().split('.').nth(2).map(str::to_owned)),
        EngineKind::Podman => Err(RuntimeError::Start(
            "Podman's service starts all containers with one runtime: leave `runtime` out of the template, and \
             set `runtime` in containers.conf"
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::instance::{InstanceId, TemplateName};
    use crate::template::{App, ResourceLimits, RuntimeHandler};

    const LIMITS: EngineLimits = EngineLimits { open_files: Some(20_000), processes: Some(10_000) };

    fn request(app: App) -> StartRequest {
        let id = InstanceId::random(&TemplateName::new("shop").unwrap());
        StartRequest::new(id, "http://x/".to_owned(), "x".to_owned(), Arc::new(app), 1)
    }

    fn body(app: App, network: &ContainerNetwork) -> ContainerCreateBody {
        container_body(&request(app), EngineKind::Docker, "sha256:1", 8080, network, LIMITS, HashMap::new())
            .unwrap()
    }

    #[test]
    fn a_sealed_container_has_no_network_few_rights_and_limits() {
        let body = body(App::default(), &ContainerNetwork::Sealed);
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.port_bindings, None);
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges".to_owned()]));
        assert_eq!((host.memory, host.memory_swap), (Some(1 << 30), Some(1 << 30)));
        assert_eq!((host.nano_cpus, host.pids_limit), (Some(1_000_000_000), Some(512)));
        assert_ne!(host.privileged, Some(true));
        // The image's own command.
        assert_eq!((body.entrypoint, body.cmd), (None, None));
    }

    #[test]
    fn only_a_disk_limit_of_the_template_is_requested() {
        let disk_of = |disk| {
            let limits = ResourceLimits { disk, ..ResourceLimits::default() };
            body(App { limits, ..App::default() }, &ContainerNetwork::Sealed).host_config.unwrap().storage_opt
        };
        assert_eq!(disk_of(None), None);
        assert_eq!(disk_of(Some(1 << 20)), Some([("size".to_owned(), "1048576".to_owned())].into()));
    }

    #[test]
    fn a_command_replaces_entrypoint_and_arguments() {
        let app = App { command: vec!["a".to_owned(), "b".to_owned()], ..App::default() };
        let body = body(app, &ContainerNetwork::Sealed);
        assert_eq!(body.entrypoint, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(body.cmd, Some(Vec::new()));
    }

    #[test]
    fn a_published_app_must_listen_on_all_addresses_and_gets_a_port_of_the_loopback() {
        let body = body(App::default(), &ContainerNetwork::Published("net".to_owned()));
        assert!(body.env.unwrap().contains(&"HOST=0.0.0.0".to_owned()));
        let bindings = body.host_config.unwrap().port_bindings.unwrap();
        let binding = &bindings["8080/tcp"].as_ref().unwrap()[0];
        assert_eq!(binding.host_ip.as_deref(), Some("127.0.0.1"));
    }

    #[test]
    fn promised_variables_replace_those_of_the_template() {
        let env = [("PORT", "1"), ("A", "b=c")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let env = body(App { env: env.into(), ..App::default() }, &ContainerNetwork::Sealed).env.unwrap();
        assert!(env.contains(&"PORT=8080".to_owned()) && env.contains(&"A=b=c".to_owned()), "{env:?}");
        assert_eq!(env.iter().filter(|pair| pair.starts_with("PORT=")).count(), 1);
    }

    #[test]
    fn limits_of_processes_are_never_above_those_of_the_engine() {
        let of =
            ResourceLimits { open_files: Some(1 << 20), file_size: Some(7), ..ResourceLimits::default() };
        let of = request(App { limits: of, ..App::default() });
        let limits = ulimits(&of, EngineKind::Podman, LIMITS);
        let find = |name: &str| {
            let found = limits.iter().find(|limit| limit.name.as_deref() == Some(name)).unwrap();
            (found.soft, found.hard)
        };
        assert_eq!(find("nofile"), (Some(20_000), Some(20_000)));
        assert_eq!(find("nproc"), (Some(10_000), Some(10_000)));
        assert_eq!(find("fsize"), (Some(7), Some(7)));
    }

    #[test]
    fn the_limits_of_an_engine_are_read_from_its_process() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             unlimited            10000                processes \n\
                    Max open files            1024                 20000                files     \n";
        assert_eq!(EngineLimits::parse(text), LIMITS);
        let unlimited = EngineLimits::parse("Max processes   unlimited   unlimited   processes\n");
        assert_eq!(unlimited, EngineLimits { open_files: None, processes: None });
    }

    #[test]
    fn a_runtime_handler_has_the_short_name_under_docker_and_is_refused_under_podman() {
        let of = request(App { runtime: RuntimeHandler::parse("runsc"), ..App::default() });
        assert_eq!(handler(&of, EngineKind::Docker).unwrap().as_deref(), Some("runsc"));
        handler(&of, EngineKind::Podman).unwrap_err();
    }
}
