//! What travels on the native stream: nine types of resources, and the parents by which they are subscribed to.
//!
//! In:    keys of the model, names and type URLs of the wire.      Out: each as the other.
//! Owner: nobody; pure.
//! Invariant: `parse(name(x)) == x` for every key and subscription.
//! Not here: which resources a subscription brings (`project.rs`).
//!
//! **A subscription names parents**, because children name theirs, and a client knows the parent before it knows the children:
//!
//! ```text
//! type          subscribed by                          brings                                  named
//! Revocations   `all`            all                   the list of what is revoked             all
//! Service       its own key      default/inventory     the declaration                         default/inventory
//! Instance      its service      default/inventory     all that registered as it               default/inventory/<id>
//! HTTPRoute     its parent       Service:default/cart  all routes that hang on it              default/<route>
//! AccessPolicy  its target       default/inventory     all policies that guard it              default/<policy>
//! GRPCRoute     as HTTPRoute
//! TrafficPolicy its namespace    default               all policies of the namespace           default/<policy>
//! Gateway       its own key      default/public        the gateway                             default/public
//! Secret        the gateway      default/public        those its listeners name                default/<secret>
//! ```
//! The payload is the CBOR of [`Object`] or [`Instance`](causeway_model::Instance) (or of the list with its revision); an object travels without the text it was written as and without
//! its conditions, which no proxy reads.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use causeway_model::{
    AccessPolicy, Instance, InstanceId, InstanceKey, Kind, Name, Object, ObjectKey, ParentKind, ResourceKey,
    Revision, Revocations, ServiceKey, Snapshot, Spec, codec,
};
use minicbor::{Decode, Encode};

/// A type of resource, in the order in which a push sends them: what is referred to comes before what refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// Who is no longer believed.
    Revocations,
    /// Certificates of gateways.
    Secret,
    /// Declared services.
    Service,
    /// Instances of services.
    Instance,
    /// Who may call.
    AccessPolicy,
    /// How calls are balanced, tried again and limited.
    TrafficPolicy,
    /// Routes.
    HttpRoute,
    /// Routes of gRPC methods.
    GrpcRoute,
    /// Gateways.
    Gateway,
}

impl ResourceType {
    /// Every type, in order.
    pub const ALL: [ResourceType; 9] = [
        ResourceType::Revocations,
        ResourceType::Secret,
        ResourceType::Service,
        ResourceType::Instance,
        ResourceType::AccessPolicy,
        ResourceType::TrafficPolicy,
        ResourceType::HttpRoute,
        ResourceType::GrpcRoute,
        ResourceType::Gateway,
    ];

    /// Its type URL.
    pub const fn url(self) -> &'static str {
        match self {
            ResourceType::Revocations => "type.causeway.dev/causeway.v1.Revocations",
            ResourceType::Secret => "type.causeway.dev/causeway.v1.Secret",
            ResourceType::Service => "type.causeway.dev/causeway.v1.Service",
            ResourceType::Instance => "type.causeway.dev/causeway.v1.Instance",
            ResourceType::AccessPolicy => "type.causeway.dev/causeway.v1.AccessPolicy",
            ResourceType::TrafficPolicy => "type.causeway.dev/causeway.v1.TrafficPolicy",
            ResourceType::GrpcRoute => "type.causeway.dev/causeway.v1.GRPCRoute",
            ResourceType::HttpRoute => "type.causeway.dev/causeway.v1.HTTPRoute",
            ResourceType::Gateway => "type.causeway.dev/causeway.v1.Gateway",
        }
    }

    /// The type with this URL.
    pub fn find(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// The type of a resource; `None` for what is not sent to proxies (topics, subscriptions to them, sagas).
    pub fn of(key: &ResourceKey) -> Option<Self> {
        let key = match key {
            ResourceKey::Object(key) => key,
            ResourceKey::Instance(_) => return Some(ResourceType::Instance),
            ResourceKey::Revocations => return Some(ResourceType::Revocations),
        };
        match key.kind {
            Kind::Service => Some(ResourceType::Service),
            Kind::Gateway => Some(ResourceType::Gateway),
            Kind::HttpRoute => Some(ResourceType::HttpRoute),
            Kind::GrpcRoute => Some(ResourceType::GrpcRoute),
            Kind::TrafficPolicy => Some(ResourceType::TrafficPolicy),
            Kind::AccessPolicy => Some(ResourceType::AccessPolicy),
            Kind::Secret => Some(ResourceType::Secret),
            Kind::Topic | Kind::Subscription | Kind::Saga => None,
        }
    }

    /// The kind of object that it carries; `None` for what is none.
    pub const fn kind(self) -> Option<Kind> {
        match self {
            ResourceType::Secret => Some(Kind::Secret),
            ResourceType::Service => Some(Kind::Service),
            ResourceType::Instance | ResourceType::Revocations => None,
            ResourceType::AccessPolicy => Some(Kind::AccessPolicy),
            ResourceType::HttpRoute => Some(Kind::HttpRoute),
            ResourceType::GrpcRoute => Some(Kind::GrpcRoute),
            ResourceType::TrafficPolicy => Some(Kind::TrafficPolicy),
            ResourceType::Gateway => Some(Kind::Gateway),
        }
    }
}

/// A parent that a client subscribed to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subscription {
    /// The list of what is revoked.
    Revocations,
    /// The secrets of a gateway.
    SecretsOf(ServiceKey),
    /// A service's declaration.
    Service(ServiceKey),
    /// The instances that registered as a service.
    InstancesOf(ServiceKey),
    /// The policies that guard a service.
    PoliciesOf(ServiceKey),
    /// The HTTPRoutes that hang on a gateway or service.
    RoutesOf(ParentKind, ServiceKey),
    /// The GRPCRoutes that hang on a gateway or service.
    GrpcRoutesOf(ParentKind, ServiceKey),
    /// The traffic policies of a namespace.
    TrafficIn(Name),
    /// A gateway.
    Gateway(ServiceKey),
}

impl Subscription {
    /// The type of what it brings.
    pub const fn resource_type(&self) -> ResourceType {
        match self {
            Subscription::Revocations => ResourceType::Revocations,
            Subscription::SecretsOf(_) => ResourceType::Secret,
            Subscription::Service(_) => ResourceType::Service,
            Subscription::InstancesOf(_) => ResourceType::Instance,
            Subscription::PoliciesOf(_) => ResourceType::AccessPolicy,
            Subscription::RoutesOf(..) => ResourceType::HttpRoute,
            Subscription::GrpcRoutesOf(..) => ResourceType::GrpcRoute,
            Subscription::TrafficIn(_) => ResourceType::TrafficPolicy,
            Subscription::Gateway(_) => ResourceType::Gateway,
        }
    }

    /// Reads the name in a subscription to `kind`; `None` when it is not one.
    pub fn parse(kind: ResourceType, name: &str) -> Option<Self> {
        Some(match kind {
            ResourceType::Revocations => (name == ALL).then_some(Subscription::Revocations)?,
            ResourceType::Secret => Subscription::SecretsOf(parse_service(name)?),
            ResourceType::Service => Subscription::Service(parse_service(name)?),
            ResourceType::Instance => Subscription::InstancesOf(parse_service(name)?),
            ResourceType::AccessPolicy => Subscription::PoliciesOf(parse_service(name)?),
            ResourceType::Gateway => Subscription::Gateway(parse_service(name)?),
            ResourceType::TrafficPolicy => Subscription::TrafficIn(Name::new(name).ok()?),
            ResourceType::HttpRoute | ResourceType::GrpcRoute => {
                let (parent, key) = match name.split_once(':')? {
                    ("Gateway", key) => (ParentKind::Gateway, parse_service(key)?),
                    ("Service", key) => (ParentKind::Service, parse_service(key)?),
                    _ => return None,
                };
                match kind {
                    ResourceType::HttpRoute => Subscription::RoutesOf(parent, key),
                    _ => Subscription::GrpcRoutesOf(parent, key),
                }
            }
        })
    }
}

impl fmt::Display for Subscription {
    /// The name on the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subscription::Revocations => f.write_str(ALL),
            Subscription::RoutesOf(parent, key) | Subscription::GrpcRoutesOf(parent, key) => match parent {
                ParentKind::Gateway => write!(f, "Gateway:{key}"),
                ParentKind::Service => write!(f, "Service:{key}"),
            },
            Subscription::TrafficIn(namespace) => namespace.fmt(f),
            Subscription::SecretsOf(key)
            | Subscription::Service(key)
            | Subscription::InstancesOf(key)
            | Subscription::PoliciesOf(key)
            | Subscription::Gateway(key) => key.fmt(f),
        }
    }
}

/// The name of the one list.
const ALL: &str = "all";

fn parse_service(name: &str) -> Option<ServiceKey> {
    let (namespace, name) = name.split_once('/')?;
    ServiceKey::parse(namespace, name).ok()
}

/// The name of a resource on the wire.
pub fn name(key: &ResourceKey) -> String {
    match key {
        ResourceKey::Object(key) => format!("{}/{}", key.namespace, key.name),
        ResourceKey::Instance(key) => key.to_string(),
        ResourceKey::Revocations => ALL.to_owned(),
    }
}

/// The resource of `kind` with this name; `None` when it is not a name.
pub fn parse_name(kind: ResourceType, name: &str) -> Option<ResourceKey> {
    if kind == ResourceType::Revocations {
        return (name == ALL).then_some(ResourceKey::Revocations);
    }
    let (namespace, rest) = name.split_once('/')?;
    let namespace = Name::new(namespace).ok()?;
    match kind.kind() {
        Some(kind) => Some(ResourceKey::Object(ObjectKey { kind, namespace, name: Name::new(rest).ok()? })),
        None => {
            let (service, id) = rest.split_once('/')?;
            let service = ServiceKey::new(namespace, Name::new(service).ok()?);
            Some(ResourceKey::Instance(InstanceKey { service, id: InstanceId::new(id).ok()? }))
        }
    }
}

/// A resource as the client has decoded it.
#[derive(Clone, Debug)]
pub enum Decoded {
    /// An object.
    Object(Arc<Object>),
    /// An instance.
    Instance(Arc<Instance>),
    /// What is revoked, with the revision at which that last changed.
    Revocations(Revision, Arc<Revocations>),
}

/// The list as it travels and is kept.
#[derive(Debug, Encode, Decode)]
pub(crate) struct Listed {
    #[n(0)]
    pub(crate) revision: Revision,
    #[n(1)]
    pub(crate) list: Revocations,
}

impl Listed {
    /// The list of a picture; `None` when nothing was ever revoked.
    pub(crate) fn of(snapshot: &Snapshot) -> Option<Self> {
        let (revision, list) = (snapshot.revocations_revision(), snapshot.revocations());
        (revision > Revision::default()).then(|| Listed { revision, list: Revocations::clone(list) })
    }
}

/// The payload of a resource and its revision; `None` when the picture does not have it.
pub fn payload(snapshot: &Snapshot, key: &ResourceKey) -> Option<(Revision, Bytes)> {
    match key {
        ResourceKey::Instance(key) => {
            let instance = snapshot.instance(key)?;
            Some((instance.revision, codec::encode(&**instance).into()))
        }
        ResourceKey::Object(key) => {
            let object = snapshot.object(key)?;
            let slim = Object {
                key: object.key.clone(),
                origin: object.origin.clone(),
                revision: object.revision,
                spec: with_wholes(snapshot, &object.spec),
                conditions: Vec::new(),
                written: String::new(),
            };
            Some((object.revision, codec::encode(&slim).into()))
        }
        ResourceKey::Revocations => {
            let listed = Listed::of(snapshot)?;
            Some((listed.revision, codec::encode(&listed).into()))
        }
    }
}

/// A policy that names a part of a service guards the whole, whose sidecars know nothing of parts. That a target is a part stands in
/// the policy's conditions, so its revision changes when that does.
fn with_wholes(snapshot: &Snapshot, spec: &Spec) -> Spec {
    let Spec::AccessPolicy(policy) = spec else { return spec.clone() };
    let wholes = policy.targets.iter().filter_map(|target| snapshot.whole_of(target));
    let targets = policy.targets.iter().cloned().chain(wholes).collect();
    Spec::AccessPolicy(AccessPolicy { targets, ..policy.clone() })
}

/// Decodes the payload of `key`.
///
/// # Errors
/// A text that says why: it does not decode, or it is another resource than its name says.
pub fn decode(key: &ResourceKey, payload: &[u8]) -> Result<Decoded, String> {
    let misnamed = |found: &dyn fmt::Display| Err(format!("it holds {found}"));
    match key {
        ResourceKey::Instance(key) => match codec::decode::<Instance>(payload) {
            Ok(instance) if instance.key == *key => Ok(Decoded::Instance(Arc::new(instance))),
            Ok(other) => misnamed(&other.key),
            Err(error) => Err(error.to_string()),
        },
        ResourceKey::Object(key) => match codec::decode::<Object>(payload) {
            Ok(object) if object.key == *key && object.spec.kind() == key.kind => {
                Ok(Decoded::Object(Arc::new(object)))
            }
            Ok(other) => misnamed(&format_args!("{} with the content of a {}", other.key, other.spec.kind())),
            Err(error) => Err(error.to_string()),
        },
        ResourceKey::Revocations => match codec::decode::<Listed>(payload) {
            Ok(Listed { revision, list }) => Ok(Decoded::Revocations(revision, Arc::new(list))),
            Err(error) => Err(error.to_string()),
        },
    }
}

/// The revision of a resource in a picture; `None` when it is not there.
pub fn revision(snapshot: &Snapshot, key: &ResourceKey) -> Option<Revision> {
    match key {
        ResourceKey::Object(key) => Some(snapshot.object(key)?.revision),
        ResourceKey::Instance(key) => Some(snapshot.instance(key)?.revision),
        ResourceKey::Revocations => {
            Some(snapshot.revocations_revision()).filter(|at| *at > Revision::default())
        }
    }
}

/// The version of a resource on the wire. Revisions of another registry (a restored backup, a fresh data folder) count from
/// elsewhere, so the version bears the lineage in which its number means something.
pub fn version(lineage: &str, revision: Revision) -> String {
    format!("{lineage}-{revision}")
}

/// The revision that a version states; `None` when it is of another lineage or no version of ours.
pub fn parse_version(lineage: &str, version: &str) -> Option<Revision> {
    let number = version.strip_prefix(lineage)?.strip_prefix('-')?;
    number.parse().ok().map(Revision::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        let cases = [
            (ResourceType::Service, "default/inventory"),
            (ResourceType::Instance, "default/inventory"),
            (ResourceType::HttpRoute, "Gateway:default/public"),
            (ResourceType::HttpRoute, "Service:default/inventory"),
            (ResourceType::AccessPolicy, "a.b/c"),
            (ResourceType::Secret, "default/public"),
            (ResourceType::Gateway, "default/public"),
            (ResourceType::Revocations, "all"),
        ];
        for (kind, text) in cases {
            let subscription = Subscription::parse(kind, text).unwrap();
            assert_eq!(subscription.to_string(), text);
            assert_eq!(subscription.resource_type(), kind);
        }
        for (kind, text) in [
            (ResourceType::Instance, "default/pay/10.0.0.1:80#A"),
            (ResourceType::HttpRoute, "default/r"),
            (ResourceType::Revocations, "all"),
        ] {
            let key = parse_name(kind, text).unwrap();
            assert_eq!(name(&key), text);
            assert_eq!(ResourceType::of(&key), Some(kind));
        }
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        let cases = [
            (ResourceType::Service, "inventory"),
            (ResourceType::Service, "*"),
            (ResourceType::Service, "default/"),
            (ResourceType::HttpRoute, "default/inventory"),
            (ResourceType::HttpRoute, "Topic:default/inventory"),
            (ResourceType::Revocations, "default/inventory"),
        ];
        for (kind, text) in cases {
            assert_eq!(Subscription::parse(kind, text), None, "{text}");
        }
        assert_eq!(parse_name(ResourceType::Instance, "default/pay"), None);
    }

    #[test]
    fn versions_of_another_lineage_are_unknown() {
        let seven = Revision::new(7);
        assert_eq!(parse_version("ab", &version("ab", seven)), Some(seven));
        assert_eq!(parse_version("a", &version("ab", seven)), None);
        assert_eq!(parse_version("ab", "7"), None);
    }
}
