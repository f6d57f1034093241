//! Waiting with a deadline; no test sleeps for a fixed time.

use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const GLANCE: Duration = Duration::from_millis(5);

/// Waits until `condition` holds.
///
/// # Panics
/// After `limit`, naming `what` was waited for.
pub fn until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let met = within(limit, || condition().then_some(()));
    assert!(met.is_some(), "waited {limit:?} in vain until {what}");
}

/// Waits until `look` sees something; `None` after `limit`.
pub fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(GLANCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_comes_is_given_up_at_the_limit() {
        let begun = Instant::now();
        assert_eq!(within(Duration::from_millis(30), || None::<()>), None);
        assert!(begun.elapsed() >= Duration::from_millis(30));
    }

    #[test]
    fn what_comes_is_returned_at_once() {
        let mut looks = 0;
        let seen = within(Duration::from_secs(30), || {
            looks += 1;
            (looks == 3).then_some("there")
        });
        assert_eq!(seen, Some("there"));
    }
}
