//! Ends what is no longer allowed while it runs: calls, whole connections, streams to and from revoked peers; and only those.
//!
//! In:    calls for a review.      Out: for each connection and request: go on, or why not.
//! Owner: the task of the connection or request.
//! Invariant: what is still allowed is not touched; what is not ends at the first look after the call, and is refused with the
//! document that does not allow it.
//! Not here: who decides (`entry`), waking (`review`).

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use causeway_filters::access::{Refusal, Wanted};
use causeway_identity::Peer;
use http::Method;
use http::uri::PathAndQuery;

use crate::bell::Rung;
use crate::entry;
use crate::facts::Facts;
use crate::inlet::{Inlet, Way};
use crate::review::Leash;
use crate::settle::Settle;
use crate::worker::{App, Shared, Worker};

/// A request that waits for its answer, as it is asked for again.
pub(crate) struct Running {
    worker: Arc<Worker>,
    inlet: Arc<Inlet>,
    method: Method,
    path: Option<PathAndQuery>,
    leash: Leash,
}

impl Running {
    /// Of a request that is held. Boxed: every connection keeps room for a request's future.
    pub(crate) fn new(settle: &Settle) -> Option<Box<Self>> {
        let leash = settle.leash?;
        let (worker, inlet) = (settle.worker.clone(), settle.inlet.clone());
        Some(Box::new(Running {
            worker,
            inlet,
            method: settle.method.clone(),
            path: settle.path.clone(),
            leash,
        }))
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        let Running { worker, inlet, method, path, leash } = self;
        leash.poll(&inlet.watch, cx, || {
            let path = path.as_ref().map_or("/", PathAndQuery::path);
            let wanted = Wanted::Request { method: method.as_str(), path };
            let port = worker.shared.app.as_ref().map_or(0, App::port);
            entry::ask(&worker.shared, inlet, wanted, port).map(drop)
        })
    }
}

/// Runs a request's way until it is done or, where it is held, the call is no longer allowed; then it says why.
pub(crate) struct Held<'a, F> {
    work: Pin<&'a mut F>,
    call: Option<Box<Running>>,
}

impl<'a, F> Held<'a, F> {
    pub(crate) fn new(work: Pin<&'a mut F>, call: Option<Box<Running>>) -> Self {
        Held { work, call }
    }
}

impl<F: Future> Future for Held<'_, F> {
    type Output = Result<F::Output, Refusal>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(done) = self.work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        match &mut self.call {
            Some(call) => call.poll_cut(cx).map(Err),
            None => Poll::Pending,
        }
    }
}

/// Asks again for a call that runs.
fn again(shared: &Shared, facts: &Facts) -> Result<(), Refusal> {
    if !matches!(facts.inlet.way, Way::Inbound) {
        return Ok(());
    }
    let main = shared.app.as_ref().map_or(0, App::port);
    let (wanted, port) = match facts.raw_port {
        Some(port) => (Wanted::Bytes, port),
        None => {
            let path = facts.path.as_ref().map_or("/", PathAndQuery::path);
            (Wanted::Request { method: facts.method.as_str(), path }, main)
        }
    };
    entry::ask(shared, &facts.inlet, wanted, port).map(drop)
}

/// Resolves when a connection of bytes is no longer allowed, or one of its peers is revoked.
pub(crate) async fn cut(shared: &Shared, facts: &Facts, service: Option<&Peer>) -> Refusal {
    // It begins with a look: what changed since the connection was let in is not missed.
    let mut leash = Leash::unseen();
    let ask = || match service.filter(|service| shared.is_revoked(service)) {
        Some(service) => Err(entry::revoked(service)),
        None => again(shared, facts),
    };
    poll_fn(|cx| leash.poll(&facts.inlet.watch, cx, ask)).await
}

/// Ready when a request whose answer is on its way is no longer allowed.
pub(crate) fn poll_cut(leash: &mut Leash, settle: &Settle, cx: &mut Context<'_>) -> Poll<Refusal> {
    leash.poll(&settle.inlet.watch, cx, || again(&settle.worker.shared, settle))
}

/// Resolves when a connection is to finish: everything is asked to, or its peer may do nothing here any more.
pub(crate) struct Finish {
    rung: Rung,
    worker: Arc<Worker>,
    inlet: Arc<Inlet>,
    leash: Leash,
    is_called: bool,
}

impl Finish {
    pub(crate) fn new(worker: &Arc<Worker>, inlet: &Arc<Inlet>) -> Self {
        let rung = worker.scopes.bell.rung(inlet.way.finish());
        let leash = Leash::new(&inlet.watch);
        Finish { rung, worker: worker.clone(), inlet: inlet.clone(), leash, is_called: false }
    }

    /// Whether there was a review since this was asked last.
    pub(crate) fn take_called(&mut self) -> bool {
        std::mem::take(&mut self.is_called)
    }
}

impl Future for Finish {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Finish { rung, worker, inlet, leash, is_called } = &mut *self;
        if Pin::new(rung).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if !matches!(inlet.way, Way::Inbound) {
            return Poll::Pending;
        }
        let called = Cell::new(*is_called);
        let polled = leash.poll(&inlet.watch, cx, || {
            called.set(true);
            if entry::admits(&worker.shared, inlet) { Ok(()) } else { Err(()) }
        });
        *is_called = called.get();
        polled.map(drop)
    }
}
