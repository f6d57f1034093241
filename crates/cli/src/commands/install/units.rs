//! The files that start `plimsoll serve` with the machine, as text.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{Config, ServiceKind, WorkerKind};

/// Where units of this machine are kept.
const UNITS: &str = "/etc/systemd/system";
/// Where Debian's supervisor looks for programs.
const PROGRAMS: &str = "/etc/supervisor/conf.d";
/// More than an undo and all that is drained may take, so that systemd never kills in the middle of it.
const MARGIN: Duration = Duration::from_secs(30);

/// What the files depend on.
pub(super) struct Wanted<'a> {
    /// The configuration.
    pub(super) config: &'a Config,
    /// This program.
    pub(super) program: &'a Path,
    /// The folder of units of a user's own systemd, if that is to run it.
    pub(super) own: Option<PathBuf>,
    /// Who `serve` runs as; `None` for root.
    pub(super) user: Option<&'a str>,
    /// Where the front door listens; `None` without one.
    pub(super) listen: Option<SocketAddr>,
}

/// A file to be written.
#[derive(Clone, Debug, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub(super) struct UnitFile {
    /// Where.
    pub(super) path: PathBuf,
    /// All of it.
    pub(super) text: String,
}

/// `plimsoll-shop`, the name of everything that is installed for an app.
pub(super) fn name(config: &Config) -> String {
    format!("plimsoll-{}", config.app.name)
}

/// The units for systemd: service, socket, and what keeps others from starting the app's own units during a run.
pub(super) fn systemd(wanted: &Wanted<'_>) -> Vec<UnitFile> {
    let name = name(wanted.config);
    let folder = wanted.own.clone().unwrap_or_else(|| PathBuf::from(UNITS));
    let unit = |file: String, text: String| UnitFile { path: folder.join(file), text };
    let mut files = vec![unit(format!("{name}.service"), service(wanted))];
    if let Some(listen) = wanted.listen {
        files.push(unit(format!("{name}.socket"), socket(wanted.config, listen)));
    }
    for of in guarded(wanted.config) {
        files.push(unit(format!("{of}.d/plimsoll.conf"), guard(wanted.config)));
    }
    files
}

/// The program for supervisor.
pub(super) fn supervisor(wanted: &Wanted<'_>) -> Vec<UnitFile> {
    let config = wanted.config;
    let name = name(config);
    let plain = |path: &Path| path.display().to_string().replace('%', "%%");
    // supervisor reads `%(NAME)s` in every value, and splits the command as a shell does.
    let word = |path: &Path| shell_words::quote(&plain(path)).into_owned();
    let (program, file, root) = (word(wanted.program), word(&config.file), plain(&config.app.root));
    let user = wanted.user.map_or_else(String::new, |user| format!("user={user}\n"));
    let stop = stop_seconds(config);
    let text = format!(
        "{}\
         [program:{name}]\n\
         command={program} --config {file} serve\n\
         directory={root}\n\
         {user}\
         autostart=true\n\
         autorestart=true\n\
         startsecs=2\n\
         startretries=1000000\n\
         ; `serve` ends the app itself, in order; only what is left after this time is killed.\n\
         stopsignal=TERM\n\
         stopwaitsecs={stop}\n\
         stopasgroup=false\n\
         killasgroup=true\n\
         redirect_stderr=true\n\
         stdout_logfile_maxbytes=10MB\n\
         stdout_logfile_backups=5\n",
        header(config, ";"),
    );
    vec![UnitFile { path: Path::new(PROGRAMS).join(format!("{name}.conf")), text }]
}

/// The units that a run stops and starts: the app's and the workers'.
fn guarded(config: &Config) -> Vec<String> {
    let mut units = Vec::new();
    if let ServiceKind::Systemd { unit } = &config.service.kind {
        units.push(unit.clone());
    }
    for worker in &config.workers {
        if let WorkerKind::Systemd { unit } = &worker.kind {
            units.push(unit.clone());
        }
    }
    units.sort();
    units.dedup();
    units
}

fn header(config: &Config, mark: &str) -> String {
    format!(
        "{mark} Written by `plimsoll install` for {}; `plimsoll uninstall` takes it away.\n",
        config.file.display()
    )
}

fn service(wanted: &Wanted<'_>) -> String {
    let config = wanted.config;
    let (name, root) = (name(config), &config.app.root);
    let socket = match wanted.listen {
        Some(_) => format!("Requires={name}.socket\nAfter={name}.socket\n"),
        None => String::new(),
    };
    let user = wanted.user.map_or_else(String::new, |user| format!("User={user}\n"));
    let (program, file) = (word(wanted.program), word(&config.file));
    let (folder, writable) = (specifiers(root), word(root));
    let stop = stop_seconds(config);
    // A private /tmp would hide an app, its repository or its configuration that lives there.
    let scratch = [Path::new("/tmp"), Path::new("/var/tmp")];
    let used = [root.as_path(), &config.file, Path::new(&config.source.git), wanted.program];
    let hides = scratch.iter().any(|tmp| used.iter().any(|path| path.starts_with(tmp)));
    let private_tmp = if hides { "no" } else { "yes" };
    // A user's systemd has no rights to make a room of its own for a service, and knows no network.target.
    let (network, secrets, room, target) = match wanted.own {
        Some(_) => (
            String::new(),
            format!("EnvironmentFile=-%h/.config/plimsoll/{}.env\n", config.app.name),
            String::new(),
            "default.target",
        ),
        None => (
            "Wants=network-online.target\nAfter=network-online.target\n".to_owned(),
            format!("EnvironmentFile=-/etc/plimsoll/{}.env\n", config.app.name),
            format!(
                "PrivateTmp={private_tmp}\n\
                 PrivateDevices=yes\n\
                 ProtectSystem=full\n\
                 ReadWritePaths=-{writable}\n\
                 ProtectClock=yes\n\
                 ProtectControlGroups=yes\n\
                 ProtectHostname=yes\n\
                 ProtectKernelLogs=yes\n\
                 ProtectKernelModules=yes\n\
                 ProtectKernelTunables=yes\n"
            ),
            "multi-user.target",
        ),
    };
    format!(
        "{header}\
         # Changes belong into a drop-in: systemctl edit {name}.service\n\
         [Unit]\n\
         Description=Plimsoll for {app}: front door, app and engine\n\
         {network}\
         {socket}\
         # It is never given up: while it is down, so is the app.\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=notify\n\
         NotifyAccess=main\n\
         ExecStart={program} --config {file} serve\n\
         # Becomes the program and the configuration of now: no connection is lost, and the app runs on.\n\
         ExecReload=/bin/kill -USR2 $MAINPID\n\
         WorkingDirectory={folder}\n\
         {user}\
         # Secrets that plimsoll.toml names as env:NAME\n\
         {secrets}\
         Restart=always\n\
         RestartSec=1s\n\
         # `serve` ends the app itself, in order, after the run that is going on has been finished or undone.\n\
         KillMode=mixed\n\
         TimeoutStopSec={stop}s\n\
         # The kernel may end an app that takes all memory; `serve` starts it again.\n\
         OOMPolicy=continue\n\
         NoNewPrivileges=yes\n\
         {room}\
         LockPersonality=yes\n\
         RestrictRealtime=yes\n\
         RestrictSUIDSGID=yes\n\
         SystemCallArchitectures=native\n\
         \n\
         [Install]\n\
         WantedBy={target}\n",
        header = header(config, "#"),
        app = config.app.name,
    )
}

fn socket(config: &Config, listen: SocketAddr) -> String {
    format!(
        "{}\
         [Unit]\n\
         Description=Front door of {}, open while Plimsoll is restarted\n\
         \n\
         [Socket]\n\
         ListenStream={listen}\n\
         Backlog=4096\n\
         \n\
         [Install]\n\
         WantedBy=sockets.target\n",
        header(config, "#"),
        config.app.name,
    )
}

/// A drop-in for a unit that a run stops and starts.
fn guard(config: &Config) -> String {
    format!(
        "{}\
         [Unit]\n\
         # During a run nothing else may start it: no reboot, no Restart=.\n\
         ConditionPathExists=!{}\n",
        header(config, "#"),
        specifiers(&config.runs().join("HELD")),
    )
}

/// What stopping may take at worst: the undo of a run, requests that end, the app and each worker.
fn stop_seconds(config: &Config) -> u64 {
    let service = &config.service;
    let front = config.front.as_ref().map_or(Duration::ZERO, |front| front.hold_budget + front.drain);
    let workers = u32::try_from(config.workers.len()).unwrap_or(u32::MAX);
    let stops = service.stop_timeout.saturating_mul(workers.saturating_add(2));
    (front + stops + service.start_timeout + MARGIN).as_secs()
}

/// A path as one word of `ExecStart=`.
fn word(path: &Path) -> String {
    let text = specifiers(path).replace('$', "$$");
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@,=%$".contains(c);
    if text.chars().all(plain) {
        return text;
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A path as a whole value: only `%` means something else there.
fn specifiers(path: &Path) -> String {
    path.display().to_string().replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> Config {
        let text = format!(
            "[app]\nname = 'shop'\nroot = '/srv/shop'\n[source]\ngit = '/srv/git/shop.git'\n\
             [database]\nurl = 'sqlite:shared/store.db'\n{more}"
        );
        Config::from_text(Path::new("/srv/shop/plimsoll.toml"), &text).unwrap_or_else(|e| panic!("{e:?}"))
    }

    const OWN: &str = "[service]\nkind = 'process'\ncommand = 'run'\nstart_timeout = '30s'\n\
                       stop_timeout = '10s'\n[front]\nlisten = '127.0.0.1:8080'\nhold_budget = '10s'\ndrain = '5s'\n";

    fn wanted(config: &Config) -> Wanted<'_> {
        Wanted {
            config,
            program: Path::new("/usr/local/bin/plimsoll"),
            own: None,
            user: Some("shop"),
            listen: Some("127.0.0.1:8080".parse().unwrap()),
        }
    }

    fn text<'a>(files: &'a [UnitFile], end: &str) -> &'a str {
        let file = files.iter().find(|file| file.path.ends_with(end));
        &file.unwrap_or_else(|| panic!("{end} is not among {files:?}")).text
    }

    #[test]
    fn the_service_outlasts_an_undo_and_leaves_the_app_to_serve() {
        let config = config(OWN);
        let files = systemd(&wanted(&config));
        let service = text(&files, "plimsoll-shop.service");
        for line in [
            "ExecStart=/usr/local/bin/plimsoll --config /srv/shop/plimsoll.toml serve",
            "User=shop",
            "KillMode=mixed",
            "Restart=always",
            "OOMPolicy=continue",
            "PrivateTmp=yes",
            "Requires=plimsoll-shop.socket",
            // 10 + 5 of the front door, twice 10 to stop, 30 to start, 30 to spare
            "TimeoutStopSec=95s",
        ] {
            assert!(service.lines().any(|l| l == line), "{line} is missing in:\n{service}");
        }
        let (unit, rest) = service.split_once("[Service]").unwrap();
        // In [Service] systemd ignores it without a word.
        assert!(unit.contains("StartLimitIntervalSec=0") && !rest.contains("StartLimit"));
        assert!(text(&files, "plimsoll-shop.socket").contains("\nListenStream=127.0.0.1:8080\n"));
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn units_of_a_users_own_systemd_ask_for_nothing_that_it_cannot_do() {
        let config = config(OWN);
        let own = Some(PathBuf::from("/home/shop/.config/systemd/user"));
        let files = systemd(&Wanted { own, user: None, ..wanted(&config) });
        assert!(files.iter().all(|file| file.path.starts_with("/home/shop/.config/systemd/user")));
        let service = text(&files, "plimsoll-shop.service");
        for not in ["User=", "Private", "Protect", "ReadWritePaths", "network-online", "multi-user.target"] {
            assert!(!service.contains(not), "{not} is in:\n{service}");
        }
        assert!(service.contains("WantedBy=default.target") && service.contains("NoNewPrivileges=yes"));
    }

    #[test]
    fn units_that_a_run_stops_are_kept_down_while_it_is_held() {
        let config = config(
            "[service]\nkind = 'systemd'\nunit = 'shop'\naddress = '127.0.0.1:8000'\n\
             [[worker]]\nname = 'mailer'\nunit = 'mailer.service'\n\
             [[worker]]\nname = 'other'\nstop = ['a']\nstart = ['b']\n",
        );
        let files = systemd(&Wanted { listen: None, ..wanted(&config) });
        let paths: Vec<String> = files.iter().map(|file| file.path.display().to_string()).collect();
        assert_eq!(
            paths,
            [
                "/etc/systemd/system/plimsoll-shop.service",
                "/etc/systemd/system/mailer.service.d/plimsoll.conf",
                "/etc/systemd/system/shop.service.d/plimsoll.conf",
            ]
        );
        assert!(files[1].text.ends_with("ConditionPathExists=!/srv/shop/runs/HELD\n"));
        assert!(!files[0].text.contains(".socket"));
    }

    #[test]
    fn odd_paths_are_written_as_systemd_and_supervisor_read_them() {
        let mut config = config(OWN);
        config.file = PathBuf::from("/srv/my \"shop\"/100%/$HOME.toml");
        let files = systemd(&wanted(&config));
        let service = text(&files, "plimsoll-shop.service");
        assert!(service.contains(r#"--config "/srv/my \"shop\"/100%%/$$HOME.toml" serve"#), "{service}");
        let program = supervisor(&wanted(&config)).remove(0);
        assert!(program.text.contains(r#"--config '/srv/my "shop"/100%%/$HOME.toml' serve"#), "{program:?}");
        assert_eq!(program.path, Path::new("/etc/supervisor/conf.d/plimsoll-shop.conf"));
        config.app.root = PathBuf::from("/tmp/shop");
        assert!(text(&systemd(&wanted(&config)), "plimsoll-shop.service").contains("PrivateTmp=no"));
    }
}
