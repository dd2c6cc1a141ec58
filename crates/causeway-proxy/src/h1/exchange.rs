//! One request on a connection that came in: handed to the pipeline, answered, and the connection made ready for the next.
//!
//! In:    a request's head; its body as it comes.      Out: an answer, whole or broken off; what becomes of the connection.
//! Owner: the connection's task.
//! Invariant: an answer is framed by what is known of its body, never by what somebody wrote into its fields; one that is not sent
//! whole ends its connection. A client that leaves takes its request with it.
//! Not here: waiting for a head (`server`), the request's way (`pipeline`).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use causeway_wire::h1::{Framing, RequestHead, write_response_head};
use http::header::{CONNECTION, DATE, TE};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, response};
use http_body::Body;
use tokio::time::Instant;

use super::client::Client;
use super::feed::{Fed, Feed, feed};
use crate::answer::{Answer, Tunnel};
use crate::body::Inflow;
use crate::inlet::{Inlet, Way};
use crate::limits;
use crate::pipeline;
use crate::tunnel;
use crate::worker::Worker;

/// What becomes of a connection after a request.
pub(super) enum After {
    /// Another may follow.
    Next,
    /// It is closed at once.
    Close,
    /// It is closed once the client has read what was sent.
    Part,
    /// It speaks another protocol.
    Tunnel(Box<Tunnel>),
}

/// What a request says of its answer's form.
struct Terms {
    is_head: bool,
    is_connect: bool,
    is_old: bool,
    is_persistent: bool,
    takes_trailers: bool,
}

/// An answer on its way out.
struct Going {
    is_chunked: bool,
    takes_trailers: bool,
    /// Of a body with a length.
    left: Option<u64>,
    /// All is in the outbox.
    is_whole: bool,
    is_broken: bool,
    is_last: bool,
}

/// Serves one request.
pub(super) async fn exchange(
    client: &mut Client,
    worker: &Arc<Worker>,
    inlet: &Arc<Inlet>,
    head: RequestHead,
) -> io::Result<After> {
    let terms = Terms::of(&head);
    let (request, mut feed) = open(client, head);
    let response = {
        // It is large, and needed only while the request runs.
        let mut serving = Box::pin(serve(worker, inlet, request));
        poll_fn(|cx| poll_serving(client, &mut feed, serving.as_mut(), cx)).await?
    };
    let (parts, mut answer) = response.into_parts();
    let mut going = begin(client, worker, inlet, &terms, parts, &mut answer, feed.as_ref());
    if let Some(tunnel) = answer.take_tunnel() {
        poll_fn(|cx| client.poll_flush(cx)).await?;
        return Ok(if feed.is_none() { After::Tunnel(tunnel) } else { After::Close });
    }
    poll_fn(|cx| poll_answer(client, &mut feed, &mut answer, &mut going, cx)).await?;
    drop(answer);
    match going {
        Going { is_broken: true, .. } => Ok(After::Close),
        Going { is_last: true, .. } if terms.is_persistent => Ok(After::Part),
        Going { is_last: true, .. } if feed.is_none() => Ok(After::Close),
        Going { is_last: true, .. } => Ok(After::Part),
        _ => finish(client, feed).await,
    }
}

async fn serve(worker: &Arc<Worker>, inlet: &Arc<Inlet>, request: Request<Inflow>) -> Response<Answer> {
    match request.method() == Method::CONNECT && matches!(inlet.way, Way::Outbound) {
        true => Box::pin(tunnel::connect(worker, inlet, request)).await,
        false => pipeline::serve(worker, inlet, request).await,
    }
}

/// The request with its body: at hand when all of it came with the head, else fed.
fn open(client: &mut Client, head: RequestHead) -> (Request<Inflow>, Option<Feed>) {
    let (body, feed) = match head.framing {
        Framing::None | Framing::Length(0) => (Inflow::Empty, None),
        Framing::Length(length)
            if length <= client.rest.as_slice().len() as u64 && length <= limits::REPLAY_BYTES_MAX as u64 =>
        {
            (Inflow::Whole(client.rest.take_copy(length as usize)), None)
        }
        framing => {
            let (feed, intake) = feed(framing, head.expects_continue && client.rest.is_empty());
            (Inflow::Request(intake), Some(feed))
        }
    };
    let mut request = Request::new(body);
    *request.method_mut() = head.method;
    *request.uri_mut() = head.uri;
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers;
    (request, feed)
}

/// Runs the request, feeds its body, and looks whether its client is still there.
fn poll_serving(
    client: &mut Client,
    feed: &mut Option<Feed>,
    mut serving: Pin<&mut impl Future<Output = Response<Answer>>>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Response<Answer>>> {
    loop {
        if let Poll::Ready(response) = serving.as_mut().poll(cx) {
            return Poll::Ready(Ok(response));
        }
        match feed {
            Some(_) => {
                if ready!(poll_feed(client, feed, false, cx)).is_err() {
                    // Whoever reads the body learns of it; what it answers is the last.
                    client.is_lost = true;
                }
            }
            None if client.is_lost => return Poll::Pending,
            None => {
                ready!(client.poll_left(cx));
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

/// Ready when somebody should look again.
fn poll_feed(
    client: &mut Client,
    feed: &mut Option<Feed>,
    has_answered: bool,
    cx: &mut Context<'_>,
) -> Poll<Result<(), ()>> {
    let Some(open) = feed else { return Poll::Pending };
    let fed = ready!(open.poll(client, has_answered, cx));
    if !matches!(fed, Fed::Some) {
        *feed = None;
    }
    Poll::Ready(if matches!(fed, Fed::Lost) { Err(()) } else { Ok(()) })
}

/// Writes the answer's head, and says how its body goes out.
fn begin(
    client: &mut Client,
    worker: &Worker,
    inlet: &Inlet,
    terms: &Terms,
    mut parts: response::Parts,
    answer: &mut Answer,
    feed: Option<&Feed>,
) -> Going {
    let has_none = terms.has_no_body(parts.status);
    let framing = match answer.size_hint().exact() {
        _ if has_none => Framing::None,
        Some(length) => Framing::Length(length),
        None if terms.is_old => Framing::UntilClose,
        None => Framing::Chunked,
    };
    let is_upgrade = parts.status == StatusCode::SWITCHING_PROTOCOLS;
    let says_close = !is_upgrade && parts.headers.remove(CONNECTION).is_some_and(|says| says == "close");
    let is_last = says_close
        || !terms.is_persistent
        || framing == Framing::UntilClose
        || client.is_lost
        // It was not told to send its body: it may or may not, so nobody knows where its next request would begin.
        || feed.is_some_and(Feed::awaits_word)
        || worker.shared.says_goodbye(&inlet.way);
    let connection = match (is_last, terms.is_old) {
        _ if is_upgrade || terms.is_connect && parts.status.is_success() => None,
        (true, _) => Some("close"),
        (false, true) => Some("keep-alive"),
        (false, false) => None,
    };
    if !parts.headers.contains_key(DATE) && !is_upgrade {
        parts.headers.insert(DATE, worker.date.at(worker.shared.wall(Instant::now())));
    }
    let lines = client.outbox.lines();
    write_response_head(lines, parts.status, &parts.headers, framing, connection, None);
    if has_none {
        answer.pass_over();
    }
    Going {
        is_chunked: framing == Framing::Chunked,
        takes_trailers: terms.takes_trailers,
        left: answer.size_hint().exact().filter(|_| !has_none),
        is_whole: has_none,
        is_broken: false,
        is_last,
    }
}

/// Sends the answer, feeds what is left of the request's body, and looks whether the client is still there.
fn poll_answer(
    client: &mut Client,
    feed: &mut Option<Feed>,
    answer: &mut Answer,
    going: &mut Going,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    loop {
        let is_full = going.gather(client, answer, cx);
        match client.poll_flush(cx) {
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) if going.is_whole => return Poll::Ready(Ok(())),
            Poll::Ready(Ok(())) if is_full => continue,
            Poll::Ready(Ok(())) => {
                if feed.is_none() && !client.is_lost {
                    ready!(client.poll_left(cx));
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            // A client that takes nothing must not keep the service from reading what it sends.
            Poll::Pending => {
                answer.poll_rest(cx);
                if answer.poll_withdrawn(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
            }
        }
        if ready!(poll_feed(client, feed, true, cx)).is_err() {
            (client.is_lost, going.is_last) = (true, true);
        }
    }
}

/// Reads what is left of the request, so that the next one's beginning is found.
async fn finish(client: &mut Client, mut feed: Option<Feed>) -> io::Result<After> {
    if feed.is_none() {
        return Ok(if client.is_lost { After::Part } else { After::Next });
    }
    client.patience.wait(limits::UNREAD);
    let is_found = poll_fn(|cx| {
        while feed.is_some() {
            match poll_feed(client, &mut feed, true, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(())) => return Poll::Ready(false),
                Poll::Pending => return client.patience.poll(cx).map(|()| false),
            }
        }
        Poll::Ready(true)
    });
    let is_found = is_found.await;
    client.patience.stop();
    Ok(if is_found { After::Next } else { After::Part })
}

impl Terms {
    fn of(head: &RequestHead) -> Self {
        Terms {
            is_head: head.method == Method::HEAD,
            is_connect: head.method == Method::CONNECT,
            is_old: head.version == Version::HTTP_10,
            is_persistent: head.is_persistent,
            takes_trailers: takes_trailers(&head.headers),
        }
    }

    fn has_no_body(&self, status: StatusCode) -> bool {
        self.is_head
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || (self.is_connect && status.is_success())
    }
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

impl Going {
    /// Puts into the outbox what is there of the body. Whether it is full.
    fn gather(&mut self, client: &mut Client, answer: &mut Answer, cx: &mut Context<'_>) -> bool {
        let outbox = &mut client.outbox;
        while !self.is_whole {
            if outbox.is_full() {
                return true;
            }
            let mut trailers = None;
            match Pin::new(&mut *answer).poll_frame(cx) {
                Poll::Pending => return false,
                Poll::Ready(Some(Err(_))) => self.is_broken = true,
                Poll::Ready(None) => {}
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        let length = data.len() as u64;
                        match &mut self.left {
                            // More than was said would be read as the next answer.
                            Some(left) if *left < length => self.is_broken = true,
                            Some(left) => *left -= length,
                            None => {}
                        }
                        if !data.is_empty() && !self.is_broken {
                            outbox.put(data, self.is_chunked);
                        }
                        if !self.is_broken && !answer.is_end_stream() {
                            continue;
                        }
                    }
                    Err(frame) => trailers = frame.into_trailers().ok().filter(|_| self.takes_trailers),
                },
            }
            self.is_broken |= self.left.is_some_and(|left| left > 0);
            self.is_whole = true;
            if self.is_chunked && !self.is_broken {
                outbox.put_end(trailers.as_ref());
            }
        }
        false
    }
}
