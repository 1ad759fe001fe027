//! The time stamp of a log line: the Gregorian calendar by arithmetic, no allocation and no table.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::decimal::eight_digits;

/// `2026-01-01T00:00:00.000000+00:00`. A clock set before 1970 or after 9999 is held at that end.
pub(super) fn timestamp(at: SystemTime) -> [u8; 32] {
    const LAST_SECOND: u64 = 253_402_300_799;
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs().min(LAST_SECOND);
    // Neither days nor seconds of a day come near the end of 32 bits, in which dividing is cheaper.
    let (days, second_of_day) = ((seconds / 86_400) as u32, (seconds % 86_400) as u32);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60,
    );
    let [y1, y2, y3, y4, mo1, mo2, d1, d2] = eight_digits(year * 10_000 + month * 100 + day);
    let [_, _, h1, h2, mi1, mi2, s1, s2] = eight_digits(hour * 10_000 + minute * 100 + second);
    let [_, _, f1, f2, f3, f4, f5, f6] = eight_digits(since.subsec_micros());
    [
        y1, y2, y3, y4, b'-', mo1, mo2, b'-', d1, d2, b'T', h1, h2, b':', mi1, mi2, b':', s1, s2,
        b'.', f1, f2, f3, f4, f5, f6, b'+', b'0', b'0', b':', b'0', b'0',
    ]
}

/// Year, month and day in the Gregorian calendar, from days since 1970-01-01. Counts from 0000-03-01, so that the leap
/// day is the last day of a year and months follow one formula (H. Hinnant, "chrono-compatible low-level date
/// algorithms").
const fn civil_date(days: u32) -> (u32, u32, u32) {
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
    let year = era * 400 + year_of_era + (month <= 2) as u32;
    (year, month, day)
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
