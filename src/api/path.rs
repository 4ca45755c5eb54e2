//! Every path of the API and the pages.

/// A parsed path, with its variable segments as the client wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path<'a> {
    /// The server itself: the `*` of OPTIONS.
    Server,
    FrontPage,
    Try(&'a str),
    End(&'a str),
    ReadyFeed,
    Health,
    Metrics,
    Acquire,
    Instance(&'a str),
    Extend(&'a str),
    Status(&'a str),
    Logs(&'a str),
    PoolStats,
    Client,
    Nodes,
    Drain(&'a str),
    Queue,
    RetryJob(&'a str),
    Unknown,
}

impl<'a> Path<'a> {
    /// Parses the raw path of a request.
    pub(super) fn parse(path: &'a str) -> Self {
        if path == "*" {
            return Path::Server;
        }
        let mut segments = path.split('/').skip(1);
        let mut next = || segments.next();
        match [next(), next(), next(), next(), next(), next()] {
            [Some(""), None, ..] => Path::FrontPage,
            [Some("health"), None, ..] => Path::Health,
            [Some("metrics"), None, ..] => Path::Metrics,
            [Some("ready"), None, ..] => Path::ReadyFeed,
            [Some("try"), Some(template), None, ..] => Path::Try(template),
            [Some("end"), Some(id), None, ..] => Path::End(id),
            [Some("api"), Some("v1"), Some("demo"), Some("acquire"), None, _] => Path::Acquire,
            [Some("api"), Some("v1"), Some("demo"), Some(id), None, _] => Path::Instance(id),
            [Some("api"), Some("v1"), Some("demo"), Some(id), Some("extend"), None] => Path::Extend(id),
            [Some("api"), Some("v1"), Some("demo"), Some(id), Some("status"), None] => Path::Status(id),
            [Some("api"), Some("v1"), Some("demo"), Some(id), Some("logs"), None] => Path::Logs(id),
            [Some("api"), Some("v1"), Some("pool"), Some("stats"), None, _] => Path::PoolStats,
            [Some("api"), Some("v1"), Some("client"), None, ..] => Path::Client,
            [Some("api"), Some("v1"), Some("nodes"), None, ..] => Path::Nodes,
            [Some("api"), Some("v1"), Some("nodes"), Some(id), Some("drain"), None] => Path::Drain(id),
            [Some("api"), Some("v1"), Some("queue"), None, ..] => Path::Queue,
            [Some("api"), Some("v1"), Some("queue"), Some(id), Some("retry"), None] => Path::RetryJob(id),
            _ => Path::Unknown,
        }
    }

    /// Returns the pattern of the path, for logs and metrics.
    pub(super) fn pattern(&self) -> &'static str {
        match self {
            Path::Server => "*",
            Path::FrontPage => "/",
            Path::Try(_) => "/try/{template}",
            Path::End(_) => "/end/{id}",
            Path::ReadyFeed => "/ready",
            Path::Health => "/health",
            Path::Metrics => "/metrics",
            Path::Acquire => "/api/v1/demo/acquire",
            Path::Instance(_) => "/api/v1/demo/{id}",
            Path::Extend(_) => "/api/v1/demo/{id}/extend",
            Path::Status(_) => "/api/v1/demo/{id}/status",
            Path::Logs(_) => "/api/v1/demo/{id}/logs",
            Path::PoolStats => "/api/v1/pool/stats",
            Path::Client => "/api/v1/client",
            Path::Nodes => "/api/v1/nodes",
            Path::Drain(_) => "/api/v1/nodes/{id}/drain",
            Path::Queue => "/api/v1/queue",
            Path::RetryJob(_) => "/api/v1/queue/{id}/retry",
            Path::Unknown => "none",
        }
    }

    /// Returns whether only the operator may call the path.
    pub(super) fn is_operators(&self) -> bool {
        matches!(self, Path::Metrics | Path::Nodes | Path::Drain(_) | Path::Queue | Path::RetryJob(_))
    }

    /// Returns the methods that the path supports, as the value of an `Allow` header.
    pub(super) fn allow(&self) -> &'static str {
        match self {
            Path::Server => "OPTIONS",
            Path::FrontPage | Path::Health => "GET, HEAD, OPTIONS",
            Path::Acquire | Path::Extend(_) | Path::Try(_) | Path::End(_) | Path::RetryJob(_) => "POST",
            Path::Instance(_) => "GET, HEAD, DELETE",
            Path::Drain(_) => "POST, DELETE",
            _ => "GET, HEAD",
        }
    }
}

/// Returns whether a raw path needs the API key where `API_KEY` is set, even if it is no path of [`Path`]. Callers may see their own address
/// without it.
pub(super) fn needs_api_key(path: &str) -> bool {
    path == "/metrics" || (path.starts_with("/api/v1/") && path != "/api/v1/client")
}
