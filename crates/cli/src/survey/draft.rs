//! What was found, as a commented `plimsoll.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::found::Found;
use super::runner::Runs;
use super::stack::{Migrations, sql_files};

/// The file, and what was found and guessed, each in a line for a person.
pub(crate) struct Draft {
    pub(crate) text: String,
    pub(crate) found: Vec<String>,
    pub(crate) guessed: Vec<String>,
}

/// How an app that runs already is taken over: by the front door, at the address that it has now.
pub(crate) struct TakeOver {
    pub(crate) root: PathBuf,
    /// With `$PORT`, without the checkout's path.
    pub(crate) command: String,
    pub(crate) listen: SocketAddr,
    /// What the app is given besides: plain, or where its secret stands.
    pub(crate) env: BTreeMap<String, String>,
    /// A path that has been seen to answer well.
    pub(crate) health: String,
}

/// Writes what was found in `folder`.
pub(crate) fn draft(found: &Found, folder: &Path, take: Option<&TakeOver>) -> Draft {
    let mut draft = Draft { text: String::new(), found: Vec::new(), guessed: Vec::new() };
    let command = if take.is_some() { "adopt" } else { "init" };
    draft.line(&format!(
        "# Written by `plimsoll {command}`. Lines marked `guessed` want a look; then run `plimsoll check`."
    ));
    draft.line("# Paths are relative to [app].root. Durations: \"500ms\", \"10s\", \"5m\", \"24h\".");
    draft.line(
        "# Secrets never stand in this file: write \"env:NAME\" or \"file:/path\" where one is needed.",
    );
    let root = take.map_or_else(|| root(found, folder), |take| take.root.clone());
    app(&mut draft, found, &root, take.is_none());
    source(&mut draft, found, folder);
    let data = Data::of(found);
    // What is taken over is moved by `adopt` itself: nothing is left for a person to bring.
    let bring = take.is_none().then_some((folder, root.as_path()));
    build(&mut draft, found, &data, bring);
    database(&mut draft, found, &data, bring, folder);
    match take {
        Some(take) => taken_over(&mut draft, take),
        None => {
            service(&mut draft, found);
            health(&mut draft, found);
            front(&mut draft, found);
        }
    }
    rest(&mut draft, found);
    draft
}

/// The sections of an app that is a child of `plimsoll serve` from now on, at the address that users know.
fn taken_over(draft: &mut Draft, take: &TakeOver) {
    draft.section("[service]");
    draft.line("kind = \"process\"");
    draft.line("# As it was started before; $PORT is where it must listen now, behind the front door.");
    draft.line(&format!("command = {}", text(&take.command)));
    if !take.env.is_empty() {
        let pairs = take.env.iter().map(|(name, value)| format!("{name} = {}", text(value)));
        draft.line(&format!("env = {{ {} }}", pairs.collect::<Vec<_>>().join(", ")));
    }
    draft.line("# It answers well now. Better one that looks at the database and names its release (header x-release).");
    draft.line(&format!("health = {}", text(&take.health)));
    draft.line("start_timeout = \"30s\"");
    draft.line("stop_timeout = \"10s\"");
    draft.section("[front]");
    draft.line("# Where the app listened before: what is in front of it need not be changed.");
    draft.line(&format!("listen = {}", text(take.listen.to_string())));
    draft.line("hold_budget = \"10s\"");
    draft.line("drain = \"5s\"");
    draft.line("# public_url = \"https://shop.example.com\"");
}

impl Draft {
    /// Values escape their control characters; in a comment, a file's odd name could end the line.
    fn line(&mut self, line: &str) {
        self.text.push_str(&line.replace(char::is_control, "?"));
        self.text.push('\n');
    }

    fn section(&mut self, name: &str) {
        self.line("");
        self.line(name);
    }

    fn found(&mut self, what: String) {
        self.found.push(what);
    }

    fn guessed(&mut self, what: String) {
        self.guessed.push(what);
    }
}

/// A text as TOML, on one line. What JSON escapes, TOML escapes alike; TOML has one character more.
fn text(text: impl AsRef<str>) -> String {
    serde_json::Value::from(text.as_ref()).to_string().replace('\u{7f}', "\\u007f")
}

fn texts<T: AsRef<str>>(list: impl IntoIterator<Item = T>) -> String {
    let list: Vec<String> = list.into_iter().map(text).collect();
    format!("[{}]", list.join(", "))
}

/// A path as it is typed to a shell.
fn quoted(path: &Path) -> String {
    shell_words::quote(&shown(path)).into_owned()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Releases do not belong into a work tree: the root is a folder beside it.
fn root(found: &Found, folder: &Path) -> PathBuf {
    let tree = found.git.as_ref().map_or(folder, |git| &git.top);
    if found.git.is_none() && found.stack.is_none() && found.databases.is_empty() {
        return folder.to_owned();
    }
    tree.parent().unwrap_or(tree).join(format!("{}-production", found.name))
}

fn app(draft: &mut Draft, found: &Found, root: &Path, guess: bool) {
    draft.section("[app]");
    draft.line(&format!("name = {}", text(&found.name)));
    draft.line("# Holds releases/ current shared/ backups/ runs/.");
    if guess {
        draft.line(&format!("root = {}   # guessed", text(shown(root))));
        draft.guessed(format!("[app].root is {}", root.display()));
    } else {
        draft.line(&format!("root = {}", text(shown(root))));
    }
}

fn source(draft: &mut Draft, found: &Found, folder: &Path) {
    draft.section("[source]");
    match &found.git {
        Some(git) => {
            let branch = git.branch.as_deref().unwrap_or("main");
            draft.line(&format!("git = {}", text(&git.url)));
            draft.line(&format!("branch = {}", text(branch)));
            if !git.directory.as_os_str().is_empty() {
                draft.line("# The app's folder within the repository.");
                draft.line(&format!("directory = {}", text(shown(&git.directory))));
            }
            draft.found(format!("git repository {}, branch {branch}", git.url));
        }
        None => {
            draft.line("# This folder is not in a git repository yet: git init, git add, git commit.");
            draft.line(&format!("git = {}   # guessed", text(shown(folder))));
            draft.line("branch = \"main\"");
            draft.guessed("[source].git is this folder, which is not a git repository yet".to_owned());
        }
    }
}

/// Where the data is now, and where it will be.
struct Data {
    /// Relative to the app's folder; `None` when no file was found.
    now: Option<PathBuf>,
    /// Relative to `shared/`, and to a release.
    kept: PathBuf,
    /// What is linked for it: the folder that holds nothing but data, or the file.
    link: PathBuf,
}

impl Data {
    fn of(found: &Found) -> Data {
        let now = found.databases.first().cloned();
        let usual = || PathBuf::from(found.stack.as_ref().map_or("app.db", |stack| stack.database));
        let kept = now.clone().unwrap_or_else(usual);
        // db/ and prisma/ hold code too.
        let data_only = ["instance", "storage", "data", "var"].iter().find(|folder| kept.starts_with(folder));
        let link = data_only.map_or_else(|| kept.clone(), PathBuf::from);
        Data { now, kept, link }
    }
}

fn build(draft: &mut Draft, found: &Found, data: &Data, bring: Option<(&Path, &Path)>) {
    draft.section("[build]");
    draft.line("# Run in the new release's folder, by a shell, before anything is stopped.");
    match &found.stack {
        Some(stack) => {
            draft.line("commands = [   # guessed");
            for command in &stack.build {
                draft.line(&format!("  {},", text(command)));
            }
            draft.line("]");
            draft.found(format!("{} application ({})", stack.word, stack.told_by));
            draft.guessed(format!("it is built with: {}", stack.build.join(" && ")));
        }
        None => {
            draft.line("commands = []");
            draft.guessed("no kind of application was recognised: nothing is built".to_owned());
        }
    }
    draft.line("timeout = \"10m\"");
    let links = links(found, data);
    draft.line("# Linked from shared/ into every release: what outlives releases.");
    draft.line(&format!("link = {}", texts(links.iter().map(|link| shown(link)))));
    let Some((folder, root)) = bring else { return };
    for kept in &found.kept {
        let (from, to) = (folder.join(kept), root.join("shared").join(kept));
        draft.line(&format!("# Before the first deployment copy {} to {}.", from.display(), to.display()));
        draft.found(format!("{} outlives releases; copy it to {}", kept.display(), to.display()));
    }
}

/// What is linked from `shared/` into every release.
fn links(found: &Found, data: &Data) -> Vec<PathBuf> {
    let mut links = found.kept.clone();
    if !links.contains(&data.link) {
        links.push(data.link.clone());
    }
    links
}

/// What `[build].link` holds in the draft: names in the app's folder, and in `shared/`.
pub(crate) fn linked(found: &Found) -> Vec<PathBuf> {
    links(found, &Data::of(found))
}

fn database(draft: &mut Draft, found: &Found, data: &Data, bring: Option<(&Path, &Path)>, folder: &Path) {
    draft.section("[database]");
    let url = format!("sqlite:shared/{}", data.kept.display());
    match &data.now {
        Some(now) => {
            if let Some((folder, root)) = bring {
                let file = folder.join(now);
                let place = root.join("shared").join(&data.kept);
                draft.line("# The data is elsewhere now. Bring it here before the first deployment, with the app stopped:");
                draft.line(&format!("#   plimsoll backup --db {}", quoted(&file)));
                draft.line(&format!("#   plimsoll backup restore BACKUP --to {}", quoted(&place)));
            }
            draft.line(&format!("url = {}", text(url)));
            draft.found(format!("SQLite database {}", now.display()));
        }
        None => {
            draft.line("# No SQLite file was found. The app is told the place in DATABASE_PATH.");
            draft.line(&format!("url = {}   # guessed", text(&url)));
            draft.guessed(format!("[database].url is {url}: no SQLite file was found"));
        }
    }
    for other in found.databases.iter().skip(1) {
        draft.line(&format!("# Also found, not deployed: {}", other.display()));
    }
    if found.tables.is_empty() {
        draft.line("# tables = [\"products\", \"orders\"]   # counted first and named in the report");
    } else {
        draft.line("# Counted first and named in the report; all tables are counted.");
        draft.line(&format!("tables = {}   # guessed", texts(&found.tables)));
    }
    let here = sql_files(folder);
    match found.stack.as_ref().map_or(&here, |stack| &stack.migrations) {
        Migrations::Folder(within) => {
            draft.line(&format!("migrations = {}", text(within)));
            draft.found(format!("migrations in {within}/"));
        }
        Migrations::Command(command) => {
            draft.line(&format!("migrate = {}   # guessed", texts([command])));
            draft.guessed(format!("migrations are applied by: {command}"));
        }
        Migrations::App => {
            draft.line("# migrations = \"migrations\"   # SQL files: NNNN_description.sql");
            draft.line("# migrate = [\"COMMAND\"]        # or a command of the app's own; neither: it migrates at start");
            draft.guessed("the app changes its schema by itself, if at all".to_owned());
        }
    }
}

fn service(draft: &mut Draft, found: &Found) {
    draft.section("[service]");
    let usual = found.stack.as_ref().map_or(8000, |stack| stack.port);
    match &found.runner {
        Some(runner) => {
            let key = if runner.kind == Runs::Systemd { "unit" } else { "program" };
            draft.line(&format!(
                "# {} runs the app now. It must start it from current/ in the root,",
                runner.file.display()
            ));
            draft.line("# so that it starts the release that is live.");
            draft.line(&format!("kind = {}", text(runner.kind.word())));
            draft.line(&format!("{key} = {}", text(&runner.name)));
            draft.found(format!("{} {key} {}", runner.kind.word(), runner.name));
            let mark = if runner.port().is_some() { "" } else { "   # guessed" };
            let address = format!("127.0.0.1:{}", runner.port().unwrap_or(usual));
            draft.line(&format!("address = {}{mark}", text(&address)));
            if runner.port().is_none() {
                draft.guessed(format!("the app listens on {address}"));
            }
        }
        None => {
            let command = found.stack.as_ref().map_or("./run", |stack| stack.command.as_str());
            draft.line("kind = \"process\"");
            draft.line("# Started in the release's folder, without a shell; $PORT is where it must listen.");
            if let Some(remark) = found.stack.as_ref().and_then(|stack| stack.remark) {
                draft.line(&format!("# Look at this: {remark}."));
                draft.guessed(remark.to_owned());
            }
            draft.line(&format!("command = {}   # guessed", text(command)));
            draft.guessed(format!("it is started with: {command}"));
        }
    }
}

fn health(draft: &mut Draft, found: &Found) {
    match &found.health {
        Some(path) => {
            draft.line(&format!("health = {}", text(path)));
            draft.found(format!("{path} in the code, taken as the health path"));
        }
        None => {
            draft.line(
                "# Better a path that looks at the database and says which release it is (header x-release).",
            );
            draft.line("health = \"/\"   # guessed");
            draft.guessed("the app is healthy when / answers below 400".to_owned());
        }
    }
    draft.line("start_timeout = \"30s\"");
    draft.line("stop_timeout = \"10s\"");
    draft.line("# env = { LOG_LEVEL = \"info\", SECRET_KEY = \"env:SECRET_KEY\" }");
}

fn front(draft: &mut Draft, found: &Found) {
    draft.line("");
    let commented = if found.runner.is_some() { "# " } else { "" };
    if found.runner.is_some() {
        draft.line(
            "# Another proxy faces the users. With Plimsoll's front door requests wait instead of failing:",
        );
    } else {
        draft.line("# Users, or the web server that faces them, come in here. Requests wait while a release is changed.");
    }
    let mut text = String::from(
        "[front]\nlisten = \"127.0.0.1:8080\"   # guessed\nhold_budget = \"10s\"\ndrain = \"5s\"\n",
    );
    text.push_str("# public_url = \"https://shop.example.com\"\n");
    for line in text.lines() {
        // A line that is a comment already needs no second mark.
        let mark = if line.starts_with('#') { "" } else { commented };
        draft.line(&format!("{mark}{line}"));
    }
    if found.runner.is_none() {
        draft.guessed("the front door listens on 127.0.0.1:8080".to_owned());
    }
}

fn rest(draft: &mut Draft, found: &Found) {
    draft.section(
        "# What must work before users are let in. Add what earns the money: search, cart, checkout.",
    );
    draft.line("[[smoke]]");
    draft.line("name = \"Homepage loads without errors\"");
    draft.line("get = \"/\"   # guessed");
    draft.line("# contains = \"Welcome\"");
    for unit in &found.workers {
        draft.section(
            "# It runs from the same folder: stopped before the snapshot, started after the commit point.",
        );
        draft.line("[[worker]]   # guessed");
        draft.line(&format!("name = {}", text(unit.trim_end_matches(".service"))));
        draft.line(&format!("unit = {}", text(unit)));
        draft.guessed(format!("{unit} writes to the database too"));
    }
    draft.section("# [rehearsal]");
    draft
        .line("# env = { SMTP_HOST = \"127.0.0.1\" }   # so that a copy can reach neither mail nor payments");
    draft.section("[watch]");
    draft.line("errors_for = \"10m\"");
    draft.section("[backup]");
    draft.line("keep_days = 14");
    draft.line("# keep_weekly = 8      # and one of each of the last 8 weeks; also keep_last, keep_daily, keep_monthly");
    draft.line("# copies = [\"/mnt/external/backup\", \"s3://bucket/backups\"]   # S3: as the AWS tools find it, or [backup.s3]");
}
