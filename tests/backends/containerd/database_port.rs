//! A sealed instance with a database reaches the database server at a port in its own namespace, and nothing else.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use try_it_now::instance::Endpoint;
use try_it_now::runtime::{Runtime, StartMethod, StartRequest, UserNamespaces};
use try_it_now::template::{App, Egress};

use super::egress::{PROBE_APP, assert_does_not_reach, probe, start_both};
use super::{TestNode, php, send_command, start_request, wait_until, with_timeout};

/// Where an app reaches its database, as docs/databases.md says.
pub(super) const ADDRESS: &str = "127.0.0.54:3306";

/// A server that greets each connection and then keeps it open. It ends with the test's process.
pub(super) struct DatabaseServer {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl DatabaseServer {
    pub(super) fn start(address: &str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let (address, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = connections.clone();
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(b"database\n");
                count.fetch_add(1, SeqCst);
                open.push(stream);
            }
        });
        Self { address, connections }
    }

    pub(super) fn address(&self) -> (String, u16) {
        (self.address.ip().to_string(), self.address.port())
    }

    /// Has an instance connect to the port of its database. Returns what the instance gets.
    pub(super) async fn ask(&self, runtime: &dyn Runtime, endpoint: Endpoint) -> String {
        let answer = send_command(runtime, endpoint, &format!("ask {ADDRESS}")).await;
        answer.strip_prefix("127.0.0.1 ").unwrap_or(&answer).to_owned()
    }
}

/// Returns an app that connects to its database before all else, and answers `first` with the outcome.
fn hasty_app() -> App {
    let first = format!(
        "$first = @stream_socket_client('tcp://{ADDRESS}', $code, $why, 3);\n\
         $greeting = $first ? trim(fgets($first)) : $why;\n"
    );
    let code = PROBE_APP.replace("$answer = \"?\";", "$answer = $greeting;");
    assert_ne!(code, PROBE_APP);
    php(&(first + &code))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_instance_reaches_its_database_and_no_other_instance_does() {
    for user_namespaces in [UserNamespaces::Required, UserNamespaces::Off] {
        let Some(mut node) = TestNode::new() else { return };
        let server = DatabaseServer::start("127.0.0.1:0");
        node.settings.user_namespaces = user_namespaces;
        node.settings.database_server = Some(server.address());
        let runtime = node.open().await;
        let app = probe(Egress::Sealed);
        let both = start_both(&runtime, &app, 1, Some(4)).await;
        for (_, endpoint) in &both {
            assert_eq!(server.ask(&runtime, *endpoint).await, "seen as database", "{user_namespaces:?}");
            let (host, port) = server.address();
            assert_does_not_reach(&runtime, *endpoint, &format!("{host}:{port}")).await;
        }
        let without = with_timeout(runtime.start(&start_request(&app))).await.unwrap();
        assert_does_not_reach(&runtime, without.endpoint, ADDRESS).await;

        // A server that is killed leaves no socket; the next one listens anew.
        drop(runtime);
        let runtime = node.open().await;
        for (id, endpoint) in both {
            assert_eq!(server.ask(&runtime, endpoint).await, "seen as database", "{user_namespaces:?}");
            with_timeout(runtime.stop(&id)).await.unwrap();
            assert_eq!(node.resources_of(id.as_str()), [""; 0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_connects_before_all_else_is_not_refused_and_is_restored_without_that_connection() {
    let Some(mut node) = TestNode::new() else { return };
    let server = DatabaseServer::start("127.0.0.1:0");
    node.settings.database_server = Some(server.address());
    let runtime = node.open().await;
    let [cold, restored] = start_both(&runtime, &hasty_app(), 1, Some(4)).await;
    for (_, endpoint) in [cold, restored] {
        assert_eq!(send_command(&runtime, endpoint, "first").await, "database");
        assert_eq!(server.ask(&runtime, endpoint).await, "seen as database");
    }
    // Two cold starts, and a question by each of two instances: a restored one does not connect by itself.
    assert_eq!(server.connections.load(SeqCst), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_has_one_connection_more_than_it_may_and_gets_the_next_when_one_ends() {
    let Some(mut node) = TestNode::new() else { return };
    let server = DatabaseServer::start("127.0.0.1:0");
    node.settings.database_server = Some(server.address());
    let runtime = node.open().await;
    let flood = format!(
        "for ($i = 0; $i < 50; $i++) {{ $kept[] = stream_socket_client('tcp://{ADDRESS}'); }}\n\
         $answer = 'opened';"
    );
    let code = PROBE_APP.replace(
        "$answer = \"?\";",
        &format!(
            "$answer = \"?\"; if ($verb == 'flood') {{ {flood} }}\n\
         if ($verb == 'close') {{ $kept = array_slice($kept, $where); $answer = 'closed'; }}"
        ),
    );
    let request = StartRequest { database_connections: Some(3), ..start_request(&php(&code)) };
    let started = with_timeout(runtime.start(&request)).await.unwrap();
    assert_eq!(started.method, StartMethod::Cold);
    assert_eq!(send_command(&runtime, started.endpoint, "flood now").await, "opened");
    let at_server = async |count: usize| {
        wait_until(&format!("{count} connections"), async || {
            let seen = server.connections.load(SeqCst);
            assert!(seen <= count, "{seen} of {count}");
            (seen == count).then_some(())
        })
        .await;
    };
    at_server(4).await;
    assert_eq!(send_command(&runtime, started.endpoint, "close 2").await, "closed");
    at_server(6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_server_that_does_not_answer_closes_the_connection_and_harms_no_instance() {
    let Some(mut node) = TestNode::new() else { return };
    // Reserved and released: no process listens there.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    node.settings.database_server = Some((closed.ip().to_string(), closed.port()));
    let runtime = node.open().await;
    let request = StartRequest { database_connections: Some(1), ..start_request(&probe(Egress::Sealed)) };
    let started = with_timeout(runtime.start(&request)).await.unwrap();
    for _ in 0..5 {
        let answer = send_command(&runtime, started.endpoint, &format!("ask {ADDRESS}")).await;
        assert_eq!(answer, "127.0.0.1 seen as");
    }
}
