//! The templates of a server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::defaults::Defaults;
use crate::instance::TemplateName;
use crate::template::hooks::Hooks;
use crate::template::{App, Image};
use crate::template::{DEFAULT_TEMPLATE, ReadyCheck, Template, revision};

/// Where an app in a container listens unless its template says otherwise.
pub(super) const IMAGE_PORT: u16 = 80;

/// The one template of a server without a file: the app that is built in.
pub(super) fn built_in(own_program: &str, defaults: &Defaults, admin_path: &str) -> Template {
    let app = App { command: vec![own_program.to_owned(), "sample-app".to_owned()], ..App::default() };
    let description = "A guest book that is yours alone. Sign it, and watch it live in a second window.";
    Template {
        title: "Guest book".to_owned(),
        description: description.to_owned(),
        ..of_app(
            app,
            ReadyCheck { path: "/health".to_owned(), ..ReadyCheck::default() },
            defaults,
            admin_path,
        )
    }
}

/// The one template of a server without a file that was told an image.
pub(super) fn of_image(image: Image, defaults: &Defaults, admin_path: &str) -> Template {
    let title = image.short_name().to_owned();
    let app = App { image: Some(image), port: IMAGE_PORT, ..App::default() };
    Template { title, ..of_app(app, ReadyCheck::default(), defaults, admin_path) }
}

fn of_app(app: App, ready: ReadyCheck, defaults: &Defaults, admin_path: &str) -> Template {
    Template {
        name: TemplateName::new(DEFAULT_TEMPLATE).expect("it is a DNS label"),
        title: DEFAULT_TEMPLATE.to_owned(),
        description: String::new(),
        revision: revision(&app, &ready, &[], &Hooks::default()),
        app: Arc::new(app),
        ready,
        warm_up: Vec::new(),
        hooks: Hooks::default(),
        admin_path: admin_path.to_owned(),
        pool: defaults.pool,
        ttl: defaults.lifetime.ttl,
        max_ttl: defaults.lifetime.max_ttl,
        rate_limit: defaults.rate_limit,
        silence: SILENCE,
    }
}

/// How long an app may be silent unless its template says otherwise.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// Reads the path (and query) of a request.
pub(super) fn request_path(text: &str) -> Option<&str> {
    let fine = text.starts_with('/') && !text.contains('#');
    (fine && text.parse::<http::uri::PathAndQuery>().is_ok()).then_some(text)
}

/// The text of a path, which must be UTF-8 to be handed to an app or compared over restarts.
pub(super) fn utf8(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| !text.contains('\0'))
}
