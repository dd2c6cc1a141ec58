//! Who is at the other end, and the answer no.
//!
//! In:    what the accept loop proved (a [`Peer`] in the request's extensions), the `authorization` metadata.
//! Out:   a [`PeerIdentity`], or a status that costs the node nothing more.
//! Owner: the accept loop of the control port sets [`Peer`]; the services here read it.
//! Invariant: an identity comes from a verified certificate, never from a message.
//! Not here: verifying certificates (`causeway-identity`) and tokens (the api room's [`Signer`](crate::Signer)).

use std::fmt;

use causeway_model::SpiffeId;

use crate::stream::code;

/// What the accept loop proved about a connection: set it as an extension of every request of that connection. `None` is a
/// connection without a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer(pub Option<Proven>);

/// A certificate that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Whom it names.
    pub spiffe: SpiffeId,
    /// Its serial number, lower-case hexadecimal without leading zeros.
    pub serial: String,
}

/// Who asks for a certificate. `Debug` does not show the token.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The identity of the connection's certificate, when it has one.
    pub spiffe: Option<SpiffeId>,
    /// The serial number of that certificate.
    pub serial: Option<String>,
    /// The token in the `authorization` metadata, when there is one; not verified yet.
    pub token: Option<String>,
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "***");
        let mut shown = f.debug_struct("PeerIdentity");
        shown.field("spiffe", &self.spiffe).field("serial", &self.serial).field("token", &token).finish()
    }
}

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

impl PeerIdentity {
    /// Reads who asks.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Self {
        let token = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && token.len() <= TOKEN_BYTES_MAX)
            .map(|(_, token)| token.trim().to_owned());
        let (spiffe, serial) = proven(request).map(|one| (one.spiffe.clone(), one.serial.clone())).unzip();
        PeerIdentity { spiffe, serial, token }
    }
}

/// The identity that the connection proved, or the refusal of those who proved none.
pub(crate) fn require<T>(request: &tonic::Request<T>) -> Result<SpiffeId, tonic::Status> {
    proven(request).map(|one| one.spiffe.clone()).ok_or_else(|| {
        let text = format!("this needs a client certificate of the mesh [{}]", code::NO_IDENTITY);
        tonic::Status::unauthenticated(text)
    })
}

fn proven<T>(request: &tonic::Request<T>) -> Option<&Proven> {
    request.extensions().get::<Peer>().and_then(|peer| peer.0.as_ref())
}

/// The answer no, with a code for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} [{code}]")]
pub struct Refused {
    /// A `CW-NNNN`.
    pub code: String,
    /// For people.
    pub message: String,
    /// Why, for programs.
    pub reason: Reason,
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It makes no sense: sending it again cannot help.
    Invalid,
    /// The token is wrong, used up or expired.
    Unauthenticated,
    /// The peer may not do that.
    NotAllowed,
    /// It stands in the way of another owner.
    Conflict,
    /// Not now: the same may succeed later.
    Unavailable,
}

impl Refused {
    /// A refusal.
    pub fn new(reason: Reason, code: &str, message: impl Into<String>) -> Self {
        Refused { code: code.to_owned(), message: message.into(), reason }
    }

    pub(crate) fn into_status(self) -> tonic::Status {
        let grpc = match self.reason {
            Reason::Invalid => tonic::Code::InvalidArgument,
            Reason::Unauthenticated => tonic::Code::Unauthenticated,
            Reason::NotAllowed => tonic::Code::PermissionDenied,
            Reason::Conflict => tonic::Code::AlreadyExists,
            Reason::Unavailable => tonic::Code::Unavailable,
        };
        tonic::Status::new(grpc, self.to_string())
    }
}
