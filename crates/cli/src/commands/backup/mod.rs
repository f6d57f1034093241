//! `backup`: makes one and verifies it, prunes; its further words list, verify, restore and prune.

mod copies;
mod list;
mod prune;
mod restore;
mod verify;

use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_core::check::Verdict;
use plimsoll_host::backups::{self, Entry};
use plimsoll_host::sqlite::backup::{Backup, Request, create};
use plimsoll_host::sqlite::{Control, openers};
use serde_json::{Value, json};

use crate::args::{BackupArgs, BackupCommand, BackupCreateArgs, BackupPlace, Global};
use crate::error::Error;
use crate::place::{Place, failed, stop_on_signals};
use crate::ui::{Ui, size_words, took_words};

/// `plimsoll backup`
pub(crate) fn backup(global: &Global, args: &BackupArgs, ui: &Ui) -> Result<(), Error> {
    match &args.command {
        None => make(global, &args.create, ui),
        Some(BackupCommand::Create(create)) => make(global, create, ui),
        Some(BackupCommand::List(place)) => list::list(&find(global, place)?, ui),
        Some(BackupCommand::Verify(args)) => verify::verify(global, args, ui),
        Some(BackupCommand::Restore(args)) => restore::restore(global, args, ui),
        Some(BackupCommand::Copy(args)) => copies::copy(global, args, ui),
        Some(BackupCommand::Drill(place)) => copies::drill(&find(global, place)?, ui),
        Some(BackupCommand::Prune(args)) => prune::prune(&find(global, &args.place)?, args, ui),
    }
}

fn find(global: &Global, place: &BackupPlace) -> Result<Place, Error> {
    Place::find(global, place.db.as_deref(), place.dir.as_deref())
}

/// The backup that was typed: a path, or the bare name of one in the folder of backups. `LATEST` is a link; the
/// manifest lies beside what it points at.
fn typed(global: &Global, place: &BackupPlace, file: &Path) -> Result<PathBuf, Error> {
    let direct = global.directory.join(file);
    if let Ok(found) = std::fs::canonicalize(&direct) {
        return Ok(found);
    }
    let inside = find(global, place).ok().map(|place| place.backups.join(file));
    inside.and_then(|path| std::fs::canonicalize(path).ok()).ok_or_else(|| {
        Error::usage(format!("there is no backup at {}", direct.display()))
            .state("nothing was changed")
            .next("plimsoll backup list")
    })
}

fn make(global: &Global, args: &BackupCreateArgs, ui: &Ui) -> Result<(), Error> {
    let place = Place::existing(global, args.place.db.as_deref(), args.place.dir.as_deref())?;
    let configured = place.config.as_ref().map(|config| &config.backup);
    let mut request = Request::new(&place.database, &place.backups, "manual");
    request.compress = args.compress || configured.is_some_and(|backup| backup.compress);
    let step = ui.progress(&format!("Back up {}", place.name()));
    let mut control = Control::new(stop_on_signals(), |at| step.at(at.done, at.total, at.unit));
    let made = create(&request, &mut control).map_err(|error| {
        failed("the database was not backed up", &error)
            .state("there is no new backup; the database and the other backups are as they were")
    })?;
    drop(control);
    drop(step);
    show(&place, &made, ui);
    let mut reached = Vec::new();
    let copied = copies::after_backup(&place, &made.path, &mut reached, ui);
    // Without a configuration nothing goes unless it is asked for.
    if args.days.is_some() || configured.is_some() {
        prune::after_backup(&place, args.days, &reached, ui);
    }
    copied
}

fn show(place: &Place, made: &Backup, ui: &Ui) {
    let manifest = &made.manifest;
    if ui.is_json() {
        ui.object(&object("backup", &made.path, manifest));
    } else {
        ui.finding(Verdict::Pass, &made.path.display().to_string(), &summary(manifest), "");
        let depth = match manifest.compared.as_str() {
            "content" => "hash, integrity, foreign keys, schema, every value compared with the source",
            _ => "hash, integrity, foreign keys, schema, row counts compared with the source",
        };
        ui.finding(Verdict::Pass, VERIFIED, depth, &counts(place, manifest));
    }
    for unchecked in &manifest.unchecked {
        ui.warn(&format!("not checked: {unchecked}"));
    }
}

/// The paper's words for a backup that is what it should be.
const VERIFIED: &str = "Backup database integrity verified";

/// The rows of the configured tables, in their order.
fn counts(place: &Place, manifest: &plimsoll_host::sqlite::manifest::Manifest) -> String {
    let tables = place.config.iter().flat_map(|config| &config.database.tables);
    let counted = tables.filter_map(|table| {
        let content = manifest.content.tables.get(table)?;
        Some(format!("{table}: {}", content.rows))
    });
    counted.collect::<Vec<_>>().join("   ")
}

fn summary(manifest: &plimsoll_host::sqlite::manifest::Manifest) -> String {
    let inside = match &manifest.inside {
        Some(inside) => format!(" of {}", size_words(inside.bytes)),
        None => String::new(),
    };
    format!(
        "{}{inside}, {} tables, {} rows, {}",
        size_words(manifest.bytes),
        manifest.content.tables.len(),
        manifest.content.total_rows(),
        took_words(Duration::from_millis(manifest.took_ms)),
    )
}

/// A backup as an object.
fn object(event: &str, path: &Path, manifest: &plimsoll_host::sqlite::manifest::Manifest) -> Value {
    let rows: serde_json::Map<String, Value> =
        manifest.content.tables.iter().map(|(table, content)| (table.clone(), content.rows.into())).collect();
    json!({
        "event": event, "file": path, "database": manifest.source, "created_at": manifest.created_at,
        "state": manifest.state, "reason": manifest.reason, "run": manifest.run, "bytes": manifest.bytes,
        "database_bytes": manifest.inside.as_ref().map_or(manifest.bytes, |inside| inside.bytes),
        "sha256": manifest.sha256, "schema_sha256": manifest.schema_sha256, "compared": manifest.compared,
        "unchecked": manifest.unchecked, "took_ms": manifest.took_ms, "rows": manifest.content.total_rows(),
        "tables": rows,
    })
}

/// All backups of the place, oldest first.
fn entries(place: &Place) -> Result<Vec<Entry>, Error> {
    backups::list(&place.backups, &place.name())
        .map_err(|error| failed("the backups cannot be listed", &error))
}

/// Who has the database open, as far as it can be seen.
fn opened_by(place: &Place) -> openers::Openers {
    // A machine without /proc hides everything: unknown, which is what nobody in particular means.
    openers::of(&place.database).unwrap_or_else(|_| openers::Openers { pids: Vec::new(), hidden: vec![0] })
}
