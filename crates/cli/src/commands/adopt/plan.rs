//! What an adoption will do, from what is found. Making a plan changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_core::plan::ReleaseId;
use plimsoll_host::durable;
use plimsoll_host::service::{Answer, Health, ask};
use plimsoll_host::sqlite::history;
use plimsoll_host::sqlite::migration::{self, Migration};
use plimsoll_host::sqlite::replay::replay;
use plimsoll_host::sqlite::verification::{Wanted, examine};

use super::acts::Act;
use super::machine::{has_systemd, run, said};
use super::unwritten;
use crate::args::AdoptArgs;
use crate::config::{Config, FILE_NAME, Migrations as Configured};
use crate::error::{Error, Kind};
use crate::survey::{self, Bind, Found, Runner, Runs, TakeOver};

/// Variables of which everybody may know the value. All others may be secrets and get a file of their own.
const HARMLESS: [&str; 10] = [
    "FLASK_ENV",
    "FLASK_APP",
    "DJANGO_SETTINGS_MODULE",
    "NODE_ENV",
    "RAILS_ENV",
    "PYTHONUNBUFFERED",
    "PYTHONDONTWRITEBYTECODE",
    "TZ",
    "LANG",
    "LOG_LEVEL",
];
/// What a person's shell leaves in the environment of a process, and what Plimsoll sets itself.
const NOT_THE_APPS: [&str; 22] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "TERM",
    "_",
    "MAIL",
    "PORT",
    "HOST",
    "DATABASE_PATH",
    "PLIMSOLL_RELEASE",
    "SERVER_SOFTWARE",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "LS_COLORS",
    "LANGUAGE",
    "HOSTNAME",
];
const PRIVATE_FOLDER: u32 = 0o700;
const FOLDER: u32 = 0o755;

/// See the module.
pub(super) struct Plan {
    pub(super) name: String,
    /// The checkout.
    pub(super) folder: PathBuf,
    pub(super) root: PathBuf,
    /// What its files hold.
    pub(super) config: String,
    pub(super) listen: SocketAddr,
    /// What is checked out, whole.
    pub(super) commit: String,
    pub(super) runner: Runner,
    pub(super) workers: Vec<String>,
    /// Who the app runs as, when that is not us.
    pub(super) user: Option<String>,
    pub(super) group: Option<String>,
    /// Relative to the checkout and to `shared/`.
    pub(super) database: PathBuf,
    /// What else outlives releases, alike: each an entry to move.
    pub(super) kept: Vec<PathBuf>,
    /// What `[build].link` names.
    linked: Vec<PathBuf>,
    /// Secrets by name, for files in `shared/env/`.
    secrets: BTreeMap<String, String>,
    /// The last migration that the database has already, when that is not written in it.
    pub(super) baseline: Option<u64>,
    /// What a person should look at afterwards.
    pub(super) hints: Vec<String>,
}

/// Where an app in this folder is taken to unless it is said.
pub(super) fn usual_root(folder: &Path) -> PathBuf {
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    folder.with_file_name(format!("{name}-production"))
}

fn refuse<T>(what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Result<T, Error> {
    Err(Error::usage(what).why(why).state("nothing was changed").next(next))
}

impl Plan {
    /// Looks at everything that could be in the way.
    pub(super) fn of(found: &Found, folder: &Path, args: &AdoptArgs) -> Result<Plan, Error> {
        let root = args.root.clone().unwrap_or_else(|| usual_root(folder));
        if !root.is_absolute() || root.starts_with(folder) {
            return refuse(
                format!("{} cannot be the root", root.display()),
                "it must be an absolute path outside of the checkout",
                "plimsoll adopt --root /srv/NAME",
            );
        }
        if found.git.is_none() {
            return refuse(
                format!("{} is not in a git repository", folder.display()),
                "releases are made from commits",
                format!(
                    "git -C {0} init && git -C {0} add . && git -C {0} commit -m 'As it runs'   (data and .env in .gitignore first)",
                    folder.display()
                ),
            );
        }
        let Some(database) = found.databases.first().cloned() else {
            return refuse(
                format!("no SQLite database was found in {}", folder.display()),
                "an app without one, or with one elsewhere, needs no data moved",
                "plimsoll init, and follow docs/guides/first-deployment.md",
            );
        };
        let runner = runner(found, folder)?;
        if runner.kind == Runs::Systemd && !rustix::process::geteuid().is_root() {
            return refuse(
                "units can be changed by root only",
                format!("{} runs the app", runner.name),
                "sudo plimsoll adopt",
            );
        }
        let listen = listen(&runner)?;
        let command = command(&runner, folder, listen.port(), found)?;
        let linked = survey::linked(found);
        let commit = commit(folder, &linked)?;
        let (user, group) = owner(&runner, folder)?;
        let health = health(found, listen)?;
        let mut env = environment(&runner, folder)?;
        let secrets: BTreeMap<String, String> = env
            .iter()
            .filter(|(name, _)| !HARMLESS.contains(&name.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        for name in secrets.keys() {
            env.insert(name.clone(), format!("file:{}", root.join("shared/env").join(name).display()));
        }
        let take = TakeOver { root: root.clone(), command, listen, env, health };
        let draft = survey::draft(found, folder, Some(&take));
        let file = root.join(FILE_NAME);
        let config = Config::from_text(&file, &draft.text).map_err(|error| {
            let mistakes = Error::from(error);
            Error::new(Kind::Bug, "adopt made a file that does not load").details(mistakes.details.to_vec())
        })?;
        let mut plan = Plan {
            name: found.name.clone(),
            folder: folder.to_owned(),
            root,
            config: draft.text,
            listen,
            commit,
            runner,
            workers: found.workers.clone(),
            user,
            group,
            kept: kept(found, folder, &database, &linked),
            database,
            linked,
            secrets,
            baseline: None,
            hints: Vec::new(),
        };
        plan.same_disk()?;
        plan.look_at_migrations(&config)?;
        plan.hints = hints(&plan, found);
        Ok(plan)
    }

    /// A plan for taking back alone: acts carry what they need.
    pub(super) fn to_undo(folder: PathBuf, root: PathBuf, user: Option<String>, runner: Runner) -> Plan {
        Plan {
            name: String::new(),
            folder,
            root,
            config: String::new(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            commit: String::new(),
            runner,
            workers: Vec::new(),
            user,
            group: None,
            database: PathBuf::new(),
            kept: Vec::new(),
            linked: Vec::new(),
            secrets: BTreeMap::new(),
            baseline: None,
            hints: Vec::new(),
        }
    }

    /// Where its users are asked for from this machine.
    pub(super) fn local(&self) -> SocketAddr {
        local(self.listen)
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.root.join(FILE_NAME)
    }

    fn same_disk(&self) -> Result<(), Error> {
        let device = |path: &Path| {
            let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
            fs::metadata(there).map(|found| found.dev())
        };
        match (device(&self.folder.join(&self.database)), device(&self.root)) {
            (Ok(from), Ok(to)) if from == to => Ok(()),
            (Ok(_), Ok(_)) => refuse(
                format!("{} is on another disk than the database", self.root.display()),
                "the database is not copied but renamed, so that no row can be missed",
                "name a root on the disk of the database: plimsoll adopt --root DIR",
            ),
            (Err(e), _) | (_, Err(e)) => {
                Err(Error::failed("the disk of the database cannot be told").why(e.to_string()))
            }
        }
    }

    /// A database made before Plimsoll may have all migrations and no line that says so.
    fn look_at_migrations(&mut self, config: &Config) -> Result<(), Error> {
        let Configured::Folder(within) = &config.database.migrations else { return Ok(()) };
        let Ok(files) = migration::load(&self.folder.join(within)) else { return Ok(()) };
        let database = self.folder.join(&self.database);
        // Without schema_version there is no status: exactly the case to look into.
        let known = history::status(&database, &files).is_ok_and(|status| !status.applied.is_empty());
        if known || files.all.is_empty() {
            return Ok(());
        }
        let fits = |upto: u64| {
            let some: Vec<&Migration> = files.all.iter().filter(|m| m.version <= upto).collect();
            let Ok(learned) = replay(&some) else { return false };
            let wanted = Wanted { learned: Some(learned), ..Wanted::default() };
            let mut quiet = plimsoll_host::sqlite::control::Control::default();
            let about = ["tables", "columns", "objects"];
            examine(&database, &wanted, &mut quiet).is_ok_and(|found| {
                found.checks.iter().all(|c| {
                    c.verdict != plimsoll_core::check::Verdict::Fail || !about.contains(&c.name.as_str())
                })
            })
        };
        self.baseline = files.all.iter().rev().map(|m| m.version).find(|version| fits(*version));
        if self.baseline.is_none() {
            self.hints.push(format!(
                "the database has no schema_version, and its schema is not what the files in {} make: look at `plimsoll migrate status` before the next deployment",
                within.display()
            ));
        }
        Ok(())
    }

    /// Everything in the new root that the app does not use yet.
    pub(super) fn lay_out(&self) -> Result<(), Error> {
        for (name, mode) in [
            ("", FOLDER),
            ("releases", FOLDER),
            ("shared", FOLDER),
            ("backups", PRIVATE_FOLDER),
            ("runs", PRIVATE_FOLDER),
            ("logs", PRIVATE_FOLDER),
        ] {
            durable::create_dir(&self.root.join(name), mode).map_err(unwritten)?;
        }
        let shared = self.root.join("shared");
        if !self.secrets.is_empty() {
            durable::create_dir(&shared.join("env"), PRIVATE_FOLDER).map_err(unwritten)?;
            for (name, value) in &self.secrets {
                durable::write(&shared.join("env").join(name), 0o600, value.as_bytes()).map_err(unwritten)?;
            }
        }
        // Release 1 links to these. A file is copied for the build and moved over the copy when the app stands still.
        for link in &self.linked {
            let (from, to) = (self.folder.join(link), shared.join(link));
            let above = to.parent().unwrap_or(&shared);
            durable::create_dir(above, FOLDER).map_err(unwritten)?;
            if from.is_dir() {
                durable::create_dir(&to, FOLDER).map_err(unwritten)?;
            } else if *link != self.database {
                fs::copy(&from, &to).map_err(|e| unwritten(durable::Error::io("copy", &from, e)))?;
            }
        }
        durable::write(&self.config_file(), 0o644, self.config.as_bytes()).map_err(unwritten)
    }

    /// The root belongs to whom the app belongs.
    pub(super) fn give_away(&self) -> Result<(), Error> {
        let Some(user) = self.user.as_deref().filter(|_| rustix::process::geteuid().is_root()) else {
            return Ok(());
        };
        let whom = format!("{user}:{}", self.group.as_deref().unwrap_or(""));
        run(&["chown", "--recursive", "--no-dereference", &whom, &self.root.display().to_string()])
    }

    /// In order. From the first on, users meet nobody.
    pub(super) fn acts(&self, release: &ReleaseId) -> Vec<Act> {
        let mut acts: Vec<Act> =
            self.workers.iter().map(|unit| Act::StopWorker { unit: unit.clone() }).collect();
        acts.push(Act::Stop { runner: (&self.runner).into() });
        acts.push(Act::Backup {
            database: self.folder.join(&self.database),
            folder: self.root.join("backups"),
        });
        let shared = self.root.join("shared");
        acts.push(Act::MoveDatabase {
            from: self.folder.join(&self.database),
            to: shared.join(&self.database),
        });
        for name in &self.kept {
            acts.push(Act::Move { from: self.folder.join(name), to: shared.join(name) });
        }
        acts.push(Act::Current { release: release.clone() });
        if let Some(version) = self.baseline {
            acts.push(Act::Baseline { version });
        }
        acts.push(Act::Serve {
            supervisor: self.runner.kind == Runs::Supervisor,
            systemd: self.runner.kind != Runs::Supervisor
                && has_systemd()
                && rustix::process::geteuid().is_root(),
        });
        acts
    }

    /// Once the release has been seen to answer.
    pub(super) fn last_acts(&self) -> Vec<Act> {
        let mut acts = Vec::new();
        if !matches!(self.runner.kind, Runs::Process(_)) {
            acts.push(Act::Retire { runner: (&self.runner).into() });
        }
        acts.extend(self.workers.iter().map(|unit| Act::StartWorker { unit: unit.clone() }));
        acts
    }

    /// The plan in lines, for a person.
    pub(super) fn shown(&self) -> Vec<String> {
        let mut lines = vec![
            format!("While {} runs on:", self.runner.name),
            format!(
                "  make {} with the plimsoll.toml above{}",
                self.root.display(),
                match self.secrets.len() {
                    0 => String::new(),
                    n => format!(
                        ", and {n} file(s) with what the app is given: {}",
                        self.secrets.keys().cloned().collect::<Vec<_>>().join(", ")
                    ),
                }
            ),
            format!("  build release 1 from commit {}", &self.commit[..self.commit.len().min(7)]),
            "Then, while users meet nobody (some seconds):".to_owned(),
        ];
        let release = ReleaseId::new(1, &self.commit);
        lines.extend(self.acts(&release).iter().map(|act| format!("  {act}")));
        lines.push(format!("Then, once {} answers again:", self.listen));
        lines.extend(self.last_acts().iter().map(|act| format!("  {act}")));
        lines.push("Every path of before leads to the new place, and everything can be taken back: plimsoll adopt --undo".to_owned());
        lines
    }
}

/// Where a listener is asked from this machine.
fn local(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() { SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port())) } else { listen }
}

/// Who runs the app, seen for sure.
fn runner(found: &Found, folder: &Path) -> Result<Runner, Error> {
    if let Some(runner) = &found.runner {
        return Ok(runner.clone());
    }
    let mut processes = survey::processes(folder);
    match processes.len() {
        1 => Ok(processes.remove(0)),
        0 => refuse(
            format!("nothing runs from {}", folder.display()),
            "no systemd unit or supervisor program names it, and no process that listens works there",
            "start the app as always, then adopt it; or begin anew: plimsoll init",
        ),
        _ => refuse(
            format!("several programs run from {}", folder.display()),
            processes.iter().map(|p| format!("{}: {}", p.name, p.command)).collect::<Vec<_>>().join("; "),
            "stop all but the app itself",
        ),
    }
}

fn listen(runner: &Runner) -> Result<SocketAddr, Error> {
    match &runner.bind {
        Some(Bind::Port { host, port }) => {
            let host = host.as_deref().unwrap_or("127.0.0.1").trim_matches(['[', ']']);
            let address = if host == "localhost" {
                IpAddr::V4(Ipv4Addr::LOCALHOST)
            } else {
                host.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
            };
            Ok(SocketAddr::new(address, *port))
        }
        Some(Bind::Unix(path)) => refuse(
            format!("the app listens on {path}"),
            "the front door takes over the address of the app, and listens on ports only",
            "let the app and what is in front of it (proxy_pass) use 127.0.0.1:8000 instead, then adopt it",
        ),
        None => refuse(
            format!("where the app listens is not written in {}", runner.file.display()),
            "the front door takes over the address of the app",
            "name the port in its command or as PORT in its environment, restart it, then adopt it",
        ),
    }
}

/// How a release is started: as before, from its own folder, on the port that it is given.
fn command(runner: &Runner, folder: &Path, port: u16, found: &Found) -> Result<String, Error> {
    let here = folder.display().to_string();
    let own = runner.command.replace(&format!("{here}/"), "");
    if survey::names(folder, &own) {
        return refuse(
            format!("the command of {} names the checkout", runner.name),
            own,
            "write it so that it works in the folder it is started in, restart it, then adopt it",
        );
    }
    if let Some(command) = survey::with_port_variable(&own, port) {
        return Ok(command);
    }
    let reads_port = runner.env.contains_key("PORT")
        || found
            .stack
            .as_ref()
            .is_some_and(|stack| stack.code(folder).iter().any(|text| text.contains("PORT")));
    if reads_port {
        return Ok(own);
    }
    if own.contains("gunicorn") {
        return Ok(format!("{own} --bind 127.0.0.1:$PORT"));
    }
    if own.contains("manage.py runserver") {
        return Ok(format!("{own} 127.0.0.1:$PORT"));
    }
    refuse(
        "the app has its port in its code",
        format!("{own}: neither the command nor the environment names port {port}"),
        "let it listen on the port in the environment variable PORT, commit that, then adopt it",
    )
}

/// What is checked out; refused when files differ from it.
fn commit(folder: &Path, linked: &[PathBuf]) -> Result<String, Error> {
    let here = folder.display().to_string();
    let git = |words: &[&str]| {
        let all: Vec<&str> =
            ["git", "-c", "safe.directory=*", "-C", here.as_str()].iter().chain(words).copied().collect();
        said(&all)
    };
    let changed: Vec<String> = git(&["status", "--porcelain", "--untracked-files=no"])?
        .lines()
        .filter_map(|line| line.get(3..))
        .filter(|file| !linked.iter().any(|link| Path::new(file).starts_with(link)))
        .map(str::to_owned)
        .collect();
    if !changed.is_empty() {
        return Err(Error::usage("what runs here is not what is committed")
            .details(changed)
            .why("release 1 is made from the commit, and would lack these changes")
            .state("nothing was changed")
            .next(format!(
                "git -C {here} commit -am 'As it runs'   (and push it, if the code comes from elsewhere)"
            )));
    }
    Ok(git(&["rev-parse", "HEAD"])?.trim().to_owned())
}

/// Who the app runs as, and their group.
fn owner(runner: &Runner, folder: &Path) -> Result<(Option<String>, Option<String>), Error> {
    let owned = fs::metadata(folder)
        .map_err(|e| Error::failed(format!("cannot look at {}", folder.display())).why(e.to_string()))?;
    let user = match &runner.user {
        Some(user) => user.clone(),
        // A unit without User= runs as root.
        None if runner.kind == Runs::Systemd => return Ok((None, None)),
        None => owned.uid().to_string(),
    };
    let name = said(&["id", "--user", "--name", "--", &user])?.trim().to_owned();
    let group = said(&["id", "--group", "--name", "--", &user])?.trim().to_owned();
    Ok(if name == "root" { (None, None) } else { (Some(name), Some(group)) })
}

/// A path that answers well now.
fn health(found: &Found, listen: SocketAddr) -> Result<String, Error> {
    let at = local(listen);
    let known = ["/healthz", "/health", "/up", "/"].map(str::to_owned);
    let mut said = Vec::new();
    for path in found.health.iter().cloned().chain(known) {
        let health = Health { path: path.clone(), release_pointer: None, headers: Vec::new() };
        match ask(at, &health, &ReleaseId(String::new()), Duration::from_secs(10)) {
            Answer::Well { .. } | Answer::OtherRelease { .. } => return Ok(path),
            answer => said.push(format!("{path}: {answer}")),
        }
    }
    refuse(
        format!("the app does not answer well at {at}"),
        said.join("; "),
        "see whether it runs; a path that answers 200 is needed, best /healthz",
    )
}

/// What the app is given, without what every process has.
fn environment(runner: &Runner, folder: &Path) -> Result<BTreeMap<String, String>, Error> {
    let mut env = BTreeMap::new();
    for file in &runner.env_files {
        let file = folder.join(file);
        let text = fs::read_to_string(&file).map_err(|e| {
            Error::failed(format!("cannot read {}", file.display()))
                .why(e.to_string())
                .state("nothing was changed")
        })?;
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            let Some((name, value)) = line.split_once('=') else { continue };
            env.insert(name.trim().to_owned(), value.trim().trim_matches(['"', '\'']).to_owned());
        }
    }
    env.extend(runner.env.clone());
    env.retain(|name, value| {
        let shells = name.starts_with("SSH_")
            || name.starts_with("XDG_")
            || name.starts_with("SUDO_")
            || name.starts_with("LC_");
        !value.is_empty() && !NOT_THE_APPS.contains(&name.as_str()) && !shells
    });
    Ok(env)
}

/// What is moved besides the database: linked files and folders, and what shares the database's folder.
fn kept(found: &Found, folder: &Path, database: &Path, linked: &[PathBuf]) -> Vec<PathBuf> {
    let mut kept: Vec<PathBuf> =
        found.kept.iter().filter(|name| !database.starts_with(name)).cloned().collect();
    let Some(data) = linked.iter().find(|link| database.starts_with(link) && *link != database) else {
        return kept;
    };
    let Ok(entries) = fs::read_dir(folder.join(data)) else { return kept };
    let mut others: Vec<PathBuf> = entries.flatten().map(|entry| data.join(entry.file_name())).collect();
    let log = |name: &Path| {
        let (name, database) = (name.to_string_lossy(), database.to_string_lossy());
        name.strip_prefix(database.as_ref())
            .is_some_and(|rest| ["", "-wal", "-shm", "-journal"].contains(&rest))
    };
    others.retain(|name| !log(name));
    others.sort();
    kept.extend(others);
    kept
}

/// What an adoption cannot do for a person.
fn hints(plan: &Plan, found: &Found) -> Vec<String> {
    let mut hints = plan.hints.clone();
    for worker in &plan.workers {
        hints.push(format!(
            "{worker} goes on running from {}: let it work in {}/current, so that it gets new releases",
            plan.folder.display(),
            plan.root.display()
        ));
    }
    let configs = ["/etc/nginx/sites-enabled", "/etc/nginx/conf.d"]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok());
    for file in configs.flat_map(|entries| entries.flatten().map(|entry| entry.path())) {
        let text = fs::read_to_string(&file).unwrap_or_default();
        if survey::names(&plan.folder, &text) {
            hints.push(format!(
                "{} serves files of {}: let it serve those of {}/current",
                file.display(),
                plan.folder.display(),
                plan.root.display()
            ));
        }
    }
    let absolute = plan.folder.join(&plan.database).display().to_string();
    let named = found
        .stack
        .as_ref()
        .is_some_and(|stack| stack.code(&plan.folder).iter().any(|text| text.contains(&absolute)));
    if named || plan.secrets.values().any(|value| value.contains(&absolute)) {
        hints.push(format!(
            "the app names {absolute} itself: let it read DATABASE_PATH, so that releases can be tried on a copy"
        ));
    }
    if matches!(plan.runner.kind, Runs::Process(_)) && !has_systemd() {
        hints.push("nothing starts `plimsoll serve` with the machine: see plimsoll install".to_owned());
    }
    hints
}
