//! The host a request is for: read from target and Host field, which must agree.

use std::borrow::Cow;

use http::header::HOST;
use http::{HeaderMap, Uri};

use crate::Ambiguous;

/// `host[:port]`, the host in lower case and without a trailing dot, an IPv6 address in its brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// The host.
    pub host: Cow<'a, str>,
    /// The port, where one is written.
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Reads `host[:port]`.
    ///
    /// # Errors
    /// [`Ambiguous::BadHost`] for user information, blanks, an empty host or a port that is not one.
    pub fn parse(text: &'a str) -> Result<Self, Ambiguous> {
        let (host, port) = match text.rfind(':') {
            Some(at) if !text[at..].contains(']') => (&text[..at], Some(&text[at + 1..])),
            _ => (text, None),
        };
        let port = match port {
            None | Some("") => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| Ambiguous::BadHost)?)
            }
            Some(_) => return Err(Ambiguous::BadHost),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let is_address = host.starts_with('[') && host.ends_with(']');
        let is_good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let is_good_address = |b: u8| b.is_ascii_hexdigit() || matches!(b, b':' | b'.');
        let is_valid = match is_address {
            true => host.len() > 2 && host[1..host.len() - 1].bytes().all(is_good_address),
            false => !host.is_empty() && host.bytes().all(is_good),
        };
        if !is_valid {
            return Err(Ambiguous::BadHost);
        }
        let host = match host.bytes().any(|b| b.is_ascii_uppercase()) {
            true => Cow::Owned(host.to_ascii_lowercase()),
            false => Cow::Borrowed(host),
        };
        Ok(Authority { host, port })
    }

    /// Splits what [`Authority::parse`] accepted and gave back in this form.
    pub fn of_canonical(text: &'a str) -> Self {
        match text.rfind(':') {
            Some(at) if !text[at..].contains(']') => {
                Authority { host: Cow::Borrowed(&text[..at]), port: text[at + 1..].parse().ok() }
            }
            _ => Authority { host: Cow::Borrowed(text), port: None },
        }
    }

    /// Whether `text` is this authority's one form.
    pub fn is_canonical(&self, text: &str) -> bool {
        matches!(self.host, Cow::Borrowed(_)) && !text.ends_with(':') && {
            let end = self.host.len();
            text.len() == end || text.as_bytes().get(end) == Some(&b':')
        }
    }

    /// The one host that a request names.
    ///
    /// # Errors
    /// [`Ambiguous`] when there is none, more than one, or target and Host field differ.
    pub fn of_request(uri: &'a Uri, headers: &'a HeaderMap) -> Result<Self, Ambiguous> {
        let mut fields = headers.get_all(HOST).iter();
        let field = fields.next();
        if fields.next().is_some() {
            return Err(Ambiguous::TwoHosts);
        }
        let field = match field {
            Some(value) => Some(value.to_str().map_err(|_| Ambiguous::BadHost)?),
            None => None,
        };
        match (uri.authority(), field) {
            (None, None) => Err(Ambiguous::NoHost),
            (None, Some(field)) => Authority::parse(field),
            (Some(target), None) => Authority::parse(target.as_str()),
            (Some(target), Some(field)) => {
                let authority = Authority::parse(target.as_str())?;
                match target.as_str() == field || Authority::parse(field)? == authority {
                    true => Ok(authority),
                    false => Err(Ambiguous::HostsDiffer),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_host_has_one_form() {
        for (text, host, port) in [
            ("shop.example", "shop.example", None),
            ("Shop.Example.:80", "shop.example", Some(80)),
            ("127.0.0.1:8080", "127.0.0.1", Some(8080)),
            ("[::1]:9", "[::1]", Some(9)),
            ("[::1]", "[::1]", None),
            ("a:", "a", None),
        ] {
            let read = Authority::parse(text).unwrap();
            let is_canonical = read.is_canonical(text);
            assert_eq!(is_canonical, !matches!(text, "Shop.Example.:80" | "a:"), "{text}");
            if is_canonical {
                assert_eq!(Authority::of_canonical(text), read);
            }
            assert_eq!((read.host.as_ref(), read.port), (host, port), "{text}");
        }
        for wrong in ["", ":80", "a b", "u@a", "a:80:90", "a:70000", "a:-1", "a/b", "[::1", "ä", ".", "a%2e"]
        {
            assert_eq!(Authority::parse(wrong), Err(Ambiguous::BadHost), "{wrong}");
        }
    }

    #[test]
    fn target_and_field_must_agree() {
        let check = |target: &str, hosts: &[&str]| {
            let mut request = Request::builder().uri(target);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            let request = request.body(()).unwrap();
            Authority::of_request(request.uri(), request.headers()).map(|a| a.host.into_owned())
        };
        assert_eq!(check("/", &["a.b"]), Ok("a.b".into()));
        assert_eq!(check("http://A.b/", &["a.B"]), Ok("a.b".into()));
        assert_eq!(check("http://a.b/", &[]), Ok("a.b".into()));
        assert_eq!(check("http://a.b/", &["evil"]), Err(Ambiguous::HostsDiffer));
        assert_eq!(check("/", &["a", "a"]), Err(Ambiguous::TwoHosts));
        assert_eq!(check("/", &[]), Err(Ambiguous::NoHost));
    }
}
