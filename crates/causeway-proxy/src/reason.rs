//! Why a request did not end well, in one stable word each: what records, failures and spans say.
//!
//! In:    nothing.      Out: constants, and the list of every word that may be written down.
//! Owner: nobody.
//! Invariant: a word is never given another meaning; each is explained in `docs/reasons.md` (a test here holds it to that).
//! Not here: the errors of RFC 9209, which are reasons too (`causeway_wire::ProxyError`).

use causeway_wire::ProxyError;

/// The client went away before its answer was whole.
pub(crate) const CLIENT_LEFT: &str = "client_left";
/// The time limit of the request, or its caller's deadline, passed while the answer was on its way.
pub(crate) const TIME_LIMIT: &str = "time_limit";
/// Nothing moved in either direction, on a connection of bytes or while an answer was on its way, for longer than is allowed.
pub(crate) const IDLE_LIMIT: &str = "idle_limit";
/// The service broke off its answer.
pub(crate) const UPSTREAM_BROKE: &str = "upstream_broke";
/// A tunnel (an upgraded connection, CONNECT) ended by an error.
pub(crate) const TUNNEL_BROKE: &str = "tunnel_broke";

/// A rate limit was reached.
pub(crate) const RATE_LIMITED: &str = "rate_limited";
/// The service was overloaded and other calls were more urgent.
pub(crate) const SHED: &str = "shed";
/// A policy wished that it fails.
pub(crate) const FAULT_INJECTED: &str = "fault_injected";
/// A connection of bytes was still open when its proxy had to end.
pub(crate) const DRAINED: &str = "drained";

/// The caller may no longer have what it was given: a policy changed, or something was revoked.
pub(crate) const WITHDRAWN: &str = "withdrawn";

/// Words of our own.
const OWN: &[&str] = &[
    CLIENT_LEFT,
    TIME_LIMIT,
    UPSTREAM_BROKE,
    TUNNEL_BROKE,
    RATE_LIMITED,
    SHED,
    FAULT_INJECTED,
    IDLE_LIMIT,
    DRAINED,
    WITHDRAWN,
];

/// Whether a connection of bytes that ended with this reason failed by anybody's fault but its client's.
pub(crate) fn is_failure(reason: &str) -> bool {
    !matches!(reason, "" | CLIENT_LEFT | IDLE_LIMIT | DRAINED | WITHDRAWN)
}

/// Whether a word may be written down as a reason.
pub(crate) fn is_known(reason: &str) -> bool {
    reason.is_empty() || OWN.contains(&reason) || ProxyError::ALL.iter().any(|e| e.as_str() == reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/reasons.md");

    #[test]
    fn every_reason_is_explained_and_every_explanation_is_of_a_reason() {
        let explained: Vec<&str> = PAGE
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(word, _)| word)
            .collect();
        let words = OWN.iter().copied().chain(ProxyError::ALL.iter().map(|error| error.as_str()));
        for word in words.clone() {
            assert!(explained.contains(&word), "docs/reasons.md does not explain `{word}`");
        }
        for word in explained {
            assert!(
                words.clone().any(|known| known == word),
                "docs/reasons.md explains `{word}`, which nobody says"
            );
        }
    }
}
