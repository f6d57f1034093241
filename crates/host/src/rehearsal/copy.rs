//! A release and what it shares, copied to where a rehearsal may do as it likes with them.
//!
//! Paths keep their places below the app's root: `releases/ID` and `shared/` in production are `releases/ID` and
//! `shared/` here, and a link into production leads to the same place in the copy. So an app finds its database by a
//! relative path as it does in production.

use std::collections::BTreeSet;
use std::fs::{self, FileTimes};
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::durable;
use crate::sqlite::Stop;

/// Files of a shared folder that are larger than this together are not in the copy: users' uploads, mostly.
const LARGEST_SHARED: u64 = 64 << 20;
/// Nor are those of a folder that holds more than this.
const MOST_SHARED: u64 = 5_000;
/// What must be free on the disk after all copies.
const RESERVE: u64 = 64 << 20;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{} could not be copied: {cause}", path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("a copy needs {} MiB and {} MiB are free", need >> 20, free >> 20)]
    NoRoom { need: u64, free: u64 },
    #[error(transparent)]
    Durable(#[from] durable::Error),
    #[error("it was asked to stop, or its time was over, while {} was copied", path.display())]
    Stopped { path: PathBuf },
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |cause| Error::Io { path, cause }
}

/// Where production is, and where the rehearsal has its own of it.
pub(super) struct Places {
    /// The app's root, and the root of the copy.
    root: PathBuf,
    scratch: PathBuf,
    /// The database, and the copied one.
    database: Option<(PathBuf, PathBuf)>,
    /// A path of production and its place in the copy, the longest first.
    moved: Vec<(PathBuf, PathBuf)>,
}

impl Places {
    pub(super) fn new(root: &Path, scratch: &Path, database: Option<&Path>) -> Places {
        let in_copy = |path: &Path| {
            let shared =
                path.strip_prefix(root.join("shared")).ok().map(|name| Path::new("shared").join(name));
            let name = || Path::new("database").join(path.file_name().unwrap_or_default());
            scratch.join(shared.unwrap_or_else(name))
        };
        let database = database.map(|path| (path.to_owned(), in_copy(path)));
        let mut moved = vec![
            (root.join("shared"), scratch.join("shared")),
            (root.join("releases"), scratch.join("releases")),
        ];
        moved.extend(database.clone());
        // A path may be written through a link: `/srv/shop` for `/data/shop`.
        let real = moved.iter().filter_map(|(from, to)| Some((fs::canonicalize(from).ok()?, to.clone())));
        moved.extend(real.collect::<Vec<_>>());
        moved.sort_by_key(|(from, _)| std::cmp::Reverse(from.as_os_str().len()));
        moved.dedup();
        Places { root: root.to_owned(), scratch: scratch.to_owned(), database, moved }
    }

    /// Where the copied database is.
    pub(super) fn database(&self) -> Option<&Path> {
        self.database.as_ref().map(|(_, copy)| copy.as_path())
    }

    /// The place in the copy of a path in production; `None` for any other path.
    pub(super) fn of(&self, path: &Path) -> Option<PathBuf> {
        self.moved.iter().find_map(|(from, to)| {
            let rest = path.strip_prefix(from).ok()?;
            Some(if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) })
        })
    }

    /// A setting in which the database is named: it names the copied one instead.
    pub(super) fn setting(&self, value: &str) -> String {
        let mut value = value.to_owned();
        if let Some((from, to)) = &self.database {
            let real = fs::canonicalize(from).ok();
            for from in [Some(from.clone()), real].into_iter().flatten() {
                value = value.replace(&*from.to_string_lossy(), &to.to_string_lossy());
            }
        }
        value
    }

    /// Whether it is the database or one of the files that SQLite keeps beside it.
    fn is_database(&self, path: &Path) -> bool {
        let Some((database, _)) = &self.database else { return false };
        let (Some(name), Some(found)) = (database.file_name(), path.file_name()) else { return false };
        found.as_encoded_bytes().starts_with(name.as_encoded_bytes())
            && (path.parent() == database.parent()
                || path.parent().and_then(|p| fs::canonicalize(p).ok())
                    == database.parent().and_then(|p| fs::canonicalize(p).ok()))
    }
}

/// What was copied.
#[derive(Debug, Default)]
pub(super) struct Copied {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// What is otherwise than in production, in words.
    pub(super) notes: Vec<String>,
}

/// Copies a release folder and all of `shared/` that its links lead to. Gives the folder of the copy.
pub(super) fn release(places: &Places, folder: &Path, stop: &Stop) -> Result<(PathBuf, Copied), Error> {
    let name = folder.file_name().unwrap_or_default();
    let to = places.scratch.join("releases").join(name);
    room(&places.scratch, tree(folder, u64::MAX, places, stop)?.1)?;
    let mut walk = Walk { places, stop, inside: folder, wanted: BTreeSet::new(), copied: Copied::default() };
    fs::create_dir_all(to.parent().unwrap_or(&to)).map_err(io(&to))?;
    walk.copy(folder, &to)?;
    // What is shared may link to more of it.
    while let Some(wanted) = walk.wanted.pop_first() {
        walk.shared(&wanted)?;
    }
    Ok((to, walk.copied))
}

fn room(at: &Path, bytes: u64) -> Result<(), Error> {
    let (free, need) = (durable::free_space(at)?, bytes + RESERVE);
    if free < need { Err(Error::NoRoom { need, free }) } else { Ok(()) }
}

/// How many files a folder holds, and how many bytes, without the database; counted until there are more than `most`
/// files.
fn tree(folder: &Path, most: u64, places: &Places, stop: &Stop) -> Result<(u64, u64), Error> {
    let (mut files, mut bytes) = (0, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(io(&folder))? {
            let entry = entry.map_err(io(&folder))?;
            let found = entry.metadata().map_err(io(&entry.path()))?;
            if found.is_dir() {
                folders.push(entry.path());
                continue;
            }
            if places.is_database(&entry.path()) {
                continue;
            }
            files += 1;
            bytes += found.len();
            if files > most {
                return Ok((files, bytes));
            }
            if stop.wanted() {
                return Err(Error::Stopped { path: folder });
            }
        }
    }
    Ok((files, bytes))
}

struct Walk<'a> {
    places: &'a Places,
    stop: &'a Stop,
    /// The folder that is being copied: links within it stay as they are.
    inside: &'a Path,
    /// Places of production that links lead to.
    wanted: BTreeSet<PathBuf>,
    copied: Copied,
}

impl Walk<'_> {
    fn copy(&mut self, from: &Path, to: &Path) -> Result<(), Error> {
        if self.stop.wanted() {
            return Err(Error::Stopped { path: from.to_owned() });
        }
        let found = fs::symlink_metadata(from).map_err(io(from))?;
        let there = fs::symlink_metadata(to).is_ok_and(|there| !there.is_dir());
        if there {
            // The other release, which shares it, has brought it already.
            Ok(())
        } else if found.is_symlink() {
            self.link(from, to)
        } else if found.is_dir() {
            fs::create_dir_all(to).map_err(io(to))?;
            for entry in fs::read_dir(from).map_err(io(from))? {
                let entry = entry.map_err(io(from))?;
                self.copy(&entry.path(), &to.join(entry.file_name()))?;
            }
            // After what is in it, which could not be written into a read-only folder.
            fs::set_permissions(to, found.permissions()).map_err(io(to))
        } else if found.is_file() && !self.places.is_database(from) {
            // Blocks are shared where the file system can.
            self.copied.bytes += fs::copy(from, to).map_err(io(from))?;
            self.copied.files += 1;
            // Python compiles a file anew when its time is not the one that it remembers.
            let times = FileTimes::new().set_modified(found.modified().map_err(io(from))?);
            fs::File::open(to).and_then(|file| file.set_times(times)).map_err(io(to))
        } else {
            // A socket or a pipe belongs to whoever made it; the database is copied by SQLite's means.
            Ok(())
        }
    }

    fn link(&mut self, from: &Path, to: &Path) -> Result<(), Error> {
        let target = fs::read_link(from).map_err(io(from))?;
        let leads_to = plain(&from.parent().unwrap_or(from).join(&target));
        let within = leads_to.starts_with(self.inside);
        let target = match self.places.of(&leads_to) {
            Some(place) if !within => {
                self.wanted.insert(leads_to);
                place
            }
            Some(place) if target.is_absolute() => place,
            _ => target,
        };
        std::os::unix::fs::symlink(&target, to).map_err(io(to))
    }

    /// Copies something of production that a link leads to.
    fn shared(&mut self, path: &Path) -> Result<(), Error> {
        let Some(place) = self.places.of(path) else { return Ok(()) };
        if let Some(above) = place.parent() {
            fs::create_dir_all(above).map_err(io(above))?;
        }
        let Ok(found) = fs::metadata(path) else { return Ok(()) };
        if self.places.is_database(path) {
            return Ok(());
        }
        if !place.starts_with(self.places.scratch.join("shared")) {
            if fs::symlink_metadata(&place).is_err() {
                let shown = self.shown(path);
                self.copied.notes.push(format!("{shown}, which a link leads to, is not in the copy"));
            }
            return Ok(());
        }
        if found.is_dir() {
            return self.shared_folder(path, &place);
        }
        room(&self.places.scratch, found.len())?;
        self.copy(path, &place)
    }

    /// Copies a folder, or of a large one what is not large in it: configuration may lie beside uploads.
    fn shared_folder(&mut self, path: &Path, place: &Path) -> Result<(), Error> {
        let small = |files: u64, bytes: u64| files <= MOST_SHARED && bytes <= LARGEST_SHARED;
        let (files, bytes) = tree(path, MOST_SHARED, self.places, self.stop)?;
        if small(files, bytes) {
            room(&self.places.scratch, bytes)?;
            return self.copy(path, place);
        }
        fs::create_dir_all(place).map_err(io(place))?;
        let (mut loose, mut loose_bytes) = (Vec::new(), 0);
        for entry in fs::read_dir(path).map_err(io(path))? {
            let entry = entry.map_err(io(path))?;
            let found = entry.metadata().map_err(io(&entry.path()))?;
            if found.is_dir() {
                self.shared_folder(&entry.path(), &place.join(entry.file_name()))?;
            } else if !self.places.is_database(&entry.path()) {
                loose_bytes += found.len();
                loose.push(entry.file_name());
            }
        }
        if !small(loose.len() as u64, loose_bytes) {
            let shown = self.shown(path);
            self.copied.notes.push(format!("the files of {shown} are large or many, and not in the copy"));
            return Ok(());
        }
        room(&self.places.scratch, loose_bytes)?;
        loose.iter().try_for_each(|name| self.copy(&path.join(name), &place.join(name)))
    }

    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.places.root).unwrap_or(path).display().to_string()
    }
}

/// The path without `.` and `..`, as it is written: a link within it is not followed.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Shop {
        dir: tempfile::TempDir,
    }

    impl Shop {
        /// A root with `shared/`, a release whose links lead into it, and a scratch folder.
        fn new() -> Shop {
            let shop = Shop { dir: tempfile::tempdir().unwrap() };
            for folder in ["releases/000007-abcdef0/lib", "shared/data", "shared/uploads", "scratch"] {
                fs::create_dir_all(shop.path(folder)).unwrap();
            }
            shop.file("shared/data/store.db", "production");
            shop.file("shared/data/store.db-wal", "production");
            shop.file("shared/data/keys.json", "{}");
            shop.file("shared/.env", "A=1");
            shop.file("releases/000007-abcdef0/app.py", "print()");
            symlink(shop.path("shared/data"), shop.path("releases/000007-abcdef0/data")).unwrap();
            symlink("../../shared/.env", shop.path("releases/000007-abcdef0/.env")).unwrap();
            shop
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn file(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        fn copy(&self) -> Result<(PathBuf, Copied), Error> {
            let database = self.path("shared/data/store.db");
            let places = Places::new(self.dir.path(), &self.path("scratch"), Some(&database));
            assert_eq!(places.database(), Some(&*self.path("scratch/shared/data/store.db")));
            fs::create_dir_all(self.path("scratch/shared/data")).unwrap();
            self.file("scratch/shared/data/store.db", "copy");
            release(&places, &self.path("releases/000007-abcdef0"), &Stop::new())
        }
    }

    #[test]
    fn links_into_production_lead_into_the_copy_and_the_database_is_left_out() {
        let shop = Shop::new();
        let (folder, copied) = shop.copy().unwrap();
        assert_eq!(folder, shop.path("scratch/releases/000007-abcdef0"));
        assert_eq!(
            fs::canonicalize(folder.join("data")).unwrap(),
            fs::canonicalize(shop.path("scratch/shared/data")).unwrap()
        );
        assert_eq!(fs::read_to_string(folder.join(".env")).unwrap(), "A=1");
        fs::write(folder.join(".env"), "A=2").unwrap();
        fs::write(folder.join("data/keys.json"), "gone").unwrap();
        assert_eq!(fs::read_to_string(shop.path("shared/.env")).unwrap(), "A=1");
        assert_eq!(fs::read_to_string(shop.path("shared/data/keys.json")).unwrap(), "{}");
        assert_eq!(fs::read_to_string(folder.join("data/store.db")).unwrap(), "copy");
        assert!(!folder.join("data/store.db-wal").exists());
        assert_eq!(copied.files, 3);
    }

    #[test]
    fn a_large_database_or_uploads_beside_it_do_not_keep_configuration_out() {
        let shop = Shop::new();
        let database = fs::File::options().write(true).open(shop.path("shared/data/store.db")).unwrap();
        database.set_len(LARGEST_SHARED + 1).unwrap();
        let (folder, copied) = shop.copy().unwrap();
        assert!(folder.join("data/keys.json").exists() && copied.notes.is_empty(), "{copied:?}");
        fs::remove_dir_all(shop.path("scratch")).unwrap();
        fs::create_dir_all(shop.path("shared/data/films")).unwrap();
        let film = fs::File::create(shop.path("shared/data/films/one.mp4")).unwrap();
        film.set_len(LARGEST_SHARED + 1).unwrap();
        let (folder, copied) = shop.copy().unwrap();
        assert!(folder.join("data/keys.json").exists() && folder.join("data/films").is_dir());
        assert_eq!(copied.notes.len(), 1, "{copied:?}");
    }

    #[test]
    fn what_one_release_wrote_into_shared_is_there_for_the_other() {
        let shop = Shop::new();
        let (folder, _) = shop.copy().unwrap();
        fs::write(folder.join("data/keys.json"), "new").unwrap();
        fs::rename(shop.path("releases/000007-abcdef0"), shop.path("releases/000006-abcdef0")).unwrap();
        let database = shop.path("shared/data/store.db");
        let places = Places::new(shop.dir.path(), &shop.path("scratch"), Some(&database));
        let (folder, _) = release(&places, &shop.path("releases/000006-abcdef0"), &Stop::new()).unwrap();
        assert_eq!(fs::read_to_string(folder.join("data/keys.json")).unwrap(), "new");
    }

    #[test]
    fn links_within_the_release_modes_and_times_are_kept() {
        let shop = Shop::new();
        let release = shop.path("releases/000007-abcdef0");
        symlink("app.py", release.join("relative")).unwrap();
        symlink(release.join("app.py"), release.join("absolute")).unwrap();
        symlink("/bin/sh", release.join("outside")).unwrap();
        fs::set_permissions(release.join("app.py"), PermissionsExt::from_mode(0o755)).unwrap();
        fs::set_permissions(release.join("lib"), PermissionsExt::from_mode(0o555)).unwrap();
        let (folder, _) = shop.copy().unwrap();
        assert_eq!(fs::read_link(folder.join("relative")).unwrap(), Path::new("app.py"));
        assert_eq!(fs::read_link(folder.join("absolute")).unwrap(), folder.join("app.py"));
        assert_eq!(fs::read_link(folder.join("outside")).unwrap(), Path::new("/bin/sh"));
        let (before, after) =
            (fs::metadata(release.join("app.py")).unwrap(), fs::metadata(folder.join("app.py")).unwrap());
        assert_eq!((before.mode(), before.modified().unwrap()), (after.mode(), after.modified().unwrap()));
        fs::set_permissions(folder.join("lib"), PermissionsExt::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_folder_of_many_uploads_is_empty_in_the_copy_and_that_is_told() {
        let shop = Shop::new();
        symlink(shop.path("shared/uploads"), shop.path("releases/000007-abcdef0/uploads")).unwrap();
        let large = fs::File::create(shop.path("shared/uploads/film.mp4")).unwrap();
        large.set_len(LARGEST_SHARED + 1).unwrap();
        let (folder, copied) = shop.copy().unwrap();
        assert_eq!(fs::read_dir(folder.join("uploads")).unwrap().count(), 0);
        assert_eq!(copied.notes, ["the files of shared/uploads are large or many, and not in the copy"]);
    }

    #[test]
    fn a_copy_gives_way_when_it_is_asked_to_stop() {
        let shop = Shop::new();
        let stop = Stop::new();
        stop.ask();
        let places = Places::new(shop.dir.path(), &shop.path("scratch"), None);
        let error = release(&places, &shop.path("releases/000007-abcdef0"), &stop).unwrap_err();
        assert!(matches!(error, Error::Stopped { .. }), "{error}");
    }

    #[test]
    fn a_setting_that_names_the_database_names_the_copied_one() {
        let shop = Shop::new();
        let database = shop.path("shared/data/store.db");
        let places = Places::new(shop.dir.path(), &shop.path("scratch"), Some(&database));
        let url = places.setting(&format!("sqlite:///{}?mode=rw", database.display()));
        assert_eq!(url, format!("sqlite:///{}?mode=rw", shop.path("scratch/shared/data/store.db").display()));
        let outside = Places::new(shop.dir.path(), &shop.path("scratch"), Some(Path::new("/var/lib/x/s.db")));
        assert_eq!(outside.database(), Some(&*shop.path("scratch/database/s.db")));
    }

    use std::os::unix::fs::MetadataExt;
}
