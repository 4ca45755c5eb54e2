//! The database that each instance of a template gets.

use std::path::Path;

use super::file_context::{FileContext, utf8};
use super::template_app::variable_problem;
use super::template_hooks::{Placeholders, parse_text};
use super::toml_table::TomlTable;
use crate::template::hooks::{FileContent, HookCalls, Hooks, TemplateText};
use crate::template::{App, Database};

const SEED_RULE: &str = "write the path of a dump in SQL, relative to this file";
const DEFAULT_MAX_CONNECTIONS: u32 = 20;
const MOST_CONNECTIONS: u64 = 10_000;

/// Reads what the database of each instance is made from, and checks that the app can use it. `hooks` and `app` are those
/// of the same template.
pub(super) fn database(
    template: &mut TomlTable<'_>,
    context: &FileContext<'_>,
    hooks: &Hooks,
    app: Option<&App>,
) -> Option<Database> {
    let mut table = template.table("database")?;
    let folder = context.file.parent().unwrap_or(Path::new(""));
    let seed = table.text("seed", SEED_RULE, |text| {
        let path = folder.join(text);
        (!text.is_empty() && utf8(&path).is_some()).then_some(path)
    });
    let max_connections = table.number("max_connections", 1, MOST_CONNECTIONS).map(|number| number as u32);
    let placeholders = Placeholders { random: hooks.random.clone(), has_database: true };
    let texts = table.pairs("env", |name, value| match parse_text(value, &placeholders) {
        _ if app.is_some_and(|app| app.env.contains_key(name)) => Some("the template's env sets it too"),
        Err(_) => Some("it has an unknown placeholder"),
        Ok(_) => variable_problem(name, value),
    });
    let parsed = |(name, text): (String, String)| Some((name, parse_text(&text, &placeholders).ok()?));
    let env: std::collections::BTreeMap<String, TemplateText> =
        texts.into_iter().filter_map(parsed).collect();
    if !context.has_database {
        let remedy = "set PS_DB_HOST, PS_DB_USER and PS_DB_PASSWORD, or remove it";
        table.report("", "no MariaDB is configured", remedy);
    }
    // Instances of containerd reach their database without a network.
    if context.has_engine && app.is_some_and(|app| app.image.is_some() && app.egress.is_sealed()) {
        let remedy =
            "write egress = \"internet\" into the template, or the server's address where that is possible";
        table.report("", "a sealed instance reaches no MariaDB", remedy);
    }
    let is_restored =
        context.may_restore && app.is_some_and(|app| app.image.is_some() && app.runtime.is_none());
    if is_restored && !is_in_hooks(hooks) {
        // The memory of a restored instance has the variables of the one that was baked.
        let remedy = "write {DATABASE_PASSWORD} into a file by a hook, or set CRIU_ENABLED=false";
        table.report("", "restored instances do not get their own database", remedy);
    } else if !is_in_hooks(hooks) && !env.values().any(has_database_placeholder) {
        let remedy =
            "write env = { DB_PASSWORD = \"{DATABASE_PASSWORD}\" }, with the names that the app reads";
        table.report("", "the app does not get the database", remedy);
    }
    table.finish();
    Some(Database { seed, max_connections: max_connections.unwrap_or(DEFAULT_MAX_CONNECTIONS), env })
}

/// Returns whether a hook of each instance, restored or not, has a placeholder of its database.
fn is_in_hooks(hooks: &Hooks) -> bool {
    let HookCalls { http, exec } = &hooks.calls;
    let files = hooks.files.iter().filter_map(|file| match &file.content {
        FileContent::Text(text) => Some(text),
        FileContent::CopyOf { .. } => None,
    });
    let requests = http.iter().flat_map(|hook| hook.headers.values().chain([&hook.path, &hook.body]));
    let commands = exec.iter().flat_map(|hook| &hook.command);
    files.chain(requests).chain(commands).any(has_database_placeholder)
}

fn has_database_placeholder(text: &TemplateText) -> bool {
    text.source().contains("{DATABASE_")
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Environment};
    use super::*;

    const APP: &str = "[templates.a]\ncommand = ['x']\nenv = { TAKEN = '' }\n";
    const IMAGE: &str = "[templates.a]\nimage = 'x'\negress = 'internet'\n";
    const SERVER: [(&str, &str); 2] = [("PS_DB_HOST", "db"), ("PS_DB_USER", "u")];

    fn load(variables: &[(&str, &str)], text: &str) -> Result<Database, String> {
        let all = variables.iter().chain(&[("HOME", "/home/a")]);
        let env: Environment = all.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let config = Config::load(&env, Some((Path::new("/etc/tin/apps.toml"), text)), Path::new("/p"));
        let config = config.map_err(|errors| errors.to_string())?;
        Ok(config.templates.get("a").unwrap().database.clone().unwrap())
    }

    #[test]
    fn every_key_reaches_its_setting() {
        let text = format!(
            "{APP}[templates.a.database]\nseed = 'seed.sql'\nmax_connections = 3\n\
             env = {{ DB = '{{DATABASE_HOST}}:{{DATABASE_PORT}} {{INSTANCE_ID}}' }}\n"
        );
        let database = load(&SERVER, &text).unwrap();
        assert_eq!(database.seed.as_deref(), Some(Path::new("/etc/tin/seed.sql")));
        assert_eq!(database.max_connections, 3);
        assert_eq!(database.env["DB"].source(), "{DATABASE_HOST}:{DATABASE_PORT} {INSTANCE_ID}");
        let default = format!("{APP}[templates.a.database]\nenv.DB = '{{DATABASE_NAME}}'\n");
        let Database { seed, max_connections, .. } = load(&SERVER, &default).unwrap();
        assert_eq!((seed, max_connections), (None, DEFAULT_MAX_CONNECTIONS));
    }

    #[test]
    fn a_template_with_a_database_needs_a_mariadb() {
        let text = format!("{APP}[templates.a.database]\nenv.DB = '{{DATABASE_NAME}}'\n");
        let refused = load(&[], &text).unwrap_err();
        assert!(refused.contains("no MariaDB is configured; set PS_DB_HOST"), "{refused}");
    }

    #[test]
    fn a_database_that_the_app_never_learns_of_is_refused() {
        for nothing in ["", "env.DB = 'mine'\n"] {
            let refused = load(&SERVER, &format!("{APP}[templates.a.database]\n{nothing}")).unwrap_err();
            assert!(refused.contains("the app does not get the database"), "{refused}");
        }
    }

    #[test]
    fn invalid_values_are_refused() {
        for (line, problem) in [
            ("env.DB = '{DATABASE}'", "it has an unknown placeholder"),
            ("env.TAKEN = '{DATABASE_NAME}'", "the template's env sets it too"),
            ("env.PORT = '{DATABASE_PORT}'", "every instance gets its own value"),
            ("env.'A=B' = '{DATABASE_PORT}'", "it is no name of a variable"),
            ("max_connections = 0", "max_connections"),
            ("seed = ''", "seed"),
            ("size = 1", "size"),
        ] {
            let refused = load(&SERVER, &format!("{APP}[templates.a.database]\n{line}\n")).unwrap_err();
            assert!(refused.contains(problem), "{line}: {refused}");
        }
    }

    #[test]
    fn the_placeholders_are_known_only_where_there_is_a_database() {
        let hook = "[templates.a.hooks]\ncredentials = '{DATABASE_NAME}'\n";
        assert!(load(&SERVER, &format!("{APP}{hook}")).unwrap_err().contains("no known placeholder"));
        let both = format!("{APP}{hook}[templates.a.database]\nenv.DB = '{{DATABASE_NAME}}'\n");
        assert!(load(&SERVER, &both).is_ok());
        let taken = format!(
            "{APP}[templates.a.hooks]\nrandom.DATABASE_PASSWORD = 16\n[templates.a.database]\nenv.DB = '{{DATABASE_NAME}}'\n"
        );
        assert!(load(&SERVER, &taken).unwrap_err().contains("the name cannot be used"));
    }

    #[test]
    fn a_restored_instance_needs_a_hook_and_a_container_a_network() {
        let docker = [SERVER[0], SERVER[1], ("CONTAINER_MODE", "docker")];
        let containerd = [SERVER[0], SERVER[1], ("CONTAINER_MODE", "containerd")];
        let never = [SERVER[0], SERVER[1], ("CONTAINER_MODE", "containerd"), ("CRIU_ENABLED", "false")];
        let env = format!("{IMAGE}[templates.a.database]\nenv.DB = '{{DATABASE_NAME}}'\n");
        assert!(load(&docker, &env).is_ok() && load(&never, &env).is_ok());
        let refused = load(&containerd, &env).unwrap_err();
        assert!(refused.contains("restored instances do not get their own database"), "{refused}");
        let file = format!("{env}[templates.a.hooks.files]\n'/run/db' = '{{DATABASE_PASSWORD}}'\n");
        assert!(load(&containerd, &file).is_ok());
        let sealed = env.replace("egress = 'internet'\n", "");
        assert!(load(&never, &sealed).is_ok());
        assert!(load(&docker, &sealed).unwrap_err().contains("a sealed instance reaches no MariaDB"));
    }
}
