//! Random operations on a server, checked against what its visitors know.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::model_world::{Configured, NAMES, World};

#[derive(Debug, Clone)]
enum Operation {
    /// So many visitors acquire an instance of this template at once.
    Acquire(usize, usize),
    /// A waiting visitor leaves.
    Abandon(usize),
    /// An acquire is dropped after so many polls.
    Lose(usize, usize),
    Release(usize),
    /// By so many seconds.
    Extend(usize, u64),
    /// By so many milliseconds.
    Advance(u64),
    Kill(usize),
    Restart {
        same_store: bool,
    },
    /// Sets a template's target, and how much its capacity is above the target.
    Resize(usize, usize, usize),
    Revise(usize),
    Remove(usize),
    Rest,
}

fn operation() -> impl Strategy<Value = Operation> {
    let (of, which) = (0..NAMES.len(), 0..1000_usize);
    prop_oneof![
        8 => (of.clone(), 1..5_usize).prop_map(|(of, count)| Operation::Acquire(of, count)),
        2 => which.clone().prop_map(Operation::Abandon),
        3 => (of.clone(), 0..12_usize).prop_map(|(of, polls)| Operation::Lose(of, polls)),
        4 => which.clone().prop_map(Operation::Release),
        3 => (which.clone(), 0..9_u64).prop_map(|(which, by)| Operation::Extend(which, by)),
        9 => prop_oneof![
            Just(1_u64), Just(10), Just(29), Just(30), Just(31), Just(100), Just(1_000), Just(2_000),
            Just(4_999), Just(5_000), Just(11_000), Just(601_000),
        ].prop_map(Operation::Advance),
        4 => which.prop_map(Operation::Kill),
        1 => any::<bool>().prop_map(|same_store| Operation::Restart { same_store }),
        2 => (of.clone(), 0..4_usize, 0..4_usize).prop_map(|(of, target, more)| Operation::Resize(of, target, more)),
        2 => of.clone().prop_map(Operation::Revise),
        1 => of.prop_map(Operation::Remove),
        2 => Just(Operation::Rest),
    ]
}

const FIRST: Configured = Configured { revision: 1, target: 2, max: 4 };

fn perform(world: &mut World, operation: &Operation) {
    match *operation {
        Operation::Acquire(of, count) => {
            for _ in 0..count {
                world.acquire(NAMES[of]);
            }
        }
        Operation::Abandon(which) => world.abandon(which),
        Operation::Lose(of, polls) => world.lose(NAMES[of], polls),
        Operation::Release(which) => world.release(which),
        Operation::Extend(which, by) => world.extend(which, Duration::from_secs(by)),
        Operation::Advance(by) => world.advance(Duration::from_millis(by)),
        Operation::Kill(which) => world.kill(which),
        Operation::Restart { same_store } => world.restart(same_store),
        Operation::Resize(of, target, more) => {
            let configured = world.configured(NAMES[of]).unwrap_or(FIRST);
            world.reload(NAMES[of], Some(Configured { target, max: (target + more).max(1), ..configured }));
        }
        Operation::Revise(of) => {
            let configured = world.configured(NAMES[of]).unwrap_or(FIRST);
            world.reload(NAMES[of], Some(Configured { revision: configured.revision + 1, ..configured }));
        }
        Operation::Remove(of) => world.reload(NAMES[of], None),
        Operation::Rest => world.come_to_rest(),
    }
}

#[test]
fn random_operations_keep_every_promise() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(100);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(bakes in any::<bool>(), operations in vec(operation(), 1..40))| {
        let configured = NAMES.map(|name| (name, FIRST)).into();
        let mut world = World::new(configured, bakes);
        world.check();
        for operation in &operations {
            perform(&mut world, operation);
            world.check();
        }
        world.come_to_rest();
    });
}
