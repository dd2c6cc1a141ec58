//! Events of a topic: published, read, and followed.
//!
//! In:    CloudEvents in binary, structured or batch mode.      Out: their offsets once durable; batches, event streams, WebSockets.
//! Owner: the router; a stream is its connection's.
//! Invariant: an event's place survives every form: `X-Causeway-…-Offset` of a batch, the id of a server-sent event, the extension
//! [`OFFSET`] of a WebSocket's message. Whoever shows the last one again misses nothing.
//! Not here: CloudEvents' forms (`causeway_events::binding`), consumers with leases (`subscriptions.rs`).

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use causeway_events::{CloudEvent, From, READ_EVENTS_MAX, Stored, Tail, binding, structured};
use causeway_model::Offset;
use futures_util::{SinkExt, StreamExt};
use http::header::UPGRADE;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::body::{self, EVENTS_BYTES_MAX};
use super::params::Params;
use super::problem::Problem;
use super::query::Query;
use super::route::Route;
use super::state::Door;
use super::stream::{self, LAST_EVENT_ID};

/// Events of one read that does not say how many.
const READ_EVENTS: usize = 100;
/// Extension that bears an event's offset in a WebSocket's messages.
const OFFSET: &str = "causewayoffset";
/// The first offset of a batch.
const FIRST: HeaderName = HeaderName::from_static("x-causeway-first-offset");
/// Where the next read goes on.
const NEXT: HeaderName = HeaderName::from_static("x-causeway-next-offset");

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/topics/{topic}/events", "Publishes events, all or none; durable when it answers", publish)
            .scoped()
            .body("application/cloudevents+json", "CloudEvents 1.0 in binary, structured or batch mode")
            .answers(&[(200, "{\"offsets\": […], \"duplicates\": […]}")]),
        Route::get("/v1/topics/{topic}/events", "Reads events, or follows them (event stream, WebSocket)", read)
            .scoped()
            .query(&[
                ("from", "offset, RFC 3339, earliest or latest; a batch begins at the earliest, a stream at the latest unless said"),
                ("limit", "most events of a batch, 100 unless said"),
            ])
            .answers(&[(200, "a batch, or text/event-stream when that is accepted"), (101, "a WebSocket of events in structured mode")]),
    ]
}

async fn publish(
    State(door): State<Door>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, Problem> {
    let (namespace, topic) = (params.namespace()?, params.name("topic")?);
    let events = door.events()?;
    let published = binding::decode(&headers, body::read(body, EVENTS_BYTES_MAX).await?)?;
    let answer = events.publish(&namespace, &topic, published).await?;
    let offsets: Vec<u64> = answer.offsets.iter().map(|offset| offset.get()).collect();
    Ok(Json(json!({ "offsets": offsets, "duplicates": answer.duplicates })))
}

async fn read(
    State(door): State<Door>,
    params: Params,
    query: Query,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let (namespace, topic) = (params.namespace()?, params.name("topic")?);
    let events = door.events()?;
    let from =
        query.get("from", "an offset, RFC 3339, earliest or latest", |text| text.parse::<From>().ok())?;
    if headers.contains_key(UPGRADE) {
        let upgrade = match upgrade {
            Ok(upgrade) => upgrade,
            Err(rejection) => {
                return Err(Problem::new(
                    rejection.status(),
                    super::problem::code::PARAMETER,
                    rejection.body_text(),
                ));
            }
        };
        let tail = events.tail(&namespace, &topic, from.unwrap_or(From::Latest)).await?;
        let place = door.stream()?;
        return Ok(upgrade.protocols(["cloudevents.json"]).on_upgrade(move |socket| async move {
            follow(socket, tail).await;
            drop(place);
        }));
    }
    if stream::is_wanted(&headers) {
        let from = resumed(&headers)?.or(from).unwrap_or(From::Latest);
        let tail = events.tail(&namespace, &topic, from).await?;
        return Ok(stream::response(tail.map(sse), door.stream()?));
    }
    let limit = query.count("limit", READ_EVENTS_MAX)?.unwrap_or(READ_EVENTS);
    let page = events.read(&namespace, &topic, from.unwrap_or(From::Earliest), limit).await?;
    let first = page.events.first().map_or(page.next, |event| event.offset);
    let (headers, body) = binding::encode_batch(page.events.iter().map(|stored| &*stored.event));
    let mut response = (headers, body).into_response();
    response.headers_mut().insert(FIRST, HeaderValue::from(first.get()));
    response.headers_mut().insert(NEXT, HeaderValue::from(page.next.get()));
    Ok(response)
}

/// Where a client that comes back goes on: after the last event that it saw.
fn resumed(headers: &HeaderMap) -> Result<Option<From>, Problem> {
    let Some(id) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let offset: Option<u64> = id.to_str().ok().and_then(|id| id.trim().parse().ok());
    let offset = offset.and_then(|offset| offset.checked_add(1));
    let offset = offset.ok_or_else(|| Problem::parameter("Last-Event-ID is not an offset"))?;
    Ok(Some(From::Offset(Offset::new(offset))))
}

fn sse(event: Result<Stored, causeway_events::Error>) -> Event {
    match event {
        Ok(stored) => {
            let text = structured::encode(&stored.event);
            Event::default().id(stored.offset.to_string()).data(String::from_utf8_lossy(&text))
        }
        Err(error) => {
            let data = json!({ "code": error.code(), "detail": error.text() });
            Event::default().event("error").data(data.to_string())
        }
    }
}

/// Sends events until the topic or the reader goes. What the reader says is read for its pings and its close, nothing else.
async fn follow(socket: WebSocket, mut tail: Tail) {
    let (mut write, mut read) = socket.split();
    loop {
        let message = tokio::select! {
            biased;
            // First, so that a busy topic does not keep a close or a ping from being heard.
            heard = read.next() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
            event = tail.next() => event,
        };
        let (message, is_last) = match message {
            Some(Ok(stored)) => (text(&stored), false),
            Some(Err(error)) => (close(close_code::ERROR, &error.to_string()), true),
            None => (close(close_code::AWAY, "the topic is gone, or the node stops"), true),
        };
        if write.send(message).await.is_err() || is_last {
            return;
        }
    }
}

fn text(stored: &Stored) -> Message {
    let mut event = CloudEvent::clone(&stored.event);
    event = event.with_extension(OFFSET, &stored.offset.to_string());
    Message::Text(Utf8Bytes::from(String::from_utf8_lossy(&structured::encode(&event)).into_owned()))
}

fn close(code: u16, reason: &str) -> Message {
    // A close frame's reason is at most 123 bytes.
    let reason: String = reason.chars().filter(char::is_ascii).take(120).collect();
    Message::Close(Some(CloseFrame { code, reason: reason.into() }))
}
