//! A machine of its own for one test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use toml::{Table, Value};

use crate::command::Running;
use crate::fault::SmallDisk;
use crate::output::Output;
use crate::repo::{Repo, environment};
use crate::serve::Serve;
use crate::{http, processes, shop, wait};

/// A production root with a seeded database, a git repository with one commit, and nothing deployed yet.
#[derive(Debug)]
pub struct Sandbox {
    /// The app's repository.
    pub repo: Repo,
    /// Where the front door is to listen.
    pub port: u16,
    root: PathBuf,
    home: PathBuf,
    logs: PathBuf,
    commands: AtomicU32,
    config: Table,
    // Dropped in this order: the disk is taken away before its folder.
    _disk: Option<SmallDisk>,
    folder: TempDir,
}

impl Sandbox {
    /// On the ordinary disk.
    #[must_use]
    pub fn new() -> Sandbox {
        Sandbox::make(|_| Ok(None)).expect("nothing was mounted")
    }

    /// With its root on a disk of `kib` KiB.
    ///
    /// # Errors
    /// Nobody may mount one here; the reason is for [`crate::fault::skipped`].
    pub fn on_small_disk(kib: u64) -> Result<Sandbox, String> {
        Sandbox::make(|root| SmallDisk::mount(root, kib).map(Some))
    }

    fn make(disk: impl FnOnce(&Path) -> Result<Option<SmallDisk>, String>) -> Result<Sandbox, String> {
        let folder = tempfile::Builder::new().prefix("plimsoll-").tempdir().expect("a folder can be made");
        let inside = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).expect("a fresh folder is empty");
            path
        };
        let (root, home, logs) = (inside("root"), inside("home"), inside("logs"));
        let disk = disk(&root)?;
        std::fs::create_dir(root.join("shared")).expect("a fresh root is empty");
        shop::seed(&root.join("shared/store.db"));
        let repo = Repo::create(&folder.path().join("repo"), &home);
        repo.commit("First release", &[("app.json", r#"{ "page": "one" }"#), shop::FIRST]);
        let port = free_port();
        let config = defaults(&root, repo.path(), port);
        let commands = AtomicU32::new(0);
        let sandbox = Sandbox { repo, port, root, home, logs, commands, config, _disk: disk, folder };
        sandbox.write_config();
        Ok(sandbox)
    }

    /// The app's root.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The small disk, when the root is on one.
    #[must_use]
    pub fn disk(&self) -> Option<&SmallDisk> {
        self._disk.as_ref()
    }

    /// Another port that is free, for something else that listens.
    #[must_use]
    pub fn spare_port(&self) -> u16 {
        free_port()
    }

    /// The live database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.root.join("shared/store.db")
    }

    /// A file below the root, as text.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn read(&self, name: &str) -> String {
        let path = self.root.join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Lays `changes` (TOML) over `plimsoll.toml`: tables are merged, anything else is replaced.
    ///
    /// # Panics
    /// When `changes` is no TOML.
    pub fn configure(&mut self, changes: &str) {
        let changes = changes.parse::<Table>().unwrap_or_else(|error| panic!("{error} in {changes}"));
        merge(&mut self.config, changes);
        self.write_config();
    }

    /// Takes a table or key out of `plimsoll.toml`.
    pub fn unset(&mut self, table: &str, key: Option<&str>) {
        match (key, self.config.get_mut(table)) {
            (Some(key), Some(Value::Table(table))) => drop(table.remove(key)),
            _ => drop(self.config.remove(table)),
        }
        self.write_config();
    }

    fn write_config(&self) {
        std::fs::write(self.root.join("plimsoll.toml"), self.config.to_string())
            .expect("the root is writable");
    }

    /// Commits a release: what its `app.json` says, and migrations or other files. Returns the commit.
    pub fn release(&self, script: &str, files: &[(&str, &str)]) -> String {
        let mut all = vec![("app.json", script)];
        all.extend_from_slice(files);
        self.repo.commit("Next release", &all)
    }

    /// A command of the program, not started yet.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("plimsoll"));
        command.args(arguments).current_dir(&self.root).env_clear().envs(environment(&self.home));
        command.env("TMPDIR", self.folder.path());
        command
    }

    fn fresh_logs(&self) -> PathBuf {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let logs = self.logs.join(number.to_string());
        std::fs::create_dir(&logs).expect("each command has its own number");
        logs
    }

    /// Runs `plimsoll` in the root, as somebody without a terminal does.
    pub fn plimsoll(&self, arguments: &[&str]) -> Output {
        self.start(arguments).wait()
    }

    /// Starts `plimsoll` and returns at once.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments), &self.fresh_logs(), &self.root, &self.home)
    }

    /// Runs `plimsoll deploy --yes`.
    pub fn deploy(&self) -> Output {
        self.plimsoll(&["deploy", "--yes"])
    }

    /// Starts `plimsoll serve` and waits until it has said what keeps users out, or lets them in.
    ///
    /// # Panics
    /// When it ends or does not answer; with what it said.
    #[must_use]
    pub fn serve(&self) -> Serve {
        let serve = self.serve_with(&[]);
        serve.until_it_answers();
        let ready = || {
            let log = serve.log();
            let kept_out = log.contains("there is no release yet") || log.contains("error: ");
            // Nobody is asked before the first release: what `serve` counts stays what a test did itself.
            kept_out || (self.current().is_some() && self.serving().is_some())
        };
        let waited = wait::within(Duration::from_secs(40), || ready().then_some(()));
        assert!(waited.is_some(), "nobody is let in, and why is not said: {}", serve.log());
        serve
    }

    /// Starts `plimsoll serve` with more environment, and waits for nothing.
    #[must_use]
    pub fn serve_with(&self, env: &[(&str, &str)]) -> Serve {
        let mut command = self.command(&["serve"]);
        command.envs(env.iter().copied());
        let running = Running::start(command, &self.fresh_logs(), &self.root, &self.home);
        Serve::new(running, self.folder.path(), &self.root)
    }

    /// Starts `plimsoll serve` and deploys the newest commit.
    ///
    /// # Panics
    /// When either fails.
    #[must_use]
    pub fn live(&self) -> Serve {
        let serve = self.serve();
        self.deploy().exits(0);
        serve
    }

    /// Gets a page through the front door.
    ///
    /// # Panics
    /// When nobody answers.
    #[must_use]
    pub fn get(&self, path: &str) -> http::Message {
        http::get(self.port, path)
            .unwrap_or_else(|error| panic!("GET {path} through the front door: {error}"))
    }

    /// The release that `current` points at; `None` before the first.
    ///
    /// # Panics
    /// When `current` is something else than a link.
    #[must_use]
    pub fn current(&self) -> Option<String> {
        match std::fs::read_link(self.root.join("current")) {
            Ok(target) => Some(target.file_name()?.to_string_lossy().into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => panic!("current: {error}"),
        }
    }

    /// The release that answers the health path through the front door.
    #[must_use]
    pub fn serving(&self) -> Option<String> {
        let answer = http::get(self.port, "/healthz").ok()?;
        answer.header("x-release").map(str::to_owned)
    }

    /// The scripted apps that run here, as their command lines.
    #[must_use]
    pub fn apps(&self) -> Vec<String> {
        let all = processes::of(self.folder.path()).into_iter().map(|process| process.command);
        all.filter(|command| command.contains("scripted-app")).collect()
    }

    /// Every process that runs here, as its number and its command line.
    #[must_use]
    pub fn processes(&self) -> Vec<(u32, String)> {
        let all = processes::of(self.folder.path()).into_iter();
        all.map(|process| (process.pid, process.command)).collect()
    }

    /// Sends a signal to a process; one that is gone already is fine.
    pub fn signal(&self, pid: u32, signal: Signal) {
        processes::signal(pid, signal);
    }

    /// Their process ids.
    #[must_use]
    pub fn app_pids(&self) -> Vec<rustix::process::Pid> {
        let all = processes::of(self.folder.path());
        let apps = all.into_iter().filter(|process| process.command.contains("scripted-app"));
        apps.filter_map(|process| rustix::process::Pid::from_raw(i32::try_from(process.pid).ok()?)).collect()
    }

    /// The newest commit, as it is in the name of a release.
    #[must_use]
    pub fn repo_head(&self) -> String {
        self.repo.git(&["rev-parse", "HEAD"]).trim().get(..7).unwrap_or_default().to_owned()
    }

    /// The journal of a run, an entry a line. What is being appended at this moment is not yet one.
    ///
    /// # Panics
    /// When there is none, or a line is no JSON.
    #[must_use]
    pub fn journal(&self, run: u32) -> Vec<serde_json::Value> {
        let text = self.read(&format!("runs/{run:06}/journal.jsonl"));
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Sandbox::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let left = processes::kill_all(self.folder.path());
        if !std::thread::panicking() {
            assert!(left.is_empty(), "processes were left behind: {left:#?}");
        }
    }
}

/// A program of this workspace, beside the test that runs.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test.parent().expect("a program is in a folder");
    // Tests are in target/debug/deps, the programs, benchmarks among them, in target/debug.
    let folder = if folder.ends_with("deps") { folder.parent().expect("target/debug") } else { folder };
    let path = folder.join(name);
    assert!(path.exists(), "{} is not there: run `cargo build --workspace` first", path.display());
    path
}

/// A port below those that the kernel hands out by itself, so that no outgoing connection takes it meanwhile; each
/// number is tried once in a test program.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(641);
    loop {
        let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let port = 10_000 + u16::try_from(number).expect("below 20,000");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn defaults(root: &Path, repo: &Path, port: u16) -> Table {
    let (root, repo, app) = (root.display(), repo.display(), binary("scripted-app"));
    let app = app.display();
    format!(
        r#"
        [app]
        name = "shop"
        root = "{root}"
        [source]
        git = "{repo}"
        [database]
        url = "sqlite:shared/store.db"
        tables = ["orders", "products"]
        migrations = "migrations"
        [service]
        kind = "process"
        command = "{app}"
        start_timeout = "4s"
        stop_timeout = "2s"
        [front]
        listen = "127.0.0.1:{port}"
        hold_budget = "15s"
        drain = "2s"
        [[smoke]]
        name = "The first page loads"
        get = "/"
        contains = "3 products"
        [[smoke]]
        name = "The checkout works"
        get = "/checkout"
        status = 200
        "#
    )
    .parse()
    .expect("the defaults are TOML")
}

fn merge(into: &mut Table, changes: Table) {
    for (key, value) in changes {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_laid_over_what_is_there() {
        let mut table = "[a]\nx = 1\ny = [1]\n[b]\nz = 1".parse::<Table>().unwrap();
        merge(&mut table, "[a]\ny = [2]\nw = 3\n[c]\nv = 4".parse().unwrap());
        let wanted = "[a]\nx = 1\ny = [2]\nw = 3\n[b]\nz = 1\n[c]\nv = 4".parse::<Table>().unwrap();
        assert_eq!(table, wanted);
    }

    #[test]
    fn no_port_is_given_twice() {
        let ports: std::collections::BTreeSet<u16> = (0..100).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 100);
    }
}
