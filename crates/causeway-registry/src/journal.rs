//! What is written down: the records of the stream `registry`, read for ever.
//!
//! In:    decrees that the machine decided.      Out: their bytes, and the decrees that bytes hold.
//! Owner: the driver appends and replays; nobody else writes this stream.
//! Invariant: a number is never reused, an unknown field is skipped; `fixtures/journal/v1` is read in a test for ever.
//! Not here: what a decree does to the state (`machine.rs`), how bytes are kept (`causeway-store`).
//!
//! A checkpoint is to become one more [`Decree`] (the whole state at a revision), written when the stream is longer than
//! some multiple of the state, after which the store may drop what lies before it. Until the store can drop the beginning of
//! a stream, opening replays all of it.

use std::sync::Arc;

use causeway_model::codec::{self, DecodeError};
use causeway_model::{Health, Instance, InstanceKey, Object, ObjectKey, Revision, ServiceKey, Timestamp};
use minicbor::{Decode, Encode};

use crate::command::Owner;
use crate::token::{Issued, Serial, Token, TokenId};

/// The name of the registry's stream.
pub const STREAM: &str = "registry";

/// One decree with its revision and time. The records of one command share both.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Record {
    #[n(0)]
    pub(crate) revision: Revision,
    #[n(1)]
    pub(crate) at: Timestamp,
    #[n(2)]
    pub(crate) decree: Decree,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Decree {
    /// The instance is as it says, and its owner is this one.
    #[n(0)]
    Registered {
        /// Shared with the picture, so that applying copies nothing.
        #[n(0)]
        #[cbor(with = "shared")]
        instance: Arc<Instance>,
        #[n(1)]
        owner: Option<Owner>,
    },
    #[n(1)]
    HealthChanged {
        #[n(0)]
        key: InstanceKey,
        #[n(1)]
        health: Health,
    },
    #[n(2)]
    Drained {
        #[n(0)]
        key: InstanceKey,
    },
    #[n(3)]
    Removed {
        #[n(0)]
        key: InstanceKey,
        #[n(1)]
        why: Removal,
    },
    /// Its connection broke.
    #[n(4)]
    Lost {
        #[n(0)]
        key: InstanceKey,
    },
    /// Its lease ran out (or its connection broke) together with too many others.
    #[n(5)]
    Suspected {
        #[n(0)]
        key: InstanceKey,
    },
    /// A lost or suspect instance gave a sign of life.
    #[n(6)]
    Returned {
        #[n(0)]
        key: InstanceKey,
    },
    /// The object is as it says. Its conditions are not: they follow from the state and are left empty here.
    #[n(7)]
    Written {
        #[n(0)]
        object: Box<Object>,
    },
    #[n(8)]
    Deleted {
        #[n(0)]
        key: ObjectKey,
    },
    #[n(9)]
    TokenIssued {
        #[n(0)]
        token: Box<Token>,
    },
    #[n(10)]
    TokenRevoked {
        #[n(0)]
        id: TokenId,
    },
    #[n(11)]
    CertificateIssued {
        #[n(0)]
        issued: Box<Issued>,
    },
    #[n(12)]
    CertificateRevoked {
        #[n(0)]
        serial: Serial,
    },
    /// The object's document stands on another line of its file; nothing else changed, so its revision stays.
    #[n(13)]
    Moved {
        #[n(0)]
        key: ObjectKey,
        #[n(1)]
        line: u32,
    },
    /// Every certificate and join token that the service has is worthless from this record's time on.
    #[n(14)]
    ServiceRevoked {
        #[n(0)]
        service: ServiceKey,
        /// When the last of the certificates expires.
        #[n(1)]
        until: Timestamp,
    },
}

/// Why an instance was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum Removal {
    /// Somebody said so.
    #[n(0)]
    Asked,
    /// Its lease ran out or its connection did not come back: counts for the mass-expiry guard.
    #[n(1)]
    Expired,
    /// It was suspect for too long.
    #[n(2)]
    GivenUp,
}

/// What is shared in memory is written out as if it were not.
mod shared {
    use std::sync::Arc;

    use minicbor::decode::Error as DecodeError;
    use minicbor::encode::Error as EncodeError;
    use minicbor::encode::Write;
    use minicbor::{Decode, Decoder, Encode, Encoder};

    pub(super) fn encode<C, T: Encode<C>, W: Write>(
        value: &Arc<T>,
        e: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        value.as_ref().encode(e, context)
    }

    pub(super) fn decode<'b, C, T: Decode<'b, C>>(
        d: &mut Decoder<'b>,
        context: &mut C,
    ) -> Result<Arc<T>, DecodeError> {
        T::decode(d, context).map(Arc::new)
    }
}

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        codec::encode(self)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }
}

#[cfg(test)]
#[path = "journal/tests.rs"]
mod tests;
