//! What holds without the firewall, and the hosts that no instance reaches.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tokio::sync::watch;

use super::super::compiled_program;
use super::virtual_network::{
    HOST_ADDRESS, HOST_INTERNAL_ADDRESS, OTHER_SITE, PRIVATE, RESOLVER, SITE, THIRD_SITE, VirtualNetwork,
};
use super::*;

/// Long enough that no refresh restores what a test has removed.
const NEVER: Duration = Duration::from_secs(3600);

fn hosts(hosts: &[&str]) -> BTreeSet<String> {
    hosts.iter().map(|host| (*host).to_owned()).collect()
}

/// Asserts that an instance reaches a destination without the firewall, so that its routes alone decide.
async fn assert_reaches_bare(runtime: &dyn Runtime, probe: Endpoint, destination: &str) {
    let answer = send_command(runtime, probe, &format!("ask {destination}")).await;
    assert!(answer.contains("seen as 10.213."), "{destination}: {answer}");
}

#[test]
fn a_flushed_firewall_opens_nothing() {
    VirtualNetwork::run_test(|mut net| {
        net.test_node.settings.egress.refresh_interval = NEVER;
        net.test_node.settings.forbidden_hosts = watch::channel(hosts(&[THIRD_SITE])).1;
        let host = TcpListener::bind("0.0.0.0:0").unwrap();
        let at_host = host.local_addr().unwrap().port();
        net.with_server(async |runtime| {
            let open = start_cold_and_restored(&runtime, &probe(Egress::Internet), 1).await;
            let list = listed_egress(&[&format!("{SITE}:443"), &format!("{THIRD_SITE}:80")]);
            let listed = start_cold_and_restored(&runtime, &probe(list), 2).await;
            let mut neighbours = Vec::new();
            for (_, instance) in &open {
                neighbours.push(source_address(&runtime, *instance).await);
            }
            net.flush_firewall();
            for (_, instance) in &open {
                assert_reaches_bare(&runtime, *instance, &format!("{SITE}:80")).await;
            }
            for (_, instance) in &listed {
                assert_reaches_bare(&runtime, *instance, &format!("{SITE}:443")).await;
                for closed in [
                    format!("{SITE}:80"),
                    format!("{OTHER_SITE}:443"),
                    format!("{OTHER_SITE}:80"),
                    format!("{RESOLVER}:53"),
                ] {
                    assert_does_not_reach(&runtime, *instance, &closed).await;
                }
            }
            for (number, (_, instance)) in open.iter().chain(&listed).enumerate() {
                for private in PRIVATE {
                    assert_does_not_reach(&runtime, *instance, &format!("{private}:80")).await;
                }
                for port in [25, 465, 587, 53] {
                    assert_does_not_reach(&runtime, *instance, &format!("{SITE}:{port}")).await;
                }
                assert_does_not_reach(&runtime, *instance, &format!("{THIRD_SITE}:80")).await;
                for host in [HOST_ADDRESS, HOST_INTERNAL_ADDRESS] {
                    assert_does_not_reach(&runtime, *instance, &format!("{host}:{at_host}")).await;
                }
                for (other, address) in neighbours.iter().enumerate() {
                    let gateway = Ipv4Addr::from_bits(address.to_bits() - 1);
                    assert_does_not_reach(&runtime, *instance, &format!("{gateway}:{at_host}")).await;
                    if other != number {
                        assert_does_not_reach(&runtime, *instance, &format!("{address}:8080")).await;
                    }
                }
            }
        });
        host.set_nonblocking(true).unwrap();
        assert!(host.accept().is_err(), "no instance reached this host");
    });
}

#[test]
fn without_a_firewall_the_host_drops_senders_that_are_not_behind_their_link() {
    VirtualNetwork::run_test(|mut net| {
        net.test_node.settings.egress.refresh_interval = NEVER;
        let sink = net.in_internet(|_| std::net::UdpSocket::bind((SITE, 9000)).unwrap());
        sink.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        net.with_server(async |runtime| {
            let (id, endpoint) = start_cold(&runtime, &probe(Egress::Internet)).await;
            let own = source_address(&runtime, endpoint).await;
            net.flush_firewall();
            let pid = net.pid(&id);
            for spoofed in ["10.213.255.99", "203.0.113.77"] {
                net.run_in_network_of(pid, &format!("ip address add {spoofed}/32 dev lo"));
            }
            // With rights that no instance has.
            for from in ["10.213.255.99", "203.0.113.77", &own.to_string()] {
                let from: Ipv4Addr = from.parse().unwrap();
                net.in_namespace_of(pid, move || {
                    let socket = std::net::UdpSocket::bind((from, 0)).unwrap();
                    socket.send_to(from.to_string().as_bytes(), (SITE, 9000)).unwrap();
                });
            }
            // Packets with a spoofed address would arrive before this one.
            let mut packet = [0; 64];
            let length = sink.recv(&mut packet).unwrap();
            assert_eq!(String::from_utf8_lossy(&packet[..length]), own.to_string());
        });
    });
}

#[test]
fn an_instance_cannot_change_its_routes() {
    VirtualNetwork::run_test(|net| {
        let program = net.test_node.settings.node_dir.join("change-routes");
        compiled_program::compile("egress/change_routes.c", &[], &program);
        net.with_server(async |runtime| {
            let apps = [probe(Egress::Internet), probe(listed_egress(&[&format!("{SITE}:443")]))];
            for (revision, app) in (1..).zip(apps) {
                for (id, endpoint) in start_cold_and_restored(&runtime, &app, revision).await {
                    let pid = net.pid(&id);
                    let inside = format!("/proc/{pid}/root/change-routes");
                    fs::copy(&program, &inside).unwrap();
                    fs::set_permissions(&inside, fs::Permissions::from_mode(0o755)).unwrap();
                    let before = net.routes_of(pid);
                    let answer = send_command(&runtime, endpoint, "run /change-routes").await;
                    let attempts: Vec<&str> = answer.split('|').collect();
                    assert_eq!(attempts.len(), 9, "{answer}");
                    for attempt in attempts {
                        assert!(attempt.ends_with(": refused"), "{answer}");
                    }
                    assert_eq!(net.routes_of(pid), before);
                    assert!(before.contains("unreachable"), "{before}");
                }
            }
        });
    });
}

#[test]
fn the_store_and_the_nodes_are_never_reached() {
    VirtualNetwork::run_test(|mut net| {
        net.test_node.settings.egress.refresh_interval = NEVER;
        net.test_node.settings.egress.forbidden_hosts = vec![RESOLVER.to_owned()];
        net.set_hosts(&[("store.test", OTHER_SITE)]);
        let (sender, receiver) = watch::channel(hosts(&["store.test"]));
        net.test_node.settings.forbidden_hosts = receiver;
        let (node, store, other) =
            (format!("{SITE}:80"), format!("{OTHER_SITE}:80"), format!("{THIRD_SITE}:80"));
        let list = listed_egress(&[&node, &store, &other]);
        net.with_server(async |runtime| {
            let mut instances = Vec::new();
            for (revision, app) in (1..).zip([probe(Egress::Internet), probe(list)]) {
                instances.extend(start_cold_and_restored(&runtime, &app, revision).await);
            }
            for (_, instance) in &instances {
                assert_reaches(&runtime, *instance, &node).await;
                assert_reaches(&runtime, *instance, &other).await;
                assert_does_not_reach(&runtime, *instance, &store).await;
                assert_does_not_reach(&runtime, *instance, &format!("{RESOLVER}:80")).await;
            }
            // A node joins.
            sender.send(hosts(&["store.test", SITE])).unwrap();
            for (_, instance) in &instances {
                wait_until("the node is closed", async || {
                    let answer = send_command(&runtime, *instance, &format!("ask {node}")).await;
                    answer.starts_with("unreachable").then_some(())
                })
                .await;
                assert_reaches(&runtime, *instance, &other).await;
                assert_does_not_reach(&runtime, *instance, &store).await;
            }
            assert!(net.run("nft list ruleset").contains(SITE));
            // A name that cannot be looked up any more stays closed. The node leaves.
            net.set_hosts(&[]);
            sender.send(hosts(&["store.test"])).unwrap();
            for (_, instance) in &instances {
                wait_until("the node that left is open", async || {
                    let answer = send_command(&runtime, *instance, &format!("ask {node}")).await;
                    (!answer.starts_with("unreachable")).then_some(())
                })
                .await;
                assert_does_not_reach(&runtime, *instance, &store).await;
            }
            // Each wall holds alone: the firewall closes what the routes have just forgotten.
            let pid = net.pid(&instances[0].0);
            net.run_in_network_of(pid, &format!("ip route del unreachable {OTHER_SITE}"));
            assert_does_not_reach(&runtime, instances[0].1, &store).await;
            net.flush_firewall();
            assert_reaches_bare(&runtime, instances[0].1, &store).await;
            assert_does_not_reach(&runtime, instances[1].1, &store).await;
        });
    });
}
