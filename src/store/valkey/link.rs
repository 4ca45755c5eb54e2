//! The way to Valkey: one connection that all calls share, made anew when it breaks.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo,
    Pipeline, RedisConnectionInfo, RedisError, RedisFuture, RedisResult, ScriptInvocation, ServerErrorKind,
    TlsMode, Value,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::{Address, Mode, Settings};
use crate::store::StoreError;

/// With less time left nobody begins to connect.
const TOO_LATE: Duration = Duration::from_millis(20);

/// How often the keys are looked for on a cluster that is being changed, with waits of milliseconds up to this many: so
/// that there is an answer within the deadline.
const CLUSTER_RETRIES: u32 = 8;
const CLUSTER_RETRY_WAIT: u64 = 100;

/// A connection, whatever is at its other end.
#[derive(Clone)]
pub(super) enum Wire {
    /// One server.
    Single(MultiplexedConnection),
    /// A cluster: whichever of its servers has our keys.
    Cluster(ClusterConnection),
}

/// What can be asked.
pub(super) enum Call<'a> {
    Command(Cmd),
    /// One that Valkey may have forgotten since: then it is told again.
    Script(ScriptInvocation<'a>),
}

impl Call<'_> {
    async fn on<T: FromRedisValue>(&self, wire: &mut Wire) -> RedisResult<T> {
        match self {
            Call::Command(command) => command.query_async(wire).await,
            Call::Script(script) => script.invoke_async(wire).await,
        }
    }
}

/// The shared connection.
pub(super) struct Link {
    settings: Settings,
    current: ArcSwapOption<Wire>,
    /// Held by whoever makes a new one, so that a thousand callers do not make a thousand.
    connecting: Mutex<()>,
}

impl Link {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, current: ArcSwapOption::empty(), connecting: Mutex::default() }
    }

    /// Makes a call on the shared connection within the deadline, and once more, on a new connection, when the first one
    /// breaks: the old one may have been broken for long, which only using it tells. Calls can stand that, see the
    /// prelude of the scripts.
    pub(super) async fn call<T: FromRedisValue>(&self, call: &Call<'_>) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.settings.deadline;
        let mut again = true;
        loop {
            let wire = match timeout_at(deadline, self.wire(deadline)).await {
                Ok(wire) => wire.map_err(unavailable)?,
                Err(_) => return Err(StoreError::Unavailable("it cannot be reached in time".to_owned())),
            };
            match timeout_at(deadline, call.on(&mut (*wire).clone())).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => {
                    if broken(&error) {
                        self.give_up(&wire);
                        if std::mem::take(&mut again) {
                            continue;
                        }
                    }
                    return Err(unavailable(error));
                }
                Err(_) => {
                    // What is silent now may be half open; the next call does not wait behind this one.
                    self.give_up(&wire);
                    return Err(StoreError::Unavailable("it does not answer in time".to_owned()));
                }
            }
        }
    }

    async fn wire(&self, deadline: Instant) -> RedisResult<Arc<Wire>> {
        if let Some(wire) = self.current.load_full() {
            return Ok(wire);
        }
        let _one_connects = self.connecting.lock().await;
        if let Some(wire) = self.current.load_full() {
            return Ok(wire);
        }
        // All who waited for one that was never made give up at about the same time; each would else begin another.
        if Instant::now() + TOO_LATE >= deadline {
            return Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)));
        }
        let wire = Arc::new(self.connect(self.settings.deadline).await?);
        self.current.store(Some(wire.clone()));
        Ok(wire)
    }

    /// Forgets a connection, unless that was done and there is a newer one.
    fn give_up(&self, wire: &Arc<Wire>) {
        self.current.compare_and_swap(wire, None);
    }

    /// A new connection. `longest` is the time of one answer on it.
    pub(super) async fn connect(&self, longest: Duration) -> RedisResult<Wire> {
        let Settings { addresses, mode, username, password, db, tls, deadline, .. } = &self.settings;
        let mut login = RedisConnectionInfo::default();
        if let Some(username) = username {
            login = login.set_username(username);
        }
        if let Some(password) = password {
            login = login.set_password(password);
        }
        let addresses = addresses.iter().map(|address| at(address, *tls));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(*deadline))
            .set_response_timeout(Some(longest));
        match mode {
            Mode::Single => {
                let first = addresses.take(1).next().expect("the configuration names at least one");
                let info = first.into_connection_info()?.set_redis_settings(login.set_db(*db));
                let client = Client::open(info)?;
                let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
                Ok(Wire::Single(connection))
            }
            Mode::Sentinel { service } => {
                let mut builder = SentinelClientBuilder::new(addresses, service, SentinelServerType::Master)?
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
                Ok(Wire::Single(client.get_async_connection_with_config(&config).await?))
            }
            Mode::Cluster => {
                let mut builder = ClusterClientBuilder::new(addresses)
                    .retries(CLUSTER_RETRIES)
                    .max_retry_wait(CLUSTER_RETRY_WAIT)
                    .connection_timeout(*deadline)
                    .response_timeout(longest);
                if let Some(username) = username {
                    builder = builder.username(username);
                }
                if let Some(password) = password {
                    builder = builder.password(password);
                }
                if *tls {
                    builder = builder.tls(TlsMode::Secure);
                }
                Ok(Wire::Cluster(builder.build()?.get_async_connection().await?))
            }
        }
    }
}

/// Whether another connection might do better: this one ended, or leads to a server that no longer has the say.
fn broken(error: &RedisError) -> bool {
    use ServerErrorKind::{MasterDown, ReadOnly};
    error.is_unrecoverable_error()
        || error.is_io_error()
        || matches!(error.kind(), ErrorKind::Server(ReadOnly | MasterDown))
}

fn at(address: &Address, tls: bool) -> ConnectionAddr {
    match address.clone() {
        Address::Tcp(host, port) if tls => {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        }
        Address::Tcp(host, port) => ConnectionAddr::Tcp(host, port),
        Address::Unix(path) => ConnectionAddr::Unix(path),
    }
}

pub(super) fn unavailable(error: RedisError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

impl ConnectionLike for Wire {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Wire::Single(wire) => wire.req_packed_command(command),
            Wire::Cluster(wire) => wire.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Wire::Single(wire) => wire.req_packed_commands(commands, offset, count),
            Wire::Cluster(wire) => wire.req_packed_commands(commands, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Wire::Single(wire) => wire.get_db(),
            Wire::Cluster(wire) => wire.get_db(),
        }
    }
}
