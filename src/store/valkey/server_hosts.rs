//! The hosts of all servers of a Valkey, which Sentinels and clusters know better than the settings.

use std::collections::{BTreeSet, HashMap};

use redis::{RedisResult, Value, cmd, from_redis_value};

use super::settings::{Address, Mode, Settings};
use super::transport::Transport;

/// Returns the hosts of all servers: the configured ones, and those that the Sentinels or the cluster name.
///
/// # Errors
/// No server could be asked. With one server none is asked.
pub async fn server_hosts(settings: &Settings) -> RedisResult<BTreeSet<String>> {
    let configured = settings.addresses.iter().filter_map(|address| match address {
        Address::Tcp(host, _) => Some(host.clone()),
        Address::Unix(_) => None,
    });
    let mut hosts: BTreeSet<String> = configured.collect();
    match &settings.mode {
        Mode::Single => {}
        Mode::Sentinel { service } => hosts.extend(hosts_of_sentinels(settings, service).await?),
        Mode::Cluster => hosts.extend(hosts_of_cluster(settings).await?),
    }
    hosts.retain(|host| !host.is_empty());
    Ok(hosts)
}

/// Asks the first Sentinel that answers.
async fn hosts_of_sentinels(settings: &Settings, service: &str) -> RedisResult<Vec<String>> {
    let mut outcome = Ok(Vec::new());
    for address in &settings.addresses {
        outcome = hosts_of_sentinel(address, settings, service).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn hosts_of_sentinel(
    address: &Address,
    settings: &Settings,
    service: &str,
) -> RedisResult<Vec<String>> {
    // The login is that of the servers; Sentinels have none.
    let settings = Settings { username: None, password: None, db: 0, ..settings.clone() };
    let mut sentinel = Transport::connect_to(address, &settings, settings.call_timeout).await?;
    let (primary, _): (String, u16) =
        cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service).query_async(&mut sentinel).await?;
    let mut hosts = vec![primary];
    for what in ["REPLICAS", "SENTINELS"] {
        let servers: Vec<HashMap<String, String>> =
            cmd("SENTINEL").arg(what).arg(service).query_async(&mut sentinel).await?;
        hosts.extend(servers.into_iter().filter_map(|mut fields| fields.remove("ip")));
    }
    Ok(hosts)
}

async fn hosts_of_cluster(settings: &Settings) -> RedisResult<Vec<String>> {
    let mut cluster = Transport::connect(settings, settings.call_timeout).await?;
    let slots: Vec<Vec<Value>> = cmd("CLUSTER").arg("SLOTS").query_async(&mut cluster).await?;
    // After the first and the last slot of a range come its servers, each with its host first.
    let servers = slots.into_iter().flat_map(|range| range.into_iter().skip(2)).filter_map(|server| {
        let Value::Array(fields) = server else { return None };
        from_redis_value::<Option<String>>(fields.into_iter().next()?).ok()?
    });
    Ok(servers.collect())
}
