//! Which error a client receives when an exchange fails, and whether it can still receive one.

use std::io;

use pingora_core::{Error, ErrorSource, ErrorType};

use crate::api::ApiError;

/// Returns the error for a failed exchange. `is_local` says whether the upstream is an app of this node.
pub(super) fn api_error(error: &Error, is_local: bool) -> ApiError {
    use ErrorType::{ConnectTimedout, ReadTimedout, WriteTimedout};
    match (error.esource(), error.etype()) {
        // A node that accepts no connection is gone, as an app that refuses one is.
        (ErrorSource::Upstream, ConnectTimedout) if !is_local => ApiError::AppUnreachable,
        (ErrorSource::Upstream, ConnectTimedout | ReadTimedout | WriteTimedout) => ApiError::AppTimeout,
        (ErrorSource::Upstream, _) => ApiError::AppUnreachable,
        (ErrorSource::Downstream, ReadTimedout) => ApiError::Timeout,
        (ErrorSource::Downstream, _) if is_body_fault(error) => ApiError::MalformedBody,
        _ => ApiError::Internal("PROXY_ERROR"),
    }
}

/// Returns whether the client's connection or stream ended, so that no response can reach it. Nothing is wrong with its
/// request.
pub(super) fn is_client_gone(error: &Error) -> bool {
    use ErrorType::{ConnectionClosed, H2Error, ReadError, WriteError, WriteTimedout};
    *error.esource() == ErrorSource::Downstream
        && matches!(error.etype(), ConnectionClosed | H2Error | ReadError | WriteError | WriteTimedout)
        && !is_body_fault(error)
}

/// Returns whether the client's body broke off or is malformed, which the guard reports on HTTP/1.
fn is_body_fault(error: &Error) -> bool {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    let cause = error.root_cause().downcast_ref::<io::Error>();
    *error.esource() == ErrorSource::Downstream
        && cause.is_some_and(|cause| matches!(cause.kind(), InvalidData | UnexpectedEof))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn downstream(kind: io::ErrorKind) -> Box<Error> {
        Error::because(ErrorType::ReadError, "reading body", io::Error::from(kind)).into_down()
    }

    #[test]
    fn only_a_body_that_breaks_off_is_the_clients_fault() {
        for kind in [io::ErrorKind::UnexpectedEof, io::ErrorKind::InvalidData] {
            let error = downstream(kind);
            assert!(!is_client_gone(&error));
            assert_eq!(api_error(&error, true), ApiError::MalformedBody);
        }
        for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe, io::ErrorKind::TimedOut] {
            assert!(is_client_gone(&downstream(kind)), "{kind}");
        }
        assert!(!is_client_gone(&Error::new_up(ErrorType::ConnectionClosed)));
        assert_eq!(api_error(&Error::new_up(ErrorType::ConnectionClosed), true), ApiError::AppUnreachable);
    }
}
