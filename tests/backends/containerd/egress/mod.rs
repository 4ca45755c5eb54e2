//! Instances with a way out, in a world of the test's own.

mod reachability;
mod teardown;
mod virtual_network;

use std::net::Ipv4Addr;

use try_it_now::instance::{Endpoint, InstanceId};
use try_it_now::runtime::{Runtime, StartMethod};
use try_it_now::template::{App, Egress};

use super::{php, start, tell, until, within};

/// Goes where each visitor's one line says, and tells how it was.
const PROBE: &str = r#"
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
    } elseif ($verb == "read") {
        $answer = str_replace("\n", "|", file_get_contents($where));
    }
    fwrite($visitor, "$answer\n");
    fclose($visitor);
}
"#;

fn probe(egress: Egress) -> App {
    App { egress, ..php(PROBE) }
}

fn only(places: &[&str]) -> Egress {
    Egress::Only(places.iter().map(|place| place.parse().unwrap()).collect())
}

/// Started anew.
async fn begin(runtime: &dyn Runtime, app: &App) -> (InstanceId, Endpoint) {
    let (id, started) = start(runtime, app).await;
    assert_eq!(started.how, StartMethod::Cold);
    (id, started.endpoint)
}

async fn assert_reaches(runtime: &dyn Runtime, probe: Endpoint, there: &str) {
    let answer = tell(runtime, probe, &format!("ask {there}")).await;
    assert!(answer.ends_with(&format!("seen as {}", virtual_network::HOST)), "{there}: {answer}");
}

async fn assert_does_not_reach(runtime: &dyn Runtime, probe: Endpoint, there: &str) {
    let answer = tell(runtime, probe, &format!("ask {there}")).await;
    assert!(answer.starts_with("unreachable"), "{there}: {answer}");
}

/// The address that an instance sends from.
async fn address(runtime: &dyn Runtime, probe: Endpoint) -> Ipv4Addr {
    let answer = tell(runtime, probe, &format!("ask {}:80", virtual_network::SITE)).await;
    let address = answer.split(' ').next().unwrap();
    address.parse().unwrap_or_else(|_| panic!("{answer}"))
}
