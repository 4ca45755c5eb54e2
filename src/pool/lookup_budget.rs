//! How many queries for unknown ids may reach the store.
//!
//! Any client can invent ids, and each of them would cost the store a call. Two budgets bound that: one for each client,
//! so that one client cannot use up what the others need, and one for all clients together, so that many addresses
//! cannot do what one may not.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::request::client_network;

/// Queries that one client may make at once, and the time until it may make one more.
const CLIENT_BURST: u32 = 20;
const CLIENT_INTERVAL: Duration = Duration::from_secs(1);
/// Queries that all clients together may make at once, and the time until they may make one more: 100 in a second.
const SERVER_BURST: u32 = 100;
const SERVER_INTERVAL: Duration = Duration::from_millis(10);
/// Number of clients on record from which those with a full budget are forgotten.
const FORGET_FROM: usize = 4096;

/// Who asks for an instance, as the budget for unknown ids counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// An operator, a peer, or a client whose query was admitted before: not counted.
    Trusted,
    /// The client at this address.
    Client(IpAddr),
}

/// The budgets for unknown ids.
#[derive(Debug)]
pub(super) struct LookupBudget {
    all: Bucket,
    /// Only clients whose query was admitted are on record. So their number is bounded by the common budget: after
    /// [`CLIENT_BURST`] times [`CLIENT_INTERVAL`] without a query a client's budget is full, and it may be forgotten.
    clients: HashMap<IpAddr, Bucket>,
    /// Number of clients on record at which the next are forgotten.
    forget_at: usize,
}

impl LookupBudget {
    /// Creates the budgets, which are full.
    pub(super) fn new(now: Instant) -> Self {
        Self { all: Bucket::full(now), clients: HashMap::new(), forget_at: FORGET_FROM }
    }

    /// Charges one query to a client and to all clients. Returns false if either budget is used up; then neither is
    /// charged.
    pub(super) fn charge(&mut self, client: IpAddr, now: Instant) -> bool {
        let client = client_network(client);
        let own = self.clients.get(&client).copied().unwrap_or(Bucket::full(now));
        // The client first: a client beyond its own budget must not use up that of all.
        let own = own.charged(CLIENT_BURST, CLIENT_INTERVAL, now);
        let all = self.all.charged(SERVER_BURST, SERVER_INTERVAL, now);
        let (Some(own), Some(all)) = (own, all) else { return false };
        self.all = all;
        if self.clients.len() >= self.forget_at {
            self.clients.retain(|_, bucket| bucket.full_at > now);
            self.forget_at = FORGET_FROM.max(2 * self.clients.len());
        }
        self.clients.insert(client, own);
        true
    }
}

/// One budget: a number of queries at once, and one more after each interval.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When the budget will be full again. Each query moves that by one interval.
    full_at: Instant,
}

impl Bucket {
    fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Returns the budget after one query; `None` if it is used up.
    fn charged(self, burst: u32, interval: Duration, now: Instant) -> Option<Self> {
        let full_at = self.full_at.max(now) + interval;
        (full_at - now <= interval * burst).then_some(Self { full_at })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    fn admitted(budget: &mut LookupBudget, client: IpAddr, times: usize, now: Instant) -> usize {
        (0..times).filter(|_| budget.charge(client, now)).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_ask_20_times_at_once_and_then_once_a_second() {
        let start = Instant::now();
        let mut budget = LookupBudget::new(start);
        assert_eq!(admitted(&mut budget, address(1), 1000, start), 20);
        assert_eq!(admitted(&mut budget, address(1), 9, start + Duration::from_millis(999)), 0);
        assert_eq!(admitted(&mut budget, address(1), 9, start + Duration::from_secs(3)), 3);
        assert_eq!(admitted(&mut budget, address(1), 1000, start + Duration::from_secs(3600)), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_beyond_its_budget_takes_nothing_from_the_others() {
        let start = Instant::now();
        let mut budget = LookupBudget::new(start);
        assert_eq!(admitted(&mut budget, address(1), 100_000, start), 20);
        assert_eq!(admitted(&mut budget, address(2), 1, start), 1);
        assert_eq!(budget.clients.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn many_addresses_get_no_more_than_the_budget_of_all() {
        let start = Instant::now();
        let mut budget = LookupBudget::new(start);
        let count =
            |budget: &mut LookupBudget, now| (0..9999).filter(|n| budget.charge(address(*n), now)).count();
        assert_eq!(count(&mut budget, start), 100);
        assert_eq!(count(&mut budget, start + Duration::from_millis(500)), 50);
    }

    #[tokio::test(start_paused = true)]
    async fn the_addresses_of_one_ipv6_network_are_one_client() {
        let start = Instant::now();
        let mut budget = LookupBudget::new(start);
        let client = |host: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, host, 2, 3, 4));
        assert_eq!((0..1000).filter(|n| budget.charge(client(*n), start)).count(), 20);
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(admitted(&mut budget, mapped, 15, start), 15);
        assert_eq!(admitted(&mut budget, "192.0.2.1".parse().unwrap(), 15, start), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_addresses_fills_no_memory() {
        let mut now = Instant::now();
        let mut budget = LookupBudget::new(now);
        for n in 0..200_000 {
            now += Duration::from_millis(5);
            budget.charge(address(n), now);
            assert!(budget.clients.len() <= FORGET_FROM, "{}", budget.clients.len());
        }
    }

    proptest! {
        #![proptest_config(crate::proptest_config())]

        #[test]
        fn no_sequence_of_queries_exceeds_a_budget(queries in vec((0_u32..8, 0_u64..400), 1..400)) {
            let start = Instant::now();
            let (mut budget, mut now, mut counts) = (LookupBudget::new(start), start, [0_u64; 8]);
            for (client, pause) in queries {
                now += Duration::from_millis(pause);
                if budget.charge(address(client), now) {
                    counts[client as usize] += 1;
                }
                let elapsed = (now - start).as_millis() as u64;
                prop_assert!(counts.iter().all(|count| *count <= 20 + elapsed / 1000));
                prop_assert!(counts.iter().sum::<u64>() <= 100 + elapsed / 10);
            }
        }
    }
}
