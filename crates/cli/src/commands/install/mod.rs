//! `install` and `uninstall`: what starts `plimsoll serve` with the machine. Shown before it is written; only what was
//! written, and is still as it was written, is taken away.

mod installed;
mod units;

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_host::durable;
use plimsoll_host::process::{self, Command, End, Limits, Sink};
use serde_json::json;

use crate::args::{InstallArgs, UninstallArgs};
use crate::config::{Config, Listen, ServiceKind, WorkerKind};
use crate::error::{Error, Kind};
use crate::follow;
use crate::ui::Ui;
use installed::{Installed, Manager, is_in, keep, record, record_path, refuse_others, take_away, unwritten};
use units::{UnitFile, Wanted};

/// How long systemctl or supervisorctl may take; stopping `serve` waits for its run.
const PATIENCE: Duration = Duration::from_secs(600);
const FILE_MODE: u32 = 0o644;
const FOLDER_MODE: u32 = 0o755;

/// `plimsoll install`
pub(crate) fn install(config: &Config, args: &InstallArgs, ui: &Ui) -> Result<(), Error> {
    let by_supervisor = args.supervisor || matches!(config.service.kind, ServiceKind::Supervisor { .. });
    let manager = match (by_supervisor, args.systemd_user) {
        (_, true) => Manager::SystemdUser,
        (true, false) => Manager::Supervisor,
        (false, false) => Manager::Systemd,
    };
    let own = (manager == Manager::SystemdUser).then(|| own_units(config)).transpose()?;
    let program = std::env::current_exe()
        .map_err(|e| Error::failed("the path of this program cannot be told").why(e.to_string()))?;
    let user = match &args.user {
        _ if own.is_some() => None,
        Some(name) => Some(name.clone()),
        None => owner(config)?,
    }
    .filter(|name| name != "root");
    let listen = listen(config, args, manager)?;
    let wanted = Wanted { config, program: &program, own, user: user.as_deref(), listen };
    let files = match manager {
        Manager::Systemd | Manager::SystemdUser => units::systemd(&wanted),
        Manager::Supervisor => units::supervisor(&wanted),
    };
    if files.iter().any(|file| file.path.to_string_lossy().contains(char::is_control)) {
        return Err(Error::usage("a path with control characters cannot stand in a unit"));
    }
    show(&files, ui);
    notes(config, &user, manager, ui);
    if args.print {
        return Ok(());
    }
    if !config.app.root.is_dir() {
        return Err(Error::usage(format!("the app's root {} is not there", config.app.root.display()))
            .state("nothing was written")
            .next("make it, owned by the user that is to run the app"));
    }
    let before = record(config)?;
    refuse_others(&files, before.as_ref())?;
    let gone: Vec<UnitFile> =
        before.iter().flat_map(|b| &b.files).filter(|old| !is_in(old, &files)).cloned().collect();
    for file in &gone {
        ui.say(&format!("no longer needed, goes away: {}", file.path.display()));
    }
    let as_whom = if manager == Manager::SystemdUser { "for your own systemd" } else { "as root" };
    agreed(args.yes, &format!("Write {} file(s) {as_whom}?", files.len()), ui)?;
    // Known before anything is written, so that a half-done install can be taken away.
    let mut all = files.clone();
    all.extend(gone.iter().cloned());
    keep(config, &Installed { manager, files: all })?;
    for file in &files {
        if let Some(folder) = file.path.parent() {
            durable::create_dir(folder, FOLDER_MODE).map_err(|e| unwritten(&e))?;
        }
        durable::write(&file.path, FILE_MODE, file.text.as_bytes()).map_err(|e| unwritten(&e))?;
    }
    let left = take_away(&gone, ui)?;
    keep(config, &Installed { manager, files: files.iter().chain(&left).cloned().collect() })?;
    let name = units::name(config);
    match manager {
        Manager::Systemd | Manager::SystemdUser => systemd_started(manager, &name, &files, args.start, ui),
        Manager::Supervisor => supervisor_started(&name, args.start, ui),
    }
}

/// The words that systemd is commanded with.
fn systemctl(manager: Manager) -> &'static [&'static str] {
    if manager == Manager::SystemdUser { &["systemctl", "--user"] } else { &["systemctl"] }
}

fn with<'a>(words: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    words.iter().chain(more).copied().collect()
}

fn systemd_started(
    manager: Manager,
    name: &str,
    files: &[UnitFile],
    start: bool,
    ui: &Ui,
) -> Result<(), Error> {
    let systemctl = systemctl(manager);
    let line = systemctl.join(" ");
    if !Path::new("/run/systemd/system").exists() {
        ui.say("written; systemd does not run here, so nothing was started");
        return Ok(());
    }
    run(&with(systemctl, &["daemon-reload"]))?;
    let mut units = vec![format!("{name}.service")];
    if files.iter().any(|file| file.path.extension().is_some_and(|e| e == "socket")) {
        units.insert(0, format!("{name}.socket"));
    }
    let units: Vec<&str> = units.iter().map(String::as_str).collect();
    if !start {
        ui.say(&format!("installed; start it with: {line} enable --now {}", units.join(" ")));
        return Ok(());
    }
    run(&with(&with(systemctl, &["enable", "--now"]), &units)).map_err(|error| {
        let of = if manager == Manager::SystemdUser { "--user-unit" } else { "--unit" };
        let log = said(&[
            "journalctl",
            "--no-pager",
            "--quiet",
            "--output=cat",
            "--lines=20",
            of,
            units[units.len() - 1],
        ]);
        error.details(log).next(format!("{line} status {name}.service; plimsoll check"))
    })?;
    ui.say(&format!("installed and started: {}", units.join(", ")));
    if manager == Manager::SystemdUser {
        ui.say(
            "it starts with the machine, and outlives your login, once this is set: loginctl enable-linger",
        );
    }
    Ok(())
}

fn supervisor_started(name: &str, start: bool, ui: &Ui) -> Result<(), Error> {
    let (reread, update) = (["supervisorctl", "reread"], ["supervisorctl", "update", name]);
    if !start {
        ui.say(&format!("installed; start it with: {} && {}", reread.join(" "), update.join(" ")));
        return Ok(());
    }
    run(&reread)?;
    run(&update)?;
    ui.say(&format!("installed and started: {name}"));
    Ok(())
}

/// `plimsoll uninstall`
pub(crate) fn uninstall(config: &Config, args: &UninstallArgs, ui: &Ui) -> Result<(), Error> {
    let Some(installed) = record(config)? else {
        return Err(Error::usage("nothing was installed for this app")
            .why(format!("{} is not there", record_path(config).display()))
            .next("plimsoll install"));
    };
    for file in installed.files.iter().filter(|file| file.path.exists()) {
        ui.data(&file.path.display().to_string());
    }
    if args.print {
        return Ok(());
    }
    let name = units::name(config);
    ui.warn(&format!("this stops {name}, and with it what it runs: front door and app"));
    agreed(args.yes, "Stop it and remove these files?", ui)?;
    match installed.manager {
        manager @ (Manager::Systemd | Manager::SystemdUser) if Path::new("/run/systemd/system").exists() => {
            let ours = |end: &str| {
                let unit = format!("{name}.{end}");
                installed
                    .files
                    .iter()
                    .any(|file| file.path.ends_with(&unit) && file.path.exists())
                    .then_some(unit)
            };
            // The socket first: a request would start the service again.
            for unit in [ours("socket"), ours("service")].into_iter().flatten() {
                run(&with(systemctl(manager), &["disable", "--now", &unit]))?;
            }
        }
        // It need not run, and may never have read the program.
        Manager::Supervisor if process_is_known(&name) => run(&["supervisorctl", "stop", &name])?,
        _ => {}
    }
    let left = take_away(&installed.files, ui)?;
    match installed.manager {
        manager @ (Manager::Systemd | Manager::SystemdUser) if Path::new("/run/systemd/system").exists() => {
            run(&with(systemctl(manager), &["daemon-reload"]))?;
        }
        Manager::Supervisor if process_is_known(&name) => run(&["supervisorctl", "update", &name])?,
        _ => {}
    }
    if left.is_empty() {
        durable::remove(&record_path(config)).map_err(|e| follow::plain(e.into()))?;
        ui.say("uninstalled; data, releases and configuration are untouched");
        return Ok(());
    }
    keep(config, &Installed { manager: installed.manager, files: left.clone() })?;
    let names = left.iter().map(|file| file.path.display().to_string());
    Err(Error::failed("some files were changed since they were installed, and were left")
        .details(names)
        .state("everything else that was installed is gone")
        .next("look at them, and remove them by hand"))
}

fn process_is_known(name: &str) -> bool {
    let lines = said(&["supervisorctl", "status", name]);
    lines.iter().any(|line| line.starts_with(name) && !line.contains("no such"))
}

fn show(files: &[UnitFile], ui: &Ui) {
    for file in files {
        let path = file.path.display().to_string();
        if ui.is_json() {
            ui.object(&json!({ "event": "install", "path": path, "text": file.text }));
        } else {
            ui.data(&format!("--- {path}\n{}", file.text));
        }
    }
}

/// What a person should know before agreeing.
fn notes(config: &Config, user: &Option<String>, manager: Manager, ui: &Ui) {
    let asks_systemd = matches!(config.service.kind, ServiceKind::Systemd { .. })
        || config.workers.iter().any(|worker| matches!(worker.kind, WorkerKind::Systemd { .. }));
    match user {
        None if manager == Manager::SystemdUser => {}
        None => {
            ui.warn("it runs as root, because the app's root belongs to root; --user NAME gives it another")
        }
        Some(name) if asks_systemd => {
            ui.warn(&format!(
                "{name} must be allowed to stop and start the units of the app and its workers"
            ));
        }
        Some(_) => {}
    }
    if manager == Manager::Supervisor && asks_systemd {
        ui.warn("supervisor cannot keep units down during a run, as `plimsoll install` for systemd does");
    }
}

/// Where the front door is to listen.
fn listen(config: &Config, args: &InstallArgs, manager: Manager) -> Result<Option<SocketAddr>, Error> {
    let Some(front) = &config.front else { return Ok(None) };
    let refused = |what: &str, next: &str| Err(Error::usage(what).state("nothing was written").next(next));
    match (&front.listen, args.listen) {
        (Listen::Systemd, _) if manager == Manager::Supervisor => refused(
            "supervisor passes no socket, and [front].listen is \"systemd\"",
            "write an address: listen = \"127.0.0.1:8080\"",
        ),
        (Listen::Systemd, None) => refused(
            "it must be said where the socket unit is to listen, because [front].listen is \"systemd\"",
            "plimsoll install --listen 127.0.0.1:8080",
        ),
        (Listen::Systemd, Some(address)) => Ok(Some(address)),
        (Listen::Address(configured), Some(address)) if *configured != address => refused(
            &format!("[front].listen says {configured}, and --listen says {address}"),
            "leave out --listen, or change plimsoll.toml",
        ),
        (Listen::Address(configured), _) => Ok(Some(*configured)),
    }
}

/// Where this user's own units are kept.
fn own_units(config: &Config) -> Result<PathBuf, Error> {
    if rustix::process::geteuid().is_root() {
        return Err(Error::usage("root's units are the machine's")
            .state("nothing was written")
            .next("leave out --systemd-user, or run it as the user who is to run the app"));
    }
    let owner = std::fs::metadata(&config.app.root).map(|root| root.uid()).ok();
    if owner.is_some_and(|owner| owner != rustix::process::geteuid().as_raw()) {
        return Err(Error::usage(format!(
            "the app's root {} belongs to somebody else",
            config.app.root.display()
        ))
        .state("nothing was written")
        .next("run it as its owner, or make the root yours"));
    }
    let kept = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let folder = kept.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")));
    let folder = folder.filter(|folder| folder.is_absolute());
    let folder =
        folder.ok_or_else(|| Error::usage("HOME is not set, so where your units are is not known"))?;
    Ok(folder.join("systemd/user"))
}

/// Who owns the app's root, by name when that is known.
fn owner(config: &Config) -> Result<Option<String>, Error> {
    let place = [config.app.root.as_path(), &config.file].into_iter().find(|path| path.exists());
    let path = place.unwrap_or(Path::new("/"));
    let uid = std::fs::metadata(path)
        .map_err(|e| Error::failed(format!("cannot look at {}", path.display())).why(e.to_string()))?
        .uid();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(uid)).then(|| (*fields.first()?).to_owned().into())?
    });
    Ok(Some(name.unwrap_or_else(|| uid.to_string())))
}

fn agreed(yes: bool, question: &str, ui: &Ui) -> Result<(), Error> {
    if yes || ui.confirm(question) == Some(true) {
        return Ok(());
    }
    Err(Error::new(Kind::Blocked, "nobody agreed")
        .state("nothing was changed")
        .next("answer y, or pass --yes once you have read it"))
}

fn ask(words: &[&str], mut take: impl FnMut(&str)) -> Result<process::Ran, process::StartError> {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    let mut env = process::base_env();
    // How a user's own systemd is found; a login sets it.
    let runtime = std::env::var("XDG_RUNTIME_DIR")
        .unwrap_or_else(|_| format!("/run/user/{}", rustix::process::geteuid().as_raw()));
    env.insert("XDG_RUNTIME_DIR".to_owned(), runtime);
    let command = Command { words, env, folder: PathBuf::from("/"), mark: None };
    process::run(&command, Limits { time: Some(PATIENCE), ..Limits::default() }, Sink::Lines(&mut take))
}

/// What a program says; nothing when it cannot be run.
fn said(words: &[&str]) -> Vec<String> {
    let mut lines = Vec::new();
    let _ = ask(words, |line| lines.push(line.to_owned()));
    lines
}

fn run(words: &[&str]) -> Result<(), Error> {
    let line = words.join(" ");
    let failed = |why: String| {
        Error::failed(format!("`{line}` failed"))
            .why(why)
            .state("the files are written as shown")
            .next(format!("mend it, then: {line}"))
    };
    let ran = ask(words, |_| ()).map_err(|e| failed(e.to_string()))?;
    if ran.end == End::Exit(0) {
        return Ok(());
    }
    Err(failed(format!("{}; {}", ran.end, ran.tail.join("\n"))))
}
