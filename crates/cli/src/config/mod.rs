//! The configuration: `plimsoll.toml` read, checked and resolved once, before anything starts.
//!
//! [`sections`] is what the file means, with every default in its doc comment; [`read`] says what may stand in it.
//! Nothing after [`Config::load`] looks at the file again.

mod backup;
mod duration;
mod expect;
mod form;
mod mistake;
mod people;
mod read;
mod secret;
mod sections;
mod service;
mod smoke;
mod table;
mod team;
mod url;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plimsoll_core::plan::Smoke;

pub(crate) use backup::{Backup, KEEP_DAYS, S3};
pub(crate) use duration::show as show_duration;
pub(crate) use mistake::ConfigError;
pub(crate) use secret::{Secret, SecretError, Setting, Settings, reveal_all};
pub(crate) use sections::{
    App, Build, Commands, Dashboard, Database, Front, HOLD_BUDGET, Log, LogSource, MailTls, Migrations,
    Notify, Occasion, People, Query, Rehearsal, Service, ServiceKind, Smtp, Source, Visitor, Watch,
    WebhookKind, Window, Worker, WorkerKind,
};
pub(crate) use url::{DatabaseUrl, Destination, Listen, PublicUrl};

/// The file's name where no other is given.
pub(crate) const FILE_NAME: &str = "plimsoll.toml";

/// Everything that `plimsoll.toml` says. All paths are absolute, unless they are said to be within a release.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// The file that this was read from.
    pub(crate) file: PathBuf,
    /// `[app]`
    pub(crate) app: App,
    /// `[source]`
    pub(crate) source: Source,
    /// `[build]`
    pub(crate) build: Build,
    /// `[database]`
    pub(crate) database: Database,
    /// `[service]`
    pub(crate) service: Service,
    /// `[front]`; `None` when another proxy faces the users.
    pub(crate) front: Option<Front>,
    /// `[[smoke]]`, in the order of the file.
    pub(crate) smoke: Vec<Smoke>,
    /// `[rehearsal]`
    pub(crate) rehearsal: Rehearsal,
    /// `[[worker]]`, in the order of the file.
    pub(crate) workers: Vec<Worker>,
    /// `[[log]]`
    pub(crate) logs: Vec<Log>,
    /// `[watch]`
    pub(crate) watch: Watch,
    /// `[[query]]`, in the order of the file.
    pub(crate) queries: Vec<Query>,
    /// `[backup]`
    pub(crate) backup: Backup,
    /// `[window]`; `None` when any time will do.
    pub(crate) window: Option<Window>,
    /// `[notify.*]`, by group.
    pub(crate) notify: BTreeMap<String, Notify>,
    /// `[smtp]`
    pub(crate) smtp: Smtp,
    /// `[contacts]`: role to name, phone, hours.
    pub(crate) contacts: BTreeMap<String, String>,
    /// `[people]`
    pub(crate) people: People,
    /// `[dashboard]`; `None` when no pages are served.
    pub(crate) dashboard: Option<Dashboard>,
}

impl Config {
    /// Reads, checks and resolves the file.
    ///
    /// # Errors
    /// No such file, unreadable, or mistakes: all of them at once.
    pub(crate) fn load(path: &Path) -> Result<Config, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(unreadable)?;
        let bytes = std::fs::read(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ConfigError::NotFound { path: path.clone() },
            _ => unreadable(source),
        })?;
        let text = String::from_utf8_lossy(&bytes);
        Config::parse(&path, &text, matches!(text, Cow::Owned(_)))
    }

    /// The same for a text that is to be the file at `path`, which is absolute.
    ///
    /// # Errors
    /// The mistakes in it.
    pub(crate) fn from_text(path: &Path, text: &str) -> Result<Config, ConfigError> {
        Config::parse(path, text, false)
    }

    /// The path of the file to load: `--config FILE`, else `plimsoll.toml` in the folder.
    pub(crate) fn locate(folder: &Path, file: Option<&Path>) -> PathBuf {
        match file {
            Some(file) => folder.join(file),
            None => folder.join(FILE_NAME),
        }
    }

    fn parse(path: &Path, text: &str, replaced: bool) -> Result<Config, ConfigError> {
        read::config(path, text, replaced)
            .map_err(|mistakes| ConfigError::Mistakes { path: path.to_owned(), mistakes })
    }

    /// `releases/`: a folder for each release.
    pub(crate) fn releases(&self) -> PathBuf {
        self.app.root.join("releases")
    }

    /// `current`: the link to the live release.
    pub(crate) fn current(&self) -> PathBuf {
        self.app.root.join("current")
    }

    /// `shared/`: what outlives a release.
    pub(crate) fn shared(&self) -> PathBuf {
        self.app.root.join("shared")
    }

    /// `backups/`
    pub(crate) fn backups(&self) -> PathBuf {
        self.app.root.join("backups")
    }

    /// `runs/`: journals and reports.
    pub(crate) fn runs(&self) -> PathBuf {
        self.app.root.join("runs")
    }

    /// The database's file; `None` when it is no file.
    pub(crate) fn database_file(&self) -> Option<&Path> {
        match &self.database.url {
            DatabaseUrl::Sqlite(path) => Some(path),
            DatabaseUrl::Postgres(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CONTRACT: &str = include_str!("../../tests/data/contract.toml");

    /// The least that loads, below which the tables of mistakes are put.
    const LEAST: &str = "\
[app]
name = \"shop\"
[source]
git = \"/srv/git/shop.git\"
[database]
url = \"sqlite:shared/store.db\"
[service]
kind = \"process\"
command = \"python3 app.py\"
[front]
listen = \"127.0.0.1:8080\"
";

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("/srv/shop/plimsoll.toml"), text, false).map_err(|error| match error {
            ConfigError::Mistakes { mistakes, .. } => {
                mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")
            }
            other => panic!("{other}"),
        })
    }

    /// [`LEAST`] with the text below it.
    pub(super) fn parse_with(below: &str) -> Config {
        parse(&format!("{LEAST}{below}")).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    /// The mistakes in [`LEAST`] with the text below it.
    pub(super) fn mistakes(below: &str) -> String {
        parse(&format!("{LEAST}{below}")).expect_err(below)
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_contract_loads_and_every_key_means_what_it_says() {
        let config = parse(CONTRACT).unwrap();
        assert_eq!(config.app.name, "grocery");
        assert_eq!(config.releases(), Path::new("/srv/grocery/releases"));
        assert_eq!(config.current(), Path::new("/srv/grocery/current"));
        assert_eq!(config.shared(), Path::new("/srv/grocery/shared"));
        assert_eq!(config.backups(), Path::new("/srv/grocery/backups"));
        assert_eq!(config.runs(), Path::new("/srv/grocery/runs"));
        assert_eq!(config.database_file(), Some(Path::new("/srv/grocery/shared/store.db")));
        assert_eq!(config.source.directory, Path::new(""));
        assert_eq!(config.build.link, [PathBuf::from(".env"), PathBuf::from("uploads")]);
        assert_eq!(config.database.tables, ["products", "orders", "users", "regions"]);
        assert_eq!(config.database.migrations, Migrations::Folder("migrations".into()));
        assert_eq!(config.service.kind, ServiceKind::Process { command: "python3 app.py".into() });
        assert_eq!(config.service.env["LOG_LEVEL"], Setting::Plain("info".into()));
        let front = config.front.unwrap();
        assert_eq!((front.hold_budget, front.drain), (secs(10), secs(5)));
        assert_eq!(front.answer_after["/razorpay/webhook"], secs(4));
        assert_eq!(config.rehearsal.env["RAZORPAY_KEY_ID"], Setting::Plain(String::new()));
        assert_eq!(config.workers[0].kind, WorkerKind::Systemd { unit: "grocery_mailer.service".into() });
        assert_eq!(config.logs[0].source, LogSource::File("/var/log/grocery_app/error.log".into()));
        assert_eq!(config.watch.spots, [1, 4, 8, 24].map(|h| secs(h * 3_600)));
        assert_eq!(
            config.backup.copies[1],
            Destination::S3 { bucket: "bucket".into(), prefix: "backups".into() }
        );
        let window = config.window.unwrap();
        assert_eq!(window.zone.iana_name(), Some("Asia/Kolkata"));
        assert_eq!(window.days.len(), 4);
        assert_eq!(config.notify["team"].on.len(), 6);
        assert_eq!(config.notify["team"].webhook, Some(Setting::Secret(Secret::Env("TEAM_WEBHOOK".into()))));
        assert_eq!((config.smtp.host.as_str(), config.smtp.port), ("127.0.0.1", 25));
        assert_eq!(config.contacts["devops"], "Name, phone, hours");
        let checkout = &config.smoke[1];
        assert!(checkout.writes && !checkout.production);
        let methods: Vec<&str> = checkout.steps.iter().map(|s| s.method.as_str()).collect();
        assert_eq!(methods, ["GET", "POST", "GET"]);
        assert_eq!(checkout.steps[1].form["csrf"], "{csrf}");
        assert_eq!(checkout.steps[1].status, Some(303));
        assert_eq!(checkout.steps[2].contains, ["1 item"]);
    }

    #[test]
    fn what_is_left_out_has_the_documented_defaults() {
        let config = parse(LEAST).unwrap();
        assert_eq!(config.app.root, Path::new("/srv/shop"));
        assert_eq!(
            (config.source.branch.as_str(), config.source.directory.as_path()),
            ("main", Path::new(""))
        );
        assert_eq!((config.build.timeout, config.build.link.len()), (secs(600), 0));
        assert_eq!(config.database.migrations, Migrations::App);
        assert_eq!(config.service.health, "/healthz");
        assert_eq!((config.service.start_timeout, config.service.stop_timeout), (secs(30), secs(10)));
        let front = config.front.unwrap();
        assert_eq!((front.hold_budget, front.drain), (secs(10), secs(5)));
        assert_eq!(config.watch.errors_for, Duration::ZERO);
        assert_eq!((config.backup.keep.days, config.backup.compress), (14, false));
        assert!(config.window.is_none() && config.notify.is_empty() && config.smoke.is_empty());
        assert_eq!(parse(&format!("{LEAST}[watch]\n")).unwrap().watch.errors_for, secs(600));
    }

    #[test]
    fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
        let text = LEAST
            .replace("[front]", "[frnot]")
            .replace("name =", "nam =")
            .replace("\"process\"", "\"proces\"");
        insta::assert_snapshot!(parse(&text).unwrap_err(), @r#"
        plimsoll.toml:1:1: [app] needs the key `name`
          1 | [app]
            | ^^^^^
          = for example: name = "shop"

        plimsoll.toml:2:1: there is no key `nam` in [app]
          2 | nam = "shop"
            | ^^^
          = did you mean `name`?

        plimsoll.toml:7:1: [service] needs the key `address`: there is no [front], so it must be said where the app listens
          7 | [service]
            | ^^^^^^^^^
          = for example: address = "127.0.0.1:8000"

        plimsoll.toml:8:8: `kind` cannot be `proces`
          8 | kind = "proces"
            |        ^^^^^^^^
          = did you mean "process"?

        plimsoll.toml:10:2: there is no section `frnot`
          10 | [frnot]
             |  ^^^^^
          = did you mean `front`?
        "#);
    }

    #[test]
    fn an_empty_file_names_the_sections_it_needs() {
        insta::assert_snapshot!(parse("").unwrap_err(), @r#"
        plimsoll.toml: [app] is missing
          = for example: [app] with name = "shop"

        plimsoll.toml: [source] is missing
          = for example: [source] with git = "/srv/git/shop.git"

        plimsoll.toml: [database] is missing
          = Plimsoll deploys an app together with its data; for example: [database] with url = "sqlite:shared/store.db"

        plimsoll.toml: [service] is missing
          = for example: [service] with kind = "process" and command = "python3 app.py"
        "#);
    }

    #[test]
    fn a_syntax_error_hides_no_other_mistake_and_invents_none() {
        insta::assert_snapshot!(mistakes("hold_budget = 10s\ndrian = \"1s\"\n[[smoke]\n"), @r#"
        plimsoll.toml:12:15: this is not TOML: string values must be quoted, expected literal string
          12 | hold_budget = 10s
             |               ^^^
          = write "10s"

        plimsoll.toml:13:1: there is no key `drian` in [front]
          13 | drian = "1s"
             | ^^^^^
          = did you mean `drain`?

        plimsoll.toml:14:9: this is not TOML: unclosed array table, expected `]`
          14 | [[smoke]
             |         ^
        "#);
    }

    #[test]
    fn bytes_that_are_no_text_are_a_mistake_with_a_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plimsoll.toml");
        std::fs::write(&path, [LEAST.as_bytes(), b"# caf\xe9\n"].concat()).unwrap();
        let ConfigError::Mistakes { mistakes, .. } = Config::load(&path).unwrap_err() else { panic!() };
        assert_eq!((mistakes.len(), mistakes[0].place.as_ref().unwrap().line), (1, 12));
        assert!(matches!(Config::load(&folder.path().join("no.toml")), Err(ConfigError::NotFound { .. })));
        assert!(matches!(Config::load(folder.path()), Err(ConfigError::Unreadable { .. })));
    }

    #[test]
    fn wrong_types_say_how_to_write_it() {
        insta::assert_snapshot!(mistakes("drain = 5\nhold_budget = true\n[build]\ncommands = \"make\"\ntimeout = \"10 m\"\n[backup]\nkeep_days = \"7\"\ncompress = \"yes\"\n[watch]\nspots = [1]\n"), @r#"
        plimsoll.toml:12:9: `drain` must be a duration, and this is a number
          12 | drain = 5
             |         ^
          = did you mean "5s"?

        plimsoll.toml:13:15: `hold_budget` must be a text, and this is true or false
          13 | hold_budget = true
             |               ^^^^
          = write "true"

        plimsoll.toml:15:12: `commands` must be a list of texts, and this is a text
          15 | commands = "make"
             |            ^^^^^^
          = write ["make"]

        plimsoll.toml:16:11: `10 m` is not a duration
          16 | timeout = "10 m"
             |           ^^^^^^
          = did you mean "10m"? A duration is a whole number and a unit: "500ms", "10s", "5m", "24h"

        plimsoll.toml:18:13: `keep_days` must be a whole number, and this is a text
          18 | keep_days = "7"
             |             ^^^
          = write 7 without quotes

        plimsoll.toml:19:12: `compress` must be true or false, and this is a text
          19 | compress = "yes"
             |            ^^^^^

        plimsoll.toml:21:10: `spots` must be a text, and this is a whole number
          21 | spots = [1]
             |          ^
          = write "1"
        "#);
    }

    #[test]
    fn a_service_has_the_keys_of_its_kind_and_no_others() {
        let text =
            |service: &str| LEAST.replace("kind = \"process\"\ncommand = \"python3 app.py\"\n", service);
        insta::assert_snapshot!(parse(&text("kind = \"systemd\"\ncommand = \"x\"\n")).unwrap_err(), @r#"
        plimsoll.toml:7:1: kind = "systemd" needs the key `unit`
          7 | [service]
            | ^^^^^^^^^
          = for example: unit = "shop.service"

        plimsoll.toml:7:1: [service] needs the key `address`: Plimsoll gives no PORT to this kind, so it must be said where the app listens
          7 | [service]
            | ^^^^^^^^^
          = for example: address = "127.0.0.1:8000"

        plimsoll.toml:9:1: `command` is for kind = "process", and this is "systemd"
          9 | command = "x"
            | ^^^^^^^
          = leave it out, or change the kind
        "#);
        for (service, wrong) in [
            ("kind = \"process\"\n", "kind = \"process\" needs the key `command`"),
            ("kind = \"supervisor\"\naddress = \"127.0.0.1:8000\"\n", "needs the key `program`"),
            ("kind = \"command\"\naddress = \"127.0.0.1:8000\"\nstart = [\"a\"]\n", "needs the key `stop`"),
            ("command = \"a\"\n", "[service] needs the key `kind`"),
            (
                "kind = \"process\"\ncommand = \"sh -c 'x\"\n",
                "a quotation mark in this command is not closed",
            ),
        ] {
            let said = parse(&text(service)).unwrap_err();
            assert!(said.contains(wrong), "{service}: {said}");
            assert_eq!(said.matches("plimsoll.toml:").count(), 1, "{said}");
        }
        let systemd = "kind = \"systemd\"\nunit = \"shop\"\naddress = \"127.0.0.1:8000\"\n";
        assert_eq!(
            parse(&text(systemd)).unwrap().service.kind,
            ServiceKind::Systemd { unit: "shop.service".into() }
        );
    }

    /// One mistake each: what stands below [`LEAST`], where it is, and what is said.
    #[test]
    fn mistakes_of_meaning_are_found_where_they_are() {
        for (below, line_and_column, said) in [
            ("drain = \"10s\"\n", "12:9", "draining may take 10s, and the whole hold only 10s"),
            ("hold_budget = \"4s\"\n", "12:15", "draining may take 5s, and the whole hold only 4s"),
            ("hold_budget = \"0s\"\n", "12:15", "a time limit of nothing"),
            ("public_url = \"shop.example.com\"\n", "12:14", "is not a URL"),
            ("answer_after = { \"pay\" = \"4s\" }\n", "12:26", "`pay`: a path begins with one slash"),
            ("[build]\nlink = [\"../secrets\"]\n", "13:9", "leads out of shared/"),
            ("[build]\nlink = [\"a\", \"/etc/passwd\"]\n", "13:14", "must be within shared/"),
            ("[build]\nlink = [\".\"]\n", "13:9", "would link the whole release"),
            ("[build]\nlink = [\"a\", \"a\"]\n", "13:14", "`a` is in `link` twice"),
            ("[build]\ncommands = [\" \"]\n", "13:13", "`commands` is empty"),
            ("[[smoke]]\nget = \"/\"\n", "12:1", "[[smoke]] needs the key `name`"),
            ("[smoke]\nname = \"a\"\nget = \"/\"\n", "12:1", "stands in single brackets"),
            ("[[log]]\nfile = \"/a\"\nerror = \"(\"\n", "14:9", "this is not a regular expression"),
            ("[[log]]\nfile = \"/a\"\nunit = \"b\"\n", "12:1", "not both"),
            ("[[log]]\n", "12:1", "where this log is"),
            ("[[worker]]\nname = \"m\"\nstop = [\"a\"]\n", "12:1", "how this worker is stopped and started"),
            ("[[worker]]\nname = \"m\"\nunit = \"m\"\nstop = [\"a\"]\n", "12:1", "not both"),
            ("[watch]\nspots = [\"4h\", \"1h\"]\n", "13:16", "spots follow each other"),
            ("[watch]\ncounts = { a = \"DELETE FROM orders\" }\n", "13:16", "must only read"),
            ("[backup]\nkeep_days = 0\n", "13:13", "`keep_days` is out of bounds"),
            ("[backup]\nkeep_days = -1\n", "13:13", "`keep_days` is out of bounds"),
            ("[window]\nfrom = \"2:00\"\nto = \"05:00\"\n", "13:8", "is not a time of day"),
            ("[window]\nfrom = \"02:00\"\nto = \"24:00\"\n", "14:6", "is not a time of day"),
            ("[window]\nfrom = \"02:00\"\nto = \"02:00\"\n", "14:6", "the window ends when it begins"),
            ("[window]\nfrom = \"02:00\"\n", "12:1", "[window] needs the key `to`"),
            (
                "[window]\ndays = [\"monday\"]\nfrom = \"02:00\"\nto = \"03:00\"\n",
                "13:9",
                "`days` cannot be `monday`",
            ),
            ("[notify.team]\n", "12:1", "[notify.team] tells nobody"),
            ("[notify.team]\nmail = [\"team\"]\n", "13:9", "is not a mail address"),
            (
                "[notify.team]\nwebhook = \"hooks.example.com\"\n",
                "13:11",
                "neither the place of a secret nor a URL",
            ),
            (
                "[notify.team]\nmail = [\"a@b\"]\non = [\"rolledback\"]\n",
                "14:7",
                "`on` cannot be `rolledback`",
            ),
            ("[notify]\nmail = [\"a@b\"]\n", "13:8", "must be a table"),
            ("[smtp]\nport = 70000\n", "13:8", "`port` is out of bounds"),
            (
                "[rehearsal]\nenv = { \"A-B\" = \"x\" }\n",
                "13:17",
                "cannot be the name of an environment variable",
            ),
            ("[rehearsal]\nenv = { A = 1 }\n", "13:13", "`A` must be a text"),
            ("[contacts]\ndevops = [\"x\"]\n", "13:10", "`devops` must be a text"),
            ("[app]\nroot = \"/x\"\n", "12:2", "this is not TOML: duplicate key"),
        ] {
            let text = mistakes(below);
            assert_eq!(text.matches("plimsoll.toml:").count(), 1, "{below}: {text}");
            assert!(text.starts_with(&format!("plimsoll.toml:{line_and_column}: ")), "{below}: {text}");
            assert!(text.contains(said), "{below}: {text}");
        }
    }

    #[test]
    fn mistakes_in_the_first_sections_are_found_where_they_are() {
        for (from, to, line_and_column, said) in [
            ("\"shop\"", "\"My Shop\"", "2:8", "did you mean \"my-shop\"?"),
            ("\"shop\"", "\"\"", "2:8", "`name` is empty"),
            (
                "\"/srv/git/shop.git\"",
                "\"https://u:pw@h/shop.git\"",
                "4:7",
                "a password does not stand in the file",
            ),
            ("\"/srv/git/shop.git\"", "\"/a\"\nbranch = \"a..b\"", "5:10", "cannot be a branch"),
            (
                "\"/srv/git/shop.git\"",
                "\"/a\"\ndirectory = \"/app\"",
                "5:13",
                "must be within the repository",
            ),
            (
                "\"sqlite:shared/store.db\"",
                "\"shared/store.db\"",
                "6:7",
                "did you mean \"sqlite:shared/store.db\"?",
            ),
            ("\"sqlite:shared/store.db\"", "\"sqlite:current/a.db\"", "6:7", "changes with every deployment"),
            (
                "store.db\"",
                "store.db\"\nmigrations = \"m\"\nmigrate = [\"a\"]",
                "8:1",
                "both `migrations` and `migrate`",
            ),
            ("store.db\"", "store.db\"\npassword = \"env:PW\"", "7:12", "SQLite has no password"),
            ("store.db\"", "store.db\"\ntables = [\"a\", \"a\"]", "7:16", "`a` is in `tables` twice"),
            ("app.py\"", "app.py\"\nhealth = \"healthz\"", "10:10", "did you mean \"/healthz\"?"),
            ("app.py\"", "app.py\"\nhealth = \"http://h/up\"", "10:10", "did you mean \"/up\"?"),
            (
                "app.py\"",
                "app.py\"\nhealth_release = \"release.id\"",
                "10:18",
                "did you mean \"/release/id\"?",
            ),
            ("app.py\"", "app.py\"\nstart_timeout = \"0s\"", "10:17", "a time limit of nothing"),
            ("127.0.0.1:8080", "localhost:8080", "11:10", "did you mean \"127.0.0.1:8080\"?"),
            ("listen = \"127.0.0.1:8080\"", "drain = \"1s\"", "10:1", "[front] needs the key `listen`"),
        ] {
            let text = parse(&LEAST.replace(from, to)).expect_err(to);
            assert_eq!(text.matches("plimsoll.toml:").count(), 1, "{to}: {text}");
            assert!(text.starts_with(&format!("plimsoll.toml:{line_and_column}: ")), "{to}: {text}");
            assert!(text.contains(said), "{to}: {text}");
            assert!(!text.contains("pw"), "{text}");
        }
    }

    #[test]
    fn paths_and_git_addresses_are_resolved_below_the_root() {
        let config = |git: &str| parse(&LEAST.replace("/srv/git/shop.git", git)).unwrap().source.git;
        assert_eq!(config("../git/shop.git"), "/srv/git/shop.git");
        for kept in
            ["https://host/shop.git", "git@host:shop.git", "ssh://git@host/shop.git", "file:///srv/shop.git"]
        {
            assert_eq!(config(kept), kept);
        }
        let text = LEAST.replace("name = \"shop\"", "name = \"shop\"\nroot = \"data/../production\"");
        let config = parse(&text).unwrap();
        assert_eq!(config.app.root, Path::new("/srv/shop/production"));
        assert_eq!(config.database_file(), Some(Path::new("/srv/shop/production/shared/store.db")));
    }

    #[test]
    fn a_file_cut_off_or_with_a_line_gone_is_read_without_panic() {
        let place = |error: &str| error.starts_with("plimsoll.toml:");
        for end in (0..CONTRACT.len()).step_by(11).filter(|end| CONTRACT.is_char_boundary(*end)) {
            // Cut off after a whole section, it may even load.
            assert!(parse(&CONTRACT[..end]).err().is_none_or(|error| place(&error)), "{end}");
        }
        let lines: Vec<&str> = CONTRACT.lines().collect();
        for gone in 0..lines.len() {
            let text = [&lines[..gone], &lines[gone + 1..]].concat().join("\n");
            assert!(parse(&text).err().is_none_or(|error| place(&error)), "{}", lines[gone]);
        }
    }

    #[test]
    fn the_file_is_found_in_the_folder_unless_it_is_named() {
        let folder = Path::new("/srv/shop");
        assert_eq!(Config::locate(folder, None), Path::new("/srv/shop/plimsoll.toml"));
        assert_eq!(Config::locate(folder, Some(Path::new("b.toml"))), Path::new("/srv/shop/b.toml"));
        assert_eq!(Config::locate(folder, Some(Path::new("/etc/b.toml"))), Path::new("/etc/b.toml"));
    }
}
