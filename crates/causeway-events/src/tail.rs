//! The live events of a topic, for event streams and WebSockets.
//!
//! In:    a place in the topic.     Out: a stream of events that waits at the end.
//! Owner: whoever listens; a slow listener reads later, it holds nothing up and buffers one chunk.
//! Invariant: no event is skipped but those that retention has passed over.
//! Not here: their form on the wire (`causeway-api`).

use std::collections::VecDeque;
use std::sync::Arc;

use causeway_base::Clock;
use causeway_model::Offset;
use causeway_store::{Limit, Position};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::sync::watch;

use crate::directory::Directory;
use crate::error::Error;
use crate::log::TopicLog;
use crate::view::Stored;

/// What a listener reads from the log at a time, and so the most that it buffers.
const CHUNK: Limit = Limit { records: 128, bytes: 256 * 1024 };

/// The live events of a topic. An error is the last item.
pub type Tail = BoxStream<'static, Result<Stored, Error>>;

struct Listener {
    log: TopicLog,
    next: Offset,
    chunk: VecDeque<Stored>,
    end: watch::Receiver<Position>,
    directory: watch::Receiver<Arc<Directory>>,
    clock: Clock,
    is_over: bool,
}

/// The events from `from` on.
pub(crate) fn tail(
    log: TopicLog,
    from: Offset,
    clock: Clock,
    directory: watch::Receiver<Arc<Directory>>,
) -> Tail {
    let end = log.follow();
    let listener =
        Listener { log, next: from, chunk: VecDeque::new(), end, directory, clock, is_over: false };
    futures_util::stream::unfold(listener, |mut listener| async move {
        let event = listener.event().await?;
        Some((event, listener))
    })
    .boxed()
}

impl Listener {
    async fn event(&mut self) -> Option<Result<Stored, Error>> {
        loop {
            if let Some(event) = self.chunk.pop_front() {
                self.next = event.offset.next();
                return Some(Ok(event));
            }
            if self.is_over {
                return None;
            }
            self.end.borrow_and_update();
            match self.read() {
                Ok(events) if events.is_empty() => self.wait().await,
                Ok(events) => self.chunk = events.into(),
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
            }
        }
    }

    fn read(&self) -> Result<Vec<Stored>, Error> {
        let earliest = self.log.earliest(self.clock.now().into())?;
        self.log.read(self.next.max(earliest), CHUNK)
    }

    /// Until the topic is longer, or is not there any more.
    async fn wait(&mut self) {
        tokio::select! {
            grown = self.end.changed() => self.is_over = grown.is_err(),
            changed = self.directory.changed() => {
                let key = (self.log.namespace.clone(), self.log.name.clone());
                let is_gone = !self.directory.borrow_and_update().topics.contains_key(&key);
                self.is_over = changed.is_err() || is_gone;
            }
        }
    }
}
