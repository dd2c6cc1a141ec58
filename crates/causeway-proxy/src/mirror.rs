//! Copies of requests that go to a second service as well (RequestMirror): sent beside the request, their answers dropped.
//!
//! In:    a request that is about to be sent, the mirrors of its rule.      Out: nothing that its caller could notice.
//! Owner: the worker; a copy is a task of its own, bounded in number and time.
//! Invariant: the original neither waits for a copy nor fails by one; a copy never delays a drain.
//! Not here: which rule has mirrors (`plan`).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use causeway_base::OnFailure;
use http::Request;
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::attempt::{Deadline, Delivery, Replay, Terms, deliver};
use crate::balance::Pull;
use crate::inlet::Inlet;
use crate::limits::{MIRROR, MIRRORS_MAX};
use crate::outgoing::Head;
use crate::plan::{Mirror, Rule};
use crate::settle::{self, Settle};
use crate::tally::Tally;
use crate::worker::Worker;

/// Sends copies of a request. One whose body is not at hand whole (it is long, or a stream) is not copied, which is counted.
pub(crate) fn copy(worker: &Arc<Worker>, settle: &Settle, mirrors: &[Mirror], head: &Head, body: &Replay) {
    for mirror in mirrors.iter().filter(|mirror| mirror.share.takes(worker.seed().unit())) {
        let number = settle.service.as_ref().map(|service| service.number);
        let Replay::Whole(bytes) = body else {
            worker.ledger.count(number, Tally::Unmirrored);
            continue;
        };
        if worker.mirrors.fetch_add(1, Relaxed) >= MIRRORS_MAX {
            worker.mirrors.fetch_sub(1, Relaxed);
            worker.ledger.count(number, Tally::Unmirrored);
            continue;
        }
        worker.ledger.count(number, Tally::Mirrored);
        let under_way = UnderWay(worker.clone());
        let (mirror, head, body) = (mirror.clone(), head.clone(), Replay::Whole(bytes.clone()));
        let inlet = settle.inlet.clone();
        worker.scopes.upstream.spawn("mirror", OnFailure::Log, async move {
            // What becomes of it is in its own record.
            let _ = tokio::time::timeout(MIRROR, send(&under_way.0, &inlet, mirror, head, body)).await;
            Ok(())
        });
    }
}

/// One copy under way; counted until it is dropped.
struct UnderWay(Arc<Worker>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.mirrors.fetch_sub(1, Relaxed);
    }
}

async fn send(worker: &Arc<Worker>, inlet: &Arc<Inlet>, mirror: Mirror, head: Head, mut body: Replay) {
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    let mut settle = settle::start(worker, inlet, &request);
    settle.path = head.uri.path_and_query().cloned();
    let Some(service) = worker.shared.service(&mirror.service).await else {
        settle.reason = causeway_wire::ProxyError::DestinationNotFound.as_str();
        return settle.done("");
    };
    settle.service = Some(service.clone());
    let Ok(group) = service.http_group(mirror.port) else {
        settle.reason = causeway_wire::ProxyError::ProxyConfigurationError.as_str();
        return settle.done("");
    };
    let rule = Rule::default();
    let terms = Terms::of(&rule, Some(&service));
    let delivery = Delivery {
        worker,
        group,
        service: Some(&service),
        port: mirror.port,
        terms: &terms,
        upgrades: false,
        deadline: Some(Deadline { at: Instant::now() + MIRROR, is_callers: false }),
        is_idempotent: false,
        pull: Pull::default(),
    };
    match deliver(&delivery, &mut settle, &mut Some(head), &mut body).await {
        Ok(response) => {
            settle.status = response.status().as_u16();
            let mut body = response.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                settle.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
        }
        Err(failure) => {
            settle.reason = failure.error.as_str();
            settle.details = failure.details;
        }
    }
    settle.done("");
}
