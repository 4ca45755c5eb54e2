//! The destinations that instances with egress reach, and those that they do not.

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::virtual_network::{
    HOST_ADDRESS, HOST_INTERNAL_ADDRESS, OTHER_SITE, PRIVATE, RESOLVER, SITE, THIRD_SITE, VirtualNetwork,
};
use super::*;

#[test]
fn internet_egress_reaches_only_public_addresses() {
    VirtualNetwork::run_test(|net| {
        let host = TcpListener::bind("0.0.0.0:0").unwrap();
        let at_host = host.local_addr().unwrap().port();
        for destination in
            PRIVATE.iter().map(|destination| format!("{destination}:80")).chain([format!("{SITE}:25")])
        {
            TcpStream::connect(&destination).expect("the host reaches it, else the test would prove nothing");
        }
        net.with_server(async |runtime| {
            let (_, a) = start_cold(&runtime, &probe(Egress::Internet)).await;
            let (_, b) = start_cold(&runtime, &probe(Egress::Internet)).await;
            assert_reaches(&runtime, a, &format!("{SITE}:80")).await;
            assert_reaches(&runtime, b, &format!("{OTHER_SITE}:443")).await;
            assert_eq!(send_command(&runtime, a, "name anything.test").await, SITE);
            assert_eq!(
                send_command(&runtime, a, "read /etc/resolv.conf").await,
                format!("nameserver {RESOLVER}|")
            );

            let (own, other) = (source_address(&runtime, a).await, source_address(&runtime, b).await);
            let gateway = Ipv4Addr::from_bits(own.to_bits() - 1);
            let beside = Ipv4Addr::from_bits(other.to_bits() - 1);
            for host in [HOST_ADDRESS, HOST_INTERNAL_ADDRESS, &gateway.to_string(), &beside.to_string()] {
                assert_does_not_reach(&runtime, a, &format!("{host}:{at_host}")).await;
            }
            assert_does_not_reach(&runtime, a, &format!("{other}:8080")).await;
            for destination in PRIVATE {
                assert_does_not_reach(&runtime, a, &format!("{destination}:80")).await;
            }
            for port in [25, 465, 587, 53] {
                assert_does_not_reach(&runtime, a, &format!("{SITE}:{port}")).await;
            }
        });
        host.set_nonblocking(true).unwrap();
        assert!(host.accept().is_err(), "no instance reached this host");
    });
}

#[test]
fn listed_egress_reaches_exactly_its_destinations_and_follows_dns() {
    VirtualNetwork::run_test(|mut net| {
        net.test_node.settings.egress.refresh_interval = Duration::from_secs(1);
        net.set_hosts(&[("allowed.test", OTHER_SITE)]);
        let (first, second) = (format!("{SITE}:80"), format!("{OTHER_SITE}:443"));
        let third = format!("{THIRD_SITE}:443");
        net.with_server(async |runtime| {
            let app = probe(listed_egress(&[&first, "allowed.test:443", "later.test:80"]));
            let (_, listed) = start_cold(&runtime, &app).await;
            assert_reaches(&runtime, listed, &first).await;
            assert_reaches(&runtime, listed, &second).await;
            assert_eq!(
                send_command(&runtime, listed, "name allowed.test").await,
                OTHER_SITE,
                "the instance gets the address that the firewall allows"
            );
            for destination in [format!("{SITE}:443"), format!("{OTHER_SITE}:80"), third.clone()] {
                assert_does_not_reach(&runtime, listed, &destination).await;
            }
            // Without a name on its list, the instance has no DNS.
            let (_, nameless) = start_cold(&runtime, &probe(listed_egress(&[&first]))).await;
            assert_reaches(&runtime, nameless, &first).await;
            assert_eq!(send_command(&runtime, nameless, "name allowed.test").await, "allowed.test");

            net.set_hosts(&[("allowed.test", THIRD_SITE)]);
            wait_until_it_reaches(&runtime, listed, &third).await;
            assert_does_not_reach(&runtime, nameless, &third).await;
            // A name that resolves to a private address does not make that reachable.
            net.set_hosts(&[("allowed.test", PRIVATE[0]), ("later.test", OTHER_SITE)]);
            wait_until_it_reaches(&runtime, listed, &format!("{OTHER_SITE}:80")).await;
            assert_does_not_reach(&runtime, listed, &format!("{}:443", PRIVATE[0])).await;
            assert!(!net.run("nft list ruleset").contains(&format!("{} . 443", PRIVATE[0])));
        });
    });
}

async fn wait_until_it_reaches(runtime: &dyn Runtime, probe: Endpoint, destination: &str) {
    wait_until("the new address of the name is reachable", async || {
        let answer = send_command(runtime, probe, &format!("ask {destination}")).await;
        (!answer.starts_with("unreachable")).then_some(())
    })
    .await;
}

#[test]
fn an_instance_sends_from_its_own_address_only_and_has_no_ipv6() {
    VirtualNetwork::run_test(|net| {
        let sink = net.in_internet(|_| UdpSocket::bind((SITE, 9000)).unwrap());
        sink.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        net.with_server(async |runtime| {
            let (id, endpoint) = start_cold(&runtime, &probe(Egress::Internet)).await;
            let own = source_address(&runtime, endpoint).await;
            let others = send_command(&runtime, endpoint, "read /proc/net/if_inet6").await;
            assert!(others.split_terminator('|').all(|line| line.ends_with(" lo")), "{others}");
            assert!(
                !net.run("ip -6 -o address").contains("tin"),
                "the host's end has no IPv6 address either"
            );

            let pid = net.pid(&id);
            // Sends from inside the network namespace, with rights that no instance has.
            let send = |from: Ipv4Addr| {
                net.in_namespace_of(pid, move || {
                    std::fs::write("/proc/sys/net/ipv4/ip_nonlocal_bind", "1").unwrap();
                    let socket = UdpSocket::bind((from, 0)).unwrap();
                    socket.send_to(from.to_string().as_bytes(), (SITE, 9000)).map(drop)
                })
            };
            net.run_in_network_of(pid, "ip address add 10.213.255.99/32 dev lo");
            net.run_in_network_of(pid, "ip address add 203.0.113.77/32 dev lo");
            for spoofed in ["10.213.255.99", "203.0.113.77"] {
                send(spoofed.parse().unwrap()).unwrap();
            }
            // Packets with a spoofed address would arrive before this one.
            send(own).unwrap();
            let mut packet = [0; 64];
            let length = sink.recv(&mut packet).unwrap();
            assert_eq!(String::from_utf8_lossy(&packet[..length]), own.to_string());
        });
    });
}

#[test]
fn a_firewall_table_that_was_removed_is_restored() {
    VirtualNetwork::run_test(|mut net| {
        net.test_node.settings.egress.refresh_interval = Duration::from_secs(1);
        net.with_server(async |runtime| {
            let (_, endpoint) = start_cold(&runtime, &probe(Egress::Internet)).await;
            assert_reaches(&runtime, endpoint, &format!("{SITE}:80")).await;
            net.run("nft flush ruleset");
            wait_until("the table is restored", async || {
                net.run("nft list ruleset").contains("chain outward").then_some(())
            })
            .await;
            assert_reaches(&runtime, endpoint, &format!("{SITE}:80")).await;
            assert_does_not_reach(&runtime, endpoint, &format!("{}:80", PRIVATE[0])).await;
        });
    });
}

#[test]
fn a_network_on_the_way_with_smaller_packets_is_noticed() {
    VirtualNetwork::run_test(|net| {
        let receiver = net.in_internet(|_| TcpListener::bind((SITE, 9100)).unwrap());
        std::thread::spawn(move || {
            for sender in receiver.incoming() {
                let mut sender = sender.unwrap();
                let received = std::io::copy(&mut sender, &mut std::io::sink()).unwrap();
                writeln!(sender, "{received}").unwrap();
            }
        });
        net.with_server(async |runtime| {
            let list = listed_egress(&[&format!("{SITE}:9100")]);
            let mut instances = Vec::new();
            for egress in [Egress::Internet, list] {
                instances.push(start_cold(&runtime, &probe(egress)).await.1);
            }
            // The links of the instances keep their larger packets.
            net.run("ip link set up0 mtu 1280");
            for (number, instance) in instances.into_iter().enumerate() {
                let answer = send_command(&runtime, instance, &format!("upload {SITE}:9100")).await;
                assert_eq!(answer, "200000", "{number}");
            }
        });
    });
}
