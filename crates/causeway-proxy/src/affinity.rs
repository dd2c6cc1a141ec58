//! What ties a request to an endpoint: something of it that is hashed, or a session that its client is in.
//!
//! In:    a request's fields, what policies say.      Out: the [`Pull`] that the balancer follows; the field that keeps a client.
//! Owner: the pipeline, once a request, and only where a policy asks for it.
//! Invariant: what a client sends is looked up and never believed: a token that we did not make leads nowhere.
//! Not here: choosing (`balance`), making tokens (`token`), who says that clients stay (`plan::policy`).
//!
//! A client stays with its endpoint while that takes calls. When it is ejected, full, fails the request, drains or is gone, another
//! one is chosen and the client is given that one's token: a draining endpoint takes nothing new, sessions neither.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use causeway_filters::Client;
use causeway_model::{Affinity, HashOn};
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::balance::{Group, Pull};
use crate::hash;
use crate::inlet::{Inlet, Way};
use crate::outgoing::Head;
use crate::plan::policy::decide;
use crate::plan::{Plan, Rule, Service};
use crate::token::Token;

/// What ties a request to one of the endpoints of a group. `own` stands for the calls of this proxy's own app.
pub(crate) fn pull(
    group: &Group,
    affinity: Option<&Affinity>,
    request: &Head,
    inlet: &Inlet,
    own: u64,
) -> Pull {
    let key = group.how.hash.as_ref().and_then(|on| match on {
        HashOn::Header(name) => field(&request.headers, name),
        HashOn::Cookie(name) => cookies(&request.headers, name).next().map(hash::text),
        HashOn::Query(name) => query(request.uri.query()?, name).map(|value| hash::text(&value)),
        HashOn::Source => Some(source(&inlet.way, &inlet.client, own)),
    });
    let stay =
        affinity.and_then(|affinity| tokens(affinity, &request.headers).find(|t| group.find(*t).is_some()));
    Pull { key, stay }
}

/// Who calls: the client at a gateway. All that an app sends comes from its sidecar, which stands for it.
pub(crate) fn source(way: &Way, client: &Client, own: u64) -> u64 {
    match (way, client.address.to_canonical()) {
        (Way::Gateway(_) | Way::Inbound, IpAddr::V4(address)) => hash::bytes(&address.octets()),
        (Way::Gateway(_) | Way::Inbound, IpAddr::V6(address)) => hash::bytes(&address.octets()),
        _ => own,
    }
}

/// What keeps a client of these calls.
pub(crate) fn said<'a>(rule: &'a Rule, service: &'a Service) -> Option<&'a Affinity> {
    decide(&rule.policy.affinity, Some(&service.policy.affinity)).map(|said| &said.wish)
}

/// Which of a rule's backends the client's endpoint belongs to. A session goes before weights, also a weight of 0: that is how a
/// backend is emptied without throwing anybody out (GEP-1619, traffic splitting).
pub(crate) fn backend(plan: &Plan, rule: &Rule, headers: &HeaderMap) -> Option<usize> {
    if rule.choices.len() < 2 || rule.policy.affinity.is_none() && !plan.rules.has_sessions {
        return None;
    }
    rule.choices.iter().position(|choice| {
        let Some(service) = plan.service(&choice.service) else { return false };
        let (Some(affinity), Ok(group)) = (said(rule, service), service.http_group(choice.port)) else {
            return false;
        };
        tokens(affinity, headers).any(|token| group.find(token).is_some())
    })
}

/// The field that keeps the client with the endpoint which has just answered, when the client has to be told.
pub(crate) fn keep(
    affinity: &Affinity,
    token: Token,
    before: Option<Token>,
    is_tls: bool,
) -> Option<(HeaderName, HeaderValue)> {
    match affinity {
        Affinity::Header { name } => {
            let name = HeaderName::try_from(name.as_str()).ok()?;
            Some((name, HeaderValue::from_str(token.as_str()).ok()?))
        }
        Affinity::Cookie { .. } if before == Some(token) => None,
        Affinity::Cookie { name, max_age, path } => {
            let path = path.as_deref().filter(|path| !path.contains(';')).unwrap_or("/");
            let mut text = format!("{name}={}; Path={path}; HttpOnly; SameSite=Lax", token.as_str());
            if let Some(age) = max_age {
                let _ = write!(text, "; Max-Age={}", age.as_secs());
            }
            if is_tls {
                text.push_str("; Secure");
            }
            Some((SET_COOKIE, HeaderValue::try_from(text).ok()?))
        }
    }
}

/// Puts that field into an answer.
pub(crate) fn put(headers: &mut HeaderMap, (name, value): (HeaderName, HeaderValue)) {
    match name == SET_COOKIE {
        true => drop(headers.append(name, value)),
        false => drop(headers.insert(name, value)),
    }
}

/// What the client shows: a browser may send several cookies of one name.
fn tokens<'a>(affinity: &'a Affinity, headers: &'a HeaderMap) -> impl Iterator<Item = Token> + 'a {
    let (cookie, header) = match affinity {
        Affinity::Cookie { name, .. } => (Some(cookies(headers, name)), None),
        Affinity::Header { name } => (None, headers.get(name.as_str()).and_then(|value| value.to_str().ok())),
    };
    cookie.into_iter().flatten().chain(header).filter_map(Token::of)
}

fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(move |pair| {
        let value = pair.trim_ascii().strip_prefix(name)?.strip_prefix('=')?;
        Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
    })
}

/// All values of a field: who sends two means both.
fn field(headers: &HeaderMap, name: &str) -> Option<u64> {
    let mut values = headers.get_all(name).into_iter().map(|value| hash::bytes(value.as_bytes()));
    let first = values.next()?;
    Some(values.fold(first, hash::both))
}

fn query<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let decoded = |text: &'a str| match text.contains('+') {
        true => Cow::Owned(percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()),
        false => percent_decode_str(text).decode_utf8_lossy(),
    };
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(key, _)| decoded(key) == name).map(|(_, value)| decoded(value)).next()
}

#[cfg(test)]
#[path = "affinity/tests.rs"]
mod tests;
