//! The whole configuration, as a pure function of the environment and the text of a file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cluster::{self, NodeSettings};
use super::database::{self, DatabaseSettings};
use super::default_template;
use super::defaults::Defaults;
use super::env::{Environment, Setting, SettingKind, Variables};
use super::errors::ConfigErrors;
use super::file_context::{FileContext, request_path, utf8};
use super::host;
use super::ignored;
use super::log::LogSettings;
use super::queue::{self, QueueSettings};
use super::runtime::{self, RuntimeMode, RuntimeSettings};
use super::server::ServerSettings;
use super::store::{self, ValkeySettings};
use super::template_file;
use crate::template::{ImageRef, Secret, Templates};

/// All settings of a server, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The settings of the one port.
    pub server: ServerSettings,
    /// What is logged and how.
    pub log: LogSettings,
    /// The settings of the runtime.
    pub runtime: RuntimeSettings,
    /// The templates.
    pub templates: Templates,
    /// The folder for state that outlives the process.
    pub state_dir: PathBuf,
    /// The key that every API caller needs, if it is set: visible ASCII.
    pub api_key: Option<Secret>,
    /// The longest time that an acquire waits for an instance that is warming.
    pub acquire_timeout: Duration,
    /// The store that all nodes share; `None` is the embedded store.
    pub store: Option<ValkeySettings>,
    /// The MariaDB on which instances have their databases; `None` means that they have none.
    pub database: Option<DatabaseSettings>,
    /// The queue, and how many of its jobs this node does at a time.
    pub queue: QueueSettings,
    /// The settings of this node in its cluster.
    pub node: NodeSettings,
    /// What the operator should know although nothing is invalid, one line each.
    pub warnings: Vec<String>,
}

/// All that the environment says.
struct FromEnvironment {
    server: ServerSettings,
    log: LogSettings,
    runtime: RuntimeSettings,
    /// Whether instances are containers; `None` when `CONTAINER_MODE` is invalid.
    has_containers: Option<bool>,
    image: Option<ImageRef>,
    store: Option<ValkeySettings>,
    database: Option<DatabaseSettings>,
    queue: QueueSettings,
    node: NodeSettings,
    api_key: Option<Secret>,
    acquire_timeout: Duration,
    state_dir: PathBuf,
    defaults: Defaults,
    admin_path: String,
    warnings: Vec<String>,
}

/// Returns all environment variables that the program reads, in the order of reading.
pub fn settings() -> Vec<Setting> {
    let nothing_is_set = Environment::new();
    let mut env = Variables::new(&nothing_is_set);
    FromEnvironment::read(&mut env, false);
    env.settings().to_vec()
}

impl FromEnvironment {
    /// Reads all variables, whatever their values are, so that [`settings`] lists all of them.
    fn read(env: &mut Variables<'_>, has_file: bool) -> Self {
        let mut warnings = Vec::new();
        let server = ServerSettings::read(env, &mut warnings);
        let log = LogSettings::read(env);
        let mode = runtime::read_mode(env);
        let mut runtime = RuntimeSettings::read(env, mode);
        let has_containers = mode.map(RuntimeMode::has_containers);
        let image = runtime::image(env, has_containers, has_file, &mut warnings);
        let store = store::read(env);
        let database = database::read(env);
        runtime.database_server = database.as_ref().map(|server| (server.host.clone(), server.port));
        let queue = queue::read(env, store.is_some());
        let node = cluster::read(env, store.is_some(), &mut warnings);
        ignored::read_unused(env, &mut warnings);
        let api_key = env.secret("API_KEY").and_then(|key| api_key(env, key));
        let acquire_timeout = env.duration("ACQUIRE_TIMEOUT", Duration::from_secs(2), Duration::ZERO);
        let state_dir = host::state_dir(env);
        let defaults = Defaults::read(env, has_containers);
        let admin_path = env.value("PS_ADMIN_PATH", SettingKind::Text, "/", admin_path);
        warnings.splice(0..0, ignored::misspelt(env));
        Self {
            server,
            log,
            runtime,
            has_containers,
            image,
            store,
            database,
            queue,
            node,
            api_key,
            acquire_timeout,
            state_dir,
            defaults,
            admin_path,
            warnings,
        }
    }
}

impl Config {
    /// Reads the configuration from environment variables and, if there is one, from a file of templates, given as its
    /// path and text. `own_program` is the path of this program, which a command of a template may name as
    /// `try-it-now`.
    ///
    /// # Errors
    /// All errors of both, in the order of reading.
    pub fn load(
        env: &Environment,
        file: Option<(&Path, &str)>,
        own_program: &Path,
    ) -> Result<Self, ConfigErrors> {
        let mut env = Variables::new(env);
        let read = FromEnvironment::read(&mut env, file.is_some());
        let own_program = utf8(own_program).unwrap_or_else(|| {
            env.report("try-it-now", "the path of this program is no UTF-8 text", "move it");
            ""
        });
        let mut errors = env.errors;
        let list = match file {
            None => vec![match read.image {
                Some(image) => default_template::of_image(image, &read.defaults, &read.admin_path),
                None => default_template::sample_app(own_program, &read.defaults, &read.admin_path),
            }],
            Some((file, text)) => {
                let context = FileContext {
                    file,
                    own_program,
                    defaults: &read.defaults,
                    has_containers: read.has_containers,
                    has_engine: read.runtime.mode.is_engine(),
                    has_database: read.database.is_some(),
                    may_restore: read.runtime.mode == RuntimeMode::Containerd && read.runtime.criu_enabled,
                    admin_path: &read.admin_path,
                };
                let (list, more) = template_file::read(text, &context);
                errors.extend(more);
                list
            }
        };
        let Some(templates) = errors.into_result(Templates::new(list))? else {
            unreachable!("a file without errors has templates with unique names");
        };
        let mut warnings = read.warnings;
        warnings.extend(few_ports(&templates, &read.runtime));
        Ok(Self {
            server: read.server,
            log: read.log,
            runtime: read.runtime,
            templates,
            state_dir: read.state_dir,
            api_key: read.api_key,
            acquire_timeout: read.acquire_timeout,
            store: read.store,
            database: read.database,
            queue: read.queue,
            node: read.node,
            warnings,
        })
    }
}

/// Returns a warning when the pools may grow to more instances than there are ports.
fn few_ports(templates: &Templates, runtime: &RuntimeSettings) -> Option<String> {
    let instances: usize = templates.iter().map(|template| template.pool.max).sum();
    let ports = runtime.ports.len();
    (runtime.mode == RuntimeMode::Process && instances > ports).then(|| {
        format!("the pools may grow to {instances} instances, but CONTAINER_PORT_RANGE_START to _END has {ports} ports")
    })
}

fn api_key(env: &mut Variables<'_>, key: &str) -> Option<Secret> {
    if key.bytes().all(|b| matches!(b, b' '..=b'~')) {
        return Some(Secret::new(key));
    }
    env.report("API_KEY", "it has characters that no header can have", "use letters, digits and punctuation");
    None
}

fn admin_path(text: &str) -> Result<String, &'static str> {
    // The original service accepted it with and without the slash.
    let path = format!("/{}", text.strip_prefix('/').unwrap_or(text));
    request_path(&path).map(str::to_owned).ok_or("write a path such as /admin")
}
