//! The configuration: the settings of a server and its templates, read from environment variables and a TOML file.
//!
//! [`Config::load`] is a pure function of both texts and reports all errors at once. [`read()`] passes it the
//! environment of this process and the text of the file. This folder only reads and reports: templates are types of
//! `template/`, and the other settings are the structs that it defines.
//!
//! | file | what it reads |
//! |---|---|
//! | `load.rs` | everything: [`Config`], and the list of all variables |
//! | `read.rs` | this process's environment, and the files that the settings name |
//! | `env.rs` | one environment variable, typed |
//! | `server.rs` `log.rs` `runtime.rs` `store.rs` `queue.rs` `database.rs` `cluster.rs` `host.rs` | the variables of one topic |
//! | `defaults.rs` | the variables that are defaults of templates |
//! | `ignored.rs` | variables without effect, with a warning |
//! | `public_url.rs` `trusted_proxies.rs` `units.rs` | the notation of URLs, networks, times and sizes |
//! | `default_template.rs` | the one template of a server without a file |
//! | `template_file/` `template_app.rs` `template_database.rs` `template_hooks/` | the file of templates |
//! | `file_context.rs` | what the tables of that file are read against |
//! | `toml_table.rs` | one table of that file, typed |
//! | `effective.rs` | all values, each with where it comes from |
//! | `errors.rs` | errors with their places and remedies |
//!
//! **A new variable or key of a template** needs a row in `docs/settings.md`, which a test compares with this code, and
//! a line in `deployments/try-it-now.example.toml` if it is a key. A new hook also needs `template/hooks.rs`,
//! `pool/supply/hooks.rs` and `docs/hooks.md`.

mod cluster;
mod database;
mod default_template;
mod defaults;
mod effective;
mod engine;
mod env;
mod errors;
mod file_context;
mod host;
mod ignored;
mod load;
mod log;
mod public_url;
mod queue;
mod read;
mod runtime;
mod server;
mod socket;
mod store;
mod template_app;
mod template_database;
mod template_file;
mod template_hooks;
#[cfg(test)]
mod tests;
mod toml_table;
mod trusted_proxies;
mod units;

pub use cluster::NodeSettings;
pub use database::{DatabaseSettings, DatabaseTls};
pub use effective::{EffectiveValue, effective_text, env_file};
pub use engine::EngineSockets;
pub use env::{Environment, Setting, SettingKind};
pub use errors::{ConfigError, ConfigErrors};
pub use host::HostSettings;
pub use load::{Config, settings};
pub use log::{LogFormat, LogSettings};
pub use public_url::{Origin, PublicUrl, Scheme};
pub use queue::{NatsCredentials, NatsSettings, QueueSettings};
pub use read::{read, read_effective, read_for_containers, read_for_demo, read_host};
pub use runtime::{RuntimeMode, RuntimeSettings};
pub use server::{Http1Engine, ServerSettings, TlsFiles};
pub use store::{ValkeyAddress, ValkeyMode, ValkeySettings};
pub use trusted_proxies::{MalformedNetwork, TrustedNetwork, TrustedProxies};
pub use units::{format_duration, parse_duration, parse_size};
