//! The cookies by which the front page finds the instances that a visitor has: one a template, with the instance's id
//! and its token.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, header};

use crate::api::Body;
use crate::instance::{ClaimToken, InstanceId};

/// The prefix of a cookie's name, in front of the template's name.
const NAME_PREFIX: &str = "instance-";
/// The prefix over TLS. A browser takes a cookie of such a name from this very host only: the script of an instance,
/// whose host is below this one, cannot set it.
const SECURE_NAME_PREFIX: &str = "__Host-instance-";

/// An instance that a visitor claims to have.
pub(super) struct ClaimedInstance<'a> {
    pub(super) id: InstanceId,
    /// The instance's token, if the cookie is genuine.
    pub(super) token: &'a [u8],
}

/// Returns the instances in the cookies of a request.
pub(super) fn read(headers: &HeaderMap, is_secure: bool) -> impl Iterator<Item = ClaimedInstance<'_>> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(move |cookie| {
            let (template, value) = cookie.trim().strip_prefix(name_prefix(is_secure))?.split_once('=')?;
            let (id, token) = value.split_once('.')?;
            let id = InstanceId::parse(id).ok().filter(|id| id.template() == template)?;
            Some(ClaimedInstance { id, token: token.as_bytes() })
        })
}

/// Sets the cookie of an instance's template. The cookie lasts for `max_ttl`, the longest TTL to which the lease can be
/// extended: whether the instance still runs, the front page asks the store.
pub(super) fn set(
    response: &mut Response<Body>,
    id: &InstanceId,
    token: ClaimToken,
    max_ttl: Duration,
    is_secure: bool,
) {
    append(response, id.template(), &format!("{id}.{}", token.reveal()), max_ttl.as_secs(), is_secure);
}

/// Clears the cookie of a template.
pub(super) fn clear(response: &mut Response<Body>, template: &str, is_secure: bool) {
    append(response, template, "", 0, is_secure);
}

fn append(response: &mut Response<Body>, template: &str, value: &str, max_age: u64, is_secure: bool) {
    let (prefix, secure) = (name_prefix(is_secure), if is_secure { "; Secure" } else { "" });
    let cookie =
        format!("{prefix}{template}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}");
    if let Ok(value) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
}

fn name_prefix(is_secure: bool) -> &'static str {
    if is_secure { SECURE_NAME_PREFIX } else { NAME_PREFIX }
}
