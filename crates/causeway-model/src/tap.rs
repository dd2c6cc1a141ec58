//! Live requests, shown to whoever asks: what is wanted, and what was seen.

use minicbor::{Decode, Encode};

use crate::failure::Side;
use crate::ids::Timestamp;
use crate::names::{Name, ServiceKey};

/// Most taps at a time, over all who ask: every proxy compares each request with each tap.
pub const TAPS_MAX: usize = 8;
/// Most requests a second that one proxy reports for one tap.
pub const TAP_RATE_MAX: u32 = 1_000;

/// The taps that are open now. Each new list replaces the last one; an empty one costs a proxy nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Taps {
    /// At most [`TAPS_MAX`].
    #[n(0)]
    pub taps: Vec<Tap>,
}

/// Which requests somebody wants to see: all parts that are said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Tap {
    /// Its number.
    #[n(0)]
    pub id: u64,
    /// The service that is called.
    #[n(1)]
    pub service: Option<Name>,
    /// The namespace of the service that is called.
    #[n(2)]
    pub namespace: Option<Name>,
    /// The service that calls.
    #[n(3)]
    pub from: Option<Name>,
    /// Lowest and highest status; 0 is a request without an answer.
    #[n(4)]
    pub status: Option<(u16, u16)>,
    /// What the path begins with.
    #[n(5)]
    pub path: Option<String>,
    /// Method.
    #[n(6)]
    pub method: Option<String>,
    /// Where it is seen; everywhere but beside the callee when it says nothing, so that each call is seen once.
    #[n(7)]
    pub side: Option<Side>,
    /// Requests a second that each proxy may report, at most [`TAP_RATE_MAX`].
    #[n(8)]
    pub per_second: u32,
}

/// A request as one proxy saw it end.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Tapped {
    /// The taps that wanted it.
    #[n(0)]
    pub taps: Vec<u64>,
    /// When it came in.
    #[n(1)]
    pub at: Timestamp,
    /// Where in the mesh this was seen.
    #[n(2)]
    pub side: Side,
    /// Whose proxy saw it.
    #[n(3)]
    pub seen_by: ServiceKey,
    /// The instance whose sidecar saw it; empty when it has none.
    #[n(4)]
    pub instance: String,
    /// `x-request-id`.
    #[n(5)]
    pub request_id: String,
    /// Id of its trace; empty when it has none.
    #[n(6)]
    pub trace_id: String,
    /// Who called: an identity that was proved, or an address.
    #[n(7)]
    pub caller: String,
    /// Where it went; none when it was not that far, or went outside the mesh.
    #[n(8)]
    pub service: Option<ServiceKey>,
    /// The endpoint of the last attempt.
    #[n(9)]
    pub endpoint: String,
    /// Method.
    #[n(10)]
    pub method: String,
    /// Host.
    #[n(11)]
    pub host: String,
    /// Path, without the query.
    #[n(12)]
    pub path: String,
    /// `HTTP/1.1`, `HTTP/2`, …
    #[n(13)]
    pub protocol: String,
    /// Status of the answer; 0 when none was given.
    #[n(14)]
    pub status: u16,
    /// Why it did not end well, in one stable word; empty when it did.
    #[n(15)]
    pub reason: String,
    /// How long it took, in microseconds.
    #[n(16)]
    pub micros: u64,
    /// Bytes of the answer's body.
    #[n(17)]
    pub bytes: u64,
    /// How often it was sent.
    #[n(18)]
    pub attempts: u32,
    /// The rule that it took.
    #[n(19)]
    pub rule: String,
}
