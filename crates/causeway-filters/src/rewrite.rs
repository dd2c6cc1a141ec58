//! Rewrites host and path towards the backend (Gateway API, HTTPURLRewriteFilter).

use causeway_model::PathRewrite;
use http::HeaderValue;
use http::header::HOST;

use crate::{Exchange, Filter, Flow};

/// The new host and path; what is absent stays.
#[derive(Debug)]
pub struct Rewrite {
    hostname: Option<HeaderValue>,
    path: Option<PathRewrite>,
}

impl Rewrite {
    /// # Errors
    /// A host or path that cannot be one.
    pub fn compile(hostname: Option<&str>, path: Option<PathRewrite>) -> Result<Self, String> {
        let hostname = match hostname {
            Some(text) => {
                Some(HeaderValue::from_str(text).map_err(|_| format!("{text:?} is not a host name"))?)
            }
            None => None,
        };
        if let Some(PathRewrite::Full(text) | PathRewrite::Prefix(text)) = &path {
            let is_path = text.is_empty() || causeway_wire::path::canonical(text).is_ok();
            if !is_path {
                return Err(format!("{text:?} is not a path"));
            }
        }
        Ok(Rewrite { hostname, path })
    }
}

impl Filter for Rewrite {
    fn on_request(&self, exchange: &mut Exchange<'_>) -> Flow {
        if let Some(rewrite) = &self.path {
            let path = exchange.rewritten(rewrite);
            exchange.set_path(&path);
        }
        if let Some(host) = &self.hostname {
            exchange.request.headers.insert(HOST, host.clone());
        }
        Flow::Next
    }
}
