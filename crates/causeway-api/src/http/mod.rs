//! The HTTP API and the console, port 7070: every path of it, with and without `/namespaces/{ns}`.
//!
//! In:    requests of people and programs.     Out: commands to the rooms; JSON, problem+json, event streams.
//! Owner: the roof gives handles of its rooms; nothing is kept here but counts of open streams.
//! Invariant: every path is one entry of [`table`], from which the router and `/openapi.json` are both built; an unknown query
//! parameter or body field is an error, never ignored.
//! Not here: reading bodies (`causeway-spec`), deciding (the rooms), who may connect (loopback only in this version; [`guard`]).
//!
//! ```text
//! guard -> table -> params + query + body -> a room's handle -> view -> JSON
//! ```

mod body;
mod config;
mod console;
mod events;
mod guard;
mod metrics;
mod node;
mod openapi;
mod params;
mod problem;
mod query;
mod registry;
mod sagas;
mod server;
mod state;
mod stream;
mod subscriptions;
mod table;
mod topics;
mod views;
mod watch;

#[cfg(test)]
mod tests;

use axum::Router;
use causeway_base::Clock;
use causeway_base::telemetry::Metrics;
use causeway_events::Events;
use causeway_registry::Registry;
use causeway_saga::Sagas;
use causeway_xds::Hub;
use tokio::sync::watch::Receiver;

use crate::{Desk, Traffic};

pub use guard::guarded;
pub use openapi::openapi;
pub use server::serve;

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
    /// The last seconds of traffic.
    pub traffic: Traffic,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// Documents that are not used as written.
    pub problems: Receiver<Vec<String>>,
    /// The time.
    pub clock: Clock,
    /// Whether the configuration is applied and every listener bound.
    pub is_ready: Receiver<bool>,
}

/// Every path, without the check of `Host` and `Origin` ([`guarded`], which [`serve`] adds on loopback).
pub fn router(rooms: Rooms) -> Router {
    table::router(state::Door::new(rooms))
}
