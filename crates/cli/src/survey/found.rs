//! What is in a folder: its git repository, its kind of application, its data, and what runs it now.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::runner::{self, Runner, Runs};
use super::stack::{self, Stack};

/// Where to look.
pub(crate) struct Places {
    /// The app's folder, absolute.
    pub(crate) folder: PathBuf,
    /// Folders with systemd units.
    pub(crate) units: Vec<PathBuf>,
    /// The folder with supervisor programs.
    pub(crate) programs: PathBuf,
}

impl Places {
    /// On this machine.
    pub(crate) fn of(folder: PathBuf) -> Self {
        let units = ["/etc/systemd/system", "/usr/local/lib/systemd/system"].map(PathBuf::from).to_vec();
        Places { folder, units, programs: PathBuf::from("/etc/supervisor/conf.d") }
    }
}

/// What was found there.
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) git: Option<Git>,
    pub(crate) stack: Option<Stack>,
    /// SQLite files, relative to the folder, the most likely one first.
    pub(crate) databases: Vec<PathBuf>,
    /// The tables of the first database that are the app's own.
    pub(crate) tables: Vec<String>,
    /// What outlives a release and is there: `.env`, uploads.
    pub(crate) kept: Vec<PathBuf>,
    pub(crate) runner: Option<Runner>,
    /// Other units that run from the folder.
    pub(crate) workers: Vec<String>,
    /// A path that answers when the app is up, if the code names one.
    pub(crate) health: Option<String>,
}

/// The repository that the folder is in.
pub(crate) struct Git {
    /// What to fetch from: its origin, or the work tree itself.
    pub(crate) url: String,
    pub(crate) branch: Option<String>,
    /// Of the work tree.
    pub(crate) top: PathBuf,
    /// The folder, relative to it.
    pub(crate) directory: PathBuf,
}

/// Looks.
pub(crate) fn look(places: &Places) -> Found {
    let folder = &places.folder;
    let stack = stack::find(folder);
    let databases = databases(folder);
    let mut runners = runner::units(folder, &places.units);
    runners.extend(runner::programs(folder, &places.programs));
    runners.retain(|runner| !runner.name.contains(|c: char| c.is_whitespace() || c.is_control()));
    runners.sort_by(|a, b| (a.kind != Runs::Systemd, &a.name).cmp(&(b.kind != Runs::Systemd, &b.name)));
    runners.dedup_by(|a, b| (&a.kind, &a.name) == (&b.kind, &b.name));
    let (workers, mut runners): (Vec<Runner>, Vec<Runner>) = runners.into_iter().partition(runner::is_worker);
    let runner = (!runners.is_empty()).then(|| runners.remove(0));
    let workers = workers.into_iter().filter(|w| w.kind == Runs::Systemd).map(|w| w.name).collect();
    let folder_name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Found {
        name: name(stack.as_ref().and_then(|s| s.name.as_deref()).unwrap_or(&folder_name)),
        git: git(folder),
        tables: databases.first().map(|file| tables(&folder.join(file))).unwrap_or_default(),
        kept: kept(folder),
        health: health(folder, stack.as_ref()),
        stack,
        databases,
        runner,
        workers,
    }
}

/// A name that `[app].name` takes.
fn name(text: &str) -> String {
    let plain: String = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .take(64)
        .collect();
    match plain.trim_matches(['.', '-']) {
        "" => "app".to_owned(),
        name => name.to_owned(),
    }
}

fn git(folder: &Path) -> Option<Git> {
    let ask = |args: &[&str]| -> Option<String> {
        let mut command = Command::new("git");
        // The folder may belong to the app's user and be looked at by root.
        command
            .args(["-c", "safe.directory=*"])
            .arg("-C")
            .arg(folder)
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            command.env_remove(name);
        }
        let output = command.output().ok().filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stdout).ok()?;
        Some(text.trim_end_matches('\n').to_owned()).filter(|text| !text.is_empty())
    };
    let top = PathBuf::from(ask(&["rev-parse", "--show-toplevel"])?);
    let origin = ask(&["remote", "get-url", "origin"]).map(|url| without_password(&url));
    let here = fs::canonicalize(folder).ok()?;
    let directory = here.strip_prefix(&top).unwrap_or(Path::new("")).to_owned();
    let url = origin.unwrap_or_else(|| top.display().to_string());
    Some(Git { url, branch: ask(&["symbolic-ref", "--short", "HEAD"]), top, directory })
}

/// A password in a remote's URL does not go into the file.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    match authority.rsplit_once('@') {
        Some((user, host)) if user.contains(':') => format!("{scheme}://{host}/{path}"),
        _ => url.to_owned(),
    }
}

/// SQLite files by their first bytes, in the usual folders.
fn databases(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for within in ["", "instance", "db", "storage", "data", "var", "prisma"] {
        let Ok(entries) = fs::read_dir(folder.join(within)) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let regular = entry.file_type().is_ok_and(|kind| kind.is_file());
            // Such a name would read as options in `sqlite:…`.
            let odd = entry.file_name().to_string_lossy().contains(['?', '#']);
            if regular && !odd && is_sqlite(&path) {
                let bytes = entry.metadata().map_or(0, |m| m.len());
                found.push((
                    unlikely(&path),
                    u64::MAX - bytes,
                    PathBuf::from(within).join(entry.file_name()),
                ));
            }
        }
    }
    found.sort();
    found.into_iter().map(|(_, _, path)| path).collect()
}

fn is_sqlite(path: &Path) -> bool {
    let mut magic = [0; 16];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && &magic == b"SQLite format 3\0"
}

/// Copies, tests and caches are offered last.
fn unlikely(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    ["backup", "bak", "test", "cache", "copy", "old", "queue", "cable", "development"]
        .iter()
        .any(|word| name.contains(word))
}

/// Tables that hold the app's own rows, not a framework's book-keeping.
fn tables(file: &Path) -> Vec<String> {
    let Ok(connection) = plimsoll_host::sqlite::connection::open_read(file) else { return Vec::new() };
    let Ok(tables) = plimsoll_host::sqlite::schema::tables(&connection) else { return Vec::new() };
    let own = |name: &String| {
        !["sqlite_", "django_", "auth_", "ar_", "_", "active_storage_"].iter().any(|p| name.starts_with(p))
            && !["schema_version", "schema_migrations", "alembic_version", "knex_migrations", "sessions"]
                .contains(&name.as_str())
    };
    tables.into_keys().filter(own).take(8).collect()
}

fn kept(folder: &Path) -> Vec<PathBuf> {
    let files = [".env"].into_iter().filter(|name| folder.join(name).is_file());
    let folders = ["uploads", "media", "static/uploads", "public/uploads"];
    let folders = folders.into_iter().filter(|name| folder.join(name).is_dir());
    files.chain(folders).map(PathBuf::from).collect()
}

/// A path that the code seems to answer for this purpose.
fn health(folder: &Path, stack: Option<&Stack>) -> Option<String> {
    let code = stack.map(|stack| stack.code(folder)).unwrap_or_default();
    let named = |path: &&str| {
        let quoted: BTreeSet<String> = ['"', '\'', '`'].iter().map(|q| format!("{q}{path}{q}")).collect();
        code.iter().any(|text| quoted.iter().any(|q| text.contains(q)))
    };
    let known = ["/healthz", "/health", "/health/", "/_health", "/up", "/ping", "/status", "/api/health"];
    known.iter().find(|path| named(path)).map(|path| (*path).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_origin_is_left_out() {
        assert_eq!(without_password("https://u:pw@host/a.git"), "https://host/a.git");
        assert_eq!(without_password("https://u@host/a.git"), "https://u@host/a.git");
        assert_eq!(without_password("git@host:a.git"), "git@host:a.git");
    }

    #[test]
    fn any_folder_gives_a_name_that_is_allowed() {
        assert_eq!(
            ["Fresh Basket", "--", "été", ".hidden"].map(name),
            ["fresh-basket", "app", "t", "hidden"]
        );
    }
}
