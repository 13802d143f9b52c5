//! Times told by two processes, made comparable: both by the node's real-time clock, in nanoseconds.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since 1970 by the real-time clock.
pub fn now() -> i128 {
    let now = clock_gettime(ClockId::Realtime);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}

/// Nanoseconds since 1970 of an RFC 3339 time in UTC, as events have it; none if it is something else.
pub fn parse(text: &str) -> Option<i128> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.splitn(3, ':').map(str::parse::<i64>);
    let (hour, minute, second) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: i128 = format!("{fraction:0<9}").parse().ok()?;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(i128::from(seconds) * 1_000_000_000 + nanos)
}

/// Days since 1970-01-01. Years are counted from March, so that the leap day is a year's last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

/// Milliseconds from one time to a later one.
pub fn millis_between(earlier: i128, later: i128) -> f64 {
    let nanos = later - earlier;
    let magnitude = u64::try_from(nanos.unsigned_abs()).unwrap_or(u64::MAX);
    let value = std::time::Duration::from_nanos(magnitude).as_secs_f64() * 1e3;
    if nanos < 0 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_events_say() {
        assert_eq!(parse("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse("2024-02-29T12:30:01.5Z"), Some(1_709_209_801_500_000_000));
        assert_eq!(parse("2026-11-22T14:01:02.123456789Z"), Some(1_795_356_062_123_456_789));
        assert_eq!(parse("2026-11-22 14:01:02"), None);
    }

    #[test]
    fn a_later_time_is_more() {
        assert_eq!(millis_between(1_000_000, 3_500_000), 2.5);
        assert_eq!(millis_between(3_500_000, 1_000_000), -2.5);
    }
}
