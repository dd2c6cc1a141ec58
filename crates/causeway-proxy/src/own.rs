//! The addresses at which this proxy itself listens: an app must not send it there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The proxy's own addresses, its admin door's among them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct OwnAddresses(std::sync::Arc<[SocketAddr]>);

impl OwnAddresses {
    pub(crate) fn new(addresses: impl Iterator<Item = SocketAddr>) -> Self {
        OwnAddresses(addresses.collect())
    }

    /// Refuses an address at which this proxy listens.
    ///
    /// # Errors
    /// One that [`OwnAddresses::is_refusal`] knows again.
    pub(crate) fn check(&self, address: SocketAddr) -> io::Result<()> {
        match self.holds(address) {
            true => {
                Err(io::Error::new(io::ErrorKind::NotSeekable, format!("{address} is this sidecar itself")))
            }
            false => Ok(()),
        }
    }

    /// Whether an error came from [`OwnAddresses::check`].
    pub(crate) fn is_refusal(error: &io::Error) -> bool {
        // No operation on a socket gives this kind.
        error.kind() == io::ErrorKind::NotSeekable
    }

    fn holds(&self, address: SocketAddr) -> bool {
        let target = reached(address.ip());
        self.0.iter().filter(|own| own.port() == address.port()).any(|own| {
            let own = own.ip().to_canonical();
            own == target || own.is_unspecified() && target.is_loopback()
        })
    }
}

/// Where a connection to an address ends: that to "any" ends at loopback.
fn reached(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_say_an_own_address_is_known() {
        let own = ["127.0.0.1:15001", "0.0.0.0:15008", "10.0.0.7:9"].map(|a| a.parse().unwrap());
        let own = OwnAddresses::new(own.into_iter());
        for (address, is_own) in [
            ("127.0.0.1:15001", true),
            ("[::ffff:127.0.0.1]:15001", true),
            ("0.0.0.0:15001", true),
            ("127.0.0.1:15002", false),
            ("127.0.0.2:15001", false),
            ("10.0.0.7:15001", false),
            ("127.0.0.2:15008", true),
            ("10.0.0.7:9", true),
            ("10.0.0.8:9", false),
        ] {
            let checked = own.check(address.parse().unwrap());
            assert_eq!(checked.as_ref().is_err_and(OwnAddresses::is_refusal), is_own, "{address}");
        }
    }
}
