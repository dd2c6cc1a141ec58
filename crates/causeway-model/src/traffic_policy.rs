//! How calls to a service are balanced, tried again, limited and, where asked for, disturbed: kind TrafficPolicy.
//!
//! In:    what a document says; every part may be left out.     Out: the wish; defaults are the proxy's.
//! Owner: the registry keeps it; the proxy's plan hangs it on services and rules.
//! Invariant: a part that is absent means "as it is without this policy".
//! Not here: who may call (`policy`), which rule a request takes (`route`).

use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::names::Name;

/// A traffic policy. Where several speak of one call, the most specific one decides each part: a rule's before its route's before
/// its service's before its namespace's; between equals the one whose name comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct TrafficPolicy {
    /// What it is for.
    #[n(0)]
    pub targets: Vec<PolicyTarget>,
    /// Who gets the next call.
    #[n(1)]
    pub balancer: Option<Balancer>,
    /// Which requests of one client stay with one endpoint.
    #[n(2)]
    pub affinity: Option<Affinity>,
    /// When an endpoint that fails is left alone.
    #[n(3)]
    pub outlier: Option<Outlier>,
    /// How much may be under way at once; what is more waits a little or fails at once.
    #[n(4)]
    pub circuit: Option<Circuit>,
    /// What is tried again.
    #[n(5)]
    pub retry: Option<Retry>,
    /// Time limits.
    #[n(6)]
    pub timeouts: Option<TrafficTimeouts>,
    /// A second try before the first has failed.
    #[n(7)]
    pub hedge: Option<Hedge>,
    /// Requests that one proxy in front of the service lets through in a time.
    #[n(8)]
    pub rate_limit: Option<RateLimit>,
    /// Requests at once that the proxy in front of the service lets through.
    #[n(9)]
    pub concurrency: Option<Concurrency>,
    /// Urgency of the calls, 0 (first) to 7 (shed first), whatever their `Priority` field says (RFC 9218).
    #[n(10)]
    pub priority: Option<u8>,
    /// Disturbs calls on purpose.
    #[n(11)]
    pub fault: Option<Fault>,
    /// Whether the services' sidecars also take plaintext.
    #[n(12)]
    pub mtls: Option<MtlsMode>,
    /// Where the services' own calls may go.
    #[n(13)]
    pub egress: Option<Egress>,
}

/// What a policy is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PolicyTarget {
    /// Its kind.
    #[n(0)]
    pub kind: TargetKind,
    /// Its namespace, which is the policy's own; that namespace itself for [`TargetKind::Namespace`].
    #[n(1)]
    pub namespace: Name,
    /// Its name; the namespace's for [`TargetKind::Namespace`].
    #[n(2)]
    pub name: Name,
    /// One rule of a route, by its name.
    #[n(3)]
    pub section: Option<String>,
}

/// Kinds that a policy may be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum TargetKind {
    /// Calls to (and for `egress` of) every service of a namespace.
    #[n(0)]
    Namespace,
    /// Calls to one service.
    #[n(1)]
    Service,
    /// Requests of one HTTPRoute.
    #[n(2)]
    HttpRoute,
    /// Requests of one GRPCRoute.
    #[n(3)]
    GrpcRoute,
}

/// Who gets the next call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Balancer {
    /// How one is chosen.
    #[n(0)]
    pub algorithm: Algorithm,
    /// What [`Algorithm::RingHash`] and [`Algorithm::Maglev`] hash; the client's address when absent.
    #[n(1)]
    pub hash: Option<HashOn>,
    /// Whether near endpoints go first.
    #[n(2)]
    pub locality: LocalityMode,
    /// When less than this share (percent) of the endpoints is healthy, all are used. 50 when absent.
    #[n(3)]
    pub panic_percent: Option<u8>,
    /// In which time a new endpoint's share grows to its whole; zero is at once. 10 s when absent.
    #[n(4)]
    pub slow_start: Option<Duration>,
}

/// How the next endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Algorithm {
    /// The cheaper of two drawn, by peak-EWMA latency times load.
    #[default]
    #[n(0)]
    PeakEwma,
    /// The one of two drawn with fewer requests under way.
    #[n(1)]
    LeastRequest,
    /// In turn, by weight.
    #[n(2)]
    RoundRobin,
    /// By weight.
    #[n(3)]
    Random,
    /// Consistent hashing on a ring.
    #[n(4)]
    RingHash,
    /// Consistent hashing by Maglev's table.
    #[n(5)]
    Maglev,
}

/// What of a request is hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum HashOn {
    /// A field, lower case.
    #[n(0)]
    Header(#[n(0)] String),
    /// A cookie.
    #[n(1)]
    Cookie(#[n(0)] String),
    /// A query parameter.
    #[n(2)]
    Query(#[n(0)] String),
    /// The client's address (in the mesh: the calling service's proxy).
    #[n(3)]
    Source,
}

/// Whether near endpoints go first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum LocalityMode {
    /// All are alike.
    #[default]
    #[n(0)]
    Off,
    /// Those of the caller's zone, then of its region, then all: the next only as far as the ones before cannot take the load.
    #[n(1)]
    Prefer,
}

/// Which endpoint a client stays with as long as it is healthy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Affinity {
    /// By a cookie that the proxy sets.
    #[n(0)]
    Cookie {
        /// Its name.
        #[n(0)]
        name: String,
        /// How long the browser keeps it; for its session when absent.
        #[n(1)]
        max_age: Option<Duration>,
        /// For which paths; `/` when absent.
        #[n(2)]
        path: Option<String>,
    },
    /// By a field that the proxy sets on answers and the client sends back.
    #[n(1)]
    Header {
        /// Its name, lower case.
        #[n(0)]
        name: String,
    },
}

/// When an endpoint that fails is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Outlier {
    /// Failures in a row (5xx, no answer, no connection) that eject; 0 never. 5 when absent.
    #[n(0)]
    pub failures: Option<u32>,
    /// The first ejection's length; each further one is twice as long. 5 s when absent.
    #[n(1)]
    pub base: Option<Duration>,
    /// The longest. 60 s when absent.
    #[n(2)]
    pub max: Option<Duration>,
    /// Share (percent) of endpoints that may be out at once. 50 when absent.
    #[n(3)]
    pub max_percent: Option<u8>,
}

/// How much may be under way from one proxy to a service at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Circuit {
    /// HTTP/1.1 and TCP connections to each endpoint.
    #[n(0)]
    pub connections: Option<u32>,
    /// Requests to the service.
    #[n(1)]
    pub requests: Option<u32>,
    /// Requests that may wait when one of the others is reached; further ones fail at once (503).
    #[n(2)]
    pub pending: Option<u32>,
    /// How long they wait.
    #[n(3)]
    pub wait: Option<Duration>,
}

/// What is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Retry {
    /// Retries after the first try. 2 when absent.
    #[n(0)]
    pub attempts: Option<u32>,
    /// HTTP statuses that are tried again, beside failed connections and refused streams.
    #[n(1)]
    pub codes: Vec<u16>,
    /// gRPC statuses (numbers) that are tried again.
    #[n(2)]
    pub grpc_codes: Vec<u16>,
    /// Least wait before a retry.
    #[n(3)]
    pub backoff: Option<Duration>,
    /// Share (percent) of the requests that may be retries. 20 when absent.
    #[n(4)]
    pub budget_percent: Option<u8>,
    /// Retries each second whatever the traffic. 10 when absent.
    #[n(5)]
    pub budget_per_second: Option<u32>,
}

/// Time limits; zero is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct TrafficTimeouts {
    /// The whole request with its retries, to its answer's end.
    #[n(0)]
    pub request: Option<Duration>,
    /// Each try, to its answer's head.
    #[n(1)]
    pub per_try: Option<Duration>,
    /// Without a byte in either direction.
    #[n(2)]
    pub idle: Option<Duration>,
    /// A stream (upgraded connection, gRPC stream, TCP connection) in all.
    #[n(3)]
    pub stream: Option<Duration>,
    /// Making a connection.
    #[n(4)]
    pub connect: Option<Duration>,
}

/// A second try before the first has failed; only for requests that may be sent twice.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hedge {
    /// Without an answer after this time.
    #[n(0)]
    pub after: Duration,
    /// Most further tries under way at once.
    #[n(1)]
    pub max: u32,
}

/// Requests that one proxy in front of the service lets through in a time (token bucket); more are answered 429.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RateLimit {
    /// So many…
    #[n(0)]
    pub requests: u32,
    /// …in so long.
    #[n(1)]
    pub per: Duration,
    /// So many at once after a quiet time; `requests` when absent.
    #[n(2)]
    pub burst: Option<u32>,
    /// A bucket for each of these; one for all when absent.
    #[n(3)]
    pub by: Option<RateKey>,
}

/// What requests are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum RateKey {
    /// The calling service's identity.
    #[n(0)]
    Identity,
    /// The client's address.
    #[n(1)]
    Address,
    /// A field's value.
    #[n(2)]
    Header(#[n(0)] String),
}

/// Requests at once that the proxy in front of the service lets through. Above it the most urgent go first and the least urgent
/// are answered 503 with `Retry-After`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Concurrency {
    /// Fixed; found out from latencies (adaptive) when absent; 0 is no limit.
    #[n(0)]
    pub max: Option<u32>,
    /// Requests that may wait for a place.
    #[n(1)]
    pub queue: Option<u32>,
    /// How long they wait.
    #[n(2)]
    pub wait: Option<Duration>,
}

/// Disturbs calls on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Fault {
    /// Waits before the call.
    #[n(0)]
    pub delay: Option<FaultDelay>,
    /// Answers instead of the service.
    #[n(1)]
    pub abort: Option<FaultAbort>,
}

/// Waits before a call.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FaultDelay {
    /// How long.
    #[n(0)]
    pub fixed: Duration,
    /// Which share of calls.
    #[n(1)]
    pub share: Share,
}

/// Answers instead of a service.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct FaultAbort {
    /// HTTP status.
    #[n(0)]
    pub status: u16,
    /// gRPC status for gRPC calls; by `status` when absent.
    #[n(1)]
    pub grpc_status: Option<u16>,
    /// Which share of calls.
    #[n(2)]
    pub share: Share,
}

/// A share of calls in millionths, 0 to [`Share::WHOLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct Share(#[n(0)] u32);

impl Share {
    /// Every call.
    pub const WHOLE: Share = Share(1_000_000);

    /// A share of `millionths`; more than a million is all.
    pub const fn new(millionths: u32) -> Self {
        if millionths > Share::WHOLE.0 { Share::WHOLE } else { Share(millionths) }
    }

    /// In millionths.
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// Whether a number drawn evenly from 0 to 1 (without 1) falls into it.
    pub fn takes(self, drawn: f64) -> bool {
        drawn * f64::from(Share::WHOLE.0) < f64::from(self.0)
    }
}

/// Whether a service's sidecar also takes plaintext at its mesh port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum MtlsMode {
    /// Mutual TLS alone.
    #[default]
    #[n(0)]
    Strict,
    /// Both, while callers are moved into the mesh.
    #[n(1)]
    Permissive,
}

/// Where a service's own calls may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Egress {
    /// Anywhere.
    #[default]
    #[n(0)]
    Open,
    /// Only to services of the mesh and to hosts that a Service document declares as endpoints.
    #[n(1)]
    Declared,
}
