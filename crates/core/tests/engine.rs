//! Every plan, stopped or failing at every point, and taken over after a crash at every event.
//!
//! The world here is a small model with the rules of the real one: nobody may write while the door is shut, an old
//! release cannot serve a migrated database, users write as soon as they are let in.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use plimsoll_core::check::Check;
use plimsoll_core::engine::{Engine, Outcome};
use plimsoll_core::notify::{Delivery, Occasion, Told, Way};
use plimsoll_core::plan::{
    Agreed, CarryPlan, Decision, Limits, Pending, Rehearsal, Release, ReleaseId, Step, Strategy,
};
use plimsoll_core::ports::{
    Audience, Clock, Database, Failure, FailureKind, Gate, Journal, Moment, News, Notifier, Ports, Probe,
    Restored, Service, Source,
};
use plimsoll_core::record::{Ending, Entry, Event, FORMAT, Kind, Order, State};

#[derive(Clone, Debug, PartialEq)]
enum Door {
    Open(ReleaseId),
    Held,
    Shut,
}

/// What the model knows of production.
#[derive(Clone, Debug, PartialEq)]
struct Truth {
    door: Door,
    running: Vec<ReleaseId>,
    workers: bool,
    current: Option<ReleaseId>,
    built: Vec<ReleaseId>,
    migrated: bool,
    /// Orders in the database, and those that users were told are safe.
    orders: u32,
    acknowledged: u32,
    pre: Option<(bool, u32)>,
}

struct Crash;

/// One world; every port is a view of it.
struct World {
    truth: RefCell<Truth>,
    entries: RefCell<Vec<Entry>>,
    clock_ms: Cell<u64>,
    crash_after: Cell<Option<usize>>,
    fail_at: Cell<Option<Step>>,
    slow_at: Cell<Option<Step>>,
    stop_at: Cell<Option<usize>>,
    foreign_order_in_hold: Cell<bool>,
    pending: bool,
    /// How many values a rollback sets aside.
    aside: Cell<u64>,
    harmed: Cell<bool>,
    go_ahead: bool,
    front: bool,
    /// A hold has next to no budget, and the window is open.
    window: bool,
    /// What is asked for. A rollback brings the release `new` back that was live before, and the data with it when
    /// that is `pending`.
    kind: Kind,
}

fn old() -> ReleaseId {
    ReleaseId::new(1, "aaaaaaaaaa")
}

fn new() -> Release {
    Release {
        id: ReleaseId::new(2, "bbbbbbbbbb"),
        commit: "bbbbbbbbbb".into(),
        branch: "main".into(),
        author: String::new(),
        subject: String::new(),
    }
}

impl World {
    fn new(pending: bool) -> World {
        World {
            truth: RefCell::new(Truth {
                door: Door::Open(old()),
                running: vec![old()],
                workers: true,
                current: Some(old()),
                built: vec![old()],
                migrated: false,
                orders: 10,
                acknowledged: 10,
                pre: None,
            }),
            entries: RefCell::default(),
            clock_ms: Cell::new(1_000),
            crash_after: Cell::default(),
            fail_at: Cell::default(),
            slow_at: Cell::default(),
            stop_at: Cell::default(),
            foreign_order_in_hold: Cell::default(),
            pending,
            aside: Cell::default(),
            harmed: Cell::default(),
            go_ahead: true,
            front: true,
            window: false,
            kind: Kind::Deploy,
        }
    }

    /// One in which this strategy is chosen.
    fn of(strategy: Strategy) -> World {
        World { window: strategy == Strategy::Maintenance, ..World::new(strategy.shuts_the_door()) }
    }

    /// A rollback: its release is there already.
    fn back(data: bool) -> World {
        let world = World { kind: Kind::Rollback, ..World::new(data) };
        world.truth.borrow_mut().built.push(new().id);
        world
    }

    /// Users order whenever the door is open; each order they are told about must stay.
    fn users(&self) {
        let mut truth = self.truth.borrow_mut();
        if let Door::Open(release) = truth.door.clone() {
            assert!(truth.running.contains(&release), "the door is open to {release}, which does not run");
            let fits = !truth.migrated || release != old();
            assert!(fits, "users met the old release on the migrated database");
            truth.orders += 1;
            truth.acknowledged += 1;
        }
    }

    fn act(&self, step: Step) -> Result<(), Failure> {
        self.users();
        let ms = if self.slow_at.get() == Some(step) { 60_000 } else { 10 };
        self.clock_ms.set(self.clock_ms.get() + ms);
        if self.fail_at.get() == Some(step) {
            self.fail_at.set(None);
            return Err(Failure::failed(format!("{} failed", step.word()), "as the test asked", "nothing"));
        }
        Ok(())
    }

    fn ports<'a>(&'a self, views: &'a mut [View<'a>; 7]) -> Ports<'a> {
        let [source, database, service, gate, probe, notifier, journal] = views;
        Ports { source, database, service, gate, probe, notifier, journal, audience: self, clock: self }
    }

    fn limits(&self) -> Limits {
        let hold_budget_ms = if self.window { 100 } else { 10_000 };
        Limits { front: true, side_by_side: true, hold_budget_ms, restart_ms: 500 }
    }

    fn order(&self) -> Order {
        Order {
            kind: self.kind,
            app: "shop".into(),
            run: 2,
            by: "test".into(),
            asked: None,
            from: Some(old()),
            to: (self.kind == Kind::Rollback).then(new),
            acknowledged: Vec::new(),
            watch: true,
            unlock: None,
            tool: "test".into(),
            format: FORMAT,
            boot: self.boot_id(),
        }
    }

    fn run(&self, limits: Limits) -> Outcome {
        let mut views = [(); 7].map(|()| View(self));
        Engine::run(self.order(), limits, self.ports(&mut views))
    }

    fn recover(&self, limits: Limits, acknowledged: Vec<String>) -> Outcome {
        let entries = self.entries.borrow().clone();
        let mut views = [(); 7].map(|()| View(self));
        Engine::recover(&entries, limits, self.ports(&mut views), Vec::new(), acknowledged)
    }

    /// The owner dies: its children with it, and the door is shut until somebody takes over.
    fn die(&self) {
        let mut truth = self.truth.borrow_mut();
        truth.running.clear();
        truth.door = Door::Shut;
        self.crash_after.set(None);
    }

    fn state(&self) -> State {
        State::fold(self.entries.borrow().iter())
    }

    /// What must hold after every run, whatever happened.
    fn settled(&self, ending: Ending, case: &str) {
        let truth = self.truth.borrow();
        assert!(truth.orders >= truth.acknowledged, "{case}: an acknowledged order is gone: {truth:?}");
        let serving = match ending {
            Ending::Live | Ending::RolledBack => new().id,
            _ => old(),
        };
        assert_eq!(truth.current, Some(serving.clone()), "{case}");
        assert_eq!(truth.migrated, serving == new().id && self.pending, "{case}");
        if let Door::Open(release) = &truth.door {
            assert_eq!(*release, serving, "{case}");
            assert_eq!(truth.running, vec![serving], "{case}: leftovers run");
        }
        assert!(truth.workers, "{case}: the workers were not started again");
        assert!(self.state().is_over(), "{case}: the journal does not say how it ended");
        let gaps = self.entries.borrow().iter().enumerate().all(|(n, e)| e.seq == n as u64);
        assert!(gaps, "{case}: the journal's numbers have gaps");
    }
}

struct View<'a>(&'a World);

impl Source for View<'_> {
    fn fetch(&mut self, _: Option<&str>) -> Result<(Release, Vec<Check>), Failure> {
        self.0.act(Step::Fetch)?;
        Ok((new(), vec![Check::pass("deploy.pull", "Pull the code")]))
    }
    fn build(&mut self, release: &Release) -> Result<Vec<Check>, Failure> {
        self.0.truth.borrow_mut().built.push(release.id.clone());
        self.0.act(Step::Build)?;
        Ok(Vec::new())
    }
    fn discard(&mut self, release: &ReleaseId) -> Result<(), Failure> {
        let mut truth = self.0.truth.borrow_mut();
        assert_ne!(truth.current.as_ref(), Some(release), "the current release is discarded");
        truth.built.retain(|r| r != release);
        Ok(())
    }
    fn switch(&mut self, to: Option<&ReleaseId>) -> Result<Vec<Check>, Failure> {
        self.0.truth.borrow_mut().current = to.cloned();
        self.0.act(Step::Switch)?;
        Ok(Vec::new())
    }
}

impl Database for View<'_> {
    fn backup(&mut self) -> Result<Vec<Check>, Failure> {
        self.0.act(Step::Backup)?;
        Ok(Vec::new())
    }
    fn rehearse(&mut self, _: &Release, _: Kind) -> Result<(Rehearsal, Vec<Check>), Failure> {
        self.0.act(Step::Rehearse)?;
        let pending = Pending {
            version: 2,
            description: "x".into(),
            class: "rebuild".into(),
            ms: 10,
            mode: "wrapped".into(),
            ..Pending::default()
        };
        if self.0.kind == Kind::Rollback {
            let carry = self.0.pending.then_some(CarryPlan { applied: 1, equal: 0, set_aside: 0 });
            return Ok((Rehearsal { carry, migrate_ms: 10, ..Rehearsal::default() }, Vec::new()));
        }
        let pending = if self.0.pending { vec![pending] } else { Vec::new() };
        Ok((Rehearsal { pending, migrate_ms: 10, ..Rehearsal::default() }, Vec::new()))
    }
    fn snapshot(&mut self, _: Moment) -> Result<Vec<Check>, Failure> {
        {
            let mut truth = self.0.truth.borrow_mut();
            assert!(truth.running.is_empty(), "a snapshot while {:?} runs", truth.running);
            truth.pre = Some((truth.migrated, truth.orders));
        }
        self.0.act(Step::Snapshot)?;
        Ok(Vec::new())
    }
    fn migrate(&mut self, _: &Release, _: Moment) -> Result<Vec<Check>, Failure> {
        self.0.truth.borrow_mut().migrated = self.0.pending;
        self.0.act(Step::Migrate)?;
        if self.0.foreign_order_in_hold.get() {
            self.0.truth.borrow_mut().orders += 1;
            self.0.truth.borrow_mut().acknowledged += 1;
        }
        if self.0.kind == Kind::Rollback {
            return Ok(vec![Check::pass("back.rows", "Carried over").with("set_aside", self.0.aside.get())]);
        }
        Ok(Vec::new())
    }
    fn verify(&mut self, _: &Release) -> Result<Vec<Check>, Failure> {
        Ok(Vec::new())
    }
    fn restore(&mut self, acknowledged: &[String]) -> Result<Restored, Failure> {
        let mut truth = self.0.truth.borrow_mut();
        let Some((migrated, orders)) = truth.pre else {
            return Ok(Restored { changed: false, checks: Vec::new(), kept: None });
        };
        assert!(truth.running.is_empty(), "a restore while {:?} runs", truth.running);
        if truth.orders != orders && !acknowledged.iter().any(|a| a == "set-aside:orders") {
            let frozen = Failure::failed("rows would be lost", "1 row in orders", "acknowledge");
            return Err(frozen.of_kind(FailureKind::Frozen));
        }
        truth.acknowledged -= truth.orders - orders;
        (truth.migrated, truth.orders) = (migrated, orders);
        truth.pre = None;
        Ok(Restored { changed: true, checks: Vec::new(), kept: None })
    }
    fn unharmed(&mut self) -> Result<Vec<Check>, Failure> {
        Ok(if self.0.harmed.get() {
            vec![Check::fail("back.verify", "The database", "orders has 10 rows fewer")]
        } else {
            Vec::new()
        })
    }
    fn tidy(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Service for View<'_> {
    fn stop(&mut self, release: &ReleaseId, _: Option<Moment>) -> Result<Vec<Check>, Failure> {
        if *release == old() {
            self.0.act(Step::Stop)?;
        }
        self.0.truth.borrow_mut().running.retain(|r| r != release);
        Ok(Vec::new())
    }
    fn start(&mut self, release: &ReleaseId, _: Option<Moment>) -> Result<Vec<Check>, Failure> {
        {
            let mut truth = self.0.truth.borrow_mut();
            assert!(truth.built.contains(release), "{release} is not built");
            if !truth.running.contains(release) {
                truth.running.push(release.clone());
            }
        }
        if *release != old() {
            self.0.act(Step::Start)?;
        }
        Ok(Vec::new())
    }
    fn stop_workers(&mut self, _: Option<Moment>) -> Result<Vec<Check>, Failure> {
        self.0.truth.borrow_mut().workers = false;
        self.0.act(Step::StopWorkers)?;
        Ok(Vec::new())
    }
    fn start_workers(&mut self) -> Result<Vec<Check>, Failure> {
        self.0.truth.borrow_mut().workers = true;
        self.0.act(Step::StartWorkers)?;
        Ok(Vec::new())
    }
}

impl Gate for View<'_> {
    fn hold(&mut self, _: Moment) -> Result<Vec<Check>, Failure> {
        self.0.truth.borrow_mut().door = Door::Held;
        self.0.act(Step::Hold)?;
        Ok(Vec::new())
    }
    fn maintain(&mut self, _: Moment, _: u64) -> Result<Vec<Check>, Failure> {
        self.0.truth.borrow_mut().door = Door::Shut;
        self.0.act(Step::Hold)?;
        Ok(Vec::new())
    }
    fn open(&mut self, release: &ReleaseId) -> Result<Vec<Check>, Failure> {
        if self.0.front {
            self.0.truth.borrow_mut().door = Door::Open(release.clone());
        }
        self.0.act(Step::Open)?;
        Ok(Vec::new())
    }
    fn shut(&mut self, _: &str) -> Result<(), Failure> {
        self.0.truth.borrow_mut().door = Door::Shut;
        Ok(())
    }
}

impl Probe for View<'_> {
    fn prove(&mut self, _: &ReleaseId, _: Strategy, _: Option<Moment>) -> Result<Vec<Check>, Failure> {
        match self.0.act(Step::Prove) {
            Ok(()) => Ok(vec![Check::pass("verify.smoke", "Checkout")]),
            Err(_) => Ok(vec![Check::fail("verify.smoke", "Checkout", "500 instead of 200")]),
        }
    }
    fn watch(&mut self, _: &ReleaseId) -> Result<Vec<Check>, Failure> {
        self.0.act(Step::Watch)?;
        Ok(Vec::new())
    }
}

impl Notifier for View<'_> {
    fn tell(&mut self, occasion: Occasion, run: &State) -> Vec<Told> {
        assert!(run.decision.is_some(), "nobody is told of what is not decided");
        vec![Told {
            id: format!("2-{}", occasion.word()),
            group: "team".into(),
            way: Way::Mail,
            to: "team@example.com".into(),
            occasion,
            delivery: Delivery::Failed,
            attempts: 1,
            why: "the outbox is full".into(),
        }]
    }
}

impl Journal for View<'_> {
    fn append(&mut self, entry: &Entry) -> Result<(), Failure> {
        self.0.users();
        self.0.entries.borrow_mut().push(entry.clone());
        if self.0.crash_after.get() == Some(self.0.entries.borrow().len()) {
            std::panic::panic_any(Crash);
        }
        Ok(())
    }
    fn reserve(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Audience for World {
    fn show(&self, _: News<'_>) {}
    fn stop_asked(&self) -> Option<String> {
        (self.stop_at.get()? <= self.entries.borrow().len()).then(|| "Ctrl-C".to_owned())
    }
    fn go_ahead(&self, _: &Release, _: &Rehearsal, _: &Decision) -> bool {
        self.go_ahead
    }
}

impl Clock for World {
    fn wall(&self) -> String {
        format!("2026-01-01T00:00:{:06.3}Z", self.clock_ms.get() as f64 / 1000.0)
    }
    fn now(&self) -> Moment {
        Moment(self.clock_ms.get())
    }
    fn boot_id(&self) -> String {
        "boot".into()
    }
    fn agreed(&self) -> Agreed {
        match self.window {
            true => Agreed::Open { left_ms: 10_000, until: "05:00".into() },
            false => Agreed::Nothing,
        }
    }
}

/// A crash panics with [`Crash`]; anything else is a failed assertion.
fn crashing<T>(run: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(value) => Some(value),
        Err(panic) if panic.is::<Crash>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

const SERVED: [Strategy; 3] = [Strategy::Overlap, Strategy::Hold, Strategy::Maintenance];

fn silent_crashes() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Crash>() {
            default(info);
        }
    }));
}

#[test]
fn a_good_release_ends_live() {
    for strategy in SERVED {
        let world = World::of(strategy);
        let outcome = world.run(world.limits());
        assert_eq!((outcome.ending, outcome.exit), (Some(Ending::Live), 0), "{outcome:?}");
        assert_eq!(world.state().strategy(), Some(strategy));
        world.settled(Ending::Live, "good");
        assert_eq!(world.state().done.last(), Some(&Step::Watch));
    }
}

#[test]
fn a_message_that_cannot_be_put_down_is_a_warning_and_the_run_goes_on() {
    let world = World::new(true);
    let outcome = world.run(world.limits());
    assert_eq!((outcome.ending, outcome.exit), (Some(Ending::Live), 0));
    let state = State::fold(world.entries.borrow().iter());
    let occasions: Vec<Occasion> = state.told.iter().map(|told| told.occasion).collect();
    assert_eq!(occasions, [Occasion::Planned, Occasion::Started]);
    assert_eq!(state.warnings.len(), 2);
    assert!(state.warnings[0].contains("team could not be told by mail: the outbox is full"));
}

#[test]
fn a_step_that_fails_before_the_commit_point_undoes_everything() {
    for strategy in SERVED {
        let all: Vec<Step> = Step::PREPARATION.iter().chain(strategy.steps()).copied().collect();
        let commit = all.iter().position(|s| *s == Step::Commit).unwrap();
        for step in &all[..commit] {
            let world = World::of(strategy);
            world.fail_at.set(Some(*step));
            let outcome = world.run(world.limits());
            let touched = !Step::PREPARATION.contains(step);
            let ending = if touched { Ending::Undone } else { Ending::Unchanged };
            assert_eq!((outcome.ending, outcome.exit), (Some(ending), 1), "{step:?}: {outcome:?}");
            world.settled(ending, &format!("{strategy:?} failing at {step:?}"));
            assert_eq!(world.truth.borrow().built, vec![old()], "{step:?}: the failed release is left");
        }
    }
}

#[test]
fn a_step_that_fails_after_the_commit_point_leaves_it_live_with_exit_5() {
    for strategy in SERVED {
        let at = strategy.steps().iter().position(|s| *s == Step::Commit).unwrap();
        for step in &strategy.steps()[at + 1..] {
            let world = World::of(strategy);
            world.fail_at.set(Some(if *step == Step::Retire { Step::Stop } else { *step }));
            let outcome = world.run(world.limits());
            assert_eq!((outcome.ending, outcome.exit), (Some(Ending::Live), 5), "{step:?}: {outcome:?}");
            assert!(matches!(world.truth.borrow().door, Door::Open(_)), "{step:?}");
        }
    }
}

#[test]
fn a_crash_after_every_event_is_undone_or_finished_by_the_next_owner() {
    silent_crashes();
    for strategy in SERVED {
        for failing in [None, Some(Step::Prove), Some(Step::Migrate)] {
            let mut events = 0;
            loop {
                events += 1;
                let world = World::of(strategy);
                world.fail_at.set(failing);
                world.crash_after.set(Some(events));
                if crashing(|| world.run(world.limits())).is_some() {
                    break;
                }
                world.die();
                let committed = world.state().committed;
                let over = world.state().is_over();
                let outcome = if over { None } else { Some(world.recover(world.limits(), Vec::new())) };
                let case = format!("{strategy:?} {failing:?} crash after event {events}: {outcome:?}");
                let ending = match (committed, world.state().ended) {
                    (true, Some((ending, ..))) => {
                        assert_eq!(ending, Ending::Live, "{case}");
                        ending
                    }
                    (false, Some((ending, ..))) => {
                        assert!(matches!(ending, Ending::Undone | Ending::Unchanged), "{case}");
                        ending
                    }
                    (_, None) => panic!("{case}: not resolved"),
                };
                world.settled(ending, &case);
            }
            assert!(events > 20, "the crash loop ended after {events} events");
        }
    }
}

#[test]
fn a_rollback_that_crashes_after_any_event_is_undone_or_finished_and_loses_no_order() {
    silent_crashes();
    for data in [false, true] {
        for failing in [None, Some(Step::Migrate), Some(Step::Start), Some(Step::Prove)] {
            let mut events = 0;
            loop {
                events += 1;
                let world = World::back(data);
                world.fail_at.set(failing);
                world.crash_after.set(Some(events));
                if crashing(|| world.run(world.limits())).is_some() {
                    break;
                }
                world.die();
                let committed = world.state().committed;
                if !world.state().is_over() {
                    world.recover(world.limits(), Vec::new());
                }
                let case = format!("data: {data}, {failing:?}, crash after event {events}");
                let ended = world.state().ended.map(|(ending, ..)| ending);
                match ended {
                    Some(ending @ Ending::RolledBack) if committed => world.settled(ending, &case),
                    Some(ending @ (Ending::Undone | Ending::Unchanged)) if !committed => {
                        world.settled(ending, &case);
                    }
                    other => panic!("{case}: {other:?}, committed: {committed}"),
                }
            }
            assert!(events > 12, "the crash loop ended after {events} events");
        }
    }
}

#[test]
fn a_rollback_that_sets_values_aside_is_done_with_exit_6() {
    let world = World::back(true);
    let outcome = world.run(world.limits());
    assert_eq!((outcome.ending, outcome.exit), (Some(Ending::RolledBack), 0), "{outcome:?}");
    let world = World::back(true);
    world.aside.set(2);
    let outcome = world.run(world.limits());
    assert_eq!((outcome.ending, outcome.exit), (Some(Ending::RolledBack), 6), "{outcome:?}");
    assert!(outcome.failure.is_some_and(|failure| failure.what.contains("set aside")));
    world.settled(Ending::RolledBack, "set aside");
}

#[test]
fn a_second_crash_in_the_middle_of_the_undo_is_undone_again() {
    silent_crashes();
    for first in 1..40 {
        for second in 1..20 {
            let world = World::new(true);
            world.fail_at.set(Some(Step::Prove));
            world.crash_after.set(Some(first));
            if crashing(|| world.run(world.limits())).is_some() {
                return;
            }
            world.die();
            world.crash_after.set(Some(first + second));
            if crashing(|| world.recover(world.limits(), Vec::new())).is_none() {
                world.die();
                if !world.state().is_over() {
                    world.recover(world.limits(), Vec::new());
                }
            }
            let ending = world.state().ended.map(|(ending, ..)| ending).unwrap();
            world.settled(ending, &format!("crashes after {first} and {second}"));
        }
    }
}

#[test]
fn a_request_to_stop_is_heard_until_the_commit_point() {
    for strategy in SERVED {
        for events in 1..60 {
            let world = World::of(strategy);
            world.stop_at.set(Some(events));
            let outcome = world.run(world.limits());
            let ending = outcome.ending.unwrap();
            world.settled(ending, &format!("{strategy:?} stopped after {events}"));
            let committed = world.state().committed;
            assert_eq!(ending == Ending::Live, committed, "{outcome:?}");
            assert_eq!(outcome.exit, u8::from(!committed), "{outcome:?}");
        }
    }
}

#[test]
fn a_hold_that_runs_out_of_time_is_undone() {
    for step in [Step::Stop, Step::Snapshot, Step::Migrate, Step::Start, Step::Prove] {
        let world = World::new(true);
        world.slow_at.set(Some(step));
        let outcome = world.run(world.limits());
        assert_eq!(outcome.ending, Some(Ending::Undone), "{step:?}: {outcome:?}");
        world.settled(Ending::Undone, &format!("slow {step:?}"));
        assert!(outcome.failure.unwrap().what.contains("hold took too long"), "{step:?}");
    }
}

#[test]
fn maintenance_has_the_rest_of_the_window_and_is_undone_at_its_end() {
    for step in [Step::Stop, Step::Migrate, Step::Start] {
        let world = World::of(Strategy::Maintenance);
        world.slow_at.set(Some(step));
        let outcome = world.run(world.limits());
        assert_eq!(outcome.ending, Some(Ending::Undone), "{step:?}: {outcome:?}");
        world.settled(Ending::Undone, &format!("slow {step:?}"));
        assert!(outcome.failure.unwrap().next.contains("[window]"), "{step:?}");
    }
}

#[test]
fn a_hold_over_the_budget_is_blocked_with_what_to_do_about_it() {
    let world = World::new(true);
    let limits = Limits { hold_budget_ms: 100, ..world.limits() };
    let outcome = world.run(limits);
    assert_eq!((outcome.ending, outcome.exit), (Some(Ending::Unchanged), 3), "{outcome:?}");
    assert!(outcome.failure.unwrap().next.contains("[window]"));
    world.settled(Ending::Unchanged, "no window");
}

#[test]
fn foreign_rows_in_the_hold_freeze_the_run_until_a_person_sets_them_aside() {
    let world = World::new(true);
    world.fail_at.set(Some(Step::Prove));
    world.foreign_order_in_hold.set(true);
    let outcome = world.run(world.limits());
    assert_eq!((outcome.ending, outcome.exit), (None, 4), "{outcome:?}");
    assert_eq!(world.truth.borrow().door, Door::Held, "a frozen run must not open the door");
    assert_eq!(world.recover(world.limits(), Vec::new()).exit, 4, "it stays frozen");
    let outcome = world.recover(world.limits(), vec!["set-aside:orders".into()]);
    assert_eq!((outcome.ending, outcome.exit), (Some(Ending::Undone), 1), "{outcome:?}");
    world.settled(Ending::Undone, "set aside");
}

#[test]
fn without_a_front_door_a_release_that_does_not_start_is_taken_back() {
    let limits = Limits { front: false, side_by_side: false, hold_budget_ms: 10_000, restart_ms: 500 };
    for step in [Step::Start, Step::Prove] {
        let world = World { front: false, ..World::new(true) };
        world.truth.borrow_mut().door = Door::Shut;
        world.fail_at.set(Some(step));
        let outcome = world.run(limits);
        assert_eq!((outcome.ending, outcome.exit), (Some(Ending::RolledBack), 6), "{step:?}: {outcome:?}");
        let truth = world.truth.borrow();
        assert_eq!((truth.migrated, &truth.current), (false, &Some(old())));
        assert_eq!(truth.running, vec![old()]);
    }
}

#[test]
fn an_overlap_that_harmed_the_data_is_not_called_as_it_was() {
    let world = World::new(false);
    world.harmed.set(true);
    world.fail_at.set(Some(Step::Prove));
    let outcome = world.run(world.limits());
    assert_eq!((outcome.ending, outcome.exit), (Some(Ending::Undone), 5), "{outcome:?}");
    assert!(outcome.message.contains("NOT as it was: orders has 10 rows fewer"), "{}", outcome.message);
    assert!(!outcome.message.contains("no data was lost"), "{}", outcome.message);
}

#[test]
fn a_plan_that_is_not_accepted_changes_nothing() {
    let world = World { go_ahead: false, ..World::new(true) };
    let outcome = world.run(world.limits());
    assert_eq!((outcome.ending, outcome.exit), (Some(Ending::Unchanged), 3), "{outcome:?}");
    world.settled(Ending::Unchanged, "refused");
}

#[test]
fn intent_is_journaled_before_and_the_outcome_after_every_step() {
    let world = World::new(true);
    world.run(world.limits());
    let entries = world.entries.borrow();
    for step in Strategy::Hold.steps() {
        let at = |wanted: &dyn Fn(&Event) -> bool| entries.iter().position(|e| wanted(&e.event));
        let started = at(&|e| matches!(e, Event::StepStarted { step: s } if s == step)).unwrap();
        let done = at(&|e| matches!(e, Event::StepDone { step: s, .. } if s == step)).unwrap();
        assert!(started < done, "{step:?}");
    }
}
