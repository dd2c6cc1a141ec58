//! The ground under every room that does anything: time, tasks, shutdown, the network seam, outgoing calls, telemetry.
//!
//! In:    nothing of ours (this crate knows no room and no noun of the system).
//! Out:   [`Clock`], [`Scope`], [`net`], [`Outbound`], [`Publish`], [`telemetry`].
//! Owner: everyone above the ground; each value is passed in, nothing here is a process global.
//! Invariant: all time, randomness, tasks and sockets of the house come from here, so a test can own them.
//! Not here: the nouns (`causeway-model`), bytes of protocols (`causeway-wire`), bytes kept (`causeway-store`).

pub mod clock;
pub mod net;
pub mod outbound;
pub mod scope;
pub mod seed;
pub mod telemetry;

pub use clock::Clock;
pub use outbound::{Outbound, Publish};
pub use scope::{OnFailure, Scope};
pub use seed::Seed;
