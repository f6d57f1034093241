//! Release folders: `releases/NNNNNN-xxxxxxx`, the symlink `current`, and the numbers.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use plimsoll_core::plan::{Release, ReleaseId};
use serde::{Deserialize, Serialize};

use super::error::ReleaseError;
use crate::durable;

/// The file in a release folder that says what it is.
const INFO: &str = ".plimsoll-release.json";

/// What a release folder holds; kept in it as `.plimsoll-release.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReleaseInfo {
    /// Number, commit, branch, author and subject.
    #[serde(flatten)]
    pub release: Release,
    /// When the build ended well, RFC 3339 UTC; `None` while it has not.
    pub built_at: Option<String>,
}

/// The releases of one app.
#[derive(Clone, Debug)]
pub struct Releases {
    root: PathBuf,
}

impl Releases {
    /// The releases below the app's root. Touches nothing.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Releases { root: root.to_owned() }
    }

    /// `<root>/releases`.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.root.join("releases")
    }

    /// The folder of a release, whether it exists or not.
    #[must_use]
    pub fn folder(&self, release: &ReleaseId) -> PathBuf {
        self.dir().join(&release.0)
    }

    /// All release folders by number, oldest first; half-built ones too.
    ///
    /// # Errors
    /// When `releases/` exists and cannot be read.
    pub fn list(&self) -> Result<Vec<ReleaseId>, ReleaseError> {
        let mut found: Vec<ReleaseId> =
            self.names()?.iter().filter_map(|name| ReleaseId::parse(name)).collect();
        found.sort_by_key(|id| (id.number(), id.0.clone()));
        Ok(found)
    }

    fn names(&self) -> Result<Vec<String>, ReleaseError> {
        let dir = self.dir();
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(ReleaseError::io("read", &dir))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(ReleaseError::io("read", &dir))?;
            names.extend(entry.file_name().into_string().ok());
        }
        Ok(names)
    }

    /// The release that `current` points at; `None` before the first.
    ///
    /// # Errors
    /// When `current` is something else than a symlink into `releases/`.
    pub fn current(&self) -> Result<Option<ReleaseId>, ReleaseError> {
        let link = self.root.join("current");
        let target = match fs::read_link(&link) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(_) => return Err(ReleaseError::StrangeCurrent(link)),
        };
        // An absolute link to the same place is somebody's own; it counts as long as it stays within the root.
        let name = target
            .strip_prefix("releases")
            .or_else(|_| target.strip_prefix(self.dir()))
            .ok()
            .and_then(|name| name.to_str())
            .and_then(|name| ReleaseId::parse(name.trim_end_matches('/')));
        name.map(Some).ok_or(ReleaseError::StrangeCurrent(link))
    }

    /// What a release folder says about itself; `None` without a folder or a readable description.
    #[must_use]
    pub fn info(&self, release: &ReleaseId) -> Option<ReleaseInfo> {
        serde_json::from_slice(&fs::read(self.folder(release).join(INFO)).ok()?).ok()
    }

    /// The full commit of a release, when its folder is there.
    #[must_use]
    pub fn commit_of(&self, release: &ReleaseId) -> Option<String> {
        self.info(release).map(|info| info.release.commit)
    }

    /// Describes a release folder (readable to all: the app may want it too) and syncs that.
    ///
    /// # Errors
    /// When it is not safely on the disk.
    pub fn describe(&self, info: &ReleaseInfo) -> Result<(), ReleaseError> {
        let path = self.folder(&info.release.id).join(INFO);
        let text = serde_json::to_vec_pretty(info).expect("plain strings always serialize");
        Ok(durable::write(&path, 0o644, &text)?)
    }

    /// The highest number ever used by this app. `others` are numbers known elsewhere, journals or git refs.
    ///
    /// # Errors
    /// When the counter cannot be read.
    pub fn highest(&self, others: impl IntoIterator<Item = u32>) -> Result<u32, ReleaseError> {
        let path = self.dir().join(".counter");
        let counted = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| ReleaseError::BadCounter(path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(ReleaseError::io("read", &path)(error)),
        };
        let folders = self.list()?.into_iter().map(|id| id.number());
        Ok(folders.chain(others).fold(counted, u32::max))
    }

    /// Takes the next number for good: it is never given again, whatever becomes of the release.
    ///
    /// # Errors
    /// When that is not safely on the disk.
    pub fn take_number(&self, others: impl IntoIterator<Item = u32>) -> Result<u32, ReleaseError> {
        let dir = self.dir();
        durable::create_dir(&dir, 0o755)?;
        let number = self.highest(others)? + 1;
        if number > 999_999 {
            return Err(ReleaseError::NumbersUsedUp);
        }
        durable::write(&dir.join(".counter"), durable::PRIVATE, format!("{number}\n").as_bytes())?;
        Ok(number)
    }

    /// Makes `current` point at the release, atomically and synced; with `None` removes it.
    ///
    /// # Errors
    /// `current` points where it did before.
    pub fn switch(&self, to: Option<&ReleaseId>) -> Result<(), ReleaseError> {
        let link = self.root.join("current");
        self.current()?;
        let Some(release) = to else {
            return Ok(durable::remove(&link)?);
        };
        if ReleaseId::parse(&release.0).is_none() || !self.folder(release).is_dir() {
            return Err(ReleaseError::NoRelease(release.clone()));
        }
        if self.info(release).is_none_or(|info| info.built_at.is_none()) {
            return Err(ReleaseError::NotBuilt(release.clone()));
        }
        Ok(durable::link(&link, &Path::new("releases").join(&release.0))?)
    }

    /// Removes the folder of a release, unless it is current. Does nothing when there is none.
    ///
    /// # Errors
    /// When something of it is left; it then no longer counts as a release.
    pub fn remove(&self, release: &ReleaseId) -> Result<(), ReleaseError> {
        if ReleaseId::parse(&release.0).is_none() {
            return Err(ReleaseError::NoRelease(release.clone()));
        }
        if self.current()?.as_ref() == Some(release) {
            return Err(ReleaseError::IsCurrent(release.clone()));
        }
        let folder = self.folder(release);
        let doomed = self.dir().join(format!(".removing-{release}"));
        remove_all(&doomed)?;
        // Renamed first: a removal cut short must not leave something that looks like a release.
        match fs::rename(&folder, &doomed) {
            Ok(()) => remove_all(&doomed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ReleaseError::io("remove", &folder)(error)),
        }
        remove_all(&self.partial(release))
    }

    /// Removes old release folders. The newest `keep`, the current one and `also` stay. Gives those removed.
    ///
    /// # Errors
    /// At the first that cannot be removed.
    pub fn prune(&self, keep: usize, also: &[ReleaseId]) -> Result<Vec<ReleaseId>, ReleaseError> {
        let current = self.current()?;
        let mut old = self.list()?;
        old.truncate(old.len().saturating_sub(keep));
        old.retain(|id| Some(id) != current.as_ref() && !also.contains(id));
        for id in &old {
            self.remove(id)?;
        }
        Ok(old)
    }

    /// Where a release is written before it has its name.
    pub(crate) fn partial(&self, release: &ReleaseId) -> PathBuf {
        self.dir().join(format!(".partial-{:06}", release.number()))
    }

    /// Removes what earlier builds and removals left when they were cut short.
    pub(crate) fn sweep(&self) -> Result<(), ReleaseError> {
        for name in self.names()? {
            if name.starts_with(".partial-") || name.starts_with(".removing-") {
                remove_all(&self.dir().join(name))?;
            }
        }
        Ok(())
    }
}

/// Removes a folder with all in it; fine when there is none.
fn remove_all(path: &Path) -> Result<(), ReleaseError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ReleaseError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Writes all that is cached of the file system below `path` to the disk.
pub(crate) fn sync_tree(path: &Path) -> Result<(), ReleaseError> {
    let dir = File::open(path).map_err(ReleaseError::io("open", path))?;
    rustix::fs::syncfs(&dir).map_err(|error| ReleaseError::io("sync", path)(error.into()))
}
