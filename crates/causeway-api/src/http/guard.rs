//! Keeps web pages out of doors on loopback: DNS rebinding, and requests that another site's page sends.
//!
//! In:    every request of a door on loopback.      Out: the same, or 403.
//! Owner: [`guarded`] wraps a router; `server.rs` does so for listeners on loopback.
//! Invariant: a request whose `Host` is a name that somebody else can point here (anything but `localhost` and loopback
//! addresses) is refused, and so is one that a page of another origin sends (`Origin` is not the `Host`).
//! Not here: who the caller is. Programs on this machine are let through: they can send any header anyway.

use std::net::{IpAddr, Ipv6Addr};

use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri};

use super::problem::{Problem, code};

/// The router behind the check. Every HTTP door on loopback has it, the neighbours' protocols too.
pub fn guarded(router: Router) -> Router {
    router.layer(axum::middleware::from_fn(check))
}

async fn check(request: Request, next: Next) -> Response {
    match verdict(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(text) => Problem::new(StatusCode::FORBIDDEN, code::FOREIGN_HOST, text).into_response(),
    }
}

/// Whether the request is one that a program on this machine, or this door's own page, sends.
fn verdict(uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
    let host = host(uri, headers)?;
    if !is_loopback(host.host()) {
        return Err(format!(
            "Host {host} is not a loopback address or localhost, and this door is on loopback"
        ));
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    let (origin, second) = (origins.next(), origins.next());
    let Some(origin) = origin else { return Ok(()) };
    let text = String::from_utf8_lossy(origin.as_bytes());
    if second.is_none() && is_same(&text, &host) {
        return Ok(());
    }
    Err(format!(
        "the request comes from a page of another origin ({})",
        text.chars().take(200).collect::<String>()
    ))
}

/// `:authority` (or the absolute form's), which must not contradict `Host`.
fn host(uri: &Uri, headers: &HeaderMap) -> Result<Authority, String> {
    let mut written = headers.get_all(HOST).iter().map(|value| {
        let authority = Authority::try_from(value.as_bytes());
        authority.map_err(|_| "the header Host is not a host".to_owned())
    });
    let first = written.next().transpose()?;
    if written.next().is_some() {
        return Err("the header Host comes twice".to_owned());
    }
    match (uri.authority().cloned(), first) {
        (Some(authority), Some(host)) if authority != host => {
            Err("the header Host and the request's authority differ".to_owned())
        }
        (Some(authority), _) => Ok(authority),
        (None, Some(host)) => Ok(host),
        (None, None) => Err("the request names no host".to_owned()),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let address = match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
        None => host.parse().ok().filter(IpAddr::is_ipv4),
    };
    match address {
        Some(address) => address.to_canonical().is_loopback(),
        None => host.trim_end_matches('.').eq_ignore_ascii_case("localhost"),
    }
}

/// Whether an `Origin` is the page of this very host and port.
fn is_same(origin: &str, host: &Authority) -> bool {
    let Ok(origin) = origin.parse::<Uri>() else { return false };
    let (Some(scheme), Some(from)) = (origin.scheme_str(), origin.authority()) else { return false };
    let usual = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    from.host().eq_ignore_ascii_case(host.host())
        && from.port_u16().unwrap_or(usual) == host.port_u16().unwrap_or(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uri: &str, headers: &[(&str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        verdict(&uri.parse().unwrap(), &map).is_ok()
    }

    #[test]
    fn only_loopback_is_a_host() {
        for good in
            ["127.0.0.1:7070", "127.9.9.9", "localhost:7070", "LOCALHOST", "[::1]:7070", "localhost.:80"]
        {
            assert!(check("/v1/version", &[("host", good)]), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:7070",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "[::]",
            "192.168.1.1:7070",
            "",
            "::1",
            "127.1",
            "2130706433",
        ] {
            assert!(!check("/v1/version", &[("host", bad)]), "{bad}");
        }
        assert!(!check("/v1/version", &[]), "no host at all");
        assert!(!check("/", &[("host", "localhost"), ("host", "evil.example")]), "two hosts");
        assert!(check("http://localhost:7070/", &[]), ":authority of HTTP/2");
        assert!(!check("http://localhost:7070/", &[("host", "evil.example")]), "a contradiction");
    }

    #[test]
    fn only_our_own_page_is_an_origin() {
        let with = |origin| check("/", &[("host", "127.0.0.1:7070"), ("origin", origin)]);
        assert!(with("http://127.0.0.1:7070"));
        for bad in [
            "null",
            "http://127.0.0.1:3000",
            "http://localhost:7070",
            "http://evil.example",
            "http://127.0.0.1",
            "file://127.0.0.1:7070",
            "https://127.0.0.1",
            "",
        ] {
            assert!(!with(bad), "{bad}");
        }
        assert!(check("/", &[("host", "localhost"), ("origin", "http://localhost")]), "the usual port");
    }
}
