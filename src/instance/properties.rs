//! Whatever is asked of an instance in whatever order, its life keeps the rules.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::clock::Millis;

#[derive(Debug, Clone)]
enum Ask {
    Offer,
    Assign(u64),
    Extend(u64, u64),
    Expire,
    Fail,
    Release,
    Retire,
    Forget,
    Wait(u64),
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        3 => Just(Ask::Offer),
        3 => (0_u64..2_000).prop_map(Ask::Assign),
        3 => (0_u64..1_000, 0_u64..4_000).prop_map(|(by, max)| Ask::Extend(by, max)),
        2 => Just(Ask::Expire),
        1 => Just(Ask::Fail),
        1 => Just(Ask::Release),
        1 => Just(Ask::Retire),
        2 => Just(Ask::Forget),
        4 => prop_oneof![4 => 0_u64..800, 1 => Just(600_000)].prop_map(Ask::Wait),
    ]
}

/// The instance after the step, `None` when it is gone, or a refusal.
fn answer(it: &Instance, ask: &Ask, token: u128, now: Millis) -> Result<Option<Instance>, ()> {
    let ms = Duration::from_millis;
    match *ask {
        Ask::Offer => it.offered(([127, 0, 0, 1], 4000).into()).map(Some).map_err(drop),
        Ask::Assign(ttl) => it.assigned(ClaimToken(token), now, ms(ttl)).map(Some).map_err(drop),
        Ask::Extend(by, max) => match it.extended(ms(by), ms(max), now) {
            Some(longer) => longer.map(Some).map_err(drop),
            None => Err(()),
        },
        Ask::Expire => it.expired(now).map(Some).map_err(drop),
        Ask::Fail => it.failed(now).map_err(drop),
        Ask::Release => it.may_be_released(now).map(|()| None).map_err(drop),
        Ask::Retire => it.may_be_retired().map(|()| None).map_err(drop),
        Ask::Forget => it.may_be_forgotten(now).then_some(None).ok_or(()),
        Ask::Wait(_) => Ok(Some(it.clone())),
    }
}

fn rank(it: &Instance) -> usize {
    ["warming", "ready", "assigned", "expired"].iter().position(|s| *s == it.life().name()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_order_of_steps_breaks_the_rules(asks in vec(ask(), 1..40)) {
        let id = InstanceId::random(&TemplateName::new("t").unwrap());
        let mut now = Millis(1_000);
        let mut it = Instance::warming(id, NodeId::parse("n").unwrap(), 1, now);
        for (n, ask) in asks.iter().enumerate() {
            if let Ask::Wait(by) = ask {
                let earlier = it.clone().seen_at(now);
                now = now + Duration::from_millis(*by);
                let later = it.clone().seen_at(now);
                prop_assert_eq!(check_step(&earlier, Some(&later), now), Ok(()));
            }
            let seen = it.clone().seen_at(now);
            let Ok(after) = answer(&it, ask, n as u128, now) else { continue };
            prop_assert_eq!(check_step(&it, after.as_ref(), now), Ok(()));
            let seen_after = after.clone().map(|a| a.seen_at(now));
            prop_assert_eq!(check_step(&seen, seen_after.as_ref(), now), Ok(()), "as readers see it");
            let Some(after) = after else { break };
            prop_assert_eq!(check([&after]), Ok(()));
            prop_assert!(rank(&after) >= rank(&it), "{} became {}", it.life().name(), after.life().name());
            if !matches!(ask, Ask::Wait(_)) {
                prop_assert_eq!(after.generation(), it.generation() + 1);
            }
            it = after;
        }
    }

    #[test]
    fn of_an_expired_instance_nothing_is_granted_but_to_be_forgotten(asks in vec(ask(), 1..20)) {
        let id = InstanceId::random(&TemplateName::new("t").unwrap());
        let ended = Instance::warming(id, NodeId::parse("n").unwrap(), 1, Millis(0))
            .offered(([127, 0, 0, 1], 4000).into())
            .and_then(|it| it.assigned(ClaimToken(1), Millis(0), Duration::from_millis(5)))
            .and_then(|it| it.expired(Millis(5)))
            .unwrap();
        for ask in asks.iter().filter(|a| !matches!(a, Ask::Wait(_))) {
            prop_assert_eq!(answer(&ended, ask, 2, Millis(600_004)), Err(()), "{:?}", ask);
            prop_assert_eq!(answer(&ended, ask, 2, Millis(600_005)).is_ok(), matches!(ask, Ask::Forget));
        }
    }
}
