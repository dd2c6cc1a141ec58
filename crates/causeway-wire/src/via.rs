//! `Via` (RFC 9110 section 7.6.3): which proxies a request has passed, so that one that goes in a circle ends.
//!
//! A proxy writes a pseudonym, never its host's name. The two sidecars of a call through the mesh are one intermediary: the
//! caller's writes. Answers carry no entry of ours.

use http::header::VIA;
use http::{HeaderMap, HeaderValue, Version};

/// How often a request may have passed a proxy before. An app that calls its own gateway, and copies the fields of the request that it
/// serves, is no circle; a circle is over after this many rounds.
pub const PASSES_MAX: usize = 8;

/// The name under which a proxy writes itself down.
#[derive(Clone, Debug)]
pub struct Pseudonym {
    name: String,
    /// Over HTTP/1.0, HTTP/1.1, HTTP/2.
    entries: [HeaderValue; 3],
}

impl Pseudonym {
    /// The name of the proxy that drew `number`.
    pub fn new(number: u64) -> Self {
        let name = format!("causeway-{number:016x}");
        let value = |version: &str| {
            HeaderValue::try_from(format!("{version} {name}")).expect("letters, digits and a hyphen")
        };
        Pseudonym { entries: ["1.0", "1.1", "2"].map(value), name }
    }

    /// Whether a request has passed this proxy so often that it goes in a circle.
    pub fn is_circle(&self, headers: &HeaderMap) -> bool {
        let entries = headers.get_all(VIA).iter().filter_map(|value| value.to_str().ok());
        let entries = entries.flat_map(|value| value.split(','));
        let is_ours = |entry: &&str| entry.split_ascii_whitespace().nth(1) == Some(self.name.as_str());
        entries.filter(is_ours).count() >= PASSES_MAX
    }

    /// Writes down that a request, received in `version`, passes.
    pub fn add(&self, headers: &mut HeaderMap, version: Version) {
        let entry = match version {
            Version::HTTP_10 => &self.entries[0],
            Version::HTTP_2 => &self.entries[2],
            _ => &self.entries[1],
        };
        headers.append(VIA, entry.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_is_over_after_some_rounds() {
        let (mine, other) = (Pseudonym::new(1), Pseudonym::new(2));
        let mut headers = HeaderMap::new();
        headers.append(VIA, HeaderValue::from_static("1.0 fred, 1.1 p.example.net (a, b)"));
        for _ in 0..PASSES_MAX {
            assert!(!mine.is_circle(&headers), "{headers:?}");
            mine.add(&mut headers, Version::HTTP_11);
            other.add(&mut headers, Version::HTTP_2);
        }
        assert!(mine.is_circle(&headers) && other.is_circle(&headers), "{headers:?}");
        assert!(!Pseudonym::new(3).is_circle(&headers));
        // Another proxy may have made one field of them.
        let joined: Vec<&str> = headers.get_all(VIA).iter().map(|value| value.to_str().unwrap()).collect();
        let joined = HeaderValue::try_from(joined.join(",")).unwrap();
        headers.insert(VIA, joined);
        assert!(mine.is_circle(&headers), "{headers:?}");
    }
}
