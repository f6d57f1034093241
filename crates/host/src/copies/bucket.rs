//! Second copies in a bucket of S3, or of what speaks like it.
//!
//! The file goes to a key of its own, made of its name and its hash, so that no upload ever replaces another backup.
//! The manifest is created last and never replaced: it is what makes the copy count, and it names the object.

use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use object_store::path::Path as Key;
use object_store::{
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, WriteMultipart,
};
use sha2::{Digest, Sha256};

use super::access::{Access, Opened};
use super::{Copied, Error};
use crate::backups::{Entry, Fate, Name};
use crate::sqlite::manifest::{Manifest, State};
use crate::sqlite::partial::{Partial, remove_with_sides, room};
use crate::sqlite::{Error as Database, Stop};

/// A bucket, and what the names in it begin with.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// Without a slash at either end; may be empty.
    pub prefix: String,
    /// How it is reached.
    pub access: Access,
}

/// The size of a part: three of them are in memory at a time.
const PART: u64 = 8 << 20;
/// S3 takes ten thousand parts.
const PARTS: u64 = 9_000;
/// How many parts are on their way at a time.
const AT_ONCE: usize = 2;

/// What went wrong with a request.
struct Refused {
    doing: &'static str,
    error: object_store::Error,
}

fn refused(doing: &'static str) -> impl Fn(object_store::Error) -> Refused {
    move |error| Refused { doing, error }
}

/// A bucket that is being worked with.
struct Session<'a> {
    bucket: &'a Bucket,
    opened: Opened,
    stop: &'a Stop,
}

impl Bucket {
    /// `s3://name/prefix`
    #[must_use]
    pub fn place(&self) -> String {
        if self.prefix.is_empty() {
            format!("s3://{}", self.name)
        } else {
            format!("s3://{}/{}", self.name, self.prefix)
        }
    }

    /// Copies a backup there, reads it back and compares.
    pub(super) fn copy(&self, backup: &Path, manifest: &Manifest, stop: &Stop) -> Result<Copied, Error> {
        self.with(stop, async |session| session.copy(backup, manifest).await)
    }

    /// Brings a backup from there into a folder, manifest and all; the newest one that counts when `file` is `None`.
    /// `Ok(None)` when there is none.
    pub(super) fn fetch(
        &self,
        database: &str,
        file: Option<&str>,
        folder: &Path,
        stop: &Stop,
    ) -> Result<Option<PathBuf>, Error> {
        self.with(stop, async |session| {
            let wanted = match file {
                Some(file) => session.manifest(file).await?,
                None => {
                    let entries = session.entries(database).await?;
                    let now = jiff::Timestamp::now();
                    crate::backups::newest_verified(&entries, now)
                        .and_then(|entry| entry.manifest.clone().ok())
                }
            };
            match wanted {
                Some(manifest) => session.fetch(&manifest, folder).await.map(Some),
                None => Ok(None),
            }
        })
    }

    /// All backups of `database` there, oldest first; their paths are those of the bucket.
    pub(super) fn entries(&self, database: &str, stop: &Stop) -> Result<Vec<Entry>, Error> {
        self.with(stop, async |session| session.entries(database).await)
    }

    /// How many backups of `database` it holds: a look whether it can be reached and read.
    ///
    /// # Errors
    /// [`Error::Bucket`], with what to do.
    pub fn count(&self, database: &str, stop: &Stop) -> Result<usize, Error> {
        Ok(self.entries(database, stop)?.len())
    }

    /// Removes what its fate does not keep, the manifest first.
    pub(super) fn remove(&self, entries: &[Entry], fates: &[Fate], stop: &Stop) -> Result<(), Error> {
        self.with(stop, async |session| {
            for (entry, _) in entries.iter().zip(fates).filter(|(_, fate)| !fate.keep) {
                session.remove(entry).await?;
            }
            Ok(())
        })
    }

    /// The engine is synchronous: what is asynchronous begins and ends here.
    fn with<T>(
        &self,
        stop: &Stop,
        act: impl AsyncFnOnce(&Session<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let unreachable = |why: String| Error::Bucket {
            place: self.place(),
            doing: "reach",
            why,
            hint: "Set [backup.s3], or the environment as for the AWS tools.",
        };
        let opened = self.access.open(&self.name).map_err(unreachable)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Database::io(Path::new("."), "start working in", e))?;
        let session = Session { bucket: self, opened, stop };
        runtime.block_on(act(&session))
    }
}

impl Session<'_> {
    fn key(&self, file: &str) -> Key {
        if self.bucket.prefix.is_empty() {
            Key::from(file)
        } else {
            Key::from(format!("{}/{file}", self.bucket.prefix))
        }
    }

    fn manifest_key(&self, file: &str) -> Key {
        self.key(&format!("{file}.json"))
    }

    fn place_of(&self, file: &str) -> String {
        format!("{}/{file}", self.bucket.place())
    }

    /// Puts a refusal into words that say what to do, without keys in them.
    fn error(&self, Refused { doing, error }: Refused) -> Error {
        use object_store::Error as E;
        let hint = match &error {
            E::NotFound { .. } => "Make the bucket, or mend its name and the endpoint.",
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                "Check the keys, and that they may put, get and list there."
            }
            _ => "Look whether the server can be reached; the next `plimsoll backup copy` begins again.",
        };
        let mut why = String::new();
        let mut next: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = next {
            let text = error.to_string();
            // Most errors repeat the one below them.
            if !why.contains(&text) {
                why = if why.is_empty() { text } else { format!("{why}: {text}") };
            }
            next = error.source();
        }
        let why = self.opened.without_secrets(&why.split_whitespace().collect::<Vec<_>>().join(" "));
        let why: String = why.chars().take(400).collect();
        Error::Bucket { place: self.bucket.place(), doing, why, hint }
    }

    /// Waits for a request, and stops waiting when somebody asks to stop.
    async fn ask<T>(
        &self,
        doing: &'static str,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Error> {
        self.try_ask(doing, request).await?.map_err(|refused| self.error(refused))
    }

    /// As [`Session::ask`], for who wants to look at the refusal.
    async fn try_ask<T>(
        &self,
        doing: &'static str,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Result<T, Refused>, Error> {
        tokio::pin!(request);
        loop {
            tokio::select! {
                answer = &mut request => return Ok(answer.map_err(refused(doing))),
                () = tokio::time::sleep(Duration::from_millis(100)) => {
                    self.stop.check(doing)?;
                }
            }
        }
    }

    async fn copy(&self, backup: &Path, manifest: &Manifest) -> Result<Copied, Error> {
        let file = &manifest.file;
        let copied =
            |was_there| Copied { file: self.place_of(file), bytes: manifest.bytes, was_there, took_ms: 0 };
        if let Some(there) = self.manifest(file).await? {
            self.same(manifest, &there)?;
            return match self.read_back(&there).await? {
                true => Ok(copied(true)),
                false => Err(self.differs(file)),
            };
        }
        let object = format!("{file}-{}", &manifest.sha256[..16]);
        let there =
            Manifest { state: manifest.state.max(State::Copied), object: Some(object), ..manifest.clone() };
        // What an attempt before this one has left is as good, when it is the same.
        if !self.read_back(&there).await? {
            self.upload(backup, &there).await?;
            if !self.read_back(&there).await? {
                // Best effort: without a manifest it does not count anyway, and the next attempt replaces it.
                let _ = self.ask("remove", self.opened.store.delete(&self.object_key(&there))).await;
                return Err(self.differs(file));
            }
        }
        self.publish(&there).await?;
        Ok(copied(false))
    }

    fn object_key(&self, manifest: &Manifest) -> Key {
        self.key(manifest.object.as_deref().unwrap_or(&manifest.file))
    }

    fn differs(&self, file: &str) -> Error {
        let differences = vec!["read back, it has another hash".to_owned()];
        Database::CopyDiffers { path: PathBuf::from(self.place_of(file)), differences }.into()
    }

    /// An error when a manifest of that name is of another backup.
    fn same(&self, manifest: &Manifest, there: &Manifest) -> Result<(), Error> {
        if manifest.sha256 == there.sha256 {
            return Ok(());
        }
        Err(Error::Other { path: PathBuf::from(self.place_of(&manifest.file)) })
    }

    async fn upload(&self, backup: &Path, manifest: &Manifest) -> Result<(), Error> {
        let key = self.object_key(manifest);
        let begun = self.opened.store.put_multipart_opts(&key, PutMultipartOptions::default());
        let begun = self.ask("begin to write to", begun).await?;
        let part = PART.max(manifest.bytes.div_ceil(PARTS));
        let part = usize::try_from(part).unwrap_or(usize::MAX);
        let mut upload = WriteMultipart::new_with_chunk_size(begun, part);
        match self.pour(backup, manifest, part, &mut upload).await {
            Ok(()) => self.ask("write to", upload.finish()).await.map(drop),
            Err(error) => {
                // Parts that nobody completes cost money; when this fails too, the bucket's own rule has to.
                let _ = tokio::time::timeout(Duration::from_secs(5), upload.abort()).await;
                Err(error)
            }
        }
    }

    /// Sends the file part by part; an error before the last when it is not what its manifest says.
    async fn pour(
        &self,
        backup: &Path,
        manifest: &Manifest,
        part: usize,
        upload: &mut WriteMultipart,
    ) -> Result<(), Error> {
        let mut file = File::open(backup).map_err(|e| Database::io(backup, "read", e))?;
        let mut hasher = Sha256::new();
        let mut left = manifest.bytes;
        loop {
            let mut chunk = Vec::with_capacity(part.min(usize::try_from(left).unwrap_or(part)));
            let read = (&mut file).take(part as u64).read_to_end(&mut chunk);
            let read = read.map_err(|e| Database::io(backup, "read", e))?;
            hasher.update(&chunk);
            left = left.saturating_sub(read as u64);
            if read == 0 || left == 0 {
                if hex::encode(hasher.finalize()) != manifest.sha256 {
                    let why = "its hash is not that of its manifest".to_owned();
                    return Err(Error::NotVerified { path: backup.to_owned(), why });
                }
                upload.put(chunk.into());
                return Ok(());
            }
            self.ask("write to", upload.wait_for_capacity(AT_ONCE)).await?;
            upload.put(chunk.into());
        }
    }

    /// Whether the object is there and is what its manifest says, read from there byte by byte.
    async fn read_back(&self, manifest: &Manifest) -> Result<bool, Error> {
        let head = self.try_ask("look at", self.opened.store.head(&self.object_key(manifest))).await?;
        match head {
            Ok(found) if found.size != manifest.bytes => return Ok(false),
            Ok(_) => {}
            Err(Refused { error: object_store::Error::NotFound { .. }, .. }) => return Ok(false),
            Err(refused) => return Err(self.error(refused)),
        }
        let mut hasher = Sha256::new();
        self.download(manifest, &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        })
        .await?;
        Ok(hex::encode(hasher.finalize()) == manifest.sha256)
    }

    /// Range by range: each is asked for again by itself when the connection breaks.
    async fn download(
        &self,
        manifest: &Manifest,
        take: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let key = self.object_key(manifest);
        let mut from = 0;
        while from < manifest.bytes {
            let range = from..manifest.bytes.min(from + PART);
            from = range.end;
            let bytes = self.ask("read from", self.opened.store.get_range(&key, range)).await?;
            take(&bytes)?;
        }
        Ok(())
    }

    /// Creates the manifest, which makes the copy count, and sees that it is there.
    async fn publish(&self, manifest: &Manifest) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(manifest).map_err(|e| Database::Manifest {
            path: PathBuf::from(self.place_of(&manifest.file)),
            why: e.to_string(),
        })?;
        let key = self.manifest_key(&manifest.file);
        let options = PutOptions::from(PutMode::Create);
        let put = self.opened.store.put_opts(&key, PutPayload::from(text), options);
        match self.try_ask("write the manifest to", put).await? {
            // There already: somebody else's, or ours, of which only the answer was lost.
            Ok(_) | Err(Refused { error: object_store::Error::AlreadyExists { .. }, .. }) => {}
            Err(refused) => return Err(self.error(refused)),
        }
        match self.manifest(&manifest.file).await? {
            Some(there) => self.same(manifest, &there),
            None => Err(self.differs(&manifest.file)),
        }
    }

    /// The manifest of a backup; `None` when there is none.
    async fn manifest(&self, file: &str) -> Result<Option<Manifest>, Error> {
        let key = self.manifest_key(file);
        let got = async { self.opened.store.get(&key).await?.bytes().await };
        let text = match self.try_ask("read the manifest from", got).await? {
            Ok(text) => text,
            Err(Refused { error: object_store::Error::NotFound { .. }, .. }) => return Ok(None),
            Err(refused) => return Err(self.error(refused)),
        };
        let unusable = |why| Database::Manifest { path: PathBuf::from(self.place_of(file)), why };
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| unusable(e.to_string()))?;
        // What names another object must not lead out of its place.
        let object = manifest.object.as_deref().unwrap_or(&manifest.file);
        if manifest.file != file || object.contains('/') || manifest.format != 1 {
            return Err(unusable("it is not the manifest of this backup".to_owned()).into());
        }
        Ok(Some(manifest))
    }

    async fn entries(&self, database: &str) -> Result<Vec<Entry>, Error> {
        let prefix = (!self.bucket.prefix.is_empty()).then(|| Key::from(self.bucket.prefix.as_str()));
        let found = self.opened.store.list_with_delimiter(prefix.as_ref());
        let found = self.ask("list", found).await?.objects;
        let mut entries = Vec::new();
        for object in &found {
            let file = object.location.filename().and_then(|name| name.strip_suffix(".json"));
            let Some((file, name)) = file.and_then(|file| Some((file, Name::parse(file, database)?))) else {
                continue;
            };
            let manifest = match self.manifest(file).await {
                Ok(Some(manifest)) => Ok(manifest),
                Ok(None) => continue,
                Err(Error::Database(Database::Manifest { why, .. })) => Err(why),
                Err(other) => return Err(other),
            };
            let key = manifest.as_ref().ok().map(|manifest| self.object_key(manifest));
            let size =
                found.iter().find(|object| Some(&object.location) == key.as_ref()).map(|object| object.size);
            let bytes = size.unwrap_or(0);
            entries.push(Entry { path: PathBuf::from(self.place_of(file)), name, bytes, manifest });
        }
        entries.sort_by_key(|entry| (entry.at(), entry.path.clone()));
        Ok(entries)
    }

    async fn fetch(&self, manifest: &Manifest, folder: &Path) -> Result<PathBuf, Error> {
        room(folder, manifest.bytes + (1 << 20))?;
        let partial = Partial::new(folder, &manifest.file)?;
        let written = partial.path().to_owned();
        let failed = |e| Database::io(&written, "write", e);
        let mut to = File::options().write(true).open(&written).map_err(failed)?;
        let mut hasher = Sha256::new();
        self.download(manifest, &mut |bytes| {
            hasher.update(bytes);
            Ok(to.write_all(bytes).map_err(failed)?)
        })
        .await?;
        if hex::encode(hasher.finalize()) != manifest.sha256 {
            let failures = vec!["what came from there has another hash than its manifest says".to_owned()];
            return Err(
                Database::BadBackup { path: PathBuf::from(self.place_of(&manifest.file)), failures }.into()
            );
        }
        let path = folder.join(&manifest.file);
        if partial.publish(&path)?.is_err() {
            return Err(Error::Other { path });
        }
        // Without a manifest it counts for nothing and takes up room.
        let written = Manifest { object: None, ..manifest.clone() }.write(&path);
        written.inspect_err(|_| remove_with_sides(&path))?;
        Ok(path)
    }

    async fn remove(&self, entry: &Entry) -> Result<(), Error> {
        let Ok(manifest) = &entry.manifest else { return Ok(()) };
        for key in [self.manifest_key(&manifest.file), self.object_key(manifest)] {
            match self.try_ask("remove from", self.opened.store.delete(&key)).await? {
                Ok(()) | Err(Refused { error: object_store::Error::NotFound { .. }, .. }) => {}
                Err(refused) => return Err(self.error(refused)),
            }
        }
        Ok(())
    }
}
