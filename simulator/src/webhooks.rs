//! Webhooks: signed, sent in order, tried again until they are taken or a day has passed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;

use crate::faults::Faults;
use crate::ledger::Event;
use crate::{Account, World, signature};

/// A receiver that takes longer has not taken it.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first wait before another attempt, in seconds; each further one is twice as long.
const FIRST_WAIT: i64 = 30;
/// After this the hook is switched off.
const GIVE_UP: i64 = 24 * 60 * 60;

/// An event on its way.
#[derive(Clone, Debug)]
struct Waiting {
    event: Event,
    signature: String,
    since: i64,
    due: i64,
    attempt: u32,
    held: bool,
}

/// One attempt to deliver, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Delivery {
    /// `x-razorpay-event-id`: the same for every attempt.
    pub event_id: String,
    /// `payment.captured` and so on.
    pub event: String,
    /// Counted from 1.
    pub attempt: u32,
    /// The answer's status; `None` when there was none in time.
    pub status: Option<u16>,
    /// The body that was sent, byte by byte.
    pub body: String,
    /// `X-Razorpay-Signature`.
    pub signature: String,
}

#[derive(Debug, Default)]
struct Inside {
    waiting: Vec<Waiting>,
    in_flight: usize,
    attempts: Vec<Delivery>,
    switched_off: bool,
}

/// Events that are to be delivered.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    inside: Mutex<Inside>,
    changed: Notify,
}

impl Queue {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs events and queues them, with whatever is to go wrong.
    pub(crate) fn put(&self, events: Vec<Event>, now: i64, faults: &mut Faults, account: &Account) {
        if events.is_empty() {
            return;
        }
        let mut inside = self.inside();
        for mut event in events {
            if faults.drop_webhooks > 0 {
                faults.drop_webhooks -= 1;
                continue;
            }
            let secret = faults.sign_with.as_ref().unwrap_or(&account.webhook_secret);
            let signature = signature::of_webhook(event.body.as_bytes(), secret);
            if faults.tamper_webhooks {
                // Behind the signature: one more paisa.
                event.body = event.body.replacen("\"amount\":", "\"amount\":1", 1);
            }
            let one =
                Waiting { event, signature, since: now, due: now, attempt: 0, held: faults.hold_webhooks };
            for _ in 0..=faults.duplicate_webhooks {
                inside.waiting.push(one.clone());
            }
        }
        drop(inside);
        self.wake();
    }

    pub(crate) fn release(&self, reversed: bool) {
        let mut inside = self.inside();
        let (mut held, rest): (Vec<_>, Vec<_>) = inside.waiting.drain(..).partition(|one| one.held);
        if reversed {
            held.reverse();
        }
        for one in &mut held {
            one.held = false;
        }
        inside.waiting = rest.into_iter().chain(held).collect();
        drop(inside);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    pub(crate) fn attempts(&self) -> Vec<Delivery> {
        self.inside().attempts.clone()
    }

    pub(crate) fn waiting(&self) -> usize {
        let inside = self.inside();
        inside.waiting.len() + inside.in_flight
    }

    pub(crate) fn is_switched_off(&self) -> bool {
        self.inside().switched_off
    }

    fn next_due(&self, now: i64) -> Option<Waiting> {
        let mut inside = self.inside();
        if inside.switched_off {
            return None;
        }
        let at = inside.waiting.iter().position(|one| !one.held && one.due <= now)?;
        inside.in_flight += 1;
        Some(inside.waiting.remove(at))
    }

    fn done(&self, mut one: Waiting, status: Option<u16>, now: i64) {
        one.attempt += 1;
        let mut inside = self.inside();
        inside.in_flight -= 1;
        inside.attempts.push(Delivery {
            event_id: one.event.id.clone(),
            event: one.event.name.to_owned(),
            attempt: one.attempt,
            status,
            body: one.event.body.clone(),
            signature: one.signature.clone(),
        });
        if status.is_some_and(|status| (200..300).contains(&status)) {
            return;
        }
        if now - one.since >= GIVE_UP {
            inside.switched_off = true;
        }
        one.due = now + (FIRST_WAIT << (one.attempt - 1).min(12));
        inside.waiting.push(one);
    }
}

/// Delivers for as long as the simulator runs.
pub(crate) async fn deliver(world: Arc<World>) {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .into();
    loop {
        let url = world.account().webhook_url;
        let next = url.and_then(|url| Some((url, world.queue.next_due(world.clock.now())?)));
        let Some((url, one)) = next else {
            // The second is for retries, whose time comes without anybody's doing.
            let _ = tokio::time::timeout(Duration::from_secs(1), world.queue.changed.notified()).await;
            continue;
        };
        let (agent, sent) = (agent.clone(), one.clone());
        let answered = tokio::task::spawn_blocking(move || send(&agent, &url, &sent)).await;
        world.queue.done(one, answered.ok().flatten(), world.clock.now());
    }
}

fn send(agent: &ureq::Agent, url: &str, one: &Waiting) -> Option<u16> {
    let response = agent
        .post(url)
        .header("content-type", "application/json")
        .header("user-agent", "Razorpay-Webhook/v1")
        .header("x-razorpay-event-id", &one.event.id)
        .header("x-razorpay-signature", &one.signature)
        .send(one.event.body.as_str());
    response.ok().map(|response| response.status().as_u16())
}
