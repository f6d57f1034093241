//! `[window]`: the times at which users may meet a maintenance page, judged against the clock.

use jiff::civil::{Date, Weekday};
use jiff::{Timestamp, ToSpan, Zoned};
use plimsoll_core::plan::Agreed;
use plimsoll_core::ports::{Clock, Moment};
use plimsoll_host::clock::SystemClock;

use crate::config::{Config, Window};

/// The machine's clock, together with what was agreed.
pub(crate) struct AgreedClock(Option<Window>);

impl AgreedClock {
    /// For the runs of this app.
    pub(crate) fn of(config: &Config) -> AgreedClock {
        AgreedClock(config.window.clone())
    }
}

impl Clock for AgreedClock {
    fn wall(&self) -> String {
        SystemClock.wall()
    }

    fn now(&self) -> Moment {
        SystemClock.now()
    }

    fn boot_id(&self) -> String {
        SystemClock.boot_id()
    }

    fn agreed(&self) -> Agreed {
        self.0.as_ref().map_or(Agreed::Nothing, |window| at(window, Timestamp::now()))
    }
}

/// What the window says at this time.
pub(crate) fn at(window: &Window, now: Timestamp) -> Agreed {
    let today = now.to_zoned(window.zone.clone()).date();
    // One that begins yesterday may end today; the next may be a week away.
    for day in -1..=8 {
        let Some((from, to)) = today.checked_add(day.days()).ok().and_then(|date| begun_on(window, date))
        else {
            continue;
        };
        if now < from.timestamp() {
            return Agreed::Closed { opens: words(&from) };
        }
        if now < to.timestamp() {
            let left = to.timestamp().duration_since(now).as_millis();
            return Agreed::Open { left_ms: u64::try_from(left).unwrap_or(0), until: words(&to) };
        }
    }
    // Only a calendar that ends has no next window.
    Agreed::Closed { opens: "at no time that this calendar has".to_owned() }
}

/// Beginning and end of the window that begins on this date, if one does. Where the clocks are put forward past one of
/// them, it is moved by as much.
fn begun_on(window: &Window, date: Date) -> Option<(Zoned, Zoned)> {
    if !window.days.contains(&date.weekday()) {
        return None;
    }
    let end = if window.to <= window.from { date.checked_add(1.day()).ok()? } else { date };
    let at = |date: Date, time| date.to_datetime(time).to_zoned(window.zone.clone()).ok();
    Some((at(date, window.from)?, at(end, window.to)?))
}

fn words(time: &Zoned) -> String {
    let utc = time.timestamp().strftime("%H:%M");
    let zone = time.time_zone().iana_name().unwrap_or("UTC");
    if zone == "UTC" {
        return time.strftime("%a %-d %b %H:%M UTC").to_string();
    }
    format!("{} {zone} ({utc} UTC)", time.strftime("%a %-d %b %H:%M"))
}

/// The window as it stands in the configuration: `mon tue 02:00-05:00 Asia/Kolkata`.
pub(crate) fn shown(window: &Window) -> String {
    let days: Vec<&str> = window.days.iter().map(|day| word(*day)).collect();
    let zone = window.zone.iana_name().unwrap_or("UTC");
    format!("{} {}-{} {zone}", days.join(" "), window.from.strftime("%H:%M"), window.to.strftime("%H:%M"))
}

fn word(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "mon",
        Weekday::Tuesday => "tue",
        Weekday::Wednesday => "wed",
        Weekday::Thursday => "thu",
        Weekday::Friday => "fri",
        Weekday::Saturday => "sat",
        Weekday::Sunday => "sun",
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::time;
    use jiff::tz::TimeZone;

    use super::*;

    fn window(days: &[Weekday], from: (i8, i8), to: (i8, i8), zone: &str) -> Window {
        let time = |(hour, minute)| time(hour, minute, 0, 0);
        let zone = TimeZone::get(zone).unwrap();
        Window { days: days.to_vec(), from: time(from), to: time(to), zone }
    }

    fn judged(window: &Window, now: &str) -> Agreed {
        at(window, now.parse().unwrap())
    }

    fn closed(opens: &str) -> Agreed {
        Agreed::Closed { opens: opens.into() }
    }

    #[test]
    fn a_window_is_open_from_its_first_moment_until_before_its_last_on_its_days_and_in_its_zone() {
        let kolkata = window(&[Weekday::Monday, Weekday::Thursday], (2, 0), (5, 0), "Asia/Kolkata");
        // 2026-11-23 is a Monday; Kolkata is 5:30 ahead.
        let opens = "Mon 23 Nov 02:00 Asia/Kolkata (20:30 UTC)";
        assert_eq!(judged(&kolkata, "2026-11-22T20:29:59Z"), closed(opens));
        let until = "Mon 23 Nov 05:00 Asia/Kolkata (23:30 UTC)".to_owned();
        let open = |left_ms| Agreed::Open { left_ms, until: until.clone() };
        assert_eq!(judged(&kolkata, "2026-11-22T20:30:00Z"), open(3 * 3_600_000));
        assert_eq!(judged(&kolkata, "2026-11-22T23:29:59Z"), open(1_000));
        let thursday = "Thu 26 Nov 02:00 Asia/Kolkata (20:30 UTC)";
        assert_eq!(judged(&kolkata, "2026-11-22T23:30:00Z"), closed(thursday));
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let night = window(&[Weekday::Friday], (23, 0), (1, 0), "UTC");
        let open = Agreed::Open { left_ms: 1_800_000, until: "Sat 28 Nov 01:00 UTC".into() };
        assert_eq!(judged(&night, "2026-11-28T00:30:00Z"), open);
        // A week to the next.
        assert_eq!(judged(&night, "2026-11-28T01:00:00Z"), closed("Fri 4 Dec 23:00 UTC"));
    }

    #[test]
    fn a_window_in_the_hour_that_the_clocks_leave_out_is_moved() {
        let berlin = window(&[Weekday::Sunday], (2, 15), (2, 45), "Europe/Berlin");
        // On 2026-03-29 the clocks go from 02:00 to 03:00.
        let open =
            Agreed::Open { left_ms: 1_800_000, until: "Sun 29 Mar 03:45 Europe/Berlin (01:45 UTC)".into() };
        assert_eq!(judged(&berlin, "2026-03-29T01:15:00Z"), open);
    }
}
