//! What the app needs: its data, shared files, secrets, logs; and what in the file looks like a slip.

use std::fs;
use std::time::{Duration, Instant};

use plimsoll_core::plan::{Agreed, Smoke};
use plimsoll_host::copies::Place;
use plimsoll_host::sqlite::{Error as SqliteError, JournalMode, Stop, connection, schema};
use rustix::fs::{Access, access};

use super::{Finding, machine};
use crate::config::{Config, DatabaseUrl, Destination, LogSource, Setting, Settings, Window};
use crate::ui::size_words;
use crate::window;

/// A larger database is not read through here; every backup of it is.
const QUICKLY_READ: u64 = 1 << 30;

/// The data is there, is SQLite, is sound, and has the named tables.
pub(super) fn database(config: &Config) -> Vec<Finding> {
    let file = match &config.database.url {
        DatabaseUrl::Sqlite(file) => file,
        DatabaseUrl::Postgres(postgres) => {
            let name = format!("database {}", postgres.name);
            return vec![Finding::fail(
                name,
                "PostgreSQL is not supported yet",
                "this version deploys SQLite only",
            )];
        }
    };
    let name = format!("database {}", file.display());
    let open = match connection::open_read(file) {
        Ok(open) => open,
        Err(SqliteError::Absent { .. }) if config.current().symlink_metadata().is_err() => {
            let note = "not there yet, and nothing has been deployed yet";
            return vec![Finding::unknown(
                name,
                note,
                "put the data there now, or let the first release create it",
            )];
        }
        Err(SqliteError::Absent { .. }) => {
            return vec![Finding::fail(name, "not there", "put it back, or mend [database].url")];
        }
        Err(error) => {
            let hint = "mend [database].url, or restore a backup: plimsoll backup list";
            return vec![Finding::fail(name, error.to_string(), hint)];
        }
    };
    let bytes = fs::metadata(file).map_or(0, |found| found.len());
    let mode = match connection::journal_mode(&open) {
        Ok(JournalMode::Wal) => "WAL",
        Ok(JournalMode::Rollback) => "rollback journal",
        Err(error) => return vec![Finding::fail(name, error.to_string(), "see: plimsoll backup list")],
    };
    let mut findings = vec![Finding::pass(&name, format!("{}, {mode}", size_words(bytes)))];
    if access(file, Access::WRITE_OK).is_err() {
        findings.push(Finding::fail(
            "database writable",
            "only readable",
            "give Plimsoll's user the right to write it",
        ));
    }
    findings.push(if bytes > QUICKLY_READ {
        Finding::skipped("database integrity", "too large to read here; every backup of it is verified")
    } else {
        let quick: Result<String, _> = open.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
        match quick {
            Ok(said) if said == "ok" => Finding::pass("database integrity", "quick check: ok"),
            Ok(said) => Finding::fail(
                "database integrity",
                said,
                "restore the last good backup: plimsoll backup list",
            ),
            Err(error) => {
                Finding::unknown("database integrity", error.to_string(), "try again when it is less busy")
            }
        }
    });
    if let Ok(tables) = schema::tables(&open) {
        for named in config.database.tables.iter().filter(|named| !tables.contains_key(*named)) {
            let known = tables.keys().cloned().collect::<Vec<_>>().join(", ");
            let hint = format!("mend [database].tables; there are: {known}");
            findings.push(Finding::unknown(format!("table {named}"), "not in the database", hint));
        }
    }
    findings
}

/// What is linked into every release is there.
pub(super) fn shared(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for link in &config.build.link {
        let target = config.shared().join(link);
        let name = format!("shared/{}", link.display());
        let is_database = config.database_file() == Some(target.as_path());
        let dotless = !link.file_name().is_some_and(|last| last.as_encoded_bytes().contains(&b'.'));
        let folder = dotless || link.as_os_str().as_encoded_bytes().ends_with(b"/");
        findings.push(match target.metadata() {
            Ok(_) => Finding::pass(name, "there"),
            Err(_) if is_database => continue,
            Err(_) if folder => Finding::pass(name, "will be made, empty"),
            Err(_) => {
                let hint = format!("put it at {}, or take it out of [build].link", target.display());
                Finding::fail(name, "not there", hint)
            }
        });
    }
    findings
}

/// Every secret can be had; its name is shown, never itself.
pub(super) fn secrets(config: &Config) -> Vec<Finding> {
    let mut settings: Vec<&Setting> =
        config.service.env.values().chain(config.rehearsal.env.values()).collect();
    settings.extend(config.notify.values().filter_map(|group| group.webhook.as_ref()));
    let mut secrets: Vec<_> = settings
        .into_iter()
        .filter_map(|setting| match setting {
            Setting::Secret(secret) => Some(secret),
            Setting::Plain(_) => None,
        })
        .chain(config.database.password.as_ref())
        .collect();
    secrets.sort_by_key(ToString::to_string);
    secrets.dedup();
    secrets
        .into_iter()
        .map(|secret| match secret.reveal() {
            Ok(_) => Finding::pass(format!("secret {secret}"), "there"),
            Err(error) => {
                let hint = "set it where `plimsoll serve` and `plimsoll deploy` are started";
                Finding::fail(format!("secret {secret}"), error.to_string(), hint)
            }
        })
        .collect()
}

/// What is allowed and yet looks like a slip.
pub(super) fn meaning(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.smoke.is_empty() {
        let hint = "add [[smoke]]: what must work before users are let in";
        findings.push(Finding::unknown("smoke tests", "there are none: only the health path is asked", hint));
    }
    for test in config.smoke.iter().filter(|test| !test.writes && sends_a_body(test)) {
        let note = "sends more than GET, and runs against production too";
        let hint = "say writes = true when it changes data: then it runs on a copy only";
        findings.push(Finding::unknown(format!("smoke test \"{}\"", test.name), note, hint));
    }
    for (section, settings) in [("[service]", &config.service.env), ("[rehearsal]", &config.rehearsal.env)] {
        findings.extend(plain_secrets(section, settings));
    }
    findings.extend(config.window.as_ref().map(agreed));
    findings
}

/// A window that was meant otherwise is found out here, and not on the night itself.
fn agreed(window: &Window) -> Finding {
    let name = format!("[window] {}", window::shown(window));
    let note = match window::at(window, jiff::Timestamp::now()) {
        Agreed::Open { until, .. } => format!("open until {until}"),
        Agreed::Closed { opens } => format!("closed; it opens {opens}"),
        Agreed::Nothing => String::new(),
    };
    Finding::pass(name, note)
}

fn sends_a_body(test: &Smoke) -> bool {
    test.steps.iter().any(|step| !["GET", "HEAD"].contains(&step.method.as_str()))
}

fn plain_secrets<'a>(section: &'a str, settings: &'a Settings) -> impl Iterator<Item = Finding> + 'a {
    let telling = ["SECRET", "PASSWORD", "PASSWD", "TOKEN", "PRIVATE_KEY", "API_KEY"];
    settings
        .iter()
        .filter(move |(name, value)| {
            let name = name.to_uppercase();
            matches!(value, Setting::Plain(text) if !text.is_empty())
                && telling.iter().any(|t| name.contains(t))
                // It says where the secret is.
                && !name.ends_with("_FILE")
        })
        .map(move |(name, _)| {
            let hint = format!("write {name} = \"env:{name}\" and set it in Plimsoll's environment");
            Finding::unknown(format!("{section} env {name}"), "looks like a secret in the file itself", hint)
        })
}

/// Log files can be read.
pub(super) fn logs(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for log in &config.logs {
        let LogSource::File(file) = &log.source else { continue };
        let name = format!("log {}", file.display());
        findings.push(match access(file, Access::READ_OK) {
            Ok(()) if file.is_file() => Finding::pass(name, format!("errors are lines like {}", log.error)),
            Ok(()) => Finding::fail(name, "not a file", "mend [[log]].file"),
            Err(rustix::io::Errno::NOENT) => {
                Finding::unknown(name, "not there yet", "fine when the app creates it")
            }
            Err(error) => Finding::fail(name, error.to_string(), "give Plimsoll's user the right to read it"),
        });
    }
    findings
}

/// How long a bucket may take to answer a check.
const ASK: Duration = Duration::from_secs(5);

/// The bucket answers, and lists. Unknown and not failed when it does not: a deployment does without it.
fn bucket(config: &Config, destination: &Destination) -> Finding {
    let Place::Bucket(mut bucket) = config.backup.s3.place(destination) else {
        return Finding::skipped("second copies", "this place is no bucket");
    };
    let name = bucket.place();
    bucket.access.retry_for = ASK;
    let database = config.database_file().and_then(|file| file.file_name()).unwrap_or_default();
    match bucket.count(&database.to_string_lossy(), &Stop::new().by(Instant::now() + 2 * ASK)) {
        Ok(backups) => Finding::pass(name, format!("answers, and holds {backups} backups of this database")),
        Err(error) => Finding::unknown(name, error.to_string(), error.hint()),
    }
}

/// Folders for second copies are there: a missing one is most likely a disk that is not mounted.
pub(super) fn copies(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for copy in &config.backup.copies {
        match copy {
            Destination::Folder(folder) if folder.is_dir() => {
                findings.push(machine::writable("for second copies", folder));
            }
            Destination::Folder(folder) => {
                let name = format!("folder {}", folder.display());
                findings.push(Finding::fail(name, "not there", "is the disk mounted? Or create the folder"));
            }
            Destination::S3 { .. } => findings.push(bucket(config, copy)),
        }
    }
    findings
}

#[cfg(test)]
pub(super) mod tests {
    use plimsoll_core::check::Verdict::{self, Fail, Pass, Unknown};

    use std::path::PathBuf;

    use super::*;

    pub(in super::super) struct Sample {
        folder: tempfile::TempDir,
    }

    impl Sample {
        pub(in super::super) fn new() -> Self {
            Sample { folder: tempfile::tempdir().unwrap() }
        }

        pub(in super::super) fn path(&self, name: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        }

        fn sqlite(&self, name: &str, sql: &str) -> PathBuf {
            let path = self.path(name);
            rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
            path
        }

        /// The least that loads, with `more` below `[database]`.
        pub(in super::super) fn config(&self, more: &str) -> Config {
            let text = format!(
                "[app]\nname = 'shop'\n[source]\ngit = 'repository'\n[service]\nkind = 'process'\ncommand = 'sh app'\naddress = '127.0.0.1:8000'\n[database]\nurl = 'sqlite:shared/a.db'\n{more}"
            );
            let file = self.folder.path().join("plimsoll.toml");
            Config::from_text(&file, &text).unwrap_or_else(|error| panic!("{error:?}"))
        }
    }

    pub(in super::super) fn verdicts(findings: &[Finding]) -> Vec<Verdict> {
        findings.iter().map(|finding| finding.verdict).collect()
    }

    #[test]
    fn a_database_that_is_not_there_fails_once_something_was_deployed() {
        let sample = Sample::new();
        let config = sample.config("");
        assert_eq!(verdicts(&database(&config)), [Unknown]);
        std::os::unix::fs::symlink("releases/000001-abcdefa", sample.path("current")).unwrap();
        assert_eq!(verdicts(&database(&config)), [Fail]);
        assert!(!config.shared().exists(), "check creates no database");
    }

    #[test]
    fn a_foreign_file_is_no_database_and_a_damaged_one_is_found() {
        let sample = Sample::new();
        let config = sample.config("");
        fs::write(sample.path("shared/a.db"), "these are not the bytes you are looking for\n".repeat(99))
            .unwrap();
        assert_eq!(verdicts(&database(&config)), [Fail]);
        fs::remove_file(sample.path("shared/a.db")).unwrap();
        let rows = "CREATE TABLE t(a); CREATE INDEX i ON t(a); WITH n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<2000) INSERT INTO t SELECT 'row '||i FROM n;";
        let file = sample.sqlite("shared/a.db", rows);
        assert_eq!(verdicts(&database(&config)), [Pass, Pass]);
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 2_000].fill(0x5a);
        fs::write(&file, bytes).unwrap();
        let findings = database(&config);
        assert!(findings.iter().any(|f| f.name == "database integrity" && f.verdict != Pass));
    }

    #[test]
    fn a_wal_database_is_looked_at_and_nothing_is_left_beside_it() {
        let sample = Sample::new();
        let config = sample.config("tables = ['orders', 'ordres']\n");
        sample.sqlite("shared/a.db", "PRAGMA journal_mode = WAL; CREATE TABLE orders(id);");
        let findings = database(&config);
        assert_eq!(verdicts(&findings), [Pass, Pass, Unknown]);
        assert!(findings[0].note.ends_with("WAL"), "{}", findings[0].note);
        assert_eq!(findings[2].name, "table ordres");
        assert_eq!(fs::read_dir(config.shared()).unwrap().count(), 1);
    }

    #[test]
    fn postgres_says_that_it_is_not_supported_yet() {
        let sample = Sample::new();
        let mut config = sample.config("");
        let url = "[app]\nname='a'\n[source]\ngit='a'\n[service]\nkind='process'\ncommand='a'\naddress='127.0.0.1:1'\n[database]\nurl='postgres://u@h/db'";
        config.database = Config::from_text(&config.file, url).unwrap().database;
        assert!(database(&config)[0].note.contains("not supported yet"));
    }

    #[test]
    fn what_is_linked_must_be_there_unless_it_can_be_made() {
        let sample = Sample::new();
        let config = sample.config("[build]\nlink = ['.env', 'uploads', 'conf.d/', 'a.db']\n");
        assert_eq!(verdicts(&shared(&config)), [Fail, Pass, Pass], "the database is looked at elsewhere");
        fs::write(sample.path("shared/.env"), "").unwrap();
        assert_eq!(verdicts(&shared(&config)), [Pass, Pass, Pass]);
    }

    #[test]
    fn secrets_are_named_and_never_shown() {
        let sample = Sample::new();
        fs::write(sample.path("pw"), "hunter2\n").unwrap();
        let there = sample.path("pw").display().to_string();
        let config = sample.config(&format!(
            "[rehearsal]\nenv = {{ A = 'file:{there}', B = 'env:PLIMSOLL_NO_SUCH_NAME', C = 'env:PLIMSOLL_NO_SUCH_NAME' }}\n"
        ));
        let findings = secrets(&config);
        assert_eq!(verdicts(&findings), [Fail, Pass]);
        let shown: String = findings.iter().map(|f| format!("{} {} {}", f.name, f.note, f.hint)).collect();
        assert!(shown.contains("PLIMSOLL_NO_SUCH_NAME") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn what_looks_like_a_slip_is_pointed_out() {
        let sample = Sample::new();
        assert_eq!(verdicts(&meaning(&sample.config(""))), [Unknown], "no smoke test");
        let config = sample.config(
            "[[smoke]]\nname = 'a'\npost = '/order'\n[[smoke]]\nname = 'b'\nwrites = true\npost = '/order'\n[rehearsal]\nenv = { API_TOKEN = 'x', EMPTY_SECRET = '', HOST = 'h' }\n",
        );
        let names: Vec<String> = meaning(&config).into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["smoke test \"a\"", "[rehearsal] env API_TOKEN"]);
    }

    #[test]
    fn a_disk_that_is_not_mounted_fails_and_a_log_that_is_not_written_yet_does_not() {
        let sample = Sample::new();
        fs::create_dir(sample.path("nas")).unwrap();
        let config = sample.config("[backup]\ncopies = ['nas', 'usb', 's3://b/c']\ns3 = { endpoint = 'http://127.0.0.1:1', access_key_id = 'env:NOT_SET_9', secret_access_key = 'env:NOT_SET_9' }\n[[log]]\nfile = 'app.log'\n[[log]]\nfile = 'nas'\n");
        assert_eq!(verdicts(&copies(&config)), [Pass, Fail, Unknown]);
        assert_eq!(verdicts(&logs(&config)), [Unknown, Fail]);
    }
}
