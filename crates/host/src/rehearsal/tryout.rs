//! One release in the rehearsal: copied, started within its walls, asked, stopped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use plimsoll_core::check::{Check, Verdict};
use plimsoll_core::ports::{Failure, FailureKind};

use super::confine::{Report, Walls};
use super::copy::{self, Copied, Places};
use super::{Candidate, Confinement, Spec, culprit, first_bad, ms};
use crate::durable;
use crate::logfile::LogFile;
use crate::probe::opened::{self, Opening};
use crate::probe::smoke::{self, Target};
use crate::process::{self, base_env};
use crate::service::{App, Children, Instance, Launch};
use crate::sqlite::Stop;

const OPENED: &str = "The copy opened the database that it was given";

/// Where releases are tried.
pub(super) struct Bench {
    pub(super) readable: Vec<PathBuf>,
    pub(super) sockets: Vec<PathBuf>,
    /// Whether this thread has a network of its own, and why not.
    pub(super) own_network: Result<(), String>,
    /// The folder that belongs to what is tried.
    pub(super) inside: PathBuf,
    /// The file that tells the walls; outside of them.
    pub(super) walls: PathBuf,
    pub(super) places: Places,
    pub(super) log: Arc<LogFile>,
    pub(super) children: Children,
    /// When everything must be done.
    pub(super) deadline: Instant,
    /// With that deadline.
    pub(super) stop: Stop,
    /// What the kernel did, once something has been started.
    pub(super) confined: Option<Report>,
}

/// A release that ran.
pub(super) struct Tried {
    pub(super) startup_ms: u64,
    pub(super) stop_ms: u64,
    pub(super) smoke_ms: u64,
    pub(super) smoke: Vec<Check>,
    pub(super) opened: Check,
    /// Where its folder is, for looking at why.
    folder: PathBuf,
    interrupted: Option<Failure>,
}

impl Bench {
    /// Copies a release.
    pub(super) fn copy(&self, candidate: &Candidate) -> Result<(PathBuf, Copied), Failure> {
        copy::release(&self.places, &candidate.folder, &self.stop).map_err(|error| {
            self.over().unwrap_or_else(|| {
                let what = format!("release {} could not be copied for its rehearsal", candidate.id);
                Failure::failed(
                    what,
                    error.to_string(),
                    "free some room or mend the folder, then deploy again",
                )
            })
        })
    }

    /// Why everything must end now, when it must.
    pub(super) fn over(&self) -> Option<Failure> {
        let error = self.stop.check("rehearsing").err()?;
        Some(match error {
            crate::sqlite::Error::Stopped { .. } => {
                Failure::failed("the rehearsal was interrupted", "somebody asked to stop", "deploy again")
                    .of_kind(FailureKind::Interrupted)
            }
            _ => Failure::failed(
                "the rehearsal took too long",
                "its time was over before it was done",
                "see in the run's rehearsal.log what took the time, then deploy again",
            ),
        })
    }

    /// What kept the copies from production.
    pub(super) fn confinement(&self) -> Confinement {
        let Some(report) = &self.confined else {
            let none = "none: nothing was started".to_owned();
            return Confinement { filesystem: none.clone(), network: none.clone(), sockets: none };
        };
        let network = match &self.own_network {
            Ok(()) => "namespace".to_owned(),
            Err(why) if report.ports => format!("landlock-ports: {why}; datagrams are not refused"),
            Err(why) => format!("none: {why}, and Landlock refuses connections only from Linux 6.7 on"),
        };
        Confinement { filesystem: report.files.clone(), network, sockets: report.sockets.clone() }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn report(&self) -> PathBuf {
        self.inside.join("tmp/confined.json")
    }

    /// Writes down what a program may do, and gives the words that come before its own.
    fn launcher(&self, spec: &Spec, also_readable: &Path) -> Result<Vec<String>, Failure> {
        let mut readable = self.readable.clone();
        // The paths in a virtual environment name the folder that it was made in.
        readable.push(also_readable.to_owned());
        readable.push(self.walls.clone());
        // Wherever this program lies, it has to be read to be started.
        readable.extend(spec.launcher.first().map(PathBuf::from));
        let walls = Walls {
            readable,
            writable: vec![self.inside.clone()],
            sockets: self.sockets.clone(),
            own_port_only: self.own_network.is_err(),
            report: self.report(),
        };
        let text = serde_json::to_vec(&walls).map_err(|e| durable::Error::io("write", &self.walls, e))?;
        durable::write(&self.walls, durable::PRIVATE, &text)?;
        let mut words = spec.launcher.clone();
        words.extend([self.walls.display().to_string(), "--".to_owned()]);
        Ok(words)
    }

    /// The app's own settings as they are for a copy.
    fn env(&self, spec: &Spec) -> BTreeMap<String, String> {
        let database = self.places.database().map(|path| path.display().to_string()).unwrap_or_default();
        let own = spec.app.env.iter().map(|(name, value)| (name.clone(), self.places.setting(value)));
        let mut env: BTreeMap<String, String> = own.collect();
        let over = spec.env.iter().map(|(name, value)| {
            let value = value.replace("${DATABASE_PATH}", &database).replace("$DATABASE_PATH", &database);
            (name.clone(), self.places.setting(&value))
        });
        env.extend(over);
        let tmp = self.inside.join("tmp").display().to_string();
        for name in ["TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"] {
            env.insert(name.to_owned(), tmp.clone());
        }
        env.insert("PLIMSOLL_REHEARSAL".to_owned(), "1".to_owned());
        env
    }

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
                let why = format!("{}; its last lines: {}", ran.end, ran.tail.join(" | "));
                return Err(self.over().unwrap_or_else(|| Failure::failed(what, why, next)));
            }
        }
        Ok(())
    }

    fn note_confined(&mut self) {
        let report = std::fs::read(self.report()).ok().and_then(|text| serde_json::from_slice(&text).ok());
        self.confined = report.or(self.confined.take());
    }

    /// Starts the copy of a release, runs every smoke test, sees what it has open, and stops it.
    pub(super) fn try_release(
        &mut self,
        spec: &Spec,
        candidate: &Candidate,
        folder: &Path,
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
        let smoke_ms = ms(asked.elapsed());
        let opened = self.opened(&instance, opening.as_mut(), begun, folder);
        let died = instance.ended();
        let stopped = instance.stop(app.stop_timeout)?;
        let mut smoke: Vec<Check> = outcomes.into_iter().map(|outcome| outcome.check).collect();
        if let Some(end) = died {
            let why = format!("{end} while it was tried. {}", instance.last_lines().join(" | "));
            smoke.push(Check::fail("pre.staging", "It stays up", why));
        }
        Ok(Tried {
            startup_ms,
            stop_ms: ms(stopped.took),
            smoke_ms,
            smoke,
            opened,
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
    ) -> Check {
        let unknown = |why: String| Check::unknown("pre.staging", OPENED, why);
        let Some(database) = self.places.database() else {
            return Check::skipped("pre.staging", OPENED, "the database is no file");
        };
        let meanwhile = match opening.map(Opening::seen) {
            Some(Err(error)) => return unknown(error.to_string()),
            seen => seen.is_some_and(|seen| seen.unwrap_or(false)),
        };
        let pids: Vec<u32> = u32::try_from(instance.process().pid).into_iter().collect();
        let verdict = match opened::opened(database, &pids) {
            Ok(seen) => seen.verdict(meanwhile),
            Err(error) => return unknown(error.to_string()),
        };
        let wrong = |others: &[PathBuf]| {
            let shown = |path: &PathBuf| path.strip_prefix(folder).unwrap_or(path).display().to_string();
            let others: Vec<String> = others.iter().map(shown).collect();
            Check::fail("pre.staging", OPENED, format!("it opened {} instead", others.join(", ")))
        };
        match verdict {
            opened::Verdict::Opened => Check::pass("pre.staging", OPENED),
            opened::Verdict::Other(others) => wrong(&others),
            opened::Verdict::Unknown => unknown("its processes could not be looked into".to_owned()),
            // It may open a database for each request, so that none is open now.
            opened::Verdict::NotSeen => match culprit::databases_written(folder, begun, database) {
                others if others.is_empty() => {
                    unknown("no smoke test made it open a database; add one that reads from it".to_owned())
                }
                others => wrong(&others),
            },
        }
    }

    /// The failure, with the place where production's own path is written when the copy may have stumbled over it.
    fn explained(&self, spec: &Spec, folder: &Path, mut failure: Failure) -> Failure {
        let Some(database) = &spec.app.database else { return failure };
        let mut paths = vec![database.clone(), spec.app.root.join("shared"), spec.app.root.join("current")];
        paths.extend(std::fs::canonicalize(database));
        let mut lines = culprit::lines_that_name(folder, &paths);
        let shared = self.inside.join("shared");
        lines.extend(culprit::lines_that_name(&shared, &paths).iter().map(|line| format!("shared/{line}")));
        let said = paths.iter().any(|path| failure.why.contains(&*path.to_string_lossy()));
        if lines.is_empty() && !said {
            return failure;
        }
        let database = database.display();
        let place = if lines.is_empty() { "its output".to_owned() } else { lines.join(", ") };
        failure.why = format!(
            "{}\nIt tried to open production's own {database}, it seems: {place} names it. A rehearsal keeps \
             production out of reach.",
            failure.why
        );
        failure.next = "let the app open the file that the variable DATABASE_PATH names; or put the variable \
                        that it reads into [rehearsal].env, such as DB_FILE = \"$DATABASE_PATH\"; then deploy again"
            .to_owned();
        failure
    }
}

impl Tried {
    /// Whether it did all that it has to do.
    pub(super) fn verdict(&self, spec: &Spec, bench: &Bench) -> Result<(), Failure> {
        if let Some(failure) = &self.interrupted {
            return Err(failure.clone());
        }
        let bad = first_bad(&self.smoke);
        if self.opened.verdict == Verdict::Fail {
            let database = bench.places.database().map(|path| path.display().to_string()).unwrap_or_default();
            let what = "the release does not open the database that it is given".to_owned();
            let why = format!("{}, and not {database}, which DATABASE_PATH names", self.opened.why());
            let next = "let the app open the file that DATABASE_PATH names, or link the file from shared/ with \
                        [build].link; then deploy again";
            return Err(Failure::failed(what, why, next));
        }
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
