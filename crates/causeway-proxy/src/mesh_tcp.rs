//! How bytes are asked for between two sidecars, and what is answered: a name in the handshake, and one word before the bytes.
//!
//! In:    the protocol that a handshake settled on; the first bytes of a stream.      Out: which port is meant; go, or why not.
//! Owner: nobody; pure.
//! Invariant: a caller sends nothing of its client's before it has heard that the app's connection is made, so that it may try
//! another endpoint when it is not.
//! Not here: TLS (`tls`), who may call (`causeway-filters::access`).
//!
//! ```text
//! caller                                  sidecar of the app
//!   ---- TLS 1.3, ALPN causeway-tcp[/PORT] ---->
//!                                            who is it, may it, connect to the app
//!   <---- 0                                ----   and bytes both ways from here, or
//!   <---- code, length, words              ----   and the end
//! ```

use causeway_wire::ProxyError;

/// The protocol's name in a handshake: bytes for the app's main port; with `/PORT`, for a further one that the app has named.
const ALPN: &str = "causeway-tcp";
/// What is said when the connection to the app is made.
pub(crate) const GO: u8 = 0;
/// Longest words of a refusal: one byte says how many.
const WORDS_MAX: usize = 255;
/// Refusals by their codes, which are never given another meaning.
const REFUSALS: [(u8, ProxyError); 4] = [
    (1, ProxyError::HttpRequestDenied),
    (2, ProxyError::ConnectionRefused),
    (3, ProxyError::ConnectionTimeout),
    (4, ProxyError::ProxyConfigurationError),
];
/// Any other reason.
const OTHER: u8 = 255;

/// The name for a port.
pub(crate) fn name(port: Option<u16>) -> Vec<u8> {
    match port {
        None => ALPN.into(),
        Some(port) => format!("{ALPN}/{port}").into_bytes(),
    }
}

/// A refusal as it is sent.
pub(crate) fn refusal(error: ProxyError, words: &str) -> Vec<u8> {
    let code = REFUSALS.iter().find(|(_, known)| *known == error).map_or(OTHER, |(code, _)| *code);
    let end = words.floor_char_boundary(WORDS_MAX);
    let mut bytes = vec![code, end as u8];
    bytes.extend_from_slice(&words.as_bytes()[..end]);
    bytes
}

/// What a code other than [`GO`] means.
pub(crate) fn error(code: u8) -> ProxyError {
    let known = REFUSALS.iter().find(|(known, _)| *known == code);
    known.map_or(ProxyError::DestinationUnavailable, |(_, error)| *error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_understood_and_bounded() {
        let bytes = refusal(ProxyError::HttpRequestDenied, &"é".repeat(300));
        assert_eq!((error(bytes[0]), usize::from(bytes[1])), (ProxyError::HttpRequestDenied, 254));
        assert_eq!(bytes.len(), 256);
        assert_eq!(error(refusal(ProxyError::DnsError, "")[0]), ProxyError::DestinationUnavailable);
        assert!(REFUSALS.iter().all(|(code, _)| *code != GO && *code != OTHER));
    }
}
