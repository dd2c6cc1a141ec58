//! What this room writes down: records with numbered fields, and the names of their streams.
//!
//! In:    events, settled offsets, dead letters.     Out: bytes for the store; and the way back, for ever.
//! Owner: `topic.rs` writes a topic's stream, `group.rs` a subscription's two.
//! Invariant: a number is never given to another field or variant; an unknown field is skipped; `fixtures/journal/v1` is read for ever.
//! Not here: what a record does (`machine.rs`).
//!
//! ```text
//! topic/<ns>/<topic>           Event                         one per event: its position is the event's offset
//! group/<ns>/<topic>/<group>   Started Settled Checkpoint …  the cursor; read from the last whole picture in it
//! dead/<ns>/<topic>/<group>    Dead Redriven Resolved …      dead letters; read from the start
//! ```

use bytes::Bytes;
use causeway_model::{Name, Offset, Revision, Timestamp, codec};
use causeway_store::StreamName;
use minicbor::bytes::ByteSlice;
use minicbor::{Decode, Encode};

use crate::cloudevent::CloudEvent;

/// The stream of a topic.
pub(crate) fn topic_stream(namespace: &Name, topic: &Name) -> StreamName {
    stream(format!("topic/{namespace}/{topic}"))
}

/// The stream of a subscription's cursor.
pub(crate) fn group_stream(namespace: &Name, topic: &Name, group: &Name) -> StreamName {
    stream(format!("group/{namespace}/{topic}/{group}"))
}

/// The stream of a subscription's dead letters.
pub(crate) fn dead_stream(namespace: &Name, topic: &Name, group: &Name) -> StreamName {
    stream(format!("dead/{namespace}/{topic}/{group}"))
}

fn stream(name: String) -> StreamName {
    // A subscription is an object named `<topic>.<group>`, so topic and group together are 252 bytes at most.
    StreamName::new(&name).expect("names are visible ASCII, and two of 253 bytes with a prefix are below 600")
}

// === a topic's stream ===

/// A record of a topic's stream.
#[derive(Debug, Encode, Decode)]
pub(crate) enum TopicRecord<'b> {
    #[n(0)]
    Event(#[b(0)] EventRecord<'b>),
}

/// An event as it is written. The event itself is CBOR within, so that it is encoded once, before its turn comes.
#[derive(Debug, Encode, Decode)]
pub(crate) struct EventRecord<'b> {
    #[n(0)]
    pub(crate) published: Timestamp,
    /// Bytes of every record of this topic before this one.
    #[n(1)]
    pub(crate) bytes_before: u64,
    #[b(2)]
    pub(crate) event: &'b ByteSlice,
}

/// What dedupe needs of an event, read without copying the rest.
#[derive(Debug, Decode)]
pub(crate) struct Identity<'b> {
    #[b(0)]
    pub(crate) id: &'b str,
    #[b(1)]
    pub(crate) source: &'b str,
}

pub(crate) fn encode_event(published: Timestamp, bytes_before: u64, event: &[u8]) -> Bytes {
    let record = TopicRecord::Event(EventRecord { published, bytes_before, event: event.into() });
    codec::encode(&record).into()
}

pub(crate) fn decode_event(bytes: &[u8]) -> Result<EventRecord<'_>, String> {
    let TopicRecord::Event(event) = codec::decode(bytes).map_err(|error| error.to_string())?;
    Ok(event)
}

pub(crate) fn decode_cloudevent(bytes: &[u8]) -> Result<CloudEvent, String> {
    codec::decode(bytes).map_err(|error| error.to_string())
}

pub(crate) fn decode_identity(bytes: &[u8]) -> Result<Identity<'_>, String> {
    codec::decode(bytes).map_err(|error| error.to_string())
}

// === a subscription's streams ===

/// Offsets from the first up to, not including, the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Span {
    #[n(0)]
    pub(crate) from: Offset,
    #[n(1)]
    pub(crate) until: Offset,
}

/// A record of a subscription's cursor stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum CursorRecord {
    /// The subscription began here. A whole picture.
    #[n(0)]
    Started {
        #[n(0)]
        cursor: Offset,
        #[n(1)]
        at: Timestamp,
    },
    /// These events are settled: acked, filtered out, expired or put aside.
    #[n(1)]
    Settled {
        #[n(0)]
        spans: Vec<Span>,
    },
    /// A whole picture, so that what lies before it need not be read.
    #[n(2)]
    Checkpoint {
        /// Every event before it is settled.
        #[n(0)]
        cursor: Offset,
        /// What is settled at and after it.
        #[n(1)]
        ahead: Vec<Span>,
        #[n(2)]
        stopped: Option<Revision>,
    },
    /// The cursor was set; a whole picture but for the stop.
    #[n(3)]
    Sought {
        #[n(0)]
        cursor: Offset,
        #[n(1)]
        at: Timestamp,
    },
    /// The receiver answered 410 to the subscription as it was at this revision.
    #[n(4)]
    Stopped {
        #[n(0)]
        revision: Revision,
    },
    /// The subscription was changed after a stop.
    #[n(5)]
    Resumed,
    /// The subscription was deleted: everything before is void. A whole picture.
    #[n(6)]
    Dropped,
}

/// A record of a subscription's dead-letter stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum DeadRecord {
    /// An event was put aside (again, perhaps).
    #[n(0)]
    Dead(#[n(0)] Letter),
    /// These letters are on their way again; the n-th one is due n / rate seconds after `at`.
    #[n(1)]
    Redriven {
        #[n(0)]
        offsets: Vec<Offset>,
        #[n(1)]
        at: Timestamp,
        #[n(2)]
        rate: Option<u32>,
    },
    /// These letters were delivered after all.
    #[n(2)]
    Resolved {
        #[n(0)]
        offsets: Vec<Offset>,
    },
    /// The subscription was deleted: everything before is void.
    #[n(3)]
    Dropped,
}

/// A dead letter without its event, which stays in the topic.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Letter {
    #[n(0)]
    pub(crate) offset: Offset,
    #[n(1)]
    pub(crate) key: Option<String>,
    #[n(2)]
    pub(crate) reason: Reason,
    #[n(3)]
    pub(crate) error: String,
    #[n(4)]
    pub(crate) attempts: u32,
    #[n(5)]
    pub(crate) at: Timestamp,
}

/// Why a letter is dead, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum Reason {
    #[n(0)]
    Attempts,
    #[n(1)]
    Refused,
    #[n(2)]
    Behind,
}

#[cfg(test)]
#[path = "journal/tests.rs"]
mod tests;
