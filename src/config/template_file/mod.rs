//! The templates of a TOML file.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use super::defaults::{
    AUTO_NEEDS_CONTAINERS, DEFAULT_RECHECK_INTERVAL, DEFAULT_SILENCE, MAX_INSTANCES, MIN_MAX_IDLE_AGE,
    MIN_RECHECK_INTERVAL, MIN_REPLENISH_INTERVAL, MIN_TTL, PoolMax, PoolOverrides, RateDefaults,
};
use super::errors::ConfigErrors;
use super::file_context::{FileContext, request_path};
use super::template_app::app;
use super::template_database::database;
use super::template_hooks::hooks;
use super::toml_table::{TomlFile, TomlTable};
use super::units::format_duration;
use crate::instance::{RateLimits, TemplateName};
use crate::template::{DEFAULT_TEMPLATE, PoolSizes, ReadyCheck, Template, revision};

const PATH_RULE: &str = "write a path that begins with a slash, such as \"/health\"";
const TEXT_RULE: &str = "write a text in quotes that is not empty";
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Returns all templates of a file in its order, and all errors in it.
pub(super) fn read(text: &str, context: &FileContext<'_>) -> (Vec<Template>, ConfigErrors) {
    let file = TomlFile::new(context.file, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // The parser guesses what an invalid file means; errors that follow from the guess would mislead.
        for error in errors {
            let problem = error.message().replace('\n', " ");
            file.report(error.span(), "", problem, "write TOML (https://toml.io)");
        }
        return (Vec::new(), file.into_errors());
    }
    let mut root = TomlTable::root(&file, &document);
    let mut found = Vec::new();
    let templates = root.table("templates").map(|table| table.tables()).unwrap_or_default();
    if templates.is_empty() {
        root.report("templates", "the file describes no template", "write a table [templates.NAME]");
    }
    for (name, mut table) in templates {
        found.extend(template(name, &mut table, context));
        table.finish();
    }
    root.finish();
    (found, file.into_errors())
}

fn template(name: &str, table: &mut TomlTable<'_>, context: &FileContext<'_>) -> Option<Template> {
    let name =
        TemplateName::new(name).map_err(|e| table.report("", "the name cannot be used", e.to_string())).ok();
    let app = app(table, context);
    let (ready, recheck_interval) = ready(table);
    let warm_up = table.texts("warm_up", "write a list of paths, each with a slash first", request_path);
    let warm_up: Vec<String> = warm_up.unwrap_or_default().into_iter().map(str::to_owned).collect();
    let is_container = context.has_containers == Some(true) || table.has("image");
    let has_database = table.has("database");
    let hooks = hooks(table, context, is_container, has_database);
    let database = database(table, context, &hooks, app.as_ref());
    let title = table.text("title", TEXT_RULE, one_line).map(str::to_owned);
    let description = table.text("description", "write a text in quotes on one line", |text| {
        (!text.contains(char::is_control)).then(|| text.trim().to_owned())
    });
    let admin_path = table.text("admin_path", PATH_RULE, request_path).map(str::to_owned);
    let (ttl, max_ttl) = (table.duration("ttl", MIN_TTL), table.duration("max_ttl", MIN_TTL));
    let (lease_times, conflict) = context.defaults.lease_times.with(ttl, max_ttl);
    if let Some(conflict) = conflict {
        let (value, limit) = (format_duration(conflict.value), format_duration(conflict.limit));
        let problem = format!("{value} is longer than max_ttl, which is {limit}");
        table.report(conflict.key, problem, "shorten it or raise max_ttl");
    }
    let silence = table.duration("silence", SECOND).unwrap_or(DEFAULT_SILENCE);
    let pool = pool(table, context);
    let rate_limit = rate_limit(table, context.defaults.rate_limit);
    let (name, app) = (name?, app?);
    let default_admin_path =
        || if name.as_str() == DEFAULT_TEMPLATE { context.admin_path } else { "/" }.to_owned();
    Some(Template {
        title: title.unwrap_or_else(|| name.to_string()),
        description: description.unwrap_or_default(),
        revision: revision(&app, &ready, &warm_up, &hooks, database.as_ref()),
        app: Arc::new(app),
        ready,
        recheck_interval,
        warm_up,
        hooks,
        database,
        admin_path: admin_path.unwrap_or_else(default_admin_path),
        pool,
        ttl: lease_times.ttl,
        max_ttl: lease_times.max_ttl,
        rate_limit,
        silence,
        name,
    })
}

fn one_line(text: &str) -> Option<&str> {
    let text = text.trim();
    (!text.is_empty() && !text.contains(char::is_control)).then_some(text)
}

/// Returns the ready check, and the time between two requests to an instance that waits for a visitor.
fn ready(table: &mut TomlTable<'_>) -> (ReadyCheck, Duration) {
    let ReadyCheck { path, status, body, interval, timeout, .. } = ReadyCheck::default();
    let Some(mut table) = table.table("ready") else {
        let check = ReadyCheck { path, status, body, interval, timeout, yields_to_image: true };
        return (check, DEFAULT_RECHECK_INTERVAL);
    };
    let yields_to_image = ["path", "status", "body"].into_iter().all(|key| !table.has(key));
    let ready = ReadyCheck {
        path: table.text("path", PATH_RULE, request_path).map_or(path, str::to_owned),
        status: table.number("status", 200, 599).map_or(status, |n| n as u16),
        body: table.text("body", TEXT_RULE, |text| (!text.is_empty()).then(|| text.to_owned())).or(body),
        interval: table.duration("interval", MILLISECOND).unwrap_or(interval),
        timeout: table.duration("timeout", MILLISECOND).unwrap_or(timeout),
        yields_to_image,
    };
    let recheck_interval = table.duration("recheck_interval", MIN_RECHECK_INTERVAL);
    table.finish();
    (ready, recheck_interval.unwrap_or(DEFAULT_RECHECK_INTERVAL))
}

fn pool(table: &mut TomlTable<'_>, context: &FileContext<'_>) -> PoolSizes {
    let base = context.defaults.pool;
    let sizes = table.table("pool").map(|mut table| {
        let mut size = |key, min| table.number(key, min, MAX_INSTANCES).map(|n| n as usize);
        let overrides = PoolOverrides {
            target: size("target", 0),
            min: size("min", 0),
            concurrency: size("concurrency", 1),
            max: table.number_or_word("max", &PoolMax::rule("\"auto\""), PoolMax::read),
            replenish_threshold: table.decimal("replenish_threshold", 0.0, 1.0),
            replenish_interval: table.duration("replenish_interval", MIN_REPLENISH_INTERVAL),
            max_idle_age: table.duration("max_idle_age", MIN_MAX_IDLE_AGE),
        };
        if overrides.max == Some(PoolMax::Auto) && context.has_containers == Some(false) {
            let remedy = "write a number, or serve with CONTAINER_MODE=containerd";
            table.report("max", AUTO_NEEDS_CONTAINERS, remedy);
        }
        let (pool, conflicts) = overrides.over(base);
        for c in conflicts {
            let problem = format!("{} is more than {}, which is {}", c.value, c.limit_key, c.limit);
            table.report(c.key, problem, format!("lower it or raise {}", c.limit_key));
        }
        table.finish();
        pool
    });
    sizes.unwrap_or(base)
}

fn rate_limit(table: &mut TomlTable<'_>, base: RateDefaults) -> RateLimits {
    let Some(mut table) = table.table("rate_limit") else { return base.limits() };
    let mut limit = |key| table.number(key, 0, u64::from(u32::MAX)).map(|n| n as u32);
    let rates = RateDefaults {
        hourly: limit("hourly").unwrap_or(base.hourly),
        daily: limit("daily").unwrap_or(base.daily),
        concurrent: limit("concurrent").or(base.concurrent),
    };
    table.finish();
    rates.limits()
}
