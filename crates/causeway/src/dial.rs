//! The way to the control port: TCP and TLS, with our certificate or (the first time) with the root that a join token names.

use std::io;
use std::sync::Arc;

use causeway_base::Clock;
use causeway_base::net::Net;
use causeway_base::outbound::Pending;
use causeway_identity::{
    Credentials, Expected, control_service, mesh_client_config, pinned_client_config, unnamed_server,
};
use causeway_xds::{Dial, Io};
use rustls::ClientConfig;
use tokio_rustls::TlsConnector;

/// What is spoken on the control port.
const ALPN: &[&[u8]] = &[b"h2"];

/// See the [module](self).
pub(crate) struct ControlDial {
    net: Net,
    tls: Arc<ClientConfig>,
}

impl ControlDial {
    /// With our own certificate, which is looked up at each connection.
    pub(crate) fn member(net: Net, credentials: &Credentials) -> Self {
        ControlDial { net, tls: mesh_client_config(credentials, Expected::Service(control_service()), ALPN) }
    }

    /// Without one, believing only the root with this hash.
    pub(crate) fn newcomer(net: Net, root_sha256: [u8; 32], clock: &Clock) -> Self {
        ControlDial { net, tls: pinned_client_config(root_sha256, clock, ALPN) }
    }
}

impl Dial for ControlDial {
    fn dial(&self, address: &str) -> Pending<io::Result<Box<dyn Io>>> {
        let (net, tls, address) = (self.net.clone(), self.tls.clone(), address.to_owned());
        Box::pin(async move {
            let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address"));
            for resolved in tokio::net::lookup_host(&address).await? {
                match net.connect(resolved).await {
                    Ok(stream) => {
                        let stream = TlsConnector::from(tls)
                            .connect(unnamed_server(), stream)
                            .await
                            .map_err(in_words)?;
                        return Ok(Box::new(stream) as Box<dyn Io>);
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }
}

/// A refused certificate in our own words.
fn in_words(error: io::Error) -> io::Error {
    match causeway_identity::explain(&error) {
        Some(text) => io::Error::new(error.kind(), text),
        None => error,
    }
}
