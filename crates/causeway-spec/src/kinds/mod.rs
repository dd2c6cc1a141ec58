//! What people may write into each kind's `spec`.
//!
//! In:    a spec's node and the object's names.     Out: [`Spec`].
//! Owner: the reader of one text.
//! Invariant: one file for each kind; every field is asked for once, so that all others are refused.
//! Not here: apiVersion, kind and metadata (`document.rs`).

pub(crate) mod access;
pub(crate) mod filter;
pub(crate) mod gateway;
pub(crate) mod grpc_route;
pub(crate) mod refs;
pub(crate) mod route;
pub(crate) mod saga;
pub(crate) mod secret;
pub(crate) mod service;
pub(crate) mod subscription;
pub(crate) mod topic;
pub(crate) mod traffic;

use causeway_model::{Kind, Name, Spec};

use crate::reader::{At, Reader};

/// Reads the spec of one kind. A Secret has none: its whole document is read (`secret.rs`).
pub(crate) fn read(
    r: &mut Reader<'_>,
    kind: Kind,
    namespace: &Name,
    name: &Name,
    spec: &At<'_>,
) -> Option<Spec> {
    match kind {
        Kind::Service => service::read(r, spec).map(Spec::Service),
        Kind::Gateway => gateway::read(r, namespace, spec).map(Spec::Gateway),
        Kind::HttpRoute => route::read(r, namespace, spec).map(Spec::HttpRoute),
        Kind::AccessPolicy => access::read(r, namespace, spec).map(Spec::AccessPolicy),
        Kind::Topic => topic::read(r, spec).map(Spec::Topic),
        Kind::Subscription => subscription::document(r, namespace, name, spec).map(Spec::Subscription),
        Kind::Saga => saga::read(r, namespace, name, spec).map(Spec::Saga),
        Kind::GrpcRoute => grpc_route::read(r, namespace, spec).map(Spec::GrpcRoute),
        Kind::TrafficPolicy => traffic::read(r, namespace, spec).map(Spec::TrafficPolicy),
        Kind::Secret => None,
    }
}
