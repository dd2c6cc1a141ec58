//! What must hold of the state whatever was said: one truth, checked by the driver in debug builds and by property tests.
//!
//! In:    a machine, and the one it came from.      Out: the first thing that does not hold, in words.
//! Owner: nobody; pure.
//! Not here: what must hold of answers (tests at the handle).

use causeway_model::{Lease, Lifecycle};

use crate::machine::Machine;

/// Looks at everything; its cost is the state's size.
pub(crate) fn check(machine: &Machine) -> Result<(), String> {
    let revision = machine.revision();
    for instance in machine.snapshot.instances() {
        let key = &instance.key;
        let seat = machine.seats.get(key).ok_or_else(|| format!("{key} has no seat"))?;
        let is_right = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{key}: {what}")) };
        is_right(instance.revision <= revision, "is newer than the picture")?;
        is_right(instance.epoch.get() <= instance.revision.get(), "its epoch is after its last change")?;
        let is_connected = instance.lease == Lease::Connection;
        is_right(!is_connected || seat.owner.is_some(), "a lease by connection without an owner")?;
        is_right(is_connected || seat.connection.is_none(), "a connection keeps what it should not")?;
        let is_draining = instance.lifecycle == Lifecycle::Draining;
        is_right(!is_draining || seat.is_drained, "drains though nobody said so")?;
        let is_lost = instance.lifecycle == Lifecycle::Lost;
        is_right(!is_lost || !instance.is_routable(), "is lost and routable")?;
        let is_counted = machine.services.instances(&key.service) > 0;
        is_right(is_counted && machine.services.is_there(&key.service), "its service is not there")?;
    }
    if machine.seats.len() != machine.snapshot.instance_count() {
        return Err(format!(
            "{} seats, {} instances",
            machine.seats.len(),
            machine.snapshot.instance_count()
        ));
    }
    for object in machine.snapshot.objects() {
        if object.revision > revision {
            return Err(format!("{} is newer than the picture", object.key));
        }
        if object.conditions.is_empty() {
            return Err(format!("nothing is said of {}", object.key));
        }
    }
    let problem = machine.seats.problem();
    let counts = || machine.guard.problem(machine.snapshot.instances().map(|instance| &**instance));
    problem.or_else(counts).map_or(Ok(()), Err)
}

/// Once the state is settled at `now` and ticked, nobody's lease has run out. For tests: a node that cannot write must be
/// allowed to be late.
#[cfg(test)]
pub(crate) fn check_ticked(machine: &Machine, now: causeway_model::Timestamp) -> Result<(), String> {
    match machine.seats.expired(now).next() {
        Some(key) => Err(format!("{key} outlives its lease")),
        None => Ok(()),
    }
}

/// From one state to a later one, revisions and epochs only grow.
pub(crate) fn check_step(before: &Machine, after: &Machine) -> Result<(), String> {
    if after.revision() < before.revision() {
        return Err(format!("revision {} after {}", after.revision(), before.revision()));
    }
    for instance in after.snapshot.instances() {
        let old = before.snapshot.instance(&instance.key);
        let grows = old.is_none_or(|old| old.epoch <= instance.epoch && old.revision <= instance.revision);
        if !grows {
            return Err(format!("{} went back", instance.key));
        }
        if old.is_none() && instance.epoch.get() <= before.revision().get() {
            return Err(format!("{} is new with an epoch that may have been given before", instance.key));
        }
        if after.services.revision(&instance.key.service) < instance.revision {
            return Err(format!("service {} is older than its instance", instance.key.service));
        }
    }
    Ok(())
}
