//! Tells the app who calls: the identity that the peer proved, in `X-Causeway-Caller`; never believed from a message.

use http::header::HeaderName;

use crate::{Exchange, Filter, Flow};

/// The field that carries the caller's identity (`spiffe://…`) to the app. Only the app's own sidecar sets it.
pub static CALLER: HeaderName = HeaderName::from_static("x-causeway-caller");

/// Takes the field away, and sets it on a mesh connection.
#[derive(Debug)]
pub struct Caller;

impl Filter for Caller {
    fn on_request(&self, exchange: &mut Exchange<'_>) -> Flow {
        match &exchange.client.identity_value {
            Some(identity) => drop(exchange.request.headers.insert(&CALLER, identity.clone())),
            None => drop(exchange.request.headers.remove(&CALLER)),
        }
        Flow::Next
    }
}
