//! The one template of a server without a file of templates.

use std::sync::Arc;

use super::defaults::{DEFAULT_RECHECK_INTERVAL, DEFAULT_SILENCE, Defaults};
use crate::instance::TemplateName;
use crate::template::hooks::Hooks;
use crate::template::{App, DEFAULT_TEMPLATE, ImageRef, ReadyCheck, Template, revision};

/// Returns the template of the built-in sample app.
pub(super) fn sample_app(own_program: &str, defaults: &Defaults, admin_path: &str) -> Template {
    let app = App { command: vec![own_program.to_owned(), "sample-app".to_owned()], ..App::default() };
    let description = "A guest book that is yours alone. Sign it, and watch it live in a second window.";
    let ready = ReadyCheck { path: "/health".to_owned(), ..ReadyCheck::default() };
    Template {
        title: "Guest book".to_owned(),
        description: description.to_owned(),
        ..of_app(app, ready, defaults, admin_path)
    }
}

/// Returns the template of the image in `CONTAINER_IMAGE`.
pub(super) fn of_image(image: ImageRef, defaults: &Defaults, admin_path: &str) -> Template {
    let title = image.short_name().to_owned();
    let app = App { image: Some(image), ..App::default() };
    let ready = ReadyCheck { yields_to_image: true, ..ReadyCheck::default() };
    Template { title, ..of_app(app, ready, defaults, admin_path) }
}

fn of_app(app: App, ready: ReadyCheck, defaults: &Defaults, admin_path: &str) -> Template {
    Template {
        name: TemplateName::new(DEFAULT_TEMPLATE).expect("it is a DNS label"),
        title: DEFAULT_TEMPLATE.to_owned(),
        description: String::new(),
        revision: revision(&app, &ready, &[], &Hooks::default(), None),
        app: Arc::new(app),
        ready,
        recheck_interval: DEFAULT_RECHECK_INTERVAL,
        warm_up: Vec::new(),
        hooks: Hooks::default(),
        database: None,
        admin_path: admin_path.to_owned(),
        pool: defaults.pool,
        ttl: defaults.lease_times.ttl,
        max_ttl: defaults.lease_times.max_ttl,
        rate_limit: defaults.rate_limit.limits(),
        silence: DEFAULT_SILENCE,
    }
}
