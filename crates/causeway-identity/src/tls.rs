//! The TLS configurations of the house: TLS 1.3 only, the hybrid post-quantum group first.
//!
//! In:    [`Credentials`], who is expected, ALPN names.   Out: `rustls` configurations that stay good across rotations.
//! Owner: the caller; server ones are made once, client ones once per upstream and kept by the caller.
//! Invariant: certificate and bundle are looked up at each handshake, by the clock of the credentials.
//! Not here: TLS of gateway listeners with users' own certificates (`causeway-proxy`).
//!
//! **No session resumption, on either side.** A resumed TLS 1.3 session takes the peer's certificate from the ticket and
//! verifies nothing again: it could outlive the certificate (an hour), a removed root, and a revoked identity by the ticket's
//! own life. Refusing such tickets would need the peer's life and our bundle's version sealed into each. Connections of the
//! mesh are pooled and long, so what resumption would save (two signatures) is saved seldom; hence no tickets are sent, none
//! are kept, and every handshake is a full one that sees today's certificates. For the same reason there is no early data.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use causeway_base::Clock;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use rustls_pki_types::{ServerName, UnixTime};

use crate::credentials::Credentials;
use crate::peer::{Expected, control_service};
use crate::trust::provider;
use crate::verify::{Clients, Pinned, Servers};

/// For a sidecar's or gateway's mesh port: the client must show a certificate of our trust domain.
pub fn mesh_server_config(credentials: &Credentials, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    server_config(credentials, Shown::Mesh, false, alpn)
}

/// For the control port: a client may come without a certificate (a newcomer with a join token); then `peer_identity` is
/// `None` and the api lets it do nothing but have a request signed. One that is shown must be good. The root is sent along.
pub fn control_server_config(credentials: &Credentials, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    server_config(credentials, Shown::Control, true, alpn)
}

/// For calling a service (or the control server: `Expected::Service(control_service())`): the server must be exactly who is
/// expected. Making one costs a few small allocations.
pub fn mesh_client_config(
    credentials: &Credentials,
    expected: Expected,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    let verifier = Servers { credentials: credentials.clone(), expected };
    let time = Arc::new(ClockTime(credentials.clock().clone()));
    let mut config = ClientConfig::builder_with_details(credentials.provider().clone(), time)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(Current(credentials.clone(), Shown::Mesh)));
    finish_client(&mut config, alpn);
    Arc::new(config)
}

/// For the first connection with a join token: no certificate of our own; the server must be `causeway/control` under the
/// root with this hash. Nothing but `Sign` should be said on it; [`crate::enroll`] checks that the roots it answers hold
/// that same root.
pub fn pinned_client_config(root_sha256: [u8; 32], clock: &Clock, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let provider = provider();
    let verifier = Pinned { root_sha256, expected: control_service(), provider: provider.clone() };
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(ClockTime(clock.clone())))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    finish_client(&mut config, alpn);
    Arc::new(config)
}

/// What to give `TlsConnector::connect` as server name: the mesh goes by identity, never by name, and sends none.
pub fn unnamed_server() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V6(Ipv6Addr::UNSPECIFIED).into())
}

fn server_config(
    credentials: &Credentials,
    shown: Shown,
    is_optional: bool,
    alpn: &[&[u8]],
) -> Arc<ServerConfig> {
    let verifier = Clients { credentials: credentials.clone(), is_optional };
    let time = Arc::new(ClockTime(credentials.clock().clone()));
    let mut config = ServerConfig::builder_with_details(credentials.provider().clone(), time)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Current(credentials.clone(), shown)));
    // No resumption: see the module's text.
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

fn finish_client(config: &mut ClientConfig, alpn: &[&[u8]]) {
    // No resumption: see the module's text.
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
}

/// Which of the current chains is shown.
#[derive(Clone, Copy, Debug)]
enum Shown {
    Mesh,
    Control,
}

/// Resolves the certificate of this moment.
struct Current(Credentials, Shown);

impl Current {
    fn certified(&self) -> Arc<CertifiedKey> {
        let held = self.0.held();
        match self.1 {
            Shown::Mesh => held.mesh.clone(),
            Shown::Control => held.control.clone(),
        }
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Current({})", self.0.id())
    }
}

/// Our clock for `rustls`.
#[derive(Debug)]
struct ClockTime(Clock);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        let since: Duration = self.0.now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(UnixTime::since_unix_epoch(since))
    }
}
