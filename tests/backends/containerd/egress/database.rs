//! The database of an instance with egress.

use super::virtual_network::{HOST_ADDRESS, SITE, VirtualNetwork};
use super::*;
use crate::containerd::database_port::{ADDRESS, DatabaseServer};

#[test]
fn an_instance_with_egress_reaches_its_database_through_its_port_and_the_host_not_at_all() {
    VirtualNetwork::run_test(|mut net| {
        // On an address of the host that no instance may reach.
        let server = DatabaseServer::start(&format!("{HOST_ADDRESS}:0"));
        net.test_node.settings.database_server = Some(server.address());
        net.with_server(async |runtime| {
            let (internet, list) = (probe(Egress::Internet), probe(listed_egress(&[&format!("{SITE}:80")])));
            for (revision, app) in [(1, internet), (2, list)] {
                for (id, endpoint) in start_both(&runtime, &app, revision, Some(4)).await {
                    assert_eq!(server.ask(&runtime, endpoint).await, "seen as database");
                    assert_reaches(&runtime, endpoint, &format!("{SITE}:80")).await;
                    let direct = format!("{HOST_ADDRESS}:{}", server.address().1);
                    assert_does_not_reach(&runtime, endpoint, &direct).await;
                    with_timeout(runtime.stop(&id)).await.unwrap();
                }
            }
            let (_, without) = start_cold(&runtime, &probe(Egress::Internet)).await;
            assert_does_not_reach(&runtime, without, ADDRESS).await;
        });
    });
}
