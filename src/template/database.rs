//! The database of each instance, where a template wants one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::hooks::TemplateText;

/// The placeholders for an instance's own database, in the hooks and the variables of a template that has databases: a
/// host, a port, the database's name, and the user and the password to connect with.
pub const DATABASE_PLACEHOLDERS: [&str; 5] =
    ["DATABASE_HOST", "DATABASE_PORT", "DATABASE_NAME", "DATABASE_USER", "DATABASE_PASSWORD"];

/// What the database of each instance is made from. Its JSON is part of the template's
/// [revision](super::Template::revision).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Database {
    /// A dump in SQL that each new database has the tables of; `None` means that it is empty. The file is read when a
    /// database is made, so a changed file has an effect on instances that are made from then on.
    pub seed: Option<PathBuf>,
    /// The most connections that the instance's user may have at a time.
    pub max_connections: u32,
    /// Environment variables of the app, with the [placeholders](DATABASE_PLACEHOLDERS) of its own database.
    pub env: BTreeMap<String, TemplateText>,
}
