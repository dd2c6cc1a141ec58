//! TLS failures in words an operator can act on.
//!
//! In:    any error with a TLS error somewhere inside.   Out: a sentence with a code, or nothing when it is about something else.
//! Owner: nobody; pure. The proxy uses it for `causeway why`, the api and the sidecar for their logs.
//! Invariant: says who refused whom: we the peer, or the peer us (then only an alert's word is known).
//! Not here: the decision itself (`verify.rs`).

use std::error::Error as StdError;

use causeway_model::Timestamp;
use rustls::{AlertDescription as Alert, CertificateError as Bad, Error as Tls, PeerIncompatible};
use rustls_pki_types::UnixTime;

use crate::error::Refusal;

/// The sentence for a failed handshake or a connection cut by an alert; `None` when no TLS error is inside `error`.
pub fn explain(error: &(dyn StdError + 'static)) -> Option<String> {
    find(error).map(sentence)
}

/// The TLS error inside: `std::io::Error` keeps it as its payload rather than as its source.
fn find<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e Tls> {
    /// Errors nest a handful deep; a chain that goes on for ever is somebody's mistake.
    const DEPTH_MAX: usize = 16;
    let mut next = Some(error);
    for _ in 0..DEPTH_MAX {
        let error = next?;
        if let Some(tls) = error.downcast_ref::<Tls>() {
            return Some(tls);
        }
        let payload = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match payload {
            Some(payload) => Some(payload as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

fn sentence(error: &Tls) -> String {
    match error {
        Tls::InvalidCertificate(Bad::Revoked) => {
            "the peer is refused: its certificate was revoked [CW-1423]".into()
        }
        Tls::InvalidCertificate(bad) => {
            format!("the peer is refused: {} [CW-1420]", bad_certificate(error, bad))
        }
        Tls::NoCertificatesPresented => {
            "the peer is refused: it showed no certificate, and the mesh is for members only [CW-1420]".into()
        }
        Tls::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls13RequiredForQuic
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls12NotOffered,
        ) => "the peer is refused: it does not speak TLS 1.3 [CW-1421]".into(),
        Tls::AlertReceived(Alert::CertificateRevoked) => {
            "the peer refused us: our certificate was revoked [CW-1423]".into()
        }
        Tls::AlertReceived(alert) => match alert_received(*alert) {
            Some(words) => format!("the peer refused us: {words} [CW-1422]"),
            None => format!("the peer ended the TLS connection with the alert {alert:?} [CW-1422]"),
        },
        Tls::InvalidMessage(_) => format!("the peer does not speak TLS here: {error} [CW-1421]"),
        other => format!("TLS failed: {other} [CW-1421]"),
    }
}

fn bad_certificate(error: &Tls, bad: &Bad) -> String {
    if let Some(refusal) = Refusal::of(error) {
        return refusal.to_string();
    }
    match bad {
        Bad::Expired => "its certificate expired".into(),
        Bad::ExpiredContext { time, not_after } => {
            format!("its certificate expired at {} (it is {} here)", when(not_after), when(time))
        }
        Bad::NotValidYet => "its certificate is not valid yet (are both clocks right?)".into(),
        Bad::NotValidYetContext { time, not_before } => {
            let (from, now) = (when(not_before), when(time));
            format!(
                "its certificate is valid only from {from} on, and it is {now} here (are both clocks right?)"
            )
        }
        Bad::UnknownIssuer => "its certificate was not signed by any root we trust".into(),
        Bad::BadSignature => "its certificate's signature is wrong".into(),
        Bad::InvalidPurpose | Bad::InvalidPurposeContext { .. } => {
            "its certificate is not meant for this side of a connection (extended key usage)".into()
        }
        other => format!("its certificate is not acceptable ({other})"),
    }
}

fn alert_received(alert: Alert) -> Option<&'static str> {
    Some(match alert {
        Alert::CertificateRequired => "it wants a client certificate and we have shown none",
        Alert::CertificateExpired => "it says that our certificate is expired, or not valid yet by its clock",
        Alert::UnknownCA => "it does not trust the root that signed our certificate",
        Alert::CertificateUnknown | Alert::BadCertificate | Alert::AccessDenied => {
            "it does not accept our certificate's identity (the reason is in its own log)"
        }
        Alert::ProtocolVersion => "it does not speak TLS 1.3",
        _ => return None,
    })
}

fn when(time: &UnixTime) -> String {
    Timestamp::from_millis(time.as_secs() * 1000).to_rfc3339()
}
