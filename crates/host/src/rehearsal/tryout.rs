//! One release in the rehearsal: copied, started within its walls, asked, stopped.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use plimsoll_core::check::{Check, Verdict};
use plimsoll_core::plan::{Smoke, SmokeStep};
use plimsoll_core::ports::Failure;

use super::bench::Bench;
use super::{Candidate, Spec, culprit, ms};
use crate::probe::opened::{self, Opening};
use crate::probe::smoke::{self, Target};
use crate::process::{self, base_env};
use crate::service::{App, Instance, Launch, quoted};

const OPENED: &str = "The copy opened the database that it was given";

/// A release that ran.
pub(super) struct Tried {
    pub(super) startup_ms: u64,
    pub(super) stop_ms: u64,
    pub(super) smoke_ms: u64,
    pub(super) smoke: Vec<Check>,
    pub(super) opened: Check,
    /// How many of its processes had the copied database open at the end.
    pub(super) processes: usize,
    /// Whether it waits for a lock, when that was tried.
    pub(super) patience: Option<Check>,
    /// Where its folder is, for looking at why.
    folder: PathBuf,
    interrupted: Option<Failure>,
}

impl Bench {
    /// Runs the migrate commands on the copy.
    pub(super) fn migrate(&mut self, spec: &Spec, folder: &Path) -> Result<(), Failure> {
        let launcher = self.launcher(spec, &spec.new.folder)?;
        let mut env = base_env();
        env.extend(self.env(spec));
        env.insert("PLIMSOLL_RELEASE".to_owned(), spec.new.id.0.clone());
        if let Some(database) = self.places.database() {
            env.insert("DATABASE_PATH".to_owned(), database.display().to_string());
        }
        for words in &spec.migrate {
            let own = words.iter().map(|word| self.places.setting(word));
            let command = process::Command {
                words: launcher.iter().cloned().chain(own).collect(),
                env: env.clone(),
                folder: folder.join(&spec.app.directory),
                mark: Some(self.children.mark("rehearsal-migrate")),
            };
            let limits = process::Limits {
                time: Some(self.left()),
                cancel: &|| self.stop.wanted(),
                ..process::Limits::default()
            };
            let text = words.join(" ");
            let mut show = |line: &str| (spec.on_line)(line);
            let ran = process::run(&command, limits, process::Sink::Lines(&mut show));
            let what = format!("the migrate command `{text}` failed on a copy of the database");
            let next = "mend the migration, then deploy again";
            let ran = ran.map_err(|e| Failure::failed(&what, e.to_string(), next))?;
            self.note_confined();
            if !ran.end.is_success() {
                let why = format!("{}. {}", ran.end, quoted(&ran.tail, &spec.app.secrets));
                return Err(self.over().unwrap_or_else(|| Failure::failed(what, why, next)));
            }
        }
        Ok(())
    }

    /// Starts the copy of a release, runs every smoke test, sees what it has open, and stops it. The `last` one is also
    /// seen to wait for a lock.
    pub(super) fn try_release(
        &mut self,
        spec: &Spec,
        candidate: &Candidate,
        folder: &Path,
        last: bool,
    ) -> Result<Tried, Failure> {
        let begun = SystemTime::now();
        let words = self.launcher(spec, &candidate.folder)?;
        let words: Vec<String> = words.iter().map(|word| shell_words::quote(word).into_owned()).collect();
        let app = App {
            command: format!("{} {}", words.join(" "), self.places.setting(&spec.app.command)),
            database: self.places.database().map(Path::to_owned),
            ..spec.app.clone()
        };
        let launch = Launch {
            app: &app,
            release: &candidate.id,
            folder: folder.to_owned(),
            role: format!("rehearsal-{}", candidate.id),
            env: self.env(spec),
            log: &self.log,
            children: &self.children,
        };
        let mut opening = self.places.database().and_then(|database| Opening::watch(database).ok());
        let cancel = || self.stop.wanted();
        let started = launch.start(app.start_timeout.min(self.left()), &cancel);
        self.note_confined();
        let mut instance = started.map_err(|mut failure| {
            failure.what = format!("release {} did not start on a copy of the database", candidate.id);
            self.over().unwrap_or_else(|| self.explained(spec, folder, failure))
        })?;
        let startup_ms = ms(instance.startup);
        let target = Target {
            address: instance.address(),
            public_url: spec.public_url.clone(),
            token: None,
            production: false,
        };
        let asked = Instant::now();
        let outcomes = smoke::run(&spec.smoke, &target, Some(self.left()), &|| self.stop.wanted());
        if spec.smoke.is_empty() {
            // Whatever it answers: an app that opens its database for each request only is given one to answer.
            let _ = smoke::run(&[first_page()], &target, Some(self.left()), &|| self.stop.wanted());
        }
        let smoke_ms = ms(asked.elapsed());
        let (opened, processes) = self.opened(&instance, opening.as_mut(), begun, folder);
        let good = !outcomes.is_empty() && outcomes.iter().all(|o| o.check.verdict == Verdict::Pass);
        let patience = (last && good).then(|| self.patience(spec, &candidate.id.0, &target));
        let died = instance.ended();
        let stopped = instance.stop(app.stop_timeout)?;
        let mut smoke: Vec<Check> = outcomes.into_iter().map(|outcome| outcome.check).collect();
        if let Some(end) = died {
            let lines = quoted(&instance.last_lines(), &spec.app.secrets);
            let why = format!("{end} while it was tried. {lines}");
            smoke.push(Check::fail("pre.staging", "It stays up", why));
        }
        Ok(Tried {
            startup_ms,
            stop_ms: ms(stopped.took),
            smoke_ms,
            smoke,
            opened,
            processes,
            patience,
            folder: folder.to_owned(),
            interrupted: self.over(),
        })
    }

    /// Whether it was the copied database that it opened.
    fn opened(
        &self,
        instance: &Instance,
        opening: Option<&mut Opening>,
        begun: SystemTime,
        folder: &Path,
    ) -> (Check, usize) {
        let unknown = |why: String| Check::unknown("pre.staging", OPENED, why);
        let Some(database) = self.places.database() else {
            return (Check::skipped("pre.staging", OPENED, "the database is no file"), 0);
        };
        let meanwhile = match opening.map(Opening::seen) {
            Some(Err(error)) => return (unknown(error.to_string()), 0),
            seen => seen.is_some_and(|seen| seen.unwrap_or(false)),
        };
        let pids: Vec<u32> = u32::try_from(instance.process().pid).into_iter().collect();
        let (verdict, processes) = match opened::opened(database, &pids) {
            Ok(seen) => (seen.verdict(meanwhile), seen.by.len()),
            Err(error) => return (unknown(error.to_string()), 0),
        };
        let wrong = |others: &[PathBuf]| {
            let shown = |path: &PathBuf| path.strip_prefix(folder).unwrap_or(path).display().to_string();
            let others: Vec<String> = others.iter().map(shown).collect();
            Check::fail("pre.staging", OPENED, format!("it opened {} instead", others.join(", ")))
        };
        let check = match verdict {
            opened::Verdict::Opened => Check::pass("pre.staging", OPENED),
            opened::Verdict::Other(others) => wrong(&others),
            opened::Verdict::Unknown => unknown("its processes could not be looked into".to_owned()),
            // It may open a database for each request, so that none is open now.
            opened::Verdict::NotSeen => match culprit::databases_written(folder, begun, database) {
                others if others.is_empty() => {
                    let why = "it opened no database at all, neither when it started nor in a smoke test";
                    Check::fail("pre.staging", OPENED, why).with(
                        "next",
                        "let the app open the file that DATABASE_PATH names; if it does so only for some pages, add \
                         a [[smoke]] test of one that shows something out of the database; then deploy again",
                    )
                }
                others => wrong(&others),
            },
        };
        (check, processes)
    }

    /// The failure, with what a person has to know when it was the walls that the copy ran into.
    fn explained(&self, spec: &Spec, folder: &Path, mut failure: Failure) -> Failure {
        let Some(database) = &spec.app.database else { return failure };
        let said = format!("{}\n{}", failure.why, self.log.tail(40).join("\n"));
        let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
        let mut paths = vec![database.clone(), spec.app.root.join("shared"), spec.app.root.join("current")];
        paths.extend(std::fs::canonicalize(database));
        let mut lines = culprit::lines_that_name(folder, &paths);
        let shared = self.inside.join("shared");
        lines.extend(culprit::lines_that_name(&shared, &paths).iter().map(|line| format!("shared/{line}")));
        let named = paths.iter().any(|path| said.contains(&*path.to_string_lossy()));
        let refused =
            says(&["ermission denied", "EACCES", "unable to open database", "CANTOPEN", "not permitted"]);
        if named || (refused && !lines.is_empty()) {
            let place = if lines.is_empty() { "its output".to_owned() } else { lines.join(", ") };
            failure.why = format!(
                "{}\nIt tried to open production's own {}, it seems: {place} names it. A rehearsal keeps production \
                 out of reach.",
                failure.why,
                database.display()
            );
            failure.next = "let the app open the file that the variable DATABASE_PATH names; or put the variable that \
                            it reads into [rehearsal].env, such as DB_FILE = \"$DATABASE_PATH\"; then deploy again"
                .to_owned();
        } else if refused {
            failure.next =
                "a copy may write in its own folder, in shared/ and in $TMPDIR, and nowhere else: let the \
                            app write there, or mend what its output says; then deploy again"
                    .to_owned();
        } else if says(&[
            "onnection refused",
            "ECONNREFUSED",
            "unreachable",
            "name resolution",
            "getaddrinfo",
        ]) {
            failure.next =
                "a copy reaches no other program, on this machine or beyond: let the app do without it when \
                            PLIMSOLL_REHEARSAL is set, or through [rehearsal].env; then deploy again"
                    .to_owned();
        }
        failure
    }
}

fn first_page() -> Smoke {
    let step = SmokeStep { path: "/".to_owned(), ..SmokeStep::default() };
    Smoke { name: "The first page".to_owned(), steps: vec![step], ..Smoke::default() }
}

impl Tried {
    /// Whether it did all that it has to do.
    pub(super) fn verdict(&self, spec: &Spec, bench: &Bench) -> Result<(), Failure> {
        if let Some(failure) = &self.interrupted {
            return Err(failure.clone());
        }
        if self.opened.verdict == Verdict::Fail {
            let database = bench.places.database().map(|path| path.display().to_string()).unwrap_or_default();
            let what = "the release does not open the database that it is given".to_owned();
            let why = format!("{}, and not {database}, which DATABASE_PATH names", self.opened.why());
            if let Some(next) = self.opened.evidence.get("next").and_then(|next| next.as_str()) {
                let failure = Failure::failed(what, self.opened.why(), next);
                return Err(bench.explained(spec, &self.folder, failure));
            }
            let next = "let the app open the file that DATABASE_PATH names, or link the file from shared/ with \
                        [build].link; then deploy again";
            return Err(Failure::failed(what, why, next));
        }
        let bad = self.smoke.iter().find(|check| matches!(check.verdict, Verdict::Fail | Verdict::Unknown));
        let Some(bad) = bad else { return Ok(()) };
        let came = bad.evidence.get("came").and_then(|came| came.as_str()).unwrap_or_default();
        let why = if came.is_empty() { bad.why().to_owned() } else { format!("{}: {came}", bad.why()) };
        let failure = Failure::failed(
            format!("the smoke test `{}` failed on a copy of the database", bad.name),
            why,
            "mend the release, then deploy again; what it wrote is in the run's rehearsal.log",
        );
        let opened = self.opened.verdict == Verdict::Pass;
        Err(if opened { failure } else { bench.explained(spec, &self.folder, failure) })
    }
}
