//! Fields that are about one connection and must not travel on (RFC 9110 section 7.6.1), fields that only look like ours, and how a
//! body is framed.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue};

use crate::Ambiguous;

/// Fields of a connection that need not be named in `Connection`.
static HOP_BY_HOP: [HeaderName; 5] = [
    HeaderName::from_static("http2-settings"),
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

/// Fields that we set or take away, beside the two families `x-causeway-…` and `x-forwarded-…`.
const OURS: [&str; 12] = [
    "connection",
    "content-length",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "x-real-ip",
    "x-request-id",
];

fn is_ours(name: &str) -> bool {
    name.starts_with("x-causeway-") || name.starts_with("x-forwarded-") || OURS.contains(&name)
}

/// Whether a name, with `_` read as `-`, is one of ours: CGI, WSGI and PHP make the same variable of both.
fn is_disguised(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.as_bytes().contains(&b'_') && is_ours(&name.replace('_', "-"))
}

/// Takes out of a request's head what an app could take for a field of ours.
pub fn strip_disguised(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| is_disguised(name)).cloned() {
        headers.remove(name);
    }
}

/// Takes out of a request's trailers what only its head may say (RFC 9110 section 6.5.1), under any spelling.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    let is_out_of_place = |name: &HeaderName| is_ours(name.as_str()) || is_disguised(name);
    while let Some(name) = trailers.keys().find(|name| is_out_of_place(name)).cloned() {
        trailers.remove(name);
    }
}

/// The protocols that a request asks to change to, when its connection names the field as it must. Another HTTP (`h2c`) is left out: it
/// would pass by every route and policy, and whoever offers it takes it for granted that it may be ignored.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(UPGRADE)?;
    let is_named = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    if !is_named {
        return None;
    }
    let wanted: Vec<&str> = headers
        .get_all(UPGRADE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|protocol| !protocol.is_empty() && !is_http(protocol))
        .collect();
    HeaderValue::try_from(wanted.join(", ")).ok().filter(|wanted| !wanted.is_empty())
}

fn is_http(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default();
    ["h2c", "h2", "http"].iter().any(|http| name.eq_ignore_ascii_case(http))
}

/// Refuses a head whose body could end in two places (request smuggling, RFC 9112 section 6.3).
///
/// Of HTTP/1.1 only a head that [`crate::h1`] took needs no such look: it refuses all this itself, and more.
///
/// # Errors
/// [`Ambiguous::Framing`] when length and transfer coding are both there, or two lengths, or a coding other than one `chunked`.
pub fn check_framing(headers: &HeaderMap) -> Result<(), Ambiguous> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (first, second) = (lengths.next(), lengths.next());
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let (coding, second_coding) = (codings.next(), codings.next());
    let is_known = coding.is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    match (first, second) {
        _ if !is_known || second_coding.is_some() => Err(Ambiguous::Framing),
        (Some(_), Some(_)) => Err(Ambiguous::Framing),
        (Some(_), None) if coding.is_some() => Err(Ambiguous::Framing),
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
        let protocols =
            |wanted: &'static str| upgrade(&headers(&[("upgrade", wanted), ("connection", "upgrade")]));
        for http in ["h2c", "h2c, HTTP/2.0", "HTTP/3", ""] {
            assert_eq!(protocols(http), None, "{http}");
        }
        assert_eq!(protocols("websocket, h2c").unwrap(), "websocket");
        assert_eq!(protocols("echo/1, other").unwrap(), "echo/1, other");
    }

    #[test]
    fn what_an_app_could_take_for_ours_goes() {
        let mut map = headers(&[
            ("x_causeway_caller", "evil"),
            ("x-causeway_caller", "evil"),
            ("x_forwarded_for", "evil"),
            ("transfer_encoding", "chunked"),
            ("x-causeway-caller", "is set or taken away by its filter"),
            ("x_mine", "1"),
        ]);
        strip_disguised(&mut map);
        let kept = [("x-causeway-caller", "is set or taken away by its filter"), ("x_mine", "1")];
        assert_eq!(map, headers(&kept));
        let mut trailers =
            headers(&[("x-causeway-caller", "evil"), ("x_request_id", "evil"), ("checksum", "1")]);
        strip_trailers(&mut trailers);
        assert_eq!(trailers, headers(&[("checksum", "1")]));
    }

    #[test]
    fn a_body_ends_in_one_place() {
        assert!(check_framing(&headers(&[("content-length", "5")])).is_ok());
        assert!(check_framing(&headers(&[("transfer-encoding", "chunked")])).is_ok());
        for wrong in [
            headers(&[("content-length", "5"), ("transfer-encoding", "chunked")]),
            headers(&[("content-length", "5"), ("content-length", "6")]),
            headers(&[("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")]),
            headers(&[("transfer-encoding", "gzip, chunked")]),
        ] {
            assert_eq!(check_framing(&wrong), Err(Ambiguous::Framing));
        }
    }
}
