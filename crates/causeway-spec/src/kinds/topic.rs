//! Kind Topic: how long its events are kept and recognised.
//!
//! In:    a spec's node, or an API body.     Out: [`Topic`].
//! Owner: the reader of one text.
//! Invariant: absent means the built-in default, never zero.
//! Not here: subscriptions (`subscription.rs`).

use causeway_model::Topic;

use crate::problem::Code;
use crate::reader::{At, Reader};

/// Most partitions that may be written. They are a hint: events of one key are ordered whatever their number.
const PARTITIONS_MAX: u64 = 4096;

pub(crate) fn read(r: &mut Reader<'_>, spec: &At<'_>) -> Option<Topic> {
    let mut f = spec.fields(r)?;
    let mut topic = Topic::default();
    if let Some(at) = f.take("retention")
        && let Some(mut f) = at.fields(r)
    {
        topic.retention_age = f.take("age").and_then(|at| {
            let age = at.long_duration(r)?;
            if age.is_zero() {
                let hint = "write at least \"1s\"; to keep events for ever, leave `age` out";
                at.report(r, Code::OutOfRange, "must be longer than zero", hint);
            }
            Some(age)
        });
        topic.retention_bytes = f.take("bytes").and_then(|at| {
            let bytes = at.bytes(r)?;
            if bytes == 0 {
                let hint = "write at least 1; to keep events whatever their size, leave `bytes` out";
                at.report(r, Code::OutOfRange, "must be more than zero", hint);
            }
            Some(bytes)
        });
        f.done(r);
    }
    topic.dedupe = f.take("dedupe").and_then(|at| at.long_duration(r));
    if let Some(at) = f.take("partitions")
        && at.number(r, 1..=PARTITIONS_MAX).is_some()
    {
        let hint = "leave it out: a topic is one log, and events of one key are ordered without partitions";
        at.report(r, Code::NoEffect, "has no effect in this version", hint);
    }
    f.done(r);
    Some(topic)
}
