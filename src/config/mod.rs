//! What the operator wants: the whole configuration, from the environment and a file of templates.
//!
//! [`Config::load`] is a pure function of both texts, and tells all mistakes at once. [`read`] hands it those of
//! this process.

mod cluster;
mod defaults;
mod env;
mod errors;
mod later;
mod nearest;
mod public_url;
mod read;
mod runtime;
mod server;
mod store;
mod template_app;
mod template_file;
mod template_hooks;
mod templates;
mod toml_table;
mod trusted_proxies;
mod units;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::template::{Secret, Templates};
use defaults::Defaults;
use env::Variables;

pub use cluster::Node;
pub use env::Environment;
pub use errors::{ConfigError, ConfigErrors};
pub use later::Later;
pub use public_url::{PublicUrl, Scheme};
pub use read::{read, read_host};
pub use runtime::{EgressSettings, Runtime, RuntimeMode};
pub use server::{Server, TlsFiles};
pub use store::{Valkey, ValkeyAddress, ValkeyMode};
pub use trusted_proxies::{IpNet, MalformedIpNet, TrustedProxies};
pub use units::{parse_duration, parse_size, show_duration};

/// Everything that the operator can set, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The one port.
    pub server: Server,
    /// What is logged and how.
    pub log: Log,
    /// What runs instances.
    pub runtime: Runtime,
    /// The apps to try.
    pub templates: Templates,
    /// The folder for what must be remembered.
    pub state_dir: PathBuf,
    /// Asked of every API caller when set: visible ASCII.
    pub api_key: Option<Secret>,
    /// Longest time for an acquire to wait for an instance that is being made.
    pub acquire_timeout: Duration,
    /// The store that all servers share; `None` is the embedded one.
    pub store: Option<Valkey>,
    /// This server among those that share it.
    pub node: Node,
    /// Settings of parts that this build lacks.
    pub later: Later,
    /// What the operator should know although nothing is wrong, one line each.
    pub warnings: Vec<String>,
}

/// Where things of ours are on this host, whatever is served from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The folder for what must be remembered.
    pub state_dir: PathBuf,
    /// containerd's socket, an absolute path.
    pub containerd_address: PathBuf,
}

impl Host {
    /// Reads it from variables; mistakes in others are none here.
    ///
    /// # Errors
    /// All mistakes, in the order found.
    pub fn load(env: &Environment) -> Result<Self, ConfigErrors> {
        let mut env = Variables::new(env);
        let host = Self {
            state_dir: state_dir(&mut env),
            containerd_address: runtime::containerd_address(&mut env),
        };
        env.mistakes.or(host)
    }
}

/// What is logged and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// Nothing less grave than this.
    pub level: tracing::Level,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// A JSON object.
    Json,
    /// For people.
    Text,
}

impl Config {
    /// Reads the configuration from variables and, when there is one, a file of templates: its path and text.
    /// `own_program` is what a template runs whose command begins with `try-it-now`.
    ///
    /// # Errors
    /// All mistakes of both, in the order found.
    pub fn load(
        env: &Environment,
        file: Option<(&Path, &str)>,
        own_program: &Path,
    ) -> Result<Self, ConfigErrors> {
        let mut env = Variables::new(env);
        let mut warnings = unknown_names(&env);
        let server = Server::read(&mut env, &mut warnings);
        let log = log(&mut env);
        let runtime = Runtime::read(&mut env);
        let containers = runtime::containers(&env);
        let image = runtime::image(&mut env, containers, file.is_some(), &mut warnings);
        let store = store::read(&mut env);
        let node = cluster::read(&mut env);
        let later = Later::read(&mut env, &mut warnings);
        let api_key = env.text("API_KEY").and_then(|key| api_key(&mut env, key));
        let acquire_timeout =
            env.duration("ACQUIRE_TIMEOUT", Duration::ZERO).unwrap_or(Duration::from_secs(2));
        let state_dir = state_dir(&mut env);
        let defaults = Defaults::read(&mut env);
        let admin_path = env.get("PS_ADMIN_PATH", admin_path).unwrap_or_else(|| "/".to_owned());
        let own_program = templates::utf8(own_program).unwrap_or_else(|| {
            env.wrong("try-it-now", "the path of this program is no UTF-8 text", "move it");
            ""
        });

        let mut mistakes = env.mistakes;
        let list = match file {
            None => vec![match image {
                Some(image) => templates::of_image(image, &defaults, &admin_path),
                None => templates::built_in(own_program, &defaults, &admin_path),
            }],
            Some((file, text)) => {
                let context = template_file::FileContext {
                    file,
                    own_program,
                    defaults: &defaults,
                    containers,
                    admin_path: &admin_path,
                };
                let (list, wrong) = template_file::read(text, &context);
                mistakes.extend(wrong);
                list
            }
        };
        let Some(templates) = mistakes.or(Templates::new(list))? else {
            unreachable!("a file without mistakes has templates, each of another name");
        };
        warnings.extend(few_ports(&templates, &runtime));
        Ok(Self {
            server,
            log,
            runtime,
            templates,
            state_dir,
            api_key,
            acquire_timeout,
            store,
            node,
            later,
            warnings,
        })
    }
}

/// A name that is nearly one of ours was probably meant to be.
fn unknown_names(env: &Variables<'_>) -> Vec<String> {
    let ours = |name: &&str| ["POOL_", "RATE_LIMIT_"].iter().any(|prefix| name.starts_with(prefix));
    let known = NAMES.iter().copied().filter(ours);
    env.names()
        .filter(|name| ours(name) && !NAMES.contains(name))
        .filter_map(|name| {
            let meant = nearest::nearest(name, known.clone())?;
            Some(format!("{name} is ignored: did you mean {meant}?"))
        })
        .collect()
}

/// The variables that can be misspelt unnoticed, being about sizes and limits.
const NAMES: [&str; 9] = [
    "POOL_TARGET_SIZE",
    "POOL_MIN_SIZE",
    "POOL_MAX_SIZE",
    "POOL_REPLENISH_THRESHOLD",
    "POOL_REPLENISH_INTERVAL",
    "POOL_DEFAULT_TTL",
    "POOL_MAX_TTL",
    "RATE_LIMIT_HOURLY",
    "RATE_LIMIT_DAILY",
];

fn few_ports(templates: &Templates, runtime: &Runtime) -> Option<String> {
    let wanted: usize = templates.iter().map(|template| template.pool.max).sum();
    let ports = runtime.ports.len();
    (runtime.mode == RuntimeMode::Process && wanted > ports).then(|| {
        format!("the pools may grow to {wanted} instances, but CONTAINER_PORT_RANGE_START to _END has {ports} ports")
    })
}

fn log(env: &mut Variables<'_>) -> Log {
    use tracing::Level;
    let levels = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    Log {
        level: env.word("LOG_LEVEL", &levels).unwrap_or(Level::INFO),
        format: env
            .word("LOG_FORMAT", &[("json", LogFormat::Json), ("text", LogFormat::Text)])
            .unwrap_or(LogFormat::Json),
    }
}

fn api_key(env: &mut Variables<'_>, key: &str) -> Option<Secret> {
    if key.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Some(Secret::new(key));
    }
    env.wrong("API_KEY", "it has characters that no header can carry", "use letters, digits and punctuation");
    None
}

fn admin_path(text: &str) -> Result<String, &'static str> {
    // The original took it with the slash and without.
    let path = format!("/{}", text.strip_prefix('/').unwrap_or(text));
    templates::request_path(&path).map(str::to_owned).ok_or("write a path such as /admin")
}

fn state_dir(env: &mut Variables<'_>) -> PathBuf {
    let folder = |name| env.text(name).map(PathBuf::from);
    let found = folder("STATE_DIR")
        // A relative one is to be ignored, says the XDG specification.
        .or_else(|| Some(folder("XDG_STATE_HOME").filter(|state| state.is_absolute())?.join("try-it-now")))
        .or_else(|| Some(folder("HOME")?.join(".local/state/try-it-now")));
    found.unwrap_or_else(|| {
        env.wrong("STATE_DIR", "it is not set, nor is HOME, from which it follows", "set it to a folder");
        PathBuf::new()
    })
}

#[cfg(test)]
mod tests;
