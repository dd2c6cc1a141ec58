//! A connection that can take a request now, whatever it speaks.
//!
//! In:    a [`Departure`]: a request's head and body on their way out.      Out: the head of an answer, or a [`SendError`].
//! Owner: one attempt.
//! Invariant: what was not sent stays with the departure, so that it can be tried again; an error says so.
//! Not here: where connections come from (`pool`), what a failure leads to (`attempt`).

use std::sync::Arc;

use causeway_wire::ProxyError;
use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, Response, Uri, Version};

use crate::body::Inflow;
use crate::endpoint::Endpoint;
use crate::h1::Line;
use crate::http2::client::Channel;
use crate::http2::pulse::Load;
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
    Http2 { channel: Arc<Channel>, load: Load, is_reused: bool },
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
            Lease::Http2 { channel, load, .. } => {
                let (request, body) = departure.depart();
                match channel.send(request, body, load).await {
                    Ok(response) => Ok(response.map(|body| body.map_or(Inflow::Empty, Inflow::Http2))),
                    Err(error) => Err(SendError {
                        error: ProxyError::ConnectionTerminated,
                        details: error.to_string(),
                        is_unsent: is_refused(&error),
                    }),
                }
            }
        }
    }
}

impl Departure<'_> {
    /// The request as its endpoint wants it in HTTP/2.
    fn depart(&mut self) -> (Request<()>, Outgoing) {
        let head = if self.keep { self.head.clone() } else { self.head.take() };
        let (Some(head), Some(body)) = (head, self.body.take()) else {
            unreachable!("a retry is allowed only with head and body at hand");
        };
        let mut request = Request::new(());
        *request.method_mut() = head.method;
        *request.headers_mut() = head.headers;
        let scheme = if self.endpoint.is_mesh() { Scheme::HTTPS } else { Scheme::HTTP };
        *request.uri_mut() = absolute(head.uri, scheme, request.headers_mut());
        *request.version_mut() = Version::HTTP_2;
        (request, body)
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

/// The peer said that it did not and will not process the request: it refused the stream, or named a last one before it when it went
/// away (RFC 9113 sections 6.8, 8.7). `h2` gives the error of a GOAWAY only to streams beyond the last.
fn is_refused(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}
