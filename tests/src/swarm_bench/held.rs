//! What agents hold of a model, and what of that would go with some of them. Pure.

use std::collections::BTreeMap;

use emberline_agent::api::HeldFile;

/// Ranges of bytes by file; ascending and apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Held(BTreeMap<String, Vec<(u64, u64)>>);

impl Held {
    /// What an agent said.
    pub(super) fn new(files: Vec<HeldFile>) -> Self {
        Self(files.into_iter().map(|file| (file.path, file.ranges)).collect())
    }

    /// What any of `all` holds.
    pub(super) fn union<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut union: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for (path, ranges) in all.into_iter().flat_map(|held| &held.0) {
            union.entry(path.clone()).or_default().extend(ranges);
        }
        for ranges in union.values_mut() {
            ranges.sort_unstable();
            let mut joined: Vec<(u64, u64)> = Vec::new();
            for &(from, to) in ranges.iter() {
                match joined.last_mut() {
                    Some(last) if from <= last.1 => last.1 = last.1.max(to),
                    _ => joined.push((from, to)),
                }
            }
            *ranges = joined;
        }
        Self(union)
    }

    /// Bytes in this that are not in `other`.
    pub(super) fn bytes_beyond(&self, other: &Self) -> u64 {
        let bytes = |ranges: &[(u64, u64)]| ranges.iter().map(|(from, to)| to - from).sum::<u64>();
        self.0
            .iter()
            .map(|(path, ranges)| {
                let others = other.0.get(path).map_or(&[][..], Vec::as_slice);
                bytes(ranges) - bytes(&common(ranges, others))
            })
            .sum()
    }
}

fn common(a: &[(u64, u64)], b: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut both = Vec::new();
    let (mut i, mut j) = (0, 0);
    while let (Some(&(a_from, a_to)), Some(&(b_from, b_to))) = (a.get(i), b.get(j)) {
        let (from, to) = (a_from.max(b_from), a_to.min(b_to));
        if from < to {
            both.push((from, to));
        }
        if a_to < b_to { i += 1 } else { j += 1 }
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(path: &str, ranges: &[(u64, u64)]) -> Held {
        Held(BTreeMap::from([(path.to_owned(), ranges.to_vec())]))
    }

    #[test]
    fn what_only_some_hold_is_what_the_others_lack() {
        let gone = Held::union(&[held("a", &[(0, 10), (20, 30)]), held("b", &[(0, 5)])]);
        let stay = Held::union(&[held("a", &[(5, 12)]), held("a", &[(12, 22), (40, 50)])]);
        // 0..5 and 22..30 of a, all of b.
        assert_eq!(gone.bytes_beyond(&stay), 5 + 8 + 5);
        assert_eq!(stay.bytes_beyond(&gone), 10 + 10);
        assert_eq!(gone.bytes_beyond(&gone), 0);
    }

    #[test]
    fn ranges_that_touch_or_overlap_are_one() {
        let all = [held("a", &[(4, 6)]), held("a", &[(0, 4)]), held("a", &[(5, 9)])];
        assert_eq!(Held::union(&all), held("a", &[(0, 9)]));
    }
}
