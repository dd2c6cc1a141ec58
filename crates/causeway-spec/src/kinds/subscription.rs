//! Kind Subscription: a group of consumers of a topic.
//!
//! In:    a spec's node, or an API body.     Out: [`Subscription`], [`RetryPolicy`].
//! Owner: the reader of one text.
//! Invariant: exactly one of push and pull; the object's name is `<topic>.<group>`.
//! Not here: topics (`topic.rs`), compiling the filter (events).

use std::time::Duration;

use causeway_model::{DeadLetterMode, Delivery, Name, Ordering, RetryPolicy, ServiceKey, Subscription};

use crate::problem::Code;
use crate::reader::{At, Fields, Reader};
use crate::text;

/// Most events out at a time for one group: each holds memory until it is answered.
const IN_FLIGHT_MAX: u32 = 100_000;
/// Most attempts: with the longest wait between them that is weeks.
const ATTEMPTS_MAX: u32 = 100_000;
/// Longest lease of a pulled event: after that the puller is surely gone.
pub(crate) const LEASE_MAX: Duration = Duration::from_secs(12 * 3600);

/// A document: topic and group come from its name, `<topic>.<group>`, or are written beside it when a group holds a dot.
pub(crate) fn document(
    r: &mut Reader<'_>,
    namespace: &Name,
    name: &Name,
    spec: &At<'_>,
) -> Option<Subscription> {
    let mut f = spec.fields(r)?;
    let topic_at = f.take("topic");
    let group_at = f.take("group");
    let parts = match (&topic_at, &group_at) {
        (Some(topic), Some(group)) => topic.name(r).zip(group.name(r)),
        (Some(topic), None) => {
            let topic = topic.name(r)?;
            let group = name.as_str().strip_prefix(topic.as_str()).and_then(|rest| rest.strip_prefix('.'));
            group.and_then(|group| Name::new(group).ok()).map(|group| (topic, group))
        }
        (None, Some(group)) => {
            let group = group.name(r)?;
            let topic = name.as_str().strip_suffix(group.as_str()).and_then(|rest| rest.strip_suffix('.'));
            topic.and_then(|topic| Name::new(topic).ok()).map(|topic| (topic, group))
        }
        (None, None) => name
            .as_str()
            .rsplit_once('.')
            .and_then(|(topic, group)| Some((Name::new(topic).ok()?, Name::new(group).ok()?))),
    };
    let fits = |(topic, group): &(Name, Name)| format!("{topic}.{group}") == name.as_str();
    let Some((topic, group)) = parts.filter(fits) else {
        let hint = match topic_at.is_some() || group_at.is_some() {
            true => "name, `topic` and `group` must agree: the name is <topic>.<group>",
            false => "write `metadata: {name: orders.mail}` for the group mail of the topic orders",
        };
        let message = format!("the name {:?} is not <topic>.<group>", name.as_str());
        r.report(Code::BadName, spec.mark(), message, hint);
        return None;
    };
    rest(r, f, namespace, topic, group)
}

/// An API body: topic and group are in its path.
pub(crate) fn body(
    r: &mut Reader<'_>,
    namespace: &Name,
    topic: Name,
    group: Name,
    body: &At<'_>,
) -> Option<Subscription> {
    let f = body.fields(r)?;
    rest(r, f, namespace, topic, group)
}

fn rest(
    r: &mut Reader<'_>,
    mut f: Fields<'_>,
    namespace: &Name,
    topic: Name,
    group: Name,
) -> Option<Subscription> {
    let delivery = delivery(r, namespace, &mut f);
    let filter = f.take("filter").and_then(|at| text::cel(r, &at));
    let orderings = [("key", Ordering::Key), ("none", Ordering::None)];
    let ordering = f.take("ordering").and_then(|at| at.choice(r, &orderings)).unwrap_or_default();
    let retry = f.take("retry").map_or(Some(RetryPolicy::default()), |at| retry(r, &at));
    let max_in_flight = f
        .take("maxInFlight")
        .and_then(|at| at.u32(r, 1..=IN_FLIGHT_MAX))
        .unwrap_or(Subscription::MAX_IN_FLIGHT);
    let dead_letter = f.take("deadLetter").and_then(|at| {
        let modes = [("plain", DeadLetterMode::Plain), ("sequenced", DeadLetterMode::Sequenced)];
        let mut f = at.fields(r)?;
        let mode_at = f.take("mode");
        let mode = mode_at.as_ref().and_then(|at| at.choice(r, &modes));
        f.done(r);
        if let Some(at) =
            mode_at.filter(|_| mode == Some(DeadLetterMode::Sequenced) && ordering == Ordering::None)
        {
            let hint = "write `ordering: key`, or `mode: plain`: only ordered keys can be parked";
            at.report(r, Code::Contradiction, "is sequenced, but ordering is none", hint);
        }
        mode
    });
    let lease_at = f.take("lease");
    let lease = lease_at.as_ref().and_then(|at| lease(r, at)).unwrap_or(Subscription::LEASE);
    if let Some(at) = lease_at.filter(|_| matches!(delivery, Some(Delivery::Push { .. }))) {
        let hint = "leave it out: a lease is for pulled events";
        at.report(r, Code::NoEffect, "has no effect on a push subscription", hint);
    }
    f.done(r);
    let dead_letter = dead_letter.unwrap_or_default();
    Some(Subscription {
        topic,
        group,
        delivery: delivery?,
        filter,
        ordering,
        retry: retry?,
        max_in_flight,
        dead_letter,
        lease,
    })
}

pub(crate) fn lease(r: &mut Reader<'_>, at: &At<'_>) -> Option<Duration> {
    let lease = at.wait(r)?;
    if lease > LEASE_MAX {
        let most = crate::duration::format(LEASE_MAX);
        let hint = "extend the lease while you work instead";
        at.report(r, Code::OutOfRange, format_args!("must not be longer than {most}"), hint);
        return None;
    }
    Some(lease)
}

fn delivery(r: &mut Reader<'_>, namespace: &Name, f: &mut Fields<'_>) -> Option<Delivery> {
    let (push, pull) = (f.take("push"), f.take("pull"));
    match (push, pull) {
        (Some(at), Some(_)) => {
            at.report(r, Code::Contradiction, "and pull exclude each other", "keep one of them");
            push_delivery(r, namespace, &at)
        }
        (None, None) => {
            let hint = "write `push: {service: mail, path: /events}`, or `pull: {}`";
            f.at.report_as("", r, Code::Missing, "neither `push` nor `pull` is written", hint);
            None
        }
        (Some(at), None) => push_delivery(r, namespace, &at),
        (None, Some(at)) => {
            at.fields(r)?.done(r);
            Some(Delivery::Pull)
        }
    }
}

fn push_delivery(r: &mut Reader<'_>, namespace: &Name, at: &At<'_>) -> Option<Delivery> {
    let mut f = at.fields(r)?;
    let service = service_key(r, namespace, &mut f);
    let path = f.take("path").map_or(Some("/".to_owned()), |at| text::request_path(r, &at));
    f.done(r);
    Some(Delivery::Push { service: service?, path: path? })
}

/// `service` and, for one of another namespace, `namespace`. Whether the call is allowed is for its access policies.
pub(crate) fn service_key(r: &mut Reader<'_>, namespace: &Name, f: &mut Fields<'_>) -> Option<ServiceKey> {
    let name = f.need(r, "service", "mail").and_then(|at| at.name(r));
    let namespace = f.take("namespace").map_or(Some(namespace.clone()), |at| at.name(r));
    Some(ServiceKey::new(namespace?, name?))
}

/// `{attempts: 5, backoff: 200ms, maxBackoff: 30s}`.
pub(crate) fn retry(r: &mut Reader<'_>, at: &At<'_>) -> Option<RetryPolicy> {
    let mut f = at.fields(r)?;
    let default = RetryPolicy::default();
    let attempts = f.take("attempts").map_or(Some(default.attempts), |at| at.u32(r, 1..=ATTEMPTS_MAX));
    let backoff = f.take("backoff").map_or(Some(default.backoff), |at| at.duration(r));
    let max_at = f.take("maxBackoff");
    let max_backoff = max_at.as_ref().map_or(Some(default.max_backoff), |at| at.long_duration(r));
    f.done(r);
    let (backoff, max_backoff) = (backoff?, max_backoff?);
    match max_at {
        Some(at) if max_backoff < backoff => {
            let message = format!("must not be shorter than `backoff`, {}", crate::duration::format(backoff));
            at.report(r, Code::Contradiction, message, "lengthen `maxBackoff` or shorten `backoff`");
            None
        }
        _ => Some(RetryPolicy { attempts: attempts?, backoff, max_backoff: max_backoff.max(backoff) }),
    }
}
