//! The machine's own resolvers, as `/etc/resolv.conf` names them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

/// As many as the C library asks.
const RESOLVERS_MAX: usize = 3;
/// How often it is looked whether the file has changed: networks come and go.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const PORT: u16 = 53;

/// See the [module](self).
pub(crate) struct Resolvers {
    file: PathBuf,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    looked: Option<Instant>,
    written: Option<SystemTime>,
    addresses: Vec<SocketAddr>,
}

impl Resolvers {
    pub(crate) fn of_machine() -> Self {
        Resolvers::in_file(Path::new("/etc/resolv.conf"))
    }

    fn in_file(file: &Path) -> Self {
        Resolvers { file: file.to_owned(), known: Mutex::default() }
    }

    /// These, whatever the machine has.
    #[cfg(test)]
    pub(super) fn these(addresses: Vec<SocketAddr>) -> Self {
        let known =
            Known { looked: Some(Instant::now() + Duration::from_secs(3600)), written: None, addresses };
        Resolvers { file: PathBuf::new(), known: Mutex::new(known) }
    }

    /// In the order in which they are to be asked.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let mut known = self.known.lock();
        if known.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            known.looked = Some(Instant::now());
            let written = std::fs::metadata(&self.file).and_then(|file| file.modified()).ok();
            if known.addresses.is_empty() || known.written != written {
                known.written = written;
                known.addresses = read(&std::fs::read_to_string(&self.file).unwrap_or_default());
            }
        }
        known.addresses.clone()
    }
}

/// The `nameserver` lines; the machine itself when there is none (resolv.conf(5)).
fn read(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().map(|line| line.split(['#', ';']).next().unwrap_or_default());
    let named = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| address(words.next()?))?
    });
    let mut addresses: Vec<SocketAddr> = named.take(RESOLVERS_MAX).collect();
    if addresses.is_empty() {
        addresses.push((Ipv4Addr::LOCALHOST, PORT).into());
    }
    addresses
}

/// `10.0.0.1`, `fe80::1%2`. An interface is taken by its number only.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, scope) = match text.split_once('%') {
        Some((ip, scope)) => (ip, Some(scope.parse::<u32>().ok()?)),
        None => (text, None),
    };
    let mut address = SocketAddr::new(ip.parse::<IpAddr>().ok()?, PORT);
    if let (SocketAddr::V6(address), Some(scope)) = (&mut address, scope) {
        address.set_scope_id(scope);
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_the_c_library_reads_them() {
        let check = |text: &str, expected: &[&str]| {
            let addresses: Vec<String> = read(text).iter().map(ToString::to_string).collect();
            assert_eq!(addresses, expected, "{text:?}");
        };
        check("", &["127.0.0.1:53"]);
        check("# nameserver 1.1.1.1\nsearch a b\n", &["127.0.0.1:53"]);
        check("nameserver 10.0.0.1\nnameserver ::1 ; home\n", &["10.0.0.1:53", "[::1]:53"]);
        check("nameserver\t10.0.0.1#x\nnameserver nonsense\n", &["10.0.0.1:53"]);
        check("nameserver fe80::1%3\n", &["[fe80::1%3]:53"]);
        check(&"nameserver 10.0.0.9\n".repeat(5), &["10.0.0.9:53"; 3]);
    }
}
