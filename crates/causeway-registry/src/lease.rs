//! What keeps instances registered: owners, connections, deadlines, and the queue by which deadlines are found.
//!
//! In:    registrations and signs of life.      Out: whose lease has run out, at a cost of those alone.
//! Owner: `machine.rs`. Owner and drain follow from the journal; connections and deadlines live in memory only.
//! Invariant: every instance has one seat; a seat with a deadline is queued once, at or before that deadline.
//! Not here: what becomes of an instance whose lease ran out (`machine.rs`, `guard.rs`).

use causeway_model::{Instance, InstanceKey, Lease, Lifecycle, Timestamp};
use imbl::{HashMap, OrdSet};

use crate::command::{ConnectionId, Owner};
use crate::limits::{CONNECTION_GRACE, RETURN_GRACE, SUSPECT_AGE_MAX};

/// What is known of one registration beside the picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seat {
    pub(crate) owner: Option<Owner>,
    /// Somebody drained it, whatever its lifecycle is now (a lost one that comes back goes on draining).
    pub(crate) is_drained: bool,
    pub(crate) connection: Option<ConnectionId>,
    /// When its lease ends.
    pub(crate) deadline: Option<Timestamp>,
    /// Where it stands in the queue: at or before the deadline. A heartbeat moves the deadline alone, so that it costs one
    /// look-up; the queue is set right when the old place comes up (`settle`).
    queued: Option<Timestamp>,
}

/// Every seat.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seats {
    by_key: HashMap<InstanceKey, Seat>,
    queue: OrdSet<(Timestamp, InstanceKey)>,
    connections: OrdSet<(ConnectionId, InstanceKey)>,
    /// Deadlines are kept only once the journal is replayed: before that nobody can have renewed.
    is_live: bool,
}

impl Seats {
    pub(crate) fn get(&self, key: &InstanceKey) -> Option<&Seat> {
        self.by_key.get(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Seats a registration, or seats it anew: bound to no connection until `bind`.
    pub(crate) fn seat(&mut self, instance: &Instance, owner: Option<Owner>, at: Timestamp) {
        let seat = self.by_key.entry(instance.key.clone()).or_default();
        if let Some(connection) = seat.connection.take() {
            self.connections.remove(&(connection, instance.key.clone()));
        }
        seat.owner = owner;
        seat.is_drained = instance.lifecycle == Lifecycle::Draining;
        self.renew(instance, at);
    }

    pub(crate) fn remove(&mut self, key: &InstanceKey) {
        let Some(seat) = self.by_key.remove(key) else { return };
        if let Some(connection) = seat.connection {
            self.connections.remove(&(connection, key.clone()));
        }
        if let Some(at) = seat.queued {
            self.queue.remove(&(at, key.clone()));
        }
    }

    pub(crate) fn drain(&mut self, key: &InstanceKey) {
        if let Some(seat) = self.by_key.get_mut(key) {
            seat.is_drained = true;
        }
    }

    /// Binds an instance to the connection that keeps it.
    pub(crate) fn bind(&mut self, key: &InstanceKey, connection: ConnectionId) {
        let Some(seat) = self.by_key.get_mut(key) else { return };
        if let Some(before) = seat.connection.replace(connection) {
            self.connections.remove(&(before, key.clone()));
        }
        self.connections.insert((connection, key.clone()));
        self.set_deadline(key, None);
    }

    /// The connection is no more; what it kept is unbound.
    pub(crate) fn disconnect(&mut self, connection: ConnectionId) {
        for key in self.connected(connection) {
            self.connections.remove(&(connection, key.clone()));
            if let Some(seat) = self.by_key.get_mut(&key) {
                seat.connection = None;
            }
        }
    }

    /// What the connection keeps.
    pub(crate) fn connected(&self, connection: ConnectionId) -> Vec<InstanceKey> {
        self.connection(connection).cloned().collect()
    }

    /// How much the connection keeps beside `key`.
    pub(crate) fn connected_count(&self, connection: ConnectionId, key: &InstanceKey) -> usize {
        self.connection(connection).filter(|kept| *kept != key).count()
    }

    fn connection(&self, connection: ConnectionId) -> impl Iterator<Item = &InstanceKey> {
        let least = least_key().map(|least| (connection, least));
        let from = least.map(|least| self.connections.range(least..));
        let of = from.into_iter().flatten();
        of.take_while(move |(of, _)| *of == connection).map(|(_, key)| key)
    }

    /// Sets the deadline from `at` on, by the instance's lease and where it is in its life.
    pub(crate) fn renew(&mut self, instance: &Instance, at: Timestamp) {
        if !self.is_live {
            return;
        }
        let Some(seat) = self.by_key.get(&instance.key) else { return };
        let deadline = match (instance.lifecycle, instance.lease) {
            (Lifecycle::Lost, _) => Some(at.plus(CONNECTION_GRACE)),
            (Lifecycle::Suspect, _) => Some(at.plus(SUSPECT_AGE_MAX)),
            (_, Lease::Permanent) => None,
            (_, Lease::Ttl(ttl)) => Some(at.plus(ttl)),
            (_, Lease::Connection) if seat.connection.is_some() => None,
            (_, Lease::Connection) => Some(at.plus(RETURN_GRACE)),
        };
        self.set_deadline(&instance.key, deadline);
    }

    /// The registry was away: every lease begins anew at `now`, and no lease by heartbeat ends before `RETURN_GRACE`.
    /// Connections stay bound: who lost one while we were away will say so.
    pub(crate) fn resume<'a>(&mut self, instances: impl Iterator<Item = &'a Instance>, now: Timestamp) {
        self.is_live = true;
        for instance in instances {
            self.renew(instance, now);
            let is_short = |deadline: Timestamp| deadline.since(now) < RETURN_GRACE;
            let deadline = self.by_key.get(&instance.key).and_then(|seat| seat.deadline);
            if deadline.is_some_and(is_short) {
                self.set_deadline(&instance.key, Some(now.plus(RETURN_GRACE)));
            }
        }
    }

    fn set_deadline(&mut self, key: &InstanceKey, deadline: Option<Timestamp>) {
        let Some(seat) = self.by_key.get_mut(key) else { return };
        seat.deadline = deadline;
        let stays = match (seat.queued, deadline) {
            (Some(queued), Some(deadline)) => queued <= deadline,
            (queued, deadline) => queued.is_none() && deadline.is_none(),
        };
        if stays {
            return;
        }
        let before = std::mem::replace(&mut seat.queued, deadline);
        if let Some(at) = before {
            self.queue.remove(&(at, key.clone()));
        }
        if let Some(at) = deadline {
            self.queue.insert((at, key.clone()));
        }
    }

    /// Sets the queue right up to `now`: afterwards whoever is queued at or before it has truly run out.
    pub(crate) fn settle(&mut self, now: Timestamp) {
        let due: Vec<_> = self.queue.iter().take_while(|(at, _)| *at <= now).cloned().collect();
        for (at, key) in due {
            let Some(seat) = self.by_key.get_mut(&key) else { continue };
            if seat.deadline.is_none_or(|deadline| deadline > now) {
                seat.queued = seat.deadline;
                self.queue.remove(&(at, key.clone()));
                if let Some(deadline) = seat.deadline {
                    self.queue.insert((deadline, key));
                }
            }
        }
    }

    /// Whose lease has run out at `now`, oldest first.
    pub(crate) fn expired(&self, now: Timestamp) -> impl Iterator<Item = &InstanceKey> {
        let has_run_out = move |key: &&InstanceKey| {
            self.by_key.get(*key).and_then(|seat| seat.deadline).is_some_and(|deadline| deadline <= now)
        };
        self.queue.iter().take_while(move |(at, _)| *at <= now).map(|(_, key)| key).filter(has_run_out)
    }

    /// When to look next.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.queue.get_min().map(|(at, _)| *at)
    }

    /// What must hold of each seat (see `invariants.rs`).
    pub(crate) fn problem(&self) -> Option<String> {
        let queued = self.by_key.values().filter(|seat| seat.queued.is_some()).count();
        if queued != self.queue.len() {
            return Some(format!("{queued} seats are queued, the queue holds {}", self.queue.len()));
        }
        let bound = self.by_key.values().filter(|seat| seat.connection.is_some()).count();
        if bound != self.connections.len() {
            return Some(format!("{bound} seats are connected, the index holds {}", self.connections.len()));
        }
        self.by_key.iter().find_map(|(key, seat)| match (seat.queued, seat.deadline) {
            (None, None) => None,
            (Some(queued), Some(deadline)) if queued <= deadline => None,
            found => Some(format!("{key} is queued and due at {found:?}")),
        })
    }
}

/// The key before all others.
fn least_key() -> Option<InstanceKey> {
    let service = causeway_model::ServiceKey::parse("0", "0").ok()?;
    Some(InstanceKey { service, id: causeway_model::InstanceId::new("!").ok()? })
}
