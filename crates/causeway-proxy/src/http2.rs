//! HTTP/2 on both sides, on the `h2` crate.
//!
//! In:    streams of bytes that speak it.      Out: requests for the pipeline; answers of endpoints.
//! Owner: one task a connection, of either side; a request has none of its own.
//! Invariant: a body is read no faster than it is passed on, and a connection that only makes work is ended.
//! Not here: which protocol is spoken (`listen`, `pool`), what is done with a request (`pipeline`, `attempt`).
//!
//! ```text
//! client -> [wire + meter] -> server: one future a stream -> pipeline -> client: a stream of the endpoint's channel
//!                                outflow <- Answer <- inflow ------------------'
//! ```

pub(crate) mod client;
pub(crate) mod heart;
pub(crate) mod inflow;
pub(crate) mod meter;
pub(crate) mod outflow;
pub(crate) mod pulse;
pub(crate) mod seats;
pub(crate) mod server;
pub(crate) mod wire;
