//! Where releases are tried: a scratch folder of their own, and the walls around it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_core::ports::{Failure, FailureKind};

use super::confine::{self, Report, Walls};
use super::copy::{self, Copied, Places};
use super::{Candidate, Confinement, Spec};
use crate::durable;
use crate::logfile::{self, LogFile};
use crate::service::Children;
use crate::sqlite::{self, Stop};

/// The folder of a rehearsal; it is gone with this.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn make(path: &Path) -> Result<Scratch, durable::Error> {
        remove(path).map_err(|e| durable::Error::io("remove", path, e))?;
        let scratch = Scratch(path.to_owned());
        for folder in ["inside/shared", "inside/database", "inside/releases", "inside/tmp"] {
            durable::create_dir(&path.join(folder), durable::PRIVATE_DIR)?;
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is removed with the run's scratch, and by the next rehearsal.
        let _ = remove(&self.0);
    }
}

/// Removes a folder, also when folders in it are read-only.
fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

fn open_up(folder: &Path) -> std::io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(durable::PRIVATE_DIR))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

/// The database's folder; or, when that is home to more than the database, the files of the database itself.
fn database_refused(database: &Path) -> Vec<PathBuf> {
    let real = fs::canonicalize(database).unwrap_or_else(|_| database.to_owned());
    let Some(folder) = real.parent() else { return vec![real] };
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let shared_by_many =
        folder.components().count() <= 2 || home.is_some_and(|home| home.starts_with(folder));
    if !shared_by_many {
        return vec![folder.to_owned()];
    }
    let name = real.file_name().unwrap_or_default().as_encoded_bytes();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let of_it =
        |path: &PathBuf| path.file_name().is_some_and(|found| found.as_encoded_bytes().starts_with(name));
    entries.map(|entry| entry.path()).filter(of_it).chain([real.clone()]).collect()
}

/// Where releases are tried.
pub(super) struct Bench {
    pub(super) readable: Vec<PathBuf>,
    pub(super) sockets: Vec<PathBuf>,
    /// Whether this thread has a network of its own, and why not.
    pub(super) own_network: Result<(), String>,
    /// The folder that belongs to what is tried.
    pub(super) inside: PathBuf,
    /// The file that tells the walls; outside of them.
    pub(super) walls: PathBuf,
    pub(super) places: Places,
    pub(super) log: Arc<LogFile>,
    pub(super) children: Children,
    /// When everything must be done.
    pub(super) deadline: Instant,
    /// With that deadline.
    pub(super) stop: Stop,
    /// What the kernel did, once something has been started.
    pub(super) confined: Option<Report>,
}

impl Bench {
    /// A bench in the scratch folder, with the copied database in its place.
    pub(super) fn set_up(
        spec: &Spec,
        scratch: &Scratch,
        own_network: Result<(), String>,
        sockets: Vec<PathBuf>,
    ) -> Result<Bench, Failure> {
        let inside = scratch.0.join("inside");
        let app = &spec.app;
        let places = Places::new(&app.root, &inside, app.database.as_deref());
        if let Some(database) = places.database() {
            if let Some(folder) = database.parent() {
                durable::create_dir(folder, durable::PRIVATE_DIR)?;
            }
            let moved =
                fs::rename(&spec.copy, database).or_else(|_| fs::copy(&spec.copy, database).map(|_| ()));
            moved.map_err(|e| durable::Error::io("create", database, e))?;
        }
        let mut refused = spec.refused.clone();
        refused.extend(
            ["releases", "shared", "backups", "runs", "logs", "mirror.git"].map(|n| app.root.join(n)),
        );
        refused.extend(app.database.as_deref().map(database_refused).unwrap_or_default());
        let log = LogFile::open(&spec.log, logfile::MAX_BYTES, logfile::FILES)?;
        let deadline = Instant::now() + spec.limit;
        Ok(Bench {
            deadline,
            stop: spec.stop.by(deadline),
            readable: confine::all_but(&refused),
            sockets,
            own_network,
            inside,
            walls: scratch.0.join("walls.json"),
            places,
            log,
            children: Children::unlisted(&app.root),
            confined: None,
        })
    }

    /// Copies a release.
    pub(super) fn copy(&self, candidate: &Candidate) -> Result<(PathBuf, Copied), Failure> {
        copy::release(&self.places, &candidate.folder, &self.stop).map_err(|error| {
            self.over().unwrap_or_else(|| {
                let what = format!("release {} could not be copied for its rehearsal", candidate.id);
                Failure::failed(
                    what,
                    error.to_string(),
                    "free some room or mend the folder, then deploy again",
                )
            })
        })
    }

    /// Why everything must end now, when it must.
    pub(super) fn over(&self) -> Option<Failure> {
        let error = self.stop.check("rehearsing").err()?;
        Some(match error {
            sqlite::Error::Stopped { .. } => {
                Failure::failed("the rehearsal was interrupted", "somebody asked to stop", "deploy again")
                    .of_kind(FailureKind::Interrupted)
            }
            _ => Failure::failed(
                "the rehearsal took too long",
                "its time was over before it was done",
                "see in the run's rehearsal.log what took the time, then deploy again",
            ),
        })
    }

    /// What kept the copies from production.
    pub(super) fn confinement(&self) -> Confinement {
        let Some(report) = &self.confined else {
            let none = "none: nothing was started".to_owned();
            return Confinement { filesystem: none.clone(), network: none.clone(), sockets: none };
        };
        let network = match &self.own_network {
            Ok(()) => "namespace".to_owned(),
            Err(why) if report.ports => format!("landlock-ports: {why}; datagrams are not refused"),
            Err(why) => format!("none: {why}, and Landlock refuses connections only from Linux 6.7 on"),
        };
        Confinement { filesystem: report.files.clone(), network, sockets: report.sockets.clone() }
    }

    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn report(&self) -> PathBuf {
        self.inside.join("tmp/confined.json")
    }

    /// Writes down what a program may do, and gives the words that come before its own.
    pub(super) fn launcher(&self, spec: &Spec, also_readable: &Path) -> Result<Vec<String>, Failure> {
        let mut readable = self.readable.clone();
        // The paths in a virtual environment name the folder that it was made in.
        readable.push(also_readable.to_owned());
        let walls = Walls {
            readable,
            writable: vec![self.inside.clone()],
            sockets: self.sockets.clone(),
            own_port_only: self.own_network.is_err(),
            report: self.report(),
        };
        let text = serde_json::to_vec(&walls).map_err(|e| durable::Error::io("write", &self.walls, e))?;
        durable::write(&self.walls, durable::PRIVATE, &text)?;
        let mut words = spec.launcher.clone();
        words.extend([self.walls.display().to_string(), "--".to_owned()]);
        Ok(words)
    }

    /// The app's own settings as they are for a copy.
    pub(super) fn env(&self, spec: &Spec) -> BTreeMap<String, String> {
        let database = self.places.database().map(|path| path.display().to_string()).unwrap_or_default();
        let own = spec.app.env.iter().map(|(name, value)| (name.clone(), self.places.setting(value)));
        let mut env: BTreeMap<String, String> = own.collect();
        let over = spec.env.iter().map(|(name, value)| {
            let value = value.replace("${DATABASE_PATH}", &database).replace("$DATABASE_PATH", &database);
            (name.clone(), self.places.setting(&value))
        });
        env.extend(over);
        let tmp = self.inside.join("tmp").display().to_string();
        for name in ["TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"] {
            env.insert(name.to_owned(), tmp.clone());
        }
        env.insert("PLIMSOLL_REHEARSAL".to_owned(), "1".to_owned());
        env
    }

    pub(super) fn note_confined(&mut self) {
        let report = std::fs::read(self.report()).ok().and_then(|text| serde_json::from_slice(&text).ok());
        self.confined = report.or(self.confined.take());
    }
}
