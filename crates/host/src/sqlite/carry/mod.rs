//! Carry-over: going back to the database before a migration without losing what users wrote after it.
//!
//! Three databases: PRE, before the migration; POST, right after it; NOW. Whatever differs between POST and NOW is the
//! users' (the migration's own work is between PRE and POST) and is made again in a copy of PRE, by column name and
//! column by column. What has no place there is set aside, with the reason. Nothing here touches the live database: the
//! result lies beside it, and [`restore::into`](super::restore::into) puts it in place.

mod apply;
mod aside;
mod clone;
mod draft;
mod gates;
mod judge;
mod keys;
mod ledger;
mod moved;
mod pages;
mod plan;
#[cfg(test)]
mod random;
mod shape;
mod stage;
mod trees;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use self::draft::{Draft, attach};
use self::moved::Moved;
use self::pages::Known;
pub use self::plan::Rename;
use self::shape::Shapes;
use self::stage::Basis;
pub use self::stage::{Staged, stage};
use super::connection::{ForeignKeys, open_finished, open_own};
use super::copy::copy_to;
use super::diff::Side;
use super::fingerprint::{Depth, Fingerprint};
use super::page_set::PageSet;
use super::partial::Partial;
use super::schema;
use super::set_aside::{SetAside, Writer};
use super::{Control, Limits, Phase};

/// Why a difference was not applied.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// The backup has no such table.
    NoTable,
    /// The backup's table has no such column.
    NoColumn,
    /// The migration itself rewrote this value, so what it means may have changed; or the release changed the table
    /// again afterwards.
    MigrationChanged,
    /// The row that changed is not in the backup.
    RowNotInBackup,
    /// Another row has this unique value.
    Unique,
    /// The backup's table wants a value here.
    NotNull,
    /// A CHECK of the backup's table refuses it.
    Check,
    /// The row that it refers to is not there, or others still refer to it.
    #[serde(rename = "FK")]
    ForeignKey,
    /// The rows cannot be paired: no key, or another one.
    NoKey,
    /// The backup's column would store it as something else.
    Type,
    /// The table needs something that only the app defines.
    AppDefined,
}

impl Reason {
    const ALL: [Reason; 11] = [
        Reason::NoTable,
        Reason::NoColumn,
        Reason::MigrationChanged,
        Reason::RowNotInBackup,
        Reason::Unique,
        Reason::NotNull,
        Reason::Check,
        Reason::ForeignKey,
        Reason::NoKey,
        Reason::Type,
        Reason::AppDefined,
    ];

    /// The word in files and reports.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Reason::NoTable => "NO_TABLE",
            Reason::NoColumn => "NO_COLUMN",
            Reason::MigrationChanged => "MIGRATION_CHANGED",
            Reason::RowNotInBackup => "ROW_NOT_IN_BACKUP",
            Reason::Unique => "UNIQUE",
            Reason::NotNull => "NOT_NULL",
            Reason::Check => "CHECK",
            Reason::ForeignKey => "FK",
            Reason::NoKey => "NO_KEY",
            Reason::Type => "TYPE",
            Reason::AppDefined => "APP_DEFINED",
        }
    }

    fn of(code: &str) -> Option<Self> {
        Reason::ALL.into_iter().find(|reason| reason.code() == code)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// What to carry, and where to.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// The finished snapshot from before the migration.
    pub pre: &'a Path,
    /// The finished snapshot from right after it.
    pub post: &'a Path,
    /// The database as it is. A live one is copied first; its writers must be held for the result to be of use.
    pub now: Side<'a>,
    /// The new file. It must not exist.
    pub out: &'a Path,
    /// The new file for what is set aside; its SQL goes to the same name + `.sql`. Neither may exist.
    pub aside: &'a Path,
    /// Renames that cannot be recognised, such as that of a column without values.
    pub renames: &'a [Rename],
    /// Tables that stay as the backup has them, whatever happened to them since: the migrator's own books.
    pub skip: &'a [&'a str],
    /// Whether to read all of NOW for [`Carried::now`]; a watcher tells a later write for less.
    pub hash_now: bool,
    /// How far copying a live database may go at the app's expense.
    pub limits: Limits,
}

/// What became of a table's differences: a row that came or went is one, and so is each changed value of a row.
#[derive(Clone, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Made in the result.
    pub applied: u64,
    /// The result had it already.
    pub equal: u64,
    /// In the file, by reason.
    pub set_aside: BTreeMap<Reason, u64>,
}

impl Tally {
    /// All that was set aside.
    #[must_use]
    pub fn aside(&self) -> u64 {
        self.set_aside.values().sum()
    }

    /// All differences.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.applied + self.equal + self.aside()
    }
}

/// The database with everything that could be carried.
#[derive(Clone, Debug)]
pub struct Carried {
    /// The result: verified, on the disk, not yet in place.
    pub out: PathBuf,
    /// What became of the differences, per table as it is named now. Only tables with differences.
    pub tables: BTreeMap<String, Tally>,
    /// What was set aside; `None` when all could be carried.
    pub set_aside: Option<SetAside>,
    /// Columns that the migration rewrote in some row, per table of the backup: whatever was carried into them may
    /// mean something else there. Only of tables with differences.
    pub rewritten: BTreeMap<String, Vec<String>>,
    /// Renames that the migration made.
    pub renames: Vec<Rename>,
    /// Tables without AUTOINCREMENT where a row was set aside with the highest number: the next new row could get it.
    pub reusable: BTreeMap<String, i64>,
    /// What could not be checked or carried, in words.
    pub unchecked: Vec<String>,
    /// What NOW held: [`Guard::Equals`](super::restore::Guard::Equals) of the restore. `None` unless asked for.
    pub now: Option<Fingerprint>,
    /// The pages in which the result and NOW can differ; `None` when any can: [`Options::only`](super::restore::Options).
    pub differ: Option<PageSet>,
    /// How long it took.
    pub took: Duration,
}

impl Carried {
    /// The acknowledgements that are not among those given.
    #[must_use]
    pub fn unacknowledged(&self, given: &[String]) -> Vec<String> {
        words(self).into_iter().filter(|word| !given.contains(word)).collect()
    }
}

/// The acknowledgements that a person must give before the result may be put in place: `set-aside:TABLE`.
#[must_use]
pub fn words(carried: &Carried) -> Vec<String> {
    let lossy = carried.tables.iter().filter(|(_, tally)| tally.aside() > 0);
    lossy.map(|(table, _)| format!("set-aside:{table}")).collect()
}

/// Why there is no result. The live database was not touched, and no file was left.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of the databases could not be read, or the result not written.
    #[error(transparent)]
    Sqlite(#[from] super::Error),
    /// The result was made and is not what it must be.
    #[error("the carried database is not sound: {}", failures.join("; "))]
    Gate {
        /// What does not hold.
        failures: Vec<String>,
    },
}

impl Error {
    /// What to do next, in one sentence.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Error::Sqlite(error) => error.hint(),
            Error::Gate { .. } => {
                "Keep serving with the new release; the snapshots of the run are untouched."
            }
        }
    }
}

/// Makes [`Options::out`]: PRE with whatever users wrote between POST and NOW.
///
/// # Errors
/// The live database is untouched in every case, and neither file is there. [`Error::Gate`] when the result does not
/// hold what it must.
pub fn prepare(options: &Options<'_>, control: &mut Control<'_>) -> Result<Carried, Error> {
    let began = Instant::now();
    let folder =
        options.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = options.out.file_name().unwrap_or_default().to_string_lossy();
    let snapshot;
    let now = match options.now {
        Side::Finished(path) => path,
        Side::Live(path) => {
            snapshot = Partial::new(folder, &format!("{name}.now"))?;
            copy_to(path, &snapshot, &options.limits, control)?;
            snapshot.path()
        }
    };
    let out = Partial::new(folder, &name)?;
    let copy = clone::finished(options.pre, &out, &options.limits, control)?;
    let scratch = Partial::new(folder, &format!("{name}.work"))?;
    thread::scope(|scope| {
        // On its way to the disk while rows are compared; what comes of it is asked when the result gets its name.
        scope.spawn(|| copy.sync_data());
        carry(options, now, out, None, &scratch, control)
    })
    .map(|carried| Carried { took: began.elapsed(), ..carried })
}

/// The same as [`prepare`], when what has to go through the whole database was done beforehand by [`stage`]: its cost
/// follows the change. [`Options::now`] must be finished and differ from the one that was staged in no other pages than
/// `changed`.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_staged(
    options: &Options<'_>,
    staged: Staged,
    changed: &PageSet,
    control: &mut Control<'_>,
) -> Result<Carried, Error> {
    let began = Instant::now();
    let (Side::Finished(now) | Side::Live(now)) = options.now;
    let (out, basis) = staged.into_parts(options.post, changed);
    let folder = out.path().parent().unwrap_or(Path::new(".")).to_owned();
    let name = options.out.file_name().unwrap_or_default().to_string_lossy();
    let scratch = Partial::new(&folder, &format!("{name}.work"))?;
    carry(options, now, out, Some(basis), &scratch, control)
        .map(|carried| Carried { took: began.elapsed(), ..carried })
}

/// Makes the differences in `out`, a copy of PRE, and gives it its name.
fn carry(
    options: &Options<'_>,
    now: &Path,
    out: Partial,
    basis: Option<Basis>,
    scratch: &Partial,
    control: &mut Control<'_>,
) -> Result<Carried, Error> {
    let (staged, Basis { moved, since, mut unchecked }) = (basis.is_some(), basis.unwrap_or_default());
    let ahead = moved.as_ref().zip(since.as_ref()).map(|((moved, _), (since, _))| {
        let mut differ = moved.clone();
        differ.add(since);
        differ
    });
    let mut writer = Writer::begin(options.aside, "a rollback that could not carry them")?;
    let holds = options.hash_now.then(|| Fingerprint::of(now, Depth::Content, control)).transpose()?;
    let stop = control.stop.clone();
    let failed =
        |e: rusqlite::Error| -> super::Error { super::fingerprint::interrupted(out.path(), &e, &stop) };
    let shapes = |path: &Path| -> Result<(Shapes, BTreeMap<String, i64>, i64), Error> {
        let connection = open_finished(path)?;
        let read = || {
            Ok((
                Shapes::read(&connection)?.without(options.skip),
                schema::sequences(&connection)?,
                connection.query_row("PRAGMA user_version", [], |row| row.get(0))?,
            ))
        };
        read().map_err(|e| super::Error::of(path, "reading the schema", &e).into())
    };
    let (post_shapes, post_sequences, post_version) = shapes(options.post)?;
    let (now_shapes, now_sequences, now_version) = shapes(now)?;
    let mut connection = open_own(out.path(), ForeignKeys::Off)?;
    control.stop.interrupts(&mut connection);
    let pre_shapes = Shapes::read(&connection).map_err(failed)?.without(options.skip);
    if staged {
        stage::log_only(&connection).map_err(failed)?;
    }
    attach(&connection, options.post, now, scratch.path()).map_err(failed)?;
    let mut draft =
        Draft { connection, pre: pre_shapes, mappings: Vec::new(), entries: 0, unchecked: Vec::new() };
    draft.unchecked.append(&mut unchecked);
    let mut moved = Moved::between(options.pre, options.post, moved);
    let (mappings, renames) =
        plan::mappings(&draft.connection, &draft.pre, &post_shapes, &now_shapes, options.renames, &mut moved)
            .map_err(failed)?;
    if cfg!(test) {
        // In every test the short way is held against the long one.
        let (_, long) = plan::mappings(
            &draft.connection,
            &draft.pre,
            &post_shapes,
            &now_shapes,
            options.renames,
            &mut Moved::anywhere(),
        )
        .map_err(failed)?;
        assert_eq!(renames, long, "renames seen from the pages alone");
    }
    draft.mappings = mappings;
    let known = since.as_ref().map(|(unlike, beyond)| Known { unlike, beyond: *beyond });
    plan::near(&mut draft.mappings, (options.post, &post_shapes), (now, &now_shapes), known);
    let total = draft.mappings.len() as u64;
    draft.connection.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    ledger::begin(&draft.connection, &draft.mappings).map_err(failed)?;
    for number in 0..draft.mappings.len() {
        control.tell(Phase::Reading, number as u64, total, "tables");
        draft.entries += draft.write_down(number).map_err(failed)?;
    }
    control.tell(Phase::Reading, total, total, "tables");
    for beyond in now_shapes.beyond {
        draft
            .unchecked
            .push(format!("the rows of the virtual table {beyond} can be neither compared nor carried"));
    }
    if post_version != now_version {
        draft
            .unchecked
            .push(format!("user_version went from {post_version} to {now_version} and was not carried"));
    }
    let rewritten = draft.rewritten(&post_shapes, &mut moved).map_err(failed)?;
    if cfg!(test) {
        let long = draft.rewritten(&post_shapes, &mut Moved::anywhere()).map_err(failed)?;
        assert_eq!(rewritten, long, "rewritten columns seen from the pages alone");
    }
    let growth = draft.apply(options.pre, staged, &stop)?;
    draft.raise(&renames, &[post_sequences, now_sequences]).map_err(failed)?;
    let reusable = draft.reusable().map_err(failed)?;
    aside::write(&draft.connection, &draft.mappings, out.path(), &mut writer)?;
    let tables = draft.tallies().map_err(failed)?;
    draft.connection.execute_batch("COMMIT").map_err(failed)?;
    control.tell(Phase::Checking, 0, 1, "databases");
    let mut differ = None;
    if staged {
        let trees = gates::trees_of(&draft.connection, &draft.pre).map_err(failed)?;
        differ = stage::fold_in(&draft.connection, out.path())?;
        let told = match &differ {
            Some(unlike) => gates::by_pages(options.pre, out.path(), &trees, unlike, &growth)
                .map_err(|e| super::Error::io(out.path(), "read", e))?,
            None => None,
        };
        match told {
            Some(failures) if failures.is_empty() => {}
            Some(failures) => return Err(Error::Gate { failures }),
            None => differ = None,
        }
    }
    if differ.is_none() || cfg!(test) {
        draft.check_whole().map_err(failed)??;
        if staged {
            draft.recount(options.pre, &growth)?;
        }
    }
    control.tell(Phase::Checking, 1, 1, "databases");
    let Draft { connection, unchecked, .. } = draft;
    connection.close().map_err(|(_, e)| super::Error::of(out.path(), "closing the result", &e))?;
    let set_aside = writer.end()?;
    let exists = || super::Error::io(options.out, "create", std::io::ErrorKind::AlreadyExists.into());
    let published = out.publish(options.out).and_then(|taken| taken.map_err(|_| exists()));
    if let Err(error) = published {
        for file in set_aside.iter().flat_map(|aside| [&aside.database, &aside.sql]) {
            crate::durable::remove(file).map_err(super::Error::from)?;
        }
        return Err(error.into());
    }
    let out = options.out.to_owned();
    let differ = differ.zip(ahead).map(|(mut own, ahead)| {
        own.add(&ahead);
        own
    });
    Ok(Carried {
        differ,
        out,
        tables,
        set_aside,
        rewritten,
        renames,
        reusable,
        unchecked,
        now: holds,
        took: Duration::ZERO,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use rusqlite::Connection;
    use rusqlite::config::DbConfig;

    use super::super::{Stop, diff};
    use super::*;

    /// A backup, what the migration made of it, and what users made of that.
    pub(super) struct Case {
        pub(super) dir: tempfile::TempDir,
    }

    impl Case {
        /// In memory where that is possible: thousands of small files are synced.
        pub(super) fn empty() -> Self {
            Case { dir: tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap() }
        }

        pub(super) fn new(before: &str, migration: &str, users: &str) -> Self {
            let case = Case::empty();
            let mut sql = String::new();
            for (name, more) in [("pre", before), ("post", migration), ("now", users)] {
                sql.push_str(more);
                let own = Connection::open(case.path(name)).unwrap();
                own.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false).unwrap();
                own.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY;").unwrap();
                own.execute_batch(&format!("BEGIN; {sql} COMMIT;")).unwrap();
            }
            case
        }

        pub(super) fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(format!("{name}.db"))
        }

        pub(super) fn carry_with(&self, renames: &[Rename]) -> Result<Carried, Error> {
            let (pre, post, now) = (self.path("pre"), self.path("post"), self.path("now"));
            let (out, aside) = (self.path("out"), self.path("aside"));
            let options = Options {
                pre: &pre,
                post: &post,
                now: Side::Finished(&now),
                out: &out,
                aside: &aside,
                renames,
                skip: &[],
                hash_now: true,
                limits: Limits::default(),
            };
            let carried = prepare(&options, &mut Control::default())?;
            stage::tests::the_same_ahead(self, &carried, renames);
            Ok(carried)
        }

        pub(super) fn carry(&self) -> Carried {
            self.carry_with(&[]).unwrap()
        }

        /// The rows of a query on the result, values parted by a space.
        fn out(&self, sql: &str) -> Vec<String> {
            texts(&self.path("out"), sql)
        }
    }

    fn texts(path: &Path, sql: &str) -> Vec<String> {
        let own = Connection::open(path).unwrap();
        let mut statement = own.prepare(sql).unwrap();
        let width = statement.column_count();
        let text = |row: &rusqlite::Row<'_>| {
            let value = |place| match row.get_ref(place)? {
                rusqlite::types::ValueRef::Null => Ok("NULL".to_owned()),
                rusqlite::types::ValueRef::Integer(number) => Ok(number.to_string()),
                rusqlite::types::ValueRef::Real(number) => Ok(format!("{number:?}")),
                other => Ok(String::from_utf8_lossy(other.as_bytes()?).into_owned()),
            };
            (0..width).map(value).collect::<rusqlite::Result<Vec<_>>>().map(|row| row.join(" "))
        };
        statement.query_map([], text).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn asides(carried: &Carried, table: &str) -> Vec<(Reason, u64)> {
        carried
            .tables
            .get(table)
            .map(|t| t.set_aside.iter().map(|(r, n)| (*r, *n)).collect())
            .unwrap_or_default()
    }

    const SHOP: &str = "
        CREATE TABLE customers (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, email TEXT UNIQUE);
        CREATE TABLE products (sku TEXT PRIMARY KEY, title TEXT, price INT, stock INT CHECK (stock >= 0)) WITHOUT ROWID;
        CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, customer INT REFERENCES customers(id), total INT,
            vat INT GENERATED ALWAYS AS (total / 6) STORED);
        CREATE TABLE order_lines (order_id INT REFERENCES orders(id), line INT, sku TEXT REFERENCES products(sku), n INT,
            PRIMARY KEY (order_id, line));
        CREATE TABLE log (at INT, line TEXT);
        CREATE TABLE settings (k TEXT PRIMARY KEY, v);
        CREATE TABLE audit (id INTEGER PRIMARY KEY, what TEXT);
        CREATE TRIGGER seen AFTER INSERT ON orders BEGIN INSERT INTO audit (what) VALUES ('order ' || new.id); END;
        INSERT INTO customers VALUES (1, 'Asha', 'asha@example.org'), (2, 'Ravi', 'ravi@example.org');
        INSERT INTO products VALUES ('dal', 'Toor dal', 100, 10), ('ghee', 'Ghee', 400, 5), ('rice', 'Rice', 60, 8);
        INSERT INTO orders (id, customer, total) VALUES (1, 1, 160), (2, 2, 60);
        INSERT INTO order_lines VALUES (1, 1, 'dal', 1), (1, 2, 'rice', 1), (2, 1, 'rice', 1);
        INSERT INTO log VALUES (1, 'open'), (1, 'open'), (2, 'sale');
        INSERT INTO settings VALUES (NULL, 'a'), (NULL, 'b'), ('vat', 5);";

    /// The research's own case: the session extension returned OK on it and dropped both orders.
    #[test]
    fn orders_taken_after_add_and_rename_column_arrive_in_the_old_schema() {
        let case = Case::new(
            SHOP,
            "ALTER TABLE orders ADD COLUMN channel TEXT NOT NULL DEFAULT 'web'; ALTER TABLE customers ADD COLUMN phone TEXT;
             ALTER TABLE products RENAME COLUMN title TO name; CREATE TABLE coupons (code TEXT PRIMARY KEY, off INT);
             UPDATE products SET price = price * 2;",
            "INSERT INTO customers (name, email, phone) VALUES ('Mina', 'mina@example.org', NULL);
             INSERT INTO orders (customer, total, channel) VALUES (3, 200, 'web'), (1, 800, 'phone');
             INSERT INTO order_lines VALUES (3, 1, 'dal', 1), (4, 1, 'ghee', 2);
             UPDATE products SET stock = stock - 1 WHERE sku = 'dal'; UPDATE products SET stock = stock - 2 WHERE sku = 'ghee';
             UPDATE products SET price = 999 WHERE sku = 'ghee'; UPDATE products SET name = 'Basmati' WHERE sku = 'rice';
             UPDATE customers SET phone = '123' WHERE id = 2; DELETE FROM order_lines WHERE order_id = 1 AND line = 2;
             INSERT INTO coupons VALUES ('DIWALI', 10);
             INSERT INTO log VALUES (3, 'sale'); DELETE FROM log WHERE rowid = 1;
             INSERT INTO settings VALUES (NULL, 'b'); UPDATE settings SET v = 'c' WHERE v = 'a';",
        );
        let carried = case.carry();
        assert_eq!(
            case.out("SELECT id, customer, total, vat FROM orders"),
            ["1 1 160 26", "2 2 60 10", "3 3 200 33", "4 1 800 133"]
        );
        assert_eq!(
            case.out("SELECT * FROM products ORDER BY sku"),
            ["dal Toor dal 100 9", "ghee Ghee 400 3", "rice Basmati 60 8"]
        );
        assert_eq!(
            case.out("SELECT order_id, line FROM order_lines ORDER BY 1, 2"),
            ["1 1", "2 1", "3 1", "4 1"]
        );
        assert_eq!(case.out("SELECT name FROM customers"), ["Asha", "Ravi", "Mina"]);
        assert_eq!(case.out("SELECT at, line FROM log ORDER BY 1, 2"), ["1 open", "2 sale", "3 sale"]);
        assert_eq!(case.out("SELECT k, v FROM settings ORDER BY v"), ["vat 5", "NULL b", "NULL b", "NULL c"]);
        // The triggers' work is carried as rows, and not done a second time.
        assert_eq!(case.out("SELECT count(*) FROM audit"), ["4"]);
        assert_eq!(case.out("SELECT name, seq FROM sqlite_sequence ORDER BY 1"), ["customers 3", "orders 4"]);
        assert_eq!(asides(&carried, "orders"), [(Reason::NoColumn, 1)], "the default is no loss");
        assert_eq!(asides(&carried, "customers"), [(Reason::NoColumn, 1)]);
        assert_eq!(asides(&carried, "products"), [(Reason::MigrationChanged, 1)]);
        assert_eq!(asides(&carried, "coupons"), [(Reason::NoTable, 1)]);
        assert_eq!(
            words(&carried),
            ["coupons", "customers", "orders", "products"].map(|t| format!("set-aside:{t}"))
        );
        assert_eq!(carried.unacknowledged(&["set-aside:orders".to_owned()]).len(), 3);
        assert_eq!(carried.rewritten, BTreeMap::from([("products".to_owned(), vec!["price".to_owned()])]));
        assert_eq!(carried.renames.len(), 1);
        let aside = carried.set_aside.unwrap();
        for file in [&aside.database, &aside.sql] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let rows = "SELECT table_name, reason, column_name, old_value, new_value FROM set_aside WHERE is_key = 0 ORDER BY 1, 3";
        assert_eq!(
            texts(&aside.database, rows),
            [
                "coupons NO_TABLE off NULL 10",
                "customers NO_COLUMN phone NULL 123",
                "orders NO_COLUMN channel NULL phone",
                "products MIGRATION_CHANGED price 800 999",
            ]
        );
        let sql = fs::read_to_string(&aside.sql).unwrap();
        assert!(
            sql.contains(r#"UPDATE "products" SET "price" = 999 WHERE "sku" IS 'ghee'; -- before"#),
            "{sql}"
        );
        // Nothing else is left, and the database that is to be replaced was only read.
        assert_eq!(fs::read_dir(case.dir.path()).unwrap().count(), 6);
    }

    #[test]
    fn without_a_difference_the_result_is_the_backup() {
        let case = Case::new(SHOP, "ALTER TABLE log ADD COLUMN host TEXT; UPDATE log SET host = 'a';", "");
        let carried = case.carry();
        assert!(carried.tables.is_empty() && carried.set_aside.is_none() && words(&carried).is_empty());
        let same =
            diff::rows(Side::Finished(&case.path("pre")), Side::Finished(&case.path("out")), 9, &Stop::new());
        assert!(same.unwrap().is_empty());
    }

    /// What the result holds is what the present database holds, whatever the schema's own conflict clauses say.
    #[test]
    fn rows_that_take_each_others_unique_values_all_arrive() {
        let case = Case::new(
            "CREATE TABLE shelf (id INTEGER PRIMARY KEY, place INT UNIQUE ON CONFLICT REPLACE, item TEXT UNIQUE);
             INSERT INTO shelf VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c'), (4, 4, 'd'), (9, 9, 'z');",
            "ALTER TABLE shelf ADD COLUMN note TEXT;",
            "UPDATE shelf SET place = -place, item = item || '!'; UPDATE shelf SET place = 2, item = 'b' WHERE id = 1;
             UPDATE shelf SET place = 3, item = 'c' WHERE id = 2; UPDATE shelf SET place = 1, item = 'a' WHERE id = 3;
             UPDATE shelf SET place = 5, item = 'd' WHERE id = 4; UPDATE shelf SET place = 10 WHERE id = 9;
             INSERT INTO shelf VALUES (5, 9, 'z', NULL);",
        );
        let carried = case.carry();
        assert!(carried.set_aside.is_none(), "{carried:?}");
        assert_eq!(case.out("SELECT * FROM shelf"), ["1 2 b", "2 3 c", "3 1 a", "4 5 d", "5 9 z", "9 10 z!"]);
    }

    #[test]
    fn what_the_old_schema_refuses_is_set_aside_with_its_reason_and_no_number_comes_twice() {
        let strict = "(id INTEGER PRIMARY KEY AUTOINCREMENT, email TEXT UNIQUE, name TEXT NOT NULL, age INT CHECK (age > 0))";
        let loose = "(id INTEGER PRIMARY KEY AUTOINCREMENT, email TEXT, name TEXT, age INT)";
        let case = Case::new(
            &format!("CREATE TABLE people {strict}; INSERT INTO people VALUES (1, 'a', 'A', 30), (2, 'b', 'B', 40);
                CREATE TABLE tickets (id INTEGER PRIMARY KEY, code TEXT UNIQUE); INSERT INTO tickets VALUES (1, 'x');"),
            &format!("CREATE TABLE p2 {loose}; INSERT INTO p2 SELECT * FROM people; DROP TABLE people; ALTER TABLE p2 RENAME TO people;
                CREATE TABLE t2 (id INTEGER PRIMARY KEY, code TEXT); INSERT INTO t2 SELECT * FROM tickets; DROP TABLE tickets; ALTER TABLE t2 RENAME TO tickets;"),
            "INSERT INTO people VALUES (3, 'a', 'C', 1), (4, 'd', NULL, 1), (5, 'e', 'E', -1), (6, 'f', 'F', 1), (7, 'a', 'G', 1);
             UPDATE people SET age = 0 WHERE id = 1; UPDATE people SET name = 'BB' WHERE id = 2; INSERT INTO tickets VALUES (2, 'x');",
        );
        let carried = case.carry();
        let refused = [(Reason::Unique, 2), (Reason::NotNull, 1), (Reason::Check, 2)];
        assert_eq!(asides(&carried, "people"), refused);
        assert_eq!(case.out("SELECT id, name, age FROM people"), ["1 A 30", "2 BB 40", "6 F 1"]);
        assert_eq!(case.out("SELECT seq FROM sqlite_sequence WHERE name = 'people'"), ["7"]);
        assert_eq!(carried.reusable, BTreeMap::from([("tickets".to_owned(), 2)]));
    }

    #[test]
    fn a_foreign_key_that_would_break_sets_aside_the_row_that_breaks_it_and_those_below() {
        let case = Case::new(
            "CREATE TABLE a (id INTEGER PRIMARY KEY, code TEXT UNIQUE); CREATE TABLE b (id INTEGER PRIMARY KEY, a INT REFERENCES a);
             CREATE TABLE c (b INT REFERENCES b(id), n INT); CREATE TABLE old (a INT REFERENCES a(id));
             INSERT INTO a VALUES (1, 'x'), (2, 'y'); INSERT INTO old VALUES (2), (77); INSERT INTO c VALUES (99, 0);",
            "CREATE TABLE a2 (id INTEGER PRIMARY KEY, code TEXT); INSERT INTO a2 SELECT * FROM a; DROP TABLE a; ALTER TABLE a2 RENAME TO a;
             DROP TABLE old;",
            "INSERT INTO a VALUES (3, 'x'); INSERT INTO b VALUES (1, 3), (2, 1); INSERT INTO c VALUES (1, 1), (2, 2); DELETE FROM a WHERE id = 2;",
        );
        let carried = case.carry();
        assert_eq!(asides(&carried, "a"), [(Reason::Unique, 1), (Reason::ForeignKey, 1)]);
        assert_eq!(
            (asides(&carried, "b"), asides(&carried, "c")),
            (vec![(Reason::ForeignKey, 1)], vec![(Reason::ForeignKey, 1)])
        );
        assert_eq!(case.out("SELECT id FROM a"), ["1", "2"]);
        assert_eq!(
            case.out("SELECT b, n FROM c ORDER BY n"),
            ["99 0", "2 2"],
            "what was broken before stays"
        );
    }

    #[test]
    fn a_value_that_the_old_type_would_change_is_set_aside() {
        let case = Case::new(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, phone INT, n REAL); INSERT INTO t VALUES (1, 55, 1.5), (2, 66, 2.5), (3, 77, 0);",
            "CREATE TABLE t2 (id INTEGER PRIMARY KEY, phone TEXT, n REAL); INSERT INTO t2 SELECT * FROM t; DROP TABLE t; ALTER TABLE t2 RENAME TO t;",
            "UPDATE t SET phone = '0098' WHERE id = 1; UPDATE t SET phone = '98' WHERE id = 2; INSERT INTO t VALUES (4, '007', 1), (5, '8', 1);",
        );
        let carried = case.carry();
        assert_eq!(asides(&carried, "t"), [(Reason::Type, 2)]);
        assert_eq!(
            case.out("SELECT id, phone, typeof(phone) FROM t"),
            ["1 55 integer", "2 98 integer", "3 77 integer", "5 8 integer"]
        );
    }

    #[test]
    fn another_key_or_a_table_made_anew_is_not_guessed_at() {
        let case = Case::new(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, code TEXT NOT NULL); INSERT INTO t VALUES (1, 'a'); CREATE TABLE gone (x); INSERT INTO gone VALUES (1);",
            "CREATE TABLE t2 (id INT, code TEXT PRIMARY KEY); INSERT INTO t2 SELECT * FROM t; DROP TABLE t; ALTER TABLE t2 RENAME TO t; DROP TABLE gone;",
            "INSERT INTO t VALUES (2, 'b'); UPDATE t SET id = 7 WHERE code = 'a'; CREATE TABLE gone (x); INSERT INTO gone VALUES (2);",
        );
        let carried = case.carry();
        assert_eq!(asides(&carried, "t"), [(Reason::NoKey, 2)]);
        assert_eq!(asides(&carried, "gone"), [(Reason::MigrationChanged, 1)]);
        assert_eq!(case.out("SELECT * FROM t"), ["1 a"]);
    }

    #[test]
    fn a_rename_without_values_is_carried_when_it_is_told() {
        let before = "CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT);";
        let case = Case::new(
            before,
            "ALTER TABLE t RENAME COLUMN note TO remark;",
            "INSERT INTO t VALUES (1, 'hello');",
        );
        let rename = Rename { table: "t".into(), column: Some("note".into()), to: "remark".into() };
        assert!(case.carry_with(&[rename]).unwrap().set_aside.is_none());
        assert_eq!(case.out("SELECT note FROM t"), ["hello"]);
        let untold = Case::new(
            before,
            "ALTER TABLE t RENAME COLUMN note TO remark;",
            "INSERT INTO t VALUES (1, 'hello');",
        );
        assert_eq!(asides(&untold.carry(), "t"), [(Reason::NoColumn, 1)]);
        let table = Case::new(
            SHOP,
            "ALTER TABLE orders RENAME TO purchases;",
            "INSERT INTO purchases (customer, total) VALUES (1, 5);",
        );
        let carried = table.carry();
        assert!(carried.set_aside.is_none(), "{carried:?}");
        assert_eq!(table.out("SELECT id, total FROM orders WHERE id > 2"), ["3 5"]);
        assert_eq!(table.out("SELECT seq FROM sqlite_sequence WHERE name = 'orders'"), ["3"]);
    }

    #[test]
    fn full_text_indexes_find_what_was_carried() {
        let case = Case::new(
            "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT);
             CREATE VIRTUAL TABLE found USING fts5(body, content='notes', content_rowid='id');
             CREATE TRIGGER n AFTER INSERT ON notes BEGIN INSERT INTO found (rowid, body) VALUES (new.id, new.body); END;
             CREATE VIRTUAL TABLE own USING fts5(body); INSERT INTO notes VALUES (1, 'toor dal'); INSERT INTO own VALUES ('rice'), ('ghee');",
            "ALTER TABLE notes ADD COLUMN seen INT;",
            "INSERT INTO notes VALUES (2, 'masoor dal', NULL); INSERT INTO own VALUES ('basmati rice'); DELETE FROM own WHERE body = 'ghee';
             UPDATE own SET body = 'brown rice' WHERE rowid = 1;",
        );
        let carried = case.carry();
        assert!(carried.set_aside.is_none(), "{carried:?}");
        assert_eq!(case.out("SELECT rowid FROM found WHERE found MATCH 'dal'"), ["1", "2"]);
        assert_eq!(
            case.out("SELECT rowid, body FROM own WHERE own MATCH 'rice'"),
            ["1 brown rice", "3 basmati rice"]
        );
        assert_eq!(case.out("SELECT count(*) FROM own WHERE own MATCH 'ghee'"), ["0"]);
    }

    #[test]
    fn values_are_compared_to_the_bit_and_carried_as_they_are() {
        let case = Case::new(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 0.0), (2, 1), (3, 'a'), (4, CAST(x'ff' AS TEXT)), (5, x'61');",
            "CREATE TABLE other (x);",
            "UPDATE t SET v = -0.0 WHERE id = 1; UPDATE t SET v = 1.0 WHERE id = 2; UPDATE t SET v = 'A' WHERE id = 3;
             UPDATE t SET v = x'ff' WHERE id = 4; UPDATE t SET v = CAST(x'fe' AS TEXT) WHERE id = 5;",
        );
        let carried = case.carry();
        let kinds = case.out("SELECT typeof(v), hex(v) FROM t WHERE id > 1");
        assert_eq!(kinds, ["real 312E30", "text 41", "blob FF", "text FE"]);
        let holds =
            |name: &str| Fingerprint::of(&case.path(name), Depth::Content, &mut Control::default()).unwrap();
        assert_eq!(holds("out").tables["t"], holds("now").tables["t"], "{carried:?}");
    }

    /// The whole way: a live database in WAL mode, its writers held, and the result through SQLite into it.
    #[test]
    fn the_live_database_is_only_read_and_the_result_restores_over_what_was_compared() {
        use super::super::restore::{self, Guard};
        let case = Case::new(SHOP, "ALTER TABLE orders ADD COLUMN channel TEXT;", "");
        let live = case.path("now");
        let app = Connection::open(&live).unwrap();
        app.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
        app.execute_batch(
            "INSERT INTO orders (customer, total) VALUES (1, 5), (2, 6); DELETE FROM orders WHERE id = 4;",
        )
        .unwrap();
        let before = fs::read(&live).unwrap();
        let (pre, post, out, aside) =
            (case.path("pre"), case.path("post"), case.path("out"), case.path("aside"));
        let options = Options {
            pre: &pre,
            post: &post,
            now: Side::Live(&live),
            out: &out,
            aside: &aside,
            renames: &[],
            skip: &[],
            hash_now: true,
            limits: Limits::default(),
        };
        let carried = prepare(&options, &mut Control::default()).unwrap();
        assert_eq!(fs::read(&live).unwrap(), before);
        assert_eq!(app.query_row("SELECT count(*) FROM orders", [], |row| row.get(0)), Ok(3));
        let restore_to =
            restore::Options { app_stopped: true, ..restore::Options::new(case.dir.path().join("backups")) };
        fs::create_dir(case.dir.path().join("backups")).unwrap();
        restore::into(
            &carried.out,
            &live,
            Guard::Equals(carried.now.as_ref().unwrap()),
            &restore_to,
            &mut Control::default(),
        )
        .unwrap();
        let orders: Vec<i64> = app
            .prepare("SELECT id FROM orders")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(orders, [1, 2, 3]);
        app.execute("INSERT INTO orders (customer, total) VALUES (1, 1)", []).unwrap();
        assert_eq!(app.last_insert_rowid(), 5, "4 was given to somebody and is not given again");
        // A second one does not take the place of the first, and leaves nothing.
        let names = || {
            fs::read_dir(case.dir.path())
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect::<std::collections::BTreeSet<_>>()
        };
        let there = names();
        assert!(matches!(
            prepare(&options, &mut Control::default()),
            Err(Error::Sqlite(super::super::Error::Io { .. }))
        ));
        assert_eq!(names(), there);
    }

    #[test]
    fn a_table_that_is_skipped_stays_as_the_backup_has_it() {
        let books =
            "CREATE TABLE books (id INTEGER PRIMARY KEY AUTOINCREMENT, v); INSERT INTO books (v) VALUES (1);";
        let case = Case::new(
            &format!("{SHOP} {books}"),
            "INSERT INTO books (v) VALUES (2);",
            "UPDATE books SET v = 3 WHERE v = 2; INSERT INTO books (v) VALUES (4); INSERT INTO log VALUES (9, 'x');",
        );
        let (pre, post, now, out, aside) =
            (case.path("pre"), case.path("post"), case.path("now"), case.path("out"), case.path("aside"));
        let options = Options {
            pre: &pre,
            post: &post,
            now: Side::Finished(&now),
            out: &out,
            aside: &aside,
            renames: &[],
            skip: &["Books"],
            hash_now: false,
            limits: Limits::default(),
        };
        let carried = prepare(&options, &mut Control::default()).unwrap();
        assert_eq!(carried.tables.keys().collect::<Vec<_>>(), ["log"]);
        assert_eq!(case.out("SELECT id, v FROM books"), ["1 1"]);
        assert_eq!(case.out("SELECT seq FROM sqlite_sequence WHERE name = 'books'"), ["1"]);
    }

    /// Far more rows than fit on a few pages: only those near a change are read, and nothing is overlooked.
    #[test]
    fn in_large_tables_the_few_changes_are_all_found() {
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)";
        let case = Case::new(
            &format!(
                "CREATE TABLE t (k INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT); {fill} INSERT INTO t SELECT i, 'value ' || i FROM n;
                 CREATE TABLE c (code TEXT PRIMARY KEY, v); {fill} INSERT INTO c SELECT 'c' || i, i FROM n;
                 CREATE TABLE bag (v); {fill} INSERT INTO bag SELECT i % 100 FROM n;"
            ),
            "ALTER TABLE t ADD COLUMN late; ALTER TABLE c RENAME COLUMN v TO w;",
            "UPDATE t SET v = 'x' WHERE k = 7777; DELETE FROM t WHERE k BETWEEN 15000 AND 15002; INSERT INTO t (v) VALUES ('new');
             UPDATE c SET w = -1 WHERE code = 'c500'; DELETE FROM c WHERE code = 'c19999'; INSERT INTO c VALUES ('c0', 0);
             UPDATE c SET code = 'moved' WHERE code = 'c12345'; DELETE FROM bag WHERE rowid = 9000; INSERT INTO bag VALUES (5);",
        );
        let carried = case.carry();
        assert!(carried.set_aside.is_none(), "{carried:?}");
        let holds =
            |name: &str| Fingerprint::of(&case.path(name), Depth::Content, &mut Control::default()).unwrap();
        let (out, now) = (holds("out"), holds("now"));
        for table in ["c", "bag"] {
            assert_eq!(out.tables[table], now.tables[table], "{table}");
        }
        assert_eq!(case.out("SELECT count(*) FROM t"), ["19998"]);
        assert_eq!(case.out("SELECT k, v FROM t WHERE k IN (7777, 15001, 20001)"), ["7777 x", "20001 new"]);
    }

    #[test]
    fn asked_to_stop_it_leaves_nothing() {
        let case = Case::new(SHOP, "", "DELETE FROM log;");
        let (pre, post, now, out, aside) =
            (case.path("pre"), case.path("post"), case.path("now"), case.path("out"), case.path("aside"));
        let stop = Stop::new();
        stop.ask();
        let options = Options {
            pre: &pre,
            post: &post,
            now: Side::Finished(&now),
            out: &out,
            aside: &aside,
            renames: &[],
            skip: &[],
            hash_now: true,
            limits: Limits::default(),
        };
        assert!(prepare(&options, &mut Control::quiet(stop)).is_err());
        assert_eq!(fs::read_dir(case.dir.path()).unwrap().count(), 3);
    }
}
