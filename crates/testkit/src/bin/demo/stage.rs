//! What the demonstration is played on: a folder with a git repository, a production root and a database.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use plimsoll_testkit::Repo;
use tempfile::TempDir;
use toml::{Table, Value};

use crate::Trouble;
use crate::programs::Programs;

/// The shop's sources: releases are made of its templates, migrations and static files.
const SHOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shop");

/// How many orders the database holds from before.
const OLD_ORDERS: u32 = 5_000;

pub(crate) struct Stage {
    repo: Repo,
    root: PathBuf,
    port: u16,
    kept: bool,
    /// Dropped last, with all that is in it.
    folder: TempDir,
}

impl Stage {
    /// Makes the folder, commits release 1, prepares the database and writes `plimsoll.toml`.
    pub(crate) fn build(programs: &Programs<'_>, keep: bool) -> Result<Stage, Trouble> {
        let temporary = std::env::temp_dir();
        let mut folder = tempfile::Builder::new()
            .prefix("plimsoll-demo-")
            .tempdir()
            .map_err(Trouble::file("cannot make a folder in", &temporary))?;
        folder.disable_cleanup(keep);
        let root = folder.path().join("production");
        let shared = root.join("shared");
        let home = folder.path().join("home");
        for path in [&shared, &home] {
            fs::create_dir_all(path).map_err(Trouble::file("cannot make", path))?;
        }
        let repo = Repo::create(&folder.path().join("repository"), &home);
        for part in ["templates", "migrations", "static"] {
            copy(&Path::new(SHOP).join(part), &repo.path().join(part))?;
        }
        repo.commit("The shop", &[]);
        let port = free_port()?;
        let stage = Stage { repo, root, port, kept: keep, folder };
        stage.prepare_database(programs)?;
        stage.write_secret()?;
        stage.configure(&programs.greengrocer())?;
        Ok(stage)
    }

    /// The production root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where the front door listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("shared/store.db")
    }

    /// Where `plimsoll serve` writes what it says.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("serve.log")
    }

    /// Leaves the folder where it is.
    pub(crate) fn keep(&mut self) {
        self.folder.disable_cleanup(true);
        self.kept = true;
    }

    /// The folder, when it stays.
    pub(crate) fn kept(&self) -> Option<&Path> {
        self.kept.then(|| self.folder.path())
    }

    /// Commits what a later release changes, laid over the one before.
    pub(crate) fn commit_release(&self, number: u8) -> Result<(), Trouble> {
        let changes = Path::new(SHOP).join(format!("demo/release-{number}"));
        copy(&changes, self.repo.path())?;
        let subject = match number {
            2 => "A note for the person who delivers",
            3 => "Promise a day of delivery",
            _ => "Promise it in the test shop too",
        };
        self.repo.commit(subject, &[]);
        Ok(())
    }

    /// The shop is older than Plimsoll: its database has been made by its own commands, and has been sold from.
    fn prepare_database(&self, programs: &Programs<'_>) -> Result<(), Trouble> {
        programs.run_greengrocer("migrate", self.repo.path(), &self.database())?;
        programs.run_greengrocer("seed", self.repo.path(), &self.database())?;
        let fill = format!(
            "UPDATE products SET stock = 100000;
             WITH RECURSIVE old(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM old WHERE n < {OLD_ORDERS})
             INSERT INTO orders (token, idempotency_key, customer_name, phone, address, city, pincode, region_id,
                                 subtotal_paise, delivery_paise, total_paise, state, created_at)
             SELECT printf('old-%032d', n), printf('old-%032d', n), 'Lakshmi Rao', '9845012345',
                    n || ', 3rd Cross, Gandhi Bazaar', 'Bengaluru', '560004', 1, p.price_paise, 0, p.price_paise,
                    'delivered', strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-' || ({OLD_ORDERS} - n) || ' hours')
             FROM old JOIN products p ON p.id = 1 + n % 60;
             INSERT INTO order_items (order_id, product_id, product_name, pack_size, quantity, unit_price_paise)
             SELECT o.id, p.id, p.name, p.pack_size, 1, p.price_paise
             FROM orders o JOIN products p ON p.id = 1 + o.id % 60;"
        );
        let mistake = |source| Trouble::Database { what: "the shop's old orders cannot be entered", source };
        let mut connection = rusqlite::Connection::open(self.database()).map_err(mistake)?;
        let transaction = connection.transaction().map_err(mistake)?;
        transaction.execute_batch(&fill).map_err(mistake)?;
        transaction.commit().map_err(mistake)
    }

    /// `shared/secret`: 32 bytes in hexadecimal, as `openssl rand -hex 32` makes them.
    fn write_secret(&self) -> Result<(), Trouble> {
        use std::fmt::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let source = Path::new("/dev/urandom");
        let mut bytes = [0_u8; 32];
        fs::File::open(source)
            .and_then(|mut file| file.read_exact(&mut bytes))
            .map_err(Trouble::file("cannot read", source))?;
        let secret = bytes.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let path = self.root.join("shared/secret");
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| std::io::Write::write_all(&mut file, secret.as_bytes()))
            .map_err(Trouble::file("cannot write", &path))
    }

    /// The shop's own `plimsoll.toml`, with this machine's paths. The program has been built already and is the
    /// same for all releases; they differ in templates and migrations.
    fn configure(&self, program: &Path) -> Result<(), Trouble> {
        let own = Path::new(SHOP).join("plimsoll.toml");
        let text = fs::read_to_string(&own).map_err(Trouble::file("cannot read", &own))?;
        let mut file = text.parse::<Table>().map_err(|error| Trouble::File {
            what: "cannot understand",
            path: own,
            source: std::io::Error::other(error),
        })?;
        let set = |table: &str, key: &str, value: Value, file: &mut Table| {
            let table = file.entry(table).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(table) = table {
                table.insert(key.to_owned(), value);
            }
        };
        let path = |path: &Path| Value::from(path.display().to_string());
        set("app", "root", path(&self.root), &mut file);
        set("source", "git", path(self.repo.path()), &mut file);
        set("build", "commands", Value::Array(Vec::new()), &mut file);
        set("service", "command", Value::from(format!("\"{}\" serve", program.display())), &mut file);
        set("front", "listen", Value::from(format!("127.0.0.1:{}", self.port)), &mut file);
        // A demonstration has neither ten minutes to look for errors nor the patience to wait for a night.
        set("watch", "errors_for", Value::from("2s"), &mut file);
        file.remove("window");
        let rehearsal = Table::from_iter([("GREENGROCER_ENV".to_owned(), Value::from("development"))]);
        set("rehearsal", "env", Value::Table(rehearsal), &mut file);
        let path = self.root.join("plimsoll.toml");
        fs::write(&path, file.to_string()).map_err(Trouble::file("cannot write", &path))
    }
}

/// A port that nobody listens on. It is below those that the kernel gives to outgoing connections, so that it
/// stays free until the front door takes it.
fn free_port() -> Result<u16, Trouble> {
    let start = u16::try_from(std::process::id() % 10_000).unwrap_or(0);
    let mut ports = (start..10_000).chain(0..start).map(|offset| 20_000 + offset);
    let free = ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.ok_or_else(|| Trouble::Customers("no port is free on 127.0.0.1".to_owned()))
}

/// Copies a folder over another.
fn copy(from: &Path, to: &Path) -> Result<(), Trouble> {
    fs::create_dir_all(to).map_err(Trouble::file("cannot make", to))?;
    for entry in fs::read_dir(from).map_err(Trouble::file("cannot read", from))? {
        let entry = entry.map_err(Trouble::file("cannot read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(Trouble::file("cannot copy", &source))?;
        }
    }
    Ok(())
}
