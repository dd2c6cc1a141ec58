//! Tokens and issued certificates: what the registry remembers of secrets, which is never the secret.
//!
//! In:    SHA-256 of a secret (hashed by the caller).      Out: whether a presented one is good, and for what.
//! Owner: the machine keeps them; the published state holds them for lookups without a wait.
//! Invariant: neither secret nor digest appears in `Debug`, a log line or an error.
//! Not here: making secrets, hashing, signing (`causeway-identity`); what a rule means (`causeway-api`).

use std::fmt;

use causeway_model::{Name, ServiceKey, SpiffeId, Timestamp, TrustDomain};
use minicbor::decode::{Decoder, Error as DecodeError};
use minicbor::encode::{Encoder, Error as EncodeError, Write};
use minicbor::{Decode, Encode};

use crate::limits::ID_BYTES_MAX;

/// SHA-256 of a token's secret. `Debug` shows nothing; compared in constant time.
#[derive(Clone)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest as computed by the caller.
    pub const fn new(sha256: [u8; 32]) -> Self {
        Digest(sha256)
    }
}

impl PartialEq for Digest {
    /// Looks at every byte whatever the first ones are.
    fn eq(&self, other: &Self) -> bool {
        let differing = self.0.iter().zip(other.0.iter()).fold(0u8, |seen, (a, b)| seen | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

impl Eq for Digest {}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<C> Encode<C> for Digest {
    fn encode<W: Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Digest {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, DecodeError> {
        let bytes: [u8; 32] =
            d.bytes()?.try_into().map_err(|_| DecodeError::message("a digest has 32 bytes"))?;
        Ok(Digest(bytes))
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(String);

        impl $name {
            /// Reads one: 1 to 128 bytes of visible ASCII; `None` when it is not that.
            pub fn new(text: &str) -> Option<Self> {
                let fits = (1..=ID_BYTES_MAX).contains(&text.len());
                (fits && text.bytes().all(|b| b.is_ascii_graphic())).then(|| $name(text.to_owned()))
            }

            /// Its text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}
id! {
    /// The public half of a token: names it in lists and logs, opens nothing.
    TokenId
}
id! {
    /// A certificate's serial number as its issuer writes it (lower-case hexadecimal).
    Serial
}

/// A token.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Token {
    /// Its public half.
    #[n(0)]
    pub id: TokenId,
    /// SHA-256 of its secret half.
    #[n(1)]
    pub digest: Digest,
    /// What it is for.
    #[n(2)]
    pub use_for: TokenUse,
    /// The namespace it is confined to; every one when absent.
    #[n(3)]
    pub namespace: Option<Name>,
    /// The service it is confined to; every one when absent.
    #[n(4)]
    pub service: Option<Name>,
    /// Good before this time; for ever when absent.
    #[n(5)]
    pub expires_at: Option<Timestamp>,
    /// Who had it issued.
    #[n(6)]
    pub issued_by: String,
}

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum TokenUse {
    /// Joining the mesh: getting a first certificate signed.
    #[n(0)]
    Join,
    /// Calling the API within these rules (their text; the door reads it); everything when there are none.
    #[n(1)]
    Api(#[n(0)] Vec<String>),
}

/// Why a token opens nothing. A door should not tell its caller which of these it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No token has this id (or it was revoked).
    #[error("no such token")]
    Unknown,
    /// The secret is another one.
    #[error("the token's secret is wrong")]
    WrongSecret,
    /// It has expired.
    #[error("the token has expired")]
    Expired,
}

impl Token {
    /// Whether it has expired at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    pub(crate) fn verify(&self, digest: &Digest, now: Timestamp) -> Result<(), TokenError> {
        match self.digest == *digest {
            false => Err(TokenError::WrongSecret),
            true if self.is_expired(now) => Err(TokenError::Expired),
            true => Ok(()),
        }
    }
}

/// A certificate that the mesh's authority signed.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Issued {
    /// Its serial number.
    #[n(0)]
    pub serial: Serial,
    /// Whom it names.
    #[n(1)]
    #[cbor(with = "spiffe")]
    pub identity: SpiffeId,
    /// Good before this time; forgotten after it.
    #[n(2)]
    pub not_after: Timestamp,
    /// Since when it is revoked.
    #[n(3)]
    pub revoked_at: Option<Timestamp>,
    /// When its life begins; 0 in records from before this was written down.
    #[n(4)]
    #[cbor(default)]
    pub not_before: Timestamp,
}

/// An identity on paper: trust domain, namespace, service.
mod spiffe {
    use super::*;

    pub(super) fn encode<C, W: Write>(
        id: &SpiffeId,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.array(3)?.str(id.trust_domain.as_str())?;
        e.str(id.service.namespace.as_str())?.str(id.service.name.as_str())?.ok()
    }

    pub(super) fn decode<'b, C>(d: &mut Decoder<'b>, _: &mut C) -> Result<SpiffeId, DecodeError> {
        if d.array()? != Some(3) {
            return Err(DecodeError::message("an identity has three parts"));
        }
        let trust_domain = TrustDomain::new(d.str()?).map_err(DecodeError::custom)?;
        let service = ServiceKey::parse(d.str()?, d.str()?).map_err(DecodeError::custom)?;
        Ok(SpiffeId::new(trust_domain, service))
    }
}
