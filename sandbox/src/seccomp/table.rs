//! The table of answers by number: a binary search, in place of a chain of comparisons.

use std::collections::BTreeMap;

use seccompiler::sock_filter;

use super::instructions::{JUMP, JUMP_IF_NOT_BELOW, RETURN, step};

/// All numbers from `first` to the next range's get the answer `action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NumberRange {
    pub(super) first: u32,
    pub(super) action: u32,
}

/// The whole space of numbers, those that are not in `actions` with the answer `otherwise`.
pub(super) fn ranges(actions: &BTreeMap<u32, u32>, otherwise: u32) -> Vec<NumberRange> {
    let mut ranges = vec![NumberRange { first: 0, action: otherwise }];
    let mut begin = |first, action| match ranges.last_mut() {
        Some(last) if last.first == first => last.action = action,
        Some(last) if last.action == action => {}
        _ => ranges.push(NumberRange { first, action }),
    };
    for (number, action) in actions {
        begin(*number, *action);
        // Taken back by the next number if that follows at once.
        if let Some(next) = number.checked_add(1) {
            begin(next, otherwise);
        }
    }
    // What was taken back may now have the answer of the range before it.
    ranges.dedup_by_key(|range| range.action);
    ranges
}

/// A binary search for the range of the number in the accumulator. `ranges` has at least one.
pub(super) fn search(ranges: &[NumberRange]) -> Vec<sock_filter> {
    let [only] = ranges else {
        let (lower, upper) = ranges.split_at(ranges.len() / 2);
        let boundary = upper[0].first;
        let (lower, upper) = (search(lower), search(upper));
        let mut program = match u8::try_from(lower.len()) {
            Ok(over) => vec![step(JUMP_IF_NOT_BELOW, over, 0, boundary)],
            // A conditional jump reaches 255 instructions, an unconditional one all of them.
            Err(_) => vec![step(JUMP_IF_NOT_BELOW, 0, 1, boundary), step(JUMP, 0, 0, lower.len() as u32)],
        };
        program.extend(lower);
        program.extend(upper);
        return program;
    };
    vec![step(RETURN, 0, 0, only.action)]
}
