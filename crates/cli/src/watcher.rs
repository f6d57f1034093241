//! The watch that goes on in `plimsoll serve` when a run has ended: samples, trends, spot checks, up to the last of them.
//!
//! What it knows is folded from the run's journal and samples, so that it goes on where it was after a restart of `serve`
//! and after a reboot: within one boot by the steady clock, across boots by the wall clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use plimsoll_core::check::{Check, Verdict};
use plimsoll_core::notify::Occasion;
use plimsoll_core::plan::ReleaseId;
use plimsoll_core::ports::{Clock, Moment};
use plimsoll_core::record::{Ending, Entry, Event, State};
use plimsoll_core::watch::judge::{self, Share};
use plimsoll_core::watch::{Judgement, Sample};
use plimsoll_host::clock::SystemClock;
use plimsoll_host::journal::Runs;
use plimsoll_host::probe::smoke;
use plimsoll_host::service::{self, Answer};
use plimsoll_host::sqlite::{Control, Stop, verify};
use plimsoll_host::watch::logs::{Found, Logs};
use plimsoll_host::watch::{self, Settings, Traffic, counts, mib, query::Query, resources, words};
use serde_json::json;

use crate::audience::Onlooker;
use crate::config::show_duration;
use crate::station::Station;
use crate::ui::Ui;
use crate::wiring;

/// After the close watch it is looked at so much less often.
const SELDOM: u32 = 12;
/// Samples that trends are read from.
const RECENT: usize = 240;
/// So many failed questions in a row mean that the release is down.
const DOWN_AFTER: usize = 6;
/// A write-ahead log larger than this, and than the database, is not folded in any more.
const LARGE_LOG: u64 = 64 << 20;
/// Waiting this long for the write lock, again and again, is felt by users.
const LONG_WAIT_MS: u64 = 1_000;
/// Earlier days that customers' activity is compared with.
const DAYS: i64 = 7;
/// How long a round of smoke tests may take.
const SMOKE_PATIENCE: Duration = Duration::from_secs(60);

/// The run whose release is live, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// Its number.
    pub(crate) run: u32,
    /// The release.
    pub(crate) release: ReleaseId,
    /// What the run's events say.
    pub(crate) state: State,
    committed: (Moment, String, Timestamp),
}

impl Subject {
    /// The run as one whose release may be watched; `None` when it has not brought one live for good.
    pub(crate) fn of(run: u32, entries: &[Entry]) -> Option<Subject> {
        let state = State::fold(entries);
        let (mut boot, mut committed) = (String::new(), None);
        for entry in entries {
            match &entry.event {
                Event::Started { order } => boot.clone_from(&order.boot),
                Event::TakenOver { boot: other, .. } => boot.clone_from(other),
                Event::Committed { .. } => {
                    committed = Some((entry.moment, boot.clone(), entry.at.parse().ok()?))
                }
                _ => {}
            }
        }
        let serves = matches!(state.ended, Some((Ending::Live | Ending::RolledBack, ..)));
        let release = state.release.as_ref()?.id.clone();
        (serves && state.taken_back.is_none()).then_some(())?;
        Some(Subject { run, release, state, committed: committed? })
    }

    /// How long users have been let in to it.
    pub(crate) fn elapsed(&self) -> Duration {
        let (moment, boot, at) = &self.committed;
        if *boot == SystemClock.boot_id() {
            return Duration::from_millis(SystemClock.now().since_ms(*moment));
        }
        // Another boot: the steady clock began anew. A wall clock that was set back says zero.
        Timestamp::now().duration_since(*at).try_into().unwrap_or_default()
    }
}

/// The newest run that brought the current release live.
pub(crate) fn subject(runs: &Runs, current: &ReleaseId) -> Option<Subject> {
    let numbers = runs.list().ok()?;
    let mut found = numbers.iter().rev().filter_map(|run| Subject::of(*run, &runs.entries(*run).ok()?));
    found.find(|subject| subject.release == *current)
}

/// Watches for ever.
pub(crate) fn watch_forever(station: &Station, ui: &Arc<Ui>) {
    let tick = station.config().watch.every.min(Duration::from_secs(1)).max(Duration::from_millis(100));
    let mut eyes: Option<Eyes> = None;
    loop {
        thread::sleep(tick);
        // A run has a watch of its own, and changes what is live. One that waits for a yes does neither, maybe for hours.
        if station.is_at_work() && station.question().is_none() {
            eyes = None;
            continue;
        }
        let Ok(Some(current)) = station.releases().current() else { continue };
        if eyes.as_ref().is_none_or(|eyes| eyes.subject.release != current || eyes.is_outdated(station)) {
            eyes = subject(station.runs(), &current).map(|subject| Eyes::open(station, subject));
        }
        if let Some(eyes) = &mut eyes {
            eyes.look(station, ui);
        }
    }
}

/// What is looked with, and what was seen lately.
struct Eyes {
    subject: Subject,
    latest: Option<u32>,
    settings: Settings,
    onlooker: Onlooker,
    logs: Logs,
    found: Found,
    logged: u64,
    sampled: Option<Instant>,
    traffic: Traffic,
    cpu: Option<(Instant, f64)>,
    recent: VecDeque<Sample>,
    before: Share,
    p50_before: Option<u64>,
    /// What is bad now, so that it is told once.
    alarms: BTreeMap<&'static str, String>,
}

impl Eyes {
    fn open(station: &Station, subject: Subject) -> Eyes {
        let onlooker = Onlooker::nobody();
        let folder = station.runs().folder(subject.run);
        let settings =
            wiring::watch(station.config(), folder.clone(), station.front(), station.handles(), &onlooker);
        let logs = Logs::follow(&settings.logs, settings.secrets.clone());
        let samples = watch::samples(&folder);
        let before: Vec<&Sample> = samples.iter().filter(|s| s.after_ms < 0).collect();
        let sum = |of: fn(&Sample) -> Option<u64>| before.iter().filter_map(|s| of(s)).sum();
        let (bad, of) = (sum(|s| s.errors), sum(|s| s.requests));
        let mut p50: Vec<u64> = before.iter().filter_map(|s| s.p50_us).collect();
        p50.sort_unstable();
        let p50_before = p50.get(p50.len() / 2).copied();
        let recent = samples.into_iter().filter(|s| s.after_ms >= 0).rev().take(RECENT).collect::<Vec<_>>();
        let traffic = settings.traffic.as_ref().map(|now| now()).unwrap_or_default();
        Eyes {
            latest: station.runs().latest().ok().flatten(),
            subject,
            settings,
            onlooker,
            logs,
            found: Found::default(),
            logged: 0,
            sampled: None,
            traffic,
            cpu: None,
            recent: recent.into_iter().rev().collect(),
            before: Share { bad, of },
            p50_before,
            alarms: BTreeMap::new(),
        }
    }

    /// Whether there has been a run since.
    fn is_outdated(&self, station: &Station) -> bool {
        station.runs().latest().ok().flatten() != self.latest
    }

    fn look(&mut self, station: &Station, ui: &Ui) {
        let config = &station.config().watch;
        let elapsed = self.subject.elapsed();
        let last = config.spots.last().copied().unwrap_or_default().max(config.closely_for);
        let all_done = config.spots.iter().all(|spot| self.subject.state.spots.contains(&ms(*spot)));
        if elapsed > last && all_done && self.noted("watch.hour") {
            return;
        }
        let closely = elapsed <= config.closely_for;
        let often = if closely { config.every } else { config.every * SELDOM };
        if self.sampled.is_none_or(|at| at.elapsed() >= often) {
            let sample = self.sample(elapsed);
            watch::keep(&self.settings.run_folder, std::slice::from_ref(&sample));
            self.recent.push_back(sample);
            if self.recent.len() > RECENT {
                self.recent.pop_front();
            }
            self.judge(station, ui);
        }
        if !closely && !self.noted("watch.hour") {
            for check in self.first_hour(config.closely_for) {
                self.learn(station, Event::Watched { check });
            }
            station.report_again(self.subject.run, &self.onlooker);
        }
        let due: Vec<Duration> = config
            .spots
            .iter()
            .copied()
            .filter(|spot| elapsed >= *spot && !self.subject.state.spots.contains(&ms(*spot)))
            .collect();
        if !due.is_empty() {
            self.spot_check(station, &due, elapsed, ui);
        }
    }

    fn noted(&self, id: &str) -> bool {
        let events = &self.subject.state.watched;
        events.iter().any(|check| check.id == id && check.evidence.contains_key("samples"))
    }

    fn learn(&mut self, station: &Station, event: Event) {
        station.learn(self.subject.run, event, &self.onlooker);
        if let Ok(entries) = station.runs().entries(self.subject.run) {
            self.subject.state = State::fold(&entries);
        }
    }

    fn sample(&mut self, elapsed: Duration) -> Sample {
        let now = self.settings.traffic.as_ref().map(|now| now()).unwrap_or_default();
        let span = self.sampled.map_or(Duration::ZERO, |at| at.elapsed());
        let used = self.used();
        let counted = self.settings.traffic.is_some() && self.sampled.is_some();
        let mut sample = watch::with_used(
            watch::sample(
                &now.since(&self.traffic),
                span,
                i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX),
            ),
            &used,
        );
        if !counted {
            (sample.requests, sample.errors, sample.p50_us, sample.p99_us) = (None, None, None, None);
        }
        let cpu = used.cpu_s.map(|cpu| (Instant::now(), cpu));
        if let (Some((then, was)), Some((_, is))) = (self.cpu, cpu)
            && is >= was
        {
            sample.cpu =
                Some(((is - was) / then.elapsed().as_secs_f64().max(0.001) * 1_000.0).round() / 1_000.0);
        }
        self.cpu = cpu;
        if self.logs.any() {
            self.found.add(self.logs.look());
            sample.log_errors = Some(self.found.lines().saturating_sub(self.logged));
            self.logged = self.found.lines();
        }
        sample.probe_ms = self.probe();
        self.traffic = now;
        self.sampled = Some(Instant::now());
        sample
    }

    fn used(&self) -> resources::Used {
        let pids = (self.settings.pids_of)(&self.subject.release);
        resources::used(&pids, self.settings.database.as_deref(), &self.settings.run_folder)
    }

    /// How long the health path takes; `None` when it is not well.
    fn probe(&self) -> Option<u64> {
        let address = (self.settings.address_of)(&self.subject.release)?;
        let begun = Instant::now();
        let release = &self.subject.release;
        let answer = service::ask(address, &self.settings.health, release, Duration::from_secs(5));
        matches!(answer, Answer::Well { .. }).then(|| ms(begun.elapsed()))
    }

    /// Says what has turned bad, once, and that it is well again.
    fn judge(&mut self, station: &Station, ui: &Ui) {
        let mut bad: BTreeMap<&'static str, (&'static str, String)> = BTreeMap::new();
        let points = |of: &dyn Fn(&Sample) -> Option<f64>| -> Vec<(f64, f64)> {
            self.recent.iter().filter_map(|s| Some((s.after_ms as f64 / 1_000.0, of(s)?))).collect()
        };
        let newest = |of: fn(&Sample) -> Option<u64>| self.recent.back().and_then(of);
        if let Some(free) = newest(|s| s.disk_free_bytes) {
            let least = (free as f64 * 0.02).clamp(1_048_576.0, 1_073_741_824.0);
            let used = points(&|s| s.disk_free_bytes.map(|free| -(free as f64)));
            if let Some(trend) = judge::running_out(&used, least, free as f64) {
                let why = format!(
                    "the disk will be full in {}: {} left, {} less every minute",
                    words(trend.lasts_s),
                    mib(free as f64),
                    mib(trend.per_second * 60.0)
                );
                bad.insert("disk", ("watch.hour", why));
            }
        }
        if let (Some(rss), Some(free)) = (newest(|s| s.rss_bytes), newest(|s| s.memory_free_bytes)) {
            let grown = points(&|s| s.rss_bytes.map(|n| n as f64));
            if let Some(trend) = judge::running_out(&grown, 48.0 * 1_048_576.0, free as f64) {
                let why = format!(
                    "memory grows steadily: the app has {}, {} more every minute; it lasts {} more",
                    mib(rss as f64),
                    mib(trend.per_second * 60.0),
                    words(trend.lasts_s)
                );
                bad.insert("memory", ("watch.hour", why));
            }
        }
        let database = self.settings.database.as_ref().and_then(|file| std::fs::metadata(file).ok());
        let size = database.map_or(0, |found| found.len());
        if let Some(wal) = newest(|s| s.wal_bytes).filter(|wal| *wal > LARGE_LOG && *wal > size) {
            let why = format!(
                "the database's log (WAL) has {}, more than the database: some reader keeps it from being folded in",
                mib(wal as f64)
            );
            bad.insert("log", ("watch.database", why));
        }
        let waits =
            self.recent.iter().rev().take(10).filter_map(|s| s.lock_ms).filter(|ms| *ms >= LONG_WAIT_MS);
        let waits = waits.count();
        if waits >= 3 {
            let why =
                format!("the write lock was waited for longer than a second in {waits} of the last 10 looks");
            bad.insert("lock", ("watch.database", why));
        }
        let lately: Vec<&Sample> = self.recent.iter().rev().take(DOWN_AFTER).collect();
        if lately.len() == DOWN_AFTER && lately.iter().all(|s| s.probe_ms.is_none()) {
            let why = format!("its health path has not answered well {DOWN_AFTER} times in a row");
            bad.insert("health", ("verify.errors", why));
        }
        let share = lately_share(self.recent.iter().rev().take(60));
        let judged = judge::errors(self.before, share);
        if judged.is_bad() {
            bad.insert("errors", ("verify.errors", judged.why));
        }
        self.alarm(station, bad, ui);
    }

    fn alarm(&mut self, station: &Station, bad: BTreeMap<&'static str, (&'static str, String)>, ui: &Ui) {
        let mut news = Vec::new();
        let over: Vec<&'static str> =
            self.alarms.keys().copied().filter(|name| !bad.contains_key(name)).collect();
        for name in over {
            self.alarms.remove(name);
            let id = item_of(name);
            news.push(Judgement::Good.check(id, &title(name), "").with("said", "well again"));
        }
        let mut told = Vec::new();
        for (name, (id, why)) in bad {
            let known = self.alarms.contains_key(name) || self.is_told(name);
            self.alarms.insert(name, why.clone());
            if !known {
                ui.warn(&format!("{}: {why}", self.subject.release));
                news.push(Judgement::Bad.check(id, &title(name), why.clone()));
                told.push(why);
            }
        }
        if news.is_empty() {
            return;
        }
        for check in news {
            self.learn(station, Event::Watched { check });
        }
        self.tell(station, told);
        station.report_again(self.subject.run, &self.onlooker);
    }

    /// Whether it was bad before a restart of `serve`, and has not been well since.
    fn is_told(&self, name: &str) -> bool {
        let title = title(name);
        let last = self.subject.state.watched.iter().rev().find(|check| check.name == title);
        last.is_some_and(|check| check.verdict == Verdict::Fail)
    }

    fn tell(&mut self, station: &Station, what: Vec<String>) {
        if what.is_empty() {
            return;
        }
        let mut state = self.subject.state.clone();
        state.warnings = what;
        station.tell(self.subject.run, Occasion::Alarm, &state, &self.onlooker);
    }

    /// What the close watch saw, as the boxes of the paper.
    fn first_hour(&self, span: Duration) -> Vec<Check> {
        let samples = watch::samples(&self.settings.run_folder);
        let hour: Vec<&Sample> =
            samples.iter().filter(|s| s.after_ms >= 0 && s.after_ms as u64 <= ms(span)).collect();
        let most = |of: &dyn Fn(&Sample) -> Option<f64>| -> Option<f64> {
            hour.iter().filter_map(|s| of(s)).reduce(f64::max)
        };
        let least = |of: &dyn Fn(&Sample) -> Option<f64>| -> Option<f64> {
            hour.iter().filter_map(|s| of(s)).reduce(f64::min)
        };
        let judged = |id: &str, name: &str| {
            let bad = self.subject.state.watched.iter().filter(|c| c.id == id && c.verdict == Verdict::Fail);
            let bad: Vec<&str> = bad.map(Check::why).collect();
            let judgement = match (bad.is_empty(), hour.len()) {
                (false, _) => Judgement::Bad,
                (true, 0..3) => Judgement::NotEnough,
                (true, _) => Judgement::Good,
            };
            let why = match judgement {
                Judgement::NotEnough => format!("only {} samples: was `plimsoll serve` away?", hour.len()),
                _ => bad.join("; "),
            };
            judgement.check(id, name, why).with("samples", hour.len()).with("over", show_duration(span))
        };
        let sum = |of: fn(&Sample) -> Option<u64>| hour.iter().filter_map(|s| of(s)).sum::<u64>();
        let mut checks = vec![
            judged("watch.hour", "The first hour")
                .with("cpu_most", json!(most(&|s| s.cpu)))
                .with("rss_most_bytes", json!(most(&|s| s.rss_bytes.map(|n| n as f64))))
                .with("memory_free_least_bytes", json!(least(&|s| s.memory_free_bytes.map(|n| n as f64))))
                .with("disk_free_least_bytes", json!(least(&|s| s.disk_free_bytes.map(|n| n as f64))))
                .with("requests", sum(|s| s.requests))
                .with("errors", sum(|s| s.errors))
                .with("log_errors", sum(|s| s.log_errors)),
            judged("watch.database", "The database in the first hour")
                .with("lock_most_ms", json!(most(&|s| s.lock_ms.map(|n| n as f64))))
                .with("wal_most_bytes", json!(most(&|s| s.wal_bytes.map(|n| n as f64))))
                .with("next_backup_bytes", json!(self.database_bytes())),
        ];
        checks.extend(self.customers(span));
        checks
    }

    fn database_bytes(&self) -> Option<u64> {
        Some(std::fs::metadata(self.settings.database.as_ref()?).ok()?.len())
    }

    /// What customers did in the last `span`, against the same hours of earlier days.
    fn customers(&self, span: Duration) -> Vec<Check> {
        let Some(Ok(open)) = self.settings.database.as_deref().map(counts::open) else { return Vec::new() };
        let now = Timestamp::now();
        let span = SignedDuration::try_from(span).unwrap_or_default();
        let earlier = |days: i64, by: SignedDuration| now - SignedDuration::from_hours(24 * days) - by;
        let mut checks = Vec::new();
        for (name, sql) in &self.settings.counts {
            let mut figures = Vec::new();
            for day in 0..=DAYS {
                figures.push(counts::between(
                    &open,
                    sql,
                    earlier(day, span),
                    earlier(day, SignedDuration::ZERO),
                ));
            }
            let check = match figures.iter().cloned().collect::<Result<Vec<u64>, String>>() {
                Err(why) => Check::unknown("watch.customers", name, why),
                Ok(figures) => {
                    // Days before there was a shop say nothing.
                    let known: Vec<u64> = figures[1..].iter().copied().filter(|n| *n > 0).collect();
                    let judged = judge::same_hours(name, figures[0], &known);
                    let check = judged.judgement.check("watch.customers", name, "");
                    let key = if judged.judgement == Judgement::Good { "said" } else { "why" };
                    check
                        .with(key, judged.why)
                        .with("now", figures[0])
                        .with("same_hours_before", json!(known))
                }
            };
            checks.push(check);
        }
        checks
    }

    /// All checks again. A machine that was off for more than one spot makes them once, for all that are due.
    fn spot_check(&mut self, station: &Station, due: &[Duration], elapsed: Duration, ui: &Ui) {
        let latest = due.last().copied().unwrap_or_default();
        let checks = self.checks(latest);
        let names = |verdict: Verdict| -> Vec<String> {
            let of = checks.iter().filter(|check| check.verdict == verdict);
            of.map(|check| format!("{}: {}", check.name, check.why())).collect()
        };
        let (failed, unknown) = (names(Verdict::Fail), names(Verdict::Unknown));
        let passed = checks.iter().filter(|check| check.verdict == Verdict::Pass).count();
        for spot in due {
            let late = elapsed.saturating_sub(*spot);
            let name = format!("Spot check after {}", show_duration(*spot));
            let judgement = match (failed.is_empty(), passed) {
                (false, _) => Judgement::Bad,
                (true, 0) => Judgement::NotEnough,
                (true, _) => Judgement::Good,
            };
            let why = if failed.is_empty() && passed == 0 { unknown.join("; ") } else { failed.join("; ") };
            let check = judgement
                .check("watch.spots", &name, why)
                .with("passed", passed)
                .with("failed", json!(failed))
                .with("not_known", json!(unknown))
                .with("late_ms", ms(late));
            self.learn(
                station,
                Event::SpotChecked { spot_ms: ms(*spot), late_ms: ms(late), check, checks: checks.clone() },
            );
        }
        if !failed.is_empty() {
            for what in &failed {
                ui.warn(&format!("spot check after {}: {what}", show_duration(latest)));
            }
            self.tell(station, failed);
        }
        station.report_again(self.subject.run, &self.onlooker);
    }

    fn checks(&mut self, span: Duration) -> Vec<Check> {
        let mut checks = Vec::new();
        let address = self.settings.door.or_else(|| (self.settings.address_of)(&self.subject.release));
        if let Some(address) = address {
            let public_url = self.settings.public_url.clone();
            let target = smoke::Target { address, public_url, token: None, production: true };
            let tests: Vec<_> = self.settings.tests.iter().filter(|test| !test.writes).cloned().collect();
            let outcomes = smoke::run(&tests, &target, Some(SMOKE_PATIENCE), &|| false);
            checks.extend(outcomes.into_iter().map(|outcome| outcome.check));
        }
        if let Some(file) = &self.settings.database {
            let name = "The database is sound";
            checks.push(match verify::database(file, &mut Control::quiet(Stop::new())) {
                Ok(report) if report.sound() => Check::pass("verify.script", name),
                Ok(report) => Check::fail("verify.script", name, report.failures().join("; ")),
                Err(error) => Check::unknown("verify.script", name, error.to_string()),
            });
        }
        let samples = watch::samples(&self.settings.run_folder);
        let lately = || samples.iter().filter(|s| s.after_ms >= 0).rev().take(RECENT);
        if self.settings.traffic.is_some() {
            let share = lately_share(lately());
            let judged = judge::errors(self.before, share);
            let check = judged.judgement.check("verify.errors", "Errors of late", judged.why);
            checks.push(check.with("requests", share.of).with("errors", share.bad));
            let mut p50: Vec<u64> = lately().filter_map(|s| s.p50_us).collect();
            p50.sort_unstable();
            let name = "Users' answers of late";
            checks.push(match (p50.get(p50.len() / 2), self.p50_before) {
                (Some(now), Some(was)) if share.of >= judge::ENOUGH_REQUESTS => {
                    let said = format!("p50 {} ms, before the switch {} ms", *now / 1_000, was / 1_000);
                    let slower = *now > was * 3 + 20_000;
                    let judgement = if slower { Judgement::Bad } else { Judgement::Good };
                    judgement
                        .check("verify.speed", name, if slower { said.as_str() } else { "" })
                        .with("said", said.clone())
                }
                (_, None) => {
                    let why = "nothing was answered before the switch, so there is nothing to compare with";
                    Judgement::NotEnough.check("verify.speed", name, why)
                }
                _ => {
                    let why = format!("not enough traffic: {} requests", share.of);
                    Judgement::NotEnough.check("verify.speed", name, why)
                }
            });
        }
        if self.logs.any() {
            self.found.add(self.logs.look());
            let new: Vec<&String> =
                self.found.errors.keys().filter(|shape| !self.logs.old.contains(*shape)).collect();
            let check = if new.is_empty() {
                Check::pass("verify.logs", "New errors in the logs")
            } else {
                let shown: Vec<&str> = new.iter().take(3).map(|shape| shape.as_str()).collect();
                Check::unknown("verify.logs", "New errors in the logs", shown.join("; "))
            };
            checks.push(check.with("lines", self.found.lines()));
        }
        let used = self.used();
        let lock = Check::new(
            "watch.database",
            "The database responds",
            match used.lock_ms {
                Some(ms) if ms < LONG_WAIT_MS => Verdict::Pass,
                Some(_) => Verdict::Fail,
                None => Verdict::Unknown,
            },
        );
        let why = match used.lock_ms {
            Some(ms) if ms >= LONG_WAIT_MS => format!("the write lock was waited for {ms} ms"),
            Some(_) => String::new(),
            None => "its write lock could not be asked for".to_owned(),
        };
        let lock = if why.is_empty() { lock } else { lock.with("why", why) };
        checks.push(
            lock.with("lock_ms", json!(used.lock_ms))
                .with("wal_bytes", json!(used.wal_bytes))
                .with("disk_free_bytes", json!(used.disk_free_bytes)),
        );
        checks.extend(self.customers(span));
        checks.extend(self.settings.queries.iter().map(Query::ask));
        checks
    }
}

fn lately_share<'a>(samples: impl Iterator<Item = &'a Sample>) -> Share {
    let mut share = Share::default();
    for sample in samples {
        share.bad += sample.errors.unwrap_or(0);
        share.of += sample.requests.unwrap_or(0);
    }
    share
}

fn title(name: &str) -> String {
    match name {
        "disk" => "Room on the disk",
        "memory" => "Memory of the app",
        "log" => "Size of the database's log",
        "lock" => "Waiting for the write lock",
        "health" => "The app's health",
        _ => "Errors of late",
    }
    .to_owned()
}

fn item_of(name: &str) -> &'static str {
    match name {
        "disk" | "memory" => "watch.hour",
        "log" | "lock" => "watch.database",
        _ => "verify.errors",
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
