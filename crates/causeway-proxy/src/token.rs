//! What a client that stays with an endpoint is given: it says which endpoint, to us alone.
//!
//! In:    an endpoint's name, its service, a secret of the trust domain.      Out: sixteen characters.
//! Owner: the endpoint of a plan.
//! Invariant: the same in every proxy of the trust domain; from outside nothing can be learnt from it, nor can one be made up.
//! Not here: who gets one and sends it back (`affinity`).

use aws_lc_rs::hmac;
use causeway_model::ServiceKey;

/// Characters of a token: 96 bits in base64url.
pub(crate) const TOKEN_LENGTH: usize = 16;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Says an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token([u8; TOKEN_LENGTH]);

/// Makes tokens.
#[derive(Debug)]
pub(crate) struct Mint(hmac::Key);

impl Token {
    /// What a client sent, when it can be one.
    pub(crate) fn of(text: &str) -> Option<Token> {
        text.as_bytes().try_into().ok().map(Token)
    }

    pub(crate) fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Mint {
    /// From what members of a trust domain know of it and nobody outside does: the digest of its root certificate.
    pub(crate) fn new(root: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, root);
        let secret = hmac::sign(&key, b"causeway session affinity v1");
        Mint(hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref()))
    }

    /// The token of an endpoint. A part of a service and the whole give the same one: `owner` is the whole.
    pub(crate) fn token(&self, owner: &ServiceKey, endpoint: &str) -> Token {
        let tag = hmac::sign(&self.0, format!("{owner}\n{endpoint}").as_bytes());
        let mut text = [0; TOKEN_LENGTH];
        for (bytes, four) in tag.as_ref().chunks_exact(3).zip(text.chunks_exact_mut(4)) {
            let word = u32::from(bytes[0]) << 16 | u32::from(bytes[1]) << 8 | u32::from(bytes[2]);
            let sextets = [18, 12, 6, 0].map(|shift| ALPHABET[(word >> shift & 63) as usize]);
            four.copy_from_slice(&sextets);
        }
        Token(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_its_endpoint_to_those_who_know_the_root_alone() {
        let cart = ServiceKey::parse("shop", "cart").unwrap();
        let (ours, theirs) = (Mint::new(b"root"), Mint::new(b"another"));
        let token = ours.token(&cart, "cart-1");
        assert_eq!(token, Mint::new(b"root").token(&cart, "cart-1"), "in every proxy");
        assert_ne!(token, ours.token(&cart, "cart-2"));
        assert_ne!(token, theirs.token(&cart, "cart-1"));
        assert_ne!(token, ours.token(&ServiceKey::parse("shop", "pay").unwrap(), "cart-1"));
        assert_eq!(Token::of(token.as_str()), Some(token));
        assert!(token.as_str().bytes().all(|c| ALPHABET.contains(&c)));
        assert_eq!(Token::of("short"), None);
        assert_eq!(format!("{token:?}"), "***");
    }
}
