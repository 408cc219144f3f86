//! Dates as headers write them (RFC 5322 3.3).

/// `Tue, 25 Nov 2025 21:06:15 +0000`. `unix` is in seconds, UTC.
pub fn date(unix: i64) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // A clock outside of these is broken, and a header has four digits for the year.
    let unix = unix.clamp(0, 253_402_300_799);
    let (days, second) = (unix / 86_400, unix % 86_400);
    let weekday = WEEKDAYS.get((days % 7) as usize).copied().unwrap_or_default();
    let (year, month, day) = civil(days);
    let month = MONTHS.get(month).copied().unwrap_or_default();
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {day} {month} {year} {hour:02}:{minute:02}:{second:02} +0000")
}

/// Year, month (from 0) and day (from 1) of a day since 1970-01-01.
fn civil(days: i64) -> (i64, usize, i64) {
    let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    // 400 years have 146,097 days; the year is at most one less than this guess says.
    let mut year = 1970 + days * 400 / 146_097;
    let first =
        |year: i64| (year - 1970) * 365 + (year - 1969) / 4 - (year - 1901) / 100 + (year - 1601) / 400;
    while first(year) > days {
        year -= 1;
    }
    while first(year + 1) <= days {
        year += 1;
    }
    let mut day = days - first(year);
    let february = if leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    for (month, length) in lengths.into_iter().enumerate() {
        if day < length {
            return (year, month, day + 1);
        }
        day -= length;
    }
    (year, 11, 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(date(0), "Thu, 1 Jan 1970 00:00:00 +0000");
        assert_eq!(date(951_782_400), "Tue, 29 Feb 2000 00:00:00 +0000");
        assert_eq!(date(1_709_251_199), "Thu, 29 Feb 2024 23:59:59 +0000");
        assert_eq!(date(1_764_104_775), "Tue, 25 Nov 2025 21:06:15 +0000");
        assert_eq!(date(4_107_542_399), "Sun, 28 Feb 2100 23:59:59 +0000");
        assert_eq!(date(4_107_542_400), "Mon, 1 Mar 2100 00:00:00 +0000");
        assert_eq!(date(i64::MAX), "Fri, 31 Dec 9999 23:59:59 +0000");
        assert_eq!(date(-1), date(0));
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = civil(0);
        for days in 1..200_000 {
            let (year, month, day) = civil(days);
            let next_day = (year, month) == (before.0, before.1) && day == before.2 + 1;
            let next_month = day == 1
                && before.2 >= 28
                && (year * 12 + month as i64) == before.0 * 12 + before.1 as i64 + 1;
            assert!(next_day || next_month, "{days}");
            before = (year, month, day);
        }
    }
}
