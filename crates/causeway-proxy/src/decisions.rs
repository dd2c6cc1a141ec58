//! What policies decided, counted for each document.
//!
//! In:    settled calls of one worker that came in for the sidecar's app.      Out: counts by policy and decision.
//! Owner: a worker's ledger.
//! Invariant: bounded: further policies than [`SERIES_POLICIES_MAX`] are counted as one, `_other`.
//! Not here: deciding (`entry`), printing (`metrics`).

use std::sync::Arc;

use crate::limits::SERIES_POLICIES_MAX;
use crate::pass::Pass;

/// What was decided, as the metric says it.
pub(crate) const DECISIONS: [&str; 3] = ["allowed", "refused", "would_refuse"];

type Row = (Arc<str>, [u64; DECISIONS.len()]);

/// Counts by policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decisions {
    rows: Vec<Row>,
}

impl Decisions {
    /// A call that was let in. Where no policy guards the service there is nothing to count.
    pub(crate) fn pass(&mut self, pass: &Pass) {
        if let Some(policy) = pass.allowed_by() {
            self.row(policy)[0] += 1;
        }
        if let Some(policy) = pass.doubted_by() {
            self.row(policy)[2] += 1;
        }
    }

    /// A call that these policies refused together; each counts it.
    pub(crate) fn refuse(&mut self, policies: &[Arc<str>]) {
        policies.iter().for_each(|policy| self.row(policy)[1] += 1);
    }

    /// Adds another worker's counts.
    pub(crate) fn merge(&mut self, other: &Decisions) {
        for (policy, counts) in &other.rows {
            let row = self.row(policy);
            row.iter_mut().zip(counts).for_each(|(mine, theirs)| *mine += theirs);
        }
    }

    /// Every policy with its counts, in the order of [`DECISIONS`].
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&str, &[u64; DECISIONS.len()])> {
        self.rows.iter().map(|(policy, counts)| (&**policy, counts))
    }

    fn row(&mut self, policy: &Arc<str>) -> &mut [u64; DECISIONS.len()] {
        let of = |rows: &[Row], name: &str| rows.iter().position(|(of, _)| **of == *name);
        let is_full = self.rows.len() >= SERIES_POLICIES_MAX && of(&self.rows, policy).is_none();
        let policy = if is_full { &Arc::from("_other") } else { policy };
        let at = of(&self.rows, policy).unwrap_or_else(|| {
            self.rows.push((policy.clone(), Default::default()));
            self.rows.len() - 1
        });
        &mut self.rows[at].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_past_the_bound_are_one() {
        let (mut one, mut all) = (Decisions::default(), Decisions::default());
        for n in 0..3 * SERIES_POLICIES_MAX {
            one.refuse(&[format!("default/p{n}").into()]);
        }
        one.refuse(&["default/p0".into()]);
        all.merge(&one);
        all.merge(&one);
        let rows: Vec<_> = all.rows().map(|(policy, counts)| (policy.to_owned(), counts[1])).collect();
        assert_eq!(rows.len(), SERIES_POLICIES_MAX + 1);
        assert_eq!(rows[0], ("default/p0".to_owned(), 4));
        assert_eq!(rows[SERIES_POLICIES_MAX], ("_other".to_owned(), 4 * SERIES_POLICIES_MAX as u64));
    }
}
