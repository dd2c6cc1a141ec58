//! Fields that are about one connection and must not travel on (RFC 9110 section 7.6.1), and how a body is framed.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue};

use crate::Ambiguous;

/// Fields of a connection that need not be named in `Connection`.
static HOP_BY_HOP: [HeaderName; 4] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Fields that `Connection` may name but that we keep: without them the message means something else.
const NOT_OPTIONS: [&str; 6] =
    ["host", "content-length", "content-type", "authorization", "cache-control", "x-request-id"];

/// Takes the fields of this connection out of `headers`. What is left may be forwarded. `te: trailers` is kept.
pub fn strip(headers: &mut HeaderMap) {
    // One pass over the few names that are there is cheaper than looking each of ours up in the map.
    let mut found = false;
    let mut has_connection = false;
    for name in headers.keys() {
        has_connection |= *name == CONNECTION;
        found |= *name == TE || HOP_BY_HOP.contains(name);
    }
    if has_connection {
        strip_named(headers);
    }
    if found {
        for name in &HOP_BY_HOP {
            headers.remove(name);
        }
        if headers.get(TE).is_some_and(|te| te != "trailers") {
            headers.remove(TE);
        }
    }
}

fn strip_named(headers: &mut HeaderMap) {
    // By far the most frequent values, which name no field beyond those that go anyway.
    let is_plain = headers.get(CONNECTION).is_some_and(|value| value == "keep-alive" || value == "close");
    if is_plain && headers.get_all(CONNECTION).iter().nth(1).is_none() {
        headers.remove(CONNECTION);
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| token.trim().parse().ok())
        .filter(|name: &HeaderName| !NOT_OPTIONS.contains(&name.as_str()) && *name != TE)
        .collect();
    headers.remove(CONNECTION);
    for name in named {
        headers.remove(name);
    }
}

/// The protocol that a request asks to change to, when its connection names the field as it must.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get(UPGRADE)?;
    let is_named = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    is_named.then(|| wanted.clone())
}

/// Refuses a head whose body could end in two places (request smuggling, RFC 9112 section 6.3).
///
/// # Errors
/// [`Ambiguous::Framing`] when length and transfer coding are both there, or two lengths.
pub fn check_framing(headers: &HeaderMap) -> Result<(), Ambiguous> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (first, second) = (lengths.next(), lengths.next());
    let has_coding = headers.contains_key(TRANSFER_ENCODING);
    match (first, second) {
        (Some(_), Some(_)) => Err(Ambiguous::Framing),
        (Some(_), None) if has_coding => Err(Ambiguous::Framing),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn what_is_of_the_connection_stays_there() {
        let mut map = headers(&[
            ("connection", "keep-alive, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip"),
            ("accept", "a"),
        ]);
        strip(&mut map);
        assert_eq!(map, headers(&[("accept", "a")]));
    }

    #[test]
    fn connection_cannot_take_away_what_gives_the_message_its_meaning() {
        let mut map =
            headers(&[("connection", "authorization, te"), ("authorization", "x"), ("te", "trailers")]);
        strip(&mut map);
        assert_eq!(map, headers(&[("authorization", "x"), ("te", "trailers")]));
    }

    #[test]
    fn an_upgrade_must_be_named_by_its_connection() {
        let wanted = |fields: &[(&'static str, &'static str)]| upgrade(&headers(fields)).is_some();
        assert!(wanted(&[("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")]));
        assert!(!wanted(&[("upgrade", "websocket")]));
    }

    #[test]
    fn a_body_ends_in_one_place() {
        assert!(check_framing(&headers(&[("content-length", "5")])).is_ok());
        assert!(check_framing(&headers(&[("transfer-encoding", "chunked")])).is_ok());
        for wrong in [
            headers(&[("content-length", "5"), ("transfer-encoding", "chunked")]),
            headers(&[("content-length", "5"), ("content-length", "6")]),
        ] {
            assert_eq!(check_framing(&wrong), Err(Ambiguous::Framing));
        }
    }
}
