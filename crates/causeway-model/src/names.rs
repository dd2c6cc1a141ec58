//! Names: parsed at the edge, trusted inside.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use minicbor::decode::{Decoder, Error as DecodeError};
use minicbor::encode::{Encoder, Error as EncodeError, Write};
use minicbor::{Decode, Encode};

/// A name of a namespace, service, object or topic: `[a-z0-9]([a-z0-9._-]*[a-z0-9])?`, at most 253 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Longest [`Name`] (a DNS name's limit, RFC 1035 section 2.3.4).
pub const NAME_BYTES_MAX: usize = 253;
/// Longest [`InstanceId`].
pub const INSTANCE_ID_BYTES_MAX: usize = 512;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {why}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    why: &'static str,
}

impl Name {
    /// Reads a name.
    ///
    /// # Errors
    /// [`InvalidName`] says which rule is broken.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let refuse = |why| Err(InvalidName { what: "name", text: text.chars().take(64).collect(), why });
        let edge = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = text.as_bytes();
        match (bytes.first(), bytes.last()) {
            (None, _) | (_, None) => return refuse("it is empty"),
            (Some(first), Some(last)) if !edge(first) || !edge(last) => {
                return refuse("it must begin and end with a lower-case letter or a digit");
            }
            _ => {}
        }
        if bytes.len() > NAME_BYTES_MAX {
            return refuse("it is longer than 253 bytes");
        }
        if !bytes.iter().all(|b| edge(b) || matches!(b, b'.' | b'_' | b'-')) {
            return refuse("only lower-case letters, digits, '.', '_' and '-' are allowed");
        }
        Ok(Name(text.into()))
    }

    /// The namespace when none is given.
    pub fn default_namespace() -> Self {
        Name("default".into())
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Id of an instance within its service: 1 to 512 bytes of visible ASCII (neighbours' ids hold `:`, `#`, `@`, upper case).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// Reads an id.
    ///
    /// # Errors
    /// [`InvalidName`] when it is empty, too long, or holds a blank, a control character or one beyond ASCII.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let refuse =
            |why| Err(InvalidName { what: "instance id", text: text.chars().take(64).collect(), why });
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > INSTANCE_ID_BYTES_MAX {
            return refuse("it is longer than 512 bytes");
        }
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
            return refuse("only visible ASCII characters other than '/' are allowed");
        }
        Ok(InstanceId(text.into()))
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                $name::new(text)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
        impl<C> Encode<C> for $name {
            fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
                e.str(&self.0)?.ok()
            }
        }
        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
                $name::new(d.str()?).map_err(DecodeError::custom)
            }
        }
    };
}
text!(Name);
text!(InstanceId);

/// A service: `namespace/name`. Ordered by namespace first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ServiceKey {
    /// Its namespace.
    #[n(0)]
    pub namespace: Name,
    /// Its name.
    #[n(1)]
    pub name: Name,
}

impl ServiceKey {
    /// A key from its parts.
    pub fn new(namespace: Name, name: Name) -> Self {
        ServiceKey { namespace, name }
    }

    /// A key from texts; for tests and fixed names.
    ///
    /// # Errors
    /// [`InvalidName`] of the first part that is not a name.
    pub fn parse(namespace: &str, name: &str) -> Result<Self, InvalidName> {
        Ok(ServiceKey { namespace: Name::new(namespace)?, name: Name::new(name)? })
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An instance: service, then id, so that a service's instances lie side by side in an ordered map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct InstanceKey {
    /// The service it is one of.
    #[n(0)]
    pub service: ServiceKey,
    /// Its id there.
    #[n(1)]
    pub id: InstanceId,
}

impl fmt::Display for InstanceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.id)
    }
}

/// What sort of document an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Kind {
    /// `causeway.dev/v1 Service`
    #[n(0)]
    Service,
    /// `gateway.networking.k8s.io/v1 Gateway`
    #[n(1)]
    Gateway,
    /// `gateway.networking.k8s.io/v1 HTTPRoute`
    #[n(2)]
    HttpRoute,
    /// `causeway.dev/v1 AccessPolicy`
    #[n(3)]
    AccessPolicy,
    /// `causeway.dev/v1 Topic`
    #[n(4)]
    Topic,
    /// `causeway.dev/v1 Subscription`
    #[n(5)]
    Subscription,
    /// `causeway.dev/v1 Saga`
    #[n(6)]
    Saga,
    /// `v1 Secret`
    #[n(7)]
    Secret,
    /// `gateway.networking.k8s.io/v1 GRPCRoute`
    #[n(8)]
    GrpcRoute,
    /// `causeway.dev/v1 TrafficPolicy`
    #[n(9)]
    TrafficPolicy,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Kind; 10] = [
        Kind::Service,
        Kind::Gateway,
        Kind::HttpRoute,
        Kind::AccessPolicy,
        Kind::Topic,
        Kind::Subscription,
        Kind::Saga,
        Kind::Secret,
        Kind::GrpcRoute,
        Kind::TrafficPolicy,
    ];

    /// As written in a document's `kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Service => "Service",
            Kind::Gateway => "Gateway",
            Kind::HttpRoute => "HTTPRoute",
            Kind::AccessPolicy => "AccessPolicy",
            Kind::Topic => "Topic",
            Kind::Subscription => "Subscription",
            Kind::Saga => "Saga",
            Kind::Secret => "Secret",
            Kind::GrpcRoute => "GRPCRoute",
            Kind::TrafficPolicy => "TrafficPolicy",
        }
    }

    /// As written in a document's `apiVersion`.
    pub const fn api_version(self) -> &'static str {
        match self {
            Kind::Gateway | Kind::HttpRoute | Kind::GrpcRoute => "gateway.networking.k8s.io/v1",
            Kind::Secret => "v1",
            _ => "causeway.dev/v1",
        }
    }

    /// Finds a kind by its name, in any case, singular or with a plural `s` (`httproutes`, `gateway`).
    pub fn find(text: &str) -> Option<Kind> {
        let lower = text.to_ascii_lowercase();
        Kind::ALL.into_iter().find(|kind| {
            let name = kind.as_str().to_ascii_lowercase();
            lower == name
                || lower.strip_suffix('s') == Some(&name)
                || (name.ends_with('y') && lower.strip_suffix("ies") == name.strip_suffix('y'))
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An object: `Kind namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ObjectKey {
    /// Its kind.
    #[n(0)]
    pub kind: Kind,
    /// Its namespace.
    #[n(1)]
    pub namespace: Name,
    /// Its name. A subscription's is `<topic>.<group>`.
    #[n(2)]
    pub name: Name,
}

impl ObjectKey {
    /// The object of kind `Service` that declares this service.
    pub fn service(key: &ServiceKey) -> Self {
        ObjectKey { kind: Kind::Service, namespace: key.namespace.clone(), name: key.name.clone() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_rules() {
        for good in ["a", "0", "orders", "s.g", "a-b_c.d9", &"a".repeat(253)] {
            assert!(Name::new(good).is_ok_and(|name| name.as_str() == good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a b", "ä", "a/b", "..", &"a".repeat(254), "a\0"] {
            assert!(Name::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn kinds_are_found_as_people_type_them() {
        for (text, kind) in [
            ("httproutes", Kind::HttpRoute),
            ("HTTPRoute", Kind::HttpRoute),
            ("accesspolicies", Kind::AccessPolicy),
            ("sagas", Kind::Saga),
        ] {
            assert_eq!(Kind::find(text), Some(kind));
        }
        assert_eq!(Kind::find("pod"), None);
    }
}
