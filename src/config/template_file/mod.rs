//! Templates from a TOML file.

#[cfg(test)]
mod tests;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use super::defaults::{
    AUTO_NEEDS, Defaults, LEAST_REPLENISH_INTERVAL, LEAST_TTL, MOST_INSTANCES, Most, OwnPool,
};
use super::errors::ConfigErrors;
use super::template_app::app;
use super::template_hooks::hooks;
use super::templates::{SILENCE, request_path};
use super::toml_table::{Notes, TomlTable};
use super::units::show_duration;
use crate::instance::{Limits, TemplateName};
use crate::template::DEFAULT_TEMPLATE;
use crate::template::{PoolSizes, ReadyCheck, Template, revision};

const PATH_RULE: &str = "write a path that begins with a slash, such as \"/health\"";
const TEXT_RULE: &str = "write a text in quotes that is not empty";
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// What a file's templates are read against.
pub(super) struct FileContext<'a> {
    /// The file's path: for its mistakes, and for what its templates name relative to it.
    pub(super) file: &'a Path,
    /// This program, for commands that begin with its name.
    pub(super) own_program: &'a str,
    pub(super) defaults: &'a Defaults,
    /// Whether templates are images or commands; `None` when what the environment says about it is wrong.
    pub(super) containers: Option<bool>,
    /// The `admin_path` of the template `default`.
    pub(super) admin_path: &'a str,
}

/// Reads all templates of a file, in its order, and all that is wrong with it.
pub(super) fn read(text: &str, context: &FileContext<'_>) -> (Vec<Template>, ConfigErrors) {
    let notes = Notes::new(context.file, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What a broken file means is a guess; more mistakes made from it would mislead.
        for error in errors {
            notes.wrong(error.span(), "", error.message().replace('\n', " "), "write TOML (https://toml.io)");
        }
        return (Vec::new(), notes.into_mistakes());
    }
    let mut root = TomlTable::root(&notes, &document);
    let mut found = Vec::new();
    let templates = root.section("templates").map(|section| section.sections()).unwrap_or_default();
    if templates.is_empty() {
        root.wrong("templates", "the file describes no template", "write a table [templates.NAME]");
    }
    for (name, mut section) in templates {
        found.extend(template(name, &mut section, context));
        section.finish();
    }
    root.finish();
    (found, notes.into_mistakes())
}

fn template(name: &str, section: &mut TomlTable<'_>, context: &FileContext<'_>) -> Option<Template> {
    let name =
        TemplateName::new(name).map_err(|e| section.wrong("", "the name cannot be used", e.to_string())).ok();
    let app = app(section, context);
    let ready = ready(section);
    let warm_up = section.texts("warm_up", "write a list of paths, each with a slash first", request_path);
    let warm_up: Vec<String> = warm_up.unwrap_or_default().into_iter().map(str::to_owned).collect();
    let contained = context.containers == Some(true) || section.has("image");
    let hooks = hooks(section, contained);
    let title = section.text("title", TEXT_RULE, plain_line).map(str::to_owned);
    let description = section.text("description", "write a text in quotes on one line", |text| {
        (!text.contains(char::is_control)).then(|| text.trim().to_owned())
    });
    let admin_path = section.text("admin_path", PATH_RULE, request_path).map(str::to_owned);
    let (ttl, max_ttl) = (section.duration("ttl", LEAST_TTL), section.duration("max_ttl", LEAST_TTL));
    let (lifetime, conflict) = context.defaults.lifetime.with(ttl, max_ttl);
    if let Some(conflict) = conflict {
        let (value, limit) = (show_duration(conflict.value), show_duration(conflict.limit));
        let wrong = format!("{value} is longer than max_ttl, which is {limit}");
        section.wrong(conflict.key, wrong, "shorten it or raise max_ttl");
    }
    let silence = section.duration("silence", SECOND).unwrap_or(SILENCE);
    let pool = pool(section, context);
    let rate_limit = rate_limit(section, context.defaults.rate_limit);
    let (name, app) = (name?, app?);
    let own_admin_path =
        || if name.as_str() == DEFAULT_TEMPLATE { context.admin_path } else { "/" }.to_owned();
    Some(Template {
        title: title.unwrap_or_else(|| name.to_string()),
        description: description.unwrap_or_default(),
        revision: revision(&app, &ready, &warm_up, &hooks),
        app: Arc::new(app),
        ready,
        warm_up,
        hooks,
        admin_path: admin_path.unwrap_or_else(own_admin_path),
        pool,
        ttl: lifetime.ttl,
        max_ttl: lifetime.max_ttl,
        rate_limit,
        silence,
        name,
    })
}

fn plain_line(text: &str) -> Option<&str> {
    let text = text.trim();
    (!text.is_empty() && !text.contains(char::is_control)).then_some(text)
}

fn ready(section: &mut TomlTable<'_>) -> ReadyCheck {
    let ReadyCheck { path, status, body, interval, timeout } = ReadyCheck::default();
    let Some(mut section) = section.section("ready") else {
        return ReadyCheck { path, status, body, interval, timeout };
    };
    let ready = ReadyCheck {
        path: section.text("path", PATH_RULE, request_path).map_or(path, str::to_owned),
        status: section.number("status", 200, 599).map_or(status, |n| n as u16),
        body: section.text("body", TEXT_RULE, |text| (!text.is_empty()).then(|| text.to_owned())).or(body),
        interval: section.duration("interval", MILLISECOND).unwrap_or(interval),
        timeout: section.duration("timeout", MILLISECOND).unwrap_or(timeout),
    };
    section.finish();
    ready
}

fn pool(section: &mut TomlTable<'_>, context: &FileContext<'_>) -> PoolSizes {
    let base = context.defaults.pool;
    let own = section.section("pool").map(|mut section| {
        let mut size = |key, least| section.number(key, least, MOST_INSTANCES).map(|n| n as usize);
        let own = OwnPool {
            target: size("target", 0),
            min: size("min", 0),
            concurrency: size("concurrency", 1),
            max: section.number_or_word("max", &Most::rule("\"auto\""), Most::read),
            replenish_threshold: section.decimal("replenish_threshold", 0.0, 1.0),
            replenish_interval: section.duration("replenish_interval", LEAST_REPLENISH_INTERVAL),
        };
        if own.max == Some(Most::Auto) && context.containers == Some(false) {
            let [wrong, right] = AUTO_NEEDS;
            section.wrong("max", wrong, format!("{right}, or serve with CONTAINER_MODE=containerd"));
        }
        let (pool, conflicts) = own.over(base);
        for c in conflicts {
            let wrong = format!("{} is more than {}, which is {}", c.value, c.limit_key, c.limit);
            section.wrong(c.key, wrong, format!("lower it or raise {}", c.limit_key));
        }
        section.finish();
        pool
    });
    own.unwrap_or(base)
}

fn rate_limit(section: &mut TomlTable<'_>, base: Limits) -> Limits {
    let Some(mut section) = section.section("rate_limit") else { return base };
    let mut limit = |key, base| section.number(key, 0, u64::from(u32::MAX)).map_or(base, |n| n as u32);
    let limits = Limits { hourly: limit("hourly", base.hourly), daily: limit("daily", base.daily) };
    section.finish();
    limits
}
