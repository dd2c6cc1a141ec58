//! Answers with a redirect (Gateway API, HTTPRequestRedirectFilter).

use bytes::Bytes;
use causeway_model::PathRewrite;
use http::header::LOCATION;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::{Exchange, Filter, Flow, Reply};

/// Where to; what is absent stays as the request has it.
#[derive(Debug)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host.
    pub hostname: Option<String>,
    /// Path.
    pub path: Option<PathRewrite>,
    /// Port.
    pub port: Option<u16>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

impl Filter for Redirect {
    fn on_request(&self, exchange: &mut Exchange<'_>) -> Flow {
        let mut headers = HeaderMap::new();
        match HeaderValue::try_from(self.location(exchange)) {
            Ok(location) => drop(headers.insert(LOCATION, location)),
            Err(_) => return Flow::Next,
        }
        Flow::Reply(Box::new(Reply {
            status: self.status,
            headers,
            body: Bytes::new(),
            failure: None,
            by: None,
        }))
    }
}

impl Redirect {
    fn location(&self, exchange: &Exchange<'_>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(exchange.client.scheme());
        let host = self.hostname.as_deref().unwrap_or(exchange.host());
        let path = match &self.path {
            Some(rewrite) => exchange.rewritten(rewrite),
            None => exchange.path().to_owned(),
        };
        let query = exchange.request.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let port = match (self.port(exchange), scheme) {
            (Some(80) | None, "http") | (Some(443) | None, "https") => String::new(),
            (Some(port), _) => format!(":{port}"),
            (None, _) => String::new(),
        };
        format!("{scheme}://{host}{port}{path}{query}")
    }

    /// Gateway API: the port written; else the scheme's own when a scheme is written; else the listener's.
    fn port(&self, exchange: &Exchange<'_>) -> Option<u16> {
        match (self.port, &self.scheme) {
            (Some(port), _) => Some(port),
            (None, Some(_)) => None,
            (None, None) => Some(exchange.port),
        }
    }
}
