//! A range of user IDs that nobody on this machine uses.

use std::ops::RangeInclusive;

use plab_config::{Uid, UidRange};

/// Who uses which IDs, in words.
pub(super) type Taken = (RangeInclusive<u32>, String);

/// Where a range may lie at all: above nobody (65534) and what stands for no user (65535), below what Debian gives to
/// users' containers. The rest is [`UidRange`]'s to refuse.
const WITHIN: RangeInclusive<u32> = 65_536..=99_999;

/// Fewer than this are not worth a node.
const FEWEST: u32 = 100;

/// The default range if nobody uses an ID of it, else the largest part of [`WITHIN`] that is free, and who is in the way.
///
/// # Errors
/// Nothing is free.
pub(super) fn choose(taken: &[Taken]) -> Result<(UidRange, Vec<String>), String> {
    let default = UidRange::default();
    let in_the_way: Vec<String> = taken
        .iter()
        .filter(|(ids, _)| *ids.start() <= default.last().get() && default.first().get() <= *ids.end())
        .map(|(_, whose)| whose.clone())
        .collect();
    if in_the_way.is_empty() {
        return Ok((default, in_the_way));
    }
    let mut taken: Vec<&RangeInclusive<u32>> = taken.iter().map(|(ids, _)| ids).collect();
    taken.sort_by_key(|ids| *ids.start());
    let mut largest: Option<RangeInclusive<u32>> = None;
    let mut free_from = *WITHIN.start();
    // What is beyond the end closes the last gap.
    let beyond = WITHIN.end() + 1..=u32::MAX;
    for ids in taken.into_iter().chain([&beyond]) {
        let before = (*ids.start()).min(WITHIN.end() + 1);
        if before > free_from {
            let gap = free_from..=before - 1;
            if largest.as_ref().is_none_or(|largest| size(&gap) > size(largest)) {
                largest = Some(gap);
            }
        }
        free_from = free_from.max(ids.end().saturating_add(1));
    }
    let range = largest
        .filter(|range| size(range) >= FEWEST)
        .and_then(|range| UidRange::new(Uid::new(*range.start()), Uid::new(*range.end())).ok());
    range.map(|range| (range, in_the_way.clone())).ok_or_else(|| {
        format!(
            "no {FEWEST} user ids in a row are free between {} and {}, where slices may have theirs: {}",
            WITHIN.start(),
            WITHIN.end(),
            in_the_way.join("; ")
        )
    })
}

fn size(range: &RangeInclusive<u32>) -> u32 {
    range.end() - range.start() + 1
}

/// The IDs of `/etc/passwd` or `/etc/group`, which have the name first and the number third.
pub(super) fn accounts<'t>(text: &'t str, file: &'t str) -> impl Iterator<Item = Taken> + 't {
    text.lines().filter_map(move |line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let id: u32 = fields.nth(1)?.parse().ok()?;
        Some((id..=id, format!("{name} has {id} in {file}")))
    })
}

/// The ranges of `/etc/subuid` or `/etc/subgid`: `who:first:count`.
pub(super) fn subordinate<'t>(text: &'t str, file: &'t str) -> impl Iterator<Item = Taken> + 't {
    text.lines().filter_map(move |line| {
        let mut fields = line.split(':');
        let who = fields.next()?;
        let first: u32 = fields.next()?.trim().parse().ok()?;
        let count: u32 = fields.next()?.trim().parse().ok()?;
        let last = first.checked_add(count.checked_sub(1)?)?;
        Some((first..=last, format!("{who} has {first}-{last} in {file}")))
    })
}

/// What login.defs(5) keeps for users that are yet to come.
pub(super) fn login_defs(text: &str) -> Vec<Taken> {
    let value = |key: &str| -> Option<u32> {
        text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == key).then(|| words.next()?.parse().ok())?
        })
    };
    [
        ("UID_MIN", "UID_MAX"),
        ("GID_MIN", "GID_MAX"),
        ("SUB_UID_MIN", "SUB_UID_MAX"),
        ("SUB_GID_MIN", "SUB_GID_MAX"),
    ]
    .into_iter()
    .filter_map(|(min, max)| {
        let (first, last) = (value(min)?, value(max)?);
        (first <= last)
            .then(|| (first..=last, format!("{min} to {max} in /etc/login.defs is {first}-{last}")))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(taken: &[Taken]) -> String {
        choose(taken).expect("something is free").0.to_string()
    }

    #[test]
    fn the_default_unless_somebody_is_in_it() {
        let debian = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/usr/sbin/nologin\n\
                      alice:x:1000:1000::/home/alice:/bin/bash\n";
        let mut taken: Vec<Taken> = accounts(debian, "/etc/passwd").collect();
        taken.extend(subordinate("alice:100000:65536\n", "/etc/subuid"));
        taken.extend(login_defs("UID_MIN 1000\nUID_MAX 60000\nSUB_UID_MIN 100000\nSUB_UID_MAX 600100000\n"));
        assert_eq!(taken.len(), 6);
        assert_eq!(choose(&taken), Ok((UidRange::default(), vec![])));

        taken.extend(accounts("oracle:x:75000:75000::/:/bin/sh\n", "/etc/passwd"));
        let (range, whose) = choose(&taken).expect("something is free");
        assert_eq!(range.to_string(), "75001-99999");
        assert_eq!(whose, ["oracle has 75000 in /etc/passwd"]);
        taken.extend(accounts("late:x:95000:95000::/:/bin/sh\n", "/etc/passwd"));
        assert_eq!(shown(&taken), "75001-94999");
    }

    #[test]
    fn ranges_that_overlap_hide_nothing() {
        assert_eq!(
            shown(&[(70_000..=79_999, String::new()), (70_500..=70_600, String::new())]),
            "80000-99999"
        );
        assert_eq!(shown(&[(70_000..=u32::MAX, String::new())]), "65536-69999");
        assert_eq!(shown(&[(0..=98_999, String::new())]), "99000-99999");
    }

    #[test]
    fn nothing_free_is_said_with_who_has_it() {
        let error = choose(&[(60_000..=165_535, "bob has it".into())]).expect_err("nothing");
        assert!(error.contains("bob has it"), "{error}");
        assert!(choose(&[(65_536..=99_950, String::new())]).is_err());
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        assert_eq!(accounts("# x\n\n+::::::\nbad:x:no\n", "f").count(), 0);
        assert_eq!(subordinate("a:1\nb:2:0\nc:4294967295:2\n", "f").count(), 0);
        assert_eq!(login_defs("UID_MIN 5\nUID_MAX 4\n#GID_MIN 1\nGID_MAX 2\n"), []);
    }
}
