//! The router over real rooms on a store in memory: no sockets, simulated time.

#![allow(clippy::unwrap_used)]

mod config;
mod doors;
mod events;
mod node;
mod observed;
mod registry;
mod sagas;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use causeway_base::outbound::{Call, CallError, Pending};
use causeway_base::telemetry::Metrics;
use causeway_base::{Clock, Outbound, Scope, Seed};
use causeway_identity::{Authorities, CertAuthority};
use causeway_model::{Timestamp, TrustDomain};
use causeway_registry::Registry;
use causeway_saga::{Doors, Sagas};
use causeway_store::{Faults, Store};
use causeway_xds::Signals;
use futures_util::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt;

use super::{Rooms, router};
use crate::{Desk, Observed};

/// Answers every call: 402 for a path that holds `declined`, 503 for one that holds `down`, else 200 with `{"id": "x"}`.
#[derive(Default)]
struct Mesh {
    calls: Mutex<Vec<String>>,
}

impl Outbound for Mesh {
    fn call(&self, call: Call) -> Pending<Result<Response<Bytes>, CallError>> {
        let path = call.request.uri().to_string();
        let status = match &path {
            path if path.contains("declined") => 402,
            path if path.contains("down") => 503,
            _ => 200,
        };
        self.calls.lock().push(format!("{} {path}", call.request.method()));
        let body = Bytes::from_static(br#"{"id": "x"}"#);
        Box::pin(async move { Ok(Response::builder().status(status).body(body).unwrap()) })
    }
}

/// A node's rooms behind the router.
struct House {
    router: Router,
    rooms: Rooms,
    mesh: Arc<Mesh>,
    scope: Scope,
    problems: watch::Sender<Vec<String>>,
    is_ready: watch::Sender<bool>,
}

/// An answer, read to its end.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    /// The value, if the status is `status`.
    #[track_caller]
    fn is(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// The problem, if the status and the code are these.
    #[track_caller]
    fn refuses(self, status: u16, code: &str) -> Value {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let body = self.is(status);
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["status"], status);
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        body
    }

    fn revision(&self) -> u64 {
        self.headers["x-causeway-revision"].to_str().unwrap().parse().unwrap()
    }
}

impl House {
    async fn open() -> House {
        let (clock, scope, metrics) = (Clock::simulated(), Scope::root("test"), Metrics::default());
        let (store, mesh) = (Store::memory(Faults::none()), Arc::new(Mesh::default()));
        let options = causeway_registry::Options::default();
        let registry = Registry::open(store.clone(), clock.clone(), options, &metrics, &scope).unwrap();
        let events = causeway_events::Events::open(
            causeway_events::Options {
                store: store.clone(),
                clock: clock.clone(),
                seed: Seed::from_number(1),
                snapshot: registry.watch(),
                outbound: mesh.clone(),
            },
            &metrics,
            &scope,
        );
        let doors = Doors { outbound: mesh.clone(), publish: Arc::new(events.clone()) };
        let options = causeway_saga::Options::default();
        let sagas = Sagas::open(store, clock.clone(), Seed::from_number(2), doors, options, &metrics, &scope);
        let sagas = sagas.await.unwrap();
        let domain = TrustDomain::new("causeway.local").unwrap();
        let authority = CertAuthority::generate(&domain, Timestamp::from(clock.now()));
        let authorities = Authorities::new(vec![authority]).unwrap();
        let desk = Desk::new(authorities, domain, registry.clone(), clock.clone(), Duration::from_secs(3600));
        let options = causeway_xds::Options::new("test");
        let signals = Signals::new(registry.watch(), clock.clone(), options, &metrics, &scope);
        let (problems, said) = watch::channel(Vec::new());
        let (is_ready, ready) = watch::channel(true);
        let rooms = Rooms {
            registry,
            events: Some(events),
            sagas: Some(sagas),
            hub: Some(signals.hub()),
            desk: Some(desk),
            observed: Observed::new(clock.clone()),
            metrics,
            problems: said,
            clock,
            is_ready: ready,
        };
        House { router: router(rooms.clone()), rooms, mesh, scope, problems, is_ready }
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(Method::try_from(method).unwrap()).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(request.body(body.into()).unwrap()).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask_with("GET", path, &[], Body::empty()).await
    }

    async fn put(&self, path: &str, body: &'static str) -> Answer {
        self.ask_with("PUT", path, &[], body).await
    }

    async fn post(&self, path: &str, body: &'static str) -> Answer {
        self.ask_with("POST", path, &[], body).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.ask_with("DELETE", path, &[], Body::empty()).await
    }

    /// Opens an event stream.
    async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Stream {
        let mut request = Request::builder().uri(path).header("accept", "text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Stream { body: response.into_body().into_data_stream(), pending: String::new() }
    }
}

/// An event stream, read one event at a time.
struct Stream {
    body: BodyDataStream,
    pending: String,
}

#[derive(Debug, Default, PartialEq)]
struct Event {
    id: Option<u64>,
    name: String,
    data: Value,
}

impl Stream {
    /// The next event with data; `None` when the stream has ended.
    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((text, rest)) = self.pending.split_once("\n\n") {
                let mut event = Event::default();
                for line in text.lines() {
                    match line.split_once(": ") {
                        Some(("id", id)) => event.id = id.parse().ok(),
                        Some(("event", name)) => event.name = name.to_owned(),
                        Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
                        _ => {}
                    }
                }
                self.pending = rest.to_owned();
                if !event.data.is_null() {
                    return Some(event);
                }
            }
            let chunk = self.body.next().await?.unwrap();
            self.pending.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}
