//! HTTP/2 connections to endpoints: many requests on one.
//!
//! In:    a stream that was connected; requests.      Out: heads of answers, with bodies that are read as they come.
//! Owner: the pool holds a [`Channel`]; one task drives its connection, and no request has a task.
//! Invariant: a channel is used once its peer has said its settings, and holds no more requests than the peer takes at a time.
//! Not here: how many channels an endpoint has (`pool`), what a failure means (`lease`, `attempt`).

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::{OnFailure, Scope};
use h2::Reason;
use h2::client::{Builder, Connection, SendRequest};
use http::{Request, Response};
use http_body::Body;
use parking_lot::Mutex;

use crate::bell::{Bell, Level, Rung};
use crate::http2::heart::{Beat, Care, Heart};
use crate::http2::inflow::{Received, Rest};
use crate::http2::outflow::{Outflow, Stop};
use crate::http2::pulse::{Load, Pulse};
use crate::http2::wire::Wire;
use crate::limits;
use crate::socket::Socket;

/// A silent connection to another sidecar is asked whether it lives; a peer that was cut off is noticed within 15 s.
///
/// Others are not asked: servers of gRPC take a ping more often than each five minutes for an attack. The kernel asks those.
const CARE: Care =
    Care { every: Duration::from_secs(5), answer: Duration::from_secs(5), pings: true, idle: None };

/// A connection that takes requests.
pub(crate) struct Channel {
    /// Locked for the moment of a send, by its own worker's requests only.
    sender: Mutex<SendRequest<Bytes>>,
    pulse: Arc<Pulse>,
    /// What the last look of the pool saw: requests that had begun, and how many looks ago that changed.
    seen: Mutex<(u32, u32)>,
}

impl Channel {
    /// Speaks HTTP/2 on `socket`, and drives it in `scope` until nobody holds the channel.
    ///
    /// # Errors
    /// What the stream says, and that the peer does not speak HTTP/2.
    pub(crate) async fn open(socket: Socket, pings: bool, scope: &Scope, bell: &Bell) -> io::Result<Self> {
        let pulse = Arc::new(Pulse::default());
        let handshake = settings().handshake(Wire::new(socket, pulse.clone()));
        let (sender, mut connection) = handshake.await.map_err(into_io)?;
        // The peer begins with its settings. Before they are known nobody can say how many requests it takes at a time, and
        // what is no HTTP/2 server shows it here, while nothing is sent yet.
        poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Err(ended.map_or_else(into_io, |()| {
                io::Error::new(
                    io::ErrorKind::ConnectionReset,
                    "the connection ended before its first settings",
                )
            }))),
            Poll::Pending if pulse.reads() > 0 => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        let heart = Heart::new(Care { pings, ..CARE }, connection.ping_pong());
        let (ended, watched) = (bell.rung(Level::End), pulse.clone());
        scope.spawn("connection", OnFailure::Log, async move {
            drive(connection, heart, &watched, ended).await;
            watched.close();
            Ok(())
        });
        Ok(Channel { sender: Mutex::new(sender), pulse, seen: Mutex::default() })
    }

    /// Whether it takes requests still, perhaps after others have ended.
    pub(crate) fn is_open(&self) -> bool {
        if self.pulse.is_closed() {
            return false;
        }
        let ready = self.sender.lock().poll_ready(&mut Context::from_waker(Waker::noop()));
        if matches!(ready, Poll::Ready(Err(_))) {
            // It was told to go away, or its streams' numbers are used up.
            self.pulse.close();
        }
        !self.pulse.is_closed()
    }

    /// Room for one request, if it has any.
    pub(crate) fn reserve(&self) -> Option<Load> {
        if self.pulse.is_closed() {
            return None;
        }
        let mut sender = self.sender.lock();
        match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {
                let limit = u32::try_from(sender.current_max_send_streams()).unwrap_or(u32::MAX);
                self.pulse.begin(limit)
            }
            Poll::Ready(Err(_)) => {
                self.pulse.close();
                None
            }
            Poll::Pending => None,
        }
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// What `h2` says of the stream or its connection.
    ///
    /// # Cancel safety
    /// Dropping the future, or the answer's body, resets the stream: the peer learns that nobody waits.
    pub(crate) async fn send<B>(
        &self,
        request: Request<()>,
        mut body: B,
        load: Load,
    ) -> Result<Response<Option<Received>>, h2::Error>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
    {
        let is_whole = body.is_end_stream();
        let (mut answer, stream) = self.sender.lock().send_request(request, is_whole)?;
        let mut flow = (!is_whole).then(|| Outflow::new(stream, self.pulse.clone()));
        let response = poll_fn(|cx| {
            if let Some(out) = &mut flow
                && poll_body(out, &mut body, cx).is_ready()
            {
                flow = None;
            }
            Pin::new(&mut answer).poll(cx)
        })
        .await?;
        let (parts, stream) = response.into_parts();
        let rest = flow.map(|mut out| {
            let rest: Rest = Box::pin(poll_fn(move |cx| poll_body(&mut out, &mut body, cx)));
            rest
        });
        let body = (!stream.is_end_stream() || rest.is_some())
            .then(|| Received::new(stream, &parts.headers).beside(rest, load));
        Ok(Response::from_parts(parts, body))
    }

    /// Whether it is over, or nobody used it at the last `looks` looks.
    pub(crate) fn is_done(&self, looks: u32) -> bool {
        let mut seen = self.seen.lock();
        let begun = self.pulse.begun();
        *seen = if seen.0 == begun && self.pulse.load() == 0 { (begun, seen.1 + 1) } else { (begun, 0) };
        seen.1 > looks || !self.is_open()
    }
}

fn settings() -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_max_send_streams(limits::STREAMS_BEFORE_SETTINGS)
        .initial_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_header_list_size(limits::HEAD_BYTES_MAX)
        .max_send_buffer_size(limits::SEND_BUFFER_BYTES)
        .max_concurrent_reset_streams(limits::RESET_STREAMS_KEPT)
        .data_frame_budget(limits::SMALL_FRAMES_BYTES_MAX);
    builder
}

async fn drive(mut connection: Connection<Wire, Bytes>, mut heart: Heart, pulse: &Pulse, ended: Rung) {
    let mut ended = pin!(ended);
    let why = poll_fn(|cx| {
        if ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if heart.poll(cx, pulse) == Poll::Ready(Beat::Dead) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut connection).poll(cx).map_err(into_io)
    });
    if let Err(error) = why.await {
        tracing::debug!(%error, "connection to an endpoint ended");
    }
}

/// Sends what there is of a request's body. Ready when all is sent, or nothing more will be.
fn poll_body<B>(out: &mut Outflow, body: &mut B, cx: &mut Context<'_>) -> Poll<()>
where
    B: Body<Data = Bytes> + Unpin,
{
    out.poll_send(body, cx).map(|sent| {
        if let Err(Stop::Body(_)) = sent {
            out.reset(Reason::CANCEL);
        }
    })
}

fn into_io(error: h2::Error) -> io::Error {
    match error.is_io() {
        true => error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()),
        false => io::Error::other(error),
    }
}
