//! From the configuration to what a run works with. The only place that knows both sides.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::check::Check;
use plimsoll_core::plan::ReleaseId;
use plimsoll_core::ports::{Audience, Failure, Gate, Moment, Service};
use plimsoll_core::record::{Kind, Order};
use plimsoll_host::clock::SystemClock;
use plimsoll_host::database::back::Leg;
use plimsoll_host::database::{self, Keep, RunDatabase};
use plimsoll_host::journal::Runs;
use plimsoll_host::logfile::LogFile;
use plimsoll_host::probe::prove::{self, AppProbe};
use plimsoll_host::process::base_env;
use plimsoll_host::release::{self, GitSource, Releases};
use plimsoll_host::service::{
    App, Commands, Health, ManagedService, Manager, ProcessService, Restarted, Supervisor, Systemd, Worker,
    Workers, command_words,
};
use plimsoll_host::sqlite::Stop;
use plimsoll_host::watch::{self, logs, query::Query};
use plimsoll_proxy::door::Door;
use plimsoll_proxy::{FrontDoor, Target};

use crate::audience::Onlooker;
use crate::config::{self, Config, DatabaseUrl, LogSource, Migrations, ServiceKind, WorkerKind, reveal_all};
use crate::error::Error;
use crate::follow;
use crate::past;
use crate::rehearsing;
use crate::station::Handles;

/// The longest that one call of git may take.
const GIT_TIMEOUT: Duration = Duration::from_secs(300);

/// The database file.
pub(crate) fn database_file(config: &Config) -> Result<PathBuf, Failure> {
    match &config.database.url {
        DatabaseUrl::Sqlite(file) => Ok(file.clone()),
        DatabaseUrl::Postgres(_) => Err(Failure::failed(
            "PostgreSQL cannot be deployed with yet",
            "[database].url names a PostgreSQL database",
            "use a SQLite database, or wait for a version that can",
        )
        .of_kind(plimsoll_core::ports::FailureKind::Usage)),
    }
}

/// The app's folder in a release.
fn app_folder(config: &Config) -> database::AppFolder {
    let releases = Releases::new(&config.app.root);
    let directory = config.source.directory.clone();
    Arc::new(move |release| releases.folder(release).join(&directory))
}

/// `[service].env`, secrets revealed.
fn service_env(config: &Config) -> Result<BTreeMap<String, String>, Failure> {
    reveal_all(&config.service.env).map_err(|e| {
        Failure::failed(
            "a secret of [service].env is not there",
            e.to_string(),
            "set it for `plimsoll serve`",
        )
        .of_kind(plimsoll_core::ports::FailureKind::Usage)
    })
}

/// Values of `[service].env` and `[rehearsal].env` that stand elsewhere, and so must not be shown.
fn secrets(config: &Config) -> Vec<String> {
    let settings = config.service.env.values().chain(config.rehearsal.env.values());
    settings
        .filter_map(|setting| match setting {
            config::Setting::Secret(secret) => secret.reveal().ok(),
            config::Setting::Plain(_) => None,
        })
        .collect()
}

fn health(config: &Config) -> Health {
    let mut headers = Vec::new();
    if let Some(url) = config.front.as_ref().and_then(|front| front.public_url.as_ref()) {
        headers.push(("host".to_owned(), url.host.clone()));
        headers.push(("x-forwarded-proto".to_owned(), url.scheme().to_owned()));
    }
    Health {
        path: config.service.health.clone(),
        release_pointer: config.service.health_release.clone(),
        headers,
    }
}

/// The app as children of `plimsoll serve`.
pub(crate) fn app(config: &Config, command: &str) -> Result<App, Failure> {
    Ok(App {
        root: config.app.root.clone(),
        directory: config.source.directory.clone(),
        command: command.to_owned(),
        env: service_env(config)?,
        secrets: secrets(config),
        database: config.database_file().map(PathBuf::from),
        // Behind the front door every release has a private port of its own.
        address: if config.front.is_some() { None } else { config.service.address },
        health: health(config),
        start_timeout: config.service.start_timeout,
        stop_timeout: config.service.stop_timeout,
    })
}

fn split(lines: &[String], env: &BTreeMap<String, String>) -> Result<Vec<Vec<String>>, Failure> {
    lines.iter().map(|line| command_words(line, env)).collect()
}

fn commands(config: &Config, name: &str, list: &config::Commands) -> Result<Commands, Failure> {
    let mut env = service_env(config)?;
    if let Some(file) = config.database_file() {
        env.insert("DATABASE_PATH".to_owned(), file.display().to_string());
    }
    Ok(Commands {
        name: name.to_owned(),
        start: list.start.clone(),
        stop: list.stop.clone(),
        status: list.status.clone(),
        env,
        folder: config.app.root.clone(),
        log: log_file(config),
    })
}

/// The app's own output.
pub(crate) fn log_file(config: &Config) -> PathBuf {
    config.app.root.join("logs/app.log")
}

/// A unit that a run stops and starts.
fn systemd(config: &Config, unit: &str) -> Systemd {
    Systemd::new(unit, Some(Runs::of(&config.app.root).held_marker()))
}

/// Where and how the app is asked from outside when no front door is before it.
pub(crate) fn asked_from_outside(config: &Config) -> Option<(SocketAddr, Health)> {
    Some((config.service.address?, health(config)))
}

/// `[[worker]]`.
pub(crate) fn workers(config: &Config) -> Result<Workers, Failure> {
    let mut workers = Vec::new();
    for worker in &config.workers {
        let manager: Box<dyn Manager> = match &worker.kind {
            WorkerKind::Systemd { unit } => Box::new(systemd(config, unit)),
            WorkerKind::Command(list) => {
                Box::new(commands(config, &format!("the commands of worker {}", worker.name), list)?)
            }
        };
        workers.push(Worker { name: worker.name.clone(), manager });
    }
    Ok(Workers::new(workers, config.service.stop_timeout))
}

/// The service of an app that others supervise, for a command that runs the engine itself.
pub(crate) fn others_service(config: &Config) -> Result<(Box<dyn Service + Send>, Handles), Error> {
    let failed = |failure: Failure| follow::plain(failure);
    let manager: Box<dyn Manager> = match &config.service.kind {
        ServiceKind::Systemd { unit } => Box::new(systemd(config, unit)),
        ServiceKind::Supervisor { program } => {
            Box::new(Supervisor { program: program.clone(), config: None })
        }
        ServiceKind::Command(list) => {
            Box::new(commands(config, "the commands of [service]", list).map_err(failed)?)
        }
        ServiceKind::Process { .. } => {
            return Err(Error::usage("kind `process` runs in `plimsoll serve`").next("plimsoll serve"));
        }
    };
    let address = config.service.address.ok_or_else(|| {
        Error::usage("[service].address is missing")
            .why("Plimsoll must know where the app listens, to see whether it is well")
            .next("add address = \"127.0.0.1:8000\" to [service]")
    })?;
    let workers = workers(config).map_err(failed)?;
    let service = ManagedService {
        manager,
        health: Some((address, health(config))),
        start_timeout: config.service.start_timeout,
        stop_timeout: config.service.stop_timeout,
        secrets: secrets(config),
        workers,
    };
    let handles = Handles {
        address_of: Arc::new(move |_: &ReleaseId| Some(address)),
        pids_of: Arc::new(|_: &ReleaseId| Vec::new()),
        opened: Arc::new(|_: &ReleaseId| {}),
        past: None,
    };
    Ok((Box::new(service), handles))
}

/// Code.
pub(crate) fn source(config: &Config, onlooker: &Onlooker) -> Result<GitSource, Failure> {
    let settings = release::Settings {
        root: config.app.root.clone(),
        git: config.source.git.clone(),
        branch: config.source.branch.clone(),
        directory: config.source.directory.clone(),
        commands: config.build.commands.clone(),
        build_timeout: config.build.timeout,
        git_timeout: GIT_TIMEOUT,
        link: config.build.link.clone(),
        database: config.database_file().map(PathBuf::from),
        env: BTreeMap::new(),
        environment: std::env::vars().collect(),
    };
    let lines = onlooker.clone();
    let stop = onlooker.clone();
    let on_line: release::OnLine = Arc::new(move |line| lines.line(line));
    let stop: release::StopAsked = Arc::new(move || stop.stop_asked().is_some());
    Ok(GitSource::new(settings, on_line, stop)?)
}

/// What a rollback knows of the runs before it.
#[derive(Default)]
pub(crate) struct Back {
    /// The schema that the earlier release last ran with.
    pub(crate) earlier_schema: Option<String>,
    /// How the data goes back; empty when only the code does.
    pub(crate) legs: Vec<Leg>,
}

/// Data.
pub(crate) fn database(
    config: &Config,
    order: &Order,
    back: Back,
    runs: &Runs,
    clock: &Arc<SystemClock>,
    onlooker: &Onlooker,
) -> Result<RunDatabase, Failure> {
    let file = database_file(config)?;
    let mut env = base_env();
    env.extend(service_env(config)?);
    env.insert("DATABASE_PATH".to_owned(), file.display().to_string());
    if let Some(to) = &order.to {
        env.insert("PLIMSOLL_RELEASE".to_owned(), to.id.0.clone());
    }
    let migrations = match &config.database.migrations {
        Migrations::Folder(folder) => database::Migrations::Folder(folder.clone()),
        Migrations::Commands(lines) => database::Migrations::Commands(split(lines, &env)?),
        Migrations::App => database::Migrations::App,
    };
    let (progress, lines, stop) = (onlooker.clone(), onlooker.clone(), onlooker.clone());
    Ok(RunDatabase::new(database::Settings {
        file,
        backups: config.backups(),
        copies: config.backup.places(),
        run_folder: runs.folder(order.run),
        run: order.run,
        tables: config.database.tables.clone(),
        migrations,
        first: order.from.is_none(),
        app_folder: app_folder(config),
        env,
        earlier_schema: back.earlier_schema,
        legs: back.legs,
        front: config.front.is_some(),
        acknowledged: order.acknowledged.clone(),
        by: order.by.clone(),
        only_rehearsed: order.kind == Kind::Rehearse,
        trying: rehearsing::trying(config, order),
        clock: Arc::clone(clock) as _,
        stop: Stop::on(onlooker.stop().flag()),
        stop_asked: Arc::new(move || stop.stop_asked().is_some()),
        on_progress: Arc::new(move |at| progress.progress(at.done, at.total, at.unit)),
        on_line: Arc::new(move |line| lines.line(line)),
    }))
}

/// The front door, or its absence.
pub(crate) fn gate(
    config: &Config,
    run: u32,
    runs: &Runs,
    front: Option<&Arc<FrontDoor>>,
    handles: &Handles,
    clock: &Arc<SystemClock>,
) -> Box<dyn Gate> {
    let (Some(front), Some(settings)) = (front, &config.front) else { return Box::new(NoDoor) };
    let runs = runs.clone();
    let mark = move |held: bool| {
        if held {
            runs.set_held(run)?
        } else {
            runs.clear_held()?
        }
        Ok(())
    };
    Box::new(Door::new(
        Arc::clone(front),
        &config.app.name,
        settings.drain,
        Arc::clone(&handles.address_of),
        Arc::new(mark),
        Arc::clone(&handles.opened),
        Arc::clone(clock) as _,
    ))
}

/// Observations from outside.
pub(crate) fn probe(
    config: &Config,
    order: &Order,
    runs: &Runs,
    front: Option<&Arc<FrontDoor>>,
    handles: &Handles,
    onlooker: &Onlooker,
) -> AppProbe {
    let database = config.database_file().map(PathBuf::from);
    let keep = database.as_ref().map(|file| Keep::new(&runs.folder(order.run), file, order.run));
    let url = config.front.as_ref().and_then(|front| front.public_url.as_ref());
    let stop = onlooker.clone();
    let watch = self::watch(config, runs.folder(order.run), front, handles, onlooker);
    AppProbe::new(prove::Settings {
        tests: config.smoke.clone(),
        public_url: url.map(|url| format!("{}://{}", url.scheme(), url.host)),
        database,
        keep,
        address_of: Arc::clone(&handles.address_of),
        pids_of: Arc::clone(&handles.pids_of),
        watch,
        stop: Arc::new(move || stop.stop_asked().is_some()),
    })
}

/// The watch over a release that users are let in to.
pub(crate) fn watch(
    config: &Config,
    run_folder: PathBuf,
    front: Option<&Arc<FrontDoor>>,
    handles: &Handles,
    onlooker: &Onlooker,
) -> watch::Settings {
    let counters = front.map(|front| {
        let front = Arc::clone(front);
        let counters: watch::Counters = Arc::new(move || past::traffic(&front));
        counters
    });
    let source = |source: &LogSource| match source {
        LogSource::File(file) => logs::Source::File(file.clone()),
        LogSource::Unit(unit) => logs::Source::Unit(unit.clone()),
    };
    let url = config.front.as_ref().and_then(|front| front.public_url.as_ref());
    let stop = onlooker.clone();
    let queries = config.queries.iter().cloned().map(|query| {
        let config::Query { name, url, pointer, at_most, at_least } = query;
        Query { name, url, pointer, at_most, at_least }
    });
    watch::Settings {
        traffic: counters,
        past: handles.past.clone(),
        logs: config
            .logs
            .iter()
            .map(|log| logs::Settings {
                source: source(&log.source),
                error: log.error.clone(),
                slow: log.slow.clone(),
            })
            .collect(),
        secrets: secrets(config),
        database: config.database_file().map(PathBuf::from),
        tables: config.database.tables.clone(),
        counts: config.watch.counts.clone(),
        queries: queries.collect(),
        tests: config.smoke.clone(),
        door: front.map(|front| front.local_addr()),
        public_url: url.map(|url| format!("{}://{}", url.scheme(), url.host)),
        address_of: Arc::clone(&handles.address_of),
        pids_of: Arc::clone(&handles.pids_of),
        health: health(config),
        errors_for: config.watch.errors_for,
        every: config.watch.every,
        run_folder,
        stop: Arc::new(move || stop.stop_asked().is_some()),
    }
}

/// The app that runs inside `plimsoll serve`; it is kept running from the moment users are let in to it.
pub(crate) fn own_service(
    config: &Config,
    command: &str,
    log: &Arc<LogFile>,
    front: Option<&Arc<FrontDoor>>,
) -> Result<(ProcessService, Handles), Failure> {
    let service = ProcessService::new(app(config, command)?, workers(config)?, Arc::clone(log));
    let (by_address, by_pid, supervised) = (service.clone(), service.clone(), service.clone());
    let front = front.cloned();
    let told: Arc<Restarted> = Arc::new(move |release, address| {
        if let Some(front) = &front {
            let target = Target { addr: address, release: release.0.clone() };
            if let Some(dead) = front.set_target(Some(target)) {
                dead.drain(Duration::ZERO);
            }
        }
    });
    let handles = Handles {
        address_of: Arc::new(move |release: &ReleaseId| by_address.address_of(release)),
        pids_of: Arc::new(move |release: &ReleaseId| {
            let running = by_pid.running();
            let ours = running.iter().filter(|app| app.release == *release);
            ours.filter_map(|app| u32::try_from(app.pid).ok()).collect()
        }),
        opened: Arc::new(move |release: &ReleaseId| supervised.supervise(release, Arc::clone(&told))),
        past: None,
    };
    Ok((service, handles))
}

/// There is no front door: users come by another way.
struct NoDoor;

impl Gate for NoDoor {
    fn hold(&mut self, _: Moment) -> Result<Vec<Check>, Failure> {
        Ok(Vec::new())
    }

    fn maintain(&mut self, _: Moment, _: u64) -> Result<Vec<Check>, Failure> {
        Ok(Vec::new())
    }

    fn open(&mut self, _: &ReleaseId) -> Result<Vec<Check>, Failure> {
        let why = "there is no [front]: another proxy faces the users";
        Ok(vec![Check::skipped("deploy.stop", "Front door", why)])
    }

    fn shut(&mut self, _: &str) -> Result<(), Failure> {
        Ok(())
    }
}
