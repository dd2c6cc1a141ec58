//! Names in a request's path.
//!
//! In:    the path as matched.      Out: [`Params`], which gives each part as its type.
//! Owner: the request.
//! Invariant: without `/namespaces/{ns}` the namespace is `default`.
//! Not here: the query (`query.rs`).

use axum::extract::{FromRequestParts, RawPathParams};
use causeway_model::{InstanceId, InstanceKey, Name, ServiceKey};
use causeway_saga::SagaId;
use http::request::Parts;

use super::problem::Problem;

/// The named parts of the path.
#[derive(Clone, Debug)]
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let raw = RawPathParams::from_request_parts(parts, state).await;
        let raw = raw.map_err(|error| Problem::parameter(format!("the path is not UTF-8: {error}")))?;
        Ok(Params(raw.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
    }
}

impl Params {
    pub(super) fn text(&self, key: &str) -> &str {
        self.0.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
    }

    /// A part that is a name.
    pub(super) fn name(&self, key: &str) -> Result<Name, Problem> {
        Name::new(self.text(key))
            .map_err(|error| Problem::parameter(format!("{{{key}}} in the path: {error}")))
    }

    /// The namespace, when the path says one.
    pub(super) fn scope(&self) -> Result<Option<Name>, Problem> {
        self.0.iter().any(|(name, _)| name == "ns").then(|| self.name("ns")).transpose()
    }

    pub(super) fn namespace(&self) -> Result<Name, Problem> {
        Ok(self.scope()?.unwrap_or_else(Name::default_namespace))
    }

    pub(super) fn service(&self) -> Result<ServiceKey, Problem> {
        Ok(ServiceKey::new(self.namespace()?, self.name("name")?))
    }

    pub(super) fn instance(&self) -> Result<InstanceKey, Problem> {
        let id = InstanceId::new(self.text("id"));
        let id = id.map_err(|error| Problem::parameter(format!("{{id}} in the path: {error}")))?;
        Ok(InstanceKey { service: self.service()?, id })
    }

    pub(super) fn saga(&self) -> Result<SagaId, Problem> {
        SagaId::new(self.text("id"))
            .map_err(|error| Problem::parameter(format!("{{id}} in the path: {error}")))
    }
}
