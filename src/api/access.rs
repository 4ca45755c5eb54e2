//! Who may do what: the operator, and the visitor of an instance.
//!
//! | caller | proof | may |
//! |---|---|---|
//! | operator | the API key; without `API_KEY`, a program on this host needs none | everything |
//! | visitor of an instance | the instance's token, which the answer of the acquire has | read its credentials and logs, extend it, end it |
//! | anyone | | open the app, acquire, read an instance's state |
//!
//! With `API_KEY`, all of `/api/v1/` and `/metrics` need the key.

use std::net::IpAddr;

use http::HeaderName;
use http::request::Parts;

use super::path::{Path, needs_api_key};
use super::request::{ApiRequest, query_parameter};
use super::{Api, ApiError};
use crate::instance::{Instance, InstanceId, State};
use crate::pool::Asker;
use crate::request::{authority, canonical_host, has_proxy_fields};
use crate::template::Secret;

/// The header with an instance's token.
pub const INSTANCE_TOKEN_HEADER: HeaderName = HeaderName::from_static("x-instance-token");

/// The API key of a server. There is always one.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// The key.
    pub secret: Secret,
    /// Whether every call of the API needs the key (`API_KEY` is set), or only an operator's call does.
    pub is_required: bool,
}

/// What a caller may know of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InstanceAccess {
    /// What the operator and the instance's visitor may know: its credentials and its output.
    Full,
    /// What anyone may know who knows its id: its state and its deadline.
    StateOnly,
}

impl Api {
    /// Checks that the caller may call this path.
    ///
    /// # Errors
    /// [`ApiError::Unauthorized`] when the path needs the operator, or the API key, and the caller has not proved to be
    /// one or to have it.
    pub(super) fn check_caller(&self, path: &Path<'_>, request: &ApiRequest<'_>) -> Result<(), ApiError> {
        let needs_operator =
            path.is_operators() || (self.api_key.is_required && needs_api_key(request.head.uri.path()));
        // A node that asks for the log of an instance has checked its own caller.
        let is_peer = matches!(path, Path::Logs(_)) && request.context.provenance.is_trusted();
        if needs_operator && !is_peer && !self.is_operator(request) {
            return Err(ApiError::Unauthorized);
        }
        Ok(())
    }

    /// Returns whether the operator sent the request.
    fn is_operator(&self, request: &ApiRequest<'_>) -> bool {
        self.has_api_key(request.head) || self.is_operator_without_key(request)
    }

    fn is_operator_without_key(&self, request: &ApiRequest<'_>) -> bool {
        !self.api_key.is_required && is_on_this_host(request)
    }

    /// Returns whether the caller has the API key, or is a peer that has checked its own caller.
    fn has_proof(&self, request: &ApiRequest<'_>) -> bool {
        self.has_api_key(request.head) || request.context.provenance.is_trusted()
    }

    /// Returns whether a request has the API key: in the header `X-API-Key`, or in the query parameter `api_key`, which
    /// is for clients that cannot set headers, such as a browser's `EventSource`.
    fn has_api_key(&self, head: &Parts) -> bool {
        let in_header = head.headers.get("x-api-key").map(|value| value.as_bytes());
        let in_query = head.uri.query().and_then(|query| query_parameter(query, "api_key"));
        in_header.or(in_query.as_deref()).is_some_and(|offered| self.api_key.secret.matches(offered))
    }

    /// Returns whether the caller needs no instance's token: it has the API key, or is a peer that has checked its own
    /// caller, or is a program on this host that needs no key. The last is not trusted if it offers a token: then the
    /// token decides.
    pub(super) fn is_trusted_without_token(&self, request: &ApiRequest<'_>) -> bool {
        self.has_proof(request)
            || (self.is_operator_without_key(request) && offered_token(request.head).is_none())
    }

    /// Returns what the caller may know of an instance.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`] when the request has a token and it is not the instance's.
    pub(super) fn instance_access(
        &self,
        instance: &Instance,
        request: &ApiRequest<'_>,
    ) -> Result<InstanceAccess, ApiError> {
        if self.is_trusted_without_token(request) {
            return Ok(InstanceAccess::Full);
        }
        match offered_token(request.head) {
            Some(offered) if has_token(instance, &offered) => Ok(InstanceAccess::Full),
            Some(_) => Err(ApiError::Forbidden),
            None => Ok(InstanceAccess::StateOnly),
        }
    }

    /// Checks the token that a request offers for an instance, if it offers one.
    ///
    /// # Errors
    /// [`ApiError::Forbidden`] when it is not the instance's, [`ApiError::NotFound`] when there is no such instance,
    /// [`ApiError::StoreUnavailable`].
    pub(super) async fn check_offered_token(
        &self,
        id: &InstanceId,
        request: &ApiRequest<'_>,
    ) -> Result<(), ApiError> {
        if offered_token(request.head).is_none() {
            return Ok(());
        }
        self.check_token(id, request, |_| true, "GET_ERROR").await
    }

    /// Returns who asks for an instance by its id. A client with the API key, and a peer, may ask for as many unknown
    /// ids as it likes.
    pub(super) fn asker(&self, request: &ApiRequest<'_>) -> Asker {
        if self.has_proof(request) {
            return Asker::Trusted;
        }
        Asker::Client(request.context.client.address)
    }

    /// Checks that the caller may change an assigned instance: extend it, or end it.
    ///
    /// # Errors
    /// See [`Api::check_token`]; an instance that is not assigned counts as missing.
    pub(super) async fn check_change(
        &self,
        id: &InstanceId,
        request: &ApiRequest<'_>,
        code: &'static str,
    ) -> Result<(), ApiError> {
        let is_assigned = |instance: &Instance| matches!(instance.state(), State::Assigned { .. });
        self.check_token(id, request, is_assigned, code).await
    }

    /// Checks that the caller needs no token, or offers that of the instance. Of the instance's record only one that
    /// `counts` is looked at.
    ///
    /// # Errors
    /// [`ApiError::NotFound`] when there is no such instance, [`ApiError::Forbidden`] when the caller has not proved to
    /// be its visitor or the operator. If the store fails, the error of the operation that `code` names.
    pub(super) async fn check_token(
        &self,
        id: &InstanceId,
        request: &ApiRequest<'_>,
        counts: fn(&Instance) -> bool,
        code: &'static str,
    ) -> Result<(), ApiError> {
        if self.is_trusted_without_token(request) {
            return Ok(());
        }
        let found = self.instances.get(id, self.asker(request)).await;
        let found = found.map_err(|error| ApiError::from_store(error, code))?;
        let instance = found.filter(counts).ok_or(ApiError::NotFound("instance"))?;
        match self.instance_access(&instance, request)? {
            InstanceAccess::Full => Ok(()),
            InstanceAccess::StateOnly => Err(ApiError::Forbidden),
        }
    }
}

/// Returns whether `offered` is the token of the instance's visitor.
pub(super) fn has_token(instance: &Instance, offered: &[u8]) -> bool {
    instance.lease().is_some_and(|lease| lease.token().matches(offered))
}

/// Returns the token that a request offers. An event stream may have it in the query, since a browser's `EventSource`
/// sends no headers of its own.
fn offered_token(head: &Parts) -> Option<Vec<u8>> {
    let in_header = head.headers.get(INSTANCE_TOKEN_HEADER).map(|value| value.as_bytes().to_vec());
    let in_query = || {
        let is_stream = matches!(Path::parse(head.uri.path()), Path::Status(_));
        head.uri.query().filter(|_| is_stream).and_then(|query| query_parameter(query, "token"))
    };
    in_header.or_else(in_query)
}

/// Returns whether a program on this host sent the request, and named this host in it. A proxy on this host that adds no
/// field of its own still passes the name on that its visitors use.
fn is_on_this_host(request: &ApiRequest<'_>) -> bool {
    let host = authority(&request.head.uri, &request.head.headers).and_then(canonical_host);
    request.context.client.is_loopback
        && !has_proxy_fields(&request.head.headers)
        && host.is_none_or(|host| {
            let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
        })
}
