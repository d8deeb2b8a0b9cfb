//! Sets of block ranges.

use std::{collections::BTreeMap, ops::Range};

/// Disjoint ranges that do not touch, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn contains(&self, index: u64) -> bool {
        self.0
            .range(..=index)
            .next_back()
            .is_some_and(|(_, &end)| index < end)
    }

    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        if let Some((&before, &before_end)) = self.0.range(..=start).next_back()
            && before_end >= start
        {
            start = before;
            end = end.max(before_end);
        }
        while let Some((&next, &next_end)) = self.0.range(start..=end).next() {
            end = end.max(next_end);
            self.0.remove(&next);
        }
        self.0.insert(start, end);
    }

    /// The ranges, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(&start, &end)| start..end)
    }

    /// Those parts of the ranges that lie in `within`, in order.
    pub(crate) fn overlaps(&self, within: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self
            .0
            .range(..=within.start)
            .next_back()
            .map_or(within.start, |(&s, _)| s);
        self.0
            .range(first..within.end.max(first))
            .map(move |(&start, &end)| start.max(within.start)..end.min(within.end))
            .filter(|part| part.start < part.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_as_a_set_of_blocks(inserts in prop::collection::vec((0u64..60, 0u64..12), 0..20)) {
            let (mut set, mut model) = (RangeSet::default(), BTreeSet::new());
            for (start, len) in inserts {
                set.insert(start..start + len);
                model.extend(start..start + len);
            }
            for index in 0..80 {
                prop_assert_eq!(set.contains(index), model.contains(&index));
            }
            let ranges: Vec<_> = set.iter().collect();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(ranges.iter().map(|r| r.end - r.start).sum::<u64>(), model.len() as u64);
            let inner: Vec<u64> = set.overlaps(10..30).flatten().collect();
            let expected: Vec<u64> = model.range(10..30).copied().collect();
            prop_assert_eq!(inner, expected);
        }
    }
}
