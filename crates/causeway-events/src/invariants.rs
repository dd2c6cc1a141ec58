//! What must always hold of a subscription's machine: one truth for debug assertions, property tests and simulation.
//!
//! In:    a machine.     Out: the first rule that is broken, in words.
//! Owner: nobody; pure.
//! Not here: rules over time (no event lost across a crash, keys in order): `machine/tests.rs` watches those from outside.

use std::collections::BTreeSet;

use causeway_model::Offset;

use crate::machine::{LETTERS_MAX, Machine, PENDING_MAX, Phase};

/// Above so many pending events a debug build checks no more at each step: the check is linear.
pub(crate) const CHECKED_MAX: usize = 512;

/// Whether every rule holds.
pub(crate) fn check(machine: &Machine) -> Result<(), String> {
    nothing_is_lost(machine)?;
    deliveries_are_counted(machine)?;
    keys_are_in_order(machine)?;
    timers_are_those_of_entries(machine)?;
    letters_are_parked(machine)?;
    ensure(machine.entries.len() <= PENDING_MAX + LETTERS_MAX, || "too many pending".to_owned())
}

/// Every offered offset is settled or pending; the cursor is where the settled ones end.
fn nothing_is_lost(machine: &Machine) -> Result<(), String> {
    ensure(machine.next >= machine.cursor, || "next is below the cursor".to_owned())?;
    ensure(!machine.ahead.contains(machine.cursor), || "the cursor lags behind what is settled".to_owned())?;
    let mut offset = machine.cursor;
    while offset < machine.next {
        let is_known = machine.ahead.contains(offset) || machine.entries.contains_key(&offset);
        ensure(is_known, || format!("event {offset} is neither settled nor pending"))?;
        offset = offset.next();
    }
    Ok(())
}

fn deliveries_are_counted(machine: &Machine) -> Result<(), String> {
    let is_out = |offset: &&Offset| matches!(machine.entries[*offset].phase, Phase::Out { .. });
    let out = machine.entries.keys().filter(is_out).count();
    ensure(out == machine.in_flight, || format!("{out} are out, {} are counted", machine.in_flight))
}

/// Of one key at most one event is out, and only the first waiting one is ready.
fn keys_are_in_order(machine: &Machine) -> Result<(), String> {
    for (key, lane) in &machine.lanes {
        let out: Vec<_> = lane
            .queue
            .iter()
            .filter(|offset| matches!(machine.entries[offset].phase, Phase::Out { .. }))
            .collect();
        ensure(out.len() <= 1, || format!("{out:?} of key {key} are out together"))?;
        ensure(out.first().copied() == lane.out.as_ref(), || format!("key {key} does not know what is out"))?;
        ensure(!lane.queue.is_empty(), || format!("key {key} is empty"))?;
    }
    for offset in &machine.ready {
        let Some(entry) = machine.entries.get(offset) else {
            return Err(format!("{offset} is ready, not pending"));
        };
        ensure(entry.phase == Phase::Waiting, || format!("{offset} is ready, not waiting"))?;
        let lane = entry.key.as_ref().map(|key| &machine.lanes[key]);
        let is_first = lane.is_none_or(|lane| lane.out.is_none() && lane.queue.first() == Some(offset));
        ensure(is_first, || format!("{offset} is ready before its turn"))?;
    }
    let first_of_lane =
        machine.lanes.values().filter(|lane| lane.out.is_none()).filter_map(|lane| lane.queue.first());
    let without_key =
        machine.entries.iter().filter(|(_, entry)| entry.key.is_none()).map(|(offset, _)| offset);
    for offset in first_of_lane.chain(without_key) {
        let is_stuck = machine.entries[offset].phase == Phase::Waiting && !machine.ready.contains(offset);
        ensure(!is_stuck, || format!("{offset} could go and is not ready"))?;
    }
    Ok(())
}

fn timers_are_those_of_entries(machine: &Machine) -> Result<(), String> {
    let wanted: BTreeSet<_> = machine
        .entries
        .iter()
        .filter_map(|(offset, entry)| match entry.phase {
            Phase::Waiting => None,
            Phase::Delayed { due } => Some((due, *offset)),
            Phase::Out { deadline, .. } => Some((deadline, *offset)),
        })
        .collect();
    ensure(wanted == machine.timers, || format!("timers {:?}, wanted {wanted:?}", machine.timers))
}

fn letters_are_parked(machine: &Machine) -> Result<(), String> {
    let resting = |dead: &&crate::machine::Dead| dead.redriven.is_none() && dead.letter.key.is_some();
    let wanted = machine.letters.values().filter(resting).count();
    let parked: usize = machine.parked.values().map(BTreeSet::len).sum();
    ensure(wanted == parked, || format!("{wanted} letters with a key rest, {parked} are parked"))?;
    for (offset, dead) in &machine.letters {
        let is_on_its_way = machine.entries.contains_key(offset);
        ensure(dead.redriven.is_none() || is_on_its_way, || {
            format!("letter {offset} was redriven and is not pending")
        })?;
    }
    Ok(())
}

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}
