//! Edits of fields: set replaces, add appends, remove removes; in that order (Gateway API, HTTPHeaderFilter).

use causeway_model::HeaderEdit;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, response};

use crate::{Exchange, Filter, Flow};

/// Edits of a request's fields.
#[derive(Debug)]
pub struct RequestHeaders(Edit);

/// Edits of an answer's fields.
#[derive(Debug)]
pub struct ResponseHeaders(Edit);

#[derive(Debug)]
struct Edit {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

impl RequestHeaders {
    /// # Errors
    /// Which name or value cannot be one.
    pub fn compile(edit: &HeaderEdit) -> Result<Self, String> {
        Edit::compile(edit).map(RequestHeaders)
    }
}

impl ResponseHeaders {
    /// # Errors
    /// Which name or value cannot be one.
    pub fn compile(edit: &HeaderEdit) -> Result<Self, String> {
        Edit::compile(edit).map(ResponseHeaders)
    }
}

impl Filter for RequestHeaders {
    fn on_request(&self, exchange: &mut Exchange<'_>) -> Flow {
        self.0.apply(&mut exchange.request.headers);
        Flow::Next
    }
}

impl Filter for ResponseHeaders {
    fn on_response(&self, response: &mut response::Parts) {
        self.0.apply(&mut response.headers);
    }
}

impl Edit {
    fn compile(edit: &HeaderEdit) -> Result<Self, String> {
        let name = |text: &String| -> Result<HeaderName, String> {
            text.parse().map_err(|_| format!("{text:?} is not a header name"))
        };
        let pair = |(key, text): &(String, String)| -> Result<_, String> {
            let value = HeaderValue::from_str(text)
                .map_err(|_| format!("the value of header {key:?} holds characters that it cannot"))?;
            Ok((name(key)?, value))
        };
        Ok(Edit {
            set: edit.set.iter().map(pair).collect::<Result<_, _>>()?,
            add: edit.add.iter().map(pair).collect::<Result<_, _>>()?,
            remove: edit.remove.iter().map(name).collect::<Result<_, _>>()?,
        })
    }

    fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}
