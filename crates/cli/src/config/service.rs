//! `[service]`, `[[worker]]` and `[[log]]`: what is started and stopped, and where it tells of errors.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use regex::Regex;

use super::form::{command, commands, path, pattern, pointer, settings, unit, unit_free_name};
use super::table::Table;
use super::{Commands, Log, LogSource, Service, ServiceKind, Worker, WorkerKind, url};

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Process,
    Systemd,
    Supervisor,
    Command,
}

const KINDS: [(&str, Kind); 4] = [
    ("process", Kind::Process),
    ("systemd", Kind::Systemd),
    ("supervisor", Kind::Supervisor),
    ("command", Kind::Command),
];

/// Keys that only one kind of service has.
const KEYS_OF_KINDS: [(&str, Kind); 6] = [
    ("command", Kind::Process),
    ("unit", Kind::Systemd),
    ("program", Kind::Supervisor),
    ("start", Kind::Command),
    ("stop", Kind::Command),
    ("status", Kind::Command),
];

pub(super) fn service(file: &Table<'_>, has_front: bool) -> Option<Service> {
    let why = "for example: [service] with kind = \"process\" and command = \"python3 app.py\"";
    let table = file.section("service", why)?;
    let kind =
        table.required("kind", "\"process\"").and_then(|_| table.word("kind", &KINDS)).map(|k| k.value);
    let command = table.parsed("command", command);
    let unit = table.parsed("unit", unit);
    let program = table.parsed("program", unit_free_name);
    let start = commands(&table, "start", true);
    let stop = commands(&table, "stop", true);
    let status = commands(&table, "status", true);
    if let Some(kind) = kind {
        keys_of_kind(&table, kind);
    }
    let address = table.parsed("address", url::socket).map(|a| a.value);
    if !table.has("address") && (!has_front || kind.is_some_and(|k| k != Kind::Process)) {
        let reason = if has_front { "Plimsoll gives no PORT to this kind" } else { "there is no [front]" };
        let what =
            format!("[service] needs the key `address`: {reason}, so it must be said where the app listens");
        table.mistakes().missing(Some(&table.span()), what, "for example: address = \"127.0.0.1:8000\"");
    }
    let health = table.parsed("health", path);
    let health_release = table.parsed("health_release", pointer);
    let start_timeout = table.limit("start_timeout").map_or(Duration::from_secs(30), |t| t.value);
    let stop_timeout = table.limit("stop_timeout").map_or(Duration::from_secs(10), |t| t.value);
    let env = settings(&table, "env");
    let kind = match kind? {
        Kind::Process => ServiceKind::Process { command: command?.value },
        Kind::Systemd => ServiceKind::Systemd { unit: unit?.value },
        Kind::Supervisor => ServiceKind::Supervisor { program: program?.value },
        Kind::Command => ServiceKind::Command(Commands { start, stop, status }),
    };
    Some(Service {
        kind,
        address,
        health: health.map_or_else(|| "/healthz".to_owned(), |h| h.value),
        health_release: health_release.map(|p| p.value),
        start_timeout,
        stop_timeout,
        env,
    })
}

/// Each kind has its own keys: those of the others are contradictions, its own must be there.
fn keys_of_kind(table: &Table<'_>, kind: Kind) {
    let word = |kind: Kind| KINDS.iter().find(|(_, k)| *k == kind).map_or("", |(word, _)| word);
    for (key, owner) in KEYS_OF_KINDS {
        match table.key_span(key) {
            Some(span) if owner != kind => {
                let what =
                    format!("`{key}` is for kind = \"{}\", and this is \"{}\"", word(owner), word(kind));
                table.mistakes().wrong(&span, what, "leave it out, or change the kind");
            }
            None if owner == kind && key != "status" => {
                let example = match key {
                    "command" => "command = \"python3 app.py\"",
                    "unit" => "unit = \"shop.service\"",
                    "program" => "program = \"shop\"",
                    "start" => "start = [\"/usr/local/bin/shop start\"]",
                    _ => "stop = [\"/usr/local/bin/shop stop\"]",
                };
                let what = format!("kind = \"{}\" needs the key `{key}`", word(kind));
                table.mistakes().missing(Some(&table.span()), what, format!("for example: {example}"));
            }
            _ => {}
        }
    }
}

pub(super) fn workers(file: &Table<'_>) -> Vec<Worker> {
    let mut names = BTreeSet::new();
    let mut workers = Vec::new();
    for table in file.tables("worker") {
        let name = table.required("name", "\"mailer\"");
        if let Some(name) = &name
            && !names.insert(name.value.clone())
        {
            let what = format!("there are two workers named `{}`", name.value);
            table.mistakes().wrong(&name.span, what, "give each its own name");
        }
        let unit = table.parsed("unit", unit);
        let commands = Commands {
            start: commands(&table, "start", true),
            stop: commands(&table, "stop", true),
            status: commands(&table, "status", true),
        };
        let (has_unit, has_commands) = (table.has("unit"), table.has("start") || table.has("stop"));
        let help = "either unit = \"shop_mailer.service\", or stop = [\"…\"] and start = [\"…\"]";
        if has_unit && has_commands {
            table.mistakes().wrong(&table.span(), "a worker is a unit or has commands, not both", help);
        } else if !(has_unit || table.has("start") && table.has("stop")) {
            let what = "it must be said how this worker is stopped and started";
            table.mistakes().missing(Some(&table.span()), what, help);
        }
        let kind =
            unit.map_or(WorkerKind::Command(commands), |unit| WorkerKind::Systemd { unit: unit.value });
        workers.extend(name.map(|name| Worker { name: name.value, kind }));
    }
    workers
}

pub(super) fn log(table: &Table<'_>, root: &Path) -> Option<Log> {
    let file = table.text("file").map(|f| LogSource::File(url::normal(&root.join(f.value))));
    let unit = table.parsed("unit", unit).map(|u| LogSource::Unit(u.value));
    let help = "file = \"/var/log/shop/error.log\" or unit = \"shop.service\"";
    match (table.has("file"), table.has("unit")) {
        (true, true) => {
            table.mistakes().wrong(&table.span(), "a log is a file or a unit's journal, not both", help);
        }
        (false, false) => {
            table.mistakes().missing(Some(&table.span()), "it must be said where this log is", help);
        }
        _ => {}
    }
    let error = table.parsed("error", pattern).map(|e| e.value);
    let default = || Regex::new("(?i)error|traceback").expect("a constant pattern, compiled by a test");
    let slow = table.parsed("slow", pattern).map(|s| s.value);
    Some(Log { source: file.or(unit)?, error: error.unwrap_or_else(default), slow })
}
