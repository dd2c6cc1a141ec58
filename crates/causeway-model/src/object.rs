//! An object: what a document declares, with where it came from and how it fares.

use minicbor::{Decode, Encode};

use crate::gateway::{Gateway, Secret};
use crate::ids::{Revision, Timestamp};
use crate::names::{Kind, ObjectKey};
use crate::origin::Origin;
use crate::policy::AccessPolicy;
use crate::route::HttpRoute;
use crate::saga::SagaDefinition;
use crate::service::Service;
use crate::topic::{Subscription, Topic};
use crate::traffic_policy::TrafficPolicy;

/// A configuration object.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Object {
    /// Which one.
    #[n(0)]
    pub key: ObjectKey,
    /// Who wrote it.
    #[n(1)]
    pub origin: Origin,
    /// When it last changed.
    #[n(2)]
    pub revision: Revision,
    /// What it says.
    #[n(3)]
    pub spec: Spec,
    /// What is to be said of it (Gateway API's conditions).
    #[n(4)]
    pub conditions: Vec<Condition>,
    /// The document as it was written, as JSON text, for `get -o yaml`; secrets' values are left out.
    #[n(5)]
    pub written: String,
}

/// The content of an object, one variant for each [`Kind`].
#[expect(clippy::large_enum_variant, reason = "objects are few and live behind an `Arc` each")]
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Spec {
    /// See [`Service`].
    #[n(0)]
    Service(#[n(0)] Service),
    /// See [`Gateway`].
    #[n(1)]
    Gateway(#[n(0)] Gateway),
    /// See [`HttpRoute`].
    #[n(2)]
    HttpRoute(#[n(0)] HttpRoute),
    /// See [`AccessPolicy`].
    #[n(3)]
    AccessPolicy(#[n(0)] AccessPolicy),
    /// See [`Topic`].
    #[n(4)]
    Topic(#[n(0)] Topic),
    /// See [`Subscription`].
    #[n(5)]
    Subscription(#[n(0)] Subscription),
    /// See [`SagaDefinition`].
    #[n(6)]
    Saga(#[n(0)] SagaDefinition),
    /// See [`Secret`].
    #[n(7)]
    Secret(#[n(0)] Secret),
    /// A GRPCRoute; see [`HttpRoute`].
    #[n(8)]
    GrpcRoute(#[n(0)] HttpRoute),
    /// See [`TrafficPolicy`].
    #[n(9)]
    TrafficPolicy(#[n(0)] TrafficPolicy),
}

impl Spec {
    /// The kind whose content this is.
    pub const fn kind(&self) -> Kind {
        match self {
            Spec::Service(_) => Kind::Service,
            Spec::Gateway(_) => Kind::Gateway,
            Spec::HttpRoute(_) => Kind::HttpRoute,
            Spec::AccessPolicy(_) => Kind::AccessPolicy,
            Spec::Topic(_) => Kind::Topic,
            Spec::Subscription(_) => Kind::Subscription,
            Spec::Saga(_) => Kind::Saga,
            Spec::Secret(_) => Kind::Secret,
            Spec::GrpcRoute(_) => Kind::GrpcRoute,
            Spec::TrafficPolicy(_) => Kind::TrafficPolicy,
        }
    }
}

/// Something to be said of an object (Kubernetes `metav1.Condition`).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Condition {
    /// Which one.
    #[n(0)]
    pub kind: ConditionKind,
    /// Whether it holds.
    #[n(1)]
    pub is_true: bool,
    /// One CamelCase word.
    #[n(2)]
    pub reason: String,
    /// For people, with a `CW-` code when it does not hold.
    #[n(3)]
    pub message: String,
    /// Since when it says that.
    #[n(4)]
    pub since: Timestamp,
}

/// The conditions of Gateway API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum ConditionKind {
    /// The object is valid and in use.
    #[n(0)]
    Accepted,
    /// What it names is there.
    #[n(1)]
    ResolvedRefs,
    /// The data plane runs it.
    #[n(2)]
    Programmed,
}

impl ConditionKind {
    /// As written in `status.conditions[].type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ConditionKind::Accepted => "Accepted",
            ConditionKind::ResolvedRefs => "ResolvedRefs",
            ConditionKind::Programmed => "Programmed",
        }
    }
}
