//! What is left of ways out when they end, or their server does.

use try_it_now::runtime::RuntimeError;
use try_it_now::runtime::containerd::clean_network;
use try_it_now::template::egress::Ipv4Network;

use super::super::REVISION;
use super::virtual_network::{PRIVATE, SITE, World};
use super::*;

#[test]
fn a_stop_leaves_nothing_and_the_addresses_rest() {
    World::with(|world| {
        let before = world.network();
        world.serve(async |runtime| {
            let (first, endpoint) = begin(&runtime, &probe(Egress::Internet)).await;
            let used = address(&runtime, endpoint).await;
            assert_ne!(world.network(), before);
            within(runtime.stop(&first)).await.unwrap();
            assert!(!world.run("nft list ruleset").contains("table"), "with the last one the table goes");
            for _ in 0..5 {
                let (id, endpoint) = begin(&runtime, &probe(Egress::Internet)).await;
                assert_ne!(address(&runtime, endpoint).await, used);
                within(runtime.stop(&id)).await.unwrap();
            }
        });
        world.until_it_is(&before);
    });
}

#[test]
fn after_a_crash_what_runs_is_picked_up_and_the_rest_removed() {
    World::with(|world| {
        world.names(&[("allowed.test", SITE)]);
        let before = world.network();
        let at_site = format!("{SITE}:80");
        let (free, listed, dead) = world.serve(async |runtime| {
            let free = begin(&runtime, &probe(Egress::Internet)).await;
            let listed = begin(&runtime, &probe(only(&["allowed.test:80"]))).await;
            let dead = begin(&runtime, &probe(Egress::Internet)).await;
            for (_, endpoint) in [&free, &listed, &dead] {
                assert_reaches(&runtime, *endpoint, &at_site).await;
            }
            (free, listed, dead)
        });
        // Nobody is there to see that one ends.
        world.kill(&dead.0);
        let between = world.run("nft list ruleset");
        assert!(between.contains("chain outward"), "{between}");

        world.serve(async |runtime| {
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
            // An address that is in use is not given again.
            let taken = [address(&runtime, free.1).await, address(&runtime, listed.1).await];
            let (newcomer, endpoint) = begin(&runtime, &probe(Egress::Internet)).await;
            assert!(!taken.contains(&address(&runtime, endpoint).await));
            for id in [&free.0, &listed.0, &newcomer] {
                within(runtime.stop(id)).await.unwrap();
            }
        });
        world.until_it_is(&before);
    });
}

#[test]
fn two_servers_of_one_host_do_not_meet() {
    World::with(|world| {
        let Some(mut other) = super::super::Place::new() else { return };
        // So few that both want the same.
        let range = Ipv4Network::around("10.213.0.0".parse().unwrap(), 27);
        other.settings.outside =
            try_it_now::template::egress::EgressSettings { range, ..world.place.settings.outside.clone() };
        let mut world = world;
        world.place.settings.outside.range = range;
        world.serve(async |one| {
            let two = other.open().await;
            let (mut addresses, mut started) = (Vec::new(), Vec::new());
            for runtime in [&one, &two, &one, &two] {
                let (id, endpoint) = begin(runtime, &probe(Egress::Internet)).await;
                addresses.push(address(runtime, endpoint).await);
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
            // The table of one is no concern of the other.
            within(one.stop(&started[0].1)).await.unwrap();
            within(one.stop(&started[2].1)).await.unwrap();
            assert_reaches(&two, started[1].2, &format!("{SITE}:80")).await;
            within(two.stop(&started[1].1)).await.unwrap();
            within(two.stop(&started[3].1)).await.unwrap();
        });
    });
}

#[test]
fn clones_of_a_checkpoint_have_addresses_of_their_own() {
    World::with(|world| {
        world.serve(async |runtime| {
            let app = probe(Egress::Internet);
            let (id, endpoint) = begin(&runtime, &app).await;
            let baked_at = address(&runtime, endpoint).await;
            within(runtime.bake(&id, REVISION, &app)).await.unwrap();
            let mut addresses = vec![baked_at];
            for _ in 0..2 {
                let (_, started) = start(&runtime, &app).await;
                assert_eq!(started.how, StartMethod::Restored);
                assert_reaches(&runtime, started.endpoint, &format!("{SITE}:80")).await;
                assert_eq!(tell(&runtime, started.endpoint, "name anything.test").await, SITE);
                assert_does_not_reach(&runtime, started.endpoint, &format!("{}:80", PRIVATE[0])).await;
                addresses.push(address(&runtime, started.endpoint).await);
            }
            addresses.dedup();
            assert_eq!(addresses.len(), 3, "{addresses:?}");
        });
    });
}

#[test]
fn cleaning_removes_what_is_left_of_all_nodes() {
    World::with(|world| {
        let before = world.network();
        world.serve(async |runtime| {
            let (id, _) = begin(&runtime, &probe(Egress::Internet)).await;
            assert!(clean_network().await.unwrap() >= 2, "a link and a table");
            assert_eq!(world.network(), before);
            assert_eq!(clean_network().await.unwrap(), 0);
            within(runtime.stop(&id)).await.unwrap();
        });
    });
}

#[test]
fn a_range_that_is_taken_is_told() {
    World::with(|world| {
        world.run("ip route add 10.213.7.0/24 dev up0");
        world.serve(async |runtime| {
            let order = super::super::order(&probe(Egress::Internet));
            let error = within(runtime.start(&order)).await.unwrap_err();
            assert!(matches!(&error, RuntimeError::Start(why) if why.contains("EGRESS_RANGE")), "{error}");
            // Who wants no way out has nothing to do with it.
            let (_, sealed) = begin(&runtime, &probe(Egress::Sealed)).await;
            assert_does_not_reach(&runtime, sealed, &format!("{SITE}:80")).await;
        });
    });
}
