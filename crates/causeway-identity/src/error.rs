//! What can go wrong: [`Error`] while making or reading certificates, [`Refusal`] of a peer in a handshake.
//!
//! In:    failures of the libraries below, checks of ours.   Out: one kind, one code and one sentence each.
//! Owner: the caller; nothing is logged here.
//! Invariant: no text holds a private key or a token's secret.
//! Not here: `rustls` errors in words ([`crate::explain()`]), refused tokens ([`crate::token`]).

use causeway_model::{ServiceKey, Timestamp};

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A PEM text, certificate or key cannot be read.
    Unreadable,
    /// The authority's certificate and key cannot be used to sign.
    Authority,
    /// A signing request is refused.
    Request,
    /// Certificate, key and trust bundle do not belong together.
    Mismatch,
    /// A join token cannot be read.
    Token,
    /// The root that was handed out is not the one the join token names.
    Pin,
    /// The authority could not be reached or did not sign.
    Renewal,
}

/// A failure to make, read or use an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} [{}]", self.code())]
pub struct Error {
    kind: ErrorKind,
    text: String,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Error { kind, text: text.into() }
    }

    /// What kind it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The operator's code; `causeway explain` has the page.
    pub fn code(&self) -> &'static str {
        match self.kind {
            ErrorKind::Unreadable => "CW-1401",
            ErrorKind::Authority => "CW-1402",
            ErrorKind::Request => "CW-1403",
            ErrorKind::Mismatch => "CW-1404",
            ErrorKind::Token => "CW-1410",
            ErrorKind::Pin => "CW-1412",
            ErrorKind::Renewal => "CW-1430",
        }
    }
}

/// Why a peer's certificate is not an identity we accept, although its chain may be sound. Inside a `rustls::Error` it is
/// found with [`Refusal::of`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The certificate's content cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    /// It names no identity (perhaps a web server's certificate, which has DNS names only).
    #[error("the certificate names no SPIFFE identity: it has no URI subject alternative name")]
    NoIdentity,
    /// It names several.
    #[error("the certificate has {0} URI subject alternative names; exactly one is allowed")]
    ManyIdentities(usize),
    /// Its URI is not an identity of our form.
    #[error("the certificate's URI {0}")]
    NotAnIdentity(String),
    /// It belongs to an authority, not to a workload.
    #[error("the certificate is one that signs others; a workload's own is needed")]
    Signer,
    /// Another authority's world.
    #[error("the peer is {got}, of another trust domain; ours is {ours:?}")]
    OtherTrustDomain {
        /// Who it says it is.
        got: String,
        /// Our trust domain.
        ours: String,
    },
    /// A good identity, but not the one that was called.
    #[error("the peer is {got}, but {} was expected", list(expected))]
    OtherService {
        /// Who it says it is.
        got: String,
        /// Who was called.
        expected: Vec<ServiceKey>,
    },
    /// The server did not show the root that the join token names.
    #[error(
        "the server's chain does not hold the root that the join token names: this token was made by another node's authority, \
         or before the root was replaced, or someone is in between"
    )]
    NotPinned,
    /// The root is known, but its own time is over.
    #[error("the certificate's root expired at {}", at.to_rfc3339())]
    RootExpired {
        /// When.
        at: Timestamp,
    },
}

impl Refusal {
    /// The refusal inside a TLS error, when it is one of ours.
    pub fn of(error: &rustls::Error) -> Option<&Refusal> {
        match error {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
                other.0.downcast_ref::<Refusal>()
            }
            _ => None,
        }
    }
}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> Self {
        let other = rustls::OtherError(std::sync::Arc::new(refusal));
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))
    }
}

fn list(services: &[ServiceKey]) -> String {
    let names: Vec<String> = services.iter().map(ToString::to_string).collect();
    names.join(" or ")
}
