//! How a request's path reads.

/// Where a refused head is answered: `/.refused/<status>`. The guard in front of the engines puts a request for
/// this path in the place of a head that it refuses, so that the refusal is answered like anything else, in order.
pub const REFUSED_PATH: &str = "/.refused/";

/// Every path that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path<'a> {
    Front,
    Try(&'a str),
    End(&'a str),
    Ready,
    Health,
    Metrics,
    Acquire,
    Demo(&'a str),
    Extend(&'a str),
    Status(&'a str),
    Logs(&'a str),
    Stats,
    Nodes,
    Drain(&'a str),
    Refused(&'a str),
    None,
}

impl<'a> Path<'a> {
    pub(super) fn read(path: &'a str) -> Self {
        if let Some(status) = path.strip_prefix(REFUSED_PATH) {
            return Path::Refused(status);
        }
        let mut segments = path.split('/').skip(1);
        let mut next = || segments.next();
        match [next(), next(), next(), next(), next(), next()] {
            [Some(""), None, ..] => Path::Front,
            [Some("health"), None, ..] => Path::Health,
            [Some("metrics"), None, ..] => Path::Metrics,
            [Some("ready"), None, ..] => Path::Ready,
            [Some("try"), Some(template), None, ..] => Path::Try(template),
            [Some("end"), Some(id), None, ..] => Path::End(id),
            [Some("api"), Some("v1"), Some("demo"), Some("acquire"), None, _] => Path::Acquire,
            [Some("api"), Some("v1"), Some("demo"), Some(id), None, _] => Path::Demo(id),
            [Some("api"), Some("v1"), Some("demo"), Some(id), Some("extend"), None] => Path::Extend(id),
            [Some("api"), Some("v1"), Some("demo"), Some(id), Some("status"), None] => Path::Status(id),
            [Some("api"), Some("v1"), Some("demo"), Some(id), Some("logs"), None] => Path::Logs(id),
            [Some("api"), Some("v1"), Some("pool"), Some("stats"), None, _] => Path::Stats,
            [Some("api"), Some("v1"), Some("nodes"), None, ..] => Path::Nodes,
            [Some("api"), Some("v1"), Some("nodes"), Some(id), Some("drain"), None] => Path::Drain(id),
            _ => Path::None,
        }
    }

    /// Its pattern, for logs and metrics.
    pub(super) fn pattern(&self) -> &'static str {
        match self {
            Path::Front => "/",
            Path::Try(_) => "/try/{template}",
            Path::End(_) => "/end/{id}",
            Path::Ready => "/ready",
            Path::Health => "/health",
            Path::Metrics => "/metrics",
            Path::Acquire => "/api/v1/demo/acquire",
            Path::Demo(_) => "/api/v1/demo/{id}",
            Path::Extend(_) => "/api/v1/demo/{id}/extend",
            Path::Status(_) => "/api/v1/demo/{id}/status",
            Path::Logs(_) => "/api/v1/demo/{id}/logs",
            Path::Stats => "/api/v1/pool/stats",
            Path::Nodes => "/api/v1/nodes",
            Path::Drain(_) => "/api/v1/nodes/{id}/drain",
            Path::Refused(_) => "/.refused/{status}",
            Path::None => "none",
        }
    }

    /// The methods that it has, as an `Allow` header says them.
    pub(super) fn allow(&self) -> &'static str {
        match self {
            Path::Acquire | Path::Extend(_) | Path::Try(_) | Path::End(_) => "POST",
            Path::Demo(_) => "GET, HEAD, DELETE",
            Path::Drain(_) => "POST, DELETE",
            _ => "GET, HEAD",
        }
    }
}

/// Whether a raw path is behind the key, known or not.
pub(super) fn needs_key(path: &str) -> bool {
    path == "/metrics" || path.starts_with("/api/v1/")
}
