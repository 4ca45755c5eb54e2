//! The HTTP contract: the pages and the buttons on them, as a browser without JavaScript uses them.

use crate::support::harness::{Answer, Server, get, request};

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// Returns the name and value of the cookie that an answer sets, and its attributes.
fn cookie(answer: &Answer) -> (String, String) {
    let (pair, attributes) = answer.header("set-cookie").split_once("; ").expect("it sets a cookie");
    (pair.to_owned(), attributes.to_owned())
}

#[tokio::test]
async fn a_click_leads_to_an_instance_that_the_front_page_then_shows() {
    let server = Server::start(&[("POOL_DEFAULT_TTL", "10m"), ("POOL_MAX_TTL", "20m")]).await;
    let before = server.request("GET", "/", &[], "").await;
    assert_eq!((before.status, before.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(before.text().contains(r#"action="/try/default""#), "{}", before.text());

    let acquired = server.request("POST", "/try/default", &[FORM], "").await;
    assert_eq!(acquired.status, 303, "{}", acquired.text());
    assert_eq!(acquired.header("cache-control"), "no-store");
    let url = acquired.header("location");
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let id = host.split('.').next().unwrap();
    assert_eq!(get(server.port, host, "/").await.status, 200);
    let (pair, attributes) = cookie(&acquired);
    let token = pair.strip_prefix(&format!("instance-default={id}.")).expect("the cookie has the id");
    assert_eq!(token.len(), 22, "128 bits in base64url: {token}");
    assert_eq!(attributes, "Path=/; Max-Age=1200; HttpOnly; SameSite=Lax");

    let front = server.request("GET", "/", &[("cookie", &format!("a=b; {pair}; c=d"))], "").await.text();
    assert!(front.contains(url), "{front}");
    assert!(front.contains(&format!(r#"action="/end/{id}""#)), "{front}");
    // Another visitor does not see it, nor does one whose cookie names another template.
    assert!(!server.request("GET", "/", &[], "").await.text().contains(id));
    let other_cookie = format!("instance-other={id}");
    assert!(!server.request("GET", "/", &[("cookie", &other_cookie)], "").await.text().contains(id));

    let ended = server.request("POST", &format!("/end/{id}"), &[FORM, ("cookie", &pair)], "").await;
    assert_eq!((ended.status, ended.header("location")), (303, "/"));
    let (pair_after, attributes) = cookie(&ended);
    assert_eq!(pair_after, "instance-default=");
    assert!(attributes.contains("Max-Age=0"), "{attributes}");
    assert_eq!(get(server.port, host, "/").await.status, 404);
    assert!(!server.request("GET", "/", &[("cookie", &pair)], "").await.text().contains(url));
    // Ending it again does no harm.
    assert_eq!(server.request("POST", &format!("/end/{id}"), &[FORM], "").await.status, 303);
    assert_eq!(server.request("POST", "/end/nonsense", &[FORM], "").await.status, 303);
}

#[tokio::test]
async fn a_cookie_is_secure_if_the_visitor_came_over_tls() {
    let server = Server::start(&[]).await;
    let acquired = server.request("POST", "/try/default", &[FORM, ("x-forwarded-proto", "https")], "").await;
    let (pair, attributes) = cookie(&acquired);
    assert!(attributes.ends_with("; Secure") && attributes.starts_with("Path=/; "), "{attributes}");
    assert!(pair.starts_with("__Host-instance-default="), "{pair}");
    let shows = async |cookie: &str, proto: &str| {
        let headers = [("cookie", cookie), ("x-forwarded-proto", proto)];
        server.request("GET", "/", &headers, "").await.text().contains("action=\"/end/default-")
    };
    assert!(shows(&pair, "https").await);
    // The script of an instance can set a cookie of the other name for the front page.
    let plain = pair.trim_start_matches("__Host-");
    assert!(!shows(plain, "https").await);
    assert!(!shows(&pair, "http").await);
}

#[tokio::test]
async fn a_button_that_fails_answers_with_a_page() {
    let settings = [("RATE_LIMIT_HOURLY", "1"), ("POOL_TARGET_SIZE", "1"), ("POOL_MAX_SIZE", "1")];
    let server = Server::start(&settings).await;
    let click = async |template: &str, visitor: &str| {
        let headers = [FORM, ("x-forwarded-for", visitor)];
        request(server.port, "POST", "localhost", &format!("/try/{template}"), &headers, "").await
    };
    assert_eq!(click("default", "203.0.113.1").await.status, 303);
    for (template, visitor, status) in
        [("default", "203.0.113.1", 429), ("default", "203.0.113.2", 503), ("none", "203.0.113.2", 404)]
    {
        let page = click(template, visitor).await;
        assert_eq!((page.status, page.header("content-type")), (status, "text/html; charset=utf-8"));
        assert!(!page.headers.contains_key("set-cookie"));
        assert_eq!(page.headers.contains_key("retry-after"), status != 404);
        assert!(page.headers.contains_key("content-security-policy"));
    }
    assert_eq!(server.request("GET", "/try/default", &[], "").await.status, 405);
}

#[tokio::test]
async fn every_template_has_its_button() {
    let server = Server::with_file(
        &[],
        r#"
        [templates.first]
        title = "The <first>"
        command = ["try-it-now", "sample-app"]
        [templates.second]
        command = ["try-it-now", "sample-app"]
        "#,
    )
    .await
    .full()
    .await;
    let front = server.request("GET", "/", &[], "").await.text();
    for part in [r#"action="/try/first""#, r#"action="/try/second""#, "The &lt;first&gt;"] {
        assert!(front.contains(part), "{part} in {front}");
    }
    let acquired = server.request("POST", "/try/second", &[FORM], "").await;
    assert!(acquired.header("location").starts_with("http://second-"));
}
