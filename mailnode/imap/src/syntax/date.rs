//! Dates: INTERNALDATE of the grammar (`date-time`, `date`), and the Date field of messages for SEARCH SENT....

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY: i64 = 86_400;

/// A day, as the number of days since 1970-01-01.
pub type Day = i64;

/// Days since 1970-01-01 of a day of the Gregorian calendar; `None` if there is no such day.
pub fn day(year: i64, month: u32, date: u32) -> Option<Day> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if date == 0 || date > length || !(0..=9999).contains(&year) {
        return None;
    }
    // Years begin in March, so that the leap day is the last of its year.
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let shifted_month = i64::from((month + 9) % 12);
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(date) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// Year, month, date of a day.
fn civil(day: Day) -> (i64, u32, u32) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096).div_euclid(365);
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let date = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, date)
}

/// The UTC day of a unix time.
pub fn day_of(unix: i64) -> Day {
    unix.div_euclid(DAY)
}

/// A unix time as `date-time` without its quotes: `dd-Mmm-yyyy hh:mm:ss +0000`.
pub fn format(unix: i64) -> String {
    // The grammar has four digits for the year.
    let unix = unix.clamp(-62_167_219_200, 253_402_300_799);
    let (year, month, date) = civil(unix.div_euclid(DAY));
    let seconds = unix.rem_euclid(DAY);
    let month = MONTHS.get(month as usize - 1).copied().unwrap_or("Jan");
    format!(
        "{date:02}-{month}-{year:04} {:02}:{:02}:{:02} +0000",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn month(name: &str) -> Option<u32> {
    let position = MONTHS.iter().position(|month| month.eq_ignore_ascii_case(name))?;
    Some(position as u32 + 1)
}

fn digits(text: &str, most: usize) -> Option<u32> {
    if text.is_empty() || text.len() > most || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// `date-text`: `d-Mmm-yyyy`.
pub fn parse_day(text: &str) -> Option<Day> {
    let mut parts = text.split('-');
    let (date, name, year) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || year.len() != 4 {
        return None;
    }
    day(digits(year, 4)?.into(), month(name)?, digits(date, 2)?)
}

/// `date-time` without its quotes, to unix time in seconds.
pub fn parse(text: &str) -> Option<i64> {
    let mut parts = text.trim_start_matches(' ').split(' ');
    let (date, time, zone) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some(parse_day(date)? * DAY + clock(time, true)? - numeric_zone(zone)?)
}

fn clock(text: &str, exact: bool) -> Option<i64> {
    let mut parts = text.split(':');
    let (hour, minute) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let second = match parts.next() {
        Some(second) => digits(second, 2)?,
        None if exact => return None,
        None => 0,
    };
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(i64::from(hour * 3600 + minute * 60 + second))
}

fn numeric_zone(text: &str) -> Option<i64> {
    let (sign, number) = match text.as_bytes().first()? {
        b'+' => (1, text.get(1..)?),
        b'-' => (-1, text.get(1..)?),
        _ => return None,
    };
    if number.len() != 4 {
        return None;
    }
    let number = i64::from(digits(number, 4)?);
    Some(sign * (number / 100 * 3600 + number % 100 * 60))
}

/// The day in the value of a Date field (RFC 5322 3.3), as written there: SEARCH SENT... disregards time and
/// zone (RFC 9051 6.4.4). Comments and a weekday are skipped, two-digit years are read as RFC 5322 4.3 says.
pub fn parse_header_day(value: &str) -> Option<Day> {
    let value = value.split_once(',').map_or(value, |(_, rest)| rest);
    let mut words = value.split([' ', '\t', '\r', '\n', '-']).filter(|word| !word.is_empty());
    let mut first = words.next()?;
    if digits(first, 2).is_none() {
        first = words.next()?; // A weekday without its comma.
    }
    let date = digits(first, 2)?;
    let month = month(words.next()?.get(..3)?)?;
    let year = words.next()?;
    let number = i64::from(digits(year, 4)?);
    let year = match year.len() {
        2 if number < 50 => number + 2000,
        2 | 3 => number + 1900,
        _ => number,
    };
    day(year, month, date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_there_and_back() {
        for (unix, text) in [
            (0, "01-Jan-1970 00:00:00 +0000"),
            (951_782_399, "28-Feb-2000 23:59:59 +0000"),
            (951_868_799, "29-Feb-2000 23:59:59 +0000"),
            (-1, "31-Dec-1969 23:59:59 +0000"),
            (1_709_210_096, "29-Feb-2024 12:34:56 +0000"),
        ] {
            assert_eq!(format(unix), text);
            assert_eq!(parse(text), Some(unix));
        }
        assert_eq!(parse(" 1-Jan-1970 01:00:00 +0100"), Some(0));
        assert_eq!(parse("31-Dec-1969 16:00:00 -0800"), Some(0));
        assert_eq!(format(i64::MAX), "31-Dec-9999 23:59:59 +0000");
    }

    #[test]
    fn every_day_of_four_centuries_round_trips() {
        for number in (-80_000..80_000).step_by(7) {
            let (year, month, date) = civil(number);
            assert_eq!(day(year, month, date), Some(number));
        }
    }

    #[test]
    fn impossible_dates_are_refused() {
        for text in
            ["30-Feb-2024", "1-Foo-2024", "0-Jan-2024", "1-Jan-24", "1-Jan-2024-", "x-Jan-2024", "1-1-2024"]
        {
            assert_eq!(parse_day(text), None, "{text}");
        }
        for text in
            ["1-Jan-2024", "1-Jan-2024 10:00 +0000", "1-Jan-2024 25:00:00 +0000", "1-Jan-2024 10:00:00 GMT"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_day_of_a_date_field_is_the_one_written_there() {
        let expected = day(1997, 11, 21);
        for text in [
            "Fri, 21 Nov 1997 23:55:06 -0600",
            "21 Nov 97 09:55:06 GMT",
            " 21  Nov 1997",
            "Fri 21 Nov 1997 10:00",
            "Fri, 21-Nov-97 10:00:00",
        ] {
            assert_eq!(parse_header_day(text), expected, "{text}");
        }
        assert_eq!(parse_header_day("yesterday"), None);
    }
}
