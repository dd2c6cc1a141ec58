//! Reading a topic: events by offset, offsets by time, and the low-water mark of its retention.
//!
//! In:    the store's stream `topic/<namespace>/<topic>`, one record per event.     Out: [`Stored`] events.
//! Owner: whoever reads; cheap to clone. Writing is `topic.rs` alone.
//! Invariant: an event's offset is its position in the stream; publish times never go back along it.
//! Not here: deletion. Retention only hides: the store keeps one log and cannot delete from the middle of it yet. What lies
//! below the mark is not read, delivered or counted any more, but its bytes stay on disk until topics get segments of their own.

use std::sync::Arc;

use causeway_model::{Name, Offset, Timestamp, Topic};
use causeway_store::{Limit, Position, Store, StreamName};
use tokio::sync::watch;

use crate::error::{Error, Kind};
use crate::journal::{self, EventRecord};
use crate::view::{From, Stored};

/// The reading side of one topic.
#[derive(Clone, Debug)]
pub(crate) struct TopicLog {
    pub(crate) namespace: Name,
    pub(crate) name: Name,
    pub(crate) spec: Arc<Topic>,
    pub(crate) stream: StreamName,
    store: Store,
}

impl TopicLog {
    pub(crate) fn new(store: Store, namespace: Name, name: Name, spec: Arc<Topic>) -> Self {
        let stream = journal::topic_stream(&namespace, &name);
        TopicLog { namespace, name, spec, stream, store }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The offset that the next event gets.
    pub(crate) fn next(&self) -> Offset {
        Offset::new(self.store.next(&self.stream).get())
    }

    /// The topic's length as it grows.
    pub(crate) fn follow(&self) -> watch::Receiver<Position> {
        self.store.follow(&self.stream)
    }

    /// Events at and after `from` (retention is the caller's business).
    pub(crate) fn read(&self, from: Offset, limit: Limit) -> Result<Vec<Stored>, Error> {
        let records = self.store.read(&self.stream, Position::new(from.get()), limit).map_err(of_store)?;
        records.iter().map(|record| self.decode(record)).collect()
    }

    /// One event; `None` when it does not exist.
    pub(crate) fn one(&self, at: Offset) -> Result<Option<Stored>, Error> {
        Ok(self.read(at, Limit::records(1))?.pop())
    }

    fn decode(&self, record: &causeway_store::Record) -> Result<Stored, Error> {
        let offset = Offset::new(record.position.get());
        let EventRecord { published, event, .. } =
            journal::decode_event(&record.bytes).map_err(|why| self.unreadable(offset, &why))?;
        let event = journal::decode_cloudevent(event).map_err(|why| self.unreadable(offset, &why))?;
        Ok(Stored { offset, published, event: Arc::new(event) })
    }

    fn unreadable(&self, offset: Offset, why: &str) -> Error {
        let text = format!("cannot read event {offset} of topic {}/{}: {why}", self.namespace, self.name);
        Error::new(Kind::Unreadable, text)
    }

    /// When the event at `at` was taken, and the topic's bytes before it.
    fn mark(&self, at: Offset) -> Result<Option<(Timestamp, u64, u64)>, Error> {
        let limit = Limit::records(1);
        let records = self.store.read(&self.stream, Position::new(at.get()), limit).map_err(of_store)?;
        let Some(record) = records.first() else { return Ok(None) };
        let event = journal::decode_event(&record.bytes).map_err(|why| self.unreadable(at, &why))?;
        Ok(Some((event.published, event.bytes_before, record.bytes.len() as u64)))
    }

    /// Bytes of every event before `at`.
    pub(crate) fn bytes_before(&self, at: Offset) -> Result<u64, Error> {
        if let Some((_, bytes, _)) = self.mark(at)? {
            return Ok(bytes);
        }
        match at.get().checked_sub(1) {
            Some(last) => Ok(self.mark(Offset::new(last))?.map_or(0, |(_, before, size)| before + size)),
            None => Ok(0),
        }
    }

    /// When the newest event was taken.
    pub(crate) fn last_published(&self) -> Result<Timestamp, Error> {
        match self.next().get().checked_sub(1) {
            Some(last) => Ok(self.mark(Offset::new(last))?.map_or(Timestamp::default(), |(at, ..)| at)),
            None => Ok(Timestamp::default()),
        }
    }

    /// The first event that was taken at or after `time`.
    pub(crate) fn at_time(&self, time: Timestamp) -> Result<Offset, Error> {
        self.first_where(|published, _| published >= time)
    }

    /// The oldest event that retention shows at `now`.
    pub(crate) fn earliest(&self, now: Timestamp) -> Result<Offset, Error> {
        let mut earliest = Offset::new(0);
        if let Some(age) = self.spec.retention_age {
            let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            let oldest = Timestamp::from_millis(now.as_millis().saturating_sub(age));
            earliest = self.at_time(oldest)?;
        }
        if let Some(kept) = self.spec.retention_bytes {
            let total = self.bytes_before(self.next())?;
            earliest = earliest.max(self.first_where(|_, before| total - before.min(total) <= kept)?);
        }
        Ok(earliest)
    }

    /// `from` as an offset; one beyond the end is refused, one that retention hides is the earliest.
    pub(crate) fn resolve(&self, from: From, now: Timestamp) -> Result<Offset, Error> {
        let (earliest, next) = (self.earliest(now)?, self.next());
        match from {
            From::Earliest => Ok(earliest),
            From::Latest => Ok(next),
            From::Time(time) => Ok(self.at_time(time)?.max(earliest)),
            From::Offset(offset) if offset > next => {
                let text = format!(
                    "offset {offset} is beyond the end of topic {}/{}, {next}",
                    self.namespace, self.name
                );
                Err(Error::new(Kind::InvalidPosition, text))
            }
            From::Offset(offset) => Ok(offset.max(earliest)),
        }
    }

    /// Binary search: both marks only grow along the topic, so no index is kept that could be lost.
    fn first_where(&self, holds: impl Fn(Timestamp, u64) -> bool) -> Result<Offset, Error> {
        let (mut low, mut high) = (0, self.next().get());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.mark(Offset::new(middle))? {
                Some((published, before, _)) if !holds(published, before) => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(Offset::new(low))
    }
}

/// The store's refusals in this room's words.
pub(crate) fn of_store(error: causeway_store::Error) -> Error {
    match error.kind {
        causeway_store::Kind::TooLarge => Error::new(Kind::TooLarge, error.to_string()),
        causeway_store::Kind::Corrupt => Error::new(Kind::Unreadable, error.to_string()),
        _ => Error::unavailable(format!("storage: {error}")),
    }
}
