//! The front door as the engine's [`Gate`]: holds, opens and shuts it, and says what users met.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_core::check::Check;
use plimsoll_core::plan::ReleaseId;
use plimsoll_core::ports::{Clock, Failure, FailureKind, Gate, Moment};
use plimsoll_core::reconcile::Requests;

use crate::FrontDoor;
use crate::page::Page;
use crate::target::Target;
use crate::traffic::Counts;

/// Where a running release listens; `None` when it does not run.
pub type AddressOf = Arc<dyn Fn(&ReleaseId) -> Option<SocketAddr> + Send + Sync>;
/// Told which release users are let in to.
pub type Opened = Arc<dyn Fn(&ReleaseId) + Send + Sync>;
/// Writes (`true`) or removes (`false`) the mark that keeps others from starting the app during a hold.
pub type HeldMark = Arc<dyn Fn(bool) -> Result<(), Failure> + Send + Sync>;

/// The gate of one run.
pub struct Door {
    front: Arc<FrontDoor>,
    app: String,
    drain: Duration,
    address_of: AddressOf,
    held_mark: HeldMark,
    opened: Opened,
    clock: Arc<dyn Clock + Send + Sync>,
    /// The counters when the hold began.
    before: Option<Counts>,
    /// The counters when the door was told of the run.
    began: Counts,
}

impl Door {
    /// A gate over `front`. Requests in flight get `drain` to end, at a hold and at a swap.
    #[must_use]
    pub fn new(
        front: Arc<FrontDoor>,
        app: &str,
        drain: Duration,
        address_of: AddressOf,
        held_mark: HeldMark,
        opened: Opened,
        clock: Arc<dyn Clock + Send + Sync>,
    ) -> Self {
        let began = front.traffic();
        Door { front, app: app.to_owned(), drain, address_of, held_mark, opened, clock, before: None, began }
    }

    fn ms(duration: Duration) -> u64 {
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Door {
    /// Closes the gate in one way or another, then drains what runs.
    fn close(
        &mut self,
        name: &str,
        until: Moment,
        close: impl FnOnce(&FrontDoor, Duration),
    ) -> Result<Vec<Check>, Failure> {
        (self.held_mark)(true)?;
        self.before = Some(self.front.traffic());
        let left = Duration::from_millis(until.since_ms(self.clock.now()));
        close(&self.front, left);
        let Some(target) = self.front.target() else {
            let none = Check::skipped("deploy.stop", "Requests drained", "no release runs behind the door");
            return Ok(vec![none]);
        };
        let in_flight = target.in_flight();
        let drained = target.drain(self.drain.min(left));
        let check = Check::pass("deploy.stop", name)
            .with("in_flight", in_flight as u64)
            .with("drained_ms", Door::ms(drained.waited))
            .with("ended", drained.ended as u64)
            .with("hold_budget_ms", Door::ms(left));
        Ok(vec![check])
    }
}

impl Gate for Door {
    fn hold(&mut self, until: Moment) -> Result<Vec<Check>, Failure> {
        self.close("Requests held at the door", until, |front, left| front.gate().hold(Instant::now() + left))
    }

    fn maintain(&mut self, until: Moment, about_ms: u64) -> Result<Vec<Check>, Failure> {
        let page = Page::maintenance(&self.app, Duration::from_millis(about_ms));
        self.close("Maintenance page shown", until, |front, _| front.gate().shut(page))
    }

    fn open(&mut self, release: &ReleaseId) -> Result<Vec<Check>, Failure> {
        let Some(addr) = (self.address_of)(release) else {
            return Err(Failure {
                kind: FailureKind::Failed,
                what: format!("the door was not opened to release {release}"),
                why: "the release does not run".into(),
                next: "plimsoll resume".into(),
            });
        };
        let target = Target { addr, release: release.0.clone() };
        let old = match self.front.target() {
            // The same process behind the door, not drained: nothing to swap.
            Some(there) if *there.target() == target && self.before.is_none() => None,
            _ => self.front.set_target(Some(target)),
        };
        self.front.gate().open();
        (self.opened)(release);
        (self.held_mark)(false)?;
        if let Some(before) = self.before.take() {
            let met = self.front.traffic().since(&before);
            let check = Check::pass("deploy.stop", "Held requests let in")
                .with("waited", met.held)
                .with("left_while_waiting", met.held_left)
                .with("turned_away", met.refused_here);
            return Ok(vec![check]);
        }
        let Some(old) = old else { return Ok(Vec::new()) };
        let in_flight = old.in_flight();
        let drained = old.drain(self.drain);
        let check = Check::pass("deploy.stop", "Users moved over")
            .with("in_flight", in_flight as u64)
            .with("drained_ms", Door::ms(drained.waited))
            .with("ended", drained.ended as u64);
        Ok(vec![check])
    }

    fn requests(&self) -> Option<Requests> {
        let mut last = None;
        // Each counter is read by itself, and requests move on meanwhile.
        for _ in 0..20 {
            let now = self.front.traffic();
            let met = now.since(&self.began);
            let requests = Requests {
                accepted: met.requests + self.began.in_flight + self.began.parked,
                held: met.held,
                answered: met.answered(),
                turned_away: met.refused_here,
                left: met.left,
                inside: now.in_flight + now.parked,
            };
            last = Some(requests);
            if requests.balanced() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        last
    }

    fn shut(&mut self, _why: &str) -> Result<(), Failure> {
        // The engine shuts it only when there is no release to go back to.
        self.front.gate().shut(Page::no_release(&self.app));
        (self.held_mark)(false)
    }
}
