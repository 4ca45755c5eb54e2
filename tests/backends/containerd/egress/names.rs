//! Names that instances with a list of destinations resolve, and those that they do not.

use std::time::Duration;

use super::virtual_network::{OTHER_SITE, RESOLVER, SITE, VirtualNetwork};
use super::*;

#[test]
fn an_instance_with_a_list_resolves_no_other_name() {
    VirtualNetwork::run_test(|mut net| {
        net.test_node.settings.egress.refresh_interval = Duration::from_secs(1);
        net.set_hosts(&[("allowed.test", OTHER_SITE), ("neighbour.test", SITE)]);
        let (hostile, other) = (listed_egress(&["allowed.test:80"]), listed_egress(&["neighbour.test:80"]));
        let mut instances = net.with_server(async |runtime| {
            let (_, good) = start_cold(&runtime, &probe(other)).await;
            let instances = start_cold_and_restored(&runtime, &probe(hostile), 2).await;
            for (_, instance) in &instances {
                assert_names(&runtime, *instance).await;
                // Neither the name server of the internet nor a neighbour's answers.
                for closed in [format!("{RESOLVER}:53"), format!("{OTHER_SITE}:53")] {
                    assert_does_not_reach(&runtime, *instance, &closed).await;
                }
                // A flood of questions stops no answer to another instance, nor for ever to this one.
                assert_eq!(send_command(&runtime, *instance, "udp 127.0.0.53:53/1").await, "sent");
                assert_eq!(send_command(&runtime, good, "name neighbour.test").await, SITE);
                wait_until("it resolves names again", async || {
                    let answer = send_command(&runtime, *instance, "name allowed.test").await;
                    (answer == OTHER_SITE).then_some(())
                })
                .await;
            }
            instances
        });
        // The next server adopts them.
        net.with_server(async |runtime| {
            for (_, instance) in &mut instances {
                wait_until("names resolve after a restart", async || {
                    let answer = send_command(&runtime, *instance, "name allowed.test").await;
                    (answer == OTHER_SITE).then_some(())
                })
                .await;
                assert_names(&runtime, *instance).await;
            }
        });
        assert_eq!(net.dns_questions(), 0, "no question left the host");
    });
}

async fn assert_names(runtime: &dyn Runtime, instance: Endpoint) {
    assert_eq!(send_command(runtime, instance, "name allowed.test").await, OTHER_SITE);
    assert_eq!(send_command(runtime, instance, "name ALLOWED.test").await, OTHER_SITE);
    for foreign in
        ["secret.attacker.example", "secret.allowed.test", "test", "neighbour.test", "localhost.allowed.test"]
    {
        assert_eq!(send_command(runtime, instance, &format!("name {foreign}")).await, foreign);
    }
    let servers = send_command(runtime, instance, "read /etc/resolv.conf").await;
    assert_eq!(servers, "nameserver 127.0.0.53|");
}
