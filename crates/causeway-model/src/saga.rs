//! Saga definitions: data that rides with each started saga.

use std::collections::BTreeMap;
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::names::{Name, ServiceKey};
use crate::topic::RetryPolicy;

/// A definition.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct SagaDefinition {
    /// Namespace of its services and topics where a step names none.
    #[n(0)]
    pub namespace: Name,
    /// Its name; `inline` when it came with the start.
    #[n(1)]
    pub name: Name,
    /// When the whole must have ended before it is undone; no bound when absent.
    #[n(2)]
    pub timeout: Option<Duration>,
    /// What is done, one stage after the other.
    #[n(3)]
    pub stages: Vec<Stage>,
}

impl SagaDefinition {
    /// Every step, in the order written.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.stages.iter().flat_map(|stage| stage.steps.iter())
    }
}

/// Steps that run side by side; mostly one.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Stage {
    /// The steps.
    #[n(0)]
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Step {
    /// Name, unique in the definition.
    #[n(0)]
    pub name: Name,
    /// What it does.
    #[n(1)]
    pub action: Action,
    /// What undoes it.
    #[n(2)]
    pub compensate: Option<ServiceCall>,
    /// When and how often it is tried again.
    #[n(3)]
    pub retry: RetryPolicy,
    /// Bound on each attempt.
    #[n(4)]
    pub timeout: Duration,
    /// Once it is done the saga only goes forward.
    #[n(5)]
    pub is_pivot: bool,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Action {
    /// Calls a service.
    #[n(0)]
    Call(#[n(0)] ServiceCall),
    /// Publishes an event.
    #[n(1)]
    Publish {
        /// To this topic, the definition's namespace.
        #[n(0)]
        topic: Name,
        /// CloudEvents `type`.
        #[n(1)]
        event_type: String,
        /// CloudEvents `data`: JSON text with `${…}` in its strings.
        #[n(2)]
        data: String,
    },
}

/// A call; `${…}` in path, header values and the body's strings is CEL over `input`, `steps` and `saga`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ServiceCall {
    /// The service.
    #[n(0)]
    pub service: ServiceKey,
    /// Method, upper case.
    #[n(1)]
    pub method: String,
    /// Path and query.
    #[n(2)]
    pub path: String,
    /// Headers by lower-case name.
    #[n(3)]
    pub headers: BTreeMap<String, String>,
    /// JSON text of the body; none when absent.
    #[n(4)]
    pub body: Option<String>,
}
