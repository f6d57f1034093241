//! What the front door has counted lately, kept in memory, so that a release can be compared with the same span before it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll_core::watch::judge::Spread;
use plimsoll_host::watch::{Past, Traffic};
use plimsoll_proxy::FrontDoor;

/// A state is kept this often...
const OFTEN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// ...and so many of them.
const KEPT: usize = 240;

/// What the front door has counted since it was opened. Its own 503 (shut, crowded) are no answers of the app.
pub(crate) fn traffic(front: &FrontDoor) -> Traffic {
    let counts = front.traffic();
    Traffic {
        requests: counts.answered().saturating_sub(counts.refused_here),
        errors: counts.server_error.saturating_sub(counts.refused_here),
        latency: Spread(counts.latency.buckets().collect()),
    }
}

/// Keeps states of the counters from now on, enough for `span`.
pub(crate) fn keep(front: &Arc<FrontDoor>, span: Duration) -> Past {
    let often = (span / 120).clamp(OFTEN.0, OFTEN.1);
    let ring: Arc<Mutex<VecDeque<(Instant, Traffic)>>> = Arc::default();
    let (front, states) = (Arc::downgrade(front), Arc::clone(&ring));
    thread::spawn(move || {
        while let Some(front) = front.upgrade() {
            let state = (Instant::now(), traffic(&front));
            drop(front);
            let mut ring = states.lock().unwrap_or_else(PoisonError::into_inner);
            if ring.len() == KEPT {
                ring.pop_front();
            }
            ring.push_back(state);
            drop(ring);
            thread::sleep(often);
        }
    });
    Arc::new(move |span| {
        let ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
        let aged = ring.iter().map(|(at, traffic)| (at.elapsed(), traffic.clone()));
        aged.filter(|(ago, _)| *ago <= span + often).collect()
    })
}
