//! The proof of work that is asked above a lower quota.

use altcha::{Payload, SolveChallengeOptions, solve_challenge};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::harness::{Answer, Server};

const VISITOR: (&str, &str) = ("x-forwarded-for", "203.0.113.9");

async fn start() -> Server {
    let settings = [
        ("RATE_LIMIT_HOURLY", "3"),
        ("RATE_LIMIT_DAILY", "9"),
        ("PROOF_OF_WORK_ABOVE", "1"),
        ("POOL_TARGET_SIZE", "6"),
    ];
    Server::start(&settings).await
}

async fn acquire(server: &Server, visitor: (&str, &str), proof: Option<&str>) -> Answer {
    let body = proof.map_or_else(String::new, |proof| json!({ "altcha": proof }).to_string());
    server.request("POST", "/api/v1/demo/acquire", &[visitor], &body).await
}

/// Makes the proof for a challenge, as a client does.
fn proof_for(challenge: &Value) -> String {
    let challenge = serde_json::from_value(challenge.clone()).unwrap();
    let solution = solve_challenge(SolveChallengeOptions::new(&challenge)).unwrap().unwrap();
    STANDARD.encode(serde_json::to_vec(&Payload { challenge, solution }).unwrap())
}

#[tokio::test]
async fn above_the_lower_quota_each_instance_costs_a_proof_of_work() {
    let server = start().await;
    assert_eq!(acquire(&server, VISITOR, None).await.status, 200, "the lower quota");
    let mut proofs = Vec::new();
    for _ in 0..2 {
        let refused = acquire(&server, VISITOR, None).await;
        let challenge = refused.assert_error(429, "RATE_LIMITED")["challenge"].clone();
        assert_ne!(refused.header("retry-after"), "");
        assert_eq!(challenge["parameters"]["algorithm"], "PBKDF2/SHA-256", "{challenge}");
        let proof = proof_for(&challenge);
        let other = ("x-forwarded-for", "198.51.100.7");
        acquire(&server, other, Some(&proof)).await.assert_error(400, "INVALID_REQUEST");
        let answer = acquire(&server, VISITOR, Some(&proof)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        acquire(&server, VISITOR, Some(&proof)).await.assert_error(400, "INVALID_REQUEST");
        proofs.push(proof);
    }
    // No proof lifts the limit itself.
    let challenge =
        acquire(&server, VISITOR, None).await.assert_error(429, "RATE_LIMITED")["challenge"].clone();
    let answer = acquire(&server, VISITOR, Some(&proof_for(&challenge))).await;
    let body = answer.assert_error(429, "RATE_LIMITED");
    assert_eq!(
        (&body["details"], &body["challenge"]),
        (&json!("Limit: 3 per hour, 9 per day"), &Value::Null)
    );
    for nonsense in ["", "nonsense", "e30="] {
        acquire(&server, VISITOR, Some(nonsense)).await.assert_error(400, "INVALID_REQUEST");
    }
}

#[tokio::test]
async fn the_button_leads_to_a_page_that_asks_for_the_proof() {
    let server = start().await;
    let press = async |body: &str| {
        let form = [VISITOR, ("content-type", "application/x-www-form-urlencoded")];
        server.request("POST", "/try/default", &form, body).await
    };
    assert_eq!(press("").await.status, 303);
    let page = press("").await;
    assert_eq!((page.status, page.header("content-type")), (429, "text/html; charset=utf-8"));
    let text = page.text();
    let escaped = text.split_once("data-challenge=\"").unwrap().1.split_once('"').unwrap().0;
    let challenge: Value = serde_json::from_str(&escaped.replace("&quot;", "\"")).unwrap();
    let proof = proof_for(&challenge).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    assert_eq!(press(&format!("altcha={proof}")).await.status, 303);
    let used = press(&format!("altcha={proof}")).await;
    assert_eq!(used.status, 400);
    assert!(used.text().contains("That took too long"), "{}", used.text());
}
