//! HTTP/1.1 connections that come in.
//!
//! In:    a socket and who is at its other end.      Out: requests to the pipeline, one after the other; answers.
//! Owner: the connection's task.
//! Invariant: a connection that waits for a request holds no buffer; a head that is not whole, or is refused, reaches nobody.
//! Not here: one request and its answer (`exchange`), what is done with a request (`pipeline`).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use causeway_wire::h1::{
    Framing, Limits, Parsed, Progress, Refusal, RequestHead, request_head, write_response_head,
};
use causeway_wire::proxy_status::PROXY_STATUS;
use causeway_wire::{ProxyError, ProxyStatus};
use http::header::{CONTENT_TYPE, DATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use super::client::Client;
use super::exchange::{After, exchange};
use crate::inlet::Inlet;
use crate::leash::Finish;
use crate::limits;
use crate::settle;
use crate::socket::Socket;
use crate::tunnel;
use crate::worker::Worker;

/// What comes next on a connection.
enum Next {
    Request(Box<RequestHead>),
    Refused(Refusal),
    /// The client began a head and does not go on.
    Late,
    /// Nothing: the client has ended, or was silent too long, or we finish.
    End,
}

/// Serves a connection until it ends or everything is asked to finish. `first` was read of it already.
///
/// # Errors
/// Why it ended, other than by its client's wish or ours.
///
/// # Cancel safety
/// Dropping the future breaks the connection off, and the request on it.
pub(crate) async fn serve(
    worker: Arc<Worker>,
    inlet: Arc<Inlet>,
    socket: Socket,
    first: Bytes,
) -> io::Result<()> {
    let mut client = Client::new(socket, &first);
    drop(first);
    let mut finish = Finish::new(&worker, &inlet);
    loop {
        client.patience.wait(limits::HEAD);
        let mut progress = Progress::default();
        let next = poll_fn(|cx| poll_next(&mut client, &mut progress, &mut finish, cx)).await?;
        client.patience.stop();
        let after = match next {
            Next::Request(head) => exchange(&mut client, &worker, &inlet, *head).await?,
            Next::Refused(refusal) => {
                refuse(&mut client, &worker, &inlet, refusal.status(), &refusal.to_string()).await?
            }
            Next::Late => {
                let details = "the request's head did not come in time";
                refuse(&mut client, &worker, &inlet, StatusCode::REQUEST_TIMEOUT, details).await?
            }
            Next::End => After::Close,
        };
        match after {
            After::Next => {}
            After::Close => break,
            After::Part => {
                part(&mut client).await;
                break;
            }
            After::Tunnel(tunnel) => {
                let (socket, first) = client.into_parts();
                tunnel::join(socket, first, *tunnel).await;
                return Ok(());
            }
        }
    }
    close(client).await;
    Ok(())
}

fn poll_next(
    client: &mut Client,
    progress: &mut Progress,
    finish: &mut Finish,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Next>> {
    loop {
        if !client.rest.is_empty() {
            match request_head(client.rest.as_slice(), progress, &Limits::default()) {
                Ok(Parsed::Partial) => {}
                Ok(Parsed::Done(head)) => {
                    client.rest.advance(head.bytes);
                    return Poll::Ready(Ok(Next::Request(Box::new(head))));
                }
                Err(refusal) => return Poll::Ready(Ok(Next::Refused(refusal))),
            }
        }
        match client.rest.poll_fill(&mut client.socket, cx) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Next::End)),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => break,
        }
    }
    let is_silent = client.rest.is_empty();
    if is_silent && Pin::new(finish).poll(cx).is_ready() {
        return Poll::Ready(Ok(Next::End));
    }
    match client.patience.poll(cx) {
        Poll::Ready(()) if is_silent => Poll::Ready(Ok(Next::End)),
        Poll::Ready(()) => Poll::Ready(Ok(Next::Late)),
        Poll::Pending => Poll::Pending,
    }
}

/// Answers what is no request, or not one that we take.
async fn refuse(
    client: &mut Client,
    worker: &Arc<Worker>,
    inlet: &Arc<Inlet>,
    status: StatusCode,
    details: &str,
) -> io::Result<After> {
    let failure = ProxyStatus { error: ProxyError::HttpRequestError, details: details.to_owned() };
    let mut headers = HeaderMap::with_capacity(3);
    headers.insert(DATE, worker.date.at(worker.shared.wall(Instant::now())));
    headers.insert(&PROXY_STATUS, failure.to_value());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    let text = format!("{details}\n");
    let framing = Framing::Length(text.len() as u64);
    let lines = client.outbox.lines();
    write_response_head(lines, status, &headers, framing, Some("close"), None);
    lines.extend_from_slice(text.as_bytes());
    settle::refused(worker, inlet, status, failure);
    poll_fn(|cx| client.poll_flush(cx)).await?;
    Ok(After::Part)
}

/// Lets the client read to the end before the socket is closed.
async fn part(client: &mut Client) {
    client.patience.wait(limits::PARTING);
    let mut left = limits::UNREAD_BYTES_MAX;
    poll_fn(|cx| client.poll_part(&mut left, cx)).await;
}

/// TLS says that it ends; TCP's end says itself.
async fn close(mut client: Client) {
    if matches!(client.socket, Socket::Other(_)) {
        client.patience.wait(limits::PARTING);
        let shut = poll_fn(|cx| client.poll_end(cx));
        shut.await;
    }
}
