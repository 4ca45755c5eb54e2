//! Templates: what an app is, as the operator declares it. Pure.
//!
//! `config/` reads these types from the environment and from the file of templates; all other folders only use them.
//!
//! | file | what it describes |
//! |---|---|
//! | `mod.rs` | a template, and the revision of what its instances are made from |
//! | `app.rs` | what an instance runs |
//! | `image_ref.rs` | the container image of an app |
//! | `limits.rs` | resource limits of an instance |
//! | `runtime_handler.rs` | what starts containers in place of this server's own way |
//! | `egress.rs` | what an instance may reach on the internet |
//! | `ready_check.rs` | when an instance counts as ready |
//! | `health_check.rs` | the health check that an image declares |
//! | `hooks.rs` | what gives each instance its own address, keys and passwords |
//! | `database.rs` | the database of each instance |
//! | `pool_sizes.rs` | how many instances a node keeps |
//! | `templates.rs` | all templates of a server |
//! | `secret.rs` | texts that must not appear in a log |
//! | `node_secret.rs` | the secret of a node or a cluster, and the key for each of its uses |

mod app;
pub mod database;
pub mod egress;
mod health_check;
pub mod hooks;
mod image_ref;
mod limits;
pub mod node_secret;
mod pool_sizes;
mod ready_check;
mod runtime_handler;
mod secret;
mod templates;

use std::sync::Arc;
use std::time::Duration;

pub use app::{App, ShareMemory};
pub use database::Database;
pub use egress::Egress;
pub use health_check::HealthCheck;
pub use hooks::Hooks;
pub use image_ref::ImageRef;
pub use limits::ResourceLimits;
pub use node_secret::NodeSecret;
pub use pool_sizes::PoolSizes;
pub use ready_check::ReadyCheck;
pub use runtime_handler::RuntimeHandler;
pub use secret::{Secret, random_hex};
pub use templates::{DEFAULT_TEMPLATE, Templates};

use crate::instance::{RateLimits, TemplateName};

/// One template, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The name, which begins each instance's host name.
    pub name: TemplateName,
    /// The title on the front page.
    pub title: String,
    /// One sentence for the front page; may be empty.
    pub description: String,
    /// What an instance runs.
    pub app: Arc<App>,
    /// When an instance counts as ready.
    pub ready: ReadyCheck,
    /// Time between two requests of the ready check to an instance that waits for a visitor.
    pub recheck_interval: Duration,
    /// Paths that are requested once from each instance after its app answers and before it is offered.
    pub warm_up: Vec<String>,
    /// What gives each instance its own address, keys and passwords.
    pub hooks: Hooks,
    /// The database of each instance; `None` means that instances have none.
    pub database: Option<Database>,
    /// Path of the app's administration pages, appended to `url` for `admin_url`; begins with a slash.
    pub admin_path: String,
    /// How many instances each node keeps.
    pub pool: PoolSizes,
    /// How long a lease lasts.
    pub ttl: Duration,
    /// The longest time from the claim to a deadline that extensions may reach.
    pub max_ttl: Duration,
    /// How many instances one visitor may have.
    pub rate_limit: RateLimits,
    /// How long an app may send nothing in the middle of an exchange before the visitor gets an error page. Server-sent
    /// events and WebSockets are exempt.
    pub silence: Duration,
    /// A fingerprint of `app`, `ready`, `warm_up`, `hooks` and `database`. An instance of another revision is never assigned.
    pub revision: u64,
}

/// Returns the fingerprint for [`Template::revision`]: FNV-1a over the JSON of what instances are made from. The same
/// build gives the same number after a restart.
///
/// How random texts are derived counts too, where there are any, so that the revision of an instance says which
/// derivation its texts came from.
pub fn revision(
    app: &App,
    ready: &ReadyCheck,
    warm_up: &[String],
    hooks: &Hooks,
    database: Option<&Database>,
) -> u64 {
    let mut json = revision_json(app, ready, warm_up, hooks);
    // Without one, the revision stays what it was before there were any.
    if let Some(database) = database {
        serde_json::to_writer(&mut json, database).expect("a checked template's paths are UTF-8");
    }
    if !hooks.random.is_empty() {
        json.extend(RANDOM_TEXTS_DERIVATION);
    }
    fnv1a(&json)
}

/// Stands for the present derivation of random texts in [`revision`]. Earlier versions had nothing in its place.
const RANDOM_TEXTS_DERIVATION: &[u8] = b"random texts v2";

fn revision_json(app: &App, ready: &ReadyCheck, warm_up: &[String], hooks: &Hooks) -> Vec<u8> {
    serde_json::to_vec(&(app, ready, warm_up, hooks)).expect("a checked template's paths are UTF-8")
}

impl Template {
    /// Returns the revision that earlier versions gave to the same template, whose random texts they derived from the
    /// secret itself.
    pub fn earlier_revision(&self) -> u64 {
        fnv1a(&revision_json(&self.app, &self.ready, &self.warm_up, &self.hooks))
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(app: &App, ready: &ReadyCheck, warm_up: &[String]) -> u64 {
        super::revision(app, ready, warm_up, &Hooks::default(), None)
    }

    fn app(argument: &str) -> App {
        App { command: vec!["app".to_owned(), argument.to_owned()], ..App::default() }
    }

    #[test]
    fn the_revision_changes_with_what_instances_are_made_from() {
        let ready = ReadyCheck::default();
        let first = revision(&app("a"), &ready, &[]);
        assert_eq!(revision(&app("a"), &ready, &[]), first);
        assert_ne!(revision(&app("b"), &ready, &[]), first);
        let image = Some(ImageRef::Reference("docker.io/library/a:1".to_owned()));
        assert_ne!(revision(&App { image, ..app("a") }, &ready, &[]), first);
        assert_ne!(revision(&App { port: 81, ..app("a") }, &ready, &[]), first);
        let limits = ResourceLimits { disk: Some(1), ..ResourceLimits::default() };
        assert_ne!(revision(&App { limits, ..app("a") }, &ready, &[]), first);
        assert_ne!(revision(&app("a"), &ReadyCheck { status: 204, ..ready.clone() }, &[]), first);
        assert_ne!(revision(&app("a"), &ready, &["/".to_owned()]), first);
        let hooks = Hooks { random: [("KEY".to_owned(), 32)].into(), ..Hooks::default() };
        assert_ne!(super::revision(&app("a"), &ready, &[], &hooks, None), first);
        let mut database = Database { seed: None, max_connections: 1, env: Default::default() };
        let with_one = super::revision(&app("a"), &ready, &[], &Hooks::default(), Some(&database));
        assert_ne!(with_one, first);
        database.seed = Some("seed.sql".into());
        assert_ne!(super::revision(&app("a"), &ready, &[], &Hooks::default(), Some(&database)), with_one);
    }

    #[test]
    fn the_revision_says_how_random_texts_were_derived_where_there_are_any() {
        let (app, ready) = (app("a"), ReadyCheck::default());
        let mut hooks = Hooks::default();
        let earlier = |hooks: &Hooks| fnv1a(&revision_json(&app, &ready, &[], hooks));
        assert_eq!(super::revision(&app, &ready, &[], &hooks, None), earlier(&hooks));
        hooks.random.insert("KEY".to_owned(), 16);
        assert_ne!(super::revision(&app, &ready, &[], &hooks, None), earlier(&hooks));
    }

    #[test]
    fn the_fingerprint_is_the_published_fnv_1a_and_so_the_same_after_a_restart() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
