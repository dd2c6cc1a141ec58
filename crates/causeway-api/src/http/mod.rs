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
mod observed;
mod observed_views;
mod openapi;
mod params;
mod problem;
mod query;
mod registry;
mod route;
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

pub use guard::guarded;
pub use server::serve;
pub use state::Rooms;
pub use table::openapi;

/// Every path, without the check of `Host` and `Origin` ([`guarded`], which [`serve`] adds on loopback).
pub fn router(rooms: Rooms) -> Router {
    table::router(rooms)
}
