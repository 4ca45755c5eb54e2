//! A proof of work: what a client computes before it may acquire more than the lower quota.
//!
//! The protocol is ALTCHA's, version 2: the client looks for a counter for which PBKDF2 makes a key that begins with
//! given digits. A visitor's browser does that once in a second or two; a program that drains the pool has to do it for
//! each instance. A challenge is for one visitor and one template, is signed, ends after [`CHALLENGE_TTL`], and is used
//! once on each node.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use altcha::{CreateChallengeOptions, Payload, VerifySolutionOptions, create_challenge, verify_solution};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::clock::Millis;
use crate::instance::Visitor;
use crate::template::Secret;

/// How long a challenge may be answered.
const CHALLENGE_TTL: Duration = Duration::from_secs(5 * 60);
/// Rounds of PBKDF2 for one attempt. The server makes one attempt to check a solution: about half a millisecond.
const ROUNDS: u32 = 1_000;
/// The digits that the key must begin with: 4,096 attempts on average.
const KEY_PREFIX: &str = "000";
/// The most used challenges that are remembered. Above that the oldest is forgotten, and may be used once more.
const MAX_USED: usize = 100_000;

/// Asks for proofs and checks them.
#[derive(Debug, Default)]
pub(super) struct ProofsOfWork {
    used: Mutex<UsedChallenges>,
}

/// The challenges that were used and have not ended.
#[derive(Debug, Default)]
struct UsedChallenges {
    signatures: HashSet<String>,
    by_age: VecDeque<(Instant, String)>,
}

/// The proof is wrong, has ended, was used, or is for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proof of work is wrong, too old or used; acquire without it to get a new challenge")]
pub(super) struct InvalidProof;

impl ProofsOfWork {
    /// Returns a challenge for a visitor of a template, in ALTCHA's JSON.
    pub(super) fn challenge(
        &self,
        secret: &Secret,
        template: &str,
        visitor: &Visitor,
        now: Millis,
    ) -> Option<Value> {
        let ends = now + CHALLENGE_TTL;
        let options = CreateChallengeOptions {
            cost: ROUNDS,
            key_prefix: KEY_PREFIX.to_owned(),
            data: Some(purpose(template, visitor)),
            expires_at: i64::try_from(ends.0 / 1000).ok(),
            hmac_signature_secret: Some(secret.reveal().to_owned()),
            ..CreateChallengeOptions::default()
        };
        serde_json::to_value(create_challenge(options).ok()?).ok()
    }

    /// Checks a proof: the base64 text of ALTCHA's JSON with the challenge and its solution. A valid proof is used up.
    ///
    /// # Errors
    /// See [`InvalidProof`].
    pub(super) fn check(
        &self,
        secret: &Secret,
        proof: &str,
        template: &str,
        visitor: &Visitor,
    ) -> Result<(), InvalidProof> {
        let json = STANDARD.decode(proof).map_err(|_| InvalidProof)?;
        let Payload { challenge, solution } = serde_json::from_slice(&json).map_err(|_| InvalidProof)?;
        let parameters = &challenge.parameters;
        // The signature covers the parameters; what they say is compared here.
        if parameters.data.as_ref() != Some(&purpose(template, visitor)) {
            return Err(InvalidProof);
        }
        let options = VerifySolutionOptions::new(&challenge, &solution, secret.reveal());
        if !verify_solution(options).is_ok_and(|result| result.verified) {
            return Err(InvalidProof);
        }
        let signature = challenge.signature.ok_or(InvalidProof)?.to_ascii_lowercase();
        if self.used.lock().insert(signature, Instant::now()) { Ok(()) } else { Err(InvalidProof) }
    }
}

impl UsedChallenges {
    /// Notes that a challenge is used. Returns `false` if it was used before.
    fn insert(&mut self, signature: String, now: Instant) -> bool {
        // A challenge that was used ends within its TTL.
        while let Some((used_at, oldest)) = self.by_age.front()
            && (now.duration_since(*used_at) > CHALLENGE_TTL || self.by_age.len() >= MAX_USED)
        {
            self.signatures.remove(oldest);
            self.by_age.pop_front();
        }
        let is_new = self.signatures.insert(signature.clone());
        if is_new {
            self.by_age.push_back((now, signature));
        }
        is_new
    }
}

/// Returns what a challenge is for.
fn purpose(template: &str, visitor: &Visitor) -> BTreeMap<String, Value> {
    let text = |text: &str| Value::String(text.to_owned());
    BTreeMap::from([("template".to_owned(), text(template)), ("visitor".to_owned(), text(visitor.as_str()))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use altcha::{SolveChallengeOptions, solve_challenge};

    fn visitor(name: &str) -> Visitor {
        Visitor::new(name)
    }

    /// Solves a challenge as a client does.
    fn solved(challenge: &Value) -> Payload {
        let challenge = serde_json::from_value(challenge.clone()).unwrap();
        let solution = solve_challenge(SolveChallengeOptions::new(&challenge)).unwrap().unwrap();
        Payload { challenge, solution }
    }

    fn text(payload: &Payload) -> String {
        STANDARD.encode(serde_json::to_vec(payload).unwrap())
    }

    #[test]
    fn a_proof_is_valid_once_for_its_visitor_and_template_and_as_it_was_signed() {
        let (proofs, secret) = (ProofsOfWork::default(), Secret::new("secret"));
        let now = Clock::System.now();
        let challenge = proofs.challenge(&secret, "shop", &visitor("a"), now).unwrap();
        let payload = solved(&challenge);
        let proof = text(&payload);
        let check =
            |proof: &str, template: &str, by: &str| proofs.check(&secret, proof, template, &visitor(by));
        for (template, by) in [("blog", "a"), ("shop", "b")] {
            assert_eq!(check(&proof, template, by), Err(InvalidProof));
        }
        for change in [
            |payload: &mut Payload| payload.solution.counter += 1,
            |payload: &mut Payload| payload.solution.derived_key = "00".repeat(32),
            |payload: &mut Payload| payload.challenge.signature = None,
            |payload: &mut Payload| payload.challenge.parameters.key_prefix = String::new(),
            |payload: &mut Payload| payload.challenge.parameters.cost = 1,
            |payload: &mut Payload| payload.challenge.parameters.expires_at = None,
        ] {
            let mut changed = payload.clone();
            change(&mut changed);
            assert_eq!(check(&text(&changed), "shop", "a"), Err(InvalidProof));
        }
        for nonsense in ["", "e30=", "!", &proof[..proof.len() - 8]] {
            assert_eq!(check(nonsense, "shop", "a"), Err(InvalidProof));
        }
        let other = ProofsOfWork::default();
        assert_eq!(other.check(&Secret::new("other"), &proof, "shop", &visitor("a")), Err(InvalidProof));
        assert_eq!(check(&proof, "shop", "a"), Ok(()));
        assert_eq!(check(&proof, "shop", "a"), Err(InvalidProof), "it was used");
        // The case of the signature's digits makes no second proof.
        let mut again = payload.clone();
        again.challenge.signature = again.challenge.signature.map(|digits| digits.to_ascii_uppercase());
        assert_eq!(check(&text(&again), "shop", "a"), Err(InvalidProof));
    }

    #[test]
    fn an_old_challenge_is_refused() {
        let (proofs, secret) = (ProofsOfWork::default(), Secret::new("secret"));
        let long_ago = Millis(Clock::System.now().0 - 2 * CHALLENGE_TTL.as_millis() as u64);
        let challenge = proofs.challenge(&secret, "shop", &visitor("a"), long_ago).unwrap();
        let proof = text(&solved(&challenge));
        assert_eq!(proofs.check(&secret, &proof, "shop", &visitor("a")), Err(InvalidProof));
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_remembered_challenges_is_bounded() {
        let mut used = UsedChallenges::default();
        for n in 0..MAX_USED + 10 {
            assert!(used.insert(n.to_string(), Instant::now()));
        }
        assert_eq!((used.by_age.len(), used.signatures.len()), (MAX_USED, MAX_USED));
        assert!(!used.insert((MAX_USED + 9).to_string(), Instant::now()));
        tokio::time::advance(CHALLENGE_TTL + Duration::from_secs(1)).await;
        assert!(used.insert("later".to_owned(), Instant::now()));
        assert_eq!((used.by_age.len(), used.signatures.len()), (1, 1));
    }
}
