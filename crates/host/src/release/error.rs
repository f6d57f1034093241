//! What can go wrong between a revision and a release folder.

use std::io;
use std::path::{Path, PathBuf};

use plimsoll_core::plan::ReleaseId;
use plimsoll_core::ports::{Failure, FailureKind};

use crate::durable;

/// Why code could not be fetched, built, switched or removed. Messages hold no credentials.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// A setting that cannot be used.
    #[error("the setting {key} cannot be used: {why}")]
    Setting {
        /// The key as in the configuration, `[source].directory`.
        key: &'static str,
        /// What is wrong with its value.
        why: String,
    },
    /// The file system refused.
    #[error("could not {doing} {path}: {source}", path = .path.display())]
    Io {
        /// What was tried, as a verb: "create".
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A state file was not written.
    #[error(transparent)]
    State(#[from] durable::Error),
    /// git ended with an error.
    #[error("git could not {doing}: {why}")]
    Git {
        /// What was tried, as a verb: "fetch the code from ...".
        doing: String,
        /// Its last words.
        why: String,
    },
    /// git was not there, or could not be started.
    #[error("git could not be started: {0}")]
    NoGit(String),
    /// It took longer than allowed.
    #[error("{doing} took longer than {seconds} s and was ended")]
    TimedOut {
        /// What took too long.
        doing: String,
        /// The limit, seconds.
        seconds: u64,
    },
    /// Somebody asked the run to stop.
    #[error("{doing} was stopped because somebody asked for it")]
    Stopped {
        /// What was going on.
        doing: String,
    },
    /// The repository has no such revision.
    #[error("the repository has no branch, tag or commit {asked}")]
    NoSuchRevision {
        /// What was asked for.
        asked: String,
        /// Names that are close to it, best first; all there are when there are few.
        near: Vec<String>,
    },
    /// The name means more than one commit.
    #[error("{asked} means more than one commit: {}", .candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        asked: String,
        /// Full names or commits that it may mean.
        candidates: Vec<String>,
    },
    /// The branch was rewritten since the live release.
    #[error("branch {branch} does not contain the commit of the live release {live}")]
    Diverged {
        /// The branch.
        branch: String,
        /// The live release.
        live: ReleaseId,
        /// The commit of the live release.
        live_commit: String,
        /// The branch's newest commit.
        head: String,
    },
    /// The checkout that the code comes from has changes that nobody committed.
    #[error("{path} has changes that are not committed: {}", .files.join(", "))]
    Dirty {
        /// The checkout.
        path: PathBuf,
        /// The first of the changed or untracked files.
        files: Vec<String>,
    },
    /// The commit needs something of git that is not carried into a release.
    #[error("commit {commit} uses {what} ({})", .paths.join(", "))]
    Unsupported {
        /// The commit, short.
        commit: String,
        /// What it uses: "git submodules", "Git LFS".
        what: &'static str,
        /// Where.
        paths: Vec<String>,
    },
    /// `[source].directory` is not in the commit.
    #[error("commit {commit} has no folder {directory}", directory = .directory.display())]
    NoDirectory {
        /// The commit, short.
        commit: String,
        /// The folder.
        directory: PathBuf,
    },
    /// A file that releases link to is not there.
    #[error("{path} does not exist, but every release links to it", path = .path.display())]
    MissingShared {
        /// The file in `shared/`.
        path: PathBuf,
    },
    /// A link would be written outside the release folder.
    #[error("{path} is a link or file in the repository, so nothing can be linked below it", path = .path.display())]
    LinkBlocked {
        /// What stands in the way.
        path: PathBuf,
    },
    /// A build command failed.
    #[error("build command {nth} of {of} failed: {command}")]
    CommandFailed {
        /// Which, from 1.
        nth: usize,
        /// Of how many.
        of: usize,
        /// The command.
        command: String,
        /// How it ended: "exit status: 1".
        end: String,
        /// After how long, milliseconds.
        ms: u64,
        /// The last lines that it wrote.
        tail: Vec<String>,
    },
    /// The release is what `current` points at.
    #[error("{0} is the current release")]
    IsCurrent(ReleaseId),
    /// There is no such release folder.
    #[error("there is no release {0}")]
    NoRelease(ReleaseId),
    /// The folder is there, but its build did not finish.
    #[error("release {0} was not built to its end")]
    NotBuilt(ReleaseId),
    /// `current` is not a symlink into `releases/`.
    #[error("{path} is not a symlink to a release", path = .0.display())]
    StrangeCurrent(PathBuf),
    /// The counter of release numbers cannot be read as a number.
    #[error("{path} does not hold the last release number", path = .0.display())]
    BadCounter(PathBuf),
    /// There is no seventh digit.
    #[error("all release numbers up to 999999 are used")]
    NumbersUsedUp,
}

impl ReleaseError {
    /// For `map_err`: an I/O error with what was tried on which path.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReleaseError {
        let path = path.to_owned();
        move |source| ReleaseError::Io { doing, path, source }
    }

    fn kind(&self) -> FailureKind {
        match self {
            ReleaseError::Setting { .. }
            | ReleaseError::NoSuchRevision { .. }
            | ReleaseError::Ambiguous { .. } => FailureKind::Usage,
            ReleaseError::Stopped { .. } => FailureKind::Interrupted,
            _ => FailureKind::Failed,
        }
    }

    /// The cause beyond the message itself, for [`Failure::why`].
    fn why(&self) -> String {
        match self {
            ReleaseError::CommandFailed { end, ms, tail, .. } => {
                let after = format!("{end} after {}.{:01} s", ms / 1000, ms % 1000 / 100);
                if tail.is_empty() { after } else { format!("{after}; its last lines:\n{}", tail.join("\n")) }
            }
            ReleaseError::Diverged { live_commit, head, .. } => format!(
                "it was rewritten (a forced push, or moved back) or never had it: live is {}, the branch is at {}",
                short(live_commit),
                short(head)
            ),
            ReleaseError::Git { why, .. } | ReleaseError::Setting { why, .. } => why.clone(),
            ReleaseError::Io { source, .. } => source.to_string(),
            ReleaseError::NoGit(why) => why.clone(),
            ReleaseError::Dirty { .. } => "they would not be deployed: only commits are".to_owned(),
            ReleaseError::Unsupported { .. } => "their files would be missing from the release".to_owned(),
            _ => String::new(),
        }
    }

    /// What to type or mend next.
    fn next(&self) -> String {
        match self {
            ReleaseError::Setting { key, .. } => format!("Correct {key} in plimsoll.toml."),
            ReleaseError::Io { path, .. } => {
                format!("Check the permissions and free space at {}, then try again.", path.display())
            }
            ReleaseError::State(_) => "Check the permissions and free space there, then try again.".to_owned(),
            ReleaseError::Git { .. } => "Try the same with git by hand as this user. The folder mirror.git is only a \
                copy of the repository: when it is damaged, remove it."
                .to_owned(),
            ReleaseError::NoGit(_) => "Install git, or put it on PATH.".to_owned(),
            ReleaseError::TimedOut { .. } => "Find out why it takes so long, or raise the time limit.".to_owned(),
            ReleaseError::Stopped { .. } => "Deploy again when you are ready.".to_owned(),
            ReleaseError::NoSuchRevision { near, .. } if near.is_empty() => {
                "Push it first, or correct [source].branch.".to_owned()
            }
            ReleaseError::NoSuchRevision { near, .. } => format!("Push it first, or did you mean: {}?", near.join(", ")),
            ReleaseError::Ambiguous { .. } => "Give one of these names in full.".to_owned(),
            ReleaseError::Diverged { head, .. } => format!(
                "When this is meant, name the exact commit: plimsoll deploy {head}. Otherwise repair the branch."
            ),
            ReleaseError::Dirty { .. } => {
                "Commit or ignore them, or name what to deploy: plimsoll deploy REV.".to_owned()
            }
            ReleaseError::Unsupported { what: "git submodules", .. } => {
                "Put the code into the repository itself (git subtree), or fetch it in [build].commands from a \
                 package."
                    .to_owned()
            }
            ReleaseError::Unsupported { .. } => {
                "Put these files into the repository itself, or fetch them in [build].commands.".to_owned()
            }
            ReleaseError::NoDirectory { .. } => "Correct [source].directory, or deploy another revision.".to_owned(),
            ReleaseError::MissingShared { path } => {
                format!("Create {}, or remove its name from [build].link.", path.display())
            }
            ReleaseError::LinkBlocked { .. } => {
                "Remove it from the repository, or its name from [build].link.".to_owned()
            }
            ReleaseError::CommandFailed { .. } => {
                "Mend the code or the command, commit, and deploy again. The live release was not touched.".to_owned()
            }
            ReleaseError::IsCurrent(_) => "Bring another release live first: plimsoll rollback.".to_owned(),
            ReleaseError::NoRelease(_) | ReleaseError::NotBuilt(_) => {
                "Choose a release from plimsoll history.".to_owned()
            }
            ReleaseError::StrangeCurrent(path) => format!(
                "Move {} away, or let plimsoll adopt take the running checkout over as its first release.",
                path.display()
            ),
            ReleaseError::BadCounter(path) => {
                format!("Write the highest release number ever used into {}.", path.display())
            }
            ReleaseError::NumbersUsedUp => "Start over in a new [app].root.".to_owned(),
        }
    }
}

/// The first seven digits of a commit.
pub(crate) fn short(commit: &str) -> &str {
    commit.get(..7).unwrap_or(commit)
}

impl From<ReleaseError> for Failure {
    fn from(error: ReleaseError) -> Self {
        // A failure tells the cause apart; the error's own message holds it.
        let what = match &error {
            ReleaseError::Git { doing, .. } => format!("git could not {doing}"),
            ReleaseError::NoGit(_) => "git could not be started".to_owned(),
            ReleaseError::Io { doing, path, .. } => format!("could not {doing} {}", path.display()),
            ReleaseError::Setting { key, .. } => format!("the setting {key} cannot be used"),
            other => other.to_string(),
        };
        Failure { kind: error.kind(), what, why: error.why(), next: error.next() }
    }
}
