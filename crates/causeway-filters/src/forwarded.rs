//! Says who is behind the proxy: `Forwarded` (RFC 7239) and its older relatives, set at the gate, never believed from outside.

use http::HeaderValue;
use http::header::{FORWARDED, HOST, HeaderName};

use crate::{Exchange, Filter, Flow};

static FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Set by other proxies, by nobody here: what comes from outside is taken away.
static UNTRUSTED: [HeaderName; 2] =
    [HeaderName::from_static("x-forwarded-port"), HeaderName::from_static("x-real-ip")];

/// Fields that a gateway adds to a request.
const FIELDS: usize = 8;

/// Replaces what the client says of itself by what we see.
#[derive(Debug)]
pub struct Forwarded;

impl Filter for Forwarded {
    fn on_request(&self, exchange: &mut Exchange<'_>) -> Flow {
        let client = exchange.client;
        let headers = &mut exchange.request.headers;
        // Room for what is set here and on the way: growing a small map twice costs more than all the rest.
        headers.reserve(FIELDS);
        for name in &UNTRUSTED {
            headers.remove(name);
        }
        if let Some(host) = headers.get(HOST).cloned() {
            headers.insert(&FORWARDED_HOST, host);
        }
        headers.insert(&FOR, client.address_value.clone());
        headers.insert(&PROTO, HeaderValue::from_static(client.scheme()));
        headers.insert(FORWARDED, client.forwarded_value.clone());
        Flow::Next
    }
}
