//! `strftime_now`: dates in templates, in UTC.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The time as `format` says; the letter of a directive that is not known is the error.
pub(super) fn strftime(time: SystemTime, format: &str) -> Result<String, char> {
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    };
    let time = Civil::new(seconds);
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        match letters.next() {
            // As in C libraries: no leading zero.
            Some('-') => {
                let directive = letters.next().unwrap_or('-');
                let text = time.directive(directive).ok_or(directive)?;
                let short = text.trim_start_matches('0');
                out += if short.is_empty() { "0" } else { short };
            }
            Some(directive) => out += &time.directive(directive).ok_or(directive)?,
            None => return Err('%'),
        }
    }
    Ok(out)
}

/// A moment by the calendar.
struct Civil {
    year: i64,
    /// From 0.
    month: usize,
    day: i64,
    /// From 0, in the year.
    year_day: i64,
    /// 0 is Sunday.
    weekday: usize,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Civil {
    /// Howard Hinnant's `civil_from_days`: years are counted from March, so that a leap day is last.
    fn new(seconds: i64) -> Self {
        let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let shifted = days.min(i64::MAX / 2) + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * from_march + 2) / 153;
        let day = from_march - (153 * march_month + 2) / 5 + 1;
        let month = (march_month + 2) % 12;
        let year = year_of_era + era * 400 + i64::from(month < 2);
        let leap = i64::from(year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
        let year_day = if month < 2 { from_march - 306 } else { from_march + 59 + leap };
        Self {
            year,
            month: usize::try_from(month).unwrap_or(0),
            day,
            year_day,
            weekday: usize::try_from((days + 4).rem_euclid(7)).unwrap_or(0),
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    fn directive(&self, letter: char) -> Option<String> {
        let (month, day) = (MONTHS[self.month], DAYS[self.weekday]);
        let twelve = (self.hour + 11) % 12 + 1;
        let mut out = String::new();
        match letter {
            'Y' => write!(out, "{}", self.year),
            'y' => write!(out, "{:02}", self.year.rem_euclid(100)),
            'm' => write!(out, "{:02}", self.month + 1),
            'd' => write!(out, "{:02}", self.day),
            'e' => write!(out, "{:2}", self.day),
            'B' => write!(out, "{month}"),
            'b' | 'h' => write!(out, "{}", &month[..3]),
            'A' => write!(out, "{day}"),
            'a' => write!(out, "{}", &day[..3]),
            'j' => write!(out, "{:03}", self.year_day + 1),
            'H' => write!(out, "{:02}", self.hour),
            'I' => write!(out, "{twelve:02}"),
            'p' => write!(out, "{}", if self.hour < 12 { "AM" } else { "PM" }),
            'M' => write!(out, "{:02}", self.minute),
            'S' => write!(out, "{:02}", self.second),
            'F' => write!(out, "{}-{:02}-{:02}", self.year, self.month + 1, self.day),
            'T' => write!(out, "{:02}:{:02}:{:02}", self.hour, self.minute, self.second),
            'Z' | 'z' => Ok(()), // as Python's datetime without a zone
            '%' => write!(out, "%"),
            _ => return None,
        }
        .ok()?;
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_python_s() {
        let format = "%A %a %d %-d %e %B %b %m %Y %y %j %H:%M:%S %I %p %F %T %%";
        let cases = [
            (
                0,
                "Thursday Thu 01 1  1 January Jan 01 1970 70 001 00:00:00 12 AM 1970-01-01 00:00:00 %",
            ),
            (
                951_827_696,
                "Tuesday Tue 29 29 29 February Feb 02 2000 00 060 12:34:56 12 PM 2000-02-29 12:34:56 %",
            ),
            (
                1_735_689_599,
                "Tuesday Tue 31 31 31 December Dec 12 2024 24 366 23:59:59 11 PM 2024-12-31 23:59:59 %",
            ),
            (
                1_772_323_200,
                "Sunday Sun 01 1  1 March Mar 03 2026 26 060 00:00:00 12 AM 2026-03-01 00:00:00 %",
            ),
        ];
        for (seconds, expected) in cases {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(strftime(time, format).as_deref(), Ok(expected));
        }
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(strftime(before, "%F %T").as_deref(), Ok("1969-12-31 23:59:59"));
        assert_eq!(strftime(before, "%Q"), Err('Q'));
    }
}
