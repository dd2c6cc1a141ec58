//! Every bound of the registry, with its reason. What is past one is refused with `Kind::Full` or `Kind::Invalid`.

use std::time::Duration;

// === how much ===

/// Instances of one service. A service of more wants subsets: a client that lists it would read megabytes.
pub const SERVICE_INSTANCES_MAX: usize = 20_000;
/// Instances in all: four times the size that NUMBERS.md asks one node to hold, about 400 MB.
pub const INSTANCES_MAX: usize = 400_000;
/// Registrations in one [`crate::Command::RegisterMany`], so that one caller cannot hold the others up.
pub const REGISTER_MANY_MAX: usize = 5_000;
/// Bytes of an instance's metadata, keys and values together (Consul allows 64 pairs of 640 bytes, about 40 KiB).
pub const METADATA_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an instance's other texts together: address, version, tags, locality, port names, checks.
pub const INSTANCE_TEXT_BYTES_MAX: usize = 16 * 1024;
/// Checks of one instance that the node runs; more would make one instance a load on its own.
pub const CHECKS_MAX: usize = 16;
/// Objects in all: ten times the routes that NUMBERS.md asks for.
pub const OBJECTS_MAX: usize = 100_000;
/// Objects in one [`crate::Command::Apply`]: a directory of 5,000 routes goes in at once, with room.
pub const APPLY_OBJECTS_MAX: usize = 10_000;
/// Records of one command. With a batch's own bound it stays below what the store commits at once (16,384).
pub const COMMAND_RECORDS_MAX: usize = 12_000;
/// Instances that one connection keeps: a sidecar keeps one, an importer's connection some.
pub const CONNECTION_INSTANCES_MAX: usize = 5_000;
/// Leases that one look at the clock ends; the rest is seen to at the next look, so that others are heard in between.
pub const TICK_EXPIRIES_MAX: usize = 5_000;
/// Bytes of one object in its binary form with the document beside it; a ConfigMap's limit is 1 MiB too.
pub const OBJECT_BYTES_MAX: usize = 1024 * 1024;
/// Tokens in all, expired ones not counted.
pub const TOKENS_MAX: usize = 50_000;
/// Bytes of the texts of one token (caller, rules).
pub const TOKEN_TEXT_BYTES_MAX: usize = 16 * 1024;
/// Certificates that are issued and not expired: 30,000 proxies, each with a few overlapping ones.
pub const ISSUED_MAX: usize = 500_000;
/// Bytes of the list of what is revoked: it travels to every proxy as one resource, of which 1 MiB may be sent. Some 5,000 single
/// certificates; a revoked service is one entry however many it has.
pub const REVOCATIONS_BYTES_MAX: usize = 512 * 1024;
/// Bytes of an owner's name.
pub const OWNER_BYTES_MAX: usize = 256;
/// Bytes of a token's id or a certificate's serial number in text.
pub const ID_BYTES_MAX: usize = 128;
/// Services that are gone of which the revision of the last change is remembered for blocking queries; a query for an older
/// one is answered at once with the present state, which costs its caller one look too many and nothing else.
pub const GONE_SERVICES_MAX: usize = 10_000;

// === the queue and its batches ===

/// Commands that wait for the driver; more callers wait at the door (`submit` is pending, nothing is lost).
pub const QUEUE_MAX: usize = 8_192;
/// Commands decided as one batch, so that the first of them waits at most some 20 ms for the last to be decided.
pub const BATCH_COMMANDS_MAX: usize = 4_096;
/// Records after which a batch is closed. One command is never split, so a batch may be larger by one command.
pub const BATCH_RECORDS_MAX: usize = 4_096;
/// Bytes of records after which a batch is closed, likewise.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of the records of one command. With a batch's own bound it stays below what the store commits at once (24 MiB).
pub const COMMAND_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a command waits for a place in the queue before its caller is told to come back.
pub const QUEUE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often a batch is decided again because someone else wrote first, before its callers are told to come back.
pub const DECIDE_AGAIN_MAX: u32 = 8;

// === leases ===

/// Shortest lease by heartbeat: below it, one lost packet empties the map.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// Longest lease by heartbeat; who wants longer wants `Lease::Permanent`.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long an instance whose connection broke is kept (not routable) for its owner to come back: with the time a broken
/// connection takes to be noticed and a tick, "connection loss <= 1 s" (NUMBERS.md) holds.
pub const CONNECTION_GRACE: Duration = Duration::from_millis(700);
/// What every lease gets when the registry was away (a restart, a stalled disk, a suspended machine): nobody could renew
/// then, so nobody is punished. Three heartbeats of the default lease, and a connected sidecar is back in a second or two.
pub const RETURN_GRACE: Duration = Duration::from_secs(15);
/// The registry was away when it looks at its leases later than it meant to by more than this, or when the wall clock
/// jumps by more than this against the monotone one.
pub const AWAY_MIN: Duration = Duration::from_secs(2);
/// Time between two looks at the leases at least: expiries of one moment become one revision.
pub const TICK_MIN: Duration = Duration::from_millis(100);

// === the mass-expiry guard ===

/// Expiries within this time count as one event: one cause shows itself over one heartbeat interval, which is a third of a
/// lease as a rule, and leases beyond three minutes are rare.
pub const GUARD_WINDOW: Duration = Duration::from_secs(60);
/// The guard holds when more than this share (in percent) of a service's or zone's instances expire within the window.
/// Rolling updates with 25 % unavailable (the Kubernetes default) and the loss of one zone of three (33 %) stay below it.
pub const GUARD_SHARE_PERCENT: usize = 40;
/// ...and at least so many do: of a service with one or two instances, one that dies is likely just dead.
pub const GUARD_EXPIRIES_MIN: usize = 3;
/// The same for a zone. Small zones are one rack or one machine, whose end is mostly real; and each service is guarded too.
pub const GUARD_ZONE_EXPIRIES_MIN: usize = 10;
/// How long an instance stays suspect without a sign of life before it is removed after all. Longer than a switch's
/// reboot, shorter than an operator's patience with addresses of dead machines (calls to those are retried elsewhere).
pub const SUSPECT_AGE_MAX: Duration = Duration::from_secs(300);

// === waiting ===

/// Longest blocking query (Consul's limit is ten minutes as well).
pub const WAIT_MAX: Duration = Duration::from_secs(600);
