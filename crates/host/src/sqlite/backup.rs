//! Making a backup that can be trusted: copied, read back, compared, named, and only then counted.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use jiff::Timestamp;

use super::compressed;
use super::connection::open_finished;
use super::control::{Control, Phase};
use super::copy::copy_and_read_back;
use super::fingerprint::{Depth, Hashing, Known, interrupted};
use super::inspection::inspect;
use super::manifest::{Inside, Manifest, State};
use super::partial::{Partial, leftovers, remove_with_sides};
use super::verify::integrity_of_rest;
use super::{Error, Fingerprint, Limits};
use crate::backups::Name;
use crate::durable;

/// What to back up, where to, and why.
#[derive(Clone, Debug)]
pub struct Request {
    /// The live database.
    pub database: PathBuf,
    /// The folder for backups; made when it is missing.
    pub folder: PathBuf,
    /// Why: `manual`, `before-deploy`, `before-restore`...
    pub reason: String,
    /// The run that it belongs to.
    pub run: Option<String>,
    /// Whether to compress it (zstd).
    pub compress: bool,
    /// How far reading may go at the app's expense.
    pub limits: Limits,
}

impl Request {
    /// A backup with the usual limits.
    #[must_use]
    pub fn new(database: impl Into<PathBuf>, folder: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Request {
            database: database.into(),
            folder: folder.into(),
            reason: reason.into(),
            run: None,
            compress: false,
            limits: Limits::default(),
        }
    }
}

/// A verified backup.
#[derive(Clone, Debug)]
pub struct Backup {
    /// The file.
    pub path: PathBuf,
    /// What is known about it.
    pub manifest: Manifest,
}

/// Backs up a live database: a consistent copy, every block of it read back and compared with what was read from the
/// source, looked at page by page and by SQLite, named by its moment, its manifest written last, `LATEST` pointed at it.
///
/// # Errors
/// As [`super::copy::copy`]; [`Error::Corrupt`] when the source is damaged; [`Error::CopyDiffers`]. There is then no
/// new backup, and the others are as they were.
pub fn create(request: &Request, control: &mut Control<'_>) -> Result<Backup, Error> {
    let (sender, progress) = channel();
    let stop = control.stop.clone();
    thread::scope(|scope| {
        let made = scope.spawn(move || {
            // The app goes first: beside a backup of 1 GiB on two busy cores its commits waited for one, with a p99 of
            // 18 ms. A thread of its own, because a priority that was given up is not given back; those that it starts
            // have it too. It is advice to the scheduler, and nothing is wrong without it.
            let _ = rustix::process::nice(10);
            // It fails only when the caller has gone.
            let mut control = Control::new(stop, move |at| {
                let _ = sender.send(at);
            });
            make(request, &mut control)
        });
        for at in progress {
            control.tell(at.phase, at.done, at.total, at.unit);
        }
        made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn make(request: &Request, control: &mut Control<'_>) -> Result<Backup, Error> {
    let started = Instant::now();
    let created_at = Timestamp::now();
    let source = &request.database;
    let database = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    durable::create_dir(&request.folder, durable::PRIVATE_DIR)?;
    for left in leftovers(&request.folder, &database)? {
        remove_with_sides(&left);
    }
    let partial = Partial::new(&request.folder, &database)?;
    let (copied, sha256) = copy_and_read_back(source, &partial, &request.limits, control)?;
    let bytes = copied.bytes();
    let (content, unchecked) = examine(source, partial.path(), control)?;
    let mut name = Name::new(&database, created_at);
    let (mut finished, mut inside) = (partial, None);
    let (mut file_bytes, mut file_sha256) = (bytes, sha256.clone());
    if request.compress {
        let packed = Partial::new(&request.folder, &database)?;
        (file_bytes, file_sha256) = compressed::pack(finished.path(), &sha256, &packed, &control.stop)?;
        (name, inside) = (name.compressed(), Some(Inside { bytes, sha256 }));
        finished = packed;
    }
    let (name, path) = publish(finished, &request.folder, name)?;
    let manifest = Manifest {
        format: 1,
        state: State::Verified,
        file: name.clone(),
        source: std::path::absolute(source).unwrap_or_else(|_| source.clone()),
        created_at,
        reason: request.reason.clone(),
        run: request.run.clone(),
        bytes: file_bytes,
        sha256: file_sha256,
        inside,
        object: None,
        page_size: copied.page_size,
        journal_mode: copied.mode,
        sqlite: rusqlite::version().to_owned(),
        tool: env!("CARGO_PKG_VERSION").to_owned(),
        schema_sha256: content.schema_hash(),
        content,
        compared: "content".to_owned(),
        unchecked,
        took_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    if let Err(e) = manifest.write(&path) {
        // A backup without a manifest would look like one that somebody else put there.
        remove_with_sides(&path);
        return Err(e);
    }
    durable::link(&request.folder.join(format!("{database}.backup.LATEST")), Path::new(&name))?;
    Ok(Backup { path, manifest })
}

/// Whether the finished copy is sound, what it holds, and what of it could not be checked.
fn examine(
    source: &Path,
    copy: &Path,
    control: &mut Control<'_>,
) -> Result<(Fingerprint, Vec<String>), Error> {
    control.tell(Phase::Checking, 0, 0, "pages");
    let stop = control.stop.clone();
    let open = || {
        let mut connection = open_finished(copy)?;
        stop.interrupts(&mut connection);
        Ok::<_, Error>(connection)
    };
    let failed = |e: &rusqlite::Error| interrupted(source, e, &stop);
    // Damage is the source's: the copy is what was read from it.
    let connection = open().map_err(|e| match e {
        Error::Corrupt { why, .. } => Error::Corrupt { path: source.to_owned(), why },
        Error::NotADatabase { .. } => Error::NotADatabase { path: source.to_owned() },
        other => other,
    })?;
    let seen = inspect(copy, &connection, Hashing::Fast, control)?;
    // What is left to SQLite, on two cores.
    let (checked, content) = thread::scope(|scope| {
        let check = scope.spawn(|| integrity_of_rest(&open()?, seen.as_ref()).map_err(|e| failed(&e)));
        let reading = Depth::Content.into();
        let content = Fingerprint::read_rest(&connection, reading, seen.as_ref(), control);
        (check.join(), content)
    });
    let mut unchecked = Vec::new();
    // A panic in the check is ours, and is passed on.
    match checked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))? {
        Known::Is(problems) if problems.is_empty() => {}
        Known::Is(problems) => {
            return Err(Error::Corrupt { path: source.to_owned(), why: problems.join("; ") });
        }
        Known::Unknown(why) => unchecked.push(format!("integrity: could not be checked, app-defined: {why}")),
    }
    let content = content.map_err(|e| failed(&e))?;
    if let Known::Unknown(why) = &content.fk_violations {
        unchecked.push(format!("foreign keys: {why}"));
    }
    Ok((content, unchecked))
}

/// Gives the file the first free name of its second.
fn publish(mut partial: Partial, folder: &Path, mut name: Name) -> Result<(String, PathBuf), Error> {
    loop {
        let text = name.to_string();
        let path = folder.join(&text);
        match partial.publish(&path)? {
            Ok(()) => return Ok((text, path)),
            Err(again) => {
                partial = again;
                name = name.next();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Duration;

    use rusqlite::Connection;

    use super::*;
    use crate::sqlite::Stop;
    use crate::sqlite::restore::{Guard, Options, into};
    use crate::sqlite::verify;

    fn database(folder: &Path, prepare: &str) -> PathBuf {
        let path = folder.join("store.db");
        let own = Connection::open(&path).unwrap();
        own.execute_batch(prepare).unwrap();
        own.execute_batch(
            "CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY AUTOINCREMENT, total INT, note TEXT);
             CREATE TABLE IF NOT EXISTS lines (order_id INT REFERENCES orders (id), item TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
             INSERT INTO orders (total, note) SELECT i * 10, printf('%.*c', 60, 'x') FROM n;
             INSERT INTO lines SELECT id, 'rice' FROM orders;",
        )
        .unwrap();
        path
    }

    fn back_up(database: &Path, folder: &Path) -> Result<Backup, Error> {
        create(&Request::new(database, folder, "test"), &mut Control::default())
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_backup_has_its_name_its_manifest_and_is_the_latest() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path(), "PRAGMA journal_mode = WAL");
        let folder = dir.path().join("backups");
        let first = back_up(&path, &folder).unwrap();
        let name = first.path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(Name::parse(&name, "store.db").is_some(), "{name}");
        assert_eq!(first.manifest.state, State::Verified);
        assert_eq!(first.manifest.compared, "content");
        assert_eq!(first.manifest.content.tables["orders"].rows, 400);
        assert_eq!(first.manifest.content.fk_violations, Known::Is(0));
        assert!(first.manifest.unchecked.is_empty());
        let second = back_up(&path, &folder).unwrap();
        let latest = fs::read_link(folder.join("store.db.backup.LATEST")).unwrap();
        assert_eq!(Some(latest.as_os_str()), second.path.file_name());
        assert_eq!(Manifest::read(&second.path).unwrap().unwrap(), second.manifest);
        // Two backups, two manifests, one link, and nothing else.
        assert_eq!(names(&folder).len(), 5, "{:?}", names(&folder));
        for file in [&first.path, &Manifest::path_for(&first.path)] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        // A plain file that anybody's SQLite opens without making files beside it.
        let sums: i64 = Connection::open(&first.path)
            .unwrap()
            .query_row("SELECT sum(total) FROM orders", [], |row| row.get(0))
            .unwrap();
        assert_eq!(sums, 802_000);
        assert_eq!(names(&folder).len(), 5);
    }

    #[test]
    fn every_layout_is_backed_up_and_verified() {
        let sizes = [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536];
        let sizes = sizes.iter().flat_map(|size| {
            ["WAL", "DELETE", "TRUNCATE", "PERSIST"]
                .map(|mode| format!("PRAGMA page_size = {size}; PRAGMA journal_mode = {mode}"))
        });
        let kinds = [
            "PRAGMA auto_vacuum = FULL",
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL",
            "PRAGMA journal_mode = TRUNCATE; PRAGMA application_id = 77; PRAGMA user_version = 5",
            "PRAGMA encoding = 'UTF-16le'",
            "CREATE TABLE wr (k TEXT PRIMARY KEY) WITHOUT ROWID; INSERT INTO wr VALUES ('k')",
            "CREATE TABLE st (a TEXT, b INT AS (length(a)) STORED) STRICT; INSERT INTO st VALUES ('k')",
            "CREATE VIRTUAL TABLE f USING fts5(t); INSERT INTO f VALUES ('tur dal')",
            "CREATE VIRTUAL TABLE f USING fts5(t, content = ''); INSERT INTO f (rowid, t) VALUES (7, 'chana')",
            "CREATE TABLE g (a, v AS (a * 2) VIRTUAL, s AS (a + 1) STORED, UNIQUE (v)); INSERT INTO g (a) VALUES (4)",
            "CREATE TABLE e (a TEXT); INSERT INTO e VALUES ('Z'); CREATE INDEX ei ON e (lower(a)) WHERE a IS NOT NULL",
            "CREATE TABLE big (a BLOB); INSERT INTO big VALUES (zeroblob(300000)), (randomblob(300000))",
            "CREATE TABLE holes (a); INSERT INTO holes VALUES (randomblob(90000)); DELETE FROM holes",
            "CREATE VIRTUAL TABLE r USING rtree(id, a, b); INSERT INTO r VALUES (1, 2, 3)",
        ];
        for prepare in sizes.chain(kinds.map(str::to_owned)) {
            let dir = tempfile::tempdir().unwrap();
            let path = database(dir.path(), &prepare);
            let backup = back_up(&path, dir.path()).unwrap_or_else(|e| panic!("{prepare}: {e}"));
            assert_eq!(backup.manifest.unchecked, Vec::<String>::new(), "{prepare}");
            let report = verify::backup(&backup.path, &mut Control::default()).unwrap();
            assert!(report.sound() && report.unchecked().is_empty(), "{prepare}: {report:?}");
            // And back: what it was comes into a database that is something else by now.
            Connection::open(&path)
                .unwrap()
                .execute_batch("DELETE FROM lines; DELETE FROM orders; CREATE TABLE later (a)")
                .unwrap();
            let options = Options::new(dir.path().join("kept"));
            let restored = into(&backup.path, &path, Guard::Any, &options, &mut Control::default())
                .unwrap_or_else(|e| panic!("{prepare}: {e}"));
            assert_eq!(restored.differences, Vec::<String>::new(), "{prepare}");
            assert_eq!(backup.manifest.content.differences(&restored.content), [], "{prepare}");
        }
    }

    /// `integrity_check` fails on a sound file whose collation only the app knows.
    #[test]
    fn what_only_the_app_defines_is_reported_as_not_checked_and_never_as_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path(), "PRAGMA journal_mode = WAL");
        let own = Connection::open(&path).unwrap();
        own.execute_batch(
            "PRAGMA writable_schema = ON;
             CREATE TABLE names (n TEXT COLLATE NOCASE, k TEXT COLLATE NOCASE PRIMARY KEY);
             INSERT INTO names VALUES ('Asha', 'a'), ('Ravi', 'r');
             CREATE INDEX by_name ON names (n);
             UPDATE sqlite_schema SET sql = replace(sql, 'NOCASE', 'NATURAL_CI') WHERE name = 'names';",
        )
        .unwrap();
        drop(own);
        let backup = back_up(&path, dir.path()).unwrap();
        assert_eq!(backup.manifest.content.tables["names"].rows, 2);
        assert!(backup.manifest.content.tables["names"].hash.is_some());
        assert!(backup.manifest.unchecked[0].contains("NATURAL_CI"), "{:?}", backup.manifest.unchecked);
        let report = verify::backup(&backup.path, &mut Control::default()).unwrap();
        assert!(report.sound(), "{report:?}");
        assert!(report.unchecked()[0].contains("app-defined"), "{report:?}");
    }

    #[test]
    fn a_damaged_source_gives_no_backup_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path(), "PRAGMA page_size = 1024");
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2 / 1024 * 1024;
        bytes[middle..middle + 512].fill(0xAA);
        fs::write(&path, bytes).unwrap();
        let folder = dir.path().join("backups");
        assert!(matches!(back_up(&path, &folder), Err(Error::Corrupt { .. })));
        assert_eq!(names(&folder), Vec::<String>::new());
    }

    #[test]
    fn stopping_leaves_nothing_partial() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path(), "PRAGMA journal_mode = WAL");
        let folder = dir.path().join("backups");
        let stop = Stop::new();
        stop.ask();
        let error = create(&Request::new(&path, &folder, "test"), &mut Control::quiet(stop)).unwrap_err();
        assert!(matches!(error, Error::Stopped { .. }), "{error}");
        let past = Stop::new().by(Instant::now());
        let error = create(&Request::new(&path, &folder, "test"), &mut Control::quiet(past)).unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error}");
        assert_eq!(names(&folder), Vec::<String>::new());
    }

    #[test]
    fn leftovers_of_a_dead_process_are_cleared_and_those_of_a_living_one_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path(), "PRAGMA journal_mode = WAL");
        let folder = dir.path().join("backups");
        fs::create_dir(&folder).unwrap();
        let dead = folder.join("store.db.partial-999-0");
        fs::write(&dead, "half").unwrap();
        let alive = Partial::new(&folder, "store.db").unwrap();
        back_up(&path, &folder).unwrap();
        assert!(!dead.exists());
        assert!(alive.path().exists());
    }

    /// An order and its lines are always written together: a torn copy has one without the other.
    fn under_a_busy_writer(journal: &str, backups: usize) {
        // 300 commits a second, as far as the machine lets them through: at full speed the database would outgrow the test.
        const PACE: Duration = Duration::from_micros(3_333);
        let dir = tempfile::tempdir().unwrap();
        let path = database(dir.path(), &format!("PRAGMA journal_mode = {journal}"));
        let (done, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let writer = thread::spawn({
            let (path, done, committed) = (path.clone(), Arc::clone(&done), Arc::clone(&committed));
            move || -> Result<Duration, rusqlite::Error> {
                let own = Connection::open(&path)?;
                own.busy_timeout(Duration::from_secs(5))?;
                own.execute_batch("PRAGMA synchronous = NORMAL")?;
                let (began, mut worst) = (Instant::now(), Duration::ZERO);
                for turn in 1_u32.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let before = Instant::now();
                    own.execute_batch(
                        "BEGIN IMMEDIATE; INSERT INTO orders (total) VALUES (1);
                         INSERT INTO lines VALUES (last_insert_rowid(), 'dal'); COMMIT;",
                    )?;
                    committed.fetch_add(1, Ordering::SeqCst);
                    worst = worst.max(before.elapsed());
                    thread::sleep((PACE * turn).saturating_sub(began.elapsed()));
                }
                Ok(worst)
            }
        });
        let began = Instant::now();
        for _ in 0..backups {
            let acknowledged = committed.load(Ordering::SeqCst);
            let backup = back_up(&path, &dir.path().join("backups")).unwrap();
            // One more may be committed and not yet acknowledged.
            let most = committed.load(Ordering::SeqCst) + 1;
            let tables = &backup.manifest.content.tables;
            assert!(tables["orders"].rows >= 400 + acknowledged, "an acknowledged order is missing");
            assert!(tables["orders"].rows <= 400 + most, "an order that nobody placed");
            assert_eq!(tables["orders"].rows, tables["lines"].rows, "torn");
            fs::remove_file(&backup.path).unwrap();
        }
        let took = began.elapsed();
        done.store(true, Ordering::Relaxed);
        let worst = writer.join().unwrap().expect("no write fails");
        let commits = committed.load(Ordering::SeqCst);
        assert!(commits > 0);
        // Shown by --nocapture: what the measure says.
        let words = format!(
            "{journal}: {backups} backups in {took:.1?} beside {commits} commits, the writer's worst wait {worst:.1?}\n"
        );
        let _ = std::io::Write::write_all(&mut std::io::stderr(), words.as_bytes());
    }

    #[test]
    fn under_a_busy_writer_nothing_is_missing_torn_or_refused_in_wal_mode() {
        under_a_busy_writer("WAL", plimsoll_testkit::soak::rounds(12, 500));
    }

    #[test]
    fn under_a_busy_writer_nothing_is_missing_torn_or_refused_with_a_rollback_journal() {
        under_a_busy_writer("DELETE", plimsoll_testkit::soak::rounds(12, 500));
    }

    #[test]
    fn too_little_room_is_said_before_anything_is_written() {
        let error = crate::sqlite::partial::room(Path::new("/"), u64::MAX).unwrap_err();
        assert!(matches!(error, Error::NoRoom { need: u64::MAX, .. }), "{error}");
    }
}
