//! Event streams (`text/event-stream`), however they are filled.
//!
//! In:    a stream of events.      Out: a response that goes on.
//! Owner: the connection; the place among the open streams is given back when it ends.
//! Not here: what is streamed (`watch.rs`, `events.rs`), the end with the node (`server.rs`).

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use http::header::{ACCEPT, CACHE_CONTROL};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::OwnedSemaphorePermit;

/// How often a silent stream says that it is alive: below the 60 s at which common proxies give it up.
pub(super) const ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// What a client that reconnects shows.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Whether the caller asks for a stream.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|media| {
        media.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("text/event-stream"))
    })
}

/// The response whose body the events are.
pub(super) fn response(
    events: impl Stream<Item = Event> + Send + 'static,
    place: OwnedSemaphorePermit,
) -> Response {
    let events = events.map(move |event| {
        let _ = &place;
        Ok::<_, Infallible>(event)
    });
    let alive = KeepAlive::new().interval(ALIVE_INTERVAL);
    let mut response = Sse::new(events).keep_alive(alive).into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Asks proxies such as nginx not to hold events back.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
