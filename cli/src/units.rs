//! Numbers for people: sizes, times, shares.

use std::time::Duration;

/// Bytes in binary units: `512 B`, `1.5 KiB`, `12.3 MiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be printed as 1024.0.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Bytes in binary units, at most four characters: `512`, `1.5K`, `12M`.
pub fn short(n: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = n as f64;
    let mut units = ["", "K", "M", "G", "T", "P", "E"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // 999.5 would be printed as 1000.
    while value >= 999.5
        && let Some(next) = units.next()
    {
        value /= 1024.0;
        unit = next;
    }
    let digits = usize::from(!unit.is_empty() && value < 9.95);
    format!("{value:.digits$}{unit}")
}

/// A limit in bytes; the kernel's "none" is a number near its largest.
pub fn limit(n: u64) -> String {
    if n >= 1 << 60 { "none".to_owned() } else { bytes(n) }
}

/// A span of time, its two largest units: `5s`, `3m12s`, `4h07m`, `12d03h`.
pub fn span(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86400, s % 86400 / 3600),
    }
}

/// CPU time: as [`span`], with hundredths below a minute.
pub fn cpu_time(micros: u64) -> String {
    if micros < 60_000_000 {
        format!("{}.{:02}s", micros / 1_000_000, micros % 1_000_000 / 10_000)
    } else {
        span(Duration::from_micros(micros))
    }
}

/// An RFC 3339 time of plabd's with thousandths of a second instead of all it has; another text as it is.
pub fn thousandths(time: &str) -> String {
    time.parse::<jiff::Timestamp>().map_or_else(|_| time.to_owned(), |t| format!("{t:.3}"))
}

/// How long ago an RFC 3339 time was; none if it is none. The future counts as now: clocks differ.
pub fn age(time: &str, now: jiff::Timestamp) -> Option<String> {
    let then: jiff::Timestamp = time.parse().ok()?;
    Some(span(Duration::try_from(now.duration_since(then)).unwrap_or(Duration::ZERO)))
}

/// How far away an RFC 3339 time is: `in 12d03h` or `4h07m ago`.
pub fn until(time: &str, now: jiff::Timestamp) -> Option<String> {
    let then: jiff::Timestamp = time.parse().ok()?;
    Some(match Duration::try_from(then.duration_since(now)) {
        Ok(ahead) => format!("in {}", span(ahead)),
        Err(_) => format!("{} ago", span(now.duration_since(then).unsigned_abs())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (256 << 20, "256.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(limit(u64::MAX), "none");
        assert_eq!(limit(1 << 30), "1.0 GiB");
    }

    #[test]
    fn times() {
        for (s, text) in [(0, "0s"), (59, "59s"), (192, "3m12s"), (14_820, "4h07m"), (1_047_600, "12d03h")] {
            assert_eq!(span(Duration::from_secs(s)), text);
        }
        assert_eq!(cpu_time(1_234_567), "1.23s");
        assert_eq!(cpu_time(61_000_000), "1m01s");
    }

    #[test]
    fn thousandths_are_enough() {
        assert_eq!(thousandths("2026-11-22T14:08:21.651027917Z"), "2026-11-22T14:08:21.651Z");
        assert_eq!(thousandths("2026-11-22T15:08:21+01:00"), "2026-11-22T14:08:21.000Z");
        assert_eq!(thousandths("noon"), "noon");
    }

    #[test]
    fn ages() {
        let now = "2026-03-01T12:00:00Z".parse().expect("time");
        assert_eq!(age("2026-03-01T11:00:00Z", now).as_deref(), Some("1h00m"));
        assert_eq!(age("2026-03-01T13:00:00+01:00", now).as_deref(), Some("0s"));
        assert_eq!(age("2027-03-01T11:00:00Z", now).as_deref(), Some("0s"));
        assert_eq!(age("yesterday", now), None);
        assert_eq!(until("2026-03-02T12:00:00Z", now).as_deref(), Some("in 1d00h"));
        assert_eq!(until("2026-03-01T11:59:00Z", now).as_deref(), Some("1m00s ago"));
    }
}
