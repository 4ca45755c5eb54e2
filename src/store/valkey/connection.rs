//! The way to Valkey: one connection that all calls share, made anew when it breaks.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo,
    Pipeline, RedisConnectionInfo, RedisError, RedisFuture, RedisResult, ScriptInvocation, ServerErrorKind,
    TlsMode, Value, cmd,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

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
pub(super) enum Transport {
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

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// It cannot be reached, or does not answer.
    Unavailable(StoreError),
    /// Another process answers than the one that was vouched for, or one that was not told what it is asked.
    NotTold,
}

/// A connection, and which process with which past is at its other end: `None` on a cluster, where that changes without
/// notice.
struct Line {
    wire: Transport,
    process: Option<String>,
}

impl Call<'_> {
    async fn on<T: FromRedisValue>(&self, wire: &mut Transport) -> RedisResult<T> {
        match self {
            Call::Command(command) => command.query_async(wire).await,
            Call::Script(script) => script.invoke_async(wire).await,
        }
    }
}

/// The shared connection.
pub(super) struct Connection {
    settings: Settings,
    current: ArcSwapOption<Line>,
    /// Held by whoever makes a new one, so that a thousand callers do not make a thousand.
    connecting: Mutex<()>,
}

impl Connection {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, current: ArcSwapOption::empty(), connecting: Mutex::default() }
    }

    /// Makes a call on the shared connection within the deadline.
    pub(super) async fn call<T: FromRedisValue>(&self, call: &Call<'_>) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.settings.deadline;
        match self.call_of(call, None, deadline).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Unavailable(error)) => Err(error),
            Err(Failure::NotTold) => Err(StoreError::Unavailable("it forgot what it was told".to_owned())),
        }
    }

    /// The same, of no other process than that one, as far as the connection can tell. Makes the call once more, on a new
    /// connection, when the first one breaks: the old one may have been broken for long, which only using it tells. Calls
    /// can stand that, see the prelude of the scripts.
    pub(super) async fn call_of<T: FromRedisValue>(
        &self,
        call: &Call<'_>,
        process: Option<&str>,
        deadline: Instant,
    ) -> Result<T, Failure> {
        let mut again = true;
        let unavailable = |error| Failure::Unavailable(unavailable(error));
        loop {
            let line = match timeout_at(deadline, self.line(deadline)).await {
                Ok(line) => line.map_err(unavailable)?,
                Err(_) => return Err(Failure::Unavailable(too_far())),
            };
            if process.is_some_and(|process| line.process.as_deref().is_some_and(|it| it != process)) {
                // It may be one to the process before, which nobody has used since.
                self.give_up(&line);
                if std::mem::take(&mut again) {
                    continue;
                }
                return Err(Failure::NotTold);
            }
            match timeout_at(deadline, call.on(&mut line.wire.clone())).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => {
                    if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) {
                        return Err(Failure::NotTold);
                    }
                    if broken(&error) {
                        self.give_up(&line);
                        if std::mem::take(&mut again) {
                            continue;
                        }
                    }
                    return Err(unavailable(error));
                }
                Err(_) => {
                    // What is silent now may be half open; the next call does not wait behind this one.
                    self.give_up(&line);
                    let silent = StoreError::Unavailable("it does not answer in time".to_owned());
                    return Err(Failure::Unavailable(silent));
                }
            }
        }
    }

    async fn line(&self, deadline: Instant) -> RedisResult<Arc<Line>> {
        if let Some(line) = self.current.load_full() {
            return Ok(line);
        }
        let _one_connects = self.connecting.lock().await;
        if let Some(line) = self.current.load_full() {
            return Ok(line);
        }
        // All who waited for one that was never made give up at about the same time; each would else begin another.
        if Instant::now() + TOO_LATE >= deadline {
            return Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)));
        }
        let mut wire = self.connect(self.settings.deadline).await?;
        let process = match self.settings.mode {
            Mode::Cluster => None,
            Mode::Single | Mode::Sentinel { .. } => Some(process(&mut wire).await?),
        };
        let line = Arc::new(Line { wire, process });
        self.current.store(Some(line.clone()));
        Ok(line)
    }

    /// A connection within the deadline.
    pub(super) async fn in_time(
        &self,
        connecting: impl Future<Output = RedisResult<Transport>>,
    ) -> Result<Transport, StoreError> {
        match timeout(self.settings.deadline, connecting).await {
            Ok(wire) => wire.map_err(unavailable),
            Err(_) => Err(too_far()),
        }
    }

    /// Forgets a connection, unless that was done and there is a newer one.
    fn give_up(&self, line: &Arc<Line>) {
        self.current.compare_and_swap(line, None);
    }

    /// A connection to the very server that has our keys, which ends with it: what is asked on it is asked of one process.
    pub(super) async fn direct(&self) -> RedisResult<Transport> {
        let mut wire = self.connect(self.settings.deadline).await?;
        if let Transport::Single(_) = wire {
            return Ok(wire);
        }
        let slot: i64 =
            cmd("CLUSTER").arg("KEYSLOT").arg(&self.settings.prefix).query_async(&mut wire).await?;
        let slots: Vec<Vec<Value>> = cmd("CLUSTER").arg("SLOTS").query_async(&mut wire).await?;
        let lost = || RedisError::from((ErrorKind::ClusterConnectionNotFound, "no server has our keys"));
        for range in slots {
            let [Value::Int(first), Value::Int(last), Value::Array(server), ..] = range.as_slice() else {
                continue;
            };
            if !(*first..=*last).contains(&slot) {
                continue;
            }
            let [host, port, ..] = server.as_slice() else { return Err(lost()) };
            let host: Option<String> = redis::from_redis_value(host.clone())?;
            let port: u16 = redis::from_redis_value(port.clone())?;
            // A server that does not know its own name is where it was asked.
            let asked = self.settings.addresses.iter().find_map(|address| match address {
                Address::Tcp(host, _) => Some(host.clone()),
                Address::Unix(_) => None,
            });
            let host = host.filter(|host| !host.is_empty()).or(asked).ok_or_else(lost)?;
            return self.single(&Address::Tcp(host, port), self.settings.deadline).await;
        }
        Err(lost())
    }

    fn login(&self) -> RedisConnectionInfo {
        let Settings { username, password, db, .. } = &self.settings;
        let mut login = RedisConnectionInfo::default().set_db(*db);
        if let Some(username) = username {
            login = login.set_username(username);
        }
        if let Some(password) = password {
            login = login.set_password(password);
        }
        login
    }

    fn config(&self, longest: Duration) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.settings.deadline))
            .set_response_timeout(Some(longest))
    }

    async fn single(&self, address: &Address, longest: Duration) -> RedisResult<Transport> {
        let info = at(address, self.settings.tls).into_connection_info()?;
        let info = info.set_redis_settings(self.login()).set_tcp_settings(at_once());
        let client = Client::open(info)?;
        Ok(Transport::Single(
            client.get_multiplexed_async_connection_with_config(&self.config(longest)).await?,
        ))
    }

    /// A new connection. `longest` is the time of one answer on it.
    pub(super) async fn connect(&self, longest: Duration) -> RedisResult<Transport> {
        let Settings { addresses, mode, username, password, db, tls, deadline, .. } = &self.settings;
        let first = addresses.first().expect("the configuration names at least one");
        let addresses = addresses.iter().map(|address| at(address, *tls));
        match mode {
            Mode::Single => self.single(first, longest).await,
            Mode::Sentinel { service } => {
                let mut builder = SentinelClientBuilder::new(addresses, service, SentinelServerType::Master)?
                    .set_client_to_redis_tcp_settings(at_once())
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
                Ok(Transport::Single(client.get_async_connection_with_config(&self.config(longest)).await?))
            }
            Mode::Cluster => {
                let mut builder = ClusterClientBuilder::new(addresses)
                    .retries(CLUSTER_RETRIES)
                    .max_retry_wait(CLUSTER_RETRY_WAIT)
                    .tcp_settings(at_once())
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
                Ok(Transport::Cluster(builder.build()?.get_async_connection().await?))
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

/// Which process is at the other end, and with which past: a server that became another's replica and then master again is
/// the same process, and may have lost something in between.
pub(super) async fn process(wire: &mut Transport) -> RedisResult<String> {
    let told: String = cmd("INFO").arg("server").arg("replication").query_async(wire).await?;
    let field =
        |name: &str| told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    match (field("role"), field("run_id"), field("master_replid")) {
        (Some("master"), Some(process), Some(past)) => Ok(format!("{process}:{past}")),
        _ => {
            Err(RedisError::from((ErrorKind::Server(ServerErrorKind::ReadOnly), "it does not have the say")))
        }
    }
}

fn too_far() -> StoreError {
    StoreError::Unavailable("it cannot be reached in time".to_owned())
}

/// A call does not wait until the one before it is answered, as Nagle's algorithm would have it.
fn at_once() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
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

impl ConnectionLike for Transport {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Transport::Single(wire) => wire.req_packed_command(command),
            Transport::Cluster(wire) => wire.req_packed_command(command),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Transport::Single(wire) => wire.req_packed_commands(commands, offset, count),
            Transport::Cluster(wire) => wire.req_packed_commands(commands, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Transport::Single(wire) => wire.get_db(),
            Transport::Cluster(wire) => wire.get_db(),
        }
    }
}
