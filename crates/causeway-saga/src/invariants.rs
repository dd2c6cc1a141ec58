//! What must hold of every saga after every record. Checked by debug assertions, property tests and simulation alike.

use crate::machine::{Phase, Progress, Saga};
use crate::record::Status;

/// Panics when the saga is in a state that no history may lead to.
pub(crate) fn check(saga: &Saga) {
    if let Err(broken) = holds(saga) {
        panic!("saga {}: {broken}: {saga:?}", saga.id);
    }
}

/// The first rule that does not hold.
pub(crate) fn holds(saga: &Saga) -> Result<(), &'static str> {
    let all = |test: fn(Progress) -> bool| saga.steps.iter().all(|step| test(step.progress));
    let any = |test: fn(Progress) -> bool| saga.steps.iter().any(|step| test(step.progress));
    let is_in_flight = saga.steps.iter().filter(|step| step.is_in_flight).count();
    let mut orders: Vec<u32> = saga.steps.iter().map(|step| step.order).filter(|order| *order > 0).collect();
    orders.sort_unstable();
    if orders.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("two steps have the same place in the order of compensation");
    }
    if let Phase::Forward { stage } | Phase::Stuck { stage, is_back: false } = saga.phase {
        let here = saga.members(stage);
        if any(|progress| progress == Progress::Undone) {
            return Err("a step is undone while the saga goes forward");
        }
        let is_settled = |progress| matches!(progress, Progress::Done | Progress::Skipped);
        if !saga.steps[..here.start].iter().all(|step| is_settled(step.progress)) {
            return Err("a step of an earlier stage is not done");
        }
        if saga.steps[here.end..].iter().any(|step| step.progress != Progress::Open || step.is_in_flight) {
            return Err("a step of a later stage was begun");
        }
    }
    if matches!(saga.phase, Phase::Back) && is_in_flight > 1 {
        return Err("two attempts are under way on the way back");
    }
    if matches!(saga.phase, Phase::Stuck { .. } | Phase::Ended(_)) && is_in_flight > 0 {
        return Err("an attempt is under way and nobody waits for it");
    }
    match saga.phase {
        _ if saga.is_resolved => Ok(()),
        Phase::Ended(Status::Done) if !all(|p| matches!(p, Progress::Done | Progress::Skipped)) => {
            Err("it is done and a step is not")
        }
        Phase::Ended(Status::Undone | Status::Failed)
            if (0..saga.steps.len()).any(|n| {
                saga.plan.has_undo(n) && matches!(saga.steps[n].progress, Progress::Done | Progress::Unknown)
            }) =>
        {
            Err("it ended without success and a step was not compensated")
        }
        Phase::Ended(Status::Failed) if any(|progress| progress == Progress::Undone) => {
            Err("it is failed and a step was compensated")
        }
        Phase::Ended(Status::Undone) if !any(|progress| progress == Progress::Undone) => {
            Err("it is undone and no step was compensated")
        }
        _ => Ok(()),
    }
}
