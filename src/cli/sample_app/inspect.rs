//! A request as it arrived, and a cookie with any domain, to check the proxy in front.

use http::header::SET_COOKIE;
use http::{HeaderValue, Request, StatusCode};
use serde_json::{Map, Value, json};

use super::app::SampleApp;
use super::form::field;
use super::response::{self, AppResponse};

/// Answers `/whoami` for any method: the request line, and each header name (lower case) with all its values in order.
pub(super) fn whoami<B>(app: &SampleApp, request: &Request<B>) -> AppResponse {
    let mut headers = Map::new();
    for name in request.headers().keys() {
        let values = request.headers().get_all(name).iter();
        let values = values.map(|value| Value::from(String::from_utf8_lossy(value.as_bytes())));
        headers.insert(name.to_string(), values.collect());
    }
    let shown = json!({
        "id": app.settings.current_id(),
        "host": app.settings.current_host(),
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "query": request.uri().query(),
        "version": format!("{:?}", request.version()),
        "headers": headers,
    });
    response::json(StatusCode::OK, &shown)
}

/// Answers `GET /cookie[?domain=X]`: sets the cookie `demo=1`, with the `Domain` if one is given.
pub(super) fn cookie(query: Option<&str>) -> AppResponse {
    let is_host = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let attribute = match field(query.unwrap_or_default(), "domain") {
        Ok(None) => String::new(),
        Ok(Some(domain)) if (1..=253).contains(&domain.len()) && domain.chars().all(is_host) => {
            format!("; Domain={domain}")
        }
        _ => return response::text(StatusCode::BAD_REQUEST, "domain must be a host name\n"),
    };
    let cookie = format!("demo=1; Path=/; HttpOnly; SameSite=Lax{attribute}");
    let mut response = response::json(StatusCode::OK, &json!({ "set_cookie": cookie }));
    let value = HeaderValue::from_str(&cookie).expect("letters, digits, dots and dashes only");
    response.headers_mut().insert(SET_COOKIE, value);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_has_the_requested_domain_or_none() {
        assert_eq!(cookie(None).headers()[SET_COOKIE], "demo=1; Path=/; HttpOnly; SameSite=Lax");
        let response = cookie(Some("domain=.example.test"));
        assert_eq!(
            response.headers()[SET_COOKIE],
            "demo=1; Path=/; HttpOnly; SameSite=Lax; Domain=.example.test"
        );
    }

    #[test]
    fn a_domain_cannot_add_another_attribute_or_header() {
        for bad in ["domain=", "domain=a%3B+Secure", "domain=a%0D%0AX:1", "domain=a&domain=b"] {
            assert_eq!(cookie(Some(bad)).status(), StatusCode::BAD_REQUEST, "{bad}");
        }
    }
}
