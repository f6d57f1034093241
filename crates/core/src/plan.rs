//! What will be done: a release, the steps that bring it live, and the strategy that orders them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A numbered release, `000012-3fa9c1b`: the order of deployments, then the commit it was built from.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseId(pub String);

impl ReleaseId {
    /// The id for the `number`th release of `commit` (a full hex commit).
    #[must_use]
    pub fn new(number: u32, commit: &str) -> Self {
        ReleaseId(format!("{number:06}-{}", commit.get(..7).unwrap_or(commit)))
    }

    /// Reads an id back from a folder's name; `None` when the name is not of this form.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (number, commit) = name.split_once('-')?;
        let digits = number.len() == 6 && number.bytes().all(|b| b.is_ascii_digit());
        let hex = commit.len() == 7 && commit.bytes().all(|b| b.is_ascii_hexdigit());
        (digits && hex).then(|| ReleaseId(name.to_owned()))
    }

    /// The number part.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.0.split('-').next().and_then(|n| n.parse().ok()).unwrap_or(0)
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Numbered code: what a run brings live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// Its number and short commit; also the name of its folder.
    pub id: ReleaseId,
    /// The full commit, in hex.
    pub commit: String,
    /// The branch or revision that was asked for.
    pub branch: String,
    /// Who wrote the commit, as git names them.
    #[serde(default)]
    pub author: String,
    /// The commit's first line.
    #[serde(default)]
    pub subject: String,
}

/// How a release is brought live.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Old and new run side by side for a moment; nobody notices. Only without a pending migration.
    Overlap,
    /// Requests wait at the shut door while the release behind it is changed.
    Hold,
    /// As a hold, but longer than requests can wait: users read a maintenance page, within an agreed window.
    Maintenance,
    /// No front door: the app is stopped, changed and started; users see the gap.
    Restart,
}

impl Strategy {
    /// The word used in reports and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Strategy::Overlap => "overlap",
            Strategy::Hold => "hold",
            Strategy::Maintenance => "maintenance",
            Strategy::Restart => "restart",
        }
    }

    /// Whether the release is changed behind a shut door, under one deadline.
    #[must_use]
    pub fn shuts_the_door(self) -> bool {
        matches!(self, Strategy::Hold | Strategy::Maintenance)
    }

    /// The steps from the prepared release to the end, in order.
    #[must_use]
    pub fn steps(self) -> &'static [Step] {
        use Step::{
            Commit, Hold, Migrate, Open, Prove, Retire, Snapshot, Start, StartWorkers, Stop, StopWorkers,
            Switch, Watch,
        };
        match self {
            Strategy::Overlap => &[Start, Prove, Commit, Switch, Open, Retire, Watch],
            Strategy::Hold | Strategy::Maintenance => &[
                Hold,
                StopWorkers,
                Stop,
                Snapshot,
                Migrate,
                Switch,
                Start,
                Prove,
                Commit,
                Open,
                StartWorkers,
                Watch,
            ],
            // With another door in front, "privately" is impossible: users reach the new release at its first
            // start, so the commit point comes before it.
            Strategy::Restart => &[
                StopWorkers,
                Stop,
                Snapshot,
                Migrate,
                Switch,
                Commit,
                Start,
                Open,
                Prove,
                StartWorkers,
                Watch,
            ],
        }
    }
}

/// One named thing that a run does, and that it can undo until the commit point.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Bring the revision into the mirror and give it a number.
    Fetch,
    /// Write the release folder, link what is shared, run the build commands.
    Build,
    /// Back up the live database and verify the copy.
    Backup,
    /// Try the release's migrations on a copy of the live database.
    Rehearse,
    /// Shut the door; requests wait. Drain what is running.
    Hold,
    /// Stop the declared other writers.
    StopWorkers,
    /// Stop the old release.
    Stop,
    /// Copy the database as it is now that nobody writes: PRE.
    Snapshot,
    /// Run the pending migrations; note the database as they left it: POST.
    Migrate,
    /// Make the release `current`.
    Switch,
    /// Start the new release and wait until it answers with its own id.
    Start,
    /// Smoke tests, counts and versions against the started release.
    Prove,
    /// From here the new release may take writes.
    Commit,
    /// Let users in to the new release.
    Open,
    /// Drain and stop the old release, which still ran beside the new one.
    Retire,
    /// Start the declared other writers again.
    StartWorkers,
    /// Look at errors for the configured time.
    Watch,
}

impl Step {
    /// The steps before a strategy is chosen; none of them touches production.
    pub const PREPARATION: &'static [Step] = &[Step::Fetch, Step::Build, Step::Backup, Step::Rehearse];

    /// What a person reads while it is going on.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Step::Fetch => "Fetch the code",
            Step::Build => "Build the release",
            Step::Backup => "Back up the database",
            Step::Rehearse => "Rehearse on a copy",
            Step::Hold => "Hold requests at the door",
            Step::StopWorkers => "Stop the workers",
            Step::Stop => "Stop the old release",
            Step::Snapshot => "Take the final snapshot",
            Step::Migrate => "Migrate the database",
            Step::Switch => "Make the release current",
            Step::Start => "Start the new release",
            Step::Prove => "Prove the new release",
            Step::Commit => "Commit point",
            Step::Open => "Open the door",
            Step::Retire => "Retire the old release",
            Step::StartWorkers => "Start the workers",
            Step::Watch => "Watch for errors",
        }
    }

    /// What a person reads while it is being undone; `None` when there is nothing to undo.
    #[must_use]
    pub fn undo_title(self) -> Option<&'static str> {
        match self {
            Step::Build => Some("Remove the release that did not make it"),
            Step::Hold => Some("Open the door to the old release"),
            Step::StopWorkers => Some("Start the workers again"),
            Step::Stop => Some("Start the old release again"),
            Step::Migrate => Some("Put the database back"),
            Step::Switch => Some("Make the old release current again"),
            Step::Start => Some("Stop the new release"),
            Step::Fetch
            | Step::Backup
            | Step::Rehearse
            | Step::Snapshot
            | Step::Prove
            | Step::Commit
            | Step::Open
            | Step::Retire
            | Step::StartWorkers
            | Step::Watch => None,
        }
    }

    /// The word used in the journal and in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Step::Fetch => "fetch",
            Step::Build => "build",
            Step::Backup => "backup",
            Step::Rehearse => "rehearse",
            Step::Hold => "hold",
            Step::StopWorkers => "stop-workers",
            Step::Stop => "stop",
            Step::Snapshot => "snapshot",
            Step::Migrate => "migrate",
            Step::Switch => "switch",
            Step::Start => "start",
            Step::Prove => "prove",
            Step::Commit => "commit",
            Step::Open => "open",
            Step::Retire => "retire",
            Step::StartWorkers => "start-workers",
            Step::Watch => "watch",
        }
    }
}

/// What the rehearsal on a copy measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// The migrations that are not applied yet, in order.
    pub pending: Vec<Pending>,
    /// Whether the app changes its schema by itself (a migrate command, or at start), so that what is pending
    /// cannot be known without running it.
    pub migrates_itself: bool,
    /// How long the migrations took on the copy, milliseconds.
    pub migrate_ms: u64,
    /// How long a snapshot of the database took, milliseconds.
    pub snapshot_ms: u64,
    /// How long a restore is expected to take, milliseconds.
    pub restore_ms: u64,
    /// What would be lost and nobody acknowledged: each as it must be typed after `--acknowledge`.
    pub unacknowledged: Vec<String>,
    /// Everything that would be lost, acknowledged or not.
    #[serde(default)]
    pub losses: Vec<Loss>,
    /// How long the new release took on the copy to start, to be proved and to stop, milliseconds; `None` when it was
    /// not tried.
    #[serde(default)]
    pub restart_ms: Option<u64>,
    /// How long the old release took to start on the migrated copy, and the new one to stop: what an undo adds to
    /// the restore, milliseconds.
    #[serde(default)]
    pub restart_old_ms: Option<u64>,
    /// Whether the old release was seen to work on the migrated copy, so that code alone can be rolled back; `None`
    /// when that was not tried.
    #[serde(default)]
    pub code_only: Option<bool>,
    /// What the run needs on the disk at most, and what was free, bytes.
    #[serde(default)]
    pub disk: Option<(u64, u64)>,
    /// For a rollback whose data goes back too: what becomes of what users wrote since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carry: Option<CarryPlan>,
}

/// What a rollback makes of the users' changes: a row that came or went is one, and so is each changed value of a row.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct CarryPlan {
    /// Made again in the earlier database.
    pub applied: u64,
    /// The earlier database has them already.
    pub equal: u64,
    /// Without a place there: they go to a file.
    pub set_aside: u64,
}

/// What draining, switching and writing to the journal add to a restart, and no copy shows, milliseconds.
const AROUND_MS: u64 = 200;

impl Rehearsal {
    /// How long a hold is but for snapshot and migration: as seen on the copy, else as last measured.
    #[must_use]
    pub fn restart_ms(&self, limits: Limits) -> u64 {
        self.restart_ms.map_or(limits.restart_ms, |ms| ms + AROUND_MS)
    }

    /// How long an undo takes: the restore, and the old release's start.
    #[must_use]
    pub fn undo_ms(&self, limits: Limits) -> u64 {
        self.restore_ms + self.restart_old_ms.unwrap_or(limits.restart_ms)
    }
}

/// Something that a release takes away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// As it is typed after `--acknowledge`: `drop:sso_nonce`.
    pub word: String,
    /// The migration that does it; `None` when the app or its own command does.
    pub version: Option<i64>,
    /// How many rows or values; 0 when that was not counted.
    pub quantity: u64,
    /// In words.
    pub detail: String,
    /// Who acknowledged it.
    pub acknowledged_by: Option<String>,
}

/// One migration that a run will apply.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Its version number.
    pub version: i64,
    /// Its description, from the file's name.
    pub description: String,
    /// What the rehearsal's differences make of it: `additive`, `rebuild`, `destructive`...
    pub class: String,
    /// How long it took on the copy, milliseconds.
    pub ms: u64,
    /// How it has to be run so that nothing is lost, in words.
    pub mode: String,
    /// What its time grows with: `instant`, `scan`, `rebuild` or `destructive`.
    #[serde(default)]
    pub work: String,
    /// The tables that it changes.
    #[serde(default)]
    pub touched: Vec<String>,
}

/// The chosen strategy and why; what `plan` shows and the journal keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// What was chosen.
    pub strategy: Strategy,
    /// Why, each a sentence.
    pub reasons: Vec<String>,
    /// How long requests will wait, milliseconds; 0 for an overlap.
    pub predicted_hold_ms: u64,
    /// The same when the release has to be undone behind the shut door, milliseconds.
    #[serde(default)]
    pub with_undo_ms: u64,
    /// What `[front].hold_budget` allows for that, milliseconds; 0 where nobody is held.
    #[serde(default)]
    pub budget_ms: u64,
}

/// What limits a choice of strategy.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Whether a front door stands before the app.
    pub front: bool,
    /// Whether two releases can run side by side, each on an address of its own.
    pub side_by_side: bool,
    /// The longest hold that users are asked to bear, milliseconds; undo included.
    pub hold_budget_ms: u64,
    /// How long everything in a hold but snapshot and migration takes, as last measured, milliseconds: to drain, to
    /// stop, to start, to prove.
    pub restart_ms: u64,
}

/// What was agreed about the times at which users may meet a maintenance page, as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Agreed {
    /// Nothing: there is no `[window]`.
    #[default]
    Nothing,
    /// The window is open.
    Open {
        /// For so long yet, milliseconds.
        left_ms: u64,
        /// Its end, for people.
        until: String,
    },
    /// The window is closed.
    Closed {
        /// When it opens next, for people.
        opens: String,
    },
}

/// Why no strategy fits. Production is untouched.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// Data would be lost and nobody acknowledged it; the words to type.
    Loss(Vec<String>),
    /// The hold would be longer than the budget: predicted and allowed, milliseconds.
    TooLong {
        /// What the rehearsal predicts.
        predicted_ms: u64,
        /// What `[front].hold_budget` allows.
        budget_ms: u64,
    },
    /// The hold would be longer than the budget, and a maintenance page has no place in the window now.
    NotNow {
        /// What the rehearsal predicts, an undo included, milliseconds.
        predicted_ms: u64,
        /// What `[front].hold_budget` allows, milliseconds.
        budget_ms: u64,
        /// What the window says.
        window: Agreed,
    },
}

/// Chooses the strategy from what the rehearsal measured.
///
/// # Errors
/// A [`Refusal`] when production must not be touched as things are.
pub fn decide(rehearsal: &Rehearsal, limits: Limits) -> Result<Decision, Refusal> {
    if !rehearsal.unacknowledged.is_empty() {
        return Err(Refusal::Loss(rehearsal.unacknowledged.clone()));
    }
    let pending = rehearsal.pending.len();
    let mut reasons = Vec::new();
    if let Some(carry) = rehearsal.carry {
        let changes = carry.applied + carry.equal;
        reasons.push(format!(
            "the data goes back too: {changes} changes of users carried over and {} set aside in {} on a copy",
            carry.set_aside,
            words(rehearsal.migrate_ms)
        ));
    } else if rehearsal.migrates_itself && rehearsal.restart_ms.is_some() {
        reasons.push("the app changed its database by itself when it was rehearsed".to_owned());
    } else if rehearsal.migrates_itself {
        reasons.push("the app may change its schema by itself".to_owned());
    } else if pending == 0 {
        reasons.push("no migration is pending".to_owned());
    } else {
        let took = words(rehearsal.migrate_ms);
        let migrations =
            if pending == 1 { "1 pending migration".into() } else { format!("{pending} pending migrations") };
        reasons.push(format!("{migrations} took {took} on a copy of the database"));
    }
    let nobody_waits = |strategy, reasons| Decision {
        strategy,
        reasons,
        predicted_hold_ms: 0,
        with_undo_ms: 0,
        budget_ms: 0,
    };
    if !limits.front {
        reasons.push("there is no [front], so users see the gap while the app restarts".to_owned());
        return Ok(nobody_waits(Strategy::Restart, reasons));
    }
    let data = pending > 0 || rehearsal.migrates_itself || rehearsal.carry.is_some();
    if !data && limits.side_by_side {
        return Ok(nobody_waits(Strategy::Overlap, reasons));
    }
    if !limits.side_by_side {
        reasons.push("the app has one address, so two releases cannot run side by side".to_owned());
    }
    // Twice the migration: the copy was warm in the page cache, production's file need not be.
    let predicted_ms = rehearsal.restart_ms(limits) + rehearsal.snapshot_ms + 2 * rehearsal.migrate_ms;
    let with_undo_ms = predicted_ms + rehearsal.undo_ms(limits);
    if with_undo_ms > limits.hold_budget_ms {
        return Err(Refusal::TooLong { predicted_ms: with_undo_ms, budget_ms: limits.hold_budget_ms });
    }
    reasons.push(format!(
        "predicted hold {}, {} with an undo, within the budget of {}",
        words(predicted_ms),
        words(with_undo_ms),
        words(limits.hold_budget_ms)
    ));
    Ok(Decision {
        strategy: Strategy::Hold,
        reasons,
        predicted_hold_ms: predicted_ms,
        with_undo_ms,
        budget_ms: limits.hold_budget_ms,
    })
}

/// The same, with what was agreed about maintenance: a hold over the budget becomes a maintenance page in the window,
/// when that is open for long enough.
///
/// # Errors
/// A [`Refusal`] when production must not be touched as things are.
pub fn decide_within(rehearsal: &Rehearsal, limits: Limits, window: &Agreed) -> Result<Decision, Refusal> {
    let (predicted_ms, budget_ms) = match decide(rehearsal, limits) {
        Err(Refusal::TooLong { predicted_ms, budget_ms }) => (predicted_ms, budget_ms),
        decided => return decided,
    };
    let not_now = || Refusal::NotNow { predicted_ms, budget_ms, window: window.clone() };
    match window {
        Agreed::Nothing => Err(Refusal::TooLong { predicted_ms, budget_ms }),
        Agreed::Open { left_ms, until } if *left_ms >= predicted_ms => {
            let reasons = vec![
                format!("the migrations took {} on a copy of the database", words(rehearsal.migrate_ms)),
                format!(
                    "users would wait {} with an undo, and the budget is {}",
                    words(predicted_ms),
                    words(budget_ms)
                ),
                format!("the agreed window is open until {until}: they read a maintenance page instead"),
            ];
            Ok(Decision {
                strategy: Strategy::Maintenance,
                reasons,
                predicted_hold_ms: predicted_ms.saturating_sub(rehearsal.undo_ms(limits)),
                with_undo_ms: predicted_ms,
                budget_ms: *left_ms,
            })
        }
        Agreed::Open { .. } | Agreed::Closed { .. } => Err(not_now()),
    }
}

/// A time as people read it.
pub(crate) fn words(ms: u64) -> String {
    if ms < 1_000 { format!("{ms} ms") } else { format!("{}.{} s", ms / 1_000, ms % 1_000 / 100) }
}

/// One smoke test: a request, or steps that share cookies and captured values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Smoke {
    /// What it proves, as on the paper: "Homepage loads without errors".
    pub name: String,
    /// The requests, in order; at least one.
    pub steps: Vec<SmokeStep>,
    /// Whether it writes to the database; then it runs on a copy only, unless `production`.
    pub writes: bool,
    /// Whether a writing test may run against production, behind the shut door.
    pub production: bool,
}

/// One request of a smoke test and what its answer must be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SmokeStep {
    /// `GET`, `POST`, `PUT`, `PATCH`, `DELETE` or `HEAD`.
    pub method: String,
    /// The path with its query; `{name}` is replaced by a captured value.
    pub path: String,
    /// Request headers; values may hold `{name}`.
    pub headers: BTreeMap<String, String>,
    /// Form fields, sent url-encoded; values may hold `{name}`.
    pub form: BTreeMap<String, String>,
    /// A JSON body as text; may hold `{name}`. Not together with `form`.
    pub json: Option<String>,
    /// The expected status; without it, any status below 400.
    pub status: Option<u16>,
    /// Texts that the body must hold.
    pub contains: Vec<String>,
    /// Texts that the body must not hold.
    pub lacks: Vec<String>,
    /// Response headers that must hold the given text.
    pub expect_headers: BTreeMap<String, String>,
    /// Values to keep for later steps.
    pub capture: BTreeMap<String, Capture>,
}

/// Where a captured value comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Capture {
    /// The first element that a CSS selector finds: an attribute of it, or its text when `attr` is absent.
    Css {
        /// The selector.
        css: String,
        /// The attribute.
        attr: Option<String>,
    },
    /// A JSON pointer into a JSON body.
    Json(String),
    /// A response header.
    Header(String),
    /// The first group of a regular expression over the body.
    Regex(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { front: true, side_by_side: true, hold_budget_ms: 10_000, restart_ms: 1_000 }
    }

    fn pending() -> Rehearsal {
        let one = Pending {
            version: 2,
            description: "note".into(),
            class: "rebuild".into(),
            ms: 50,
            mode: "keys off".into(),
            ..Pending::default()
        };
        Rehearsal { pending: vec![one], migrate_ms: 50, ..Rehearsal::default() }
    }

    #[test]
    fn a_release_id_reads_back_from_its_folder() {
        let id = ReleaseId::new(12, "3fa9c1b0deadbeef");
        assert_eq!(id.0, "000012-3fa9c1b");
        assert_eq!(ReleaseId::parse(&id.0), Some(id.clone()));
        assert_eq!(id.number(), 12);
        for other in ["12-3fa9c1b", "000012_3fa9c1b", "000012-3fa9c1", ".partial", "000012-zzzzzzz"] {
            assert_eq!(ReleaseId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn without_a_migration_nobody_notices() {
        let decision = decide(&Rehearsal::default(), limits()).unwrap();
        assert_eq!(decision.strategy, Strategy::Overlap);
    }

    #[test]
    fn an_app_with_one_address_is_held_even_without_a_migration() {
        let one = Limits { side_by_side: false, ..limits() };
        let decision = decide(&Rehearsal::default(), one).unwrap();
        assert_eq!(decision.strategy, Strategy::Hold);
        assert!(decision.reasons.iter().any(|reason| reason.contains("one address")), "{decision:?}");
    }

    #[test]
    fn a_migration_is_held_and_an_app_that_migrates_itself_too() {
        assert_eq!(decide(&pending(), limits()).unwrap().strategy, Strategy::Hold);
        let itself = Rehearsal { migrates_itself: true, ..Rehearsal::default() };
        assert_eq!(decide(&itself, limits()).unwrap().strategy, Strategy::Hold);
    }

    #[test]
    fn a_rollback_of_the_data_is_held_and_never_overlapped() {
        let carry = Some(CarryPlan { applied: 3, equal: 1, set_aside: 0 });
        let back = Rehearsal { carry, migrate_ms: 20, ..Rehearsal::default() };
        let decision = decide(&back, limits()).unwrap();
        assert_eq!(decision.strategy, Strategy::Hold);
        assert!(decision.reasons[0].contains("4 changes of users"), "{decision:?}");
    }

    #[test]
    fn a_loss_nobody_acknowledged_refuses_before_anything_else() {
        let rehearsal = Rehearsal { unacknowledged: vec!["rows:orders".into()], ..pending() };
        assert_eq!(decide(&rehearsal, limits()), Err(Refusal::Loss(vec!["rows:orders".into()])));
    }

    #[test]
    fn a_hold_over_the_budget_is_refused_with_both_figures() {
        let rehearsal = Rehearsal { migrate_ms: 6_000, ..pending() };
        let refusal = decide(&rehearsal, limits()).unwrap_err();
        assert_eq!(refusal, Refusal::TooLong { predicted_ms: 14_000, budget_ms: 10_000 });
    }

    #[test]
    fn a_hold_over_the_budget_is_maintenance_in_the_open_window_and_nowhere_else() {
        let rehearsal = Rehearsal { migrate_ms: 6_000, ..pending() };
        let open = |left_ms| Agreed::Open { left_ms, until: "Tue 05:00".into() };
        let decision = decide_within(&rehearsal, limits(), &open(14_000)).unwrap();
        assert_eq!((decision.strategy, decision.predicted_hold_ms), (Strategy::Maintenance, 13_000));
        assert!(decision.reasons.iter().any(|reason| reason.contains("until Tue 05:00")), "{decision:?}");
        let too_long = Refusal::TooLong { predicted_ms: 14_000, budget_ms: 10_000 };
        assert_eq!(decide_within(&rehearsal, limits(), &Agreed::Nothing), Err(too_long));
        for window in [open(13_999), Agreed::Closed { opens: "Mon 02:00".into() }] {
            let not_now = Refusal::NotNow { predicted_ms: 14_000, budget_ms: 10_000, window: window.clone() };
            assert_eq!(decide_within(&rehearsal, limits(), &window), Err(not_now));
        }
    }

    #[test]
    fn what_fits_into_the_budget_needs_no_window() {
        let closed = Agreed::Closed { opens: "Mon 02:00".into() };
        assert_eq!(decide_within(&pending(), limits(), &closed), decide(&pending(), limits()));
    }

    #[test]
    fn without_a_front_door_the_commit_point_comes_before_the_first_start() {
        let steps = Strategy::Restart.steps();
        let at = |step| steps.iter().position(|s| *s == step).unwrap();
        assert!(at(Step::Commit) < at(Step::Start));
        let steps = Strategy::Hold.steps();
        let at = |step| steps.iter().position(|s| *s == step).unwrap();
        assert!(at(Step::Prove) < at(Step::Commit) && at(Step::Commit) < at(Step::Open));
    }
}
