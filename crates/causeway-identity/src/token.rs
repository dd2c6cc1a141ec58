//! Join tokens: how a newcomer proves itself once and knows whom to believe.
//!
//! In:    the root's hash, or a token's text.   Out: the text, the hash to keep, a verdict.
//! Owner: the person who was handed it; the registry keeps only [`JoinToken::secret_sha256`] with scope and expiry.
//! Invariant: the secret leaves only through [`JoinToken::reveal`]; it is compared in constant time.
//! Not here: the records of tokens, their use and revocation (`causeway-registry`).

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use causeway_model::{ServiceKey, Timestamp};

use crate::error::{Error, ErrorKind};
use crate::trust::sha256;

/// First word of the text: what it is, and its version. People find it in logs and secret scanners can look for it.
const PREFIX: &str = "cwj1";
/// Longest text that is looked at.
const TEXT_BYTES_MAX: usize = 256;
const ID_BYTES: usize = 9;

/// A join token: `cwj1.<id>.<secret>.<SHA-256 of the root>`, each part base64url without padding.
#[derive(Clone)]
pub struct JoinToken {
    id: [u8; ID_BYTES],
    secret: [u8; 32],
    root_sha256: [u8; 32],
}

/// What the keeper of tokens wrote down about one.
#[derive(Clone, Copy, Debug)]
pub struct TokenTerms<'a> {
    /// [`JoinToken::secret_sha256`] from when it was made.
    pub secret_sha256: &'a [u8; 32],
    /// The only service it may become.
    pub scope: &'a ServiceKey,
    /// Not from this moment on.
    pub expires_at: Timestamp,
}

/// Why a token is refused. The text may go to its bearer: it was tried with the right secret, or says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// Not the secret that was given out (say the same for an unknown id).
    #[error("the join token is not known here, or was revoked [CW-1411]")]
    Unknown,
    /// Too late.
    #[error("the join token expired at {}; make a new one with `causeway token create` [CW-1411]", at.to_rfc3339())]
    Expired {
        /// When it ended.
        at: Timestamp,
    },
    /// For another service.
    #[error("the join token is for {scope}, not for {wanted} [CW-1411]")]
    OutOfScope {
        /// What it is for.
        scope: ServiceKey,
        /// What was asked for.
        wanted: ServiceKey,
    },
}

impl JoinToken {
    /// A new token with a random id and secret, for newcomers who shall believe the root with this hash.
    ///
    /// # Panics
    /// When the operating system gives no randomness.
    pub fn generate(root_sha256: [u8; 32]) -> Self {
        let mut token = JoinToken { id: [0; ID_BYTES], secret: [0; 32], root_sha256 };
        aws_lc_rs::rand::fill(&mut token.id).expect("the operating system gives randomness");
        aws_lc_rs::rand::fill(&mut token.secret).expect("the operating system gives randomness");
        token
    }

    /// Reads a token's text; blanks around it are forgiven (it was copied by hand).
    ///
    /// # Errors
    /// [`ErrorKind::Token`]; the text is not repeated in it.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let bad = |why: &str| Error::new(ErrorKind::Token, format!("cannot read the join token: {why}"));
        if text.len() > TEXT_BYTES_MAX {
            return Err(bad("it is too long"));
        }
        let mut parts = text.split('.');
        if parts.next() != Some(PREFIX) {
            return Err(bad("it does not begin with \"cwj1.\""));
        }
        let (Some(id), Some(secret), Some(root), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad("it has not four parts; was it copied whole?"));
        };
        let cut = || bad("one of its parts is damaged; was it copied whole?");
        Ok(JoinToken {
            id: part(id).ok_or_else(cut)?,
            secret: part(secret).ok_or_else(cut)?,
            root_sha256: part(root).ok_or_else(cut)?,
        })
    }

    /// The whole text, secret included: to be shown once to whom it was made for.
    pub fn reveal(&self) -> String {
        let [id, secret, root] =
            [&self.id[..], &self.secret, &self.root_sha256].map(|part| BASE64.encode(part));
        format!("{PREFIX}.{id}.{secret}.{root}")
    }

    /// Its name, safe to show: 12 characters of `A-Z a-z 0-9 _ -`.
    pub fn id(&self) -> String {
        BASE64.encode(self.id)
    }

    /// The hash to keep. The secret has 256 random bits, so that a plain hash cannot be turned back.
    pub fn secret_sha256(&self) -> [u8; 32] {
        sha256(&self.secret)
    }

    /// Which root the bearer is to believe.
    pub fn root_sha256(&self) -> [u8; 32] {
        self.root_sha256
    }

    /// Whether this is the token that was made with `terms`, still good at `now`, and for `wanted`.
    ///
    /// # Errors
    /// [`TokenRefusal`]; secret first, so that a guess learns nothing about scope or expiry.
    pub fn check(
        &self,
        terms: &TokenTerms<'_>,
        wanted: &ServiceKey,
        now: Timestamp,
    ) -> Result<(), TokenRefusal> {
        verify_slices_are_equal(&self.secret_sha256(), terms.secret_sha256)
            .map_err(|_| TokenRefusal::Unknown)?;
        if now >= terms.expires_at {
            return Err(TokenRefusal::Expired { at: terms.expires_at });
        }
        if wanted != terms.scope {
            return Err(TokenRefusal::OutOfScope { scope: terms.scope.clone(), wanted: wanted.clone() });
        }
        Ok(())
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, ***)", self.id())
    }
}

fn part<const N: usize>(text: &str) -> Option<[u8; N]> {
    BASE64.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn shop() -> ServiceKey {
        ServiceKey::parse("default", "shop").unwrap()
    }

    #[test]
    fn text_round_trips_and_only_reveal_shows_the_secret() {
        let token = JoinToken::generate([7; 32]);
        let text = token.reveal();
        assert!(text.starts_with("cwj1.") && !text.contains(char::is_whitespace), "{text}");
        let read = JoinToken::parse(&format!("  {text}\n")).unwrap();
        assert_eq!((read.id(), read.secret_sha256()), (token.id(), token.secret_sha256()));
        assert_eq!(read.root_sha256(), [7; 32]);
        let secret = text.split('.').nth(2).unwrap();
        assert!(!format!("{token:?}").contains(secret));
        assert_ne!(JoinToken::generate([7; 32]).reveal(), text);
    }

    #[test]
    fn damaged_texts_are_refused_without_being_repeated() {
        let good = JoinToken::generate([7; 32]).reveal();
        let with_part = |at: usize, part: &str| {
            let mut parts: Vec<&str> = good.split('.').collect();
            parts[at] = part;
            parts.join(".")
        };
        let long = "x".repeat(300);
        for wrong in [
            "",
            "cwj1",
            &good[..good.len() - 1],
            &good[1..],
            &format!("{good}.x"),
            &with_part(0, "cwj2"),
            &with_part(2, ""),
            &with_part(2, "!!!!"),
            &long,
        ] {
            let error = JoinToken::parse(wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Token);
            assert!(wrong.len() < 20 || !error.to_string().contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_token_is_good_for_its_service_until_it_expires() {
        let token = JoinToken::generate([7; 32]);
        let (hash, scope) = (token.secret_sha256(), shop());
        let terms =
            TokenTerms { secret_sha256: &hash, scope: &scope, expires_at: NOW.plus(Duration::from_secs(60)) };
        assert_eq!(token.check(&terms, &shop(), NOW), Ok(()));
        assert_eq!(
            token.check(&terms, &shop(), terms.expires_at),
            Err(TokenRefusal::Expired { at: terms.expires_at })
        );
        let other = ServiceKey::parse("default", "bank").unwrap();
        let refusal = token.check(&terms, &other, NOW).unwrap_err();
        assert_eq!(refusal.to_string(), "the join token is for default/shop, not for default/bank [CW-1411]");
        let guess = JoinToken::generate([7; 32]);
        assert_eq!(guess.check(&terms, &other, terms.expires_at), Err(TokenRefusal::Unknown));
    }
}
