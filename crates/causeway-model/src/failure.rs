//! A request that failed, as one proxy saw it: told in full, so that nobody has to guess.

use minicbor::{Decode, Encode};

use crate::ids::Timestamp;
use crate::names::ServiceKey;

/// One proxy's account of a request that failed. A gateway, the caller's sidecar and the callee's may each have one of the same
/// request.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Failure {
    /// When the request came in.
    #[n(0)]
    pub at: Timestamp,
    /// `x-request-id`.
    #[n(1)]
    pub request_id: String,
    /// Id of its trace, 32 hexadecimal digits; empty when it has none.
    #[n(2)]
    pub trace_id: String,
    /// Where in the mesh this was seen.
    #[n(3)]
    pub side: Side,
    /// Whose proxy saw it: the sidecar's service, or the gateway.
    #[n(4)]
    pub seen_by: ServiceKey,
    /// The instance whose sidecar saw it; empty when it has none.
    #[n(5)]
    pub instance: String,
    /// Method.
    #[n(6)]
    pub method: String,
    /// Host that was asked for.
    #[n(7)]
    pub host: String,
    /// Path, without the query.
    #[n(8)]
    pub path: String,
    /// `HTTP/1.1`, `HTTP/2`, …
    #[n(9)]
    pub protocol: String,
    /// Status of the answer; 0 when none was given.
    #[n(10)]
    pub status: u16,
    /// Why it failed, in one stable word; empty when the service itself answered so.
    #[n(11)]
    pub reason: String,
    /// The same in more words.
    #[n(12)]
    pub details: String,
    /// The rule that it took: `HTTPRoute default/shop rule 1`; empty when none.
    #[n(13)]
    pub rule: String,
    /// Where that is written: `routes.yaml:4`.
    #[n(14)]
    pub rule_origin: String,
    /// The document that refused it, with where it is written; empty when none did.
    #[n(15)]
    pub refused_by: String,
    /// Where it went; none when it was not that far.
    #[n(16)]
    pub service: Option<ServiceKey>,
    /// The endpoint of the last attempt; empty when there was none.
    #[n(17)]
    pub endpoint: String,
    /// Who called: an identity that was proved, or an address.
    #[n(18)]
    pub caller: String,
    /// How long it took, in microseconds.
    #[n(19)]
    pub micros: u64,
    /// How often it was sent.
    #[n(20)]
    pub attempts: u32,
    /// The attempts, as far as there was room to tell.
    #[n(21)]
    pub tried: Vec<FailedAttempt>,
    /// Endpoints that were not chosen, and why not.
    #[n(22)]
    pub passed_over: Vec<PassedOver>,
    /// Anything else worth knowing.
    #[n(23)]
    pub notes: Vec<String>,
    /// Lines that did not fit.
    #[n(24)]
    pub untold: u32,
}

/// One attempt of a request that failed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FailedAttempt {
    /// The endpoint's name: an instance's id, or an address.
    #[n(0)]
    pub endpoint: String,
    /// Where it is.
    #[n(1)]
    pub address: String,
    /// How it is spoken to: `http/1.1`, `h2c`, `mesh`.
    #[n(2)]
    pub transport: String,
    /// When it began, in microseconds after the request.
    #[n(3)]
    pub after: u64,
    /// How long it took, in microseconds.
    #[n(4)]
    pub micros: u64,
    /// The answer's status; 0 when there was none.
    #[n(5)]
    pub status: u16,
    /// What went wrong, in one stable word; empty when nothing did.
    #[n(6)]
    pub error: String,
    /// The same in more words.
    #[n(7)]
    pub details: String,
}

/// An endpoint that was not chosen.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PassedOver {
    /// Its name.
    #[n(0)]
    pub endpoint: String,
    /// Why not.
    #[n(1)]
    pub why: String,
}

/// Where in the mesh a proxy stands on a request's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Side {
    /// At the edge.
    #[n(0)]
    Gateway,
    /// Beside the caller.
    #[n(1)]
    Caller,
    /// Beside the service that is called.
    #[n(2)]
    Callee,
    /// In the node, for a call of the house's own (an event, a step of a saga).
    #[n(3)]
    House,
}

impl Side {
    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Side::Gateway => "gateway",
            Side::Caller => "caller",
            Side::Callee => "callee",
            Side::House => "house",
        }
    }
}
