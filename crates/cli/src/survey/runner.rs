//! What runs an app now: a systemd unit, a supervisor program, or a process that somebody started.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use plimsoll_host::process::Identity;
use plimsoll_host::service::listening_ports;
use regex::Regex;

/// What runs the app now.
#[derive(Clone, Debug)]
pub(crate) struct Runner {
    pub(crate) kind: Runs,
    /// The unit, the program, or the process in words.
    pub(crate) name: String,
    /// Where that is written; for a process its folder in `/proc`.
    pub(crate) file: PathBuf,
    /// Its command line, as a shell would take it.
    pub(crate) command: String,
    /// The address in its command or environment, as it is written there.
    pub(crate) bind: Option<Bind>,
    /// Who it runs as, where that is said.
    pub(crate) user: Option<String>,
    /// What it is given besides. May hold secrets.
    pub(crate) env: BTreeMap<String, String>,
    /// Files with more of that.
    pub(crate) env_files: Vec<PathBuf>,
}

/// Who sees to it that it runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Runs {
    /// systemd, as a unit.
    Systemd,
    /// supervisor, as a program.
    Supervisor,
    /// Nobody: it was started by hand.
    Process(Identity),
}

impl Runs {
    /// The word in the configuration.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Runs::Systemd => "systemd",
            Runs::Supervisor => "supervisor",
            Runs::Process(_) => "process",
        }
    }
}

/// Where an app says that it listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Bind {
    /// A port, and the host before it if one is written.
    Port { host: Option<String>, port: u16 },
    /// A socket in the file system.
    Unix(String),
}

impl Runner {
    /// One of which nothing more needs to be known.
    pub(crate) fn known(kind: Runs, name: String, file: PathBuf) -> Runner {
        let nothing = BTreeMap::new();
        Runner {
            kind,
            name,
            file,
            command: String::new(),
            bind: None,
            user: None,
            env: nothing,
            env_files: Vec::new(),
        }
    }

    /// The port, if it is one.
    pub(crate) fn port(&self) -> Option<u16> {
        match self.bind {
            Some(Bind::Port { port, .. }) => Some(port),
            _ => None,
        }
    }
}

/// Units whose working directory or command is in the folder.
pub(super) fn units(folder: &Path, places: &[PathBuf]) -> Vec<Runner> {
    let mut found = Vec::new();
    for (file, text) in texts(places, "service") {
        let values = |key: &str| {
            text.lines()
                .filter_map(|line| line.trim().strip_prefix(key)?.trim_start().strip_prefix('='))
                .map(str::trim)
                .collect::<Vec<_>>()
        };
        let start = values("ExecStart").join(" ");
        let start = start.trim_start_matches(['-', '@', ':', '+', '!']);
        let directory = values("WorkingDirectory").join(" ");
        if is_plimsoll(start) || !(names(folder, start) || names(folder, &directory)) {
            continue;
        }
        let Some(name) = file.file_name().map(|n| n.to_string_lossy().into_owned()) else { continue };
        let env: BTreeMap<String, String> = values("Environment")
            .into_iter()
            .flat_map(|line| shell_words::split(line).unwrap_or_default())
            .filter_map(|word| word.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
            .collect();
        let env_files = values("EnvironmentFile").into_iter();
        let env_files = env_files.map(|file| PathBuf::from(file.trim_start_matches('-'))).collect();
        let user = values("User").last().map(|user| (*user).to_owned());
        let bind = bind(start, &env);
        let command = start.to_owned();
        found.push(Runner { kind: Runs::Systemd, name, file, command, bind, user, env, env_files });
    }
    found
}

/// Supervisor programs whose directory or command is in the folder.
pub(super) fn programs(folder: &Path, place: &Path) -> Vec<Runner> {
    let mut found = Vec::new();
    for (file, text) in texts(&[place.to_owned()], "conf") {
        for part in text.split("[program:").skip(1) {
            let (name, rest) = part.split_once(']').unwrap_or((part, ""));
            let body = rest.split("\n[").next().unwrap_or_default();
            if !names(folder, body) {
                continue;
            }
            let value = |key: &str| {
                body.lines().find_map(|line| {
                    let (name, value) = line.split_once('=')?;
                    (name.trim() == key).then(|| value.trim().to_owned())
                })
            };
            let env = value("environment").map(|text| supervisor_environment(&text)).unwrap_or_default();
            let command = value("command").unwrap_or_default();
            if is_plimsoll(&command) {
                continue;
            }
            found.push(Runner {
                kind: Runs::Supervisor,
                name: name.trim().to_owned(),
                file: file.clone(),
                bind: bind(&command, &env),
                command,
                user: value("user"),
                env,
                env_files: Vec::new(),
            });
        }
    }
    found
}

/// The processes that work in the folder and listen, each the first of its tree. For apps that nobody supervises.
pub(crate) fn processes(folder: &Path) -> Vec<Runner> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let works_here = |pid: i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == folder);
    let here: Vec<i32> = pids.filter(|pid| works_here(*pid)).collect();
    let mut found = Vec::new();
    for pid in here.iter().copied().filter(|pid| !parent(*pid).is_some_and(|parent| here.contains(&parent))) {
        // A forking server listens in all of its processes, or in its children alone.
        let tree = here.iter().copied().filter(|other| descends(*other, pid));
        let Some(port) = tree.flat_map(listening_ports).min() else { continue };
        let Some(identity) = Identity::of(pid) else { continue };
        let words = |name: &str| -> Vec<String> {
            let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
            bytes
                .split(|b| *b == 0)
                .filter(|word| !word.is_empty())
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect()
        };
        let env: BTreeMap<String, String> = words("environ")
            .into_iter()
            .filter_map(|word| word.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
            .collect();
        let command = shell_words::join(words("cmdline"));
        let bind = bind(&command, &env).or(Some(Bind::Port { host: None, port }));
        let file = PathBuf::from(format!("/proc/{pid}"));
        let uid = fs::metadata(&file).map(|found| found.uid().to_string()).ok();
        found.push(Runner {
            kind: Runs::Process(identity),
            name: format!("process {pid}"),
            file,
            command,
            bind,
            user: uid,
            env,
            env_files: Vec::new(),
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Whether the command line starts this very program.
fn is_plimsoll(command: &str) -> bool {
    let program = command.split_ascii_whitespace().next().unwrap_or_default();
    Path::new(program).file_name().is_some_and(|name| name == "plimsoll")
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may hold anything, parentheses too.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn descends(pid: i32, from: i32) -> bool {
    let mut at = Some(pid);
    while let Some(pid) = at.filter(|pid| *pid > 1) {
        if pid == from {
            return true;
        }
        at = parent(pid);
    }
    false
}

/// `A="x",B="y"`; quotes are usual there, and a comma may stand within them.
fn supervisor_environment(text: &str) -> BTreeMap<String, String> {
    static PAIR: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#"(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^,]*))"#).expect("a constant pattern")
    });
    let value = |found: &regex::Captures<'_>| {
        (2..=4).find_map(|n| found.get(n)).map(|m| m.as_str().trim().to_owned()).unwrap_or_default()
    };
    PAIR.captures_iter(text).map(|found| (found[1].to_owned(), value(&found))).collect()
}

fn texts(folders: &[PathBuf], extension: &str) -> Vec<(PathBuf, String)> {
    let mut files: Vec<PathBuf> = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files.into_iter().filter_map(|file| Some((file.clone(), fs::read_to_string(file).ok()?))).collect()
}

/// Whether the text names the folder or something in it, and not a folder that merely begins like it.
pub(crate) fn names(folder: &Path, text: &str) -> bool {
    let folder = folder.display().to_string();
    text.match_indices(&folder).any(|(at, _)| {
        let next = text[at + folder.len()..].chars().next();
        next.is_none_or(|c| c == '/' || c.is_whitespace() || c == '"' || c == '\'')
    })
}

/// Whether it looks like one that works in the background.
pub(super) fn is_worker(runner: &Runner) -> bool {
    let name = runner.name.to_lowercase();
    runner.bind.is_none()
        && ["worker", "mail", "celery", "beat", "queue", "sidekiq", "cron", "job"]
            .iter()
            .any(|w| name.contains(w))
}

/// Where a port is written in a command line: an option or an address with it.
static PORT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?:(?:--port|-p|--bind|-b|PORT)(?:=|\s+)|:|\s)(?:([\w.]*|\[[\w:]+\]):)?(\d{2,5})\b")
        .expect("a constant pattern, compiled by a test")
});
static UNIX: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?:--bind|-b)(?:=|\s+)(unix:\S+)").expect("a constant pattern"));

fn bind(command: &str, env: &BTreeMap<String, String>) -> Option<Bind> {
    if let Some(found) = UNIX.captures(command) {
        return Some(Bind::Unix(found[1].to_owned()));
    }
    let of = |found: regex::Captures<'_>| {
        let port = found[2].parse().ok().filter(|port| *port > 0)?;
        let host = found.get(1).map(|host| host.as_str().to_owned()).filter(|host| !host.is_empty());
        // A bare number is a port only behind the option or colon that says so.
        let bare = found[0].starts_with(char::is_whitespace) && host.is_none();
        (!bare).then_some(Bind::Port { host, port })
    };
    PORT.captures_iter(command).find_map(of).or_else(|| {
        let port = env.get("PORT")?.parse().ok()?;
        Some(Bind::Port { host: None, port })
    })
}

/// The command line with `$PORT` in the place of the port, on the loopback; `None` when it names none.
pub(crate) fn with_port_variable(command: &str, port: u16) -> Option<String> {
    let found = PORT.captures_iter(command).find(|found| found[2].parse() == Ok(port))?;
    let (host, number) = (found.get(1), found.get(2)?);
    let begin = host.filter(|host| !host.is_empty()).unwrap_or(number).start();
    // Users come in through the front door alone.
    let address = if host.is_some() { "127.0.0.1:$PORT" } else { "$PORT" };
    let begin = match host {
        Some(host) if host.is_empty() => host.start(),
        _ => begin,
    };
    Some(format!("{}{address}{}", &command[..begin], &command[number.end()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_commands() {
        let port = |host: Option<&str>, port| Some(Bind::Port { host: host.map(str::to_owned), port });
        for (command, expected) in [
            ("/srv/a/.venv/bin/gunicorn --bind 127.0.0.1:8000 app:app", port(Some("127.0.0.1"), 8000)),
            ("gunicorn -b :5001 app:app", port(None, 5001)),
            ("flask run --port=5000", port(None, 5000)),
            ("bin/rails server -p 3000", port(None, 3000)),
            ("node server.js PORT=4000", port(None, 4000)),
            ("gunicorn --bind [::]:9000 app:app", port(Some("[::]"), 9000)),
            ("python3 manage.py runserver 0.0.0.0:8000", port(Some("0.0.0.0"), 8000)),
            ("python3 app.py", None),
            ("x --workers 20", None),
            ("x --port 99999", None),
            ("gunicorn --bind unix:/run/a.sock app:app", Some(Bind::Unix("unix:/run/a.sock".into()))),
        ] {
            assert_eq!(bind(command, &BTreeMap::new()), expected, "{command}");
        }
    }

    #[test]
    fn the_port_becomes_a_variable_and_nothing_else_changes() {
        for (command, port, expected) in [
            (
                "gunicorn -w 2 --bind 0.0.0.0:8000 app:app",
                8000,
                "gunicorn -w 2 --bind 127.0.0.1:$PORT app:app",
            ),
            ("gunicorn -b :5001 app:app", 5001, "gunicorn -b 127.0.0.1:$PORT app:app"),
            ("rails server -p 3000", 3000, "rails server -p $PORT"),
            ("runserver [::]:8000 --x", 8000, "runserver 127.0.0.1:$PORT --x"),
        ] {
            assert_eq!(with_port_variable(command, port).as_deref(), Some(expected));
        }
        assert_eq!(with_port_variable("python3 app.py", 8000), None);
    }

    #[test]
    fn a_folder_is_not_named_by_one_that_begins_like_it() {
        let folder = Path::new("/srv/shop");
        assert!(names(folder, "/srv/shop/.venv/bin/python") && names(folder, "cd /srv/shop"));
        assert!(!names(folder, "/srv/shop2/app.py") && !names(folder, "/srv"));
    }

    #[test]
    fn the_environment_of_a_program_may_have_commas_in_quotes() {
        let found = supervisor_environment(r#"SECRET_KEY="a,b=c", PORT=8000,EMPTY="""#);
        let found: Vec<_> = found.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, [("EMPTY", ""), ("PORT", "8000"), ("SECRET_KEY", "a,b=c")]);
    }

    #[test]
    fn a_process_that_listens_from_the_folder_is_found_with_its_port() {
        let folder = tempfile::tempdir().unwrap();
        let here = fs::canonicalize(folder.path()).unwrap();
        let script = "import socket,sys,time\ns=socket.create_server(('127.0.0.1',0))\nprint(s.getsockname()[1],flush=True)\ntime.sleep(60)";
        let mut child = std::process::Command::new("python3")
            .args(["-c", script])
            .current_dir(&here)
            .env("SHOP_KEY", "k")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
            .unwrap();
        let found = processes(&here);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].port(), line.trim().parse().ok());
        assert_eq!(found[0].env["SHOP_KEY"], "k");
    }
}
