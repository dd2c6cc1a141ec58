//! Reads a request's body, as long as its bound and no longer.
//!
//! In:    a body from the network.      Out: its bytes, or 413 and 408.
//! Owner: the request.
//! Invariant: no body is held that is longer than its path's bound, or slower than [`BODY_WAIT_MAX`].
//! Not here: what the bytes mean (`causeway-spec`, `causeway-events::binding`).

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use super::problem::{Problem, code};

/// Longest body of a command: a registration with all its metadata, a thousand tokens.
pub(super) const COMMAND_BYTES_MAX: usize = 1024 * 1024;
/// Longest text of documents; what `causeway-spec` reads.
pub(super) const DOCUMENTS_BYTES_MAX: usize = causeway_spec::TEXT_BYTES_MAX;
/// Longest body of a publish.
pub(super) const EVENTS_BYTES_MAX: usize = causeway_events::binding::BODY_BYTES_MAX;
/// How long a body may take to come; then its connection's place is somebody else's.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);

/// The whole body, at most `most` bytes.
pub(super) async fn read(body: Body, most: usize) -> Result<Bytes, Problem> {
    let whole = Limited::new(body, most).collect();
    match tokio::time::timeout(BODY_WAIT_MAX, whole).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let text =
                format!("the body is longer than {most} bytes, which is the most that this path reads");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, code::BODY, text))
        }
        Ok(Err(error)) => {
            let text = format!("the body broke off: {error}");
            Err(Problem::new(StatusCode::BAD_REQUEST, code::BODY, text))
        }
        Err(_) => {
            let text = format!("the body did not come within {} s", BODY_WAIT_MAX.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, code::BODY, text))
        }
    }
}
