//! Access records: one JSON line a request, gathered by workers, written by a thread of its own.
//!
//! In:    settled requests.      Out: lines to whatever the roof gave (a file, standard output).
//! Owner: the proxy's handle owns the writer thread; it ends with the last [`Sink`].
//! Invariant: a slow disk never slows a request: what does not fit in the queue is dropped and counted.
//! Not here: counting what was dropped (`ledger`).

use std::io::Write;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use causeway_model::Timestamp;

use crate::account::protocol;
use crate::facts::Facts;
use crate::limits::RECORD_BATCHES_MAX;

/// Where batches go.
#[derive(Clone)]
pub(crate) struct Sink(SyncSender<Vec<u8>>);

impl Sink {
    /// Starts the thread that writes.
    pub(crate) fn start(mut out: Box<dyn Write + Send>) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel::<Vec<u8>>(RECORD_BATCHES_MAX);
        let write = move || {
            let mut has_failed = false;
            for batch in receiver {
                let written = out.write_all(&batch).and_then(|()| out.flush());
                if let (Err(error), false) = (&written, has_failed) {
                    tracing::error!(%error, "access records cannot be written");
                }
                has_failed = written.is_err();
            }
        };
        std::thread::Builder::new().name("records".into()).spawn(write)?;
        Ok(Sink(sender))
    }

    /// Queues a batch; false when it was dropped because the writer is behind.
    pub(crate) fn offer(&self, batch: Vec<u8>) -> bool {
        self.0.try_send(batch).is_ok()
    }
}

/// The time as text, made anew only once a second.
#[derive(Default)]
pub(crate) struct Stamp {
    second: u64,
    text: String,
}

impl Stamp {
    /// RFC 3339 with milliseconds.
    pub(crate) fn at(&mut self, now: Timestamp) -> &str {
        let millis = now.as_millis();
        if self.second != millis / 1000 || self.text.is_empty() {
            self.second = millis / 1000;
            self.text = Timestamp::from_millis(self.second * 1000).to_rfc3339();
        }
        let end = self.text.len();
        let digits = [millis / 100 % 10, millis / 10 % 10, millis % 10].map(|d| char::from(b'0' + d as u8));
        self.text.truncate(end - 4);
        self.text.extend(digits);
        self.text.push('Z');
        &self.text
    }
}

/// Room for most lines, made once a line.
const LINE_BYTES: usize = 768;

/// Appends a request's line.
pub(crate) fn write_line(out: &mut Vec<u8>, time: &str, facts: &Facts, took: Duration) {
    out.reserve(LINE_BYTES);
    out.push(b'{');
    plain(out, "time", time);
    plain(out, "protocol", protocol(facts));
    plain(out, "method", facts.method.as_str());
    text(out, "host", facts.host());
    text(out, "path", facts.path.as_ref().map_or("", |path| path.path()));
    number(out, "status", u64::from(facts.status));
    plain(out, "reason", facts.reason);
    number(out, "duration_us", took.as_micros() as u64);
    number(out, "bytes_in", facts.bytes_in());
    number(out, "bytes_out", facts.bytes);
    number(out, "attempts", u64::from(facts.attempts));
    if let Some(rule) = &facts.rule {
        plain(out, "route", &rule.label);
        text(out, "route_written_at", &rule.written_at);
    }
    if let Some(service) = &facts.service {
        plain(out, "namespace", service.key.namespace.as_str());
        plain(out, "service", service.key.name.as_str());
    }
    if let Some(endpoint) = &facts.endpoint {
        text(out, "endpoint", &endpoint.name);
    }
    plain(out, "client", facts.inlet.client.address_text());
    if let Some(caller) = &facts.inlet.client.identity {
        plain(out, "caller_namespace", caller.service.namespace.as_str());
        plain(out, "caller", caller.service.name.as_str());
    }
    if let Some(pass) = &facts.pass {
        pass.allowed_by().into_iter().for_each(|policy| plain(out, "policy", policy));
        pass.doubted_by().into_iter().for_each(|policy| plain(out, "would_refuse", policy));
    }
    if let Some(document) = &facts.refused_by {
        text(out, "refused_by", document);
    }
    if facts.inlet.is_plaintext() {
        plain(out, "transport", "plaintext");
    }
    plain(out, "trace_id", facts.trace.id());
    plain(out, "request_id", facts.request_id());
    // Every field ends with a comma; the last one's becomes the end.
    out.pop();
    out.extend_from_slice(b"}\n");
}

fn name(out: &mut Vec<u8>, name: &str) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// A value that holds nothing to be escaped: times, methods, names, our own words, request ids (checked when they came in).
fn plain(out: &mut Vec<u8>, field: &str, value: &str) {
    name(out, field);
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\",");
}

fn text(out: &mut Vec<u8>, field: &str, value: &str) {
    name(out, field);
    out.push(b'"');
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..b' ' | 0x7f);
    let mut rest = value.as_bytes();
    // Bytes beyond ASCII are parts of characters that JSON takes as they are.
    while let Some(at) = rest.iter().position(is_special) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            _ => out.push(b'?'),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(b"\",");
}

fn number(out: &mut Vec<u8>, field: &str, value: u64) {
    name(out, field);
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.push(b',');
}
