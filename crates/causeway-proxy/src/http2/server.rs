//! HTTP/2 connections that come in.
//!
//! In:    a stream and who is at its other end.      Out: requests to the pipeline, each a future of the connection's task; answers.
//! Owner: the connection's task.
//! Invariant: a request whose client gave it up, or whose connection ended, is dropped with everything that it holds; a client that
//! only makes work is told to calm down (`ENHANCE_YOUR_CALM`) and its connection ended.
//! Not here: what is done with a request (`pipeline`), what is measured below (`meter`).

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use causeway_wire::h1::Limits;
use causeway_wire::proxy_status::PROXY_STATUS;
use causeway_wire::{ProxyError, ProxyStatus};
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::header::DATE;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::time::{Instant, Sleep};

use crate::answer::Answer;
use crate::body::Inflow;
use crate::http2::heart::{Beat, Care, Heart};
use crate::http2::inflow::Received;
use crate::http2::meter::Meter;
use crate::http2::outflow::{Outflow, Stop};
use crate::http2::pulse::Pulse;
use crate::http2::seats::{Seat, Seats};
use crate::http2::wire::Wire;
use crate::inlet::{Inlet, Way};
use crate::leash::Finish;
use crate::limits;
use crate::pipeline;
use crate::settle;
use crate::socket::Socket;
use crate::trouble::BodyError;
use crate::worker::Worker;

/// A client that was cut off is noticed within 45 s (it spoke just after one beat, is asked at the next but one); a silent one is
/// asked each quarter of a minute.
const CARE: Care = Care {
    every: Duration::from_secs(15),
    answer: Duration::from_secs(15),
    pings: true,
    idle: Some(limits::HEAD),
};

/// Serves a connection until it ends or everything is asked to finish.
///
/// # Errors
/// Why it ended, other than by its client's wish or ours.
///
/// # Cancel safety
/// Dropping the future breaks the connection off, and every request on it.
pub(crate) async fn serve(worker: Arc<Worker>, inlet: Inlet, socket: Socket) -> io::Result<()> {
    let inlet = Arc::new(inlet);
    let pulse = Arc::new(Pulse::default());
    let wire = Wire::metered(socket, pulse.clone(), Meter::new(Instant::now()));
    let handshake = settings().handshake::<_, Bytes>(wire);
    let mut connection =
        tokio::time::timeout(limits::HANDSHAKE, handshake).await?.map_err(io::Error::other)?;
    let idle = match inlet.way {
        Way::Inbound => limits::MESH_IDLE,
        _ => limits::HEAD,
    };
    let mut heart = Heart::new(Care { idle: Some(idle), ..CARE }, connection.ping_pong());
    let mut finish = Finish::new(&worker, &inlet);
    let mut seats = Seats::new();
    let (mut is_finishing, mut last_words) = (false, None);
    poll_fn(|cx| {
        if Pin::new(&mut finish).poll(cx).is_ready() && !is_finishing {
            is_finishing = true;
            connection.graceful_shutdown();
        }
        if finish.take_called() {
            seats.call_all();
        }
        match heart.poll(cx, &pulse) {
            Poll::Ready(Beat::Dead) => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Ready(Beat::Idle) if is_finishing => return Poll::Ready(Ok(())),
            Poll::Ready(Beat::Idle) => {
                is_finishing = true;
                connection.graceful_shutdown();
            }
            Poll::Ready(Beat::Quiet) => seats.clear(),
            Poll::Pending => {}
        }
        loop {
            loop {
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        let make = |seat| run(seat, worker.clone(), inlet.clone(), pulse.clone());
                        seats.take(Job::new(request, respond), make);
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                    Poll::Ready(None) => return Poll::Ready(Ok(())),
                    Poll::Pending => break,
                }
            }
            seats.poll(cx);
            if !pulse.is_flooded() || last_words.is_some() {
                break;
            }
            tracing::warn!(client = %inlet.client.address, "a client floods its connection: ended");
            last_words = Some(Box::pin(tokio::time::sleep(limits::LAST_WORDS)));
            connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        }
        match &mut last_words {
            Some(limit) => limit.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
            None => Poll::Pending,
        }
    })
    .await
}

fn settings() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
        .initial_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_header_list_size(limits::HEAD_BYTES_MAX)
        .max_send_buffer_size(limits::SEND_BUFFER_BYTES)
        .max_concurrent_reset_streams(limits::RESET_STREAMS_KEPT)
        .max_pending_accept_reset_streams(limits::STREAMS_PER_CONNECTION_MAX as usize)
        .data_frame_budget(limits::SMALL_FRAMES_BYTES_MAX);
    builder
}

/// A request, and where its answer goes.
struct Job {
    request: Request<Inflow>,
    respond: SendResponse<Bytes>,
}

impl Job {
    fn new(request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Self {
        let (parts, stream) = request.into_parts();
        let body = match stream.is_end_stream() {
            true => Inflow::Empty,
            false => Inflow::Http2(Received::new(stream, &parts.headers)),
        };
        Job { request: Request::from_parts(parts, body), respond }
    }
}

/// One request after the other.
async fn run(seat: Arc<Seat<Job>>, worker: Arc<Worker>, inlet: Arc<Inlet>, pulse: Arc<Pulse>) {
    loop {
        let Job { request, mut respond } = seat.next().await;
        let load = pulse.begin(u32::MAX);
        // It may have been taken back in the same breath; nobody else need know of it then.
        let is_gone = poll_fn(|cx| Poll::Ready(respond.poll_reset(cx).is_ready())).await;
        if is_gone {
            pulse.note_early();
            continue;
        }
        if request.headers().len() > Limits::FIELDS_MAX {
            refuse(&worker, &inlet, &mut respond);
            continue;
        }
        let begun = Instant::now();
        let response = {
            let mut serving = pin!(pipeline::serve(&worker, &inlet, request));
            poll_fn(|cx| match serving.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Some(response)),
                Poll::Pending => respond.poll_reset(cx).map(|_| None),
            })
            .await
        };
        match response {
            Some(response) => {
                answer(&worker, &mut respond, response, &pulse).await;
                pulse.note_answer();
            }
            None if begun.elapsed() < limits::EARLY_RESET => pulse.note_early(),
            None => {}
        }
        drop(load);
    }
}

/// Answers a request whose head has more fields than HTTP/1.1 would be taken with. That a head is too long altogether `h2` says itself.
fn refuse(worker: &Arc<Worker>, inlet: &Arc<Inlet>, respond: &mut SendResponse<Bytes>) {
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    let details = format!("the request has more than {} fields", Limits::FIELDS_MAX);
    let failure = ProxyStatus { error: ProxyError::HttpRequestError, details };
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(DATE, worker.date.at(worker.shared.wall(Instant::now())));
    response.headers_mut().insert(&PROXY_STATUS, failure.to_value());
    settle::refused(worker, inlet, status, failure);
    // It fails when the client has left.
    let _ = respond.send_response(response, true);
}

async fn answer(
    worker: &Worker,
    respond: &mut SendResponse<Bytes>,
    response: Response<Answer>,
    pulse: &Arc<Pulse>,
) {
    let (mut parts, mut body) = response.into_parts();
    if !parts.headers.contains_key(DATE) {
        parts.headers.insert(DATE, worker.date.at(worker.shared.wall(Instant::now())));
    }
    let is_whole = body.is_end_stream();
    let stream = match respond.send_response(Response::from_parts(parts, ()), is_whole) {
        Ok(stream) => stream,
        Err(_) => return respond.send_reset(Reason::INTERNAL_ERROR),
    };
    if is_whole {
        return;
    }
    let mut out = Outflow::new(stream, pulse.clone());
    let mut stall = Stall::default();
    poll_fn(|cx| {
        let Poll::Ready(sent) = out.poll_send(&mut body, cx) else {
            let Some(sent) = out.waits() else { return Poll::Pending };
            // A client that takes nothing must not keep the service from reading what it sends.
            body.poll_rest(cx);
            if body.poll_withdrawn(cx).is_ready() {
                out.reset(reset_reason(&BodyError::Withdrawn));
                return Poll::Ready(());
            }
            if stall.poll(cx, sent).is_ready() {
                out.reset(Reason::CANCEL);
                return Poll::Ready(());
            }
            return Poll::Pending;
        };
        if let Err(Stop::Body(error)) = sent {
            out.reset(reset_reason(&error));
        }
        Poll::Ready(())
    })
    .await;
}

/// How a client learns that its answer ended early.
fn reset_reason(error: &BodyError) -> Reason {
    match error {
        BodyError::Broken(source) => {
            let source = source.downcast_ref::<h2::Error>();
            match source.filter(|error| error.is_remote() && error.is_reset()).and_then(h2::Error::reason) {
                // These would say that all is well, or that nothing was done.
                None | Some(Reason::NO_ERROR | Reason::REFUSED_STREAM) => Reason::INTERNAL_ERROR,
                Some(reason) => reason,
            }
        }
        BodyError::TimedOut | BodyError::Silent => Reason::CANCEL,
        // What gRPC takes for "permission denied".
        BodyError::Withdrawn => Reason::INADEQUATE_SECURITY,
    }
}

/// Ends a stream whose client takes nothing for too long.
#[derive(Default)]
struct Stall {
    sent: u64,
    limit: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    fn poll(&mut self, cx: &mut Context<'_>, sent: u64) -> Poll<()> {
        if self.sent != sent || self.limit.is_none() {
            self.sent = sent;
            self.limit = Some(Box::pin(tokio::time::sleep(limits::STALL)));
        }
        match &mut self.limit {
            Some(limit) => limit.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
