//! The variables of parts that this build lacks: queues other than the embedded one, databases for
//! instances. Their values are checked all the same, so that a mistake in them shows today.

use super::env::Variables;

/// What the original service was told and this build has no use for yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Later {
    /// The stream of provisioning tasks in NATS.
    pub nats_stream_name: String,
    /// How many tasks of that stream one server works on at a time.
    pub nats_worker_count: usize,
    /// The port of the database server for instances.
    pub ps_db_port: u16,
}

impl Later {
    pub(super) fn read(env: &mut Variables<'_>, warnings: &mut Vec<String>) -> Self {
        // Not shown: such an address may hold a password.
        if env.text("NATS_URL").is_some() {
            env.wrong("NATS_URL", "this build has only the embedded queue yet", "unset it");
        }
        if env.text("CADDY_ADMIN_URL").is_some() {
            warnings.push("CADDY_ADMIN_URL is ignored: the proxy is part of the server".to_owned());
        }
        let database = ["PS_DB_HOST", "PS_DB_PORT", "PS_DB_NAME", "PS_DB_USER", "PS_DB_PASSWORD"];
        let set: Vec<&str> = database.into_iter().filter(|name| env.text(name).is_some()).collect();
        if !set.is_empty() {
            warnings.push(format!("{} ignored: databases for instances are not built yet", set.join(", ")));
        }
        Self {
            nats_stream_name: env
                .get("NATS_STREAM_NAME", stream_name)
                .unwrap_or_else(|| "PROVISIONING".to_owned()),
            nats_worker_count: env.number("NATS_WORKER_COUNT", 1, 10_000).map_or(3, |n| n as usize),
            ps_db_port: env.number("PS_DB_PORT", 1, 65_535).map_or(3306, |n| n as u16),
        }
    }
}

fn stream_name(text: &str) -> Result<String, &'static str> {
    let fine = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if fine { Ok(text.to_owned()) } else { Err("write letters, digits, dashes and underscores") }
}
