//! A shop of its own for each test: folder, database, running program. It ends with the test.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::browser::Browser;

pub(crate) const PASSWORD: &str = "mangoes ripen in may";

/// The second factor of the tests' admin.
pub(crate) const TOTP_SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

pub(crate) struct Sandbox {
    folder: TempDir,
    home: PathBuf,
}

impl Sandbox {
    /// A folder without a database.
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), home: PathBuf::from(env!("CARGO_MANIFEST_DIR")) }
    }

    /// A migrated and filled shop.
    pub(crate) fn seeded() -> Self {
        let sandbox = Self::empty();
        for command in ["migrate", "seed"] {
            let output = sandbox.run(&[command]);
            assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        }
        sandbox
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    /// Has the shop read its files from a copy, with the files of demo releases laid over it.
    pub(crate) fn use_release(&mut self, demo: &[&str]) {
        let home = self.folder.path().join(format!("home-{}", demo.len()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        for part in ["templates", "migrations", "static"] {
            copy(&source.join(part), &home.join(part));
        }
        for release in demo {
            copy(&source.join("demo").join(release), &home);
        }
        self.home = home;
    }

    /// The folder that the shop reads its files from.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_greengrocer"));
        command
            .args(arguments)
            .env_clear()
            .env("DATABASE_PATH", self.database())
            .env("GREENGROCER_HOME", &self.home)
            .env("GREENGROCER_SECRET", "a secret of the tests, 32 bytes or more")
            .env("PLIMSOLL_RELEASE", "000007-abcdef0")
            .env("PORT", "0")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn make_admin(&self) {
        let arguments = ["admin", "create", "--email", "asha@example.in"];
        let output = self
            .command(&arguments)
            .env("GREENGROCER_ADMIN_PASSWORD", PASSWORD)
            .env("GREENGROCER_ADMIN_TOTP_SECRET", TOTP_SECRET)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Makes a customer's account as the mails would, and answers its password.
    pub(crate) fn make_member(&self, email: &str) -> String {
        let password = format!("ripe jackfruit of {}", &email[..4]);
        // Hashed once for all: the parameters are those of the shop.
        let hash = Argon2::default().hash_password(password.as_bytes()).unwrap().to_string();
        self.sql()
            .execute(
                "INSERT INTO users (email, password_hash, full_name) VALUES (?1, ?2, 'Anita Rao')",
                (email, hash),
            )
            .unwrap();
        password
    }

    pub(crate) fn serve(&self) -> Server {
        Server::start(self.command(&["serve"]))
    }

    pub(crate) fn serve_in(&self, environment: &str) -> Server {
        let mut command = self.command(&["serve"]);
        command.env("GREENGROCER_ENV", environment).env("GREENGROCER_PAYMENTS", "on-delivery");
        Server::start(command)
    }

    pub(crate) fn sql(&self) -> Connection {
        let connection = Connection::open(self.database()).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        connection
    }

    /// One number from the database.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.sql().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    pub(crate) fn execute(&self, sql: &str) {
        self.sql().execute_batch(sql).unwrap();
    }

    /// Everything in the database as text: schema and rows.
    pub(crate) fn dump(&self) -> String {
        let connection = self.sql();
        let mut text = String::new();
        let mut schema =
            connection.prepare("SELECT name, type, sql FROM sqlite_schema ORDER BY name").unwrap();
        let objects: Vec<(String, String, Option<String>)> = schema
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        for (name, kind, sql) in objects {
            text.push_str(&format!("{kind} {name} {sql:?}\n"));
            if kind == "table" {
                let mut statement = connection.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
                let columns = statement.column_count();
                let mut rows = statement.query([]).unwrap();
                while let Some(row) = rows.next().unwrap() {
                    for column in 0..columns {
                        text.push_str(&format!("{:?} ", row.get_ref(column).unwrap()));
                    }
                    text.push('\n');
                }
            }
        }
        text
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A running shop; killed when the test ends.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("listening on http://") else {
            let mut complaint = String::new();
            child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
            child.wait().unwrap();
            panic!("the shop did not open: {complaint}");
        };
        Self { address: address.to_owned(), child }
    }

    pub(crate) fn browser(&self) -> Browser {
        Browser::new(&self.address)
    }

    /// The most memory that it has held so far, bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Ends it at once, as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end and answers how it ended and what it had logged.
    pub(crate) fn ended(mut self, within: Duration) -> (ExitStatus, String) {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut log = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
                return (status, log);
            }
            assert!(Instant::now() < deadline, "the shop still runs after {within:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
