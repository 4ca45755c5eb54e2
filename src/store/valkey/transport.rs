//! One connection to Valkey in each of the three modes, and which process is at its other end.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, RedisFuture, RedisResult, ServerErrorKind, TlsMode, Value, cmd,
};

use super::settings::{Address, Mode, Settings};

/// How often a call looks for the keys again on a cluster that is being changed, with waits of at most
/// [`MAX_CLUSTER_RETRY_WAIT_MILLIS`]. Together they fit into the call timeout.
const CLUSTER_RETRIES: u32 = 8;
const MAX_CLUSTER_RETRY_WAIT_MILLIS: u64 = 100;

/// An open connection.
#[derive(Clone)]
pub(super) enum Transport {
    /// To one server.
    Single(MultiplexedConnection),
    /// To a cluster, in which any server may have the keys.
    Cluster(ClusterConnection),
}

impl Transport {
    /// Opens a connection. `answer_timeout` is the longest time of one answer on it.
    ///
    /// # Errors
    /// No server can be reached, or the login was refused.
    pub(super) async fn connect(settings: &Settings, answer_timeout: Duration) -> RedisResult<Self> {
        let Settings { addresses, mode, username, password, db, tls, call_timeout, .. } = settings;
        let first = addresses.first().expect("the configuration names at least one");
        let addresses = addresses.iter().map(|address| redis_address(address, *tls));
        match mode {
            Mode::Single => Self::connect_to(first, settings, answer_timeout).await,
            Mode::Sentinel { service } => {
                let mut builder = SentinelClientBuilder::new(addresses, service, SentinelServerType::Master)?
                    .set_client_to_redis_tcp_settings(without_delay())
                    .set_client_to_redis_db(*db);
                if *tls {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_sentinel_tls_mode(TlsMode::Secure);
                }
                if let Some(username) = username {
                    builder = builder.set_client_to_redis_username(username);
                }
                if let Some(password) = password {
                    builder = builder.set_client_to_redis_password(password);
                }
                let mut client = builder.build()?;
                let config = connection_config(settings, answer_timeout);
                Ok(Self::Single(client.get_async_connection_with_config(&config).await?))
            }
            Mode::Cluster => {
                let mut builder = ClusterClientBuilder::new(addresses)
                    .retries(CLUSTER_RETRIES)
                    .max_retry_wait(MAX_CLUSTER_RETRY_WAIT_MILLIS)
                    .tcp_settings(without_delay())
                    .connection_timeout(*call_timeout)
                    .response_timeout(answer_timeout);
                if let Some(username) = username {
                    builder = builder.username(username);
                }
                if let Some(password) = password {
                    builder = builder.password(password);
                }
                if *tls {
                    builder = builder.tls(TlsMode::Secure);
                }
                Ok(Self::Cluster(builder.build()?.get_async_connection().await?))
            }
        }
    }

    /// Opens a connection to the very server that has the keys. All calls on it reach one process, and it ends with
    /// that process.
    ///
    /// # Errors
    /// No server can be reached, the login was refused, or no server of the cluster has the keys.
    pub(super) async fn connect_to_key_owner(settings: &Settings) -> RedisResult<Self> {
        let mut transport = Self::connect(settings, settings.call_timeout).await?;
        if let Self::Single(_) = transport {
            return Ok(transport);
        }
        let slot: i64 =
            cmd("CLUSTER").arg("KEYSLOT").arg(&settings.prefix).query_async(&mut transport).await?;
        let slots: Vec<Vec<Value>> = cmd("CLUSTER").arg("SLOTS").query_async(&mut transport).await?;
        let no_owner = || {
            RedisError::from((ErrorKind::ClusterConnectionNotFound, "no server of the cluster has the keys"))
        };
        for range in slots {
            let [Value::Int(first), Value::Int(last), Value::Array(server), ..] = range.as_slice() else {
                continue;
            };
            if !(*first..=*last).contains(&slot) {
                continue;
            }
            let [host, port, ..] = server.as_slice() else { return Err(no_owner()) };
            let host: Option<String> = redis::from_redis_value(host.clone())?;
            let port: u16 = redis::from_redis_value(port.clone())?;
            // A server that does not know its own host name is at the host that was asked.
            let asked = settings.addresses.iter().find_map(|address| match address {
                Address::Tcp(host, _) => Some(host.clone()),
                Address::Unix(_) => None,
            });
            let host = host.filter(|host| !host.is_empty()).or(asked).ok_or_else(no_owner)?;
            return Self::connect_to(&Address::Tcp(host, port), settings, settings.call_timeout).await;
        }
        Err(no_owner())
    }

    /// Opens a connection to the server at an address, whatever it is.
    ///
    /// # Errors
    /// It cannot be reached, or the login was refused.
    pub(super) async fn connect_to(
        address: &Address,
        settings: &Settings,
        answer_timeout: Duration,
    ) -> RedisResult<Self> {
        let info = redis_address(address, settings.tls).into_connection_info()?;
        let info = info.set_redis_settings(login(settings)).set_tcp_settings(without_delay());
        let config = connection_config(settings, answer_timeout);
        let client = Client::open(info)?;
        Ok(Self::Single(client.get_multiplexed_async_connection_with_config(&config).await?))
    }

    /// Returns the id of the process at the other end and of its replication history.
    ///
    /// A server that became another's replica and then primary again is the same process, and may have lost data in
    /// between; its history then has another id.
    ///
    /// # Errors
    /// The connection broke, or the server is not a primary.
    pub(super) async fn process(&mut self) -> RedisResult<String> {
        let info: String = cmd("INFO").arg("server").arg("replication").query_async(self).await?;
        let field = |name: &str| {
            info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        match (field("role"), field("run_id"), field("master_replid")) {
            (Some("master"), Some(process), Some(history)) => Ok(format!("{process}:{history}")),
            _ => Err(RedisError::from((
                ErrorKind::Server(ServerErrorKind::ReadOnly),
                "the server is not a primary",
            ))),
        }
    }
}

fn login(settings: &Settings) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default().set_db(settings.db);
    if let Some(username) = &settings.username {
        login = login.set_username(username);
    }
    if let Some(password) = &settings.password {
        login = login.set_password(password);
    }
    login
}

fn connection_config(settings: &Settings, answer_timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(settings.call_timeout))
        .set_response_timeout(Some(answer_timeout))
}

/// Without Nagle's algorithm, with which a call would wait for the answer to the call before it.
fn without_delay() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn redis_address(address: &Address, tls: bool) -> ConnectionAddr {
    match address.clone() {
        Address::Tcp(host, port) if tls => {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        }
        Address::Tcp(host, port) => ConnectionAddr::Tcp(host, port),
        Address::Unix(path) => ConnectionAddr::Unix(path),
    }
}

impl ConnectionLike for Transport {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Transport::Single(connection) => connection.req_packed_command(command),
            Transport::Cluster(connection) => connection.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Transport::Single(connection) => connection.req_packed_commands(commands, offset, count),
            Transport::Cluster(connection) => connection.req_packed_commands(commands, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Transport::Single(connection) => connection.get_db(),
            Transport::Cluster(connection) => connection.get_db(),
        }
    }
}
