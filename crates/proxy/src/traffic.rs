//! What went through the door, counted.
//!
//! For every span: requests = answered + left + those still inside. A run's report uses that to say how many
//! requests were accepted, held and answered.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;

/// Eight buckets for each doubling: a percentile is at most 12.5 % too high.
const BUCKETS_PER_DOUBLING: u64 = 8;
const BUCKETS: usize = 256;
const RING_SECONDS: u64 = 20 * 60;

/// Counters since the door was started, or for a span after [`Counts::since`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Requests accepted (their heads were read).
    pub requests: u64,
    /// Requests that waited at the door.
    pub held: u64,
    /// Held requests whose client left; they never ran.
    pub held_left: u64,
    /// Requests whose client left before an answer, the held ones included.
    pub left: u64,
    /// Answers with 1xx, a tunnel's 101.
    pub informational: u64,
    /// Answers with 2xx.
    pub success: u64,
    /// Answers with 3xx.
    pub redirect: u64,
    /// Answers with 4xx, those of the door included.
    pub client_error: u64,
    /// Answers with 5xx, those of the door included.
    pub server_error: u64,
    /// 502 and 504 written by the door: the app was away, broke the connection or was ended.
    pub failed_here: u64,
    /// 503 written by the door: shut, held too long, crowded.
    pub refused_here: u64,
    /// Answers that broke off after their head was sent.
    pub broken: u64,
    /// At a backend now.
    pub in_flight: u64,
    /// Waiting at the door now.
    pub parked: u64,
    /// The longest wait since the latest hold began.
    pub longest_held: Duration,
    /// How long the app took from the request to the head of its answer.
    pub latency: Latency,
}

/// A histogram of durations in fixed buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency(Vec<u64>);

/// One second of the last twenty minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// Seconds since the door was started.
    pub second: u64,
    /// Requests answered in it.
    pub answered: u32,
    /// Those answered by the app with 5xx, or by the door with 502 or 504. The door's own 503 are not errors of the app.
    pub errors: u32,
}

pub(crate) struct Traffic {
    began: Instant,
    requests: AtomicU64,
    held: AtomicU64,
    held_left: AtomicU64,
    left: AtomicU64,
    classes: [AtomicU64; 5],
    failed_here: AtomicU64,
    refused_here: AtomicU64,
    broken: AtomicU64,
    in_flight: AtomicU64,
    parked: AtomicU64,
    longest_held: AtomicU64,
    latency: [AtomicU64; BUCKETS],
    ring: Mutex<Vec<Second>>,
}

/// Who wrote an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    App,
    Door,
}

/// One request, from its head to the head of its answer. Dropped unanswered, its client has left.
pub(crate) struct Ticket {
    traffic: Arc<Traffic>,
    held: bool,
    answered: bool,
}

impl Counts {
    /// What happened between `mark` and this. Gauges (`in_flight`, `parked`) and `longest_held` stay as they are.
    pub fn since(&self, mark: &Counts) -> Counts {
        Counts {
            requests: self.requests - mark.requests,
            held: self.held - mark.held,
            held_left: self.held_left - mark.held_left,
            left: self.left - mark.left,
            informational: self.informational - mark.informational,
            success: self.success - mark.success,
            redirect: self.redirect - mark.redirect,
            client_error: self.client_error - mark.client_error,
            server_error: self.server_error - mark.server_error,
            failed_here: self.failed_here - mark.failed_here,
            refused_here: self.refused_here - mark.refused_here,
            broken: self.broken - mark.broken,
            in_flight: self.in_flight,
            parked: self.parked,
            longest_held: self.longest_held,
            latency: Latency(
                self.latency.0.iter().zip(&mark.latency.0).map(|(now, then)| now - then).collect(),
            ),
        }
    }

    /// Requests that were answered, with whatever status.
    pub fn answered(&self) -> u64 {
        self.informational + self.success + self.redirect + self.client_error + self.server_error
    }
}

impl Latency {
    /// The time within which `share` (0.5, 0.99) of the answers came; `None` without any.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total: u64 = self.0.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = ((total as f64 * share).ceil() as u64).clamp(1, total);
        let mut seen = 0;
        let at = self.0.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_micros(bucket_end(at)))
    }

    /// The upper limit of every bucket, microseconds, with how many answers are in it; empty ones left out.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().enumerate().filter(|(_, count)| **count > 0).map(|(at, count)| (bucket_end(at), *count))
    }

    /// How many answers it holds.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// Below 8 us each value has its bucket; above, each doubling is cut in eight.
fn bucket(micros: u64) -> usize {
    if micros < BUCKETS_PER_DOUBLING {
        return micros as usize;
    }
    let power = u64::from(micros.ilog2());
    let part = (micros >> (power - 3)) & (BUCKETS_PER_DOUBLING - 1);
    (((power - 2) * BUCKETS_PER_DOUBLING + part) as usize).min(BUCKETS - 1)
}

/// The first value beyond a bucket.
fn bucket_end(at: usize) -> u64 {
    let at = at as u64 + 1;
    if at <= BUCKETS_PER_DOUBLING {
        return at;
    }
    let power = at / BUCKETS_PER_DOUBLING + 2;
    (BUCKETS_PER_DOUBLING + at % BUCKETS_PER_DOUBLING) << (power - 3)
}

impl Traffic {
    pub(crate) fn new() -> Traffic {
        Traffic {
            began: Instant::now(),
            requests: AtomicU64::new(0),
            held: AtomicU64::new(0),
            held_left: AtomicU64::new(0),
            left: AtomicU64::new(0),
            classes: Default::default(),
            failed_here: AtomicU64::new(0),
            refused_here: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            parked: AtomicU64::new(0),
            longest_held: AtomicU64::new(0),
            latency: [const { AtomicU64::new(0) }; BUCKETS],
            ring: Mutex::new(vec![Second::default(); RING_SECONDS as usize]),
        }
    }

    pub(crate) fn accept(self: &Arc<Traffic>) -> Ticket {
        self.requests.fetch_add(1, Relaxed);
        Ticket { traffic: Arc::clone(self), held: false, answered: false }
    }

    pub(crate) fn claimed(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(crate) fn unclaimed(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(crate) fn parked(&self) {
        self.parked.fetch_add(1, Relaxed);
    }

    pub(crate) fn unparked(&self, waited: Duration) {
        self.parked.fetch_sub(1, Relaxed);
        self.longest_held.fetch_max(waited.as_micros() as u64, Relaxed);
    }

    pub(crate) fn held_left(&self) {
        self.held_left.fetch_add(1, Relaxed);
    }

    pub(crate) fn hold_began(&self) {
        self.longest_held.store(0, Relaxed);
    }

    pub(crate) fn broke(&self) {
        self.broken.fetch_add(1, Relaxed);
    }

    pub(crate) fn app_answered(&self, after: Duration) {
        self.latency[bucket(after.as_micros() as u64)].fetch_add(1, Relaxed);
    }

    fn answered(&self, status: StatusCode, by: By) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.classes[class].fetch_add(1, Relaxed);
        let refused = by == By::Door && status == StatusCode::SERVICE_UNAVAILABLE;
        if refused {
            self.refused_here.fetch_add(1, Relaxed);
        } else if by == By::Door && class == 4 {
            self.failed_here.fetch_add(1, Relaxed);
        }
        let second = self.began.elapsed().as_secs();
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = &mut ring[(second % RING_SECONDS) as usize];
        if slot.second != second {
            *slot = Second { second, ..Second::default() };
        }
        slot.answered += 1;
        slot.errors += u32::from(class == 4 && !refused);
    }

    pub(crate) fn counts(&self) -> Counts {
        let class = |at: usize| self.classes[at].load(Relaxed);
        Counts {
            requests: self.requests.load(Relaxed),
            held: self.held.load(Relaxed),
            held_left: self.held_left.load(Relaxed),
            left: self.left.load(Relaxed),
            informational: class(0),
            success: class(1),
            redirect: class(2),
            client_error: class(3),
            server_error: class(4),
            failed_here: self.failed_here.load(Relaxed),
            refused_here: self.refused_here.load(Relaxed),
            broken: self.broken.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            parked: self.parked.load(Relaxed),
            longest_held: Duration::from_micros(self.longest_held.load(Relaxed)),
            latency: Latency(self.latency.iter().map(|count| count.load(Relaxed)).collect()),
        }
    }

    /// The last `span` (at most twenty minutes), oldest first, seconds without an answer left out; this second included.
    pub(crate) fn recent(&self, span: Duration) -> Vec<Second> {
        let now = self.began.elapsed().as_secs();
        let first = now.saturating_sub(span.as_secs().min(RING_SECONDS - 1));
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seconds: Vec<Second> = ring
            .iter()
            .filter(|slot| slot.answered > 0 && slot.second >= first && slot.second <= now)
            .copied()
            .collect();
        seconds.sort_by_key(|slot| slot.second);
        seconds
    }
}

impl Ticket {
    /// The request waits at the door; counted once.
    pub(crate) fn held(&mut self) {
        if !self.held {
            self.held = true;
            self.traffic.held.fetch_add(1, Relaxed);
        }
    }

    /// The head of its answer is on its way.
    pub(crate) fn answered(mut self, status: StatusCode, by: By) {
        self.answered = true;
        self.traffic.answered(status, by);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.traffic.left.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_all_durations_and_err_by_an_eighth_at_most() {
        let mut last = 0;
        for micros in (0..2_000_u64).chain((0..400).map(|power| 1.06_f64.powi(power) as u64)) {
            let at = bucket(micros);
            assert!(at < BUCKETS);
            if at < BUCKETS - 1 {
                let end = bucket_end(at);
                assert!(
                    end > micros && end as f64 <= micros as f64 * 1.125 + 1.0,
                    "{micros} in {at}, which ends at {end}"
                );
            }
            if micros > last {
                assert!(at >= bucket(last));
            }
            last = micros;
        }
    }

    #[test]
    fn quantiles_of_a_span() {
        let traffic = Arc::new(Traffic::new());
        traffic.app_answered(Duration::from_secs(50));
        let mark = traffic.counts();
        assert_eq!(mark.since(&mark).latency.quantile(0.5), None);
        for millis in 1..=100 {
            traffic.app_answered(Duration::from_millis(millis));
        }
        let latency = traffic.counts().since(&mark).latency;
        let near = |share, millis: u64| {
            let found = latency.quantile(share).unwrap();
            let true_one = Duration::from_millis(millis);
            assert!(
                found >= true_one && found < true_one * 9 / 8 + Duration::from_millis(1),
                "{share}: {found:?}"
            );
        };
        near(0.5, 50);
        near(0.99, 99);
        near(1.0, 100);
    }

    #[test]
    fn every_request_is_answered_or_left() {
        let traffic = Arc::new(Traffic::new());
        for (status, by) in [
            (200, By::App),
            (302, By::App),
            (404, By::App),
            (500, By::App),
            (503, By::App),
            (502, By::Door),
            (503, By::Door),
            (101, By::App),
        ] {
            traffic.accept().answered(StatusCode::from_u16(status).unwrap(), by);
        }
        drop(traffic.accept());
        let counts = traffic.counts();
        assert_eq!((counts.requests, counts.answered(), counts.left), (9, 8, 1));
        assert_eq!(
            (counts.informational, counts.success, counts.redirect, counts.client_error, counts.server_error),
            (1, 1, 1, 1, 4)
        );
        assert_eq!((counts.failed_here, counts.refused_here), (1, 1));
        let recent = traffic.recent(Duration::from_secs(60));
        assert_eq!(recent.iter().map(|second| second.answered).sum::<u32>(), 8);
        assert_eq!(
            recent.iter().map(|second| second.errors).sum::<u32>(),
            3,
            "the door's own 503 is no error of the app"
        );
    }
}
