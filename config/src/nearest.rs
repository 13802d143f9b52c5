//! Which known key a mistaken one was meant to be.

/// Longer keys than this are nobody's typing error, and comparing costs their length.
const MAX_LEN: usize = 64;

/// The one of `known` that `key` most probably was meant to be, if one is near enough to say so.
///
/// Near is a few letters changed, left out, added or swapped; or the right name in the wrong table.
pub(crate) fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    if key.len() > MAX_LEN {
        return None;
    }
    let (table, name) = split(key);
    let score = |candidate: &str| {
        let (its_table, its_name) = split(candidate);
        // Within one table only the names count: the table's own letters would make any two of its keys near.
        let (a, b) = if table == its_table { (name, its_name) } else { (key, candidate) };
        let distance = distance(a, b);
        let near = distance <= (a.chars().count() / 3).clamp(1, 4);
        let misplaced = name == its_name;
        (near || misplaced).then_some((if near { distance } else { 2 }, distance))
    };
    known.iter().filter_map(|candidate| Some((score(candidate)?, *candidate))).min().map(|(_, key)| key)
}

/// The table a dotted key is in, and its name there.
fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('.').unwrap_or(("", key))
}

/// Edit distance in which swapping two neighbours counts once.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (i, ca) in a.chars().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let changed = above[j] + usize::from(ca != *cb);
            let mut best = changed.min(above[j + 1] + 1).min(row[j] + 1);
            if j > 0 && previous == Some(*cb) && ca == b[j - 1] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
        previous = Some(ca);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 7] =
        ["name", "cpu", "cpu.max", "memory", "memory.max", "memory.high", "control.stop_grace"];

    #[test]
    fn distances() {
        for (a, b, d) in
            [("", "", 0), ("", "ab", 2), ("ab", "ab", 0), ("abc", "acb", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), d, "{a} {b}");
            assert_eq!(distance(b, a), d, "{b} {a}");
        }
    }

    #[test]
    fn typing_errors_and_wrong_tables_are_recognised() {
        for (key, meant) in [
            ("memory.maxx", Some("memory.max")),
            ("memroy.max", Some("memory.max")),
            ("memroy", Some("memory")),
            ("cpus", Some("cpu")),
            ("nmae", Some("name")),
            ("stop_grace", Some("control.stop_grace")),
            ("cpu.name", Some("name")),
            ("memory.quux", None),
            ("quux", None),
            ("x", None),
        ] {
            assert_eq!(nearest(key, &KNOWN), meant, "{key}");
        }
        assert_eq!(nearest(&"name".repeat(10_000), &KNOWN), None);
    }
}
