//! One connection to MariaDB, whose every wait has a deadline.

use std::time::Duration;

use mysql_async::prelude::{FromRow, Queryable, StatementLike};
use mysql_async::{ChangeUserOpts, Conn, DriverError, Error, Opts, OptsBuilder, Params, SslOpts};
use tokio::time::timeout;

use super::settings::{Settings, Tls};
use crate::runtime::DatabaseError;
use crate::template::Secret;

/// Longest time to connect and to log in.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Longest time that a statement waits for another session's lock. MariaDB's own default is a day.
const LOCK_WAIT_SECONDS: u32 = 3;

/// Who connects, and to which database.
pub(super) struct Login<'a> {
    pub(super) user: &'a str,
    pub(super) password: Option<&'a Secret>,
    pub(super) database: Option<&'a str>,
}

/// A connection. It is closed when it is dropped; MariaDB may go on with a statement in progress.
#[derive(Debug)]
pub(super) struct Connection {
    conn: Conn,
    /// Longest time for one statement.
    deadline: Duration,
}

impl Connection {
    /// Connects as the configured user.
    pub(super) async fn open(settings: &Settings) -> Result<Self, DatabaseError> {
        let login = Login { user: &settings.user, password: settings.password.as_ref(), database: None };
        Self::open_as(settings, &login).await
    }

    /// Connects as another user.
    pub(super) async fn open_as(settings: &Settings, login: &Login<'_>) -> Result<Self, DatabaseError> {
        let unreachable = |why: String| DatabaseError::Unreachable { address: settings.address(), why };
        let connecting = async {
            match Conn::new(options(settings, login, settings.tls != Tls::Off)).await {
                Err(Error::Driver(DriverError::NoClientSslFlagFromServer)) if settings.tls == Tls::Prefer => {
                    Conn::new(options(settings, login, false)).await
                }
                other => other,
            }
        };
        let conn = match timeout(CONNECT_DEADLINE, connecting).await {
            Ok(Ok(conn)) => conn,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable(format!("no answer in {CONNECT_DEADLINE:?}"))),
        };
        Ok(Self { conn, deadline: settings.statement_deadline })
    }

    /// Logs in again as the same user, which gives the connection the state of a new one.
    ///
    /// # Errors
    /// The connection is broken or MariaDB refuses: the reason.
    pub(super) async fn log_in_again(&mut self) -> Result<(), String> {
        // A reset (`COM_RESET_CONNECTION`) would keep the database in use.
        match timeout(CONNECT_DEADLINE, self.conn.change_user(ChangeUserOpts::default())).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer in {CONNECT_DEADLINE:?}")),
        }
    }

    /// Runs one statement. `operation` is a verb and its object, for the error.
    pub(super) async fn run(&mut self, operation: &str, statement: &str) -> Result<(), DatabaseError> {
        self.run_bytes(operation, statement.as_bytes()).await
    }

    /// Runs one statement, which need not be UTF-8.
    pub(super) async fn run_bytes(&mut self, operation: &str, statement: &[u8]) -> Result<(), DatabaseError> {
        bounded(self.deadline, operation, self.conn.query_drop(statement)).await
    }

    /// Returns the rows of a query. Each `?` in it stands for one of the parameters.
    pub(super) async fn rows<R>(
        &mut self,
        operation: &str,
        query: impl StatementLike,
        parameters: impl Into<Params> + Send,
    ) -> Result<Vec<R>, DatabaseError>
    where
        R: FromRow + Send + 'static,
    {
        bounded(self.deadline, operation, self.conn.exec(query, parameters.into())).await
    }

    /// Returns the rows of a query that MariaDB cannot prepare.
    pub(super) async fn rows_of_text<R>(
        &mut self,
        operation: &str,
        query: &str,
    ) -> Result<Vec<R>, DatabaseError>
    where
        R: FromRow + Send + 'static,
    {
        bounded(self.deadline, operation, self.conn.query(query)).await
    }

    /// Ends the connection, and waits until MariaDB has noticed.
    pub(super) async fn close(self) {
        // A connection that is broken needs no farewell.
        let _ = timeout(CONNECT_DEADLINE, self.conn.disconnect()).await;
    }
}

async fn bounded<T>(
    deadline: Duration,
    operation: &str,
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<T, DatabaseError> {
    match timeout(deadline, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            Err(DatabaseError::Failed { operation: operation.to_owned(), why: error.to_string() })
        }
        Err(_) => Err(DatabaseError::Late { operation: operation.to_owned() }),
    }
}

fn options(settings: &Settings, login: &Login<'_>, has_tls: bool) -> Opts {
    OptsBuilder::default()
        .ip_or_hostname(settings.host.clone())
        .tcp_port(settings.port)
        .user(Some(login.user))
        .pass(login.password.map(Secret::reveal))
        .db_name(login.database)
        // A socket that the server names could be another server's.
        .prefer_socket(false)
        .stmt_cache_size(0)
        .ssl_opts(has_tls.then(|| tls_options(settings.tls)))
        .setup(vec![format!(
            "SET SESSION lock_wait_timeout={LOCK_WAIT_SECONDS}, innodb_lock_wait_timeout={LOCK_WAIT_SECONDS}"
        )])
        .into()
}

fn tls_options(tls: Tls) -> SslOpts {
    match tls {
        Tls::Verify => {
            let trusted = rustls_native_certs::load_native_certs().certs;
            let roots = trusted.into_iter().map(|root| root.to_vec().into()).collect();
            SslOpts::default().with_disable_built_in_roots(true).with_root_certs(roots)
        }
        // The crate's own roots stay: without any it accepts nothing.
        Tls::Prefer | Tls::Off => SslOpts::default().with_danger_accept_invalid_certs(true),
    }
}
