//! What may stand in the file: its sections, and the keys of most of them. [`super::sections`] says what they mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeTable;

use super::form::{app_name, command, commands, git_url, path, pointer, settings, within};
use super::mistake::{Mistake, Mistakes, Unfit};
use super::secret::Secret;
use super::sections::HOLD_BUDGET;
use super::table::{At, Table};
use super::url::{self, DatabaseUrl, PublicUrl};
use super::{
    App, Build, Config, Database, Front, Migrations, Query, Rehearsal, Source, Watch, backup, duration,
    expect, people, service, smoke, team,
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
    let service = service::service(file, file.has("front"));
    let smoke = smoke::read(file);
    let rehearsal = file.table("rehearsal").map(|t| rehearsal(&t)).unwrap_or_default();
    let workers = service::workers(file);
    let logs = file.tables("log").iter().filter_map(|t| service::log(t, &root)).collect();
    let watch = file.table("watch").map(|t| watch(&t)).unwrap_or_default();
    let queries = file.tables("query").iter().filter_map(query).collect();
    let backup = backup::backup(file.table("backup").as_ref(), &root);
    let window = file.table("window").and_then(|t| team::window(&t));
    let notify = team::notify(file);
    let smtp = team::smtp(file.table("smtp").as_ref(), &root);
    let contacts = plain(file.names("contacts"));
    let people = people::people(file.table("people").as_ref());
    let dashboard = file.table("dashboard").and_then(|t| people::dashboard(&t));
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
        queries,
        backup,
        window,
        notify,
        smtp,
        contacts,
        people,
        dashboard,
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
    let expect = expect::expect(&table);
    Some(Database { url: url?.value, password: password.map(|p| p.value), tables, expect, migrations })
}

fn plain(names: BTreeMap<String, At<String>>) -> BTreeMap<String, String> {
    names.into_iter().map(|(name, text)| (name, text.value)).collect()
}

fn front(table: &Table<'_>) -> Option<Front> {
    let listen = table.required("listen", "\"127.0.0.1:8080\"").and_then(|text| table.fit(text, url::listen));
    let hold_budget = table.limit("hold_budget");
    let drain = table.duration("drain", duration::parse);
    let budget = hold_budget.as_ref().map_or(HOLD_BUDGET, |b| b.value);
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
    let usual = Watch::default();
    Watch {
        errors_for: errors_for.map_or(Duration::from_secs(600), |e| e.value),
        spots,
        counts,
        every: table.limit("every").map_or(usual.every, |e| e.value),
        closely_for: table.limit("closely_for").map_or(usual.closely_for, |e| e.value),
        rollback: table.flag("rollback").unwrap_or(usual.rollback),
    }
}

fn query(table: &Table<'_>) -> Option<Query> {
    let name = table.required("name", "\"5xx share\"");
    let url = table.required("url", "\"http://127.0.0.1:9090/api/v1/query?query=...\"");
    let url = url.and_then(|url| {
        table.fit(url, |text| match text.starts_with("http://") || text.starts_with("https://") {
            true => Ok(text.to_owned()),
            false => Err(Unfit::new(format!("`{text}` is not a URL"), "begin it with http:// or https://")),
        })
    });
    let pointer = table.parsed("pointer", pointer).map(|p| p.value);
    let (at_most, at_least) = (table.figure("at_most"), table.figure("at_least"));
    if !table.has("at_most") && !table.has("at_least") {
        let what = "it must be said which figure is bad".to_owned();
        table.mistakes().missing(Some(&table.span()), what, "for example: at_most = 0.05");
    }
    let pointer = pointer.unwrap_or_else(|| plimsoll_host::watch::query::PROMETHEUS.to_owned());
    Some(Query { name: name?.value, url: url?.value, pointer, at_most, at_least })
}
