//! Sends spans to a collector (OTLP 1.x: gRPC, or protobuf over HTTP/1.1), off the data path.
//!
//! In:    spans, collected from the workers now and then.      Out: batches to the collector; counts of what was sent and lost.
//! Owner: one task of the proxy.
//! Invariant: a collector that is slow or away costs at most [`SPANS_QUEUED_MAX`] spans of memory; what does not fit is lost and counted.
//! Not here: which requests have spans (`trace`), what a span says (`spans`), the node's own store (`causeway-api`).

mod address;
mod message;
mod sender;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use causeway_base::net::Net;
use causeway_base::{OnFailure, Scope, Seed};
use causeway_model::Span;
use prost::Message;
use tokio::sync::{mpsc, oneshot};

pub use self::address::{BadOtlp, Otlp};
use self::sender::Sender;

/// Spans that wait for the collector, some 1 kB each: five seconds of a thousand requests a second at three spans each.
const SPANS_QUEUED_MAX: usize = 16_384;
/// Spans in one message: OpenTelemetry's own default.
const BATCH_MAX: usize = 512;
/// Batches that wait; those of a quiet proxy are small.
const BATCHES_MAX: usize = 256;
/// Tries of a batch before it is given up, the first among them.
const TRIES_MAX: u32 = 6;
/// Wait before the second try; doubled from there, with jitter.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest wait between tries.
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// See the [module](self). Cheap to clone.
#[derive(Clone)]
pub(crate) struct Exporter {
    queue: mpsc::Sender<Word>,
    counts: Arc<Counts>,
}

enum Word {
    Spans(Vec<Span>),
    /// Answered when everything before it was sent or given up.
    Flush(oneshot::Sender<()>),
}

/// What became of spans.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub sent: AtomicU64,
    pub lost: AtomicU64,
    queued: AtomicU64,
}

impl Exporter {
    /// Starts the task that sends; it ends with the scope.
    pub(crate) fn start(otlp: Otlp, net: Net, seed: Seed, scope: &Scope) -> Self {
        let (queue, words) = mpsc::channel(BATCHES_MAX);
        let counts = Arc::new(Counts::default());
        let task = Task {
            sender: Sender::new(otlp, net, scope.clone()),
            counts: counts.clone(),
            seed,
            is_well: true,
        };
        let cancelled = scope.cancelled();
        scope.spawn("otlp", OnFailure::Log, async move {
            tokio::select! { biased; () = cancelled => {}, () = task.run(words) => {} }
            Ok(())
        });
        Exporter { queue, counts }
    }

    /// Queues spans; what does not fit is lost.
    pub(crate) fn offer(&self, spans: &[Span]) {
        for batch in spans.chunks(BATCH_MAX) {
            let count = batch.len() as u64;
            let is_full = self.counts.queued.fetch_add(count, Relaxed) + count > SPANS_QUEUED_MAX as u64;
            if is_full || self.queue.try_send(Word::Spans(batch.to_vec())).is_err() {
                self.counts.queued.fetch_sub(count, Relaxed);
                self.counts.lost.fetch_add(count, Relaxed);
            }
        }
    }

    /// Waits until what was offered is sent or given up.
    ///
    /// # Cancel safety
    /// Safe: what waits goes on waiting.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.queue.send(Word::Flush(done)).await.is_ok() {
            // An error means that the task has ended: nothing waits any more.
            let _ = flushed.await;
        }
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }
}

struct Task {
    sender: Sender,
    counts: Arc<Counts>,
    seed: Seed,
    /// Whether the last batch arrived: trouble is logged when it begins and when it ends.
    is_well: bool,
}

impl Task {
    async fn run(mut self, mut words: mpsc::Receiver<Word>) {
        while let Some(word) = words.recv().await {
            match word {
                Word::Spans(mut spans) => {
                    // Small batches that have gathered go together.
                    let mut flush = None;
                    while spans.len() < BATCH_MAX {
                        match words.try_recv() {
                            Ok(Word::Spans(more)) => spans.extend(more),
                            Ok(Word::Flush(done)) => {
                                flush = Some(done);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.send(&spans).await;
                    if let Some(done) = flush {
                        // Whoever waited may have given up.
                        let _ = done.send(());
                    }
                }
                Word::Flush(done) => _ = done.send(()),
            }
        }
    }

    async fn send(&mut self, spans: &[Span]) {
        let count = spans.len() as u64;
        let body = Bytes::from(message::request(spans).encode_to_vec());
        let sent = self.send_until(body).await;
        self.counts.queued.fetch_sub(count, Relaxed);
        let lost = match sent {
            Ok(rejected) => rejected.min(count),
            Err(()) => count,
        };
        self.counts.lost.fetch_add(lost, Relaxed);
        self.counts.sent.fetch_add(count - lost, Relaxed);
    }

    /// Tries until the collector has it. Gives how many spans it did not take; an error when all tries are used up or none can help.
    async fn send_until(&mut self, body: Bytes) -> Result<u64, ()> {
        let mut wait = AGAIN;
        for attempt in 1..=TRIES_MAX {
            let failure = match self.sender.send(body.clone()).await {
                Ok(rejected) => {
                    if !std::mem::replace(&mut self.is_well, true) {
                        tracing::info!(collector = self.sender.place(), "spans are sent again");
                    }
                    return Ok(rejected);
                }
                Err(failure) => failure,
            };
            if std::mem::replace(&mut self.is_well, false) {
                tracing::warn!(collector = self.sender.place(), error = %failure.why, "spans cannot be sent; they are kept for a while");
            }
            if !failure.is_temporary || attempt == TRIES_MAX {
                return Err(());
            }
            tokio::time::sleep(wait.mul_f64(0.5 + self.seed.unit() / 2.0)).await;
            wait = (wait * 2).min(AGAIN_MAX);
        }
        Err(())
    }
}

#[cfg(test)]
mod tests {
    use causeway_model::{ServiceKey, SpanKind, TraceId};

    use super::*;

    fn spans(count: u64) -> Vec<Span> {
        let span = |id| Span {
            trace: TraceId::parse("0af7651916cd43dd8448eb211c80319c").unwrap(),
            id,
            parent: 0,
            kind: SpanKind::Server,
            name: "GET".into(),
            begun: 1,
            micros: 1,
            service: ServiceKey::parse("default", "shop").unwrap(),
            instance: String::new(),
            is_error: false,
            message: String::new(),
            attributes: vec![],
            state: String::new(),
        };
        (1..=count).map(span).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_is_away_costs_a_bounded_queue_and_what_is_lost_is_counted() {
        let scope = Scope::root("test");
        let otlp = Otlp::new("http://127.0.0.1:4318", None).unwrap();
        let exporter = Exporter::start(otlp, Net::memory(), Seed::from_number(1), &scope);
        let count = |of: &AtomicU64| of.load(Relaxed);
        exporter.offer(&spans(20_000));
        let counts = exporter.counts();
        assert_eq!(
            count(&counts.lost),
            20_000 - SPANS_QUEUED_MAX as u64 + SPANS_QUEUED_MAX as u64 % BATCH_MAX as u64
        );
        let began = tokio::time::Instant::now();
        exporter.flush().await;
        assert_eq!((count(&counts.lost), count(&counts.sent), count(&counts.queued)), (20_000, 0, 0));
        assert!(began.elapsed() > AGAIN, "it was tried again");
        exporter.offer(&spans(1));
        assert_eq!(count(&counts.queued), 1, "and there is room again");
    }
}
