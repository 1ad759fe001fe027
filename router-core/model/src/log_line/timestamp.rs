//! The time stamp of a log line: the Gregorian calendar by arithmetic, no allocation and no table.

use std::time::{SystemTime, UNIX_EPOCH};

/// `2026-01-01T00:00:00.000000+00:00`. A clock set before 1970 or after 9999 is held at that end.
pub(super) fn timestamp(at: SystemTime) -> [u8; 32] {
    const LAST_SECOND: u64 = 253_402_300_799;
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, micros) = (
        since.as_secs().min(LAST_SECOND),
        u64::from(since.subsec_micros()),
    );
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    [
        digit(year / 1000),
        digit(year / 100),
        digit(year / 10),
        digit(year),
        b'-',
        digit(month / 10),
        digit(month),
        b'-',
        digit(day / 10),
        digit(day),
        b'T',
        digit(hour / 10),
        digit(hour),
        b':',
        digit(minute / 10),
        digit(minute),
        b':',
        digit(second / 10),
        digit(second),
        b'.',
        digit(micros / 100_000),
        digit(micros / 10_000),
        digit(micros / 1000),
        digit(micros / 100),
        digit(micros / 10),
        digit(micros),
        b'+',
        b'0',
        b'0',
        b':',
        b'0',
        b'0',
    ]
}

/// Year, month and day in the Gregorian calendar, from days since 1970-01-01. Counts from 0000-03-01, so that the leap
/// day is the last day of a year and months follow one formula (H. Hinnant, "chrono-compatible low-level date
/// algorithms").
const fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_based = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_based + 2) / 5 + 1;
    let month = if march_based < 10 {
        march_based + 3
    } else {
        march_based - 9
    };
    let year = era * 400 + year_of_era + (month <= 2) as u64;
    (year, month, day)
}

/// The last decimal digit.
pub(super) const fn digit(value: u64) -> u8 {
    b'0' + (value % 10) as u8
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timestamps_follow_the_calendar() {
        for (seconds, micros, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000+00:00"),
            (951_782_399, 999_999, "2000-02-28T23:59:59.999999+00:00"),
            (951_782_400, 0, "2000-02-29T00:00:00.000000+00:00"),
            (951_868_800, 7, "2000-03-01T00:00:00.000007+00:00"),
            (1_349_927_240, 0, "2012-10-11T03:47:20.000000+00:00"),
            (1_798_761_599, 123_456, "2026-12-31T23:59:59.123456+00:00"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000+00:00"),
            (253_402_300_799, 0, "9999-12-31T23:59:59.000000+00:00"),
            (253_402_300_800, 0, "9999-12-31T23:59:59.000000+00:00"),
        ] {
            let at = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros);
            assert_eq!(String::from_utf8_lossy(&timestamp(at)), expected);
        }
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(timestamp(before), *b"1970-01-01T00:00:00.000000+00:00");
    }

    #[test]
    fn each_day_follows_the_one_before() {
        let mut expected = (1970, 1, 1);
        for day in 0..200_000 {
            assert_eq!(civil_date(day), expected, "day {day}");
            let (year, month, date) = expected;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (month, date) {
                (12, 31) => (year + 1, 1, 1),
                _ if date == length => (year, month + 1, 1),
                _ => (year, month, date + 1),
            };
        }
    }
}
