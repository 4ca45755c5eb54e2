//! The cookies by which the front page finds the instances that a visitor has: one a template, with the instance's id.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, header};

use crate::api::Body;
use crate::instance::InstanceId;

/// The prefix of a cookie's name, in front of the template's name.
const NAME_PREFIX: &str = "instance-";

/// Returns the instance ids in the cookies of a request.
pub(super) fn instance_ids(headers: &HeaderMap) -> impl Iterator<Item = InstanceId> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| {
            let (template, id) = cookie.trim().strip_prefix(NAME_PREFIX)?.split_once('=')?;
            InstanceId::parse(id).ok().filter(|id| id.template() == template)
        })
}

/// Sets the cookie of an instance's template. The cookie lasts for `max_ttl`, the longest TTL to which the lease can be
/// extended: whether the instance still runs, the front page asks the store.
pub(super) fn set(response: &mut Response<Body>, id: &InstanceId, max_ttl: Duration, is_secure: bool) {
    let (seconds, secure) = (max_ttl.as_secs(), if is_secure { "; Secure" } else { "" });
    let template = id.template();
    append(
        response,
        &format!("{NAME_PREFIX}{template}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"),
    );
}

/// Clears the cookie of a template.
pub(super) fn clear(response: &mut Response<Body>, template: &str) {
    append(response, &format!("{NAME_PREFIX}{template}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"));
}

fn append(response: &mut Response<Body>, cookie: &str) {
    if let Ok(value) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}
