//! Runs as the engine journals them, with what the ports observe: for the tests of this folder.

use serde_json::json;

use crate::check::Check;
use crate::plan::{Decision, Pending, Rehearsal, Release, ReleaseId, Step, Strategy};
use crate::ports::{Failure, FailureKind, Moment};
use crate::record::{Ending, Entry, Event, FORMAT, Kind, Order, exit};

/// Writes entries with a clock that the test turns.
pub(super) struct Tape {
    pub(super) entries: Vec<Entry>,
    ms: u64,
}

impl Tape {
    fn begin(kind: Kind) -> Tape {
        let mut tape = Tape { entries: Vec::new(), ms: 0 };
        tape.event(Event::Started {
            order: Order {
                kind,
                app: "grocery".into(),
                run: 12,
                by: "asha".into(),
                asked: Some("main".into()),
                from: Some(old()),
                to: (kind == Kind::Rollback).then(|| Release { id: old(), ..new() }),
                acknowledged: vec!["drop:sso_nonce".into()],
                watch: true,
                unlock: None,
                tool: "0.1.0".into(),
                format: FORMAT,
                boot: "boot-1".into(),
            },
        });
        tape
    }

    pub(super) fn event(&mut self, event: Event) {
        let (minutes, rest) = (self.ms / 60_000, self.ms % 60_000);
        let at = format!("2026-11-23T03:{:02}:{:02}.{:03}Z", 48 + minutes, rest / 1000, rest % 1000);
        let seq = self.entries.len() as u64;
        self.entries.push(Entry { seq, at, moment: Moment(500_000 + self.ms), event });
    }

    fn start(&mut self, step: Step, ms: u64) {
        self.event(Event::StepStarted { step });
        self.ms += ms;
    }

    fn step(&mut self, step: Step, ms: u64, checks: Vec<Check>) {
        self.start(step, ms);
        for check in checks {
            self.event(Event::Checked { step, check });
        }
        self.event(Event::StepDone { step, ms });
    }

    fn fail(&mut self, step: Step, ms: u64, checks: Vec<Check>, failure: Failure) {
        self.start(step, ms);
        for check in checks {
            self.event(Event::Checked { step, check });
        }
        self.event(Event::StepFailed { step, failure, ms });
    }

    fn undo(&mut self, step: Step, ms: u64, checks: Vec<Check>) {
        self.event(Event::UndoingStep { step });
        self.ms += ms;
        for check in checks {
            self.event(Event::Checked { step, check });
        }
        self.event(Event::UndoneStep { step, ms });
    }

    fn prepare(&mut self) {
        self.start(Step::Fetch, 640);
        self.event(Event::Numbered { release: new() });
        let pulled = Check::pass("deploy.pull", "Branch main pulled, no conflicts")
            .with("branch", "main")
            .with("commit", new().commit)
            .with("author", new().author)
            .with("subject", new().subject)
            .with("release", new().id.0);
        let review = Check::pass("pre.review", "Changes since 000011-77b0e02")
            .with("files", json!(["app.py", "migrations/0007_split_address.sql", "templates/cart.html"]))
            .with("insertions", 182)
            .with("deletions", 40)
            .with("commits", 3)
            .with("config_names", json!([]));
        for check in [pulled, review] {
            self.event(Event::Checked { step: Step::Fetch, check });
        }
        self.event(Event::StepDone { step: Step::Fetch, ms: 640 });
        let install = Check::pass("deploy.install", "All build commands ended with 0")
            .with("commands", json!(["python3 -m venv .venv", ".venv/bin/pip install -r requirements.txt"]))
            .with("seconds", 14.2)
            .with("output", "Collecting flask\nSuccessfully installed flask-3.1.0\n");
        self.step(Step::Build, 14_250, vec![install]);
        let backup = vec![
            Check::pass("backup.create", "Full backup of shared/store.db")
                .with("file", "backups/store.db.backup.20261123_034815")
                .with("bytes", 12_402_688)
                .with("ms", 845),
            Check::pass("backup.verify", "Read back and verified")
                .with("integrity", "ok")
                .with("foreign_keys", true)
                .with("sha256", "9f2c1d")
                .with("ms", 1_310),
            Check::pass("backup.counts", "Rows before the deployment")
                .with("counts", json!({"products": 60, "orders": 1204, "users": 311, "regions": 8})),
            Check::skipped("backup.second", "Second copy", "no destination is configured"),
        ];
        self.step(Step::Backup, 2_300, backup);
        let rehearsed = vec![
            Check::pass("pre.staging", "Migrations on a copy")
                .with("pending", json!(pending()))
                .with("ms", 45),
            Check::pass("pre.staging", "Old release on the migrated copy").with("ms", 912),
            Check::pass("pre.rollback", "The restore was rehearsed")
                .with("mode", "undo")
                .with("restore_ms", 310),
        ];
        self.step(Step::Rehearse, 3_100, rehearsed);
        let rehearsal = Rehearsal {
            pending: pending(),
            migrate_ms: 45,
            snapshot_ms: 60,
            restore_ms: 310,
            ..Rehearsal::default()
        };
        let decision = Decision {
            strategy: Strategy::Hold,
            reasons: vec!["1 pending migration(s) took 45 ms on a copy of the database".into()],
            predicted_hold_ms: 650,
            with_undo_ms: 1_400,
            budget_ms: 10_000,
        };
        self.event(Event::Rehearsed { rehearsal });
        self.event(Event::Planned { decision });
    }

    /// The hold up to the started release.
    fn held(&mut self) {
        self.event(Event::StepStarted { step: Step::Hold });
        self.event(Event::Held { until: Moment(600_000), boot: "boot-1".into() });
        self.ms += 30;
        self.event(Event::StepDone { step: Step::Hold, ms: 30 });
        self.step(Step::StopWorkers, 5, Vec::new());
        let stopped = Check::pass("deploy.stop", "000011-77b0e02 stopped")
            .with("strategy", "hold")
            .with("waited", 3)
            .with("in_flight", 1)
            .with("drained_ms", 28)
            .with("stopped_ms", 110);
        self.step(Step::Stop, 110, vec![stopped]);
        self.step(Step::Snapshot, 61, Vec::new());
        let migrated = Check::pass("deploy.migrate", "Migrations applied")
            .with("versions", json!([{"version": 7, "description": "split_address", "ms": 48}]))
            .with("mode", "foreign keys off")
            .with("class", "rebuild")
            .with("ms", 52);
        self.step(Step::Migrate, 52, vec![migrated]);
        self.step(Step::Switch, 4, Vec::new());
        let started = Check::pass("deploy.restart", "The new release answers with its own id")
            .with("pid", 41_377)
            .with("port", 40_123)
            .with("startup_ms", 388)
            .with("release", new().id.0);
        self.step(Step::Start, 390, vec![started]);
    }

    fn end(&mut self, ending: Ending, code: u8, hold_ms: u64, message: &str) -> Vec<Entry> {
        let message = message.to_owned();
        self.event(Event::Ended { ending, exit: code, message, hold_ms, ms: self.ms });
        std::mem::take(&mut self.entries)
    }
}

fn old() -> ReleaseId {
    ReleaseId::new(11, "77b0e02c")
}

pub(super) fn new() -> Release {
    let commit = "3fa9c1b07d5e4c1a9b8e6f2d1c0a9b8e7f6d5c4b".to_owned();
    Release {
        id: ReleaseId::new(12, &commit),
        commit,
        branch: "main".into(),
        author: "Ravi Kumar".into(),
        subject: "Cart: keep <script>alert('x')</script> & *bold* | as text".into(),
    }
}

fn pending() -> Vec<Pending> {
    vec![Pending {
        version: 7,
        description: "split_address".into(),
        class: "rebuild".into(),
        ms: 45,
        mode: "foreign keys off".into(),
        work: "rebuild".into(),
        touched: vec!["orders".into()],
    }]
}

fn smoke() -> Vec<Check> {
    ["Homepage loads without errors", "Product listing shows all items", "Admin login works"]
        .iter()
        .zip([12, 45, 130])
        .map(|(name, ms)| {
            Check::pass("verify.smoke", *name).with("status", 200).with("ms", ms).with("steps", 1)
        })
        .collect()
}

fn counts(verdict: crate::check::Verdict, orders: u32) -> Check {
    Check::new("verify.counts", "Rows before and after", verdict)
        .with("before", json!({"products": 60, "orders": 1204, "users": 311, "regions": 8}))
        .with("after", json!({"products": 60, "orders": orders, "users": 311, "regions": 8}))
}

/// A deployment that went well.
pub(super) fn live() -> Vec<Entry> {
    let mut tape = Tape::begin(Kind::Deploy);
    tape.prepare();
    tape.held();
    let mut checks = smoke();
    checks.push(counts(crate::check::Verdict::Pass, 1204));
    checks.push(
        Check::pass("verify.versions", "schema_version")
            .with("expected", json!([1, 2, 3, 4, 5, 6, 7]))
            .with("applied", json!([1, 2, 3, 4, 5, 6, 7])),
    );
    checks.push(Check::unknown("verify.script", "plimsoll verify", "no learned schema to compare with yet"));
    tape.step(Step::Prove, 240, checks);
    tape.event(Event::StepStarted { step: Step::Commit });
    tape.event(Event::Committed { release: new().id });
    tape.event(Event::StepDone { step: Step::Commit, ms: 0 });
    tape.step(Step::Open, 8, Vec::new());
    tape.step(Step::StartWorkers, 20, Vec::new());
    let watched = vec![
        Check::pass("verify.errors", "Errors since the switch")
            .with("requests", 18_240)
            .with("errors", 2)
            .with("rate", 0.00011),
        Check::pass("verify.speed", "Live traffic").with("p50_ms", 11).with("p99_ms", 84.5),
    ];
    tape.step(Step::Watch, 60_000, watched);
    tape.event(Event::Warned { what: "the old release's log could not be compressed".into() });
    tape.end(
        Ending::Live,
        exit::DONE,
        900,
        "Live. Release 000012-3fa9c1b serves. Requests waited up to 900 ms.",
    )
}

fn unproven(tape: &mut Tape) -> Failure {
    tape.prepare();
    tape.held();
    let mut checks = smoke();
    checks.push(
        Check::fail("verify.smoke", "Checkout process works", "the answer was 500 instead of 303")
            .with("status", 500)
            .with("ms", 71)
            .with("expected", "303")
            .with("got", "500: no such column: street"),
    );
    let failure = Failure::failed(
        "Checkout process works failed",
        "the answer was 500 instead of 303",
        "mend it and deploy again; `plimsoll show` has the evidence of \"Prove the new release\"",
    );
    tape.fail(Step::Prove, 198, checks, failure.clone());
    failure
}

/// A smoke test failed behind the shut door; everything was undone.
pub(super) fn undone() -> Vec<Entry> {
    let mut tape = Tape::begin(Kind::Deploy);
    let failure = unproven(&mut tape);
    tape.event(Event::UndoStarted { failure });
    tape.undo(Step::Prove, 0, Vec::new());
    tape.undo(
        Step::Start,
        95,
        vec![Check::pass("deploy.stop", "000012-3fa9c1b stopped").with("stopped_ms", 95)],
    );
    tape.undo(Step::Switch, 3, Vec::new());
    let restored = Check::pass("back.restore", "PRE put back and verified")
        .with("file", "runs/000012/pre.db")
        .with("integrity", "ok");
    let rows = Check::pass("back.rows", "Nobody else wrote in the hold").with("set_aside_rows", 0);
    tape.undo(Step::Migrate, 120, vec![restored, rows]);
    tape.undo(Step::Snapshot, 0, Vec::new());
    let started =
        Check::pass("deploy.restart", "The old release answers").with("startup_ms", 402).with("pid", 41_400);
    tape.undo(Step::Stop, 405, vec![started]);
    for step in [Step::StopWorkers, Step::Hold, Step::Rehearse, Step::Backup, Step::Build, Step::Fetch] {
        tape.undo(step, 2, Vec::new());
    }
    tape.end(
        Ending::Undone,
        exit::FAILED,
        1_479,
        "Undone: production is as it was, no data was lost. Release 000011-77b0e02 serves. Requests waited up to 1479 ms.",
    )
}

/// The migrations would lose data that nobody acknowledged: refused before production was touched.
pub(super) fn refused() -> Vec<Entry> {
    let mut tape = Tape::begin(Kind::Deploy);
    tape.prepare();
    tape.entries.pop();
    let failure = Failure::failed(
        "the migrations would lose data that nobody acknowledged",
        "on a copy of the database they lost: rows:orders",
        "if that is meant, deploy again with --acknowledge rows:orders",
    );
    tape.event(Event::UndoStarted { failure: failure.of_kind(FailureKind::Blocked) });
    for step in [Step::Rehearse, Step::Backup, Step::Build, Step::Fetch] {
        tape.undo(step, 1, Vec::new());
    }
    let message = "Production was not touched. Release 000011-77b0e02 serves.";
    tape.end(Ending::Unchanged, exit::BLOCKED, 0, message)
}

/// Somebody else wrote in the hold: the undo stopped and a person is needed.
pub(super) fn frozen() -> Vec<Entry> {
    let mut tape = Tape::begin(Kind::Deploy);
    let failure = unproven(&mut tape);
    tape.event(Event::UndoStarted { failure });
    tape.undo(Step::Prove, 0, Vec::new());
    tape.undo(Step::Start, 95, Vec::new());
    tape.undo(Step::Switch, 3, Vec::new());
    tape.event(Event::UndoingStep { step: Step::Migrate });
    let failure = Failure::failed(
        "the restore would lose 1 row of orders",
        "somebody else wrote to the database in the hold",
        "plimsoll rollback --acknowledge set-aside:orders",
    )
    .of_kind(FailureKind::Frozen);
    tape.event(Event::UndoFailed { step: Step::Migrate, failure });
    tape.entries
}

/// An earlier release was brought back.
pub(super) fn rolled_back() -> Vec<Entry> {
    let mut tape = Tape::begin(Kind::Rollback);
    let rehearsed =
        Check::pass("pre.rollback", "The earlier code fits the database").with("mode", "code-only");
    tape.step(Step::Backup, 2_300, Vec::new());
    tape.step(Step::Rehearse, 700, vec![rehearsed]);
    let decision = Decision {
        strategy: Strategy::Overlap,
        reasons: vec!["no migration is pending".into()],
        predicted_hold_ms: 0,
        with_undo_ms: 0,
        budget_ms: 0,
    };
    tape.event(Event::Rehearsed { rehearsal: Rehearsal::default() });
    tape.event(Event::Planned { decision });
    let started = Check::pass("deploy.restart", "The earlier release answers").with("startup_ms", 402);
    tape.step(Step::Start, 405, vec![started]);
    tape.step(Step::Prove, 180, smoke());
    tape.event(Event::StepStarted { step: Step::Commit });
    tape.event(Event::Committed { release: old() });
    tape.event(Event::StepDone { step: Step::Commit, ms: 0 });
    tape.step(Step::Switch, 4, Vec::new());
    tape.step(Step::Open, 8, Vec::new());
    tape.step(
        Step::Retire,
        60,
        vec![Check::pass("deploy.stop", "000012-3fa9c1b stopped").with("stopped_ms", 60)],
    );
    tape.end(Ending::RolledBack, exit::DONE, 0, "Rolled back. Release 000011-77b0e02 serves.")
}

/// The machine went down in the hold; after the reboot another owner undid the run.
pub(super) fn rebooted() -> Vec<Entry> {
    let mut tape = Tape::begin(Kind::Deploy);
    tape.prepare();
    tape.held();
    tape.ms += 40_000;
    tape.event(Event::TakenOver { boot: "boot-2".into(), ended: vec!["pid 41377".into()] });
    let failure =
        Failure::failed("the run was interrupted", "its owner died before the commit point", "deploy again");
    tape.event(Event::UndoStarted { failure });
    for step in
        [Step::Start, Step::Switch, Step::Migrate, Step::Snapshot, Step::Stop, Step::StopWorkers, Step::Hold]
    {
        tape.undo(step, 100, Vec::new());
    }
    // As the engine journals it: the new owner's clock began at the take-over.
    tape.event(Event::Ended {
        ending: Ending::Undone,
        exit: 1,
        message: "Undone.".into(),
        hold_ms: 0,
        ms: 700,
    });
    // A steady clock starts again with a new boot.
    for entry in tape.entries.iter_mut().skip_while(|e| !matches!(e.event, Event::TakenOver { .. })) {
        entry.moment = Moment(entry.moment.0 - 400_000);
    }
    tape.entries
}
