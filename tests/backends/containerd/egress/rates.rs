//! Instances that flood the network, beside a good one.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::virtual_network::{OTHER_SITE, SITE, VirtualNetwork};
use super::*;

const PACKETS_PER_SECOND: u32 = 500;
const CONNECTIONS_PER_SECOND: u32 = 50;
/// How long a flood lasts, in seconds.
const FLOOD: u32 = 2;
/// Packets of others, and of a flood that lasts longer on a busy machine.
const SLACK: u64 = 1000;

/// Returns the median time of a visit to the internet.
async fn visit(runtime: &dyn Runtime, instance: Endpoint) -> Duration {
    let mut times = Vec::new();
    for _ in 0..15 {
        let begun = Instant::now();
        assert_reaches(runtime, instance, &format!("{OTHER_SITE}:80")).await;
        times.push(begun.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

#[test]
fn a_flood_is_cut_to_the_rates_and_a_neighbour_notices_nothing() {
    VirtualNetwork::run_test(|mut net| {
        net.test_node.settings.egress.max_packets_per_second = PACKETS_PER_SECOND;
        net.test_node.settings.egress.max_connections_per_second = CONNECTIONS_PER_SECOND;
        let sink = net.in_internet(|_| UdpSocket::bind((SITE, 9000)).unwrap());
        sink.set_nonblocking(true).unwrap();
        net.with_server(async |runtime| {
            let (_, good) = start_cold(&runtime, &probe(Egress::Internet)).await;
            let hostile = start_cold_and_restored(&runtime, &probe(Egress::Internet), 2).await;
            for (number, (_, hostile)) in hostile.iter().enumerate() {
                for (flood, rate) in [
                    (format!("udp {SITE}:9000/{FLOOD}"), PACKETS_PER_SECOND),
                    (format!("connects {SITE}/{FLOOD}"), CONNECTIONS_PER_SECOND),
                    (format!("spray {SITE}/{FLOOD}"), CONNECTIONS_PER_SECOND),
                ] {
                    let quiet = visit(&runtime, good).await;
                    let before = net.packets_sent();
                    let is_over = AtomicBool::new(false);
                    let flooding = async {
                        let begun = Instant::now();
                        let answer = send_command(&runtime, *hostile, &flood).await;
                        is_over.store(true, Ordering::Relaxed);
                        assert_eq!(answer, "sent");
                        begun.elapsed()
                    };
                    let visiting = async {
                        let during = visit(&runtime, good).await;
                        assert!(!is_over.load(Ordering::Relaxed), "the visits were during the flood");
                        during
                    };
                    let (lasted, during) = tokio::join!(flooding, visiting);
                    let sent = net.packets_sent() - before;
                    // A connection that was refused costs one more packet.
                    let allowed = 2 * u64::from(rate) * (lasted.as_secs() + 3) + SLACK;
                    assert!(sent <= allowed, "{number}: {flood}: {sent} packets, {allowed} allowed");
                    assert!(sent > u64::from(rate), "{number}: {flood} sent only {sent} packets");
                    let bound = (quiet * 2).max(Duration::from_millis(50));
                    assert!(during <= bound, "{number}: {flood}: {during:?}, {quiet:?} before");
                }
            }
        });
    });
}
