//! Code: from a git revision to a numbered release folder, and `current`.
//!
//! [`GitSource`] is the port [`Source`]; [`Releases`] alone answers questions about what is there. The app's root
//! holds `mirror.git` (a bare copy of the repository, only a cache), `releases/NNNNNN-xxxxxxx`, `current`, `shared/`.

mod build;
mod changes;
mod error;
mod folder;
mod git;
mod mirror;
mod origin;
mod revision;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::check::Check;
use plimsoll_core::plan::{Release, ReleaseId};
use plimsoll_core::ports::{Failure, Source};

pub use build::link_shared;
pub use error::ReleaseError;
pub use folder::{ReleaseInfo, Releases};
use git::Git;
use mirror::Mirror;
use origin::Origin;
use revision::Found;

use crate::process::Mark;

/// Takes a line of git's or a build command's output, without credentials of URLs.
pub type OnLine = Arc<dyn Fn(&str) + Send + Sync>;
/// Whether somebody asked the run to stop.
pub type StopAsked = Arc<dyn Fn() -> bool + Send + Sync>;

/// Where code comes from and how it becomes a release: `[source]` and `[build]`, with every path resolved.
#[derive(Clone)]
pub struct Settings {
    /// The app's root, absolute.
    pub root: PathBuf,
    /// `[source].git`: a URL or a path (relative to the root), as configured; may hold credentials.
    pub git: String,
    /// `[source].branch`.
    pub branch: String,
    /// `[source].directory`: the app's folder within the repository.
    pub directory: PathBuf,
    /// `[build].commands`, each given to `/bin/sh -c` in the app's folder.
    pub commands: Vec<String>,
    /// `[build].timeout`, for all commands together.
    pub build_timeout: Duration,
    /// The longest that one call of git may take.
    pub git_timeout: Duration,
    /// `[build].link`: names in `shared/`, relative; a slash at the end means a folder.
    pub link: Vec<PathBuf>,
    /// The database file, which a link may point at before it exists.
    pub database: Option<PathBuf>,
    /// Variables that build commands get on top.
    pub env: BTreeMap<String, String>,
    /// The environment of this program; git and build commands get only what they need of it.
    pub environment: BTreeMap<String, String>,
}

/// The app's code in git. One run at a time uses it (the run's lock sees to that).
pub struct GitSource {
    settings: Settings,
    releases: Releases,
    mirror: Mirror,
    on_line: OnLine,
    stop: StopAsked,
}

impl GitSource {
    /// Checks the settings. Touches nothing.
    ///
    /// # Errors
    /// [`ReleaseError::Setting`] for a relative root, a folder or link outside of its place, an unusable branch.
    pub fn new(settings: Settings, on_line: OnLine, stop: StopAsked) -> Result<Self, ReleaseError> {
        let refuse = |key, why: String| Err(ReleaseError::Setting { key, why });
        if !settings.root.is_absolute() || settings.root.to_str().is_none() {
            return refuse(
                "[app].root",
                format!("{} is not an absolute path in UTF-8", settings.root.display()),
            );
        }
        if settings.git.trim().is_empty() {
            return refuse("[source].git", "it is empty".to_owned());
        }
        if settings.branch.is_empty() || settings.branch.starts_with('-') {
            return refuse("[source].branch", format!("{:?} is no name of a branch", settings.branch));
        }
        if !stays_inside(&settings.directory) {
            return refuse("[source].directory", format!("{} leads out", settings.directory.display()));
        }
        for name in &settings.link {
            let named = name.components().any(|part| matches!(part, Component::Normal(_)));
            if !named || !stays_inside(name) {
                return refuse("[build].link", format!("{} is not a name in shared/", name.display()));
            }
        }
        let git = Git {
            limit: settings.git_timeout,
            environment: settings.environment.clone(),
            mark: Mark { root: settings.root.clone(), role: "git".to_owned() },
            on_line: on_line.clone(),
            stop: stop.clone(),
        };
        let dir = settings.root.join("mirror.git");
        let mirror = Mirror { git, dir, origin: Origin::parse(&settings.git, &settings.root) };
        Ok(GitSource { releases: Releases::new(&settings.root), settings, mirror, on_line, stop })
    }

    /// The release folders.
    #[must_use]
    pub fn releases(&self) -> &Releases {
        &self.releases
    }

    /// The app's folder in a release: its working directory.
    #[must_use]
    pub fn app_dir(&self, release: &ReleaseId) -> PathBuf {
        self.releases.folder(release).join(plain(&self.settings.directory))
    }

    /// Brings the revision here and looks at it, without giving it a number. The release's id has the number that it
    /// would get now.
    ///
    /// # Errors
    /// As [`Source::fetch`].
    pub fn look(&self, revision: Option<&str>) -> Result<(Release, Vec<Check>), ReleaseError> {
        let (found, checks) = self.find(revision)?;
        let number = self.releases.highest(self.kept_numbers()?)? + 1;
        Ok((self.release(number, &found, revision), checks))
    }

    fn find(&self, revision: Option<&str>) -> Result<(Found, Vec<Check>), ReleaseError> {
        let shared: Vec<PathBuf> =
            self.settings.link.iter().map(|name| plain(&self.settings.directory).join(plain(name))).collect();
        let uncommitted = self.mirror.uncommitted(&shared)?;
        if let (None, Some(files), Some(path)) = (revision, &uncommitted, &self.mirror.origin.local)
            && !files.is_empty()
        {
            let mut shown: Vec<String> = files.iter().take(10).cloned().collect();
            if files.len() > shown.len() {
                shown.push(format!("and {} more", files.len() - shown.len()));
            }
            return Err(ReleaseError::Dirty { path: path.clone(), files: shown });
        }
        self.mirror.update(&self.settings.branch)?;
        let configured = format!("refs/heads/{}", self.settings.branch);
        let found = self.mirror.resolve(revision.unwrap_or(&configured)).map_err(|error| match error {
            ReleaseError::NoSuchRevision { asked, near } => ReleaseError::NoSuchRevision {
                asked: asked.strip_prefix("refs/heads/").unwrap_or(&asked).to_owned(),
                near,
            },
            other => other,
        })?;
        let live = self.releases.current()?;
        let live_commit = live.as_ref().and_then(|id| self.releases.commit_of(id));
        let mut pull = Check::pass("deploy.pull", "Code from git")
            .with("from", self.mirror.origin.url.as_str())
            .with("branch", found.branch.as_deref().or(revision).unwrap_or(&self.settings.branch))
            .with("commit", found.commit.as_str())
            .with("author", found.author.as_str())
            .with("subject", found.subject.as_str())
            .with("committed_at", found.committed_at.as_str())
            // Nothing is merged on the server, so nothing can conflict.
            .with("conflicts", 0);
        if let Some(files) = uncommitted {
            pull = pull.with("uncommitted_files", files.len());
        }
        if let (Some(live), None) = (&live, &live_commit) {
            pull = pull.with("note", format!("the live release {live} does not say what commit it is"));
        }
        if let (Some(live), Some(commit)) = (live, &live_commit) {
            let descends = self.mirror.descends(&found.commit, commit)?;
            if let (false, Some(branch)) = (descends, &found.branch) {
                let (branch, live_commit, head) = (branch.clone(), commit.clone(), found.commit);
                return Err(ReleaseError::Diverged { branch, live, live_commit, head });
            }
            pull = pull.with("descends_from_live", descends).with("same_as_live", *commit == found.commit);
        }
        self.mirror.refuse_incomplete(&found.commit, &plain(&self.settings.directory))?;
        let review = changes::review(&self.mirror, live_commit.as_deref(), &found.commit)?;
        Ok((found, vec![pull, review]))
    }

    fn kept_numbers(&self) -> Result<Vec<u32>, ReleaseError> {
        let names = self.mirror.kept()?;
        Ok(names.iter().filter_map(|name| ReleaseId::parse(name)).map(|id| id.number()).collect())
    }

    fn release(&self, number: u32, found: &Found, revision: Option<&str>) -> Release {
        Release {
            id: ReleaseId::new(number, &found.commit),
            commit: found.commit.clone(),
            branch: found.branch.as_deref().or(revision).unwrap_or(&self.settings.branch).to_owned(),
            author: found.author.clone(),
            subject: found.subject.clone(),
        }
    }

    fn number(&self, revision: Option<&str>) -> Result<(Release, Vec<Check>), ReleaseError> {
        let (found, checks) = self.find(revision)?;
        let number = self.releases.take_number(self.kept_numbers()?)?;
        let release = self.release(number, &found, revision);
        self.mirror.keep(&release.id.0, &release.commit)?;
        Ok((release, checks))
    }

    fn make(&self, release: &Release) -> Result<Vec<Check>, ReleaseError> {
        // A build cut short is done again from the start.
        self.releases.remove(&release.id)?;
        self.releases.sweep()?;
        let partial = self.releases.partial(&release.id);
        fs::create_dir_all(&partial).map_err(ReleaseError::io("create", &partial))?;
        self.mirror.write_tree(&release.commit, &partial)?;
        let directory = plain(&self.settings.directory);
        let app_dir = partial.join(&directory);
        let real = fs::canonicalize(&app_dir).map_err(ReleaseError::io("find", &app_dir))?;
        if !real.starts_with(fs::canonicalize(&partial).map_err(ReleaseError::io("find", &partial))?) {
            return Err(ReleaseError::LinkBlocked { path: app_dir });
        }
        let shared = self.settings.root.join("shared");
        let notes = link_shared(&app_dir, &shared, &self.settings.link, self.settings.database.as_deref())?;
        folder::sync_tree(&partial)?;
        let folder = self.releases.folder(&release.id);
        fs::rename(&partial, &folder).map_err(ReleaseError::io("rename", &partial))?;
        let mut info = ReleaseInfo { release: release.clone(), built_at: None };
        self.releases.describe(&info)?;
        // Under their final path: virtual environments and the like write it into their files.
        let build = build::Build {
            release: &release.id,
            app_dir: &folder.join(&directory),
            commands: &self.settings.commands,
            limit: self.settings.build_timeout,
            environment: &self.settings.environment,
            extra: &self.settings.env,
            root: &self.settings.root,
            on_line: &*self.on_line,
            stop: &*self.stop,
        };
        let mut install = build.run()?;
        if !self.settings.link.is_empty() {
            let names: Vec<String> =
                self.settings.link.iter().map(|name| name.display().to_string()).collect();
            install = install.with("links", names);
        }
        if !notes.is_empty() {
            install = install.with("notes", notes);
        }
        // Everything below is on the disk before the description says that it is built.
        folder::sync_tree(&folder)?;
        info.built_at = Some(jiff::Timestamp::now().to_string());
        self.releases.describe(&info)?;
        Ok(vec![install])
    }
}

impl Source for GitSource {
    fn fetch(&mut self, revision: Option<&str>) -> Result<(Release, Vec<Check>), Failure> {
        Ok(self.number(revision)?)
    }

    fn build(&mut self, release: &Release) -> Result<Vec<Check>, Failure> {
        Ok(self.make(release)?)
    }

    fn discard(&mut self, release: &ReleaseId) -> Result<(), Failure> {
        Ok(self.releases.remove(release)?)
    }

    fn switch(&mut self, to: Option<&ReleaseId>) -> Result<Vec<Check>, Failure> {
        let before = self.releases.current()?;
        self.releases.switch(to)?;
        let back = to.zip(before.as_ref()).filter(|(to, before)| to.number() < before.number());
        Ok(back
            .map(|(to, before)| {
                Check::pass("back.code", "The earlier release is current again")
                    .with("from", before.0.as_str())
                    .with("to", to.0.as_str())
            })
            .into_iter()
            .collect())
    }
}

/// Whether a configured path is relative and never climbs.
fn stays_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// The path without dots and slashes at the end.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::Command;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use plimsoll_core::check::Verdict;
    use plimsoll_core::ports::FailureKind;

    use super::*;

    /// A repository that the code comes from and the root of an app that is deployed from it.
    struct Bench {
        dir: tempfile::TempDir,
        lines: Arc<Mutex<Vec<String>>>,
        stop: Arc<AtomicBool>,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for name in ["work", "home", "app/shared"] {
                fs::create_dir_all(dir.path().join(name)).unwrap();
            }
            let bench = Bench { dir, lines: Arc::default(), stop: Arc::default() };
            bench.git(&["init", "-q", "-b", "main", "."]);
            bench.commit("app.py", "print('one')\n", "First");
            bench
        }

        fn environment(&self) -> BTreeMap<String, String> {
            let path = std::env::var("PATH").unwrap();
            let home = self.path("home").display().to_string();
            let fixed = [
                ("PATH", path.as_str()),
                ("HOME", &home),
                ("GIT_CONFIG_GLOBAL", "/dev/null"),
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_DIR", "/nowhere"),
                ("SECRET", "hunter2"),
            ];
            fixed.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn git(&self, arguments: &[&str]) -> String {
            let mut git = Command::new("git");
            let environment = self.environment();
            git.env_clear().envs(environment.into_iter().filter(|(name, _)| name != "GIT_DIR"));
            git.args([
                "-c",
                "user.name=Asha",
                "-c",
                "user.email=asha@example.com",
                "-c",
                "protocol.file.allow=always",
            ]);
            let out = git.args(arguments).current_dir(self.path("work")).output().unwrap();
            assert!(out.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap().trim().to_owned()
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.path("work").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn commit(&self, name: &str, text: &str, subject: &str) -> String {
            self.write(name, text);
            self.git(&["add", "-A"]);
            self.git(&["commit", "-q", "-m", subject]);
            self.git(&["rev-parse", "HEAD"])
        }

        fn settings(&self) -> Settings {
            Settings {
                root: self.path("app"),
                git: "../work".to_owned(),
                branch: "main".to_owned(),
                directory: PathBuf::from("."),
                commands: Vec::new(),
                build_timeout: Duration::from_secs(60),
                git_timeout: Duration::from_secs(60),
                link: Vec::new(),
                database: None,
                env: BTreeMap::new(),
                environment: self.environment(),
            }
        }

        fn source_with(&self, settings: Settings) -> GitSource {
            let (lines, stop) = (self.lines.clone(), self.stop.clone());
            let on_line: OnLine = Arc::new(move |line| lines.lock().unwrap().push(line.to_owned()));
            GitSource::new(settings, on_line, Arc::new(move || stop.load(Ordering::SeqCst))).unwrap()
        }

        fn source(&self) -> GitSource {
            self.source_with(self.settings())
        }

        /// Fetches, builds and makes current.
        fn deploy(&self, source: &mut GitSource, revision: Option<&str>) -> Release {
            let (release, _) = source.fetch(revision).unwrap();
            source.build(&release).unwrap();
            source.switch(Some(&release.id)).unwrap();
            release
        }
    }

    fn check<'a>(checks: &'a [Check], id: &str) -> &'a Check {
        checks.iter().find(|check| check.id == id).unwrap()
    }

    #[test]
    fn a_revision_becomes_a_numbered_folder_with_modes_and_links() {
        let bench = Bench::new();
        bench.write("run.sh", "#!/bin/sh\n");
        fs::set_permissions(bench.path("work/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("app.py", bench.path("work/link.py")).unwrap();
        let commit = bench.commit("sub/deep.txt", "a\r\n", "Second: mehr Äpfel");
        let mut source = bench.source();
        let (release, checks) = source.fetch(None).unwrap();
        assert_eq!(release.id, ReleaseId::new(1, &commit));
        assert_eq!((release.commit.as_str(), release.branch.as_str()), (commit.as_str(), "main"));
        assert_eq!(release.author, "Asha <asha@example.com>");
        assert_eq!(release.subject, "Second: mehr Äpfel");
        let pull = check(&checks, "deploy.pull");
        assert_eq!(pull.verdict, Verdict::Pass);
        assert_eq!(pull.evidence["commit"], commit.as_str());
        assert_eq!(check(&checks, "pre.review").verdict, Verdict::Skipped);
        source.build(&release).unwrap();
        let folder = bench.path("app/releases").join(&release.id.0);
        assert_eq!(source.app_dir(&release.id), folder);
        assert_eq!(fs::read_to_string(folder.join("sub/deep.txt")).unwrap(), "a\r\n");
        assert_eq!(fs::metadata(folder.join("run.sh")).unwrap().permissions().mode() & 0o111, 0o111);
        assert_eq!(fs::read_link(folder.join("link.py")).unwrap(), Path::new("app.py"));
        assert!(!folder.join(".git").exists());
        assert_eq!(source.releases().commit_of(&release.id), Some(commit));
        assert_eq!(source.releases().info(&release.id).unwrap().release, release);
    }

    #[test]
    fn only_the_folder_of_the_app_is_where_it_runs() {
        let bench = Bench::new();
        bench.commit("shop/app.py", "", "Shop");
        let settings = Settings {
            directory: PathBuf::from("./shop/"),
            link: vec![PathBuf::from("uploads/")],
            commands: vec!["pwd > where".to_owned()],
            ..bench.settings()
        };
        let mut source = bench.source_with(settings);
        let release = bench.deploy(&mut source, None);
        let dir = source.app_dir(&release.id);
        assert_eq!(fs::read_to_string(dir.join("where")).unwrap().trim(), dir.to_str().unwrap());
        assert!(dir.join("uploads").is_dir() && dir.ends_with("shop"));
        let settings = Settings { directory: PathBuf::from("shoq"), ..bench.settings() };
        let failure = bench.source_with(settings).fetch(None).unwrap_err();
        assert!(failure.what.contains("has no folder shoq"), "{failure}");
    }

    #[test]
    fn numbers_are_never_used_twice() {
        let bench = Bench::new();
        let mut source = bench.source();
        let numbers: Vec<u32> = (0..3)
            .map(|_| {
                let (release, _) = source.fetch(None).unwrap();
                source.discard(&release.id).unwrap();
                release.id.number()
            })
            .collect();
        assert_eq!(numbers, [1, 2, 3]);
        // Looking takes none; a lost counter is made good by the commits that the mirror keeps.
        assert_eq!(source.look(None).unwrap().0.id.number(), 4);
        assert_eq!(source.look(None).unwrap().0.id.number(), 4);
        fs::remove_file(bench.path("app/releases/.counter")).unwrap();
        assert_eq!(source.fetch(None).unwrap().0.id.number(), 4);
        // A lost mirror by the counter.
        fs::remove_dir_all(bench.path("app/mirror.git")).unwrap();
        assert_eq!(source.fetch(None).unwrap().0.id.number(), 5);
        fs::write(bench.path("app/releases/.counter"), "many").unwrap();
        assert!(source.fetch(None).unwrap_err().next.contains(".counter"));
    }

    #[test]
    fn a_release_restored_with_old_times_does_not_change_the_order() {
        let bench = Bench::new();
        let mut source = bench.source();
        let first = bench.deploy(&mut source, None);
        let second = bench.deploy(&mut source, None);
        let old = std::time::SystemTime::UNIX_EPOCH;
        fs::File::open(source.app_dir(&second.id)).unwrap().set_modified(old).unwrap();
        assert_eq!(source.releases().list().unwrap(), [first.id, second.id]);
    }

    #[test]
    fn branches_tags_and_commits_are_found() {
        let bench = Bench::new();
        let first = bench.git(&["rev-parse", "HEAD"]);
        bench.git(&["tag", "-a", "v1", "-m", "annotated"]);
        let second = bench.commit("a", "2", "Second");
        bench.git(&["branch", "topic/x", &first]);
        let mut source = bench.source();
        let mut commit = |revision| source.fetch(Some(revision)).unwrap().0.commit;
        assert_eq!(commit("v1"), first);
        assert_eq!(commit("main"), second);
        assert_eq!(commit("topic/x"), first);
        assert_eq!(commit("main~1"), first);
        assert_eq!(commit(&first), first);
        assert_eq!(commit(&first[..8]), first);
        assert_eq!(commit("refs/heads/main"), second);
    }

    #[test]
    fn a_missing_revision_names_the_nearest_ones() {
        let bench = Bench::new();
        bench.git(&["branch", "release-2024"]);
        let mut source = bench.source();
        for asked in ["release-2042", "--upload-pack=touch x", "main:app.py", "deadbeef"] {
            let failure = source.fetch(Some(asked)).unwrap_err();
            assert_eq!(failure.kind, FailureKind::Usage, "{asked}");
            assert!(failure.what.contains(asked) && failure.next.contains("release-2024"), "{failure:?}");
        }
        let unknown = "1234567890123456789012345678901234567890";
        assert!(source.fetch(Some(unknown)).unwrap_err().what.contains("no branch, tag or commit"));
        assert!(!bench.path("app/releases").exists(), "a refusal takes no number");
    }

    #[test]
    fn a_name_that_means_two_commits_is_refused() {
        let bench = Bench::new();
        let first = bench.git(&["rev-parse", "HEAD"]);
        bench.commit("a", "2", "Second");
        bench.git(&["tag", "main", &first]);
        let failure = bench.source().fetch(Some("main")).unwrap_err();
        assert!(
            failure.what.contains("refs/heads/main") && failure.what.contains("refs/tags/main"),
            "{failure}"
        );
        // The configured branch is a branch.
        bench.source().fetch(None).unwrap();
    }

    #[test]
    fn a_forced_push_is_refused_unless_the_commit_is_named() {
        let bench = Bench::new();
        let first = bench.git(&["rev-parse", "HEAD"]);
        let live = bench.commit("a", "2", "Second");
        let mut source = bench.source();
        bench.deploy(&mut source, None);
        bench.git(&["reset", "-q", "--hard", &first]);
        let head = bench.commit("b", "3", "Other second");
        for revision in [None, Some("main")] {
            let failure = source.fetch(revision).unwrap_err();
            assert!(failure.why.contains(&live[..7]) && failure.why.contains(&head[..7]), "{failure:?}");
            assert!(failure.next.contains(&head));
        }
        let (_, checks) = source.fetch(Some(&head)).unwrap();
        assert_eq!(check(&checks, "deploy.pull").evidence["descends_from_live"], false);
        let review = check(&checks, "pre.review");
        assert_eq!((review.verdict, &review.evidence["files_changed"]), (Verdict::Pass, &2.into()));
    }

    #[test]
    fn the_same_commit_is_deployed_again_and_said_so() {
        let bench = Bench::new();
        let mut source = bench.source();
        let first = bench.deploy(&mut source, None);
        let (second, checks) = source.fetch(None).unwrap();
        assert_eq!((second.id.number(), &second.commit), (2, &first.commit));
        assert_eq!(check(&checks, "deploy.pull").evidence["same_as_live"], true);
        assert!(check(&checks, "pre.review").evidence.contains_key("note"));
    }

    #[test]
    fn uncommitted_changes_are_refused_and_shared_files_are_not_counted() {
        let bench = Bench::new();
        bench.write("app.py", "print('edited')\n");
        bench.write("new.py", "");
        bench.write(".env", "KEY=1\n");
        let settings = Settings { link: vec![PathBuf::from(".env")], ..bench.settings() };
        let mut source = bench.source_with(settings);
        let failure = source.fetch(None).unwrap_err();
        assert!(failure.what.contains("app.py") && failure.what.contains("new.py"), "{failure}");
        assert!(!failure.what.contains(".env"));
        let (_, checks) = source.fetch(Some("main")).unwrap();
        assert_eq!(check(&checks, "deploy.pull").evidence["uncommitted_files"], 2);
        bench.git(&["add", "new.py", "app.py"]);
        bench.git(&["commit", "-q", "-m", "All in"]);
        source.fetch(None).unwrap();
        // A bare repository has no such changes.
        bench.git(&["clone", "-q", "--bare", ".", "../bare.git"]);
        let settings = Settings { git: bench.path("bare.git").display().to_string(), ..bench.settings() };
        bench.source_with(settings).fetch(None).unwrap();
    }

    #[test]
    fn a_repository_of_another_user_can_be_fetched() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let bench = Bench::new();
        bench.git(&["clone", "-q", "--bare", ".", "../bare.git"]);
        for name in ["bare.git", "work/.git", "work"] {
            let path = bench.path(name);
            std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
        }
        for git in ["../bare.git", "../work"] {
            let settings = Settings { git: git.to_owned(), ..bench.settings() };
            bench.source_with(settings).fetch(None).unwrap();
        }
    }

    #[test]
    fn the_review_counts_files_and_commits_and_shows_no_value() {
        let bench = Bench::new();
        bench.commit(".env.example", "PORT=1\nTOKEN=oldsecret\nGONE=1\n", "Settings");
        let mut source = bench.source();
        bench.deploy(&mut source, None);
        bench.commit(".env.example", "PORT=1\nTOKEN=newsecret\nMAIL=x\n", "Other settings");
        bench.commit("app.py", "print('two')\nprint('three')\n", "Say more");
        let (_, checks) = source.fetch(None).unwrap();
        let review = check(&checks, "pre.review");
        assert_eq!(review.evidence["files_changed"], 2);
        assert_eq!(review.evidence["insertions"], 4);
        assert_eq!(review.evidence["commits"]["count"], 2);
        assert_eq!(review.evidence["commits"]["newest"][0]["subject"], "Say more");
        let names = &review.evidence["settings_changed"][".env.example"];
        assert_eq!(
            *names,
            serde_json::json!({ "added": ["MAIL"], "removed": ["GONE"], "changed": ["TOKEN"] })
        );
        assert!(!serde_json::to_string(review).unwrap().contains("secret"));
    }

    #[test]
    fn shared_files_are_linked_and_a_missing_one_is_named() {
        let bench = Bench::new();
        bench.commit("uploads/.gitkeep", "", "Uploads");
        let link = [".env", "uploads", "media", "config/key.pem"].map(PathBuf::from).to_vec();
        let mut source = bench.source_with(Settings { link, ..bench.settings() });
        let (release, _) = source.fetch(None).unwrap();
        fs::create_dir_all(bench.path("app/shared/config")).unwrap();
        fs::write(bench.path("app/shared/config/key.pem"), "k").unwrap();
        let failure = source.build(&release).unwrap_err();
        assert!(failure.what.contains("shared/.env does not exist"), "{failure}");
        assert!(!source.app_dir(&release.id).exists(), "half a release must not look like one");
        fs::write(bench.path("app/shared/.env"), "KEY=1").unwrap();
        let checks = source.build(&release).unwrap();
        let dir = source.app_dir(&release.id);
        assert_eq!(fs::read_to_string(dir.join(".env")).unwrap(), "KEY=1");
        assert_eq!(fs::read_to_string(dir.join("config/key.pem")).unwrap(), "k");
        fs::write(dir.join("uploads/photo"), "").unwrap();
        assert!(bench.path("app/shared/uploads/photo").exists());
        assert!(bench.path("app/shared/media").is_dir());
        let notes = check(&checks, "deploy.install").evidence["notes"].to_string();
        assert!(
            notes.contains("uploads of the repository is covered") && notes.contains("shared/media"),
            "{notes}"
        );
        // What is shared outlives the release.
        source.discard(&release.id).unwrap();
        assert!(bench.path("app/shared/uploads/photo").exists() && !dir.exists());
    }

    #[test]
    fn a_link_is_never_written_through_a_symlink_of_the_repository() {
        let bench = Bench::new();
        fs::create_dir(bench.path("outside")).unwrap();
        symlink(bench.path("outside"), bench.path("work/conf")).unwrap();
        bench.commit("a", "", "A trap");
        fs::create_dir(bench.path("app/shared/conf")).unwrap();
        fs::write(bench.path("app/shared/conf/key"), "").unwrap();
        let link = vec![PathBuf::from("conf/key")];
        let mut source = bench.source_with(Settings { link, ..bench.settings() });
        let (release, _) = source.fetch(None).unwrap();
        assert!(source.build(&release).unwrap_err().what.contains("nothing can be linked below it"));
        assert_eq!(fs::read_dir(bench.path("outside")).unwrap().count(), 0);
        for name in ["../x", "/etc/passwd", ".", "a/../../b"] {
            let settings = Settings { link: vec![PathBuf::from(name)], ..bench.settings() };
            assert!(GitSource::new(settings, Arc::new(|_| {}), Arc::new(|| false)).is_err(), "{name}");
        }
    }

    #[test]
    fn a_database_may_be_linked_before_it_exists() {
        let bench = Bench::new();
        let settings = Settings {
            link: vec![PathBuf::from("store.db")],
            database: Some(bench.path("app/shared/store.db")),
            ..bench.settings()
        };
        let mut source = bench.source_with(settings);
        let release = bench.deploy(&mut source, None);
        fs::write(source.app_dir(&release.id).join("store.db"), "x").unwrap();
        assert!(bench.path("app/shared/store.db").exists());
    }

    #[test]
    fn build_commands_run_one_by_one_in_a_clean_environment() {
        let bench = Bench::new();
        let settings = Settings {
            commands: vec![
                "echo building; GREETING=hi && echo $GREETING >&2".to_owned(),
                "env > environment; test -f app.py".to_owned(),
            ],
            env: BTreeMap::from([("APP_ENV".to_owned(), "production".to_owned())]),
            ..bench.settings()
        };
        let mut source = bench.source_with(settings);
        let (release, _) = source.fetch(None).unwrap();
        let checks = source.build(&release).unwrap();
        let install = check(&checks, "deploy.install");
        assert_eq!(install.verdict, Verdict::Pass);
        assert_eq!(install.evidence["commands"][0]["exit"], 0);
        let lines = bench.lines.lock().unwrap().clone();
        assert!(lines.contains(&"building".to_owned()) && lines.contains(&"hi".to_owned()), "{lines:?}");
        let environment = fs::read_to_string(source.app_dir(&release.id).join("environment")).unwrap();
        assert!(environment.contains(&format!("PLIMSOLL_RELEASE={}\n", release.id)));
        assert!(environment.contains("APP_ENV=production\n") && environment.contains("PATH="));
        assert!(!environment.contains("hunter2") && !environment.contains("GIT_DIR"));
    }

    #[test]
    fn a_failing_build_command_says_which_and_with_what_words() {
        let bench = Bench::new();
        let commands =
            ["true", "echo https://asha:s3cret@pypi.example/; echo no such package; exit 3", "touch never"];
        let settings = Settings { commands: commands.map(str::to_owned).to_vec(), ..bench.settings() };
        let mut source = bench.source_with(settings);
        let (release, _) = source.fetch(None).unwrap();
        let failure = source.build(&release).unwrap_err();
        assert!(failure.what.contains("build command 2 of 3 failed"), "{failure}");
        assert!(failure.why.contains("code 3") && failure.why.contains("no such package"), "{failure}");
        assert!(!format!("{failure:?} {:?}", bench.lines.lock().unwrap()).contains("s3cret"));
        assert!(!source.app_dir(&release.id).join("never").exists());
        // It is there for a look until it is discarded, and can never be made current.
        assert!(source.switch(Some(&release.id)).unwrap_err().what.contains("not built to its end"));
        source.discard(&release.id).unwrap();
        source.discard(&release.id).unwrap();
        assert!(source.releases().list().unwrap().is_empty());
    }

    #[test]
    fn a_build_that_takes_too_long_or_is_stopped_is_ended() {
        let bench = Bench::new();
        let settings = Settings {
            commands: vec!["true".to_owned(), "echo begun; sleep 600".to_owned()],
            build_timeout: Duration::from_millis(400),
            ..bench.settings()
        };
        let mut source = bench.source_with(settings.clone());
        let (release, _) = source.fetch(None).unwrap();
        let failure = source.build(&release).unwrap_err();
        assert!(failure.why.contains("[build].timeout") && failure.why.contains("begun"), "{failure:?}");
        let mut source = bench.source_with(Settings { build_timeout: Duration::from_secs(600), ..settings });
        let (release, _) = source.fetch(None).unwrap();
        let stop = bench.stop.clone();
        let lines = bench.lines.clone();
        lines.lock().unwrap().clear();
        std::thread::spawn(move || {
            while !lines.lock().unwrap().contains(&"begun".to_owned()) {
                std::thread::sleep(Duration::from_millis(5));
            }
            stop.store(true, Ordering::SeqCst);
        });
        assert_eq!(source.build(&release).unwrap_err().kind, FailureKind::Interrupted);
    }

    #[test]
    fn a_build_cut_short_is_done_again_from_the_start() {
        let bench = Bench::new();
        let mut source = bench.source();
        let (release, _) = source.fetch(None).unwrap();
        let leftovers =
            [format!("{}/old", release.id), ".partial-000001/x".into(), ".removing-000009-abcdef0/x".into()];
        for left in &leftovers {
            fs::create_dir_all(bench.path("app/releases").join(left)).unwrap();
        }
        // As a killed git leaves it.
        fs::write(bench.path("app/mirror.git/plimsoll-index.lock"), "").unwrap();
        fs::write(bench.path("app/mirror.git/packed-refs.lock"), "").unwrap();
        fs::write(bench.path("app/mirror.git/refs/heads/main.lock"), "").unwrap();
        source.build(&release).unwrap();
        for left in &leftovers {
            assert!(!bench.path("app/releases").join(left).exists(), "{left}");
        }
        bench.commit("x", "", "More");
        bench.git(&["branch", "-m", "main", "other"]);
        bench.git(&["branch", "main"]);
        source.fetch(None).unwrap();
        // The one that is live is never built over.
        source.switch(Some(&release.id)).unwrap();
        assert!(source.build(&release).unwrap_err().what.contains("is the current release"));
    }

    #[test]
    fn current_moves_atomically_forth_and_back() {
        let bench = Bench::new();
        let mut source = bench.source();
        assert_eq!(source.releases().current().unwrap(), None);
        let first = bench.deploy(&mut source, None);
        bench.commit("a", "2", "Second");
        let second = bench.deploy(&mut source, None);
        let link = bench.path("app/current");
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("releases").join(&second.id.0));
        let checks = source.switch(Some(&first.id)).unwrap();
        assert_eq!(check(&checks, "back.code").evidence["to"], first.id.0.as_str());
        assert_eq!(source.releases().current().unwrap(), Some(first.id.clone()));
        assert!(source.discard(&first.id).unwrap_err().what.contains("is the current release"));
        let gone = ReleaseId::new(9, "abcdef0");
        assert!(source.switch(Some(&gone)).unwrap_err().what.contains("no release 000009-abcdef0"));
        assert!(source.discard(&ReleaseId("../shared".into())).is_err());
        assert!(bench.path("app/shared").exists());
        source.switch(None).unwrap();
        source.switch(None).unwrap();
        assert!(!link.is_symlink());
        // A folder named current is somebody's app: never replaced.
        fs::create_dir(&link).unwrap();
        assert!(source.switch(Some(&first.id)).unwrap_err().what.contains("is not a symlink"));
        assert!(source.fetch(None).is_err());
    }

    #[test]
    fn pruning_keeps_the_newest_the_current_and_the_named() {
        let bench = Bench::new();
        let mut source = bench.source();
        let ids: Vec<ReleaseId> = (0..8).map(|_| bench.deploy(&mut source, None).id).collect();
        source.switch(Some(&ids[0])).unwrap();
        let removed = source.releases().prune(5, &[ids[1].clone()]).unwrap();
        assert_eq!(removed, [ids[2].clone()]);
        assert_eq!(source.releases().list().unwrap().len(), 7);
    }

    #[test]
    fn submodules_and_large_files_are_refused_before_anything_is_built() {
        let bench = Bench::new();
        bench.commit("assets/.gitattributes", "# filter=lfs is off\n*.txt text\n", "No LFS");
        bench.source().fetch(None).unwrap();
        bench.commit("assets/.gitattributes", "*.bin filter=lfs diff=lfs\n", "LFS");
        let failure = bench.source().fetch(None).unwrap_err();
        assert!(failure.what.contains("Git LFS (assets/.gitattributes)"), "{failure}");
        bench.commit("assets/.gitattributes", "", "No LFS");
        bench.git(&["init", "-q", "../module"]);
        bench.git(&["-C", "../module", "commit", "-q", "--allow-empty", "-m", "x"]);
        bench.git(&["submodule", "add", "-q", "../module", "vendor/module"]);
        bench.git(&["commit", "-q", "-m", "Module"]);
        let failure = bench.source().fetch(None).unwrap_err();
        assert!(failure.what.contains("git submodules (vendor/module)"), "{failure}");
    }

    #[test]
    fn an_unreachable_repository_changes_nothing_and_shows_no_password() {
        let bench = Bench::new();
        // A port that nobody listens on any more.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let git = format!("http://asha:s3cret@127.0.0.1:{port}/shop.git");
        let failure = bench.source_with(Settings { git, ..bench.settings() }).fetch(None).unwrap_err();
        assert!(failure.what.contains(&format!("http://127.0.0.1:{port}/shop.git")), "{failure}");
        assert!(!format!("{failure:?}").contains("s3cret") && !failure.why.is_empty());
        let config = fs::read_to_string(bench.path("app/mirror.git/config")).unwrap();
        assert!(!config.contains("s3cret"));
        let failure = bench
            .source_with(Settings { git: "../none".into(), ..bench.settings() })
            .fetch(None)
            .unwrap_err();
        assert!(failure.why.contains("none"), "{failure}");
    }

    #[test]
    fn a_server_that_never_answers_is_given_up_and_so_is_a_stopped_fetch() {
        let bench = Bench::new();
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let git = format!("http://{}/shop.git", server.local_addr().unwrap());
        let settings = Settings { git, git_timeout: Duration::from_millis(800), ..bench.settings() };
        let failure = bench.source_with(settings.clone()).fetch(None).unwrap_err();
        assert!(
            failure.what.contains("took longer than") && failure.kind == FailureKind::Failed,
            "{failure}"
        );
        let settings = Settings { git_timeout: Duration::from_secs(600), ..settings };
        let stop = bench.stop.clone();
        std::thread::spawn(move || {
            // The first connection was the fetch before.
            let _both = (server.accept(), server.accept());
            stop.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_secs(1));
        });
        assert_eq!(bench.source_with(settings).fetch(None).unwrap_err().kind, FailureKind::Interrupted);
        // What was cut short does not stand in the way of the next.
        bench.stop.store(false, Ordering::SeqCst);
        bench.source().fetch(None).unwrap();
    }

    #[test]
    fn another_branch_without_the_live_commit_is_refused_too() {
        let bench = Bench::new();
        bench.git(&["branch", "topic"]);
        bench.commit("a", "2", "Second");
        let mut source = bench.source();
        bench.deploy(&mut source, None);
        let failure = source.fetch(Some("topic")).unwrap_err();
        assert!(
            failure.what.contains("branch topic does not contain the commit of the live release"),
            "{failure}"
        );
    }

    #[test]
    fn the_credentials_of_the_url_reach_the_server_and_no_argument_list() {
        use std::io::{Read, Write};
        let bench = Bench::new();
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let seen = std::thread::spawn(move || {
            let mut arguments = String::new();
            loop {
                let (mut socket, _) = server.accept().unwrap();
                let mut head = Vec::new();
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    let mut buffer = [0; 1024];
                    let n = socket.read(&mut buffer).unwrap();
                    if n == 0 {
                        break;
                    }
                    head.extend_from_slice(&buffer[..n]);
                }
                for entry in fs::read_dir("/proc").unwrap().flatten() {
                    let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                    arguments.push_str(&String::from_utf8_lossy(&line));
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let authorized = head.contains("Authorization: Basic");
                let status = if authorized { "403 Forbidden" } else { "401 Unauthorized" };
                let answer = format!(
                    "HTTP/1.1 {status}\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                );
                socket.write_all(answer.as_bytes()).unwrap();
                if authorized {
                    return (head, arguments);
                }
            }
        });
        let git = format!("http://asha:s3%63ret@127.0.0.1:{port}/shop.git");
        bench.source_with(Settings { git, ..bench.settings() }).fetch(None).unwrap_err();
        let (head, arguments) = seen.join().unwrap();
        // asha:s3cret
        assert!(head.contains("Basic YXNoYTpzM2NyZXQ="), "{head}");
        assert!(!arguments.contains("s3cret") && !arguments.contains("s3%63ret"));
    }
}
