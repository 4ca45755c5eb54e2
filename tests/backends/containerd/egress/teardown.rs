//! The networks of instances with egress after these stop, or after their server ends.

use std::time::Duration;

use try_it_now::instance::NodeId;
use try_it_now::runtime::containerd::clean_network;
use try_it_now::runtime::{CleanScope, RuntimeError};
use try_it_now::template::egress::Ipv4Network;

use super::super::REVISION;
use super::virtual_network::{PRIVATE, SITE, VirtualNetwork};
use super::*;
use crate::support::user_namespaces;

/// Links that a server makes ahead.
const SPARE_LINKS: usize = 4;

#[test]
fn a_stop_leaves_nothing_and_its_address_is_not_reused_at_once() {
    VirtualNetwork::run_test(|net| {
        let before = net.state();
        net.with_server(async |runtime| {
            let (first, endpoint) = start_cold(&runtime, &probe(Egress::Internet)).await;
            let used = source_address(&runtime, endpoint).await;
            assert_ne!(net.state(), before);
            with_timeout(runtime.stop(&first)).await.unwrap();
            assert!(
                !net.run("nft list ruleset").contains("table"),
                "the table is removed with the last instance"
            );
            for _ in 0..5 {
                let (id, endpoint) = start_cold(&runtime, &probe(Egress::Internet)).await;
                assert_ne!(source_address(&runtime, endpoint).await, used);
                with_timeout(runtime.stop(&id)).await.unwrap();
            }
        });
        net.wait_for_state(&before);
    });
}

#[test]
fn after_a_crash_running_instances_are_adopted_and_the_rest_is_removed() {
    VirtualNetwork::run_test(|net| {
        net.set_hosts(&[("allowed.test", SITE)]);
        let before = net.state();
        let at_site = format!("{SITE}:80");
        let (free, listed, dead) = net.with_server(async |runtime| {
            let free = start_cold(&runtime, &probe(Egress::Internet)).await;
            let listed = start_cold(&runtime, &probe(listed_egress(&["allowed.test:80"]))).await;
            let dead = start_cold(&runtime, &probe(Egress::Internet)).await;
            for (_, endpoint) in [&free, &listed, &dead] {
                assert_reaches(&runtime, *endpoint, &at_site).await;
            }
            (free, listed, dead)
        });
        // No server is running when this instance ends.
        net.kill(&dead.0);
        let between = net.run("nft list ruleset");
        assert!(between.contains("chain outward"), "{between}");

        net.with_server(async |runtime| {
            let mut found = runtime.list().await.unwrap();
            found.sort();
            let mut expected = [free.0.clone(), listed.0.clone()];
            expected.sort();
            assert_eq!(found, expected);
            for (_, endpoint) in [&free, &listed] {
                assert_reaches(&runtime, *endpoint, &at_site).await;
                assert_does_not_reach(&runtime, *endpoint, &format!("{}:80", PRIVATE[0])).await;
            }
            assert_reaches(&runtime, free.1, &format!("{SITE}:443")).await;
            assert_does_not_reach(&runtime, listed.1, &format!("{SITE}:443")).await;
            // An address in use is not assigned again.
            let taken = [source_address(&runtime, free.1).await, source_address(&runtime, listed.1).await];
            let (newcomer, endpoint) = start_cold(&runtime, &probe(Egress::Internet)).await;
            assert!(!taken.contains(&source_address(&runtime, endpoint).await));
            for id in [&free.0, &listed.0, &newcomer] {
                with_timeout(runtime.stop(id)).await.unwrap();
            }
        });
        net.wait_for_state(&before);
    });
}

#[test]
fn two_servers_of_one_host_use_separate_addresses() {
    VirtualNetwork::run_test(|net| {
        let Some(mut other) = super::super::TestNode::new() else { return };
        // The range is so small that both servers choose the same addresses.
        let range = Ipv4Network::containing("10.213.0.0".parse().unwrap(), 27);
        other.settings.egress =
            try_it_now::template::egress::EgressSettings { range, ..net.test_node.settings.egress.clone() };
        let mut net = net;
        net.test_node.settings.egress.range = range;
        net.with_server(async |one| {
            let two = other.open().await;
            let (mut addresses, mut started) = (Vec::new(), Vec::new());
            for runtime in [&one, &two, &one, &two] {
                let (id, endpoint) = start_cold(runtime, &probe(Egress::Internet)).await;
                addresses.push(source_address(runtime, endpoint).await);
                started.push((runtime, id, endpoint));
            }
            addresses.sort();
            addresses.dedup();
            assert_eq!(addresses.len(), 4);
            for (runtime, _, endpoint) in &started {
                for address in &addresses {
                    assert_does_not_reach(*runtime, *endpoint, &format!("{address}:8081")).await;
                }
            }
            // The firewall table of one server is independent of that of the other.
            with_timeout(one.stop(&started[0].1)).await.unwrap();
            with_timeout(one.stop(&started[2].1)).await.unwrap();
            assert_reaches(&two, started[1].2, &format!("{SITE}:80")).await;
            with_timeout(two.stop(&started[1].1)).await.unwrap();
            with_timeout(two.stop(&started[3].1)).await.unwrap();
        });
    });
}

#[test]
fn restored_instances_have_addresses_of_their_own() {
    VirtualNetwork::run_test(|net| {
        net.with_server(async |runtime| {
            let app = probe(Egress::Internet);
            let (id, endpoint) = start_cold(&runtime, &app).await;
            let baked_at = source_address(&runtime, endpoint).await;
            with_timeout(runtime.bake(&id, REVISION, &app)).await.unwrap();
            let mut addresses = vec![baked_at];
            for _ in 0..2 {
                let (_, started) = start(&runtime, &app).await;
                assert_eq!(started.method, StartMethod::Restored);
                assert_reaches(&runtime, started.endpoint, &format!("{SITE}:80")).await;
                assert_eq!(send_command(&runtime, started.endpoint, "name anything.test").await, SITE);
                assert_does_not_reach(&runtime, started.endpoint, &format!("{}:80", PRIVATE[0])).await;
                addresses.push(source_address(&runtime, started.endpoint).await);
            }
            addresses.dedup();
            assert_eq!(addresses.len(), 3, "{addresses:?}");
        });
    });
}

#[test]
fn cleaning_removes_the_networks_of_the_nodes_that_it_is_for() {
    VirtualNetwork::run_test(|mut net| {
        // No refresh restores what is cleaned: the command is for hosts whose servers are stopped.
        net.test_node.settings.egress.refresh_interval = Duration::from_secs(3600);
        let before = net.state();
        net.with_server(async |runtime| {
            let (id, _) = start_cold(&runtime, &probe(Egress::Internet)).await;
            // A link in a user namespace is made with the instance.
            let spare = if user_namespaces::are_in_use() { 0 } else { SPARE_LINKS };
            wait_until("the server has all its links", async || {
                let links = net.run("ip -o link").matches("alias try-it-now").count();
                (links == 1 + spare).then_some(())
            })
            .await;
            let of_another = CleanScope::Nodes(vec![NodeId::random()]);
            assert_eq!(clean_network(&of_another).await.unwrap(), 0);
            assert_ne!(net.state(), before);
            let own = CleanScope::Nodes(vec![net.test_node.settings.node.clone()]);
            assert!(clean_network(&own).await.unwrap() >= 2, "a link and a table");
            assert_eq!(net.state(), before);
            assert_eq!(clean_network(&CleanScope::All).await.unwrap(), 0);
            with_timeout(runtime.stop(&id)).await.unwrap();
        });
    });
}

#[test]
fn an_address_range_in_use_is_reported() {
    VirtualNetwork::run_test(|net| {
        net.run("ip route add 10.213.7.0/24 dev up0");
        net.with_server(async |runtime| {
            let request = super::super::start_request(&probe(Egress::Internet));
            let error = with_timeout(runtime.start(&request)).await.unwrap_err();
            assert!(matches!(&error, RuntimeError::Start(why) if why.contains("EGRESS_RANGE")), "{error}");
            // A sealed instance does not need the range.
            let (_, sealed) = start_cold(&runtime, &probe(Egress::Sealed)).await;
            assert_does_not_reach(&runtime, sealed, &format!("{SITE}:80")).await;
        });
    });
}
