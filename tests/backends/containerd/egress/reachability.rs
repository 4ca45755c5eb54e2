//! Where instances with a way out get to, and where not.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::virtual_network::{HOST, INSIDE, OTHER_SITE, PRIVATE, RESOLVER, SITE, THIRD_SITE, World};
use super::*;

#[test]
fn the_internet_is_public_addresses_and_nothing_else() {
    World::with(|world| {
        let host = TcpListener::bind("0.0.0.0:0").unwrap();
        let at_host = host.local_addr().unwrap().port();
        for there in PRIVATE.iter().map(|there| format!("{there}:80")).chain([format!("{SITE}:25")]) {
            TcpStream::connect(&there)
                .expect("the host gets there, or that instances do not would prove nothing");
        }
        world.serve(async |runtime| {
            let (_, a) = begin(&runtime, &probe(Egress::Internet)).await;
            let (_, b) = begin(&runtime, &probe(Egress::Internet)).await;
            assert_reaches(&runtime, a, &format!("{SITE}:80")).await;
            assert_reaches(&runtime, b, &format!("{OTHER_SITE}:443")).await;
            assert_eq!(tell(&runtime, a, "name anything.test").await, SITE);
            assert_eq!(tell(&runtime, a, "read /etc/resolv.conf").await, format!("nameserver {RESOLVER}|"));

            let (own, other) = (address(&runtime, a).await, address(&runtime, b).await);
            let gateway = Ipv4Addr::from_bits(own.to_bits() - 1);
            let beside = Ipv4Addr::from_bits(other.to_bits() - 1);
            for host in [HOST, INSIDE, &gateway.to_string(), &beside.to_string()] {
                assert_does_not_reach(&runtime, a, &format!("{host}:{at_host}")).await;
            }
            assert_does_not_reach(&runtime, a, &format!("{other}:8080")).await;
            for there in PRIVATE {
                assert_does_not_reach(&runtime, a, &format!("{there}:80")).await;
            }
            for port in [25, 465, 587, 53] {
                assert_does_not_reach(&runtime, a, &format!("{SITE}:{port}")).await;
            }
        });
        host.set_nonblocking(true).unwrap();
        assert!(host.accept().is_err(), "nobody got to this host");
    });
}

#[test]
fn a_list_lets_exactly_its_places_through_and_follows_its_names() {
    World::with(|mut world| {
        world.place.settings.outside.refresh = Duration::from_secs(1);
        world.names(&[("allowed.test", OTHER_SITE)]);
        let (first, second) = (format!("{SITE}:80"), format!("{OTHER_SITE}:443"));
        let third = format!("{THIRD_SITE}:443");
        world.serve(async |runtime| {
            let app = probe(only(&[&first, "allowed.test:443", "later.test:80"]));
            let (_, listed) = begin(&runtime, &app).await;
            assert_reaches(&runtime, listed, &first).await;
            assert_reaches(&runtime, listed, &second).await;
            assert_eq!(tell(&runtime, listed, "name allowed.test").await, SITE, "it may ask for names");
            for there in [format!("{SITE}:443"), format!("{OTHER_SITE}:80"), third.clone()] {
                assert_does_not_reach(&runtime, listed, &there).await;
            }
            // Without a name on its list, it has nothing to ask for.
            let (_, nameless) = begin(&runtime, &probe(only(&[&first]))).await;
            assert_reaches(&runtime, nameless, &first).await;
            assert_eq!(tell(&runtime, nameless, "name allowed.test").await, "allowed.test");

            world.names(&[("allowed.test", THIRD_SITE)]);
            until_it_reaches(&runtime, listed, &third).await;
            assert_does_not_reach(&runtime, nameless, &third).await;
            // What a name leads to is no way around what is never reached.
            world.names(&[("allowed.test", PRIVATE[0]), ("later.test", OTHER_SITE)]);
            until_it_reaches(&runtime, listed, &format!("{OTHER_SITE}:80")).await;
            assert_does_not_reach(&runtime, listed, &format!("{}:443", PRIVATE[0])).await;
            assert!(!world.run("nft list ruleset").contains(&format!("{} . 443", PRIVATE[0])));
        });
    });
}

async fn until_it_reaches(runtime: &dyn Runtime, probe: Endpoint, there: &str) {
    until("the name is followed", async || {
        let answer = tell(runtime, probe, &format!("ask {there}")).await;
        (!answer.starts_with("unreachable")).then_some(())
    })
    .await;
}

#[test]
fn an_instance_sends_from_its_own_address_only_and_has_no_ipv6() {
    World::with(|world| {
        let sink = world.internet(|_| UdpSocket::bind((SITE, 9000)).unwrap());
        sink.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        world.serve(async |runtime| {
            let (id, endpoint) = begin(&runtime, &probe(Egress::Internet)).await;
            let own = address(&runtime, endpoint).await;
            let others = tell(&runtime, endpoint, "read /proc/net/if_inet6").await;
            assert!(others.split_terminator('|').all(|line| line.ends_with(" lo")), "{others}");
            assert!(!world.run("ip -6 -o address").contains("tin"), "nor has this host on its end");

            let pid = world.pid(&id);
            // From inside, with rights that no instance has.
            let send = move |from: Ipv4Addr| {
                std::thread::spawn(move || {
                    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
                    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                    std::fs::write("/proc/sys/net/ipv4/ip_nonlocal_bind", "1").unwrap();
                    let socket = UdpSocket::bind((from, 0)).unwrap();
                    socket.send_to(from.to_string().as_bytes(), (SITE, 9000)).map(drop)
                })
                .join()
                .unwrap()
            };
            world.run_in(pid, "ip address add 10.213.255.99/32 dev lo");
            world.run_in(pid, "ip address add 203.0.113.77/32 dev lo");
            for spoofed in ["10.213.255.99", "203.0.113.77"] {
                send(spoofed.parse().unwrap()).unwrap();
            }
            // What was sent before would have come before.
            send(own).unwrap();
            let mut heard = [0; 64];
            let length = sink.recv(&mut heard).unwrap();
            assert_eq!(String::from_utf8_lossy(&heard[..length]), own.to_string());
        });
    });
}

#[test]
fn a_table_that_somebody_removed_is_there_again() {
    World::with(|mut world| {
        world.place.settings.outside.refresh = Duration::from_secs(1);
        world.serve(async |runtime| {
            let (_, endpoint) = begin(&runtime, &probe(Egress::Internet)).await;
            assert_reaches(&runtime, endpoint, &format!("{SITE}:80")).await;
            world.run("nft flush ruleset");
            until("the table is there", async || {
                world.run("nft list ruleset").contains("chain outward").then_some(())
            })
            .await;
            assert_reaches(&runtime, endpoint, &format!("{SITE}:80")).await;
            assert_does_not_reach(&runtime, endpoint, &format!("{}:80", PRIVATE[0])).await;
        });
    });
}
