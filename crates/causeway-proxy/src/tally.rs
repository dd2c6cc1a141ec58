//! What is counted besides requests: each with the metric that shows it. A new thing to count is one line here.
//!
//! In:    nothing.      Out: names and help texts.
//! Owner: nobody.
//! Not here: the counts (`ledger`), how they are printed (`metrics`).

macro_rules! tallies {
    ($($(#[doc = $help:literal])* $name:ident = $metric:literal;)*) => {
        /// Something that is counted, for a service or for the proxy as a whole.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Tally { $($(#[doc = $help])* $name,)* }

        impl Tally {
            pub(crate) const ALL: &[Tally] = &[$(Tally::$name,)*];

            /// The metric's name, after `causeway_proxy_` and before `_total`.
            pub(crate) const fn metric(self) -> &'static str {
                match self { $(Tally::$name => $metric,)* }
            }

            /// What it says.
            pub(crate) const fn help(self) -> &'static str {
                match self { $(Tally::$name => concat!($($help),*),)* }
            }
        }
    };
}
tallies! {
    /// Attempts after a request's first.
    Retry = "retries";
    /// Second tries before the first had failed.
    Hedge = "hedges";
    /// Requests turned away because as many were under way to their service, or to each endpoint of it, as may be.
    Refused = "circuit_refusals";
    /// Requests whose deadline had passed before they could be sent.
    Expired = "deadlines_expired";
    /// Copies of requests sent to another service.
    Mirrored = "mirrored";
    /// Copies of requests that were not sent, or not whole: too many were under way, or the other service was slow.
    Unmirrored = "mirrors_dropped";
    /// Endpoints taken out because they kept failing.
    Ejection = "ejections";
    /// Mutual TLS or a door's TLS handshakes that failed.
    HandshakeFailure = "tls_handshake_failures";
    /// Connections of bytes that ended.
    RawConnection = "tcp_connections";
    /// Connections of bytes that were not made, or that the service broke.
    RawFailure = "tcp_connections_failed";
    /// Bytes that clients sent on connections of bytes.
    RawBytesSent = "tcp_bytes_sent";
    /// Bytes that services sent on connections of bytes.
    RawBytesReceived = "tcp_bytes_received";
    /// Spans that were too many to be kept until they were sent.
    LostSpan = "spans_lost";
    /// Calls and connections that were under way and ended because a policy or a revocation no longer allowed them.
    Withdrawn = "withdrawn";
    /// Failures that were too many to be told in full.
    UntoldFailure = "failures_untold";
}

/// Counts of all tallies.
pub(crate) type Tallies = [u64; Tally::ALL.len()];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own_and_a_text() {
        for (at, tally) in Tally::ALL.iter().enumerate() {
            assert_eq!(*tally as usize, at);
            assert!(tally.help().trim().ends_with('.'), "{tally:?}");
            assert!(Tally::ALL.iter().filter(|other| other.metric() == tally.metric()).count() == 1);
        }
    }
}
