//! `verify`: the paper's seven checks of a database, and more. Reads only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use plimsoll_core::check::Verdict;
use plimsoll_host::durable;
use plimsoll_host::sqlite::connection::beside;
use plimsoll_host::sqlite::migration;
use plimsoll_host::sqlite::replay::Expectation;
use plimsoll_host::sqlite::verification::{Verification, Wanted, compare, examine};
use plimsoll_host::sqlite::verify::Finding;
use plimsoll_host::sqlite::{self, Control};
use serde_json::{Map, Value, json};

use crate::args::{Global, VerifyArgs};
use crate::error::Error;
use crate::place::{Place, failed, stop_on_signals};
use crate::ui::Ui;

/// `plimsoll verify`
pub(crate) fn verify(global: &Global, args: &VerifyArgs, ui: &Ui) -> Result<(), Error> {
    let place = Place::find(global, args.db.as_deref(), None)?;
    let database = place.database.clone();
    let migrations = match place.migrations(global, args.dir.as_deref()) {
        Some(folder) => Some(migration::load(&folder).map_err(|error| {
            Error::usage("the migrations to compare with cannot be used")
                .why(error.to_string())
                .next(error.hint())
        })?),
        None => None,
    };
    let tables = place.config.as_ref().map(|config| config.database.tables.clone()).unwrap_or_default();
    // Whoever learns says that the database is good as it is.
    let learned = if args.learn { None } else { learned(&database)? };
    let declared = place.config.as_ref().map(|config| config.database.expect.clone()).unwrap_or_default();
    let wanted = Wanted { tables, migrations, learned, declared };
    let step = ui.progress("Check the database");
    let mut control = Control::new(stop_on_signals(), |at| step.at(at.done, at.total, at.unit));
    let unreadable = |error: &sqlite::Error| {
        failed("the database could not be checked", error).state("nothing was changed by this command")
    };
    let mut found = examine(&database, &wanted, &mut control).map_err(|error| unreadable(&error))?;
    if let (Some(backup), Some(_)) = (&args.compare, &found.seen) {
        let typed = global.directory.join(backup);
        // `LATEST` is a link; what it points at says whether it is compressed.
        let backup = fs::canonicalize(&typed).unwrap_or(typed);
        found.checks.extend(compare(&backup, &database, &mut control).map_err(|error| unreadable(&error))?);
    }
    drop(control);
    drop(step);
    let report = report(&database, &found);
    // What was seen is shown, whatever becomes of the file.
    show(&place, &found, &report, global.quiet, ui);
    if let Some(file) = &args.report {
        write(&global.directory.join(file), &report)?;
    }
    if args.learn {
        learn(&database, &found, ui)?;
    }
    if found.passed() {
        return Ok(());
    }
    let wrong = found.checks.iter().filter(|check| check.verdict == Verdict::Fail);
    Err(Error::failed(format!("{} is not what it should be", place.name()))
        .details(wrong.map(|check| format!("{}: {}", check.name, check.detail)))
        .state("nothing was changed by this command")
        .next("see what a backup holds instead: plimsoll backup list, plimsoll verify --compare BACKUP"))
}

/// Where what was learned is kept.
fn kept_at(database: &Path) -> PathBuf {
    beside(database, ".plimsoll-expect.json")
}

fn learned(database: &Path) -> Result<Option<Expectation>, Error> {
    let path = kept_at(database);
    let unusable = |why: String| {
        Error::usage(format!("what was learned in {} cannot be used", path.display()))
            .why(why)
            .next("learn it again from a good database: plimsoll verify --learn")
    };
    match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(error.to_string())),
        Ok(text) => match serde_json::from_slice::<Expectation>(&text) {
            Ok(known) if known.format == 1 => Ok(Some(known)),
            Ok(known) => Err(unusable(format!("it has format {}, and this version knows 1", known.format))),
            Err(error) => Err(unusable(error.to_string())),
        },
    }
}

fn learn(database: &Path, found: &Verification, ui: &Ui) -> Result<(), Error> {
    let sound = !found.checks.iter().any(|c| c.name == "integrity" && c.verdict == Verdict::Fail);
    let (Some(seen), true) = (&found.seen, sound) else {
        return Err(Error::failed("nothing was learned: the database is damaged")
            .next("restore a good one, then learn from it: plimsoll backup list"));
    };
    let path = kept_at(database);
    let kept = Expectation { source: "what was learned".to_owned(), ..seen.clone() };
    let value = serde_json::to_value(&kept).unwrap_or_default();
    write(&path, &value)?;
    ui.say(&format!("from now on it is compared with this: {}", path.display()));
    Ok(())
}

fn write(path: &Path, value: &Value) -> Result<(), Error> {
    durable::write(path, durable::PRIVATE, format!("{value:#}\n").as_bytes()).map_err(|error| {
        Error::failed(format!("{} could not be written", path.display()))
            .why(error.to_string())
            .state("the database was only read")
            .next("free some room, or name another file, then run it once more")
    })
}

/// The shape that scripts read: timestamp, database, checks, `data_counts`, `schema_versions`, summary.
fn report(database: &Path, found: &Verification) -> Value {
    let one = |check: &Finding| {
        let passed = match check.verdict {
            Verdict::Pass => Value::Bool(true),
            Verdict::Fail => Value::Bool(false),
            Verdict::Unknown | Verdict::Skipped => Value::Null,
        };
        json!({ "passed": passed, "verdict": check.verdict.word(), "message": check.detail })
    };
    let checks: Map<String, Value> =
        found.checks.iter().map(|check| (check.name.clone(), one(check))).collect();
    let versions: Vec<Value> = found
        .versions
        .iter()
        .map(|line| {
            json!({
                "version": line.version.map_or_else(|| line.written.clone().into(), Value::from),
                "description": line.description, "applied_at": line.applied_at,
            })
        })
        .collect();
    let count = |verdict| found.checks.iter().filter(|check| check.verdict == verdict).count();
    let wrong: Vec<&str> = found
        .checks
        .iter()
        .filter(|check| check.verdict == Verdict::Fail)
        .map(|check| check.name.as_str())
        .collect();
    json!({
        "timestamp": Timestamp::now(),
        "database": database,
        "checks": checks,
        "data_counts": found.counts,
        "schema_versions": versions,
        "summary": {
            "status": if found.passed() { "PASS" } else { "FAIL" },
            "all_passed": found.passed(), "total": found.checks.len(), "passed": count(Verdict::Pass),
            "failed": count(Verdict::Fail), "unknown": count(Verdict::Unknown), "skipped": count(Verdict::Skipped),
            "failed_checks": wrong,
        },
    })
}

fn show(place: &Place, found: &Verification, report: &Value, quiet: bool, ui: &Ui) {
    if ui.is_json() {
        return ui.object(report);
    }
    let failed = found.checks.iter().filter(|check| check.verdict == Verdict::Fail).count();
    let status = if failed == 0 { "PASS" } else { "FAIL" };
    if quiet {
        let rows: u64 = found.counts.values().sum();
        ui.data(&format!(
            "{status} {}: {} checks, {failed} failed, {} tables, {rows} rows",
            place.name(),
            found.checks.len(),
            found.counts.len()
        ));
        return;
    }
    for check in &found.checks {
        ui.finding(check.verdict, &check.name.replace('_', " "), &check.detail, "");
    }
    if !found.counts.is_empty() {
        let counts: Vec<String> =
            found.counts.iter().map(|(table, rows)| format!("{table}: {rows}")).collect();
        ui.data(&format!("rows: {}", counts.join("   ")));
    }
    ui.data(&format!("overall status: {status}"));
}
