//! Names of single sagas: given by the starter or made here.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use minicbor::decode::{Decoder, Error as DecodeError};
use minicbor::encode::{Encoder, Error as EncodeError, Write};
use minicbor::{Decode, Encode};

use causeway_base::Seed;
use causeway_model::Timestamp;

/// Longest [`SagaId`]: it is part of a header of every step and of the index of ended sagas.
pub const SAGA_ID_BYTES_MAX: usize = 200;

/// Id of a saga: 1 to 200 bytes of visible ASCII other than `/` (it is the first element of every `Idempotency-Key`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SagaId(Arc<str>);

/// Why a text is not a [`SagaId`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a saga id: {why}")]
pub struct InvalidId {
    text: String,
    why: &'static str,
}

impl SagaId {
    /// Reads an id.
    ///
    /// # Errors
    /// [`InvalidId`] says which rule is broken.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let refuse = |why| Err(InvalidId { text: text.chars().take(64).collect(), why });
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > SAGA_ID_BYTES_MAX {
            return refuse("it is longer than 200 bytes");
        }
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'/') {
            return refuse("only visible ASCII characters other than '/' are allowed");
        }
        Ok(SagaId(text.into()))
    }

    /// A new id, `sag_` and 26 characters that sort by time of making.
    pub fn generate(now: Timestamp, seed: &Seed) -> Self {
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let number = (u128::from(now.as_millis()) << 80)
            | (u128::from(seed.u64() & 0xFFFF) << 64)
            | u128::from(seed.u64());
        let mut text = String::with_capacity(30);
        text.push_str("sag_");
        for place in (0..26).rev() {
            text.push(char::from(DIGITS[(number >> (place * 5)) as usize & 31]));
        }
        SagaId(text.into())
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// FNV-1a of the id: which shard it lives in, and its name in the index of ended sagas. The same for ever: the
    /// journal's layout depends on it.
    pub(crate) fn hash(&self) -> u64 {
        self.0.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

impl fmt::Display for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SagaId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        SagaId::new(text)
    }
}

impl<C> Encode<C> for SagaId {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for SagaId {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        SagaId::new(d.str()?).map_err(DecodeError::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_ids_are_ids_and_sort_by_time() {
        let seed = Seed::from_number(1);
        let early = SagaId::generate(Timestamp::from_millis(1_767_225_600_000), &seed);
        let late = SagaId::generate(Timestamp::from_millis(1_767_225_600_001), &seed);
        assert!(early < late);
        assert_eq!(SagaId::new(early.as_str()).unwrap(), early);
        for wrong in ["", "a/b", "a b", "ä", &"a".repeat(201)] {
            assert!(SagaId::new(wrong).is_err(), "{wrong}");
        }
    }
}
