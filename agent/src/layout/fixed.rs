//! Fixed steps from a start: what an opaque file, a header and a single large tensor are cut by.

/// Appends the lengths that `bytes` bytes are cut into, each at most `target`.
///
/// Full steps as long as two fit; what then remains is one chunk or two even halves, so there is no
/// sliver at the end. Steps count from the start and not as equal parts of the whole, so a tensor that
/// grew at its end (a vocabulary with a few tokens more) keeps all its chunks but the last two.
pub(super) fn cut(bytes: u64, target: u64, lengths: &mut Vec<u32>) {
    let mut rest = bytes;
    while rest >= 2 * target {
        lengths.push(target as u32);
        rest -= target;
    }
    if rest > target {
        lengths.push(rest.div_ceil(2) as u32);
        rest /= 2;
    }
    if rest > 0 {
        lengths.push(rest as u32);
    }
}

#[cfg(test)]
mod tests {
    fn cut(bytes: u64) -> Vec<u32> {
        let mut lengths = Vec::new();
        super::cut(bytes, 1000, &mut lengths);
        lengths
    }

    #[test]
    fn steps_are_full_and_the_tail_is_even() {
        // 0: nothing; 1: the least; either side of one and of two steps; a remainder of one byte.
        let table: [(u64, &[u32]); 9] = [
            (0, &[]),
            (1, &[1]),
            (999, &[999]),
            (1000, &[1000]),
            (1001, &[501, 500]),
            (1999, &[1000, 999]),
            (2000, &[1000, 1000]),
            (2001, &[1000, 501, 500]),
            (3001, &[1000, 1000, 501, 500]),
        ];
        for (bytes, expected) in table {
            assert_eq!(cut(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn growth_at_the_end_moves_only_the_last_two_boundaries() {
        let (before, after) = (cut(10_300), cut(10_700));
        assert_eq!(before[..9], after[..9]);
    }
}
