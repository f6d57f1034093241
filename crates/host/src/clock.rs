//! The machine's clocks behind [`plimsoll_core::ports::Clock`].

use std::sync::OnceLock;
use std::time::Duration;

use plimsoll_core::ports::{Clock, Moment};
use rustix::time::{ClockId, clock_gettime};

/// The clocks of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> String {
        // `Display` drops trailing zeros of the fraction; a fixed width keeps a journal's lines aligned.
        format!("{:.3}", jiff::Timestamp::now())
    }

    fn now(&self) -> Moment {
        let time = clock_gettime(ClockId::Boottime);
        let ms = time.tv_sec.saturating_mul(1_000).saturating_add(time.tv_nsec / 1_000_000);
        Moment(ms.try_into().unwrap_or(0))
    }

    fn boot_id(&self) -> String {
        boot_id().to_owned()
    }
}

impl SystemClock {
    /// How long it is until `moment`; zero when it is past.
    #[must_use]
    pub fn until(self, moment: Moment) -> Duration {
        Duration::from_millis(moment.since_ms(self.now()))
    }
}

/// The kernel's id of this boot. `unknown` where `/proc` does not tell: then no moment and no process of an earlier
/// start of Plimsoll is taken for one of this boot only by that id.
pub(crate) fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        // For tests of a reboot.
        #[cfg(debug_assertions)]
        if let Ok(id) = std::env::var("PLIMSOLL_BOOT_ID") {
            return id;
        }
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_utc_with_milliseconds() {
        let wall = SystemClock.wall();
        assert_eq!(wall.len(), "2026-03-01T02:03:04.567Z".len(), "{wall}");
        assert!(wall.ends_with('Z'));
        wall.parse::<jiff::Timestamp>().unwrap();
    }

    #[test]
    fn the_steady_clock_is_the_one_that_counts_from_boot() {
        let before = SystemClock.now();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let after = SystemClock.now();
        assert!(before <= after);
        assert!(before.0 as f64 <= seconds * 1_000.0 + 50.0 && seconds * 1_000.0 <= after.0 as f64 + 50.0);
        assert_eq!(SystemClock.until(before), Duration::ZERO);
        assert!(SystemClock.until(after.plus_ms(60_000)) > Duration::from_secs(50));
    }

    #[test]
    fn the_boot_has_an_id() {
        assert_eq!(SystemClock.boot_id().len(), 36);
    }
}
