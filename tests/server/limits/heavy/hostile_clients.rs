//! Five hundred hostile clients beside twenty good ones.

use std::time::Duration;

use crate::limits::hostile_clients::{Load, good_clients_are_served_beside_hostile_ones};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_hostile_clients_do_not_slow_twenty_good_ones() {
    let load = Load { hostile: 500, phase: Duration::from_secs(30) };
    good_clients_are_served_beside_hostile_ones(load).await;
}
