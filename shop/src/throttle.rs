//! Slows down those who guess passwords.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Attempts that may fail within [`WINDOW`]. Per address from which it is tried, and per account.
const PER_CLIENT: u32 = 10;
const PER_ACCOUNT: u32 = 30;
const WINDOW: Duration = Duration::from_secs(15 * 60);

/// The most keys remembered; beyond it the oldest are forgotten, so that guessing cannot fill the memory.
const MOST_KEYS: usize = 10_000;

/// Counts failed logins. Kept in memory: a restart forgives, which is worth ten guesses.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    attempts: Mutex<HashMap<String, (u32, Instant)>>,
}

impl Throttle {
    /// Counts an attempt, and answers whether it may be made. Counted before the password is looked at and taken back
    /// by [`Throttle::succeeded`]: of a thousand that are sent at once, all would else be judged before one has failed.
    pub(crate) fn begins(&self, client: &str, account: &str) -> bool {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let below = |key: &str, limit| {
            attempts.get(key).is_none_or(|(count, since)| since.elapsed() > WINDOW || *count < limit)
        };
        if !below(&client_key(client), PER_CLIENT) || !below(&account_key(account), PER_ACCOUNT) {
            return false;
        }
        if attempts.len() >= MOST_KEYS {
            attempts.retain(|_, (_, since)| since.elapsed() <= WINDOW);
        }
        if attempts.len() >= MOST_KEYS {
            let oldest = attempts.iter().min_by_key(|(_, (_, since))| *since).map(|(key, _)| key.clone());
            oldest.map(|key| attempts.remove(&key));
        }
        for key in [client_key(client), account_key(account)] {
            let entry = attempts.entry(key).or_insert((0, Instant::now()));
            if entry.1.elapsed() > WINDOW {
                *entry = (0, Instant::now());
            }
            entry.0 += 1;
        }
        true
    }

    /// An attempt was no guess.
    pub(crate) fn succeeded(&self, client: &str, account: &str) {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        for key in [client_key(client), account_key(account)] {
            if let Some((count, _)) = attempts.get_mut(&key) {
                *count = count.saturating_sub(1);
            }
        }
    }
}

/// What one client may do within [`PACE_WINDOW`]: orders and messages.
const PER_PACE: u32 = 30;
/// The most links that are sent to one address within it, whoever asks.
const PER_ADDRESS: u32 = 5;
const PACE_WINDOW: Duration = Duration::from_secs(10 * 60);

/// Counts what is done and not only what fails: orders and messages cost the shop something.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    done: Mutex<HashMap<String, (u32, Instant)>>,
}

impl Pace {
    /// Notes one more act of a kind by a client; `false` when that is too many.
    pub(crate) fn allows(&self, kind: &str, client: &str) -> bool {
        self.allows_most(kind, client, PER_PACE)
    }

    /// Notes one more mail to somebody who may not have asked for it; `false` when that is too many.
    pub(crate) fn allows_mail_to(&self, address: &str) -> bool {
        self.allows_most("mail", &address.to_lowercase(), PER_ADDRESS)
    }

    fn allows_most(&self, kind: &str, client: &str, most: u32) -> bool {
        // This machine itself: smoke tests, or a proxy that does not tell who comes through it. Then one limit for
        // all customers together would close the shop to them.
        if client.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback()) {
            return true;
        }
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.len() >= MOST_KEYS {
            done.retain(|_, (_, since)| since.elapsed() <= PACE_WINDOW);
        }
        if done.len() >= MOST_KEYS {
            // Somebody with ten thousand addresses: better to forget than to fill the memory.
            done.clear();
        }
        let entry = done.entry(format!("{kind} {client}")).or_insert((0, Instant::now()));
        if entry.1.elapsed() > PACE_WINDOW {
            *entry = (0, Instant::now());
        }
        entry.0 += 1;
        entry.0 <= most
    }
}

fn client_key(client: &str) -> String {
    format!("client {client}")
}

fn account_key(account: &str) -> String {
    format!("account {}", account.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_failures_stop_one_client_and_not_another() {
        let throttle = Throttle::default();
        for _ in 0..PER_CLIENT {
            assert!(throttle.begins("10.0.0.1", "asha@example.in"));
        }
        assert!(!throttle.begins("10.0.0.1", "ravi@example.in"));
        assert!(throttle.begins("10.0.0.2", "asha@example.in"));
    }

    #[test]
    fn who_gets_in_is_not_counted() {
        let throttle = Throttle::default();
        for _ in 0..100 {
            assert!(throttle.begins("10.0.0.1", "asha@example.in"));
            throttle.succeeded("10.0.0.1", "asha@example.in");
        }
    }

    #[test]
    fn one_client_is_paced_and_another_is_not() {
        let pace = Pace::default();
        let allowed = (0..100).filter(|_| pace.allows("order", "10.0.0.1")).count();
        assert_eq!(allowed, PER_PACE as usize);
        assert!((0..100).all(|_| pace.allows("order", "127.0.0.1")));
        assert!(pace.allows("order", "10.0.0.2") && pace.allows("message", "10.0.0.1"));
    }

    #[test]
    fn many_clients_on_one_account_are_stopped_too() {
        let throttle = Throttle::default();
        for number in 0..PER_ACCOUNT {
            assert!(throttle.begins(&number.to_string(), "asha@example.in"));
        }
        assert!(!throttle.begins("fresh", "ASHA@example.in"));
        assert!(throttle.begins("fresh", "ravi@example.in"));
    }
}
