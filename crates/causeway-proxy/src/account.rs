//! The account of a failed request: all that is known of it, in words that can be sent and kept.
//!
//! In:    the facts of a request that ended, what endpoints there were.      Out: [`Failure`].
//! Owner: nobody; pure but for endpoints' vitals.
//! Not here: who keeps accounts (`ledger`), who reads them (`causeway-api`, `causeway why`).

use causeway_filters::Client;
use causeway_model::{FailedAttempt, Failure, PassedOver, ServiceKey, Side, Timestamp};
use http::Version;
use tokio::time::Instant;

use crate::endpoint::{Endpoint, Micros};
use crate::facts::Facts;
use crate::inlet::Way;
use crate::plan::Service;
use crate::story::{Attempt, NotChosen, cut};

/// Writes down why a service's other endpoints did not take a request. Called only for one that failed.
pub(crate) fn survey(facts: &mut Facts, service: &Service, port: Option<u16>, now: Micros) {
    let tried: Vec<u64> = facts
        .story
        .pages()
        .map_or_else(Vec::new, |pages| pages.attempts.iter().map(|attempt| attempt.endpoint.id).collect());
    let story = &mut facts.story;
    let group = match facts.carried {
        Some(_) => service.raw_group(port),
        None => service.http_group(port),
    };
    for endpoint in group.iter().flat_map(|group| &group.endpoints) {
        if tried.contains(&endpoint.id) {
            continue;
        }
        story.considered(&endpoint.name, why_not(endpoint, now));
    }
    service.left_out.iter().for_each(|(name, why)| story.considered(name, *why));
}

fn why_not(endpoint: &Endpoint, now: Micros) -> NotChosen {
    match () {
        () if endpoint.vitals.is_ejected(now) => NotChosen::Ejected,
        () if !endpoint.vitals.has_room() => NotChosen::Full,
        () => NotChosen::Spare,
    }
}

/// The account of a request that ended at `ended`, which was `now` on the wall.
pub(crate) fn account(facts: &Facts, ended: Instant, now: Timestamp, seen_by: &ServiceKey) -> Failure {
    let took = ended.saturating_duration_since(facts.started);
    let rule = facts.rule.as_ref();
    let pages = facts.story.pages();
    let tried = pages.map_or(&[][..], |pages| &pages.attempts);
    let passed_over = pages.map_or(&[][..], |pages| &pages.passed_over);
    Failure {
        at: Timestamp::from_millis(now.as_millis().saturating_sub(took.as_millis() as u64)),
        request_id: facts.request_id().to_owned(),
        trace_id: facts.trace.id().to_owned(),
        side: side(&facts.inlet.way, seen_by),
        seen_by: seen_by.clone(),
        instance: String::new(),
        method: cut(facts.method.as_str()).into(),
        host: cut(facts.host()).into(),
        path: cut(facts.path.as_ref().map_or("", |path| path.path())).into(),
        protocol: protocol(facts).to_owned(),
        status: facts.status,
        reason: facts.reason.to_owned(),
        details: cut(&facts.details).into(),
        rule: rule.map_or_else(String::new, |rule| rule.label.to_string()),
        rule_origin: rule.map_or_else(String::new, |rule| rule.written_at.to_string()),
        refused_by: facts.refused_by.as_deref().unwrap_or("").to_owned(),
        service: facts.service.as_ref().map(|service| service.key.clone()),
        endpoint: facts.endpoint.as_ref().map_or_else(String::new, |endpoint| endpoint.name.clone()),
        caller: caller(&facts.inlet.client),
        micros: took.as_micros() as u64,
        attempts: facts.attempts,
        tried: tried.iter().map(|attempt| tell(attempt, facts.started)).collect(),
        passed_over: passed_over
            .iter()
            .map(|(endpoint, why)| PassedOver { endpoint: endpoint.to_string(), why: (*why).to_owned() })
            .collect(),
        notes: pages.map_or_else(Vec::new, |pages| pages.notes.iter().map(|note| cut(note).into()).collect()),
        untold: pages.map_or(0, |pages| pages.untold),
    }
}

fn tell(attempt: &Attempt, started: Instant) -> FailedAttempt {
    let Attempt { endpoint, lap, status, error, details } = attempt;
    let micros = |from: Instant, to: Instant| to.saturating_duration_since(from).as_micros() as u64;
    FailedAttempt {
        endpoint: endpoint.name.clone(),
        address: format!("{}:{}", endpoint.host, endpoint.port),
        transport: endpoint.transport.as_str().to_owned(),
        after: micros(started, lap.begun),
        micros: micros(lap.begun, lap.ended),
        status: status.unwrap_or(0),
        error: (*error).to_owned(),
        details: details.to_string(),
    }
}

/// Where on a request's way this proxy stands.
pub(crate) fn side(way: &Way, seen_by: &ServiceKey) -> Side {
    let is_house = seen_by.namespace.as_str() == causeway_filters::access::HOUSE_NAMESPACE;
    match way {
        Way::Gateway(_) => Side::Gateway,
        Way::Inbound => Side::Callee,
        _ if is_house => Side::House,
        Way::Outbound | Way::Upstream(..) | Way::Transparent | Way::Original(_) | Way::Instance(_) => {
            Side::Caller
        }
    }
}

/// Who called, in words.
pub(crate) fn caller(client: &Client) -> String {
    client.identity.as_ref().map_or_else(|| client.address.to_string(), ToString::to_string)
}

/// What was spoken, as people write it.
pub(crate) const fn protocol(facts: &Facts) -> &'static str {
    match facts.version {
        _ if facts.carried.is_some() => "TCP",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}
