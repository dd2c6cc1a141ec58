//! Every bound of the data path, with its reason.

use std::time::Duration;

/// Making a connection, TLS included. Within a data centre it takes under 10 ms; 2 s outlasts one lost SYN (1 s).
pub(crate) const CONNECT: Duration = Duration::from_secs(2);
/// From a request's last byte to its answer's head, when its rule says nothing: outlasts a long poll of 30 s.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);
/// An answer or a call of gRPC that is under way, without a byte in either direction, when its policy says nothing.
pub(crate) const SILENCE: Duration = Duration::from_secs(300);
/// The same of what may rightly be silent for long: streams of gRPC and of events that have begun, changed protocols.
pub(crate) const STREAM_SILENCE: Duration = Duration::from_secs(3600);
/// How long the first request to a service waits for the control plane to say where it is.
pub(crate) const WANT: Duration = Duration::from_secs(2);
/// The same for a name without a dot, which may well be a host's and no service's: a control plane on the same network answers in
/// a tenth of it.
pub(crate) const WANT_BARE: Duration = Duration::from_millis(250);
/// Services that may be asked for by first use; an app that invents names must not fill the control plane.
pub(crate) const WANTS_MAX: usize = 10_000;
/// A TLS handshake of a peer that came in.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(10);
/// Longest request body that is read whole before it is sent, so that it can be sent again.
pub(crate) const REPLAY_BYTES_MAX: usize = 64 * 1024;
/// What is read and dropped of a request's body after an early answer, so that a client that sends all before it reads is answered.
pub(crate) const UNREAD_BYTES_MAX: usize = 16 << 20;
/// For so long; other servers' lingering close is as long.
pub(crate) const UNREAD: Duration = Duration::from_secs(30);
/// Copies of requests under way from one worker; more are not sent: a slow second service must not fill the first one's proxy.
pub(crate) const MIRRORS_MAX: u32 = 256;
/// How long a copy may take.
pub(crate) const MIRROR: Duration = Duration::from_secs(15);
/// Retries of an attempt that failed, when its rule says nothing.
pub(crate) const RETRIES: u32 = 2;
/// Retries whatever a rule says: more would only prolong an outage.
pub(crate) const RETRIES_MAX: u32 = 10;
/// Longest wait before a retry, unless its policy asks for more: within a second most of what gets well by waiting has.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Longest `Retry-After` that is waited for; clients of longer ones are told, and know better what to do meanwhile.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);
/// Wait before a retry when its rule says nothing; the retry leaves the failed host, so there is little to wait for.
pub(crate) const BACKOFF: Duration = Duration::from_millis(5);
/// Idle HTTP/1.1 connections kept for each endpoint by each worker.
pub(crate) const IDLE_PER_ENDPOINT_MAX: usize = 128;
/// An idle connection older than this is not used: many servers close theirs after 60 s, some after 5.
pub(crate) const IDLE: Duration = Duration::from_secs(45);
/// Between two looks at a worker's connections for such ones.
pub(crate) const TIDY: Duration = Duration::from_secs(10);
/// Requests under way to one endpoint, over all workers; more are sent elsewhere or refused.
pub(crate) const IN_FLIGHT_PER_ENDPOINT_MAX: u32 = 10_000;
/// Requests under way to one service, over all workers, when its policy says nothing: a service that lets so many wait has stopped
/// answering, and each costs some kilobytes.
pub(crate) const REQUESTS_PER_SERVICE_MAX: u32 = 50_000;
/// Requests that wait for one of those to end, when the policy says nothing.
pub(crate) const PENDING_PER_SERVICE_MAX: u32 = 1_000;
/// How long they wait: a short crowd passes, a client of an overloaded service is told soon.
pub(crate) const PENDING: Duration = Duration::from_millis(250);
/// Requests under way on one HTTP/2 connection that came in.
pub(crate) const STREAMS_PER_CONNECTION_MAX: u32 = 1024;
/// Requests under way on one HTTP/2 connection to an endpoint before its settings are known; what RFC 9113 asks of a server at least.
pub(crate) const STREAMS_BEFORE_SETTINGS: usize = 100;
/// HTTP/2 connections of a worker to one endpoint. A further one is made when all take no more requests: a server that takes 100 at
/// a time gets 1,600.
pub(crate) const CONNECTIONS_PER_ENDPOINT_MAX: usize = 16;
/// An HTTP/2 connection to an endpoint on which nothing runs for so long is closed.
pub(crate) const CHANNEL_IDLE: Duration = Duration::from_secs(300);
/// And one that came in from another sidecar: making it anew costs both of us a handshake, so it is kept longer than a stranger's.
pub(crate) const MESH_IDLE: Duration = Duration::from_secs(600);
/// Names and values of a head in HTTP/2, with 32 bytes for each field (RFC 9113 section 6.5.2); as in HTTP/1.1.
pub(crate) const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// What of one stream's body waits in HTTP/2 for its connection to write it: as much as one write takes, for a few streams at once.
pub(crate) const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes of a body that are handed on before the peer is asked whether it wants them: small answers leave with their heads.
pub(crate) const UNASKED_BYTES: usize = 1024;
/// Streams that we reset and still know, so that what was under way on them is dropped and not taken for an error; forgotten after a
/// second.
pub(crate) const RESET_STREAMS_KEPT: usize = 1024;
/// What small DATA frames (below 256 bytes) that wait on one connection may cost in bookkeeping, at 256 bytes each: a service
/// that streams small messages to one client that does not read must not lose the connection that all others use.
pub(crate) const SMALL_FRAMES_BYTES_MAX: usize = 32 << 20;
/// A client that takes nothing of its answer for so long is cut off; other proxies wait as long.
pub(crate) const STALL: Duration = Duration::from_secs(300);
/// Frames of HTTP/2 that carry no part of a message (PING, SETTINGS, RST_STREAM, …) which a client may send at once: a browser sends
/// about 10, a library that measures its line some hundreds.
pub(crate) const CONTROL_FRAMES_BURST: i64 = 2_000;
/// Requests that a client may take back before an answer, each within [`EARLY_RESET`] of sending it, between two beats of its connection
/// (a quarter of a minute); each request that it lets be answered allows for one more. Other proxies end a connection after 500 or so of
/// which most were taken back.
pub(crate) const EARLY_RESETS: i32 = 1_000;
/// A caller whose time is up takes requests back too, but hardly this soon.
pub(crate) const EARLY_RESET: Duration = Duration::from_millis(100);
/// An HTTP/2 connection that ends by an error has so long to take in what is said of it.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(1);
/// And in each second, beside those that requests and their bodies earn: 200 cost us 0.02 % of a core.
pub(crate) const CONTROL_FRAMES_PER_SECOND: f64 = 200.0;
/// HTTP/2 window of a stream: 1 MiB moves 80 Gbit/s at 0.1 ms and 80 Mbit/s at 100 ms.
pub(crate) const STREAM_WINDOW: u32 = 1024 * 1024;
/// HTTP/2 window of a connection.
pub(crate) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// From a connection's beginning or its last answer to a whole head (slow-loris guard and idle limit in one).
pub(crate) const HEAD: Duration = Duration::from_secs(75);
/// When a drain begins, kept connections stay this long, so that a client that is just sending its next request is answered (with
/// `Connection: close`) and not cut off: longer than a way around the world and a busy client's pause.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// Foreign hosts (forward proxy) whose connections a worker keeps.
pub(crate) const FOREIGN_MAX: usize = 256;
/// Series that a proxy shows in all, whatever the traffic: what a scrape of some 200 kB holds, and what a time-series database takes
/// from a thousand proxies.
pub(crate) const SERIES_MAX: usize = 2_000;
/// Policies whose refusals have a series of their own.
pub(crate) const POLICIES_SHOWN_MAX: usize = 40;
/// Policies whose refusals a worker counts apart.
pub(crate) const POLICIES_COUNTED_MAX: usize = 1_000;
/// Access policies whose decisions have series of their own, three each; the rest is counted as one.
pub(crate) const SERIES_POLICIES_MAX: usize = 32;
/// Bytes of access records that a worker gathers before they are handed over: each hand-over wakes the writer's thread, and
/// 16 KiB cost 1 us a request more at full load.
pub(crate) const RECORD_BATCH_BYTES: usize = 64 * 1024;
/// Longest time a record waits in a batch.
pub(crate) const RECORD_BATCH_AGE: Duration = Duration::from_millis(200);
/// How often allowances of the request path are filled again: with each batch.
pub(crate) const REFILLS_PER_SECOND: u32 = 5;
/// Live requests that each worker keeps until they are collected, ten times a second while anybody looks.
pub(crate) const TAPPED_KEPT_MAX: usize = 1_024;
/// Spans that each worker keeps until they are collected, some 1 kB each.
pub(crate) const SPANS_KEPT_MAX: usize = 2_048;
/// How often spans are collected for the collector.
pub(crate) const SPANS_EVERY: Duration = Duration::from_millis(500);
/// Spans that wait to be reported to the node, which hears once a second.
pub(crate) const SPANS_REPORTED_MAX: usize = 1_000;
/// How long the last spans may take at the end.
pub(crate) const LAST_SPANS: Duration = Duration::from_secs(2);
/// Failures a second of each worker whose spans are made though they were not sampled.
pub(crate) const LATE_TRACES_PER_SECOND: f64 = 20.0;
/// Batches that may wait for the writer; more are dropped and counted.
pub(crate) const RECORD_BATCHES_MAX: usize = 64;
/// Failures that each worker keeps for `causeway why`; some 2 kB each.
pub(crate) const FAILURES_KEPT: usize = 512;
/// Failures a second that each worker tells in full; an outage at full load has thousands alike, and telling one costs some 3 us.
pub(crate) const FAILURES_TOLD_PER_SECOND: f64 = 200.0;
/// Failures that wait in each worker to be reported to the node; the node hears once a second, so that no more are told than this.
pub(crate) const FAILURES_UNREPORTED_MAX: usize = 256;
/// Attempts, endpoints and notes (each) that the story of a failed request has.
pub(crate) const STORY_LINES_MAX: usize = 16;
/// Bytes of one line of a story: error texts come from outside.
pub(crate) const STORY_WORDS_MAX: usize = 400;
/// A silent peer of a connection of bytes is asked by the kernel whether it lives; one that was cut off is noticed within minutes.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(60);
/// Buffers of 16 KiB, buffers of 256 KiB, and pipes that a worker keeps when nobody uses them: 3 MiB and 128 file descriptors.
pub(crate) const SPARE_SMALL_MAX: usize = 64;
pub(crate) const SPARE_LARGE_MAX: usize = 8;
pub(crate) const SPARE_PIPES_MAX: usize = 64;
/// Largest compiled regular expression of a route.
pub(crate) const REGEX_BYTES_MAX: usize = 1 << 20;
/// Heads (1xx) that announce one answer; a service that sends no other would never answer.
pub(crate) const INTERIM_ANSWERS_MAX: u32 = 32;
/// Clients that a rate limit tells apart; more share one bucket.
pub(crate) const RATE_KEYS_MAX: usize = 16_384;
/// Requests that wait for a place at a service's gate when its policy says nothing: about what a busy service answers within the wait.
pub(crate) const GATE_QUEUE: usize = 256;
/// How long they wait: most clients bear it, and a burst passes in it.
pub(crate) const GATE_WAIT: Duration = Duration::from_millis(500);
/// How long a service's callers are taken for such that say how urgent their calls are, since one did.
pub(crate) const PRIORITIES_COUNT: Duration = Duration::from_secs(30);
/// How long a connection that we end waits for its client to end too; one that lives does within a way there and back.
pub(crate) const PARTING: Duration = Duration::from_secs(2);
/// So long without a request for the app, and those that were on their way when we said goodbye have come or gone elsewhere.
pub(crate) const QUIET: Duration = Duration::from_millis(100);
