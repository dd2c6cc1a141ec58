//! One request on a connection to an endpoint, and its answer.
//!
//! In:    a connection, a request's head and body.      Out: the answer's head, and its body as a [`Reply`].
//! Owner: the request's task: first its attempt, then whoever reads the answer.
//! Invariant: a connection comes back to its shelf only when both messages ended whole and not a byte is left over.
//! Not here: where connections come from (`shelf`, `pool`), what a failure leads to (`attempt`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use causeway_wire::ProxyError;
use causeway_wire::h1::{
    Decoder, Framing, Limits, Parsed, Progress, ResponseHead, response_head, write_request_head,
};
use http::header::UPGRADE;
use http::{HeaderMap, Method, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};

use super::frames;
use super::outbox::Outbox;
use super::rest::Rest;
use super::shelf::Shelf;
use crate::limits;
use crate::socket::Socket;
use crate::trouble::{BodyError, SendError};

/// A connection to an endpoint, lent to one request.
pub(crate) struct Line {
    socket: Socket,
    endpoint: u64,
    /// Where it rests afterwards; nowhere when it is for this one request.
    shelf: Option<Arc<Shelf>>,
    pub is_reused: bool,
}

/// An answer's body.
#[derive(Debug)]
pub(crate) enum Reply {
    Empty,
    /// All of it was there with the head.
    Whole(Bytes),
    Stream(Box<Stream>),
    /// The connection speaks another protocol now, and this much of it was read already.
    Upgraded(Socket, Bytes),
}

/// A request's body on its way out, while its answer comes already.
type Rising = Pin<Box<dyn Body<Data = Bytes, Error = BodyError> + Send>>;

/// An answer's body as it comes, and what is left to send of the request's.
pub(crate) struct Stream {
    line: Option<Line>,
    rest: Rest,
    decoder: Decoder,
    outbox: Outbox,
    upload: Option<Upload<Rising>>,
    /// The client broke its upload off: the service waits for the rest in vain.
    broken: Option<BodyError>,
    /// Both heads say that another request may follow.
    is_persistent: bool,
}

/// What is left to send of a request's body.
struct Upload<B> {
    body: B,
    is_chunked: bool,
}

/// Why an upload does not go on.
enum Stop {
    /// The service takes no more; it may have answered all the same.
    Socket(io::Error),
    /// The client broke its body off.
    Body(BodyError),
}

impl Line {
    pub(crate) fn new(socket: Socket, endpoint: u64, shelf: Option<Arc<Shelf>>, is_reused: bool) -> Self {
        Line { socket, endpoint, shelf, is_reused }
    }

    /// Sends a request and waits for its answer's head. `body` is taken when anything of it was sent.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(crate) async fn send<B>(
        self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &mut Option<B>,
    ) -> Result<Response<Reply>, SendError>
    where
        B: Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static,
    {
        let framing = body.as_ref().map_or(Framing::None, framing_of);
        let mut outbox = Outbox::default();
        write_request_head(outbox.lines(), method, uri, headers, framing, None);
        let upload = match framing {
            Framing::None => None,
            framing => body.take().map(|body| Upload { body, is_chunked: framing == Framing::Chunked }),
        };
        let mut sending = Sending {
            line: self,
            method,
            outbox,
            upload,
            rest: Rest::default(),
            progress: Progress::default(),
            interim: 0,
            stopped: None,
        };
        let head = std::future::poll_fn(|cx| sending.poll(cx)).await?;
        let asked_upgrade = headers.contains_key(UPGRADE);
        sending.answer(head, asked_upgrade)
    }

    /// Ends a call; the connection rests when it may be used again.
    fn rest(self) {
        if let Some(shelf) = self.shelf {
            shelf.put(self.endpoint, self.socket);
        }
    }
}

/// How a body that we send ends.
fn framing_of(body: &impl Body) -> Framing {
    match body.size_hint().exact() {
        _ if body.is_end_stream() => Framing::None,
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    }
}

/// A request that waits for its answer's head.
struct Sending<'a, B> {
    line: Line,
    method: &'a Method,
    outbox: Outbox,
    upload: Option<Upload<B>>,
    rest: Rest,
    progress: Progress,
    interim: u32,
    stopped: Option<Stop>,
}

impl<B> Sending<'_, B>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin + Send + 'static,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, SendError>> {
        if self.stopped.is_none()
            && let Poll::Ready(Err(stop)) =
                poll_upload(&mut self.outbox, &mut self.upload, &mut self.line.socket, cx)
        {
            self.upload = None;
            self.stopped = Some(stop);
        }
        match &self.stopped {
            Some(Stop::Body(error)) => {
                return Poll::Ready(Err(self.terminated(&format!("its body ended early: {error}"))));
            }
            Some(Stop::Socket(error)) if self.outbox.written == 0 => {
                return Poll::Ready(Err(self.terminated(&error.to_string())));
            }
            // A service that refuses a body may answer, close, and leave us to find out that nobody reads any more.
            Some(Stop::Socket(_)) | None => {}
        }
        self.poll_head(cx)
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, SendError>> {
        loop {
            if !self.rest.is_empty() {
                let bytes = self.rest.as_slice();
                match response_head(bytes, self.method, &mut self.progress, &Limits::default()) {
                    Ok(Parsed::Partial) => {}
                    Ok(Parsed::Done(head)) => {
                        self.rest.advance(head.bytes);
                        let is_interim = head.status.is_informational();
                        if !is_interim || head.status == StatusCode::SWITCHING_PROTOCOLS {
                            return Poll::Ready(Ok(head));
                        }
                        self.interim += 1;
                        if self.interim > limits::INTERIM_ANSWERS_MAX {
                            return Poll::Ready(Err(self.broken("it announces an answer again and again")));
                        }
                        continue;
                    }
                    Err(refusal) => return Poll::Ready(Err(self.broken(&refusal.to_string()))),
                }
            }
            match ready!(self.rest.poll_fill(&mut self.line.socket, cx)) {
                Ok(0) => return Poll::Ready(Err(self.terminated("the connection was closed"))),
                Err(error) => return Poll::Ready(Err(self.terminated(&error.to_string()))),
                Ok(_) => {}
            }
        }
    }

    fn terminated(&self, why: &str) -> SendError {
        let details = match (&self.stopped, self.rest.is_empty()) {
            (Some(Stop::Socket(error)), true) => format!("{why}, and before that: {error}"),
            (_, true) => why.to_owned(),
            (_, false) => format!("{why} within the answer's head"),
        };
        let is_unsent = self.outbox.written == 0;
        SendError { error: ProxyError::ConnectionTerminated, details, is_unsent }
    }

    fn broken(&self, why: &str) -> SendError {
        SendError { error: ProxyError::HttpProtocolError, details: why.to_owned(), is_unsent: false }
    }

    /// The answer, of which the head was read.
    fn answer(self, head: ResponseHead, asked_upgrade: bool) -> Result<Response<Reply>, SendError> {
        let is_upgrade = head.status == StatusCode::SWITCHING_PROTOCOLS;
        if is_upgrade && !asked_upgrade {
            return Err(self.broken("it changes the protocol, which nobody asked for"));
        }
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        *response.version_mut() = Version::HTTP_11;
        let Sending { line, outbox, upload, mut rest, stopped, .. } = self;
        let is_sent = upload.is_none() && outbox.is_empty() && stopped.is_none();
        let is_persistent = head.is_persistent && stopped.is_none();
        let at_hand = rest.as_slice().len() as u64;
        let reply = match head.framing {
            _ if is_upgrade => {
                let first = rest.take_copy(rest.as_slice().len());
                Reply::Upgraded(line.socket, first)
            }
            Framing::None | Framing::Length(0) if is_sent => {
                if is_persistent && rest.is_empty() {
                    line.rest();
                }
                Reply::Empty
            }
            Framing::Length(length) if is_sent && length <= at_hand => {
                let bytes = rest.take(length as usize);
                if is_persistent && rest.is_empty() {
                    line.rest();
                }
                Reply::Whole(bytes)
            }
            framing => {
                let upload = upload.map(|Upload { body, is_chunked }| Upload {
                    body: Box::pin(body) as Pin<Box<dyn Body<Data = _, Error = _> + Send>>,
                    is_chunked,
                });
                let decoder = Decoder::new(framing, &Limits::default());
                let line = Some(line);
                let broken = None;
                Reply::Stream(Box::new(Stream { line, rest, decoder, outbox, upload, broken, is_persistent }))
            }
        };
        Ok(response.map(|()| reply))
    }
}

/// Sends what is there of a request; ready when all is.
fn poll_upload<B>(
    outbox: &mut Outbox,
    upload: &mut Option<Upload<B>>,
    socket: &mut Socket,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Stop>>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    loop {
        while let Some(Upload { body, is_chunked }) = upload
            && !outbox.is_full()
        {
            let is_chunked = *is_chunked;
            let mut trailers = None;
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Stop::Body(error))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        if !data.is_empty() {
                            outbox.put(data, is_chunked);
                        }
                        if !body.is_end_stream() {
                            continue;
                        }
                    }
                    Err(frame) => trailers = frame.into_trailers().ok(),
                },
                Poll::Ready(None) => {}
            }
            if is_chunked {
                outbox.put_end(trailers.as_ref());
            }
            *upload = None;
        }
        if outbox.is_empty() {
            return if upload.is_none() { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        ready!(outbox.poll_flush(socket, cx)).map_err(Stop::Socket)?;
    }
}

// === impl Stream ===

impl Stream {
    fn poll_rest(&mut self, cx: &mut Context<'_>) {
        let Some(line) = &mut self.line else { return };
        if self.upload.is_none() && self.outbox.is_empty() {
            return;
        }
        let sent = poll_upload(&mut self.outbox, &mut self.upload, &mut line.socket, cx);
        if let Poll::Ready(Err(stop)) = sent {
            (self.upload, self.outbox) = (None, Outbox::default());
            self.is_persistent = false;
            // A service that takes no more may have answered whole all the same.
            if let Stop::Body(error) = stop {
                self.broken = Some(error);
            }
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.poll_rest(cx);
        if let Some(error) = self.broken.take() {
            self.line = None;
            return Poll::Ready(Some(Err(error)));
        }
        let Some(line) = &mut self.line else { return Poll::Ready(None) };
        let frame =
            ready!(frames::poll_frame(&mut line.socket, &mut self.rest, &mut self.decoder, false, cx));
        match &frame {
            Some(Err(_)) => self.line = None,
            _ if self.decoder.is_ended() => self.end(),
            _ => {}
        }
        Poll::Ready(frame)
    }

    /// The answer has ended: the connection rests, unless something is under way on it.
    fn end(&mut self) {
        let is_sent = self.upload.take().is_none() && self.outbox.is_empty();
        if let Some(line) = self.line.take()
            && is_sent
            && self.is_persistent
            && self.rest.is_empty()
        {
            line.rest();
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("decoder", &self.decoder).finish_non_exhaustive()
    }
}

// === impl Reply ===

impl Reply {
    /// Goes on sending the request, without reading its answer.
    pub(crate) fn poll_rest(&mut self, cx: &mut Context<'_>) {
        if let Reply::Stream(stream) = self {
            stream.poll_rest(cx);
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Reply::Stream(stream) => stream.poll_frame(cx),
            Reply::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Reply::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Reply::Empty | Reply::Upgraded(..) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Stream(stream) => stream.line.is_none(),
            Reply::Whole(_) => false,
            Reply::Empty | Reply::Upgraded(..) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Stream(stream) => match stream.decoder.remaining() {
                Some(left) => SizeHint::with_exact(left),
                None => SizeHint::default(),
            },
            Reply::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Reply::Empty | Reply::Upgraded(..) => SizeHint::with_exact(0),
        }
    }
}
