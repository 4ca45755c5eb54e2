//! Random lives of a server against what its visitors know.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::model_world::{Kept, NAMES, World};

#[derive(Debug, Clone)]
enum Step {
    /// So many visitors come at once, for this template.
    Acquire(usize, usize),
    /// A visitor who waits goes away.
    GiveUp(usize),
    /// An acquire is dropped after so many polls.
    Lose(usize, usize),
    Release(usize),
    /// Seconds.
    Extend(usize, u64),
    /// Milliseconds.
    Advance(u64),
    Kill(usize),
    Restart {
        same_store: bool,
    },
    /// Of a template: target and capacity above it.
    Resize(usize, usize, usize),
    Revise(usize),
    Remove(usize),
    Rest,
}

fn step() -> impl Strategy<Value = Step> {
    let (of, which) = (0..NAMES.len(), 0..1000_usize);
    prop_oneof![
        8 => (of.clone(), 1..5_usize).prop_map(|(of, count)| Step::Acquire(of, count)),
        2 => which.clone().prop_map(Step::GiveUp),
        3 => (of.clone(), 0..12_usize).prop_map(|(of, polls)| Step::Lose(of, polls)),
        4 => which.clone().prop_map(Step::Release),
        3 => (which.clone(), 0..9_u64).prop_map(|(which, by)| Step::Extend(which, by)),
        9 => prop_oneof![
            Just(1_u64), Just(10), Just(29), Just(30), Just(31), Just(100), Just(1_000), Just(2_000),
            Just(4_999), Just(5_000), Just(11_000), Just(601_000),
        ].prop_map(Step::Advance),
        4 => which.prop_map(Step::Kill),
        1 => any::<bool>().prop_map(|same_store| Step::Restart { same_store }),
        2 => (of.clone(), 0..4_usize, 0..4_usize).prop_map(|(of, target, more)| Step::Resize(of, target, more)),
        2 => of.clone().prop_map(Step::Revise),
        1 => of.prop_map(Step::Remove),
        2 => Just(Step::Rest),
    ]
}

const FIRST: Kept = Kept { revision: 1, target: 2, max: 4 };

fn take(world: &mut World, step: &Step) {
    match *step {
        Step::Acquire(of, count) => {
            for _ in 0..count {
                world.acquire(NAMES[of]);
            }
        }
        Step::GiveUp(which) => world.give_up(which),
        Step::Lose(of, polls) => world.lose(NAMES[of], polls),
        Step::Release(which) => world.release(which),
        Step::Extend(which, by) => world.extend(which, Duration::from_secs(by)),
        Step::Advance(by) => world.advance(Duration::from_millis(by)),
        Step::Kill(which) => world.kill(which),
        Step::Restart { same_store } => world.restart(same_store),
        Step::Resize(of, target, more) => {
            let kept = world.kept(NAMES[of]).unwrap_or(FIRST);
            world.reload(NAMES[of], Some(Kept { target, max: (target + more).max(1), ..kept }));
        }
        Step::Revise(of) => {
            let kept = world.kept(NAMES[of]).unwrap_or(FIRST);
            world.reload(NAMES[of], Some(Kept { revision: kept.revision + 1, ..kept }));
        }
        Step::Remove(of) => world.reload(NAMES[of], None),
        Step::Rest => world.come_to_rest(),
    }
}

#[test]
fn random_lives_keep_every_promise() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(100);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(bakes in any::<bool>(), steps in vec(step(), 1..40))| {
        let kept = NAMES.map(|name| (name, FIRST)).into();
        let mut world = World::new(kept, bakes);
        world.check();
        for step in &steps {
            take(&mut world, step);
            world.check();
        }
        world.come_to_rest();
    });
}
