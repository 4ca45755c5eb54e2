//! Property tests: no order of transitions breaks the rules of an instance's states.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::clock::Millis;

#[derive(Debug, Clone)]
enum Request {
    Offer,
    Assign(u64),
    Extend(u64, u64),
    Expire,
    Fail,
    Evict,
    Lapse,
    Release,
    Retire,
    Withdraw,
    Forget,
    Wait(u64),
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        3 => Just(Request::Offer),
        3 => (0_u64..2_000).prop_map(Request::Assign),
        3 => (0_u64..1_000, 0_u64..4_000).prop_map(|(by, max)| Request::Extend(by, max)),
        2 => Just(Request::Expire),
        1 => Just(Request::Fail),
        1 => Just(Request::Evict),
        1 => Just(Request::Lapse),
        1 => Just(Request::Release),
        1 => Just(Request::Retire),
        1 => Just(Request::Withdraw),
        2 => Just(Request::Forget),
        4 => prop_oneof![4 => 0_u64..800, 1 => Just(600_000)].prop_map(Request::Wait),
    ]
}

/// The instance after the transition, `None` when it is gone, or a refusal.
fn apply(instance: &Instance, request: &Request, token: u128, now: Millis) -> Result<Option<Instance>, ()> {
    let ms = Duration::from_millis;
    match *request {
        Request::Offer => instance.offered(([127, 0, 0, 1], 4000).into()).map(Some).map_err(drop),
        Request::Assign(ttl) => instance.assigned(ClaimToken(token), now, ms(ttl)).map(Some).map_err(drop),
        Request::Extend(by, max) => match instance.extended(ms(by), ms(max), now) {
            Some(longer) => longer.map(Some).map_err(drop),
            None => Err(()),
        },
        Request::Expire => instance.expired(now).map(Some).map_err(drop),
        Request::Fail => instance.failed(now).map_err(drop),
        Request::Evict => instance.evicted(now).map_err(drop),
        Request::Lapse => instance.claim_lapsed(now).map(Some).map_err(drop),
        Request::Release => instance.may_be_released(now).map(|()| None).map_err(drop),
        Request::Retire => instance.may_be_retired().map(|()| None).map_err(drop),
        Request::Withdraw => instance.withdrawn().map(Some).map_err(drop),
        Request::Forget => instance.may_be_forgotten(now).then_some(None).ok_or(()),
        Request::Wait(_) => Ok(Some(instance.clone())),
    }
}

fn rank(instance: &Instance) -> usize {
    ["warming", "ready", "assigned", "expired"].iter().position(|s| *s == instance.state().name()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..crate::proptest_config() })]

    #[test]
    fn no_order_of_transitions_breaks_the_rules(requests in vec(request(), 1..40)) {
        let id = InstanceId::random(&TemplateName::new("t").unwrap());
        let mut now = Millis(1_000);
        let mut instance = Instance::warming(id, NodeId::parse("n").unwrap(), 1, now);
        for (n, request) in requests.iter().enumerate() {
            if let Request::Wait(by) = request {
                let earlier = instance.clone().seen_at(now);
                now = now + Duration::from_millis(*by);
                let later = instance.clone().seen_at(now);
                prop_assert_eq!(check_step(&earlier, Some(&later), now), Ok(()));
            }
            let seen = instance.clone().seen_at(now);
            let Ok(after) = apply(&instance, request, n as u128, now) else { continue };
            prop_assert_eq!(check_step(&instance, after.as_ref(), now), Ok(()));
            let seen_after = after.clone().map(|a| a.seen_at(now));
            prop_assert_eq!(check_step(&seen, seen_after.as_ref(), now), Ok(()), "as readers see it");
            let Some(after) = after else { break };
            prop_assert_eq!(check([&after]), Ok(()));
            let is_withdrawal = matches!(request, Request::Withdraw) && instance.state().name() == "ready";
            prop_assert!(is_withdrawal || rank(&after) >= rank(&instance), "{} became {}", instance.state().name(), after.state().name());
            if !matches!(request, Request::Wait(_)) {
                prop_assert_eq!(after.generation(), instance.generation() + 1);
            }
            instance = after;
        }
    }

    #[test]
    fn an_expired_instance_can_only_be_forgotten(requests in vec(request(), 1..20)) {
        let id = InstanceId::random(&TemplateName::new("t").unwrap());
        let ended = Instance::warming(id, NodeId::parse("n").unwrap(), 1, Millis(0))
            .offered(([127, 0, 0, 1], 4000).into())
            .and_then(|instance| instance.assigned(ClaimToken(1), Millis(0), Duration::from_millis(5)))
            .and_then(|instance| instance.expired(Millis(5)))
            .unwrap();
        for request in requests.iter().filter(|request| !matches!(request, Request::Wait(_))) {
            prop_assert_eq!(apply(&ended, request, 2, Millis(600_004)), Err(()), "{:?}", request);
            prop_assert_eq!(apply(&ended, request, 2, Millis(600_005)).is_ok(), matches!(request, Request::Forget));
        }
    }
}
