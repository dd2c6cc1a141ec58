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
//!
//! A service gets its certificate and calls another one:
//! ```
//! use causeway_identity::{CertAuthority, Credentials, Expected, KeyPair, Svid, TrustBundle, mesh_client_config};
//! # use causeway_model::{ServiceKey, SpiffeId, TrustDomain};
//! # let clock = causeway_base::Clock::system();
//! # let domain = TrustDomain::new("causeway.local")?;
//! let authority = CertAuthority::generate(&domain, clock.now().into());
//! let cart = SpiffeId::new(domain.clone(), ServiceKey::parse("default", "cart")?);
//! let key = KeyPair::generate();
//! let hour = std::time::Duration::from_secs(3600);
//! let issued = authority.sign(&key.csr(), &cart, hour, clock.now().into())?;
//! let roots = TrustBundle::from_pem(domain, &issued.roots_pem)?;
//! let credentials = Credentials::new(Svid::new(&issued.chain_pem, key)?, roots, clock)?;
//! let orders = Expected::Service(ServiceKey::parse("default", "orders")?);
//! let config = mesh_client_config(&credentials, orders, &[b"h2"]); // good for ever, also after `credentials.replace`
//! # assert_eq!(config.alpn_protocols, [b"h2"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
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

pub use authority::{Authorities, CertAuthority, Issued};
pub use credentials::Credentials;
pub use error::{Error, ErrorKind, Refusal};
pub use explain::explain;
pub use peer::{Expected, Peer, control_service, peer, peer_identity};
pub use rotator::{Renew, RenewError, RotationStatus, Rotator, enroll};
pub use svid::{KeyPair, Svid};
pub use tls::{
    control_server_config, mesh_client_config, mesh_server_config, pinned_client_config, unnamed_server,
};
pub use token::{JoinToken, TokenRefusal, TokenTerms};
pub use trust::TrustBundle;
