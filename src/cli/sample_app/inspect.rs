//! A request as it arrived here, and a cookie with any domain: for checking the proxy in front.

use http::header::SET_COOKIE;
use http::{HeaderValue, Request, StatusCode};
use serde_json::{Map, Value, json};

use super::App;
use super::form::field;
use super::reply::{self, Reply};

/// `/whoami`, by any method: the request's line, and each header name (lower case) with all its values in order.
pub(super) fn whoami<B>(app: &App, request: &Request<B>) -> Reply {
    let mut headers = Map::new();
    for name in request.headers().keys() {
        let values = request.headers().get_all(name).iter();
        let values = values.map(|value| Value::from(String::from_utf8_lossy(value.as_bytes())));
        headers.insert(name.to_string(), values.collect());
    }
    let shown = json!({
        "id": app.settings.own_id(),
        "host": app.settings.own_host(),
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "query": request.uri().query(),
        "version": format!("{:?}", request.version()),
        "headers": headers,
    });
    reply::json(StatusCode::OK, &shown)
}

/// `GET /cookie[?domain=X]`: sets the cookie `demo=1`, with that `Domain` when one is given.
pub(super) fn cookie(query: Option<&str>) -> Reply {
    let is_host = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let attribute = match field(query.unwrap_or_default(), "domain") {
        Ok(None) => String::new(),
        Ok(Some(domain)) if (1..=253).contains(&domain.len()) && domain.chars().all(is_host) => {
            format!("; Domain={domain}")
        }
        _ => return reply::text(StatusCode::BAD_REQUEST, "domain must be a host name\n"),
    };
    let cookie = format!("demo=1; Path=/; HttpOnly; SameSite=Lax{attribute}");
    let mut reply = reply::json(StatusCode::OK, &json!({ "set_cookie": cookie }));
    let value = HeaderValue::from_str(&cookie).expect("letters, digits, dots and dashes only");
    reply.headers_mut().insert(SET_COOKIE, value);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_has_the_domain_asked_for_and_none_otherwise() {
        assert_eq!(cookie(None).headers()[SET_COOKIE], "demo=1; Path=/; HttpOnly; SameSite=Lax");
        let reply = cookie(Some("domain=.example.test"));
        assert_eq!(
            reply.headers()[SET_COOKIE],
            "demo=1; Path=/; HttpOnly; SameSite=Lax; Domain=.example.test"
        );
    }

    #[test]
    fn a_domain_cannot_smuggle_in_another_attribute_or_header() {
        for bad in ["domain=", "domain=a%3B+Secure", "domain=a%0D%0AX:1", "domain=a&domain=b"] {
            assert_eq!(cookie(Some(bad)).status(), StatusCode::BAD_REQUEST, "{bad}");
        }
    }
}
