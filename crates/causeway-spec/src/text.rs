//! Texts with a form of their own: host names, paths, header names and values, methods, addresses.
//!
//! In:    [`At`] a text.     Out: the text, or a problem that says which rule it breaks.
//! Owner: nobody; functions.
//! Invariant: what passes here can be put into a request without escaping or splitting it.
//! Not here: names of objects, durations, sizes (`reader.rs`).

use std::net::IpAddr;

use crate::problem::Code;
use crate::reader::{At, Reader};
use crate::tree::shorten;

/// Longest path, header value and the like in a document (Gateway API's bounds are 1024 for paths, 4096 for values).
pub(crate) const PATH_BYTES_MAX: usize = 1024;
pub(crate) const VALUE_BYTES_MAX: usize = 4096;
/// Longest header name, and longest regular expression: it is compiled on every proxy, and its automaton grows with it.
pub(crate) const HEADER_NAME_BYTES_MAX: usize = 256;
pub(crate) const REGEX_BYTES_MAX: usize = 1024;
/// Longest CEL expression.
pub(crate) const CEL_BYTES_MAX: usize = 16 * 1024;
/// Longest free text such as a version, tag or zone.
pub(crate) const LABEL_BYTES_MAX: usize = 512;

/// The methods of Gateway API.
pub(crate) const METHODS: [(&str, &str); 9] = [
    ("GET", "GET"),
    ("HEAD", "HEAD"),
    ("POST", "POST"),
    ("PUT", "PUT"),
    ("DELETE", "DELETE"),
    ("CONNECT", "CONNECT"),
    ("OPTIONS", "OPTIONS"),
    ("TRACE", "TRACE"),
    ("PATCH", "PATCH"),
];

fn refuse<T>(r: &mut Reader<'_>, at: &At<'_>, text: &str, why: &str, hint: impl Into<String>) -> Option<T> {
    at.report(r, Code::BadText, format_args!("{why}, found {:?}", shorten(text)), hint);
    None
}

/// A host name, lower case, without a port; with `*.` before it where that is allowed.
pub(crate) fn hostname(r: &mut Reader<'_>, at: &At<'_>, allows_wildcard: bool) -> Option<String> {
    let text = at.text_within(r, 253)?;
    let bare = match text.strip_prefix("*.") {
        Some(_) if !allows_wildcard => {
            return refuse(r, at, text, "must be one host, not a wildcard", "write the host's full name");
        }
        Some(rest) => rest,
        None => text,
    };
    if text.parse::<IpAddr>().is_ok() || text.starts_with('[') {
        return refuse(
            r,
            at,
            text,
            "must be a host name, not an IP address",
            "write a name such as \"shop.example\"",
        );
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return refuse(r, at, text, "must be a host name without a port", format!("write {host:?}"));
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if bare.split('.').all(is_label) {
        return Some(text.to_owned());
    }
    let lower = text.to_lowercase();
    let hint = match lower != text && lower.trim_start_matches("*.").split('.').all(is_label) {
        true => format!("write {lower:?}"),
        false => "write a name such as \"shop.example\" or \"*.shop.example\"".to_owned(),
    };
    refuse(r, at, text, "must be a host name in lower case", hint)
}

/// An IP address or a host name (any case is folded), as an endpoint has it.
pub(crate) fn address(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let text = at.text_within(r, 253)?;
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.to_string());
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
        && !host.is_empty()
    {
        let hint = format!("write {host:?} here and {port} into `port`");
        return refuse(r, at, text, "must be an address without a port", hint);
    }
    let is_host = text.split('.').all(|label| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    });
    if !is_host {
        return refuse(
            r,
            at,
            text,
            "must be an IP address or a host name",
            "write \"10.0.0.5\" or \"db.internal\"",
        );
    }
    Some(text.to_ascii_lowercase())
}

/// `host:port` with an optional rest after it.
pub(crate) fn host_and_port(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let text = at.text_within(r, VALUE_BYTES_MAX)?;
    let authority = text.split('/').next().unwrap_or_default();
    let port =
        authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0);
    if port.is_none() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return refuse(r, at, text, "must be host:port", "write it as \"10.0.0.5:8080\"");
    }
    Some(text.to_owned())
}

/// An `http://` or `https://` URL.
pub(crate) fn url(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let text = at.text_within(r, VALUE_BYTES_MAX)?;
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let has_host = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':', '?', '#']));
    if !has_host || !text.bytes().all(|b| b.is_ascii_graphic()) {
        let hint = "write it as \"http://10.0.0.5:8080/healthz\"";
        return refuse(r, at, text, "must be an http:// or https:// URL", hint);
    }
    Some(text.to_owned())
}

/// Path and query of a request that we make.
pub(crate) fn request_path(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let text = at.text_within(r, VALUE_BYTES_MAX)?;
    if !text.starts_with('/') {
        let hint = match text.split_once("://") {
            Some(_) => "write only the path: host and port come from the service".to_owned(),
            None => format!("write \"/{}\"", shorten(text)),
        };
        return refuse(r, at, text, "must begin with '/'", hint);
    }
    if text.bytes().any(|b| b.is_ascii_control()) || text.contains('#') {
        return refuse(r, at, text, "must hold no control character and no '#'", "percent-encode it");
    }
    Some(text.to_owned())
}

/// The value of a path match of type Exact or PathPrefix, and of a path's replacement.
pub(crate) fn match_path(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let text = at.text_within(r, PATH_BYTES_MAX)?;
    if !text.starts_with('/') {
        return refuse(r, at, text, "must begin with '/'", format!("write \"/{}\"", shorten(text)));
    }
    let has = |part: &str| text.to_ascii_lowercase().contains(part);
    if let Some(part) = ["//", "/./", "/../", "%2f", "#"].into_iter().find(|part| has(part)) {
        let hint =
            "requests are normalised before they are matched, so that this could never match: leave it out";
        return refuse(r, at, text, &format!("must not hold {part:?}"), hint);
    }
    if text.ends_with("/..") || text.ends_with("/.") {
        let hint =
            "requests are normalised before they are matched, so that this could never match: leave it out";
        return refuse(r, at, text, "must not end in \"/.\" or \"/..\"", hint);
    }
    if text.contains('?') {
        return refuse(r, at, text, "must not hold '?'", "match parameters with `queryParams`");
    }
    let bytes = text.as_bytes();
    let is_allowed = |(index, byte): (usize, &u8)| match byte {
        b'%' => bytes.get(index + 1..index + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)),
        byte => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(byte),
    };
    if !bytes.iter().enumerate().all(is_allowed) {
        let hint = match text.contains('*') || text.contains('{') {
            true => "use `type: PathPrefix` or `type: RegularExpression` for patterns",
            false => "percent-encode it: a blank is %20",
        };
        return refuse(r, at, text, "holds a character that no path has", hint);
    }
    Some(text.to_owned())
}

/// A regular expression, by its length; the proxy compiles it.
pub(crate) fn regex(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    at.text_within(r, REGEX_BYTES_MAX).map(str::to_owned)
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// A header's name, made lower case.
pub(crate) fn header_name(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let text = at.text_within(r, HEADER_NAME_BYTES_MAX)?;
    match is_token(text) {
        true => Some(text.to_ascii_lowercase()),
        false => refuse(
            r,
            at,
            text,
            "must be a header name",
            "letters, digits and - . _ only, no blank and no colon, such as \"x-request-id\"",
        ),
    }
}

/// The same where the name is a key.
pub(crate) fn header_key(r: &mut Reader<'_>, at: &At<'_>, key: &str) -> Option<String> {
    match is_token(key) && key.len() <= HEADER_NAME_BYTES_MAX {
        true => Some(key.to_ascii_lowercase()),
        false => refuse(r, at, key, "must have a header name as its key", "such as \"x-request-id\""),
    }
}

/// A header's value, without anything that could end the line.
pub(crate) fn header_value(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let text = at.text_within(r, VALUE_BYTES_MAX)?;
    if text.chars().any(|c| c.is_control() && c != '\t') || text.trim() != text {
        let why = "must hold no control character and no blank at its ends";
        return refuse(r, at, text, why, "a header is one line; take out line breaks and outer blanks");
    }
    Some(text.to_owned())
}

/// A method, upper case.
pub(crate) fn method(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    at.choice(r, &METHODS).map(str::to_owned)
}

/// A label such as a version or tag: visible, no line breaks.
pub(crate) fn label(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    let text = at.text_within(r, LABEL_BYTES_MAX)?;
    match text.chars().any(char::is_control) {
        true => refuse(r, at, text, "must hold no control character", "take out line breaks and the like"),
        false => Some(text.to_owned()),
    }
}

/// A CEL expression, by its length; the room that runs it compiles it.
pub(crate) fn cel(r: &mut Reader<'_>, at: &At<'_>) -> Option<String> {
    at.text_within(r, CEL_BYTES_MAX).map(str::to_owned)
}

/// Every `${` in a template ends in `}` and holds something.
pub(crate) fn template(r: &mut Reader<'_>, at: &At<'_>, text: &str) -> bool {
    let why = match broken_template(text) {
        Some(why) => why,
        None => return true,
    };
    refuse::<()>(r, at, text, why, "write \"${input.sku}\"; the expression between the braces is CEL");
    false
}

/// Why a template is broken. Braces within an expression's own texts and maps are counted as CEL has them.
fn broken_template(text: &str) -> Option<&'static str> {
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        rest = &rest[start + 2..];
        let (mut depth, mut quote, mut end, mut is_escaped) = (1usize, None, None, false);
        for (index, c) in rest.char_indices() {
            match (quote, c) {
                (Some(_), _) if is_escaped => is_escaped = false,
                (Some(_), '\\') => is_escaped = true,
                (Some(open), c) if c == open => quote = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => quote = Some(c),
                (None, '{') => depth += 1,
                (None, '}') => depth -= 1,
                (None, _) => {}
            }
            if depth == 0 {
                end = Some(index);
                break;
            }
        }
        let Some(end) = end else { return Some("has a \"${\" that is never closed") };
        if rest[..end].trim().is_empty() {
            return Some("has an empty \"${}\"");
        }
        rest = &rest[end + 1..];
    }
    None
}
