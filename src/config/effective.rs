//! The configuration in effect: each value, and where it comes from. Secrets are not in it.

use serde::Serialize;
use toml::de::{DeTable, DeValue};

use super::env::{Environment, Setting, SettingKind};
use super::load::{Config, settings};
use super::units::format_duration;
use crate::template::Template;

/// What is shown in place of a secret.
const SECRET: &str = "(secret)";

/// One value of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EffectiveValue {
    /// The variable, or the path of the key in a file of templates.
    pub name: String,
    /// The value as an operator would write it. `None` if there is none, or if it depends on the host or on others.
    pub value: Option<String>,
    /// `environment`, `default`, `file`, or the variable that a template takes it from.
    pub source: String,
}

/// A key of a template.
struct TemplateKey {
    path: &'static str,
    /// The variable that is its default; empty where there is none.
    variable: &'static str,
    /// Returns its value as an operator would write it; `None` where it has none.
    value: fn(&Template) -> Option<String>,
}

const fn key(
    path: &'static str,
    variable: &'static str,
    value: fn(&Template) -> Option<String>,
) -> TemplateKey {
    TemplateKey { path, variable, value }
}

/// The main keys of a template.
const TEMPLATE_KEYS: [TemplateKey; 17] = [
    key("image", "CONTAINER_IMAGE", |t| t.app.image.as_ref().map(ToString::to_string)),
    key("command", "", |t| {
        let command = &t.app.command;
        (!command.is_empty()).then(|| serde_json::Value::from(command.as_slice()).to_string())
    }),
    key("port", "", |t| (t.app.port != 0).then(|| t.app.port.to_string())),
    key("ready.path", "", |t| Some(t.ready.path.clone())),
    key("ready.timeout", "", |t| Some(format_duration(t.ready.timeout))),
    key("ttl", "POOL_DEFAULT_TTL", |t| Some(format_duration(t.ttl))),
    key("max_ttl", "POOL_MAX_TTL", |t| Some(format_duration(t.max_ttl))),
    key("silence", "", |t| Some(format_duration(t.silence))),
    key("pool.target", "POOL_TARGET_SIZE", |t| Some(t.pool.target.to_string())),
    key("pool.min", "POOL_MIN_SIZE", |t| Some(t.pool.min.to_string())),
    key("pool.max", "POOL_MAX_SIZE", |t| {
        Some(if t.pool.limited_by_memory { "auto".to_owned() } else { t.pool.max.to_string() })
    }),
    key("pool.replenish_threshold", "POOL_REPLENISH_THRESHOLD", |t| {
        Some(t.pool.replenish_threshold.to_string())
    }),
    key("pool.replenish_interval", "POOL_REPLENISH_INTERVAL", |t| {
        Some(format_duration(t.pool.replenish_interval))
    }),
    key("pool.concurrency", "", |t| Some(t.pool.concurrency.to_string())),
    key("rate_limit.hourly", "RATE_LIMIT_HOURLY", |t| Some(t.rate_limit.hourly.to_string())),
    key("rate_limit.daily", "RATE_LIMIT_DAILY", |t| Some(t.rate_limit.daily.to_string())),
    key("rate_limit.concurrent", "RATE_LIMIT_CONCURRENT", |t| Some(t.rate_limit.concurrent.to_string())),
];

/// Returns all variables, then the main keys of each template. `config` was loaded from `environment` and the text of a
/// file.
pub(super) fn effective(
    environment: &Environment,
    file: Option<&str>,
    config: &Config,
) -> Vec<EffectiveValue> {
    let mut values: Vec<EffectiveValue> =
        settings().into_iter().map(|setting| variable(environment, setting)).collect();
    let table = file.and_then(|text| DeTable::parse(text).ok()).map(toml::Spanned::into_inner);
    for template in config.templates.iter() {
        for TemplateKey { path, variable, value } in TEMPLATE_KEYS {
            let Some(value) = value(template) else { continue };
            let path: Vec<&str> =
                ["templates", template.name.as_str()].into_iter().chain(path.split('.')).collect();
            let source = if table.as_ref().is_some_and(|table| has(table, &path)) {
                "file"
            } else if set_value(environment, variable).is_some() {
                variable
            } else {
                "default"
            };
            let name = path.join(".");
            values.push(EffectiveValue { name, value: Some(value), source: source.to_owned() });
        }
    }
    values
}

/// Returns the value of a variable that is set to one.
fn set_value<'e>(environment: &'e Environment, variable: &str) -> Option<&'e str> {
    environment.get(variable).map(|value| value.trim()).filter(|value| !value.is_empty())
}

fn variable(environment: &Environment, setting: Setting) -> EffectiveValue {
    let Setting { name, default, kind, may_be_empty } = setting;
    let (value, source) = match set_value(environment, name) {
        Some(_) if kind == SettingKind::Secret => (Some(SECRET.to_owned()), "environment"),
        Some(value) => (Some(value.to_owned()), "environment"),
        None if may_be_empty && environment.contains_key(name) => (Some(String::new()), "environment"),
        None => (default, "default"),
    };
    EffectiveValue { name: name.to_owned(), value, source: source.to_owned() }
}

/// Returns whether a table has a key at this path.
fn has(table: &DeTable<'_>, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    match table.get(*first).map(toml::Spanned::get_ref) {
        Some(DeValue::Table(inner)) if !rest.is_empty() => has(inner, rest),
        found => found.is_some() && rest.is_empty(),
    }
}

/// Returns the values as lines of three columns: name, value, source.
pub fn effective_text(values: &[EffectiveValue]) -> String {
    let width = |column: fn(&EffectiveValue) -> &str| {
        values.iter().map(|value| column(value).chars().count()).filter(|width| *width <= MAX_WIDTH).max()
    };
    let names = width(|value| &value.name).unwrap_or_default();
    let texts = width(|value| value.value.as_deref().unwrap_or_default()).unwrap_or_default();
    let line = |value: &EffectiveValue| {
        format!("{:names$}  {:texts$}  {}\n", value.name, value.value.as_deref().unwrap_or("-"), value.source)
    };
    values.iter().map(line).collect()
}

/// Returns all variables as lines of a file of variables, commented out: with its default where a variable has one that
/// does not depend on the host.
pub fn env_file() -> String {
    let head = "# Variables of try-it-now, with their defaults. Remove the sign before a line and change its value.\n";
    let lines = settings().into_iter().map(|setting| {
        let Setting { name, default, .. } = setting;
        format!("#{name}={}\n", default.unwrap_or_default())
    });
    std::iter::once(head.to_owned()).chain(lines).collect()
}

/// Characters of the widest value that the columns have room for.
const MAX_WIDTH: usize = 48;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn load(pairs: &[(&str, &str)], file: Option<&str>) -> Vec<EffectiveValue> {
        let home = [("HOME", "/home/a")];
        let environment: Environment = pairs
            .iter()
            .chain(&home)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let named = file.map(|text| (Path::new("/t.toml"), text));
        let config = Config::load(&environment, named, Path::new("/p")).unwrap();
        effective(&environment, file, &config)
    }

    fn found(values: &[EffectiveValue], name: &str) -> (Option<String>, String) {
        let value = values.iter().find(|value| value.name == name).unwrap_or_else(|| panic!("{name}"));
        (value.value.clone(), value.source.clone())
    }

    #[test]
    fn each_value_says_where_it_comes_from() {
        let values = load(
            &[
                ("SERVER_PORT", "99"),
                ("POOL_TARGET_SIZE", "4"),
                ("POOL_MAX_SIZE", " "),
                ("POOL_MIN_SIZE", "2"),
            ],
            Some("[templates.a]\ncommand = ['x']\nttl = '10m'\n[templates.a.pool]\nmin = 1\n"),
        );
        let expect = |name, value: &str, source: &str| {
            assert_eq!(found(&values, name), (Some(value.to_owned()), source.to_owned()), "{name}");
        };
        expect("SERVER_PORT", "99", "environment");
        expect("SERVER_HOST", "0.0.0.0", "default");
        expect("templates.a.command", "[\"x\"]", "file");
        expect("templates.a.ttl", "10m", "file");
        expect("templates.a.max_ttl", "24h", "default");
        expect("templates.a.pool.target", "4", "POOL_TARGET_SIZE");
        expect("templates.a.pool.min", "1", "file");
        expect("templates.a.pool.max", "20", "default");
        assert_eq!(found(&values, "API_KEY"), (None, "default".to_owned()));
    }

    #[test]
    fn an_empty_value_counts_where_it_has_a_meaning() {
        let empty = load(&[("TRUSTED_PROXIES", ""), ("SERVER_PORT", "")], None);
        assert_eq!(found(&empty, "TRUSTED_PROXIES"), (Some(String::new()), "environment".to_owned()));
        assert_eq!(found(&empty, "SERVER_PORT"), (Some("8080".to_owned()), "default".to_owned()));
        assert_eq!(found(&load(&[], None), "TRUSTED_PROXIES").1, "default");
    }

    #[test]
    fn no_secret_is_shown() {
        let values =
            load(&[("API_KEY", "hush-1"), ("VALKEY_PASSWORD", "hush-2"), ("PS_DB_PASSWORD", "hush-3")], None);
        let text = effective_text(&values) + &serde_json::to_string(&values).unwrap();
        assert!(!text.contains("hush"), "{text}");
        assert_eq!(found(&values, "API_KEY"), (Some(SECRET.to_owned()), "environment".to_owned()));
    }

    #[test]
    fn every_variable_that_is_named_like_a_secret_is_one() {
        let suspects = ["KEY", "SECRET", "PASSWORD", "TOKEN"];
        // The path of a file, and an address in which a password may be.
        let others = ["TLS_KEY"];
        for setting in settings() {
            let is_suspect = suspects.iter().any(|word| setting.name.ends_with(word));
            assert_eq!(
                setting.kind == SettingKind::Secret,
                is_suspect && !others.contains(&setting.name) || setting.name == "NATS_URL",
                "{}",
                setting.name
            );
        }
    }

    #[test]
    fn a_file_of_all_variables_sets_their_defaults() {
        let file = env_file();
        let pairs: Vec<(&str, &str)> = file
            .lines()
            .skip(1)
            .map(|line| line.strip_prefix('#').and_then(|line| line.split_once('=')).expect(line))
            .collect();
        assert_eq!(pairs.len(), settings().len());
        let values =
            load(&pairs.iter().copied().filter(|(_, value)| !value.is_empty()).collect::<Vec<_>>(), None);
        for value in load(&[], None) {
            assert_eq!(found(&values, &value.name).0, value.value, "{}", value.name);
        }
    }

    #[test]
    fn the_text_has_three_columns() {
        let value = |name: &str, value: Option<&str>| EffectiveValue {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            source: "default".to_owned(),
        };
        let text = effective_text(&[value("A", Some("10")), value("LONG", None)]);
        assert_eq!(text, "A     10  default\nLONG  -   default\n");
    }
}
