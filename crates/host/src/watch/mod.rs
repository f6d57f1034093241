//! The watch over a release that users are let in to: before against after, until enough is known.
//!
//! [`Watch`] is begun before a run changes anything, told of the switch, and then looks again and again. What it finds bad
//! it must find bad again a little later, and it must go on: a burst that is over is told, and nobody goes back for it.

pub mod counts;
pub mod logs;
pub mod query;
pub mod resources;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use plimsoll_core::check::{Check, Verdict};
use plimsoll_core::plan::{ReleaseId, Smoke};
use plimsoll_core::watch::judge::{self, Count, ENOUGH_REQUESTS, Judged, Share, Spread};
use plimsoll_core::watch::{Judgement, SAMPLES, Sample};
use serde_json::json;

use crate::durable;
use crate::probe::prove::{AddressOf, PidsOf, StopAsked};
use crate::probe::smoke;
use crate::service::{self, Answer, Health};
use logs::{Found, Logs};
use query::Query;

/// How often cheap things are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long something must be bad, and go on, before it is believed: a twentieth of the watch, within these.
const CONFIRM: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// So many failed health questions in a row mean that the release is down.
const DOWN_AFTER: u32 = 6;
/// So many rounds of smoke tests in a row must fail.
const SMOKE_AFTER: u32 = 2;
/// Memory that grows by less than this says nothing.
const LEAST_GROWTH: f64 = 48.0 * 1024.0 * 1024.0;
/// How long a round of smoke tests may take.
const SMOKE_PATIENCE: Duration = Duration::from_secs(20);
/// A table with fewer rows than this may become empty without anybody asking why.
const MANY_ROWS: i64 = 20;

/// What the front door has counted since it was opened.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Requests answered by the app, or by the door in its place.
    pub requests: u64,
    /// Of those, with 5xx; the door's own 503 are not the app's.
    pub errors: u64,
    /// How long the app took.
    pub latency: Spread,
}

impl Traffic {
    fn share(&self) -> Share {
        Share { bad: self.errors, of: self.requests }
    }

    /// What came after `mark`.
    #[must_use]
    pub fn since(&self, mark: &Traffic) -> Traffic {
        Traffic {
            requests: self.requests.saturating_sub(mark.requests),
            errors: self.errors.saturating_sub(mark.errors),
            latency: self.latency.since(&mark.latency),
        }
    }
}

/// What the front door has counted so far.
pub type Counters = Arc<dyn Fn() -> Traffic + Send + Sync>;
/// Earlier states of the counters within a span: how long ago, oldest first.
pub type Past = Arc<dyn Fn(Duration) -> Vec<(Duration, Traffic)> + Send + Sync>;

/// What a watch depends on.
#[derive(Clone)]
pub struct Settings {
    /// What the front door counts; `None` without one.
    pub traffic: Option<Counters>,
    /// What it counted earlier.
    pub past: Option<Past>,
    /// `[[log]]`.
    pub logs: Vec<logs::Settings>,
    /// What is never shown.
    pub secrets: Vec<String>,
    /// The live database, if it is a file.
    pub database: Option<PathBuf>,
    /// `[database].tables`.
    pub tables: Vec<String>,
    /// `[watch].counts`.
    pub counts: BTreeMap<String, String>,
    /// `[[query]]`.
    pub queries: Vec<Query>,
    /// `[[smoke]]`, repeated through the front door.
    pub tests: Vec<Smoke>,
    /// Where users come in.
    pub door: Option<SocketAddr>,
    /// `[front].public_url`.
    pub public_url: Option<String>,
    /// Where the releases listen.
    pub address_of: AddressOf,
    /// Their processes.
    pub pids_of: PidsOf,
    /// How the app tells that it is well.
    pub health: Health,
    /// How long to watch.
    pub errors_for: Duration,
    /// How often what costs more is looked at: counts, smoke tests, queries, resources.
    pub every: Duration,
    /// The run's folder, for the samples.
    pub run_folder: PathBuf,
    /// Whether somebody asked the run to stop.
    pub stop: StopAsked,
}

/// The state of before, taken at the switch.
struct Before {
    traffic: Traffic,
    logs: Found,
    log_requests: u64,
    log_ms: u64,
    /// Name to how many in the span before.
    counts: BTreeMap<String, u64>,
    count_requests: u64,
    count_ms: u64,
    rows: BTreeMap<String, i64>,
    /// The counters at the switch.
    mark: Traffic,
    at: Instant,
    wall: Timestamp,
}

/// The watch of one run.
pub struct Watch {
    settings: Settings,
    begun: Instant,
    /// The counters when the run began.
    first: Traffic,
    logs: Logs,
    logs_before: Found,
    before: Option<Before>,
}

impl Watch {
    /// Begins, before anything is changed.
    #[must_use]
    pub fn begin(settings: Settings) -> Watch {
        let first = settings.traffic.as_ref().map(|now| now()).unwrap_or_default();
        let logs = Logs::follow(&settings.logs, settings.secrets.clone());
        Watch { settings, begun: Instant::now(), first, logs, logs_before: Found::default(), before: None }
    }

    fn now(&self) -> Traffic {
        self.settings.traffic.as_ref().map(|now| now()).unwrap_or_default()
    }

    /// Everything up to here was the release before. Called when the new one is proved; a second call changes nothing.
    pub fn switched(&mut self) {
        if self.before.is_some() {
            return;
        }
        let (at, wall, mark) = (Instant::now(), Timestamp::now(), self.now());
        let span = self.settings.errors_for;
        let past = self.settings.past.as_ref().map(|past| past(span)).unwrap_or_default();
        // The same span before; as much of it as there is.
        let (ago, from) = match past.first() {
            Some((ago, traffic)) if *ago >= self.begun.elapsed() => (*ago, traffic.clone()),
            _ => (self.begun.elapsed(), self.first.clone()),
        };
        self.keep_past(&past, &mark);
        // Users may be waiting at the shut door: nothing that takes long.
        let found = self.logs.look_at(|source| matches!(source, logs::Source::File(_)));
        self.logs_before.add(found);
        let log_requests = mark.requests.saturating_sub(self.first.requests);
        let log_ms = millis(self.begun.elapsed());
        let traffic = mark.since(&from);
        self.before = Some(Before {
            count_requests: traffic.requests,
            count_ms: millis(ago),
            traffic,
            logs: self.logs_before.clone(),
            log_requests,
            log_ms,
            counts: BTreeMap::new(),
            rows: BTreeMap::new(),
            mark,
            at,
            wall,
        });
    }

    /// What of before can be looked at later, too.
    fn look_back(&mut self, before: &mut Before) {
        before.logs.add(self.logs.look_at(|source| matches!(source, logs::Source::Unit(_))));
        if let Some(Ok(open)) = self.settings.database.as_deref().map(counts::open) {
            let span = SignedDuration::from_millis(i64::try_from(before.count_ms).unwrap_or(i64::MAX));
            let begin = before.wall.saturating_sub(span).unwrap_or(before.wall);
            for (name, sql) in &self.settings.counts {
                if let Ok(n) = counts::between(&open, sql, begin, before.wall) {
                    before.counts.insert(name.clone(), n);
                }
            }
        }
        before.rows = self.rows();
    }

    /// Rows of the configured tables.
    fn rows(&self) -> BTreeMap<String, i64> {
        let mut rows = BTreeMap::new();
        let Some(Ok(open)) = self.settings.database.as_deref().map(counts::open) else { return rows };
        for table in &self.settings.tables {
            let sql = format!("SELECT count(*) FROM \"{}\"", table.replace('"', "\"\""));
            if let Ok(n) = open.query_row(&sql, [], |row| row.get(0)) {
                rows.insert(table.clone(), n);
            }
        }
        rows
    }

    /// Watches the release for the configured time, or until something is bad and stays so.
    pub fn run(&mut self, release: &ReleaseId) -> Vec<Check> {
        self.switched();
        let Some(mut before) = self.before.take() else { return Vec::new() };
        self.look_back(&mut before);
        let mut round = Round::new();
        let confirm = (self.settings.errors_for / 20).clamp(CONFIRM.0, CONFIRM.1);
        let mut next_slow = Instant::now();
        let mut sampled = (Instant::now(), before.mark.clone(), 0);
        loop {
            let over = before.at.elapsed() >= self.settings.errors_for;
            self.look(release, &before, &mut round);
            if over || Instant::now() >= next_slow {
                next_slow = Instant::now() + self.settings.every;
                self.look_closely(release, &before, &mut round, &mut sampled);
            }
            round.believe(confirm);
            let stopped = (self.settings.stop)();
            if over || stopped || round.any_believed() {
                let ended = if stopped && !over { Some("the watch was ended early, as asked") } else { None };
                return self.checks(&before, &round, ended);
            }
            let left = self.settings.errors_for.saturating_sub(before.at.elapsed());
            std::thread::sleep(LOOK.min(left).max(Duration::from_millis(10)));
        }
    }

    /// What costs little: counters, logs, the health path.
    fn look(&mut self, release: &ReleaseId, before: &Before, round: &mut Round) {
        round.traffic = self.now().since(&before.mark);
        round.logs.add(self.logs.look());
        let well = (self.settings.address_of)(release).is_some_and(|address| {
            let answer = service::ask(address, &self.settings.health, release, Duration::from_secs(2));
            matches!(answer, Answer::Well { .. })
        });
        round.down = if well { 0 } else { round.down + 1 };
        if self.settings.traffic.is_some() {
            let share = round.traffic.share();
            round.judge("errors", judge::errors(before.traffic.share(), share), share.bad);
            let judged = judge::latency(&before.traffic.latency, &round.traffic.latency);
            round.judge("latency", judged, round.traffic.latency.count());
        }
        if self.logs.any() {
            let (judged, lines) = self.judge_logs(before, round);
            round.judge("logs", judged, lines);
            let slow = self.judge_slow(before, round);
            round.judge("slow queries", slow, round.logs.slow);
        }
    }

    /// Over what lines are counted: requests where there is a door, else time.
    fn over(&self, before: &Before, round: &Round) -> (u64, u64) {
        if self.settings.traffic.is_some() {
            (before.log_requests, round.traffic.requests)
        } else {
            (before.log_ms, millis(before.at.elapsed()))
        }
    }

    fn judge_logs(&self, before: &Before, round: &Round) -> (Judged, u64) {
        let (over_before, over_after) = self.over(before, round);
        let (mut worse, mut lines) = (Vec::new(), 0);
        for (shape, n) in &round.logs.errors {
            let was = before.logs.errors.get(shape).copied().unwrap_or(0);
            // What the log had long ago may come again, if not all the time.
            let old = was == 0 && self.logs.old.contains(shape);
            let was = if old { *n / 4 } else { was };
            if judge::more(Count { n: was, over: over_before }, Count { n: *n, over: over_after }) {
                worse.push(format!("{n} times \"{shape}\", before it {was} times"));
                lines += n;
            }
        }
        let quiet = round.traffic.requests < ENOUGH_REQUESTS && self.settings.traffic.is_some();
        let new: Vec<&String> = round.new_shapes(before, &self.logs).collect();
        let trouble = self.logs.trouble();
        let (judgement, why) = if !worse.is_empty() && !quiet {
            (Judgement::Bad, format!("new errors in the log: {}", worse.join("; ")))
        } else if quiet {
            (Judgement::NotEnough, format!("not enough traffic: {} requests", round.traffic.requests))
        } else if !trouble.is_empty() {
            (Judgement::NotEnough, trouble.join("; "))
        } else if !new.is_empty() {
            let shown: Vec<&str> = new.iter().take(3).map(|shape| shape.as_str()).collect();
            (Judgement::NotEnough, format!("too few new lines to judge: {}", shown.join("; ")))
        } else {
            (Judgement::Good, String::new())
        };
        (Judged { judgement, why }, lines)
    }

    fn judge_slow(&self, before: &Before, round: &Round) -> Judged {
        let (over_before, over_after) = self.over(before, round);
        let (was, is) = (
            Count { n: before.logs.slow, over: over_before },
            Count { n: round.logs.slow, over: over_after },
        );
        let why = format!("{} slow queries in the log, before it were {}", is.n, was.n);
        let quiet = round.traffic.requests < ENOUGH_REQUESTS && self.settings.traffic.is_some();
        let judgement = match (quiet, judge::more(was, is)) {
            (true, _) => Judgement::NotEnough,
            (_, true) => Judgement::Bad,
            (_, false) => Judgement::Good,
        };
        Judged { judgement, why }
    }

    /// What costs more: the database, pages, other programs.
    fn look_closely(
        &mut self,
        release: &ReleaseId,
        before: &Before,
        round: &mut Round,
        sampled: &mut (Instant, Traffic, u64),
    ) {
        let used = self.used(release);
        self.judge_memory(before, round, &used);
        self.judge_counts(before, round);
        self.repeat_smoke(round);
        round.queries = self.settings.queries.iter().map(Query::ask).collect();
        for query in &round.queries.clone() {
            if query.verdict == Verdict::Fail {
                let judged =
                    Judged { judgement: Judgement::Bad, why: format!("{}: {}", query.name, query.why()) };
                round.looks += 1;
                round.judge("query", judged, round.looks);
            }
        }
        let rows = self.rows();
        round.rows = rows;
        let now = self.now();
        let cpu = sample_cpu(round, &used);
        let sample = sample(&now.since(&sampled.1), sampled.0.elapsed(), millis(before.at.elapsed()) as i64);
        let sample = Sample {
            log_errors: self.logs.any().then(|| round.logs.lines().saturating_sub(sampled.2)),
            cpu,
            probe_ms: None,
            ..with_used(sample, &used)
        };
        keep(&self.settings.run_folder, &[sample]);
        *sampled = (Instant::now(), now, round.logs.lines());
    }

    fn used(&self, release: &ReleaseId) -> resources::Used {
        let pids = (self.settings.pids_of)(release);
        resources::used(&pids, self.settings.database.as_deref(), &self.settings.run_folder)
    }

    fn judge_memory(&self, before: &Before, round: &mut Round, used: &resources::Used) {
        let Some(rss) = used.rss_bytes else { return };
        round.memory.push((before.at.elapsed().as_secs_f64(), rss as f64));
        let left = used.memory_free_bytes.unwrap_or(u64::MAX) as f64;
        // What an app takes at its start is no leak.
        let after_start = &round.memory[round.memory.len() / 5..];
        let trend = judge::running_out(after_start, LEAST_GROWTH, left);
        let why = match (trend, after_start.first(), after_start.last()) {
            (Some(trend), Some(first), Some(last)) => format!(
                "memory grew steadily from {} to {}, {} a minute: it lasts {} more",
                mib(first.1),
                mib(last.1),
                mib(trend.per_second * 60.0),
                words(trend.lasts_s)
            ),
            _ => format!("memory {}", mib(rss as f64)),
        };
        let quiet = round.traffic.requests < ENOUGH_REQUESTS && self.settings.traffic.is_some();
        let judgement = match (&trend, quiet) {
            (Some(_), false) => Judgement::Bad,
            (_, true) => Judgement::NotEnough,
            (None, false) => Judgement::Good,
        };
        let why = if quiet {
            format!("not enough traffic: {} requests; {why}", round.traffic.requests)
        } else {
            why
        };
        round.judge("memory", Judged { judgement, why }, rss);
    }

    fn judge_counts(&self, before: &Before, round: &mut Round) {
        round.counts.clear();
        let Some(Ok(open)) = self.settings.database.as_deref().map(counts::open) else { return };
        for (name, sql) in &self.settings.counts {
            let judged = match counts::since(&open, sql, before.wall) {
                Err(why) => Judged {
                    judgement: Judgement::NotEnough,
                    why: format!("{name} cannot be counted: {why}"),
                },
                Ok(n) => {
                    let was = before.counts.get(name).copied().unwrap_or(0);
                    let (over_before, over_after) = if self.settings.traffic.is_some() {
                        (before.count_requests, round.traffic.requests)
                    } else {
                        (before.count_ms, millis(before.at.elapsed()))
                    };
                    judge::fewer(name, Count { n: was, over: over_before }, Count { n, over: over_after })
                }
            };
            round.looks += 1;
            round.judge(&format!("count {name}"), judged.clone(), round.looks);
            round.counts.push((name.clone(), judged));
        }
    }

    fn repeat_smoke(&self, round: &mut Round) {
        let Some(address) = self.settings.door else { return };
        let target = smoke::Target {
            address,
            public_url: self.settings.public_url.clone(),
            token: None,
            production: true,
        };
        // Users' own rows are in the way of a test that writes; it has been made behind the shut door.
        let tests: Vec<Smoke> = self.settings.tests.iter().filter(|test| !test.writes).cloned().collect();
        if tests.is_empty() {
            return;
        }
        let outcomes = smoke::run(&tests, &target, Some(SMOKE_PATIENCE), &*self.settings.stop);
        let failed: Vec<String> = outcomes
            .iter()
            .filter(|o| o.check.verdict == Verdict::Fail)
            .map(|o| format!("{}: {}", o.check.name, o.check.why()))
            .collect();
        round.smoke_rounds += 1;
        round.smoke_failed = if failed.is_empty() { 0 } else { round.smoke_failed + 1 };
        round.smoke_why = failed.join("; ");
    }

    /// Everything that was seen, as checks.
    fn checks(&self, before: &Before, round: &Round, ended: Option<&str>) -> Vec<Check> {
        let watched_ms = millis(before.at.elapsed());
        let mut checks = Vec::new();
        let name = "Errors after the switch";
        let (share, was) = (round.traffic.share(), before.traffic.share());
        let errors = if round.down >= DOWN_AFTER {
            let why = format!("its health path has not answered well {} times in a row", round.down);
            Judgement::Bad.check("verify.errors", name, why)
        } else if self.settings.traffic.is_none() {
            let why = "without a front door requests cannot be counted";
            Judgement::NotEnough.check("verify.errors", name, why)
        } else {
            round.check("errors", "verify.errors", name)
        };
        checks.push(
            errors
                .with("requests", share.of)
                .with("errors", share.bad)
                .with("rate", four(share.rate()))
                .with("requests_before", was.of)
                .with("errors_before", was.bad)
                .with("rate_before", four(was.rate()))
                .with("watched_ms", watched_ms),
        );
        if self.settings.traffic.is_some() {
            let quantile = |spread: &Spread, share| spread.quantile(share).map(|us| us as f64 / 1_000.0);
            let (is, was) = (&round.traffic.latency, &before.traffic.latency);
            checks.push(
                round
                    .check("latency", "verify.speed", "Users' answers after the switch")
                    .with("p50_ms", json!(quantile(is, 0.5)))
                    .with("p99_ms", json!(quantile(is, 0.99)))
                    .with("p50_before_ms", json!(quantile(was, 0.5)))
                    .with("p99_before_ms", json!(quantile(was, 0.99))),
            );
        }
        if self.logs.any() {
            let new: Vec<&String> = round.new_shapes(before, &self.logs).take(10).collect();
            checks.push(
                round
                    .check("logs", "verify.logs", "New errors in the logs")
                    .with("lines", round.logs.lines())
                    .with("lines_before", before.logs.lines())
                    .with("new_shapes", json!(new)),
            );
            if self.settings.logs.iter().any(|log| log.slow.is_some()) {
                let check = round.check("slow queries", "verify.speed", "Slow queries in the logs");
                checks.push(check.with("slow", round.logs.slow).with("slow_before", before.logs.slow));
            }
        }
        checks.extend(self.smoke_check(round));
        if !round.rows.is_empty() {
            checks.push(rows_check(&before.rows, &round.rows));
        }
        for (name, judged) in &round.counts {
            let subject = format!("count {name}");
            checks.push(round.check(&subject, "watch.customers", name).with("said", judged.why.clone()));
        }
        if let Some((_, rss)) = round.memory.last() {
            let first = round.memory.first().map_or(0.0, |(_, rss)| *rss);
            checks.push(
                round
                    .check("memory", "watch.hour", "Memory of the app")
                    .with("rss_bytes", *rss as u64)
                    .with("rss_first_bytes", first as u64),
            );
        }
        let settled = |mut check: Check| {
            // One bad figure of another program is no reason to go back; the same again is.
            if check.verdict == Verdict::Fail && !round.believed("query") {
                check.verdict = Verdict::Unknown;
            }
            check
        };
        checks.extend(round.queries.iter().cloned().map(settled));
        if let Some(why) = ended {
            for check in checks.iter_mut().filter(|check| check.verdict != Verdict::Fail) {
                check.verdict = Verdict::Unknown;
                check.evidence.insert("why".into(), json!(format!("{why}; the release stays live")));
            }
        }
        checks
    }

    fn smoke_check(&self, round: &Round) -> Option<Check> {
        let name = "Smoke tests through the front door";
        (round.smoke_rounds > 0).then(|| {
            let check = if round.smoke_failed >= SMOKE_AFTER {
                Judgement::Bad.check("verify.smoke", name, round.smoke_why.clone())
            } else if round.smoke_failed > 0 {
                let why = format!("the last round failed, the one before did not: {}", round.smoke_why);
                Judgement::NotEnough.check("verify.smoke", name, why)
            } else {
                Judgement::Good.check("verify.smoke", name, "")
            };
            check.with("rounds", round.smoke_rounds)
        })
    }

    /// Writes what the door counted before the switch, so that a picture can show both.
    fn keep_past(&self, past: &[(Duration, Traffic)], mark: &Traffic) {
        let mut samples = Vec::new();
        let mut points: Vec<(Duration, &Traffic)> =
            past.iter().map(|(ago, traffic)| (*ago, traffic)).collect();
        points.push((Duration::ZERO, mark));
        let step = points.len().div_ceil(120).max(1);
        let mut last: Option<(Duration, &Traffic)> = None;
        for (at, point) in points.iter().enumerate() {
            if at % step != 0 && at + 1 != points.len() {
                continue;
            }
            if let Some((ago, traffic)) = last {
                let mut sample = sample(
                    &point.1.since(traffic),
                    ago.saturating_sub(point.0),
                    -(millis(point.0).max(1) as i64),
                );
                let back = SignedDuration::try_from(point.0).unwrap_or_default();
                sample.at = format!("{:.3}", Timestamp::now().saturating_sub(back).unwrap_or_default());
                samples.push(sample);
            }
            last = Some(*point);
        }
        keep(&self.settings.run_folder, &samples);
    }
}

/// A sample of what was counted in a span.
#[must_use]
pub fn sample(traffic: &Traffic, span: Duration, after_ms: i64) -> Sample {
    Sample {
        at: format!("{:.3}", Timestamp::now()),
        after_ms,
        span_ms: millis(span),
        requests: Some(traffic.requests),
        errors: Some(traffic.errors),
        p50_us: traffic.latency.quantile(0.5),
        p99_us: traffic.latency.quantile(0.99),
        ..Sample::default()
    }
}

/// The sample with what is used.
#[must_use]
pub fn with_used(sample: Sample, used: &resources::Used) -> Sample {
    Sample {
        rss_bytes: used.rss_bytes,
        memory_free_bytes: used.memory_free_bytes,
        disk_free_bytes: used.disk_free_bytes,
        wal_bytes: used.wal_bytes,
        lock_ms: used.lock_ms,
        ..sample
    }
}

/// Adds samples to the run's file. What cannot be written is left out: samples prove nothing.
pub fn keep(run_folder: &Path, samples: &[Sample]) {
    let mut text = Vec::new();
    for sample in samples {
        if serde_json::to_writer(&mut text, sample).is_ok() {
            text.push(b'\n');
        }
    }
    let path = run_folder.join(SAMPLES);
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).mode(durable::PRIVATE).open(path) {
        let _ = file.write_all(&text);
    }
}

/// The samples of a run, torn lines left out.
#[must_use]
pub fn samples(run_folder: &Path) -> Vec<Sample> {
    let text = std::fs::read_to_string(run_folder.join(SAMPLES)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn sample_cpu(round: &mut Round, used: &resources::Used) -> Option<f64> {
    let now = (Instant::now(), used.cpu_s?);
    let (then, cpu) = round.cpu.replace(now)?;
    let span = then.elapsed().as_secs_f64();
    (span > 0.0 && now.1 >= cpu).then(|| four((now.1 - cpu) / span))
}

/// One subject that was found bad, not believed yet.
struct Suspicion {
    since: Instant,
    /// How many bad things had been counted then.
    seen: u64,
}

/// What the looks of one watch have seen.
struct Round {
    traffic: Traffic,
    logs: Found,
    down: u32,
    judged: BTreeMap<String, (Judged, u64)>,
    suspicions: BTreeMap<String, Suspicion>,
    /// What is bad, stayed bad, and went on.
    bad: BTreeMap<String, Judged>,
    memory: Vec<(f64, f64)>,
    cpu: Option<(Instant, f64)>,
    counts: Vec<(String, Judged)>,
    queries: Vec<Check>,
    rows: BTreeMap<String, i64>,
    smoke_rounds: u32,
    smoke_failed: u32,
    smoke_why: String,
    looks: u64,
}

impl Round {
    fn new() -> Round {
        Round {
            traffic: Traffic::default(),
            logs: Found::default(),
            down: 0,
            judged: BTreeMap::new(),
            suspicions: BTreeMap::new(),
            bad: BTreeMap::new(),
            memory: Vec::new(),
            cpu: None,
            counts: Vec::new(),
            queries: Vec::new(),
            rows: BTreeMap::new(),
            smoke_rounds: 0,
            smoke_failed: 0,
            smoke_why: String::new(),
            looks: 0,
        }
    }

    /// `seen` grows as long as it goes on.
    fn judge(&mut self, subject: &str, judged: Judged, seen: u64) {
        self.judged.insert(subject.to_owned(), (judged, seen));
    }

    /// Believes what has been bad for `confirm` and has gone on meanwhile.
    fn believe(&mut self, confirm: Duration) {
        for (subject, (judged, seen)) in &self.judged {
            if !judged.is_bad() {
                self.suspicions.remove(subject);
                continue;
            }
            let suspicion = self
                .suspicions
                .entry(subject.clone())
                .or_insert_with(|| Suspicion { since: Instant::now(), seen: *seen });
            if suspicion.since.elapsed() < confirm {
                continue;
            }
            if *seen > suspicion.seen {
                self.bad.insert(subject.clone(), judged.clone());
            } else {
                // A burst that is over: it must begin again to be believed.
                *suspicion = Suspicion { since: Instant::now(), seen: *seen };
            }
        }
    }

    fn believed(&self, subject: &str) -> bool {
        self.bad.contains_key(subject)
    }

    fn any_believed(&self) -> bool {
        !self.bad.is_empty() || self.down >= DOWN_AFTER || self.smoke_failed >= SMOKE_AFTER
    }

    /// The subject as a check. What looked bad and was not believed is said, and is no failure.
    fn check(&self, subject: &str, id: &str, name: &str) -> Check {
        if let Some(judged) = self.bad.get(subject) {
            return Judgement::Bad.check(id, name, judged.why.clone());
        }
        match self.judged.get(subject) {
            None => Judgement::NotEnough.check(id, name, "it could not be looked at"),
            // Whatever the release is taken back for, this is bad too.
            Some((judged, _)) if judged.is_bad() && self.any_believed() => {
                Judgement::Bad.check(id, name, judged.why.clone())
            }
            Some((judged, _)) if judged.is_bad() => {
                let why = format!("for a moment only, or not long enough to be sure: {}", judged.why);
                Judgement::NotEnough.check(id, name, why)
            }
            Some((judged, _)) if judged.judgement == Judgement::Good => {
                let check = Judgement::Good.check(id, name, "");
                if judged.why.is_empty() { check } else { check.with("said", judged.why.clone()) }
            }
            Some((judged, _)) => judged.judgement.check(id, name, judged.why.clone()),
        }
    }

    fn new_shapes<'a>(&'a self, before: &'a Before, logs: &'a Logs) -> impl Iterator<Item = &'a String> {
        self.logs
            .errors
            .keys()
            .filter(|shape| !before.logs.errors.contains_key(*shape) && !logs.old.contains(*shape))
    }
}

/// Rows of the configured tables at the switch and now: users add some, and may take some away; a table that is suddenly
/// empty is nobody's wish.
fn rows_check(then: &BTreeMap<String, i64>, now: &BTreeMap<String, i64>) -> Check {
    let name = "Rows since the switch";
    let mut fewer = Vec::new();
    let mut emptied = Vec::new();
    for (table, n) in now {
        let was = then.get(table).copied().unwrap_or(0);
        if *n == 0 && was >= MANY_ROWS {
            emptied.push(format!("{table} had {was} rows and has none"));
        } else if *n < was {
            fewer.push(format!("{table} has {} rows fewer than at the switch", was - n));
        }
    }
    let check = if !emptied.is_empty() {
        Check::fail("verify.counts", name, emptied.join("; "))
    } else if !fewer.is_empty() {
        Check::unknown(
            "verify.counts",
            name,
            format!("{}: by users, or by the new release", fewer.join("; ")),
        )
    } else {
        Check::pass("verify.counts", name).with("explained", "what users added")
    };
    let counts: BTreeMap<&String, [i64; 2]> =
        now.iter().map(|(table, n)| (table, [then.get(table).copied().unwrap_or(0), *n])).collect();
    check.with("before_and_after", json!(counts))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn four(share: f64) -> f64 {
    (share * 10_000.0).round() / 10_000.0
}

/// Bytes for a person.
#[must_use]
pub fn mib(bytes: f64) -> String {
    let mib = bytes / (1024.0 * 1024.0);
    if mib < 10.0 { format!("{mib:.1} MB") } else { format!("{mib:.0} MB") }
}

/// A stretch of time for a person.
#[must_use]
pub fn words(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} seconds"),
        s if s < 7_200.0 => format!("{:.0} minutes", s / 60.0),
        s => format!("{:.0} hours", s / 3_600.0),
    }
}
