//! What a filter sees: the canonical request and who sent it.

use std::net::IpAddr;

use causeway_model::SpiffeId;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri, request};

/// Who sent a request. Made once a connection: its field values are shared by all requests of the connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its address.
    pub address: IpAddr,
    /// Who it proved to be, on a mesh connection.
    pub identity: Option<SpiffeId>,
    /// Whether it came on TLS.
    pub is_tls: bool,
    pub(crate) address_value: HeaderValue,
    pub(crate) forwarded_value: HeaderValue,
    pub(crate) identity_value: Option<HeaderValue>,
}

impl Client {
    /// A client at `address`.
    pub fn new(address: IpAddr, identity: Option<SpiffeId>, is_tls: bool) -> Self {
        let node = match address {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("\"[{v6}]\""),
        };
        let value = |text: String| HeaderValue::from_str(&text).expect("addresses and identities are ASCII");
        let scheme = if is_tls { "https" } else { "http" };
        Client {
            address,
            is_tls,
            address_value: value(address.to_string()),
            forwarded_value: value(format!("for={node};proto={scheme}")),
            identity_value: identity.as_ref().map(|identity| value(identity.to_string())),
            identity,
        }
    }

    /// Its address as text, made once for all requests of the connection.
    pub fn address_text(&self) -> &str {
        self.address_value.to_str().unwrap_or("")
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        if self.is_tls { "https" } else { "http" }
    }
}

/// A request on its way to a service.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// Method, target in origin form, fields with exactly one `Host`.
    pub request: &'a mut request::Parts,
    /// Who sent it.
    pub client: &'a Client,
    /// Bytes of the path that the route's prefix matched.
    pub matched: usize,
    /// Port at which it came in.
    pub port: u16,
}

impl Exchange<'_> {
    /// The path.
    pub fn path(&self) -> &str {
        self.request.uri.path()
    }

    /// The host without its port; empty when it has none that is text.
    pub fn host(&self) -> &str {
        let host = self.request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
        match host.rfind(':') {
            Some(at) if !host[at..].contains(']') => &host[..at],
            _ => host,
        }
    }

    /// The path that a rewrite gives, before the query.
    pub(crate) fn rewritten(&self, rewrite: &causeway_model::PathRewrite) -> String {
        use causeway_model::PathRewrite::{Full, Prefix};
        let prefix = match rewrite {
            Full(path) => return path.clone(),
            Prefix(prefix) => prefix,
        };
        let rest = self.path().get(self.matched..).unwrap_or("");
        let (left, right) = (prefix.trim_end_matches('/'), rest.trim_start_matches('/'));
        match (left.is_empty(), right.is_empty()) {
            (_, true) if rest.is_empty() && !left.is_empty() => left.to_owned(),
            (_, true) => format!("{left}/"),
            (_, false) => format!("{left}/{right}"),
        }
    }

    /// Gives the request another path; its query stays. A path that is not one changes nothing.
    pub(crate) fn set_path(&mut self, path: &str) {
        let target = match self.request.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        if let Ok(target) = PathAndQuery::try_from(target) {
            self.request.uri = Uri::from(target);
        }
    }
}
