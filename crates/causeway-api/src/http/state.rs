//! What a handler is given: the rooms, and the bound on streams.
//!
//! In:    [`Rooms`].      Out: [`Door`], with a refusal where a room is not there.
//! Owner: the router; clones share the bound.
//! Not here: the rooms themselves.

use std::ops::Deref;
use std::sync::Arc;

use causeway_base::Clock;
use causeway_base::telemetry::Metrics;
use causeway_events::Events;
use causeway_registry::Registry;
use causeway_saga::Sagas;
use causeway_xds::Hub;
use serde_json::Value;
use tokio::sync::watch::Receiver;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::metrics::Metrics as Counts;
use super::problem::{Problem, code};
use crate::{Desk, Observed};

/// Event streams and WebSockets that are open at a time: each is a task and buffers one chunk of up to 256 KiB.
pub(super) const STREAMS_MAX: usize = 1024;

/// What the doors open to. A room that this node does not run is `None`: its paths answer 503 and name the role.
#[derive(Clone)]
pub struct Rooms {
    /// Services and configuration.
    pub registry: Registry,
    /// Topics; role `events`.
    pub events: Option<Events>,
    /// Sagas; role `sagas`.
    pub sagas: Option<Sagas>,
    /// Connected proxies; role `control`.
    pub hub: Option<Hub>,
    /// Join tokens; role `control`.
    pub desk: Option<Desk>,
    /// What proxies saw.
    pub observed: Observed,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// Documents that are not used as written.
    pub problems: Receiver<Vec<String>>,
    /// The time.
    pub clock: Clock,
    /// Whether the configuration is applied and every listener bound.
    pub is_ready: Receiver<bool>,
}

/// The rooms, as handlers see them.
#[derive(Clone)]
pub(super) struct Door {
    rooms: Rooms,
    streams: Arc<Semaphore>,
    pub(super) counts: Counts,
    /// What `/openapi.json` answers.
    pub(super) description: Arc<Value>,
}

impl Deref for Door {
    type Target = Rooms;

    fn deref(&self) -> &Rooms {
        &self.rooms
    }
}

impl Door {
    pub(super) fn new(rooms: Rooms, description: Value) -> Self {
        let counts = Counts::register(&rooms.metrics);
        Door {
            rooms,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            counts,
            description: Arc::new(description),
        }
    }

    pub(super) fn events(&self) -> Result<&Events, Problem> {
        self.rooms.events.as_ref().ok_or_else(|| Problem::no_role("events"))
    }

    pub(super) fn sagas(&self) -> Result<&Sagas, Problem> {
        self.rooms.sagas.as_ref().ok_or_else(|| Problem::no_role("sagas"))
    }

    pub(super) fn hub(&self) -> Result<&Hub, Problem> {
        self.rooms.hub.as_ref().ok_or_else(|| Problem::no_role("control"))
    }

    pub(super) fn desk(&self) -> Result<&Desk, Problem> {
        self.rooms.desk.as_ref().ok_or_else(|| Problem::no_role("control"))
    }

    /// A place for one more stream; kept as long as the stream is open.
    pub(super) fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.streams.clone().try_acquire_owned().map_err(|_| {
            let text =
                format!("{STREAMS_MAX} event streams are open, which is the most; close some, or try again");
            Problem::new(http::StatusCode::SERVICE_UNAVAILABLE, code::STREAMS, text).after(1)
        })
    }
}
