//! A template: an app to try, and how its instances are kept.

mod app;
pub mod egress;
pub mod hooks;
mod image_ref;
mod limits;
mod pool_sizes;
mod ready_check;
mod secret;
mod templates;

use std::sync::Arc;
use std::time::Duration;

pub use app::{App, ShareMemory};
pub use egress::Egress;
pub use hooks::Hooks;
pub use image_ref::Image;
pub use limits::ResourceLimits;
pub use pool_sizes::PoolSizes;
pub use ready_check::ReadyCheck;
pub use secret::{Secret, random_hex};
pub use templates::{DEFAULT_TEMPLATE, Templates};

use crate::instance::{Limits, TemplateName};

/// One template, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its name.
    pub name: TemplateName,
    /// What the front page calls it.
    pub title: String,
    /// One sentence for the front page, may be empty.
    pub description: String,
    /// What to run.
    pub app: Arc<App>,
    /// When an instance counts as ready.
    pub ready: ReadyCheck,
    /// Paths requested once from each instance after it answers and before it is offered.
    pub warm_up: Vec<String>,
    /// What makes each instance one of its own.
    pub hooks: Hooks,
    /// Path of the app's administration, added to `url` for `admin_url`; begins with a slash.
    pub admin_path: String,
    /// How many to keep.
    pub pool: PoolSizes,
    /// How long a lease lasts.
    pub ttl: Duration,
    /// Longest time from assignment that extensions may reach.
    pub max_ttl: Duration,
    /// What one visitor may have.
    pub rate_limit: Limits,
    /// How long an app may be silent in the middle of an exchange before the visitor is told so. Server-sent
    /// events and WebSockets are exempt.
    pub silence: Duration,
    /// Changes whenever instances made before the change must not be handed out any more: a fingerprint of
    /// `app`, `ready`, `warm_up` and `hooks`.
    pub revision: u64,
}

/// The fingerprint for [`Template::revision`]: FNV-1a over the JSON of what instances are made from, so that the
/// same build gives the same number after a restart.
pub fn revision(app: &App, ready: &ReadyCheck, warm_up: &[String], hooks: &Hooks) -> u64 {
    fnv1a(&serde_json::to_vec(&(app, ready, warm_up, hooks)).expect("a checked template's paths are UTF-8"))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use super::{Image, ResourceLimits};

    fn revision(app: &App, ready: &ReadyCheck, warm_up: &[String]) -> u64 {
        super::revision(app, ready, warm_up, &Hooks::default())
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
        let image = Some(Image::Reference("docker.io/library/a:1".to_owned()));
        assert_ne!(revision(&App { image, ..app("a") }, &ready, &[]), first);
        assert_ne!(revision(&App { port: 81, ..app("a") }, &ready, &[]), first);
        let limits = ResourceLimits { disk: Some(1), ..ResourceLimits::default() };
        assert_ne!(revision(&App { limits, ..app("a") }, &ready, &[]), first);
        assert_ne!(revision(&app("a"), &ReadyCheck { status: 204, ..ready.clone() }, &[]), first);
        assert_ne!(revision(&app("a"), &ready, &["/".to_owned()]), first);
        let hooks = Hooks { random: [("KEY".to_owned(), 32)].into(), ..Hooks::default() };
        assert_ne!(super::revision(&app("a"), &ready, &[], &hooks), first);
    }

    #[test]
    fn the_fingerprint_is_the_published_one_and_so_the_same_after_a_restart() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
