//! A route: which requests go where (Gateway API v1.6, kind HTTPRoute; a Service as parent is GAMMA).

use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::names::{Name, ServiceKey};
use crate::traffic_policy::{Affinity, Share};

/// An HTTP route. A GRPCRoute is one too: its methods are paths, `/package.Service/Method`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HttpRoute {
    /// What it hangs on.
    #[n(0)]
    pub parents: Vec<ParentRef>,
    /// Hosts it is for (`shop.example`, `*.example`); all of its parent's when empty.
    #[n(1)]
    pub hostnames: Vec<String>,
    /// Its rules, in the order written (which breaks ties).
    #[n(2)]
    pub rules: Vec<Rule>,
}

impl HttpRoute {
    /// Every service, and the port asked for, that its rules send requests or copies of them to; some perhaps more than once.
    pub fn destinations(&self) -> impl Iterator<Item = (&ServiceKey, Option<u16>)> {
        let mirrored = |filter| match filter {
            &Filter::Mirror { ref service, port, .. } => Some((service, port)),
            _ => None,
        };
        self.rules.iter().flat_map(move |rule| {
            let of_backends = rule.backends.iter().flat_map(|backend| &backend.filters);
            let backends = rule.backends.iter().map(|backend| (&backend.service, backend.port));
            backends.chain(rule.filters.iter().chain(of_backends).filter_map(mirrored))
        })
    }
}

/// What a route or policy hangs on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ParentRef {
    /// Gateway or Service.
    #[n(0)]
    pub kind: ParentKind,
    /// Its namespace.
    #[n(1)]
    pub namespace: Name,
    /// Its name.
    #[n(2)]
    pub name: Name,
    /// One listener of it, by name; all when absent.
    #[n(3)]
    pub section: Option<Name>,
    /// One port of it; all when absent.
    #[n(4)]
    pub port: Option<u16>,
}

/// What a route may hang on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum ParentKind {
    /// A gateway: traffic from outside.
    #[n(0)]
    Gateway,
    /// A service: traffic to it within the mesh.
    #[n(1)]
    Service,
}

/// One rule: any match leads to the backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Rule {
    /// Name, when given.
    #[n(0)]
    pub name: Option<String>,
    /// Any of these must hold; an empty list matches every request.
    #[n(1)]
    pub matches: Vec<RequestMatch>,
    /// Done to the request and answer, in order.
    #[n(2)]
    pub filters: Vec<Filter>,
    /// Where to, by weight. Empty (without a redirect) answers 500, as Gateway API says.
    #[n(3)]
    pub backends: Vec<Backend>,
    /// Time limits.
    #[n(4)]
    pub timeouts: Timeouts,
    /// Retries; the default policy when absent.
    #[n(5)]
    pub retry: Option<RetryRule>,
    /// Which endpoint a client stays with (`sessionPersistence`, GEP-1619).
    #[n(6)]
    pub affinity: Option<Affinity>,
}

/// All of these must hold.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RequestMatch {
    /// The path; `PathPrefix /` when not written.
    #[n(0)]
    pub path: PathMatch,
    /// Headers.
    #[n(1)]
    pub headers: Vec<HeaderMatch>,
    /// Query parameters.
    #[n(2)]
    pub query: Vec<QueryMatch>,
    /// Method, upper case.
    #[n(3)]
    pub method: Option<String>,
}

/// How a path is matched.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PathMatch {
    /// The whole path.
    #[n(0)]
    Exact(#[n(0)] String),
    /// Whole path elements: `/foo` matches `/foo` and `/foo/bar`, not `/foobar`.
    #[n(1)]
    Prefix(#[n(0)] String),
    /// A regular expression for the whole path.
    #[n(2)]
    Regex(#[n(0)] String),
}

/// How a header's or parameter's value is matched.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TextMatch {
    /// Exactly.
    #[n(0)]
    Exact(#[n(0)] String),
    /// A regular expression for the whole value.
    #[n(1)]
    Regex(#[n(0)] String),
}

/// A header that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HeaderMatch {
    /// Name, lower case.
    #[n(0)]
    pub name: String,
    /// Value.
    #[n(1)]
    pub value: TextMatch,
}

/// A query parameter that must be there.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct QueryMatch {
    /// Name, as in the URL once decoded.
    #[n(0)]
    pub name: String,
    /// Value, decoded.
    #[n(1)]
    pub value: TextMatch,
}

/// A place to send requests to.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Backend {
    /// The service.
    #[n(0)]
    pub service: ServiceKey,
    /// Which port of it.
    #[n(1)]
    pub port: Option<u16>,
    /// Relative share; 1 when not written, 0 takes none.
    #[n(2)]
    pub weight: u32,
    /// Done to requests that go here.
    #[n(3)]
    pub filters: Vec<Filter>,
}

/// Something done to a request or answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Filter {
    /// Edits request headers.
    #[n(0)]
    RequestHeaders(#[n(0)] HeaderEdit),
    /// Edits answer headers.
    #[n(1)]
    ResponseHeaders(#[n(0)] HeaderEdit),
    /// Answers with a redirect.
    #[n(2)]
    Redirect {
        /// `http` or `https`.
        #[n(0)]
        scheme: Option<String>,
        /// Host of the new location.
        #[n(1)]
        hostname: Option<String>,
        /// Path of the new location.
        #[n(2)]
        path: Option<PathRewrite>,
        /// Port of the new location.
        #[n(3)]
        port: Option<u16>,
        /// 301, 302, 303, 307 or 308.
        #[n(4)]
        status: u16,
    },
    /// Rewrites host and path towards the backend.
    #[n(3)]
    Rewrite {
        /// New host.
        #[n(0)]
        hostname: Option<String>,
        /// New path.
        #[n(1)]
        path: Option<PathRewrite>,
    },
    /// Sends a copy of the request elsewhere and drops its answer.
    #[n(4)]
    Mirror {
        /// Where the copy goes.
        #[n(0)]
        service: ServiceKey,
        /// Which port of it.
        #[n(1)]
        port: Option<u16>,
        /// Which share of the requests.
        #[n(2)]
        share: Share,
    },
}

/// Edits of headers: set replaces, add appends, remove removes; in that order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct HeaderEdit {
    /// Name and value.
    #[n(0)]
    pub set: Vec<(String, String)>,
    /// Name and value.
    #[n(1)]
    pub add: Vec<(String, String)>,
    /// Names.
    #[n(2)]
    pub remove: Vec<String>,
}

/// How a path changes.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum PathRewrite {
    /// The whole path.
    #[n(0)]
    Full(#[n(0)] String),
    /// The prefix that matched.
    #[n(1)]
    Prefix(#[n(0)] String),
}

/// Time limits of a rule; the proxy's defaults where absent, no limit where zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Timeouts {
    /// The whole request with its retries.
    #[n(0)]
    pub request: Option<Duration>,
    /// Each try.
    #[n(1)]
    pub backend_request: Option<Duration>,
}

/// Retries of a rule (Gateway API GEP-1731).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct RetryRule {
    /// Retries after the first try.
    #[n(0)]
    pub attempts: u32,
    /// Statuses that are tried again, beside failed connections.
    #[n(1)]
    pub codes: Vec<u16>,
    /// Least wait before a retry.
    #[n(2)]
    pub backoff: Option<Duration>,
}
