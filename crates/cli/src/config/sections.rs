//! What each section of the file means, with its defaults.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use regex::Regex;

pub(crate) use plimsoll_core::notify::Occasion;

use super::{DatabaseUrl, Listen, PublicUrl, Secret, Setting, Settings};

/// `[app]`
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// The app's name: letters, digits, `.`, `-` and `_`.
    pub(crate) name: String,
    /// Holds `releases/ current shared/ backups/ runs/`. Default: the folder of the file.
    pub(crate) root: PathBuf,
}

/// `[source]`
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Any git URL, or an absolute path.
    pub(crate) git: String,
    /// Default: `main`.
    pub(crate) branch: String,
    /// The app's folder within the repository. Default: `.`, which is the empty path here.
    pub(crate) directory: PathBuf,
}

/// `[build]`
#[derive(Clone, Debug)]
pub(crate) struct Build {
    /// Run by a shell in the new release's folder, in this order. Default: none.
    pub(crate) commands: Vec<String>,
    /// How long they may take together. Default: 10 minutes.
    pub(crate) timeout: Duration,
    /// Linked from `shared/` into every release; within a release; a slash at the end means a folder. Default: none.
    pub(crate) link: Vec<PathBuf>,
}

/// `[database]`
#[derive(Clone, Debug)]
pub(crate) struct Database {
    /// Where the data is.
    pub(crate) url: DatabaseUrl,
    /// The password, for PostgreSQL.
    pub(crate) password: Option<Secret>,
    /// Counted first and named in the report; all tables are counted. Default: none.
    pub(crate) tables: Vec<String>,
    /// `[database.expect]`: what `verify` expects of it. Default: nothing.
    pub(crate) expect: plimsoll_host::sqlite::verification::Declared,
    /// Who changes the schema.
    pub(crate) migrations: Migrations,
}

/// Who changes the schema.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Migrations {
    /// `migrations`: Plimsoll applies the files of this folder; within a release.
    Folder(PathBuf),
    /// `migrate`: these commands do, one after another.
    Commands(Vec<String>),
    /// Neither: the app does when it starts.
    App,
}

/// `[service]`
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// How the app is started and stopped.
    pub(crate) kind: ServiceKind,
    /// Where the app listens, for the kinds that get no `PORT`, and for any kind without `[front]`.
    pub(crate) address: Option<SocketAddr>,
    /// Answers below 400 when the app is up. Default: `/healthz`.
    pub(crate) health: String,
    /// JSON pointer to the release id in the health answer. Default: `None`, the header `x-release`.
    pub(crate) health_release: Option<String>,
    /// How long the app may take to answer. Default: 30 seconds.
    pub(crate) start_timeout: Duration,
    /// How long the app may take to stop before it is killed. Default: 10 seconds.
    pub(crate) stop_timeout: Duration,
    /// Added to the app's environment. Default: nothing.
    pub(crate) env: Settings,
}

/// How the app is started and stopped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ServiceKind {
    /// A child of `plimsoll serve`.
    Process {
        /// Split as a shell splits words, `$NAME` replaced, no shell.
        command: String,
    },
    /// A unit of systemd.
    Systemd {
        /// Its name.
        unit: String,
    },
    /// A program of supervisor.
    Supervisor {
        /// Its name.
        program: String,
    },
    /// Whatever these commands do.
    Command(Commands),
}

/// Commands that start, stop and ask after something; each list runs in its order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Commands {
    /// At least one.
    pub(crate) start: Vec<String>,
    /// At least one.
    pub(crate) stop: Vec<String>,
    /// Exit 0 when it runs. Default: none.
    pub(crate) status: Vec<String>,
}

impl Commands {
    /// Every one of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.start.iter().chain(&self.stop).chain(&self.status).map(String::as_str)
    }
}

/// How long a hold may last when nothing says so.
pub(crate) const HOLD_BUDGET: Duration = Duration::from_secs(10);

/// `[front]`
#[derive(Clone, Debug)]
pub(crate) struct Front {
    /// Where users' requests come in.
    pub(crate) listen: Listen,
    /// The whole hold: drain, stop, snapshot, migrate, start, smoke, or undo. Default: 10 seconds.
    pub(crate) hold_budget: Duration,
    /// Within the hold; what is still running then is ended. Default: 5 seconds.
    pub(crate) drain: Duration,
    /// The address that users know: host and scheme of smoke tests. Default: none.
    pub(crate) public_url: Option<PublicUrl>,
    /// Path to when its caller gives up: held that long, then answered 503 without being run. Default: none.
    pub(crate) answer_after: BTreeMap<String, Duration>,
}

/// `[rehearsal]`
#[derive(Clone, Debug, Default)]
pub(crate) struct Rehearsal {
    /// Overrides the app's environment on a copy. Default: nothing.
    pub(crate) env: Settings,
    /// How to start a copy, for the kinds other than `process`. Default: none.
    pub(crate) command: Option<String>,
}

/// `[[worker]]`: another writer of the database.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Worker {
    /// Its name.
    pub(crate) name: String,
    /// How it is stopped and started.
    pub(crate) kind: WorkerKind,
}

/// How a worker is stopped and started.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum WorkerKind {
    /// A unit of systemd.
    Systemd {
        /// Its name.
        unit: String,
    },
    /// Commands.
    Command(Commands),
}

/// `[[log]]`
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// Where the lines come from.
    pub(crate) source: LogSource,
    /// Matches a line that tells of an error. Default: `(?i)error|traceback`.
    pub(crate) error: Regex,
    /// Matches a line that tells of a slow query. Default: none.
    pub(crate) slow: Option<Regex>,
}

/// Where log lines come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum LogSource {
    /// A file; it may not exist yet.
    File(PathBuf),
    /// The journal of a systemd unit.
    Unit(String),
}

/// `[[query]]`: a figure of Prometheus, or of any page that answers JSON.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    /// What is asked.
    pub(crate) name: String,
    /// Where.
    pub(crate) url: String,
    /// JSON pointer to the figure. Default: where Prometheus has it.
    pub(crate) pointer: String,
    /// Bad above this. Default: none.
    pub(crate) at_most: Option<f64>,
    /// Bad below this. Default: none.
    pub(crate) at_least: Option<f64>,
}

/// `[watch]`
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    /// How long a deployment looks at errors before it is done. Default: 10 minutes, and nothing at all when the
    /// file has no `[watch]`.
    pub(crate) errors_for: Duration,
    /// When the checks are made again, after the commit point. Default: none.
    pub(crate) spots: Vec<Duration>,
    /// Name to SQL that counts something since `:since`. Default: none.
    pub(crate) counts: BTreeMap<String, String>,
    /// How often what costs more than a glance is looked at: counts, pages, memory, disk. Default: 5 seconds.
    pub(crate) every: Duration,
    /// How long after the commit point it is looked at that often; later it is a twelfth as often. Default: 1 hour.
    pub(crate) closely_for: Duration,
    /// Whether a release that is bad within `errors_for` is rolled back by itself, where that loses nothing. Default: true.
    pub(crate) rollback: bool,
}

impl Default for Watch {
    /// Without `[watch]` a deployment does not wait, and nothing is rolled back by itself.
    fn default() -> Watch {
        Watch {
            errors_for: Duration::ZERO,
            spots: Vec::new(),
            counts: BTreeMap::new(),
            every: Duration::from_secs(5),
            closely_for: Duration::from_secs(3_600),
            rollback: true,
        }
    }
}

/// `[window]`: when users may meet a maintenance page, because a change takes longer than requests can wait.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// On these days. Default: all.
    pub(crate) days: Vec<Weekday>,
    /// Not before.
    pub(crate) from: Time,
    /// Not from then on; on the next day when it is earlier than `from`.
    pub(crate) to: Time,
    /// The clock that is meant. Default: UTC.
    pub(crate) zone: TimeZone,
}

/// `[notify.NAME]`: a group and how it is told.
#[derive(Clone, Debug)]
pub(crate) struct Notify {
    /// Mail addresses.
    pub(crate) mail: Vec<String>,
    /// A webhook's URL.
    pub(crate) webhook: Option<Setting>,
    /// Whose webhook it is. Default: as its host tells, else plain JSON.
    pub(crate) kind: Option<WebhookKind>,
    /// The key that plain JSON is signed with. Default: none, not signed.
    pub(crate) key: Option<Secret>,
    /// Of what it is told. Default: everything.
    pub(crate) on: Vec<Occasion>,
}

/// `[smtp]`: who takes mail.
#[derive(Clone, Debug)]
pub(crate) struct Smtp {
    /// Default: `127.0.0.1`.
    pub(crate) host: String,
    /// Default: 25.
    pub(crate) port: u16,
    /// Default: none, nobody logs in.
    pub(crate) user: Option<String>,
    /// The user's password.
    pub(crate) password: Option<Secret>,
    /// Who the mail is from. Default: `plimsoll@` and the machine's name.
    pub(crate) from: Option<String>,
    /// How the connection is protected. Default: TLS from the start on port 465, else STARTTLS; on the loopback nothing.
    pub(crate) tls: Option<MailTls>,
    /// A certificate that is trusted besides the system's, PEM. Default: none.
    pub(crate) ca: Option<PathBuf>,
}

pub(crate) use plimsoll_host::notify::{MailTls, WebhookKind};

/// `[people]`: what people have to say.
#[derive(Clone, Debug, Default)]
pub(crate) struct People {
    /// Questions that must be answered: those of `pre.` before production is touched, the others before the verifier
    /// signs. Default: none.
    pub(crate) required: Vec<String>,
    /// Whether the one who deployed may also sign as verifier. Default: false.
    pub(crate) same_person: bool,
}

/// `[dashboard]`: the pages, and who may see them.
#[derive(Clone, Debug)]
pub(crate) struct Dashboard {
    /// Where they are served, on the loopback.
    pub(crate) listen: SocketAddr,
    /// `[dashboard.people.NAME]`: who may log in with a token.
    pub(crate) people: BTreeMap<String, Visitor>,
    /// The header in which a reverse proxy names whoever it has let in. Default: none.
    pub(crate) header: Option<String>,
    /// What the proxy sends in `x-plimsoll-proxy`, so that nobody else on the machine can name themselves.
    pub(crate) header_secret: Option<Secret>,
}

/// Somebody who may see the pages.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Visitor {
    /// What they log in with; `None` for those whom the proxy names.
    pub(crate) token: Option<Secret>,
    /// Whether they may answer and sign. Default: `viewer`, who may not.
    pub(crate) operator: bool,
}
