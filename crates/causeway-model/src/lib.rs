//! The nouns of the system as it means them: pure data, one binary codec, no IO.
//!
//! In:    values checked by their constructors.     Out: the same values, and their CBOR form with numbered fields.
//! Owner: nobody; every room above the ground speaks in these.
//! Invariant: no serde, no tokio, no IO; a field's number (`#[n(_)]`) is never given to another field, an unknown field is
//! skipped, an old record is read for ever (`tests/fixtures.rs` proves it).
//! Not here: the nouns as people write them, with line numbers (`causeway-spec`).
//!
//! ```text
//! [Gateway] <- [HttpRoute] -> [Service] <- [Instance]        children name their parents
//! [AccessPolicy] -> [Service]    [TrafficPolicy] -> [Service], [HttpRoute]
//!   [Subscription] -> [Topic]    [SagaDefinition] -> [Service], [Topic]
//! [Snapshot] = every [Object] and [Instance] at one [Revision]
//! ```

pub mod codec;
pub mod failure;
pub mod gateway;
pub mod ids;
pub mod instance;
pub mod latencies;
pub mod names;
pub mod object;
pub mod observations;
pub mod origin;
pub mod policy;
pub mod revocation;
pub mod route;
pub mod saga;
pub mod service;
pub mod snapshot;
pub mod span;
pub mod spiffe;
pub mod tap;
pub mod topic;
pub mod traffic;
pub mod traffic_policy;

pub use failure::{FailedAttempt, Failure, PassedOver, Side};
pub use gateway::{Gateway, Listener, ListenerProtocol, ListenerTls, Secret};
pub use ids::{Epoch, Offset, Revision, Timestamp};
pub use instance::{Check, CheckKind, Health, Instance, Lease, Lifecycle, Locality, MeshAddress};
pub use latencies::{LATENCY_BUCKETS, Latencies, latency_bucket};
pub use names::{InstanceId, InstanceKey, InvalidName, Kind, Name, ObjectKey, ServiceKey};
pub use object::{Condition, ConditionKind, Object, Spec};
pub use observations::Observations;
pub use origin::Origin;
pub use policy::{AccessPolicy, AccessRule, Peer};
pub use revocation::{Revocations, RevokedSerial, RevokedService};
pub use route::{
    Backend, Filter, HeaderEdit, HeaderMatch, HttpRoute, ParentKind, ParentRef, PathMatch, PathRewrite,
    QueryMatch, RequestMatch, RetryRule, Rule, TextMatch, Timeouts,
};
pub use saga::{Action, SagaDefinition, ServiceCall, Stage, Step};
pub use service::{HealthProbe, Protocol, Service, ServicePort, StaticEndpoint, Subset};
pub use snapshot::{Change, ResourceKey, Snapshot};
pub use span::{Attribute, Span, SpanKind, TraceId};
pub use spiffe::{SpiffeId, TrustDomain};
pub use tap::{Tap, Tapped, Taps};
pub use topic::{DeadLetterMode, Delivery, Ordering, RetryPolicy, Subscription, Topic};
pub use traffic::{Edge, TrafficReport};
pub use traffic_policy::{
    Affinity, Algorithm, Balancer, Circuit, Concurrency, Egress, Fault, FaultAbort, FaultDelay, HashOn,
    Hedge, LocalityMode, MtlsMode, Outlier, PolicyTarget, RateKey, RateLimit, Retry, Share, TargetKind,
    TrafficPolicy, TrafficTimeouts,
};
