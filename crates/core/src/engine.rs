//! Runs, resumes and undoes a plan: an event before and after every step.
//!
//! Up to the commit point a failure, a request to stop or a crash leads to the same undo, last step first; every
//! undo may run twice. From the commit point on the run only goes forward.

use crate::check::{Check, Verdict};
use crate::notify::Occasion;
use crate::plan::{
    Agreed, Decision, Limits, Refusal, Rehearsal, Release, ReleaseId, Step, Strategy, decide_within, words,
};
use crate::ports::{Failure, FailureKind, Moment, Ports};
use crate::reconcile::Reconciliation;
use crate::record::{Ending, Entry, Event, Kind, Order, State, exit, exit_code};

/// How long a release that does not come up may take to be ended.
const ENDING_MS: u64 = 500;

/// How a run ended, for whoever asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// How production is; `None` when the run is still open and `plimsoll resume` must go on.
    pub ending: Option<Ending>,
    /// The exit code.
    pub exit: u8,
    /// What went wrong, if anything did.
    pub failure: Option<Failure>,
    /// One sentence: what serves now, and whether the data is safe.
    pub message: String,
}

/// One run.
pub struct Engine<'a> {
    ports: Ports<'a>,
    limits: Limits,
    order: Order,
    /// Everything journaled so far; the state is folded from it.
    state: State,
    seq: u64,
    begun: Moment,
    /// When users began to wait, and for how long they did.
    gap: Option<Moment>,
    gap_ms: u64,
    /// What the undo took out of the database and where it is kept.
    kept: Option<String>,
    /// What an undone release did to the data beside the one that served.
    harm: Option<String>,
}

impl<'a> Engine<'a> {
    /// Carries out `order` to its end.
    pub fn run(order: Order, limits: Limits, ports: Ports<'a>) -> Outcome {
        let mut engine = Engine::new(order.clone(), limits, ports, State::default());
        if let Err(failure) = engine.record(Event::Started { order }) {
            return engine.nothing_begun(failure);
        }
        match (engine.order.kind, engine.forward()) {
            (Kind::Rehearse, Ok(())) => engine.leave(),
            (_, Ok(())) => engine.end(None),
            (_, Err(failure)) => engine.after(failure),
        }
    }

    /// Takes over a run that its owner left open: finishes it past the commit point, else undoes it. `ended` says
    /// what was found running and was ended first; `acknowledged` what a person allowed since.
    pub fn recover(
        entries: &[Entry],
        limits: Limits,
        ports: Ports<'a>,
        ended: Vec<String>,
        acknowledged: Vec<String>,
    ) -> Outcome {
        let state = State::fold(entries);
        let Some(order) = state.order.clone() else {
            let failure = Failure::failed(
                "the run's journal does not begin with its order",
                "its first event is missing",
                "look at the run's journal.jsonl; nothing was touched by this run",
            );
            return Outcome {
                ending: None,
                exit: exit::UNRESOLVED,
                failure: Some(failure),
                message: String::new(),
            };
        };
        let by = order.by.clone();
        let mut engine = Engine::new(order, limits, ports, state);
        let boot = engine.ports.clock.boot_id();
        engine.record_or_warn(Event::TakenOver { boot, ended });
        if !acknowledged.is_empty() {
            engine.record_or_warn(Event::Acknowledged { what: acknowledged, by });
        }
        if engine.state.committed && engine.state.undoing.is_none() {
            let failure = engine.run_again().err();
            let later = engine.finish();
            return match failure.or(later) {
                None => engine.end(None),
                Some(failure) => engine.after(failure),
            };
        }
        let begun = engine.state.undoing.clone().or(engine.state.failure.clone().map(|(_, failure)| failure));
        let failure = begun.unwrap_or_else(|| {
            Failure::failed(
                "the run was interrupted",
                "its owner died before the commit point",
                "deploy again when you are ready",
            )
            .of_kind(FailureKind::Interrupted)
        });
        engine.after(failure)
    }

    fn new(order: Order, limits: Limits, ports: Ports<'a>, state: State) -> Self {
        // A run that is taken over began before, and so did its hold; a clock of another boot says nothing.
        let same_boot = state.began.as_ref().is_some_and(|(_, boot)| *boot == ports.clock.boot_id());
        let began = state.began.as_ref().map(|(moment, _)| *moment).filter(|_| same_boot);
        let begun = began.unwrap_or_else(|| ports.clock.now());
        let open = state.done.contains(&Step::Open) || state.undone.contains(&Step::Hold);
        let gap = state.held.map(|(since, _)| since).filter(|_| same_boot && !open);
        let seq = state.next_seq;
        Engine { ports, limits, order, state, seq, begun, gap, gap_ms: 0, kept: None, harm: None }
    }

    fn nothing_begun(self, failure: Failure) -> Outcome {
        let message = format!("Nothing was begun. {}", self.serving(self.order.from.as_ref()));
        Outcome { ending: Some(Ending::Unchanged), exit: exit::FAILED, failure: Some(failure), message }
    }

    // ---- forward ----

    fn forward(&mut self) -> Result<(), Failure> {
        let rehearsal = self.prepare()?;
        let release = self.release()?;
        self.record(Event::Rehearsed { rehearsal: rehearsal.clone() })?;
        let window = self.ports.clock.agreed();
        let accepted = Rehearsal { unacknowledged: Vec::new(), ..rehearsal.clone() };
        if self.order.kind == Kind::Rehearse
            && !rehearsal.unacknowledged.is_empty()
            && let Ok(decision) = decide_within(&accepted, self.limits, &window)
        {
            // What a person decides about: how it would go once everything is acknowledged.
            self.record(Event::Planned { decision })?;
        }
        let decision = decide_within(&rehearsal, self.limits, &window)
            .map_err(|refusal| refused(&refusal, self.order.kind))?;
        if let (Strategy::Maintenance, Agreed::Open { left_ms, .. }) = (decision.strategy, window) {
            // What was agreed is the budget.
            self.limits.hold_budget_ms = left_ms;
        }
        self.record(Event::Planned { decision: decision.clone() })?;
        if self.order.kind == Kind::Rehearse {
            return Ok(());
        }
        self.tell(Occasion::Planned);
        if !self.ports.audience.go_ahead(&release, &rehearsal, &decision) {
            return Err(Failure {
                kind: FailureKind::Blocked,
                what: "the plan was not accepted".into(),
                why: "the question whether to go on was answered with no, or nobody answered".into(),
                next: "deploy again and answer y, or pass --yes".into(),
            });
        }
        for answer in self.ports.audience.answers(&release)? {
            self.record(Event::Answered { answer })?;
        }
        self.tell(Occasion::Started);
        if decision.strategy != Strategy::Overlap {
            self.ports.journal.reserve()?;
        }
        for step in decision.strategy.steps() {
            self.step(*step, &release, &decision)?;
            if *step == Step::Commit {
                break;
            }
        }
        match self.finish() {
            None => Ok(()),
            Some(failure) => Err(failure),
        }
    }

    /// The steps before a strategy can be chosen; production is not touched.
    fn prepare(&mut self) -> Result<Rehearsal, Failure> {
        if self.order.kind != Kind::Rollback {
            self.guarded(Step::Fetch, |engine| {
                let asked = engine.order.asked.clone();
                let (release, checks) = engine.ports.source.fetch(asked.as_deref())?;
                engine.record(Event::Numbered { release })?;
                Ok(checks)
            })?;
            let release = self.release()?;
            self.guarded(Step::Build, |engine| engine.ports.source.build(&release))?;
        }
        let release = self.release()?;
        self.guarded(Step::Backup, |engine| engine.ports.database.backup())?;
        let mut rehearsal = Rehearsal::default();
        let kind = self.order.kind;
        self.guarded(Step::Rehearse, |engine| {
            let (measured, checks) = engine.ports.database.rehearse(&release, kind)?;
            rehearsal = measured;
            Ok(checks)
        })?;
        Ok(rehearsal)
    }

    /// The committed release may have died with the run's owner; it runs again before users are let in to it.
    fn run_again(&mut self) -> Result<(), Failure> {
        if !self.state.done.contains(&Step::Start) {
            return Ok(());
        }
        let release = self.release()?;
        let step = Step::Start;
        for check in self.ports.service.start(&release.id, None)? {
            self.record_or_warn(Event::Checked { step, check });
        }
        Ok(())
    }

    /// Past the commit point: does what is left, and goes on when a step fails. Returns the first failure.
    fn finish(&mut self) -> Option<Failure> {
        let (Some(decision), Ok(release)) = (self.state.decision.clone(), self.release()) else {
            return None;
        };
        let mut first = None;
        for step in self.state.to_finish() {
            if step == Step::Watch && !self.order.watch {
                continue;
            }
            if let Err(failure) = self.step(step, &release, &decision) {
                // Without a front door the release meets its users only now, so a release that does not start
                // or does not pass is taken back, if that loses nothing.
                if decision.strategy == Strategy::Restart && matches!(step, Step::Start | Step::Prove) {
                    return Some(failure);
                }
                first.get_or_insert(failure);
            }
        }
        first
    }

    fn step(&mut self, step: Step, release: &Release, decision: &Decision) -> Result<(), Failure> {
        let from = self.order.from.clone();
        let to = &release.id;
        let forward_until = self.forward_until();
        match step {
            Step::Hold => self.hold(decision),
            Step::StopWorkers => {
                self.guarded(step, |engine| engine.ports.service.stop_workers(Some(forward_until)))
            }
            Step::Stop | Step::Retire => {
                if step == Step::Stop && self.gap.is_none() {
                    self.gap = Some(self.ports.clock.now());
                }
                let until = (step == Step::Stop).then_some(forward_until);
                self.guarded(step, |engine| match &from {
                    Some(from) => engine.ports.service.stop(from, until),
                    None => Ok(vec![Check::skipped("deploy.stop", "Stop the application", "first release")]),
                })
            }
            Step::Snapshot => self.guarded(step, |engine| engine.ports.database.snapshot(forward_until)),
            Step::Migrate => {
                self.guarded(step, |engine| engine.ports.database.migrate(release, forward_until))
            }
            Step::Switch => self.guarded(step, |engine| engine.ports.source.switch(Some(to))),
            Step::Start => {
                let limit = decision.strategy.shuts_the_door().then_some(forward_until);
                self.guarded(step, |engine| engine.ports.service.start(to, limit))?;
                if decision.strategy == Strategy::Restart {
                    self.gap_closed();
                }
                Ok(())
            }
            Step::Prove => {
                let limit = decision.strategy.shuts_the_door().then_some(forward_until);
                self.guarded(step, |engine| {
                    let mut checks = engine.ports.probe.prove(to, decision.strategy, limit)?;
                    checks.extend(engine.ports.database.verify(release)?);
                    Ok(checks)
                })
            }
            Step::Commit => self.commit(to),
            Step::Open => {
                // From here on nobody may call it a hold: requests that waited run now.
                let result = self.guarded(step, |engine| engine.ports.gate.open(to));
                if decision.strategy.shuts_the_door() {
                    self.gap_closed();
                }
                result
            }
            Step::StartWorkers => self.guarded(step, |engine| engine.ports.service.start_workers()),
            Step::Watch => self.guarded(step, |engine| engine.ports.probe.watch(to)),
            Step::Fetch | Step::Build | Step::Backup | Step::Rehearse => {
                unreachable!("preparation steps are run by prepare()")
            }
        }
    }

    /// Shuts the door. The deadline is journaled before it is in force, so that whoever takes over knows it.
    fn hold(&mut self, decision: &Decision) -> Result<(), Failure> {
        let now = self.ports.clock.now();
        let until = now.plus_ms(self.limits.hold_budget_ms);
        let boot = self.ports.clock.boot_id();
        self.guarded(Step::Hold, |engine| {
            engine.record(Event::Held { until, boot })?;
            engine.gap = Some(now);
            match decision.strategy {
                Strategy::Maintenance => engine.ports.gate.maintain(until, decision.predicted_hold_ms),
                _ => engine.ports.gate.hold(until),
            }
        })
    }

    fn commit(&mut self, to: &ReleaseId) -> Result<(), Failure> {
        self.guarded(Step::Commit, |engine| {
            engine.record(Event::Committed { release: to.clone() })?;
            Ok(Vec::new())
        })
    }

    /// When the way forward must have ended so that an undo still fits into the hold.
    fn forward_until(&self) -> Moment {
        let Some((_, until)) = self.state.held else {
            return self.ports.clock.now().plus_ms(24 * 3_600_000);
        };
        let undo_ms =
            self.state.rehearsal.as_ref().map_or(self.limits.restart_ms, |r| r.undo_ms(self.limits));
        // Ending what does not come up takes its time too.
        let reserve_ms = undo_ms + ENDING_MS;
        let reserve_ms = reserve_ms.min(self.limits.hold_budget_ms / 2);
        Moment(until.0.saturating_sub(reserve_ms))
    }

    /// An event before and after `act`; its failing checks are its failure.
    fn guarded(
        &mut self,
        step: Step,
        act: impl FnOnce(&mut Self) -> Result<Vec<Check>, Failure>,
    ) -> Result<(), Failure> {
        if !self.state.committed {
            self.may_go_on(step)?;
        }
        self.record(Event::StepStarted { step })?;
        let begun = self.ports.clock.now();
        let result = act(self).and_then(|checks| {
            let failed = failing(step, &checks);
            let back = self.order.kind == Kind::Rollback && !Step::PREPARATION.contains(&step);
            for check in checks {
                let check = if back { on_the_way_back(check) } else { check };
                self.record(Event::Checked { step, check })?;
            }
            failed.map_or(Ok(()), Err)
        });
        let ms = self.ports.clock.now().since_ms(begun);
        match result {
            Ok(()) => self.record(Event::StepDone { step, ms }),
            Err(failure) => {
                // Past the commit point nothing is undone, so a journal that cannot be written is a warning.
                self.record_or_warn(Event::StepFailed { step, failure: failure.clone(), ms });
                Err(failure)
            }
        }
    }

    fn may_go_on(&self, step: Step) -> Result<(), Failure> {
        if let Some(by) = self.ports.audience.stop_asked() {
            return Err(Failure::failed(
                "the run was stopped",
                format!("{by}, before \"{}\"", step.title()),
                "deploy again when you are ready",
            )
            .of_kind(FailureKind::Interrupted));
        }
        if self.state.held.is_some() && self.ports.clock.now() >= self.forward_until() {
            return Err(Failure::failed(
                "the hold took too long",
                format!(
                    "the budget of {} ms, less what an undo needs, was used up before \"{}\"",
                    self.limits.hold_budget_ms,
                    step.title()
                ),
                match self.state.strategy() {
                    Some(Strategy::Maintenance) => "agree on a longer [window], or split the migration",
                    _ => "raise [front].hold_budget, or make the migration or the start of the app faster",
                },
            ));
        }
        Ok(())
    }

    // ---- back ----

    fn after(mut self, failure: Failure) -> Outcome {
        let restart = self.state.strategy() == Some(Strategy::Restart);
        let taken_back = restart
            && self.state.committed
            && (self.state.undoing.is_some()
                || matches!(self.state.failure, Some((Step::Start | Step::Prove, _))));
        if self.state.committed && !taken_back {
            return self.end(Some(failure));
        }
        if self.state.undoing.is_none() {
            self.record_or_warn(Event::UndoStarted { failure: failure.clone() });
        }
        for step in self.state.to_undo() {
            let begun = self.ports.clock.now();
            self.record_or_warn(Event::UndoingStep { step });
            match self.undo(step) {
                Ok(checks) => {
                    for check in checks {
                        self.record_or_warn(Event::Checked { step, check: on_the_way_back(check) });
                    }
                    let ms = self.ports.clock.now().since_ms(begun);
                    self.record_or_warn(Event::UndoneStep { step, ms });
                }
                Err(trouble) => return self.stuck(step, failure, trouble, taken_back),
            }
        }
        self.end(Some(failure))
    }

    /// The end of a rehearsal: what was built for it goes.
    fn leave(mut self) -> Outcome {
        let begun = self.ports.clock.now();
        self.record_or_warn(Event::UndoingStep { step: Step::Build });
        // Removing the release that was built fails with a warning only.
        let _ = self.undo(Step::Build);
        let ms = self.ports.clock.now().since_ms(begun);
        self.record_or_warn(Event::UndoneStep { step: Step::Build, ms });
        self.end(None)
    }

    /// Undoes one step. May run again after a crash at any moment.
    fn undo(&mut self, step: Step) -> Result<Vec<Check>, Failure> {
        let from = self.order.from.clone();
        let to = self.state.release.as_ref().map(|r| r.id.clone());
        match step {
            Step::Start => {
                let mut checks = match &to {
                    Some(to) => self.ports.service.stop(to, None)?,
                    None => Vec::new(),
                };
                if self.state.strategy() == Some(Strategy::Overlap) {
                    let seen = self.ports.database.unharmed()?;
                    self.harm = failing(step, &seen).map(|failure| failure.why);
                    checks.extend(seen);
                }
                Ok(checks)
            }
            Step::Switch => self.ports.source.switch(from.as_ref()),
            Step::Migrate => {
                let acknowledged = self.state.acknowledged.clone();
                let restored = self.ports.database.restore(&acknowledged)?;
                self.kept = restored.kept;
                Ok(restored.checks)
            }
            Step::Stop => {
                let checks = match &from {
                    Some(from) => self.ports.service.start(from, None)?,
                    None => Vec::new(),
                };
                if self.state.strategy() == Some(Strategy::Restart) {
                    self.gap_closed();
                }
                Ok(checks)
            }
            Step::StopWorkers => self.ports.service.start_workers(),
            Step::Hold => {
                let checks = match &from {
                    Some(from) => {
                        // After a crash the old release may have died with its owner; it runs before users are
                        // let in to it.
                        let mut checks = self.ports.service.start(from, None)?;
                        checks.extend(self.ports.gate.open(from)?);
                        checks
                    }
                    None => {
                        self.ports.gate.shut("There is no release yet.")?;
                        Vec::new()
                    }
                };
                self.gap_closed();
                Ok(checks)
            }
            Step::Build => {
                if let Some(to) = &to
                    && let Err(failure) = self.ports.source.discard(to)
                {
                    self.record_or_warn(Event::Warned { what: failure.to_string() });
                }
                Ok(Vec::new())
            }
            Step::Fetch
            | Step::Backup
            | Step::Rehearse
            | Step::Snapshot
            | Step::Prove
            | Step::Commit
            | Step::Open
            | Step::Retire
            | Step::StartWorkers
            | Step::Watch => Ok(Vec::new()),
        }
    }

    /// An undo that cannot go on: the run stays open, the door stays shut, and a person is told.
    fn stuck(mut self, step: Step, failure: Failure, trouble: Failure, taken_back: bool) -> Outcome {
        self.record_or_warn(Event::UndoFailed { step, failure: trouble.clone() });
        let frozen = trouble.kind == FailureKind::Frozen;
        if taken_back && frozen {
            // Users wrote to the new release already. Keep serving it rather than lose what they wrote.
            if let Ok(release) = self.release() {
                let _ = self.ports.source.switch(Some(&release.id));
                if let Err(start) = self.ports.service.start(&release.id, None) {
                    self.record_or_warn(Event::Warned { what: start.to_string() });
                }
                let _ = self.ports.service.start_workers();
            }
            return self.end_as(Ending::Live, Some(trouble));
        }
        let message = if frozen {
            format!(
                "Not live: the door stays shut, because the database holds rows that an undo would lose. \
                 The data is safe and untouched. The run began to undo because: {failure}"
            )
        } else {
            format!(
                "Not live: the undo stopped at \"{}\" and the door stays shut. The data is safe: the snapshot \
                 taken in the hold is kept. The run began to undo because: {failure}",
                step.title()
            )
        };
        Outcome { ending: None, exit: exit::UNRESOLVED, failure: Some(trouble), message }
    }

    // ---- end ----

    fn end(self, failure: Option<Failure>) -> Outcome {
        let undone = self.state.undoing.is_some();
        let ending = match (self.state.committed, undone, self.order.kind) {
            (true, false, Kind::Deploy) => Ending::Live,
            (true, false, Kind::Rollback) | (true, true, Kind::Deploy) => Ending::RolledBack,
            _ if self.state.touched() => Ending::Undone,
            _ => Ending::Unchanged,
        };
        self.end_as(ending, failure)
    }

    fn end_as(mut self, ending: Ending, failure: Option<Failure>) -> Outcome {
        self.reconcile();
        if let Err(failure) = self.ports.database.tidy() {
            self.record_or_warn(Event::Warned { what: failure.to_string() });
        }
        let aside = self.state.set_aside();
        let back = ending == Ending::RolledBack && self.order.kind == Kind::Rollback;
        let noticed = failure.is_none() && back && aside > 0;
        let failure = failure.or_else(|| noticed.then(|| with_values_set_aside(aside)));
        let exit = match &self.harm {
            // The old release serves, and production is not as it was.
            Some(_) => exit::LIVE_BUT,
            None if noticed => exit::ROLLED_BACK,
            None => exit_code(self.order.kind, ending, failure.as_ref()),
        };
        let message = self.message(ending, failure.as_ref());
        let ms = self.ports.clock.now().since_ms(self.begun);
        let event = Event::Ended { ending, exit, message: message.clone(), hold_ms: self.gap_ms, ms };
        self.record_or_warn(event);
        Outcome { ending: Some(ending), exit, failure, message }
    }

    /// The accounts of a run that touched production. They change nothing about how it ended.
    fn reconcile(&mut self) {
        if !self.state.touched() {
            return;
        }
        let requests = self.ports.gate.requests();
        match self.ports.database.reconcile() {
            Ok(rows) if rows.is_some() || requests.is_some() => {
                let reconciliation = Reconciliation { requests, ..rows.unwrap_or_default() };
                for behind in reconciliation.behind() {
                    let what = format!("a number could be given twice, its counter is behind: {behind}");
                    self.record_or_warn(Event::Warned { what });
                }
                self.record_or_warn(Event::Reconciled { reconciliation });
            }
            Ok(_) => {}
            Err(failure) => self.record_or_warn(Event::Warned { what: failure.to_string() }),
        }
    }

    fn message(&self, ending: Ending, failure: Option<&Failure>) -> String {
        let to = self.state.release.as_ref().map(|r| &r.id);
        let from = self.order.from.as_ref();
        let gap = if self.gap_ms == 0 {
            String::new()
        } else if self.state.strategy() == Some(Strategy::Maintenance) {
            format!(" Users met the maintenance page for {}.", words(self.gap_ms))
        } else if self.limits.front {
            format!(" Requests waited up to {} ms.", self.gap_ms)
        } else {
            format!(" Users met a gap of {} ms.", self.gap_ms)
        };
        match ending {
            Ending::Unchanged if self.order.kind == Kind::Rehearse && failure.is_none() => {
                format!("Rehearsed. Production was not touched. {}", self.serving(from))
            }
            Ending::Unchanged => format!("Production was not touched. {}", self.serving(from)),
            Ending::Undone => {
                let data = match (&self.harm, &self.kept) {
                    (Some(harm), _) => format!("Undone, but the database is NOT as it was: {harm}."),
                    (None, Some(kept)) => format!("Undone: production is as it was; {kept}."),
                    (None, None) => "Undone: production is as it was, no data was lost.".to_owned(),
                };
                format!("{data} {}{gap}", self.serving(from))
            }
            Ending::Live if failure.is_some() => {
                format!("Live, but a later step failed. {}{gap}", self.serving(to))
            }
            Ending::Live => format!("Live. {}{gap}", self.serving(to)),
            Ending::RolledBack if self.order.kind == Kind::Deploy => {
                let data = self.kept.as_ref().map_or("no data was lost".to_owned(), Clone::clone);
                format!("Rolled back, {data}. {}{gap}", self.serving(from))
            }
            Ending::RolledBack => {
                let data = self.state.carried().map_or_else(String::new, |words| format!(": {words}"));
                format!("Rolled back{data}. {}{gap}", self.serving(to))
            }
        }
    }

    fn serving(&self, release: Option<&ReleaseId>) -> String {
        match release {
            Some(id) => format!("Release {id} serves."),
            None => "There is no release yet; nobody is let in.".to_owned(),
        }
    }

    fn release(&self) -> Result<Release, Failure> {
        self.state.release.clone().ok_or_else(|| Failure {
            kind: FailureKind::Bug,
            what: "the run has no release".into(),
            why: "a later step was reached before the code was fetched".into(),
            next: "report this with the run's journal".into(),
        })
    }

    fn gap_closed(&mut self) {
        if let Some(begun) = self.gap.take() {
            self.gap_ms += self.ports.clock.now().since_ms(begun);
        }
    }

    fn record(&mut self, event: Event) -> Result<(), Failure> {
        let entry = self.ports.record(&mut self.seq, event)?;
        self.state.apply(&entry);
        Ok(())
    }

    /// Messages are put down beside the run; whatever becomes of them, it goes on.
    fn tell(&mut self, occasion: Occasion) {
        for told in self.ports.notifier.tell(occasion, &self.state) {
            self.record_or_warn(Event::Told { told });
        }
    }

    /// For events on the way back and past the commit point: the act matters more than its record, and every
    /// undo may run twice.
    fn record_or_warn(&mut self, event: Event) {
        let entry = Entry {
            seq: self.seq,
            at: self.ports.clock.wall(),
            moment: self.ports.clock.now(),
            event: event.clone(),
        };
        if let Err(failure) = self.record(event) {
            self.state.apply(&entry);
            self.ports.audience.show(crate::ports::News::Line(&format!("not journaled: {failure}")));
        }
    }
}

/// The paper has boxes of its own for what is done to go back; the same observation fills those in.
fn on_the_way_back(mut check: Check) -> Check {
    let id = match check.id.as_str() {
        "deploy.stop" => "back.stop",
        "deploy.pull" => "back.code",
        "deploy.restart" => "back.restart",
        id if id.starts_with("verify.") => "back.verify",
        other => other,
    };
    check.id = id.to_owned();
    check
}

/// A rollback that is done and has something for a person to look at.
fn with_values_set_aside(values: u64) -> Failure {
    Failure::failed(
        "the rollback is done, with values set aside",
        format!("{values} had no place in the earlier database, as acknowledged"),
        "look at the file, and enter again what is needed (the .sql beside it helps)",
    )
}

/// The failure that the failing checks of a step amount to.
fn failing(step: Step, checks: &[Check]) -> Option<Failure> {
    let failed: Vec<&Check> = checks.iter().filter(|c| c.verdict == Verdict::Fail).collect();
    let first = failed.first()?;
    let what = if failed.len() == 1 {
        format!("{} failed", first.name)
    } else {
        format!("{} failed, and {} more", first.name, failed.len() - 1)
    };
    // One that says what to do next speaks for those that it is made of.
    if let Some(next) = first.evidence.get("next").and_then(|next| next.as_str()) {
        return Some(Failure::failed(format!("{} failed", first.name), first.why(), next));
    }
    let why = failed.iter().map(|c| c.why()).filter(|w| !w.is_empty()).collect::<Vec<_>>().join("; ");
    let next = format!("mend it and deploy again; `plimsoll show` has the evidence of \"{}\"", step.title());
    Some(Failure::failed(what, why, next))
}

fn refused(refusal: &Refusal, kind: Kind) -> Failure {
    match refusal {
        Refusal::Loss(words) if kind == Kind::Rollback => {
            let flags: Vec<String> = words.iter().map(|w| format!("--acknowledge {w}")).collect();
            Failure {
                kind: FailureKind::Blocked,
                what: "values that users wrote have no place in the earlier database".into(),
                why: format!("tried on a copy, nobody has acknowledged {}", words.join(", ")),
                next: format!(
                    "to go back and keep those values in a file: plimsoll rollback {}",
                    flags.join(" ")
                ),
            }
        }
        Refusal::Loss(words) => {
            let flags: Vec<String> = words.iter().map(|w| format!("--acknowledge {w}")).collect();
            Failure {
                kind: FailureKind::Blocked,
                what: "the migrations would lose data that nobody acknowledged".into(),
                why: format!("on a copy of the database they lost: {}", words.join(", ")),
                next: format!("if that is meant, deploy again with {}", flags.join(" ")),
            }
        }
        Refusal::TooLong { predicted_ms, budget_ms } => Failure {
            kind: FailureKind::Blocked,
            what: "the hold would take longer than its budget".into(),
            why: format!(
                "predicted {predicted_ms} ms with an undo, [front].hold_budget allows {budget_ms} ms"
            ),
            next:
                "raise [front].hold_budget if users may wait that long, split the migration, or agree on a \
                   [window]: in it a maintenance page is shown instead"
                    .into(),
        },
        Refusal::NotNow { predicted_ms, budget_ms, window } => {
            let over = format!(
                "predicted {} with an undo, [front].hold_budget allows {}",
                words(*predicted_ms),
                words(*budget_ms)
            );
            let (why, next) = match window {
                Agreed::Open { left_ms, until } => (
                    format!(
                        "{over}; the [window] is open until {until}, for {} yet, which is too short",
                        words(*left_ms)
                    ),
                    "deploy again at the beginning of the window, agree on a longer one, or split the migration"
                        .into(),
                ),
                Agreed::Closed { opens } => (
                    format!("{over}; a maintenance page may be shown in the [window] only, which is closed"),
                    format!("deploy again when the window opens, {opens}; or split the migration"),
                ),
                Agreed::Nothing => (over, "agree on a [window]".into()),
            };
            let what =
                "users would have to wait longer than they can, and it is not the time for maintenance";
            Failure { kind: FailureKind::Blocked, what: what.into(), why, next }
        }
    }
}
