//! `status`, `history`, `show`: what is, what was done, and one run as the filled-in checklist. They only read.

use jiff::Timestamp;
use plimsoll_core::check::Verdict;
use plimsoll_core::plan::ReleaseId;
use plimsoll_core::record::{Ending, Entry, Event, State};
use plimsoll_core::report::{self, Report};
use plimsoll_host::backups;
use plimsoll_host::copies;
use plimsoll_host::journal::Runs;
use plimsoll_host::release::Releases;
use plimsoll_proxy::control::{self, ControlError};
use serde_json::json;

use crate::args::{Format, ShowArgs};
use crate::config::Config;
use crate::error::{Error, Kind};
use crate::spark::{fitted, spark};
use crate::station::{self, needs_serve};
use crate::ui::{Ui, age_words, size_words, took_words};
use crate::wire::{Reply, Request, Status};
use crate::wiring;

/// `plimsoll status`. Exit 4 when a run is not resolved.
pub(crate) fn status(config: &Config, ui: &Ui) -> Result<(), Error> {
    let runs = Runs::of(&config.app.root);
    let current = Releases::new(&config.app.root).current().map_err(|e| unreadable(&e))?;
    let serve = ask_serve(config)?;
    let open = runs.unfinished().map_err(|e| unreadable(&e))?;
    let (current, unproved) = live(&runs, open, current);
    let going = serve.as_ref().and_then(|status| status.running);
    let unresolved = open.filter(|run| Some(*run) != going);
    let last = runs.list().map_err(|e| unreadable(&e))?.into_iter().next_back();
    let last = last.map(|run| row(&runs, run)).transpose()?;
    let backup = newest_backup(config);
    // In a run they are down because it has stopped them.
    let workers = match open {
        None => wiring::workers(config).map(|workers| workers.down()).unwrap_or_default(),
        Some(_) => Vec::new(),
    };
    if ui.is_json() {
        ui.object(&json!({
            "app": config.app.name,
            "release": current,
            "unproved_release": unproved,
            "workers_down": workers,
            "serve": serve,
            "unresolved_run": unresolved,
            "last_run": last.as_ref().map(Row::json),
            "locked": station::locked(&runs).map(|(run, why)| json!({ "run": run, "why": why })),
            "backup": backup.as_ref().map(|kept| &kept.name),
            "backup_at": backup.as_ref().map(|kept| kept.made_at),
            "drilled_at": backup.as_ref().and_then(|kept| kept.drilled_at),
        }));
    } else {
        let words = status_words(
            config,
            current.as_ref().map(|id| id.0.as_str()),
            serve.as_ref(),
            last.as_ref(),
            backup.map(|kept| kept.words()).as_deref(),
        );
        ui.data(&if ui.is_rich() { rich(&words, serve.as_ref(), ui) } else { words });
        if let Some(release) = &unproved {
            ui.data(&format!("{:<9} {release}, not proved yet", "coming"));
        }
        for worker in &workers {
            ui.data(&format!("{:<9} {worker}", "trouble"));
        }
    }
    match unresolved {
        None => Ok(()),
        Some(run) => Err(Error::new(Kind::Unresolved, format!("run {run} is not resolved"))
            .why("it was interrupted, or its undo needs a person")
            .state("the door is shut until it is resolved; the data is kept")
            .next(next_of(&runs, run))),
    }
}

/// The release that users have or will have again, and the one that a run is about to bring live: `current` may point at
/// it before it is proved.
fn live(
    runs: &Runs,
    open: Option<u32>,
    current: Option<ReleaseId>,
) -> (Option<ReleaseId>, Option<ReleaseId>) {
    let state = open.and_then(|run| runs.entries(run).ok()).map(|entries| State::fold(&entries));
    match state.and_then(|state| Some((state.committed, state.order?.from, state.release))) {
        Some((false, from, release)) => (from, release.map(|release| release.id)),
        _ => (current, None),
    }
}

/// What the stopped undo of a run asks for.
fn next_of(runs: &Runs, run: u32) -> String {
    let stuck = runs.entries(run).ok().and_then(|entries| State::fold(&entries).undo_failure);
    match stuck {
        Some((_, failure)) if !failure.next.is_empty() => failure.next,
        _ => "plimsoll resume".to_owned(),
    }
}

fn status_words(
    config: &Config,
    current: Option<&str>,
    serve: Option<&Status>,
    last: Option<&Row>,
    backup: Option<&str>,
) -> String {
    let mut lines = vec![format!("{:<9} {}", "app", config.app.name)];
    let mut line = |label: &str, text: String| lines.push(format!("{label:<9} {text}"));
    line("release", current.unwrap_or("none yet: plimsoll deploy").to_owned());
    match serve {
        Some(status) => {
            let waiting =
                if status.waiting > 0 { format!(", {} waiting", status.waiting) } else { String::new() };
            if status.door != "none" {
                line("door", format!("{}{waiting}", status.door));
            }
            if let (Some(pid), Some(port)) = (status.pid, status.port) {
                let restarts = match status.restarts {
                    0 => String::new(),
                    n => format!(", restarted {n} times because it ended by itself"),
                };
                let memory = size_words(status.memory);
                let cpu = took_words(std::time::Duration::from_millis(status.cpu_ms));
                line(
                    "process",
                    format!("pid {pid}, port {port}, {memory} of memory, {cpu} of processor time{restarts}"),
                );
            }
            if status.requests > 0 {
                line("requests", format!("{}, of these {} errors (5xx)", status.requests, status.errors));
            }
            if let Some(run) = status.running {
                let step = last.filter(|last| last.run == run).and_then(|last| last.step);
                line("running", step.map_or(format!("run {run}"), |step| format!("run {run}: {step}")));
            }
            for trouble in &status.trouble {
                line("trouble", trouble.clone());
            }
        }
        None if needs_serve(config) => line("serve", "not running: plimsoll serve".to_owned()),
        None => {}
    }
    if let Some((run, why)) = station::locked(&Runs::of(&config.app.root)) {
        line("locked", format!("since run {run}: {why}; deploy again with --unlock \"WHY\""));
    }
    if let Some(last) = last {
        line("last run", last.words());
    }
    line("backup", backup.map_or_else(|| "none yet".to_owned(), str::to_owned));
    lines.join("\n")
}

/// The same for a terminal: in colours, with a picture of the traffic.
fn rich(words: &str, serve: Option<&Status>, ui: &Ui) -> String {
    let mut lines = Vec::new();
    for line in words.lines() {
        let (label, text) = line.split_at_checked(10).unwrap_or((line, ""));
        let verdict = match (label.trim(), text) {
            ("door", text) if text.starts_with("open") => Some(Verdict::Pass),
            ("door", _) | ("trouble" | "serve", _) => Some(Verdict::Fail),
            ("last run", text) if text.ends_with(": live") || text.ends_with(": rolled-back") => {
                Some(Verdict::Pass)
            }
            ("last run" | "running", _) => Some(Verdict::Unknown),
            ("backup", "none yet") => Some(Verdict::Fail),
            _ => None,
        };
        let text = if verdict.is_some() { ui.toned(verdict, text) } else { text.to_owned() };
        lines.push(format!("{}{text}", ui.toned(None, label)));
    }
    if let Some(status) = serve.filter(|status| !status.recent.is_empty()) {
        let of = |pick: fn(&(u32, u32)) -> u32| {
            status.recent.iter().map(|one| u64::from(pick(one))).collect::<Vec<_>>()
        };
        let (answers, errors) = (fitted(&of(|one| one.0), 60), fitted(&of(|one| one.1), 60));
        lines.push(format!(
            "{}{}  20 min",
            ui.toned(None, "traffic   "),
            ui.toned(Some(Verdict::Pass), &spark(&answers))
        ));
        if errors.iter().any(|count| *count > 0) {
            let picture = ui.toned(Some(Verdict::Fail), &spark(&errors));
            lines.push(format!("{}{picture}  errors", ui.toned(None, "          ")));
        }
        if let (Some(half), Some(most)) = (status.p50_ms, status.p99_ms) {
            lines.push(format!(
                "{}half within {half:.1} ms, 99 of 100 within {most:.1} ms",
                ui.toned(None, "latency   ")
            ));
        }
    }
    lines.join("\n")
}

fn ask_serve(config: &Config) -> Result<Option<Status>, Error> {
    let failed = |e: ControlError| {
        Error::usage("`plimsoll serve` could not be asked")
            .why(e.to_string())
            .next("run this as the user who runs `plimsoll serve`, or as root")
    };
    let mut client = match control::connect(&station::socket(config)) {
        Ok(client) => client,
        Err(ControlError::NoServer { .. }) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    client.send(&json!(Request::Status)).map_err(failed)?;
    let value = client.next().transpose().map_err(failed)?.unwrap_or_default();
    match serde_json::from_value(value) {
        Ok(Reply::Status { status }) => Ok(Some(status)),
        _ => Ok(None),
    }
}

/// The newest backup that counts, how old it is, and when one was last restored in a drill.
fn newest_backup(config: &Config) -> Option<Kept> {
    let file = config.database_file()?.file_name()?.to_string_lossy().into_owned();
    let entries = backups::list(&config.backups(), &file).ok()?;
    let newest = backups::newest_verified(&entries, Timestamp::now())?;
    let age = |at: Timestamp| age_words(Timestamp::now().duration_since(at));
    let states = copies::states(&config.backups()).unwrap_or_default();
    let drilled_at = states.values().filter_map(|state| state.drilled.as_ref()).map(|done| done.at).max();
    let drilled = drilled_at.map_or_else(
        || "none drilled yet: plimsoll backup drill".to_owned(),
        |at| format!("last drilled {} ago", age(at)),
    );
    let name = newest.path.file_name()?.to_string_lossy();
    let trouble: String = states
        .iter()
        .filter_map(|(place, state)| Some(format!("; {place}: {}", state.trouble.as_ref()?.why)))
        .collect();
    Some(Kept {
        name: format!("{name}, verified"),
        made_at: newest.at(),
        drilled_at,
        more: format!("{} old; {drilled}{trouble}", age(newest.at())),
    })
}

/// The newest backup that counts.
struct Kept {
    name: String,
    made_at: Timestamp,
    /// When one was last restored in a drill, of whatever place.
    drilled_at: Option<Timestamp>,
    /// Its age, the drill's, and what is wrong with a place for copies.
    more: String,
}

impl Kept {
    fn words(&self) -> String {
        format!("{}, {}", self.name, self.more)
    }
}

/// `plimsoll history`
pub(crate) fn history(config: &Config, ui: &Ui) -> Result<(), Error> {
    let runs = Runs::of(&config.app.root);
    let numbers = runs.list().map_err(|e| unreadable(&e))?;
    if numbers.is_empty() && !ui.is_json() {
        ui.say("there are no runs yet");
        return Ok(());
    }
    if !ui.is_json() {
        ui.data(&format!(
            "{:>5}  {:<20}  {:<8}  {:<14}  {:<11}  {}",
            "run", "began (UTC)", "what", "release", "ending", "took"
        ));
    }
    let mut holds = Vec::new();
    for run in numbers.into_iter().rev() {
        let row = match row(&runs, run) {
            Ok(row) => row,
            // One damaged journal does not hide the others.
            Err(error) => {
                ui.warn(&format!("run {run} cannot be read: {}", error.why));
                continue;
            }
        };
        match (row.began.is_empty(), ui.is_json()) {
            // A crash between the folder and its first event: nothing was done.
            (true, _) => {}
            (_, true) => ui.object(&row.json()),
            (_, false) => {
                holds.push(row.hold_ms);
                ui.data(&row.line(ui));
            }
        }
    }
    if ui.is_rich() && holds.iter().any(|hold| *hold > 0) {
        holds.truncate(60);
        holds.reverse();
        let most = took_words(std::time::Duration::from_millis(holds.iter().copied().max().unwrap_or(0)));
        ui.data(&format!("\n{}  {}  at most {most}", ui.toned(None, "users waited"), spark(&holds)));
    }
    Ok(())
}

/// `plimsoll show`
pub(crate) fn show(config: &Config, args: &ShowArgs, ui: &Ui) -> Result<(), Error> {
    let runs = Runs::of(&config.app.root);
    let numbers = runs.list().map_err(|e| unreadable(&e))?;
    let run = match args.run {
        Some(run) if numbers.contains(&run) => run,
        Some(run) => {
            return Err(
                Error::usage(format!("there is no run {run}")).next("list them with: plimsoll history")
            );
        }
        None => numbers.last().copied().ok_or_else(|| {
            Error::usage("there are no runs yet").next("bring a release live with: plimsoll deploy")
        })?,
    };
    let entries = runs.entries(run).map_err(|e| unreadable(&e))?;
    let report = Report::of(&entries);
    let format = if ui.is_json() { Format::Json } else { args.format };
    match format {
        Format::Md => ui.data(&report::markdown(&report)),
        Format::Html => ui.data(&report::html(&report)),
        Format::Json => ui.object(&report),
    }
    Ok(())
}

/// A run in one line.
struct Row {
    run: u32,
    began: String,
    kind: &'static str,
    release: Option<String>,
    by: String,
    ending: Option<Ending>,
    exit: Option<u8>,
    message: String,
    hold_ms: u64,
    ms: u64,
    /// The step that was begun last, in a person's words.
    step: Option<&'static str>,
}

fn row(runs: &Runs, run: u32) -> Result<Row, Error> {
    let entries = runs.entries(run).map_err(|e| unreadable(&e))?;
    Ok(Row::of(run, &entries))
}

impl Row {
    fn of(run: u32, entries: &[Entry]) -> Row {
        let state = State::fold(entries);
        let times = entries.iter().rev().find_map(|entry| match entry.event {
            Event::Ended { hold_ms, ms, .. } => Some((hold_ms, ms)),
            _ => None,
        });
        let (hold_ms, ms) = times.unwrap_or_default();
        let order = state.order.as_ref();
        let (ending, exit, message) = match state.ended {
            Some((ending, exit, message)) => (Some(ending), Some(exit), message),
            None => (None, None, String::new()),
        };
        Row {
            run,
            began: entries.first().map(|entry| entry.at.clone()).unwrap_or_default(),
            kind: order.map_or("?", |order| order.kind.word()),
            release: state.release.as_ref().map(|release| release.id.0.clone()),
            by: order.map(|order| order.by.clone()).unwrap_or_default(),
            ending,
            exit,
            message,
            hold_ms,
            ms,
            step: entries.iter().rev().find_map(|entry| match entry.event {
                Event::StepStarted { step } => Some(step.title()),
                _ => None,
            }),
        }
    }

    fn ending(&self) -> &'static str {
        self.ending.map_or("not ended", Ending::word)
    }

    fn line(&self, ui: &Ui) -> String {
        let verdict = match (self.ending, self.exit) {
            (Some(Ending::Live | Ending::RolledBack), Some(0)) => Verdict::Pass,
            (Some(Ending::Undone), _) => Verdict::Fail,
            _ => Verdict::Unknown,
        };
        let ending = ui.toned(Some(verdict), &format!("{:<11}", self.ending()));
        let began = self.began.get(..19).unwrap_or(&self.began).replace('T', " ");
        let release = self.release.as_deref().unwrap_or("-");
        // One that goes on has taken no time yet that anybody has written down.
        let took = match self.ending {
            Some(_) => took_words(std::time::Duration::from_millis(self.ms)),
            None => self.step.unwrap_or("-").to_owned(),
        };
        let hold = match self.hold_ms {
            0 => String::new(),
            ms => format!(", hold {}", took_words(std::time::Duration::from_millis(ms))),
        };
        format!("{:>5}  {began:<20}  {:<8}  {release:<14}  {ending}  {took}{hold}", self.run, self.kind,)
    }

    fn words(&self) -> String {
        let began = self.began.get(..16).unwrap_or(&self.began).replace('T', " ");
        format!("{} {}, {began} UTC by {}: {}", self.kind, self.run, self.by, self.ending())
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "run": self.run, "began": self.began, "kind": self.kind, "release": self.release, "by": self.by,
            "ending": self.ending.map(Ending::word), "exit": self.exit, "message": self.message,
            "hold_ms": self.hold_ms, "ms": self.ms,
        })
    }
}

fn unreadable(error: &dyn std::fmt::Display) -> Error {
    Error::new(Kind::Unresolved, "the app's records cannot be read")
        .why(error.to_string())
        .state("nothing was changed by this command")
        .next("run it as the user who runs `plimsoll serve`, or as root")
}
