//! Who is who: an embedded certificate authority, join tokens, short-lived SPIFFE certificates, and the TLS built on them.
//!
//! In:    a trust domain, signing requests, tokens, time.   Out: certificates, [`Credentials`], `rustls` configurations, refusals in words.
//! Owner: the roof keeps the files (0600) and decides who may ask; this crate keeps no state beyond the values it hands out.
//! Invariant: a certificate of ours names exactly one SPIFFE identity; a handshake of the mesh is TLS 1.3, mutual, and ends
//! with an identity of our own trust domain whose chain was valid at that moment.
//! Not here: which token is still good (`causeway-registry`), the call `Sign` (`causeway-xds`), who may talk to whom (`causeway-proxy`).
//!
//! ```text
//! [Authorities] signs [Svid] <- [Credentials] -> [TrustBundle]      [Credentials] -> server and client configs (tls)
//! [JoinToken] -> pinned config -> enroll -> [Credentials] <- [Rotator] <- rotation::next
//! ```

pub mod authority;
pub mod credentials;
pub mod error;
pub mod explain;
pub mod peer;
pub mod rotation;
pub mod rotator;
pub mod svid;
pub mod tls;
pub mod token;
pub mod trust;
mod verify;

use causeway_model::ServiceKey;

pub use authority::{Authorities, CertAuthority, Issued};
pub use credentials::Credentials;
pub use error::{Error, ErrorKind, Refusal};
pub use explain::explain;
pub use peer::{Peer, peer, peer_identity};
pub use rotator::{Renew, RenewError, RotationStatus, Rotator, enroll};
pub use svid::{KeyPair, Svid};
pub use tls::{
    Expected, control_server_config, mesh_client_config, mesh_server_config, pinned_client_config,
    unnamed_server,
};
pub use token::{JoinToken, TokenRefusal, TokenTerms};
pub use trust::TrustBundle;

/// The service whose identity the control server bears: `causeway/control`. A newcomer with a join token believes nobody else,
/// so no token may ever be issued for it.
pub fn control_service() -> ServiceKey {
    ServiceKey::parse("causeway", "control").expect("both parts are names")
}
