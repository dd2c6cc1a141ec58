//! A connection that can take a request now, whatever it speaks.
//!
//! In:    a [`Departure`]: a request's head and body on their way out.      Out: the head of an answer, or a [`SendError`].
//! Owner: one attempt.
//! Invariant: what was not sent stays with the departure, so that it can be tried again; an error says so.
//! Not here: where connections come from (`pool`), what a failure leads to (`attempt`).

use std::error::Error as _;

use causeway_wire::ProxyError;
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, Response, Uri, Version};
use hyper::client::conn::{TrySendError, http2};

use crate::body::Inflow;
use crate::endpoint::Endpoint;
use crate::h1::Line;
use crate::outgoing::{Head, Outgoing};
use crate::trouble::SendError;

/// A request on its way out, for one attempt.
pub(crate) struct Departure<'a> {
    pub endpoint: &'a Endpoint,
    /// Still there afterwards when nothing was sent, or `keep` asks for it.
    pub head: &'a mut Option<Head>,
    /// Still there afterwards when nothing of the request was sent.
    pub body: &'a mut Option<Outgoing>,
    /// A further attempt may want the head.
    pub keep: bool,
}

/// A connection that can take a request.
pub(crate) enum Lease {
    Http1(Line),
    Http2 { sender: http2::SendRequest<Outgoing>, is_reused: bool },
}

impl Lease {
    pub(crate) fn is_reused(&self) -> bool {
        match self {
            Lease::Http1(line) => line.is_reused,
            Lease::Http2 { is_reused, .. } => *is_reused,
        }
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the request; the service may have seen it.
    pub(crate) async fn send(self, mut departure: Departure<'_>) -> Result<Response<Inflow>, SendError> {
        match self {
            Lease::Http1(line) => {
                let Departure { head: Some(head), body, .. } = departure else {
                    unreachable!("a retry is allowed only with the head at hand");
                };
                let sent = line.send(&head.method, &head.uri, &head.headers, body).await?;
                Ok(sent.map(Inflow::Reply))
            }
            Lease::Http2 { mut sender, .. } => match sender.try_send_request(departure.depart()).await {
                Ok(response) => Ok(response.map(Inflow::Hyper)),
                Err(error) => Err(departure.come_back(error)),
            },
        }
    }
}

impl Departure<'_> {
    /// The request as its endpoint wants it.
    fn depart(&mut self) -> Request<Outgoing> {
        let head = if self.keep { self.head.clone() } else { self.head.take() };
        let (Some(head), Some(body)) = (head, self.body.take()) else {
            unreachable!("a retry is allowed only with head and body at hand");
        };
        let mut request = Request::new(body);
        *request.method_mut() = head.method;
        *request.headers_mut() = head.headers;
        let scheme = if self.endpoint.is_mesh() { Scheme::HTTPS } else { Scheme::HTTP };
        *request.uri_mut() = absolute(head.uri, scheme, request.headers_mut());
        *request.version_mut() = Version::HTTP_2;
        request
    }

    fn come_back(&mut self, mut error: TrySendError<Request<Outgoing>>) -> SendError {
        let mut is_unsent = is_refused_stream(error.error());
        if let Some(request) = error.take_message() {
            let (head, body) = head_of(request);
            *self.head = Some(head);
            *self.body = Some(body);
            is_unsent = true;
        }
        let error = error.error();
        let kind = match error.is_parse() {
            true => ProxyError::HttpProtocolError,
            false => ProxyError::ConnectionTerminated,
        };
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        SendError { error: kind, details: format!("{error}{cause}"), is_unsent }
    }
}

/// HTTP/2 says the host in the target and not in a field.
fn absolute(uri: Uri, scheme: Scheme, headers: &mut HeaderMap) -> Uri {
    let authority = headers.remove(HOST).and_then(|host| Authority::from_maybe_shared(host).ok());
    let Some(authority) = authority else { return uri };
    let mut parts = uri.into_parts();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority);
    Uri::from_parts(parts).unwrap_or_default()
}

/// The head out of a request that came back unsent.
fn head_of(request: Request<Outgoing>) -> (Head, Outgoing) {
    let (parts, body) = request.into_parts();
    let mut headers = parts.headers;
    if let Some(authority) = parts.uri.authority()
        && let Ok(host) = authority.as_str().parse()
    {
        headers.insert(HOST, host);
    }
    let uri = match parts.uri.into_parts().path_and_query {
        Some(path) => Uri::from(path),
        None => Uri::default(),
    };
    (Head { method: parts.method, uri, headers }, body)
}

/// The peer said that it did not and will not process the request (RFC 9113 sections 6.8, 8.7).
fn is_refused_stream(error: &hyper::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let reason = error.reason();
            return error.is_remote()
                && (reason == Some(h2::Reason::REFUSED_STREAM)
                    || (error.is_go_away() && reason == Some(h2::Reason::NO_ERROR)));
        }
        cause = error.source();
    }
    false
}
