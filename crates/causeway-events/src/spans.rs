//! A set of offsets as spans: thousands of acks ahead of one slow event cost one entry.
//!
//! In:    offsets, one or many at a time.     Out: whether one is in the set; the spans.
//! Owner: `machine.rs`.
//! Invariant: spans are not empty, do not touch and do not overlap.
//! Not here: what the offsets mean.

use std::collections::BTreeMap;

use causeway_model::Offset;

use crate::journal::Span;

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spans {
    until_by_from: BTreeMap<Offset, Offset>,
    count: u64,
}

impl Spans {
    pub(crate) fn is_empty(&self) -> bool {
        self.until_by_from.is_empty()
    }

    /// How many offsets are in the set.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn contains(&self, offset: Offset) -> bool {
        self.until_by_from.range(..=offset).next_back().is_some_and(|(_, until)| offset < *until)
    }

    /// How many offsets at and after `from` are in the set.
    pub(crate) fn count_from(&self, from: Offset) -> u64 {
        let before: u64 = self
            .until_by_from
            .range(..from)
            .map(|(start, until)| (*until).min(from).get() - start.get())
            .sum();
        self.count - before
    }

    pub(crate) fn insert(&mut self, span: Span) {
        let Span { mut from, mut until } = span;
        if from >= until {
            return;
        }
        // Everything that begins at or before our end and ends at or after our beginning becomes part of us.
        while let Some((&start, &end)) = self.until_by_from.range(..=until).next_back()
            && end >= from
        {
            self.until_by_from.remove(&start);
            self.count -= end.get() - start.get();
            (from, until) = (from.min(start), until.max(end));
        }
        self.until_by_from.insert(from, until);
        self.count += until.get() - from.get();
    }

    /// Takes what touches `cursor` out and gives where it ends; spans below `cursor` go too.
    pub(crate) fn advance(&mut self, mut cursor: Offset) -> Offset {
        while let Some((&from, &until)) = self.until_by_from.first_key_value()
            && from <= cursor
        {
            self.until_by_from.remove(&from);
            self.count -= until.get() - from.get();
            cursor = cursor.max(until);
        }
        cursor
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Span> {
        self.until_by_from.iter().map(|(from, until)| Span { from: *from, until: *until })
    }

    /// The spans; the set is empty afterwards.
    pub(crate) fn drain(&mut self) -> Vec<Span> {
        let spans = self.iter().collect();
        *self = Spans::default();
        spans
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_set_is_the_set(steps in prop::collection::vec((0u64..60, 0u64..6, any::<bool>()), 0..60)) {
            let (mut spans, mut plain) = (Spans::default(), BTreeSet::new());
            for (from, length, is_advance) in steps {
                if is_advance {
                    let mut end = from;
                    plain.retain(|o| *o >= from);
                    while plain.remove(&end) { end += 1; }
                    // A span that begins below and reaches past the cursor carries it along, as the machine's always do.
                    let got = spans.advance(Offset::new(from)).get();
                    prop_assert!(got >= end);
                    plain.retain(|o| *o >= got);
                } else {
                    spans.insert(Span { from: Offset::new(from), until: Offset::new(from + length) });
                    plain.extend(from..from + length);
                }
                let got: Vec<u64> = spans.iter().flat_map(|s| s.from.get()..s.until.get()).collect();
                prop_assert_eq!(&got, &plain.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(spans.count(), plain.len() as u64);
                prop_assert_eq!(spans.count_from(Offset::new(30)), plain.range(30..).count() as u64);
                prop_assert!((0..70).all(|o| spans.contains(Offset::new(o)) == plain.contains(&o)));
            }
        }
    }
}
