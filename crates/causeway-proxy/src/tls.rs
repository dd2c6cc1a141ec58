//! TLS of the data path: mutual with identities inside the mesh, with users' certificates at a gateway's doors.
//!
//! In:    [`Credentials`]; Secrets that a gateway's listeners name.      Out: streams whose peer is known.
//! Owner: a worker holds a [`MeshTls`], a plan's door a [`DoorTls`].
//! Invariant: a mesh stream exists only after both ends proved an identity of our trust domain.
//! Not here: who is believed and until when (`causeway-identity`).

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use causeway_base::net::Stream;
use causeway_identity::{
    Credentials, Expected, Peer, explain, mesh_client_config, mesh_server_config, peer, unnamed_server,
};
use causeway_model::{Kind, Listener, ObjectKey, Revocations, Snapshot, Spec, SpiffeId, Timestamp};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::mesh_tcp;

const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// TLS inside the mesh, as one identity. Configurations stay good across rotations: certificates are looked up at each
/// handshake.
pub(crate) struct MeshTls {
    credentials: Credentials,
    server: Arc<ServerConfig>,
    /// By expected identity and what is to be spoken; bounded by the services and ports that the plan names.
    clients: parking_lot::Mutex<HashMap<(SpiffeId, Spoken), Arc<ClientConfig>>>,
    /// What is taken, in its order.
    taken: Vec<Spoken>,
}

/// What is spoken on a mesh connection, agreed on in its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Spoken {
    Http1,
    Http2,
    /// Bytes, for the app's main port or a further one.
    Tcp(Option<u16>),
}

impl Spoken {
    fn name(self) -> Vec<u8> {
        match self {
            Spoken::Http1 => HTTP1.into(),
            Spoken::Http2 => H2.into(),
            Spoken::Tcp(port) => mesh_tcp::name(port),
        }
    }
}

impl MeshTls {
    /// For a proxy that takes these on its mesh port, and refuses whoever asks for anything else.
    pub(crate) fn new(credentials: Credentials, taken: Vec<Spoken>) -> Self {
        let names: Vec<Vec<u8>> = taken.iter().map(|spoken| spoken.name()).collect();
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let server = mesh_server_config(&credentials, &names);
        MeshTls { credentials, server, clients: parking_lot::Mutex::default(), taken }
    }

    /// When the proxy's own certificate ends.
    pub(crate) fn not_after(&self) -> Timestamp {
        self.credentials.svid().not_after()
    }

    /// Takes a mesh connection: the stream, who called, what they want to speak.
    pub(crate) async fn accept(
        &self,
        stream: Stream,
    ) -> io::Result<(server::TlsStream<Stream>, Peer, Spoken)> {
        let accepting = TlsAcceptor::from(self.server.clone()).accept(stream);
        let stream = accepting.await.map_err(in_words)?;
        let connection = stream.get_ref().1;
        // Who names nothing speaks HTTP/1.1, as everywhere (RFC 9112 section 9.7).
        let asked = connection.alpn_protocol().unwrap_or(HTTP1);
        let spoken = self.taken.iter().copied().find(|spoken| spoken.name() == asked);
        let spoken =
            spoken.ok_or_else(|| io::Error::other("the peer asked for nothing that is taken here"))?;
        let peer = self.proven(connection)?;
        Ok((stream, peer, spoken))
    }

    /// Makes `stream` a mesh connection to exactly `expected`, on which `spoken` is spoken.
    pub(crate) async fn connect(
        &self,
        stream: Stream,
        expected: &SpiffeId,
        spoken: Spoken,
    ) -> io::Result<(client::TlsStream<Stream>, Peer)> {
        let config = self.client_config(expected, spoken);
        let connecting = TlsConnector::from(config).connect(unnamed_server(), stream);
        let stream = connecting.await.map_err(in_words)?;
        let agreed = stream.get_ref().1.alpn_protocol();
        if matches!(spoken, Spoken::Tcp(_)) && agreed != Some(spoken.name().as_slice()) {
            return Err(io::Error::other("the peer does not take bytes"));
        }
        let peer = self.proven(stream.get_ref().1)?;
        Ok((stream, peer))
    }

    fn proven(&self, connection: &CommonState) -> io::Result<Peer> {
        peer(connection)
            .filter(|peer| peer.id.trust_domain == self.credentials.trust_domain())
            .ok_or_else(|| io::Error::other("the peer proved no identity of this trust domain"))
    }

    /// Whether a certificate is revoked.
    pub(crate) fn is_revoked(&self, peer: &Peer) -> bool {
        self.credentials.is_revoked(peer)
    }

    /// Handshakes from now on refuse what is on the list; whether it is another than before.
    pub(crate) fn revoke(&self, list: &Arc<Revocations>) -> bool {
        let is_new = *self.credentials.revocations() != **list;
        if is_new {
            self.credentials.revoke(list.clone());
        }
        is_new
    }

    fn client_config(&self, expected: &SpiffeId, spoken: Spoken) -> Arc<ClientConfig> {
        let make = || {
            let expected = Expected::Service(expected.service.clone());
            mesh_client_config(&self.credentials, expected, &[&spoken.name()])
        };
        self.clients.lock().entry((expected.clone(), spoken)).or_insert_with(make).clone()
    }
}

/// An error of TLS as an operator reads it.
fn in_words(error: io::Error) -> io::Error {
    match explain(&error) {
        Some(words) => io::Error::new(error.kind(), words),
        None => error,
    }
}

/// TLS of a gateway's door: the certificate by the name that the client asks for.
#[derive(Clone)]
pub(crate) struct DoorTls {
    config: Arc<ServerConfig>,
}

impl DoorTls {
    /// From the Secrets that the listeners of one port name.
    ///
    /// # Errors
    /// What is missing or cannot be read, in words.
    pub(crate) fn new(snapshot: &Snapshot, listeners: &[&Listener]) -> Result<Self, String> {
        let mut keys = Certificates::default();
        for listener in listeners {
            let tls =
                listener.tls.as_ref().ok_or_else(|| format!("listener {} has no tls", listener.name))?;
            let (namespace, name) = tls
                .secrets
                .first()
                .ok_or_else(|| format!("listener {} names no certificate", listener.name))?;
            let key = ObjectKey { kind: Kind::Secret, namespace: namespace.clone(), name: name.clone() };
            let object = snapshot.object(&key).ok_or_else(|| format!("{key} is not there"))?;
            let Spec::Secret(secret) = &object.spec else { return Err(format!("{key} is not a Secret")) };
            let entry = |entry: &str| {
                secret
                    .entries
                    .get(entry)
                    .map(|bytes| bytes.as_slice())
                    .ok_or_else(|| format!("{key} has no {entry}"))
            };
            let certified = Arc::new(
                certified(entry("tls.crt")?, entry("tls.key")?).map_err(|why| format!("{key}: {why}"))?,
            );
            match listener.hostname.as_ref().map(|host| host.to_ascii_lowercase()) {
                Some(host) => drop(keys.by_host.insert(host, certified)),
                None => keys.any = Some(certified),
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(keys));
        config.alpn_protocols = vec![H2.to_vec(), HTTP1.to_vec()];
        Ok(DoorTls { config: Arc::new(config) })
    }

    /// Takes a connection: the stream, and whether it speaks HTTP/2.
    pub(crate) async fn accept(&self, stream: Stream) -> io::Result<(server::TlsStream<Stream>, bool)> {
        let stream = TlsAcceptor::from(self.config.clone()).accept(stream).await?;
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(H2);
        Ok((stream, is_h2))
    }
}

impl fmt::Debug for DoorTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DoorTls")
    }
}

#[derive(Debug, Default)]
struct Certificates {
    /// `shop.example` or `*.example`.
    by_host: HashMap<String, Arc<CertifiedKey>>,
    any: Option<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or("");
        let wild =
            || crate::routes::suffixes(name).find_map(|suffix| self.by_host.get(&format!("*{suffix}")));
        self.by_host.get(name).or_else(wild).or(self.any.as_ref()).cloned()
    }
}

fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt cannot be read: {error}"))?;
    if chain.is_empty() {
        return Err("tls.crt holds no certificate".into());
    }
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("tls.key cannot be read: {error}"))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider)
        .map_err(|error| format!("certificate and key do not go together: {error}"))
}
