//! Instances with egress, in a virtual network that belongs to the test.

mod database;
mod names;
mod rates;
mod reachability;
mod teardown;
mod virtual_network;
mod walls;

use std::net::Ipv4Addr;

use try_it_now::instance::{Endpoint, InstanceId};
use try_it_now::runtime::{Runtime, StartMethod, StartRequest};
use try_it_now::template::{App, Egress};

use super::{php, send_command, start, wait_until, with_timeout};

/// Connects to the destination in the one line that each visitor sends, and answers with the result.
pub(super) const PROBE_APP: &str = r#"
$listener = stream_socket_server("tcp://0.0.0.0:" . getenv("PORT"));
while (true) {
    $visitor = @stream_socket_accept($listener, 3600);
    if (!$visitor) continue; // woken by a restore
    [$verb, $where] = explode(" ", trim(fgets($visitor)) . " ");
    $answer = "?";
    if ($verb == "ask") {
        $there = @stream_socket_client("tcp://$where", $code, $why, 3);
        $answer = "unreachable: $why";
        if ($there) {
            stream_set_timeout($there, 3);
            $answer = strtok(stream_socket_get_name($there, false), ":") . " seen as " . trim(fgets($there));
            fclose($there);
        }
    } elseif ($verb == "name") {
        $answer = gethostbyname($where);
    } elseif ($verb == "udp") {
        [$to, $seconds] = explode("/", $where);
        $socket = stream_socket_client("udp://$to");
        for ($end = microtime(true) + $seconds; microtime(true) < $end; ) {
            for ($i = 0; $i < 100; $i++) @fwrite($socket, "x");
        }
        $answer = "sent";
    } elseif ($verb == "upload") {
        $there = stream_socket_client("tcp://$where", $code, $why, 3);
        stream_set_timeout($there, 10);
        fwrite($there, str_repeat("x", 200000));
        stream_socket_shutdown($there, STREAM_SHUT_WR);
        $answer = trim(fgets($there) ?: "no answer");
    } elseif ($verb == "spray") {
        [$to, $seconds] = explode("/", $where);
        for ($end = microtime(true) + $seconds; microtime(true) < $end; ) {
            for ($i = 0; $i < 10; $i++) @fwrite(stream_socket_client("udp://$to:" . rand(1024, 60000)), "x");
        }
        $answer = "sent";
    } elseif ($verb == "connects") {
        [$to, $seconds] = explode("/", $where);
        $flags = STREAM_CLIENT_CONNECT | STREAM_CLIENT_ASYNC_CONNECT;
        for ($end = microtime(true) + $seconds; microtime(true) < $end; ) {
            for ($i = 0; $i < 10; $i++) @stream_socket_client("tcp://$to:" . rand(1024, 60000), $code, $why, 0, $flags);
        }
        $answer = "sent";
    } elseif ($verb == "run") {
        $answer = str_replace("\n", "|", trim(shell_exec("$where 2>&1") ?? "nothing"));
    } elseif ($verb == "read") {
        $answer = str_replace("\n", "|", file_get_contents($where));
    }
    fwrite($visitor, "$answer\n");
    fclose($visitor);
}
"#;

pub(super) fn probe(egress: Egress) -> App {
    App { egress, ..php(PROBE_APP) }
}

fn listed_egress(destinations: &[&str]) -> Egress {
    Egress::Only(destinations.iter().map(|test_node| test_node.parse().unwrap()).collect())
}

/// Starts an app cold and returns its id and endpoint.
async fn start_cold(runtime: &dyn Runtime, app: &App) -> (InstanceId, Endpoint) {
    let (id, started) = start(runtime, app).await;
    assert_eq!(started.method, StartMethod::Cold);
    (id, started.endpoint)
}

/// Starts two instances of an app, one cold and one restored from a checkpoint. No two apps of a test have the same
/// revision.
async fn start_cold_and_restored(
    runtime: &dyn Runtime,
    app: &App,
    revision: u64,
) -> [(InstanceId, Endpoint); 2] {
    start_both(runtime, app, revision, None).await
}

/// Starts two instances of an app that has a database with this many connections, one cold and one restored from a
/// checkpoint.
pub(super) async fn start_both(
    runtime: &dyn Runtime,
    app: &App,
    revision: u64,
    database_connections: Option<u32>,
) -> [(InstanceId, Endpoint); 2] {
    let start = async |expected: StartMethod| {
        let request = StartRequest { revision, database_connections, ..super::start_request(app) };
        let started = with_timeout(runtime.start(&request)).await.unwrap();
        assert_eq!(started.method, expected);
        (request.id, started.endpoint)
    };
    let cold = start(StartMethod::Cold).await;
    // The instance that is baked ends.
    let (id, endpoint) = start(StartMethod::Cold).await;
    // The app serves.
    send_command(runtime, endpoint, "read /etc/hostname").await;
    with_timeout(runtime.bake(&id, revision, app)).await.unwrap();
    [cold, start(StartMethod::Restored).await]
}

async fn assert_reaches(runtime: &dyn Runtime, probe: Endpoint, destination: &str) {
    let answer = send_command(runtime, probe, &format!("ask {destination}")).await;
    assert!(
        answer.ends_with(&format!("seen as {}", virtual_network::HOST_ADDRESS)),
        "{destination}: {answer}"
    );
}

pub(super) async fn assert_does_not_reach(runtime: &dyn Runtime, probe: Endpoint, destination: &str) {
    let answer = send_command(runtime, probe, &format!("ask {destination}")).await;
    assert!(answer.starts_with("unreachable"), "{destination}: {answer}");
}

/// Returns the address that an instance sends from.
async fn source_address(runtime: &dyn Runtime, probe: Endpoint) -> Ipv4Addr {
    let answer = send_command(runtime, probe, &format!("ask {}:80", virtual_network::SITE)).await;
    let address = answer.split(' ').next().unwrap();
    address.parse().unwrap_or_else(|_| panic!("{answer}"))
}
