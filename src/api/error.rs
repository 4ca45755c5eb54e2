//! The only map from what went wrong to what the client is told.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use super::body::Body;
use super::response;
use crate::instance::{EndReason, ExtendRefused, Limits, RateLimited};
use crate::pool::AcquireError;
use crate::request::RequestId;
use crate::store::StoreError;

/// An answer that is an error. Each kind has one status and one code, fixed by the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The request itself is wrong; the text says how.
    #[error("{0}")]
    InvalidRequest(String),
    /// The head broke a rule of HTTP.
    #[error("the request's head is malformed")]
    MalformedHead,
    /// The head or the body did not come in time.
    #[error("the request took too long to arrive")]
    Timeout,
    /// The extension would pass the longest time from assignment.
    #[error("maximum TTL exceeded")]
    MaxTtlExceeded(Duration),
    /// The key is wrong or missing.
    #[error("unauthorized")]
    Unauthorized,
    /// No such thing.
    #[error("{0} not found")]
    NotFound(&'static str),
    /// The path exists, with other methods.
    #[error("method not allowed")]
    MethodNotAllowed(&'static str),
    /// The body is too large.
    #[error("request body too large")]
    TooLarge,
    /// The body is not of a type that is read here.
    #[error("unsupported media type, use application/json")]
    UnsupportedMediaType,
    /// The head is too large.
    #[error("request headers too large")]
    HeadersTooLarge,
    /// The host is not ours.
    #[error("this server does not answer for that host")]
    Misdirected,
    /// The visitor has had enough.
    #[error("rate limit exceeded")]
    RateLimited(RateLimited),
    /// Nothing is ready.
    #[error("no instance is ready, try again shortly")]
    PoolExhausted(Duration),
    /// The instance was somebody's until a short while ago.
    #[error("instance {}", .0.name())]
    Ended(EndReason),
    /// The instance's app refuses connections or breaks them off.
    #[error("the app does not answer")]
    Unreachable,
    /// The instance's app says nothing.
    #[error("the app did not answer in time")]
    Silent,
    /// The store did not answer.
    #[error("store unavailable")]
    StoreUnavailable,
    /// The server holds as many connections as it may.
    #[error("too many connections")]
    TooManyConnections,
    /// A fault of ours while doing what the code names.
    #[error("internal error")]
    Internal(&'static str),
}

#[derive(Serialize)]
struct Shape<'a> {
    error: String,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<String>,
    request_id: &'a str,
}

impl ApiError {
    /// The status.
    pub fn status(&self) -> StatusCode {
        use ApiError as E;
        match self {
            E::InvalidRequest(_) | E::MalformedHead | E::MaxTtlExceeded(_) => StatusCode::BAD_REQUEST,
            E::Timeout => StatusCode::REQUEST_TIMEOUT,
            E::Unauthorized => StatusCode::UNAUTHORIZED,
            E::NotFound(_) => StatusCode::NOT_FOUND,
            E::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            E::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            E::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            E::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            E::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            E::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            E::Ended(_) => StatusCode::GONE,
            E::Unreachable => StatusCode::BAD_GATEWAY,
            E::Silent => StatusCode::GATEWAY_TIMEOUT,
            E::PoolExhausted(_) | E::StoreUnavailable | E::TooManyConnections => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            E::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The code.
    pub fn code(&self) -> &'static str {
        use ApiError as E;
        match self {
            E::InvalidRequest(_) | E::MalformedHead => "INVALID_REQUEST",
            E::Timeout => "REQUEST_TIMEOUT",
            E::MaxTtlExceeded(_) => "MAX_TTL_EXCEEDED",
            E::Unauthorized => "UNAUTHORIZED",
            E::NotFound(_) => "NOT_FOUND",
            E::MethodNotAllowed(_) => "METHOD_NOT_ALLOWED",
            E::TooLarge => "TOO_LARGE",
            E::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            E::HeadersTooLarge => "HEADERS_TOO_LARGE",
            E::Misdirected => "MISDIRECTED_REQUEST",
            E::RateLimited(_) => "RATE_LIMITED",
            E::PoolExhausted(_) => "POOL_EXHAUSTED",
            E::Ended(_) => "EXPIRED",
            E::Unreachable => "INSTANCE_UNREACHABLE",
            E::Silent => "INSTANCE_SILENT",
            E::StoreUnavailable => "STORE_UNAVAILABLE",
            E::TooManyConnections => "TOO_MANY_CONNECTIONS",
            E::Internal(code) => code,
        }
    }

    fn details(&self) -> Option<String> {
        match self {
            ApiError::RateLimited(limited) => Some(limited.to_string()),
            ApiError::MaxTtlExceeded(max) => {
                Some(format!("at most {} minutes from assignment", max.as_secs() / 60))
            }
            _ => None,
        }
    }

    /// Seconds after which a retry makes sense.
    pub fn retry_after(&self) -> Option<u64> {
        let wait = match self {
            ApiError::RateLimited(limited) => limited.retry_after,
            ApiError::PoolExhausted(wait) => *wait,
            ApiError::StoreUnavailable | ApiError::TooManyConnections => Duration::from_secs(1),
            _ => return None,
        };
        Some(wait.as_millis().div_ceil(1000).max(1) as u64)
    }

    /// Adds the headers that belong to the error, in whatever form its body is.
    pub fn decorate(&self, headers: &mut HeaderMap) {
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match self {
            ApiError::RateLimited(limited) => {
                response::quota(headers, binding_limit(limited), 0, self.retry_after().unwrap_or(0));
            }
            ApiError::MethodNotAllowed(allow) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            // What follows a head or a body that was not read to its end cannot be told from a request.
            ApiError::MalformedHead | ApiError::Timeout | ApiError::HeadersTooLarge | ApiError::TooLarge => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
    }

    /// The error as the contract's JSON.
    pub fn answer(&self, id: &RequestId) -> Response<Body> {
        let shape = Shape {
            error: self.to_string(),
            code: self.code(),
            details: self.details(),
            request_id: id.as_str(),
        };
        let mut answer = response::json(self.status(), &shape);
        self.decorate(answer.headers_mut());
        answer.headers_mut().insert(RequestId::HEADER, id.value());
        answer
    }

    /// What a failed store step means to a client; `code` names what was being done.
    pub fn from_store(error: StoreError, code: &'static str) -> Self {
        match error {
            StoreError::Unavailable(_) => ApiError::StoreUnavailable,
            StoreError::Unknown | StoreError::Refused(_) | StoreError::NotExtended(ExtendRefused::Over) => {
                ApiError::NotFound("instance")
            }
            StoreError::NotExtended(ExtendRefused::MaxTtlExceeded(max)) => ApiError::MaxTtlExceeded(max),
            StoreError::Exists => ApiError::Internal(code),
        }
    }
}

/// The limit of the window that a visitor has to wait for. Where both are used up, that is the day's, which ends later.
fn binding_limit(limited: &RateLimited) -> u32 {
    let Limits { hourly, daily } = limited.limits;
    let in_this_hour = limited.retry_after <= Duration::from_secs(3600);
    // A day's limit that is not above the hour's is always reached first.
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
