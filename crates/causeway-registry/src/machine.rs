//! The registry's state, and what may become of it: says yes or no, never does.
//!
//! In:    [`Command`]s and the time.      Out: [`Record`]s to be written, and the state that they lead to.
//! Owner: the driver task; a test may run one a million times without a runtime.
//! Invariant: `apply` never refuses what `decide` gave for the same state, and replaying the records gives the state again
//! (but for deadlines and connections, which are observations).
//! Not here: instances (`instances.rs`), objects (`objects.rs`), tokens and certificates (`secrets.rs`), what must hold of the whole (`invariants.rs`).
//!
//! ```text
//! decide(&self, now, command) -> Decision { records, answer }      pure
//! apply(&mut self, record)                                         decrees: what the journal says
//! observe(&mut self, now, command, answer)                         observations: signs of life, connections
//! ```

use std::sync::Arc;

use causeway_model::{ObjectKey, Revision, Snapshot, Timestamp};
use imbl::{OrdMap, OrdSet};

use crate::command::{Answer, Command};
use crate::error::Error;
use crate::guard::Guard;
use crate::journal::{Decree, Record};
use crate::lease::Seats;
use crate::limits::COMMAND_RECORDS_MAX;
use crate::services::Services;
use crate::token::{Issued, Serial, Token, TokenId};

/// The whole state. A clone is cheap: every map shares what it does not change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) snapshot: Snapshot,
    pub(crate) seats: Seats,
    pub(crate) guard: Guard,
    pub(crate) services: Services,
    /// Who names whom: (named, by).
    pub(crate) referrers: OrdSet<(ObjectKey, ObjectKey)>,
    /// Which objects came from which file.
    pub(crate) files: OrdSet<(Arc<str>, ObjectKey)>,
    pub(crate) tokens: OrdMap<TokenId, Arc<Token>>,
    pub(crate) token_ends: OrdSet<(Timestamp, TokenId)>,
    pub(crate) issued: OrdMap<Serial, Arc<Issued>>,
    pub(crate) issued_ends: OrdSet<(Timestamp, Serial)>,
}

/// What a command leads to.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// To be written and applied, all or none; empty for an observation without a transition.
    pub(crate) records: Vec<Record>,
    pub(crate) answer: Answer,
}

/// What a part of the machine decided, before it is dated.
pub(crate) type Decided = Result<(Vec<Decree>, Answer), Error>;

impl Machine {
    /// Says what `command` leads to, or why it is refused.
    pub(crate) fn decide(&self, now: Timestamp, command: &Command) -> Result<Decision, Error> {
        let next = self.snapshot.revision().next();
        let decided = match command {
            Command::Register(registration) => self.register(now, next, registration),
            Command::RegisterMany(many) => self.register_many(now, next, many),
            Command::Heartbeat { key, epoch, health } => self.heartbeat(key, *epoch, *health),
            Command::Report { key, epoch, health } => self.report(key, *epoch, *health),
            Command::Drain { key, epoch } => self.drain(key, *epoch),
            Command::Deregister { key, epoch } => self.deregister(key, *epoch),
            Command::ConnectionLost { connection } => self.connection_lost(*connection),
            Command::Tick => self.tick(now),
            Command::Apply { objects, is_dry_run: true, prune } => self.rehearse(now, next, objects, prune),
            Command::Apply { objects, is_dry_run: false, prune } => self.write_objects(next, objects, prune),
            Command::Delete { key, origin } => self.delete(key, origin),
            Command::IssueToken(token) => self.issue_token(now, token),
            Command::RevokeToken { id } => self.revoke_token(id),
            Command::RecordIssued { issued, by } => self.record_issued(now, issued, by.as_ref()),
            Command::RevokeIssued { serial } => self.revoke_issued(serial),
            Command::RevokeService { service } => self.revoke_service(now, service),
        };
        let (decrees, mut answer) = decided?;
        if decrees.len() > COMMAND_RECORDS_MAX {
            return Err(Error::full(
                "cannot take the command",
                "changes in one command",
                COMMAND_RECORDS_MAX,
            ));
        }
        answer.is_changed = !decrees.is_empty();
        answer.revision = if answer.is_changed { next } else { self.snapshot.revision() };
        let dated = |decree| Record { revision: next, at: now, decree };
        Ok(Decision { records: decrees.into_iter().map(dated).collect(), answer })
    }

    /// Takes a record into the state.
    pub(crate) fn apply(&mut self, record: &Record) {
        let Record { revision, at, decree } = record;
        let (revision, at) = (*revision, *at);
        self.snapshot.advance(revision);
        match decree {
            Decree::Registered { instance, owner } => self.apply_registered(instance, owner, revision, at),
            Decree::HealthChanged { key, health } => {
                self.update(key, revision, |instance| instance.health = *health)
            }
            Decree::Drained { key } => self.apply_drained(key, revision, at),
            Decree::Removed { key, why } => self.apply_removed(key, *why, revision, at),
            Decree::Lost { key } => self.apply_lost(key, revision, at),
            Decree::Suspected { key } => self.apply_suspected(key, revision, at),
            Decree::Returned { key } => self.apply_returned(key, revision, at),
            Decree::Written { object } => self.apply_written(object, revision, at),
            Decree::Deleted { key } => self.apply_deleted(key, revision, at),
            Decree::Moved { key, line } => self.apply_moved(key, *line, revision),
            Decree::TokenIssued { token } => self.apply_token(token, at),
            Decree::TokenRevoked { id } => self.forget_token(id),
            Decree::CertificateIssued { issued } => self.apply_issued(issued, revision, at),
            Decree::CertificateRevoked { serial } => self.apply_revoked(serial, revision, at),
            Decree::ServiceRevoked { service, until } => {
                self.apply_service_revoked(service, *until, revision, at)
            }
        }
    }

    /// Takes what is not written down: signs of life and connections of a command that was taken.
    pub(crate) fn observe(&mut self, now: Timestamp, command: &Command, answer: &Answer) {
        match command {
            Command::Register(registration) => self.seen(now, std::slice::from_ref(registration), answer),
            Command::RegisterMany(many) => self.seen(now, many, answer),
            Command::Heartbeat { key, .. } => self.beat(now, key),
            Command::ConnectionLost { connection } => self.seats.disconnect(*connection),
            _ => {}
        }
    }

    /// Sets right what only time changes; costs what is due.
    pub(crate) fn settle(&mut self, now: Timestamp) {
        self.seats.settle(now);
        self.guard.forget(now);
    }

    /// The registry was away until `now` (a restart, a stall): every lease begins anew.
    pub(crate) fn resume(&mut self, now: Timestamp) {
        let Machine { snapshot, seats, .. } = self;
        seats.resume(snapshot.instances().map(|instance| &**instance), now);
    }

    /// Completes an answer with what is known once its records are applied.
    pub(crate) fn complete(&self, answer: &mut Answer) {
        for applied in &mut answer.objects {
            if let Some(object) = self.snapshot.object(&applied.key) {
                applied.conditions = object.conditions.clone();
            }
        }
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> Revision {
        self.snapshot.revision()
    }
}

#[cfg(test)]
#[path = "machine/tests.rs"]
mod tests;
