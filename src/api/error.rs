//! [`ApiError`]: the only map from errors to a response's status, code, text and headers.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::body::Body;
use super::response;
use crate::instance::{EndReason, ExtendRefused, RateLimited, RateLimits, ReachedLimit};
use crate::pool::AcquireError;
use crate::request::RequestId;
use crate::store::StoreError;

/// An error that a client receives as a response. Each kind has one status and one code, which the API's contract
/// fixes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The request is invalid; the text says why.
    #[error("{0}")]
    InvalidRequest(String),
    /// The request breaks a rule of HTTP in its head.
    #[error("the request's head is malformed")]
    MalformedHead,
    /// The client closed its write half inside the request's body, or the framing of the body breaks a rule of HTTP.
    #[error("the request's body ends early or is malformed")]
    MalformedBody,
    /// The head or the body did not arrive in time.
    #[error("the request took too long to arrive")]
    Timeout,
    /// The extension would exceed this longest TTL, counted from assignment.
    #[error("maximum TTL exceeded")]
    MaxTtlExceeded(Duration),
    /// The API key is wrong or missing.
    #[error("unauthorized")]
    Unauthorized,
    /// The instance's token is missing, or is another instance's.
    #[error("this needs the instance's token")]
    Forbidden,
    /// The page of another website sent an unsafe request.
    #[error("requests from other sites are refused")]
    CrossSite,
    /// There is no such path, template, instance or node; the text names which kind.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// The path exists, but not with this method; the text is the value of the `Allow` header.
    #[error("method not allowed")]
    MethodNotAllowed(&'static str),
    /// The body is longer than [`MAX_BODY`](super::MAX_BODY).
    #[error("request body too large")]
    TooLarge,
    /// The body is no JSON, and its declared media type says so.
    #[error("unsupported media type, use application/json")]
    UnsupportedMediaType,
    /// The head is too long, or has too many header fields.
    #[error("request headers too large")]
    HeadersTooLarge,
    /// The request's host is neither an instance's nor the API's.
    #[error("this server does not answer for that host")]
    Misdirected,
    /// The visitor has reached a rate limit.
    #[error("rate limit exceeded")]
    RateLimited(RateLimited),
    /// The visitor has reached the lower quota, and may acquire more with a proof of work for this challenge.
    #[error("rate limit exceeded without a proof of work")]
    ProofRequired(RateLimited, Box<serde_json::Value>),
    /// No instance is ready; a retry makes sense after this time.
    #[error("no instance is ready, try again shortly")]
    PoolExhausted(Duration),
    /// The instance was assigned until recently, and ended for this reason.
    #[error("instance {}", .0.name())]
    InstanceEnded(EndReason),
    /// The instance's app refuses connections or closes them early, or the node that runs it cannot be reached.
    #[error("the app does not answer")]
    AppUnreachable,
    /// The instance's app did not respond within its deadline.
    #[error("the app did not answer in time")]
    AppTimeout,
    /// The store did not answer within its deadline.
    #[error("store unavailable")]
    StoreUnavailable,
    /// The queue did not answer within its deadline.
    #[error("queue unavailable")]
    QueueUnavailable,
    /// The client has as many requests in flight as it may have.
    #[error("too many requests at a time")]
    TooManyRequests,
    /// The instance has as many requests in flight as it may have.
    #[error("this instance has too many requests in progress")]
    InstanceBusy,
    /// The server has reached its limit of connections.
    #[error("too many connections")]
    TooManyConnections,
    /// An internal error; the code names the operation that failed.
    #[error("internal error")]
    Internal(&'static str),
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: String,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<String>,
    /// What a client solves to acquire more, in ALTCHA's JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge: Option<&'a serde_json::Value>,
    request_id: &'a str,
}

impl ApiError {
    /// Returns the HTTP status.
    pub fn status(&self) -> StatusCode {
        use ApiError as E;
        match self {
            E::InvalidRequest(_) | E::MalformedHead | E::MalformedBody | E::MaxTtlExceeded(_) => {
                StatusCode::BAD_REQUEST
            }
            E::Timeout => StatusCode::REQUEST_TIMEOUT,
            E::Unauthorized => StatusCode::UNAUTHORIZED,
            E::CrossSite | E::Forbidden => StatusCode::FORBIDDEN,
            E::NotFound(_) => StatusCode::NOT_FOUND,
            E::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            E::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            E::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            E::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            E::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            E::RateLimited(_) | E::ProofRequired(..) | E::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            E::InstanceEnded(_) => StatusCode::GONE,
            E::AppUnreachable => StatusCode::BAD_GATEWAY,
            E::AppTimeout => StatusCode::GATEWAY_TIMEOUT,
            E::PoolExhausted(_)
            | E::StoreUnavailable
            | E::QueueUnavailable
            | E::TooManyConnections
            | E::InstanceBusy => StatusCode::SERVICE_UNAVAILABLE,
            E::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Returns the code, by which clients distinguish errors.
    pub fn code(&self) -> &'static str {
        use ApiError as E;
        match self {
            E::InvalidRequest(_) | E::MalformedHead | E::MalformedBody => "INVALID_REQUEST",
            E::Timeout => "REQUEST_TIMEOUT",
            E::MaxTtlExceeded(_) => "MAX_TTL_EXCEEDED",
            E::Unauthorized => "UNAUTHORIZED",
            E::CrossSite => "CROSS_SITE",
            E::Forbidden => "FORBIDDEN",
            E::NotFound(_) => "NOT_FOUND",
            E::MethodNotAllowed(_) => "METHOD_NOT_ALLOWED",
            E::TooLarge => "TOO_LARGE",
            E::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            E::HeadersTooLarge => "HEADERS_TOO_LARGE",
            E::Misdirected => "MISDIRECTED_REQUEST",
            E::RateLimited(_) | E::ProofRequired(..) => "RATE_LIMITED",
            E::PoolExhausted(_) => "POOL_EXHAUSTED",
            E::InstanceEnded(_) => "EXPIRED",
            E::AppUnreachable => "INSTANCE_UNREACHABLE",
            E::AppTimeout => "INSTANCE_SILENT",
            E::StoreUnavailable => "STORE_UNAVAILABLE",
            E::QueueUnavailable => "QUEUE_UNAVAILABLE",
            E::TooManyConnections => "TOO_MANY_CONNECTIONS",
            E::TooManyRequests => "TOO_MANY_REQUESTS",
            E::InstanceBusy => "INSTANCE_BUSY",
            E::Internal(code) => code,
        }
    }

    fn details(&self) -> Option<String> {
        match self {
            ApiError::RateLimited(limited) | ApiError::ProofRequired(limited, _) => Some(limited.to_string()),
            ApiError::MaxTtlExceeded(max) => {
                Some(format!("at most {} minutes from assignment", max.as_secs() / 60))
            }
            ApiError::Forbidden => Some(
                "send the token from the answer to the acquire in the header X-Instance-Token, or the API key"
                    .to_owned(),
            ),
            ApiError::CrossSite => {
                Some("a site with a button of its own belongs into BUTTON_ORIGINS".to_owned())
            }
            _ => None,
        }
    }

    /// Returns the seconds after which a retry makes sense; `None` when none does.
    pub fn retry_after(&self) -> Option<u64> {
        let retry_after = match self {
            ApiError::RateLimited(limited) | ApiError::ProofRequired(limited, _) => limited.retry_after,
            ApiError::PoolExhausted(retry_after) => *retry_after,
            ApiError::StoreUnavailable
            | ApiError::QueueUnavailable
            | ApiError::TooManyConnections
            | ApiError::TooManyRequests
            | ApiError::InstanceBusy => Duration::from_secs(1),
            _ => return None,
        };
        Some(retry_after.as_millis().div_ceil(1000).max(1) as u64)
    }

    /// Adds the headers that belong to the error, whether its body is JSON or a page.
    pub fn add_headers(&self, headers: &mut HeaderMap) {
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self {
            ApiError::RateLimited(limited) | ApiError::ProofRequired(limited, _) => {
                response::add_rate_limit_headers(
                    headers,
                    binding_limit(limited),
                    0,
                    self.retry_after().unwrap_or(0),
                );
            }
            ApiError::MethodNotAllowed(allow) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            // The head or the body was not read to its end, so what follows it cannot be parsed as a request.
            ApiError::MalformedHead
            | ApiError::MalformedBody
            | ApiError::Timeout
            | ApiError::HeadersTooLarge
            | ApiError::TooLarge => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
    }

    /// Creates the response with the error as JSON.
    pub fn to_response(&self, request_id: &RequestId) -> Response<Body> {
        let body = ErrorBody {
            error: self.to_string(),
            code: self.code(),
            details: self.details(),
            challenge: match self {
                ApiError::ProofRequired(_, challenge) => Some(challenge),
                _ => None,
            },
            request_id: request_id.as_str(),
        };
        let mut response = response::json(self.status(), &body);
        self.add_headers(response.headers_mut());
        response.headers_mut().insert(RequestId::HEADER, request_id.to_header_value());
        response
    }

    /// Maps the error of a store operation; `code` names the operation for [`ApiError::Internal`].
    pub fn from_store(error: StoreError, code: &'static str) -> Self {
        match error {
            StoreError::Unavailable(_) => ApiError::StoreUnavailable,
            StoreError::Unknown | StoreError::Refused(_) | StoreError::NotExtended(ExtendRefused::Over) => {
                ApiError::NotFound("instance")
            }
            StoreError::NotExtended(ExtendRefused::MaxTtlExceeded(max)) => ApiError::MaxTtlExceeded(max),
            StoreError::NotExtended(ExtendRefused::RateLimited(limited)) => ApiError::RateLimited(limited),
            StoreError::Exists => ApiError::Internal(code),
        }
    }
}

/// Returns the limit that the visitor has to wait for. If both windows are used up, that is the day's, which ends later.
fn binding_limit(limited: &RateLimited) -> u32 {
    let RateLimits { hourly, daily, concurrent } = limited.limits;
    if limited.reached == ReachedLimit::Concurrent {
        return concurrent;
    }
    let in_this_hour = limited.retry_after <= Duration::from_secs(3600);
    // A daily limit that is not above the hourly one is always reached first.
    if hourly > 0 && (daily == 0 || (hourly < daily && in_this_hour)) { hourly } else { daily }
}

impl From<AcquireError> for ApiError {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::NoTemplate => ApiError::NotFound("template"),
            AcquireError::RateLimited(limited) => ApiError::RateLimited(limited),
            AcquireError::Exhausted { retry_after } => ApiError::PoolExhausted(retry_after),
            AcquireError::Store(StoreError::Unavailable(_)) => ApiError::StoreUnavailable,
            AcquireError::Store(_) => ApiError::Internal("ACQUIRE_ERROR"),
        }
    }
}
