//! What may stand in each section of the file. [`super`] documents what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use regex::Regex;
use toml::de::DeTable;

use super::mistake::{Mistake, Mistakes, nearest};
use super::secret::{Secret, Setting, Settings, is_variable};
use super::table::{At, Table, Unfit, one_of};
use super::url::{self, DatabaseUrl, Destination, PublicUrl};
use super::{
    App, Backup, Build, Commands, Config, Database, Front, Log, LogSource, Migrations, Notify, Occasion,
    Rehearsal, Service, ServiceKind, Smtp, Source, Watch, Window, Worker, WorkerKind, duration, smoke,
};

/// Reads the whole file. `replaced` says that bytes which are no text were replaced in it.
pub(super) fn config(path: &Path, text: &str, replaced: bool) -> Result<Config, Vec<Mistake>> {
    let mistakes = Mistakes::new(path, text);
    if replaced && let Some(at) = text.find(char::REPLACEMENT_CHARACTER) {
        mistakes.wrong(&(at..at + 1), "this is not text in UTF-8", "save the file as UTF-8");
    }
    let (entries, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        mistakes.syntax(error.span(), error.message());
    }
    let config = sections(path, &Table::root(entries.get_ref(), &mistakes));
    let mistakes = mistakes.into_list();
    match config {
        Some(config) if mistakes.is_empty() => Ok(config),
        _ => Err(mistakes),
    }
}

/// `None`, or values that are nonsense, only after a mistake was noted.
fn sections(path: &Path, file: &Table<'_>) -> Option<Config> {
    let app = app(path, file);
    let root = app.as_ref().map_or_else(|| folder_of(path), |app| app.root.clone());
    let source = source(file, &root);
    let build = build(file);
    let database = database(file, &root);
    let front = file.table("front").and_then(|table| front(&table));
    let service = service(file, file.has("front"));
    let smoke = smoke::read(file);
    let rehearsal = file.table("rehearsal").map(|t| rehearsal(&t)).unwrap_or_default();
    let workers = workers(file);
    let logs = file.tables("log").iter().filter_map(|t| log(t, &root)).collect();
    let watch = file.table("watch").map(|t| watch(&t)).unwrap_or_default();
    let backup = backup(file.table("backup").as_ref(), &root);
    let window = file.table("window").and_then(|t| window(&t));
    let notify = notify(file);
    let smtp = smtp(file.table("smtp").as_ref());
    let contacts = plain(file.names("contacts"));
    Some(Config {
        file: path.to_owned(),
        app: app?,
        source: source?,
        build,
        database: database?,
        service: service?,
        front,
        smoke,
        rehearsal,
        workers,
        logs,
        watch,
        backup,
        window,
        notify,
        smtp,
        contacts,
    })
}

fn folder_of(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("/")).to_owned()
}

fn app(path: &Path, file: &Table<'_>) -> Option<App> {
    let table = file.section("app", "for example: [app] with name = \"shop\"")?;
    let name = table.required("name", "\"shop\"").and_then(|name| table.fit(name, app_name));
    let root = table.text("root").map(|root| url::normal(&folder_of(path).join(root.value)));
    Some(App { name: name?.value, root: root.unwrap_or_else(|| folder_of(path)) })
}

fn app_name(text: &str) -> Result<String, Unfit> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.chars().all(plain) && !text.starts_with(['.', '-']) && text.len() <= 64 {
        return Ok(text.to_owned());
    }
    let meant: String =
        text.to_lowercase().chars().map(|c| if plain(c) { c } else { '-' }).take(64).collect();
    let meant = meant.trim_matches(['.', '-']).to_owned();
    let help = "letters, digits, `.`, `-` and `_`: it becomes part of file names";
    let help = if meant.is_empty() { help.to_owned() } else { format!("did you mean \"{meant}\"? {help}") };
    Err(Unfit::new(format!("`{text}` cannot be the name of an app"), help))
}

fn source(file: &Table<'_>, root: &Path) -> Option<Source> {
    let table = file.section("source", "for example: [source] with git = \"/srv/git/shop.git\"")?;
    let git =
        table.required("git", "\"/srv/git/shop.git\"").and_then(|git| table.fit(git, |g| git_url(g, root)));
    let branch = table.parsed("branch", |text| {
        let odd = |c: char| c.is_whitespace() || c.is_control() || "~^:?*[\\".contains(c);
        if text.starts_with('-') || text.contains("..") || text.contains(odd) || text.ends_with('/') {
            return Err(Unfit::new(format!("`{text}` cannot be a branch"), "for example: main"));
        }
        Ok(text.to_owned())
    });
    let directory = table.parsed("directory", |text| within(text, "the repository"));
    Some(Source {
        git: git?.value,
        branch: branch.map_or_else(|| "main".to_owned(), |b| b.value),
        directory: directory.map_or_else(PathBuf::new, |d| d.value),
    })
}

/// A URL, `host:path` as git reads it, or a path, which is made absolute.
fn git_url(text: &str, root: &Path) -> Result<String, Unfit> {
    if text.starts_with('-') {
        return Err(Unfit::new(format!("`{text}` is not a repository"), "a URL or a path"));
    }
    if let Some((_, rest)) = text.split_once("://") {
        let user = rest.split('/').next().unwrap_or_default().rsplit_once('@').map(|(user, _)| user);
        return match user {
            Some(user) if user.contains(':') => Err(Unfit::new(
                "a password does not stand in the file itself",
                "take it out, and let git's credential store or an SSH key answer",
            )),
            _ => Ok(text.to_owned()),
        };
    }
    let before_slash = text.split('/').next().unwrap_or_default();
    if before_slash.contains(':') {
        return Ok(text.to_owned());
    }
    Ok(url::normal(&root.join(text)).display().to_string())
}

/// A relative path that stays where it begins; `.` is the empty path.
fn within(text: &str, what: &str) -> Result<PathBuf, Unfit> {
    let mut path = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                return Err(Unfit::new(format!("`{text}` leads out of {what}"), "leave out `..`"));
            }
            Component::RootDir | Component::Prefix(_) => {
                let help = format!("write it relative to {what}, without the slash in front");
                return Err(Unfit::new(format!("`{text}` must be within {what}"), help));
            }
        }
    }
    Ok(path)
}

/// A command line: words as a shell splits them, at least one.
pub(super) fn command(text: &str) -> Result<String, Unfit> {
    match shell_words::split(text) {
        Ok(words) if words.first().is_some_and(|word| !word.is_empty()) => Ok(text.to_owned()),
        Ok(_) => Err(Unfit::new("there is no command in this", "for example: \"python3 app.py\"")),
        Err(_) => Err(Unfit::new(
            "a quotation mark in this command is not closed",
            "close it, or write \\' or \\\"",
        )),
    }
}

fn commands(table: &Table<'_>, key: &'static str, one_is_enough: bool) -> Vec<String> {
    let list = table.texts(key, one_is_enough);
    list.into_iter().filter_map(|text| table.fit(text, command)).map(|command| command.value).collect()
}

fn build(file: &Table<'_>) -> Build {
    let mut build = Build { commands: Vec::new(), timeout: Duration::from_secs(600), link: Vec::new() };
    let Some(table) = file.table("build") else { return build };
    // A shell runs these: what they mean is its business.
    build.commands = table.texts("commands", false).into_iter().map(|text| text.value).collect();
    build.timeout = table.limit("timeout").map_or(build.timeout, |t| t.value);
    for text in table.distinct("link") {
        let link = table.fit(text, |text| {
            let mut path = within(text, "shared/")?;
            if path.as_os_str().is_empty() {
                let what = format!("`{text}` would link the whole release");
                return Err(Unfit::new(what, "name a file or folder in shared/"));
            }
            if text.ends_with('/') {
                path.push("");
            }
            Ok(path)
        });
        build.link.extend(link.map(|l| l.value));
    }
    build
}

fn database(file: &Table<'_>, root: &Path) -> Option<Database> {
    let table = file.section(
        "database",
        "Plimsoll deploys an app together with its data; for example: [database] with url = \"sqlite:shared/store.db\"",
    )?;
    let url = table.required("url", "\"sqlite:shared/store.db\"");
    let url = url.and_then(|url| table.fit(url, |text| DatabaseUrl::parse(text, root)));
    let password = table.parsed("password", Secret::parse);
    if let (Some(password), Some(DatabaseUrl::Sqlite(_))) = (&password, url.as_ref().map(|u| &u.value)) {
        table.mistakes().wrong(&password.span, "SQLite has no password", "leave the key out");
    }
    let tables = table.distinct("tables").into_iter().map(|t| t.value).collect();
    let folder = table.parsed("migrations", |text| within(text, "the release"));
    let migrate = commands(&table, "migrate", true);
    if table.has("migrations") && table.has("migrate") {
        let span = table.key_span("migrate").unwrap_or(table.span());
        let help =
            "keep `migrations` for SQL files that Plimsoll applies, or `migrate` for commands of your own";
        table.mistakes().wrong(&span, "both `migrations` and `migrate` would change the schema", help);
    }
    let migrations = match folder {
        Some(folder) => Migrations::Folder(folder.value),
        None if !migrate.is_empty() => Migrations::Commands(migrate),
        None => Migrations::App,
    };
    Some(Database { url: url?.value, password: password.map(|p| p.value), tables, migrations })
}

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

fn service(file: &Table<'_>, has_front: bool) -> Option<Service> {
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

fn unit(text: &str) -> Result<String, Unfit> {
    let name = unit_free_name(text)?;
    let known = [".service", ".target", ".timer", ".socket"];
    match name.rsplit_once('.') {
        Some((_, kind))
            if !known.contains(&format!(".{kind}").as_str()) && nearest(kind, ["service"]).is_some() =>
        {
            Err(Unfit::new(format!("`{text}` is not a unit"), "for example: shop.service"))
        }
        _ if known.iter().any(|kind| name.ends_with(kind)) => Ok(name),
        _ => Ok(format!("{name}.service")),
    }
}

fn unit_free_name(text: &str) -> Result<String, Unfit> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-@:\\".contains(c);
    if text.chars().all(plain) && !text.starts_with('-') {
        return Ok(text.to_owned());
    }
    Err(Unfit::new(
        format!("`{text}` is not the name of a unit or program"),
        "the name alone, without a path",
    ))
}

pub(super) fn path(text: &str) -> Result<String, Unfit> {
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Unfit::new("a path has no spaces", "write %20"));
    }
    match text.strip_prefix('/') {
        Some(rest) if !rest.starts_with('/') => Ok(text.to_owned()),
        _ => {
            let meant =
                text.split_once("://").map_or(text, |(_, rest)| rest.split_once('/').map_or("", |(_, p)| p));
            let help = format!("did you mean \"/{}\"?", meant.trim_start_matches('/'));
            Err(Unfit::new("a path begins with one slash, without scheme and host", help))
        }
    }
}

pub(super) fn pointer(text: &str) -> Result<String, Unfit> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    let help = format!("did you mean \"/{}\"?", text.replace('.', "/"));
    Err(Unfit::new("a JSON pointer begins with a slash", help))
}

pub(super) fn pattern(text: &str) -> Result<Regex, Unfit> {
    Regex::new(text).map_err(|error| {
        let shown = error.to_string();
        let reason = shown.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Unfit::new(format!("this is not a regular expression: {reason}"), "see https://docs.rs/regex/#syntax")
    })
}

fn settings(table: &Table<'_>, key: &'static str) -> Settings {
    let mut settings = Settings::new();
    for (name, text) in table.names(key) {
        if !is_variable(&name) {
            let what = format!("`{name}` cannot be the name of an environment variable");
            table.mistakes().wrong(&text.span, what, "letters, digits and `_`, not beginning with a digit");
        }
        settings.insert(name, Setting::new(text.value));
    }
    settings
}

fn plain(names: BTreeMap<String, At<String>>) -> BTreeMap<String, String> {
    names.into_iter().map(|(name, text)| (name, text.value)).collect()
}

fn front(table: &Table<'_>) -> Option<Front> {
    let listen = table.required("listen", "\"127.0.0.1:8080\"").and_then(|text| table.fit(text, url::listen));
    let hold_budget = table.limit("hold_budget");
    let drain = table.duration("drain", duration::parse);
    let budget = hold_budget.as_ref().map_or(Duration::from_secs(10), |b| b.value);
    let drained = drain.as_ref().map_or(Duration::from_secs(5), |d| d.value);
    if drained >= budget
        && (!table.has("hold_budget") || hold_budget.is_some())
        && (!table.has("drain") || drain.is_some())
    {
        let span = drain.or(hold_budget).map_or(table.span(), |d| d.span);
        let (budget, drained) = (duration::show(budget), duration::show(drained));
        let what = format!("draining may take {drained}, and the whole hold only {budget}");
        table.mistakes().wrong(&span, what, "drain is part of the hold: make it shorter than hold_budget");
    }
    let public_url = table.parsed("public_url", PublicUrl::parse).map(|u| u.value);
    let mut answer_after = BTreeMap::new();
    for (key, text) in table.names("answer_after") {
        if let Err(unfit) = path(&key) {
            table.mistakes().wrong(&text.span, format!("`{key}`: {}", unfit.what), unfit.help);
        }
        if let Some(after) = table.fit(text, duration::positive) {
            answer_after.insert(key, after.value);
        }
    }
    Some(Front { listen: listen?.value, hold_budget: budget, drain: drained, public_url, answer_after })
}

fn rehearsal(table: &Table<'_>) -> Rehearsal {
    Rehearsal { env: settings(table, "env"), command: table.parsed("command", command).map(|c| c.value) }
}

fn workers(file: &Table<'_>) -> Vec<Worker> {
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

fn log(table: &Table<'_>, root: &Path) -> Option<Log> {
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
    Some(Log { source: file.or(unit)?, error: error.unwrap_or_else(default) })
}

fn watch(table: &Table<'_>) -> Watch {
    let errors_for = table.duration("errors_for", duration::parse);
    let mut spots: Vec<Duration> = Vec::new();
    for text in table.distinct("spots") {
        let Some(spot) = table.fit(text, duration::positive) else { continue };
        if spots.last().is_some_and(|last| *last >= spot.value) {
            table.mistakes().wrong(
                &spot.span,
                "spots follow each other",
                "write them from the earliest to the latest",
            );
        }
        spots.push(spot.value);
    }
    let mut counts = BTreeMap::new();
    for (name, sql) in table.names("counts") {
        let first = sql.value.split_whitespace().next().unwrap_or_default().to_lowercase();
        if !["select", "with"].contains(&first.as_str()) {
            let what = format!("the count `{name}` must only read");
            table.mistakes().wrong(&sql.span, what, "begin it with SELECT");
        }
        counts.insert(name, sql.value);
    }
    Watch { errors_for: errors_for.map_or(Duration::from_secs(600), |e| e.value), spots, counts }
}

fn backup(table: Option<&Table<'_>>, root: &Path) -> Backup {
    let mut backup = Backup { keep_days: 14, compress: false, copies: Vec::new() };
    let Some(table) = table else { return backup };
    backup.keep_days = table.number("keep_days", 1..=3_650).map_or(backup.keep_days, |n| n.value);
    backup.compress = table.flag("compress").unwrap_or(backup.compress);
    for text in table.distinct("copies") {
        let copy = table.fit(text, |text| Destination::parse(text, root));
        backup.copies.extend(copy.map(|c| c.value));
    }
    backup
}

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

fn window(table: &Table<'_>) -> Option<Window> {
    let days: Vec<Weekday> = table
        .distinct("days")
        .into_iter()
        .filter_map(|day| table.fit(day, |text| one_of("days", text, &DAYS)))
        .map(|day| day.value)
        .collect();
    let time = |key, example| table.required(key, example).and_then(|text| table.fit(text, time));
    let from = time("from", "\"02:00\"");
    let to = time("to", "\"05:00\"");
    if let (Some(from), Some(to)) = (&from, &to)
        && from.value == to.value
    {
        table.mistakes().wrong(
            &to.span,
            "the window ends when it begins",
            "leave [window] out when any time will do",
        );
    }
    let zone = table.parsed("zone", zone).map(|z| z.value);
    let days = if days.is_empty() { DAYS.map(|(_, day)| day).to_vec() } else { days };
    Some(Window { days, from: from?.value, to: to?.value, zone: zone.unwrap_or(TimeZone::UTC) })
}

fn time(text: &str) -> Result<Time, Unfit> {
    let parts = text.split_once(':').filter(|(hour, minute)| hour.len() == 2 && minute.len() == 2);
    let number = |text: &str| text.parse::<i8>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    parts.and_then(|(hour, minute)| Time::new(number(hour)?, number(minute)?, 0, 0).ok()).ok_or_else(|| {
        Unfit::new(format!("`{text}` is not a time of day"), "hours and minutes, for example: \"02:00\"")
    })
}

fn zone(text: &str) -> Result<TimeZone, Unfit> {
    TimeZone::get(text).map_err(|_| {
        if jiff::tz::db().is_definitively_empty() {
            let help = "install the package tzdata, or leave `zone` out for UTC";
            return Unfit::new("this machine has no time zones", help);
        }
        let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
        let help = match nearest(text, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "for example: \"Asia/Kolkata\"".to_owned(),
        };
        Unfit::new(format!("there is no time zone `{text}`"), help)
    })
}

fn notify(file: &Table<'_>) -> BTreeMap<String, Notify> {
    let mut groups = BTreeMap::new();
    for (name, value) in file.free("notify") {
        let Some(table) = file.table_of("notify", format!("[notify.{name}]"), value) else { continue };
        let mail: Vec<String> = table
            .distinct("mail")
            .into_iter()
            .filter_map(|text| table.fit(text, mail_address))
            .map(|mail| mail.value)
            .collect();
        let webhook = table.parsed("webhook", webhook).map(|w| w.value);
        if !table.has("mail") && !table.has("webhook") {
            let help = "for example: mail = [\"team@example.com\"]";
            table.mistakes().missing(Some(&table.span()), format!("[notify.{name}] tells nobody"), help);
        }
        let mut on: Vec<Occasion> = table
            .distinct("on")
            .into_iter()
            .filter_map(|text| table.fit(text, |text| one_of("on", text, &Occasion::ALL)))
            .map(|occasion| occasion.value)
            .collect();
        if !table.has("on") {
            on = Occasion::ALL.map(|(_, occasion)| occasion).to_vec();
        }
        drop(table);
        groups.insert(name, Notify { mail, webhook, on });
    }
    groups
}

fn mail_address(text: &str) -> Result<String, Unfit> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "<>,;".contains(c);
    match text.rsplit_once('@') {
        Some((user, host)) if !user.is_empty() && !host.is_empty() && !text.contains(odd) => {
            Ok(text.to_owned())
        }
        _ => Err(Unfit::new(format!("`{text}` is not a mail address"), "for example: \"team@example.com\"")),
    }
}

fn webhook(text: &str) -> Result<Setting, Unfit> {
    match Setting::new(text.to_owned()) {
        Setting::Plain(text) if !text.starts_with("https://") && !text.starts_with("http://") => {
            Err(Unfit::new(
                "this is neither the place of a secret nor a URL",
                "write \"env:NAME\", \"file:/path\", or the URL when it is no secret",
            ))
        }
        setting => Ok(setting),
    }
}

fn smtp(table: Option<&Table<'_>>) -> Smtp {
    let host = table.and_then(|t| t.text("host")).map_or_else(|| "127.0.0.1".to_owned(), |h| h.value);
    let port = table.and_then(|t| t.number("port", 1..=65_535)).and_then(|p| u16::try_from(p.value).ok());
    Smtp { host, port: port.unwrap_or(25) }
}
