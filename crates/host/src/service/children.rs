//! Which children `serve` has, kept for whoever comes after it: `runs/children.json`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plimsoll_core::ports::{Clock, Failure};
use serde::{Deserialize, Serialize};

use crate::clock::SystemClock;
use crate::durable;
use crate::process::{Identity, Mark, end_group, end_marked, marked};

/// How long the children of a dead owner have to stop before they are killed.
const GRACE: Duration = Duration::from_secs(10);

/// A child in the list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Child {
    pub(crate) role: String,
    since: String,
    /// `None` between the intent to start it and its start: then its mark finds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<Identity>,
    /// How the app was started, so that the next owner can tell whether it would start it in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) launched: Option<Launched>,
}

/// How a copy of the app was started.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Launched {
    /// Where it was told to listen.
    pub(crate) address: SocketAddr,
    /// A hash over command, environment and folder.
    pub(crate) fingerprint: String,
}

/// The list of this process's children, written down before each starts.
#[derive(Clone, Debug)]
pub struct Children {
    root: PathBuf,
    list: Arc<Mutex<Vec<Child>>>,
    /// Whether the list is written to its file.
    kept: bool,
}

impl Children {
    /// The list for the app at `root`, empty: [`end_leftovers`] comes first.
    #[must_use]
    pub fn of(root: &Path) -> Children {
        Children { root: root.to_owned(), list: Arc::default(), kept: true }
    }

    /// Children that only their mark makes known: beside a list of the same app that somebody else keeps.
    #[must_use]
    pub fn unlisted(root: &Path) -> Children {
        Children { kept: false, ..Children::of(root) }
    }

    /// The mark that a child of this role carries.
    #[must_use]
    pub fn mark(&self, role: &str) -> Mark {
        Mark { root: self.root.clone(), role: role.to_owned() }
    }

    pub(crate) fn intend(&self, role: &str, launched: Option<Launched>) -> Result<(), durable::Error> {
        let child = Child { role: role.to_owned(), since: SystemClock.wall(), process: None, launched };
        self.change(|list| {
            list.retain(|c| c.role != role);
            list.push(child);
        })
    }

    pub(crate) fn started(&self, role: &str, process: &Identity) -> Result<(), durable::Error> {
        self.change(|list| {
            for child in list.iter_mut().filter(|c| c.role == role) {
                child.process = Some(process.clone());
            }
        })
    }

    pub(crate) fn gone(&self, role: &str) -> Result<(), durable::Error> {
        self.change(|list| list.retain(|c| c.role != role))
    }

    /// The child of an earlier owner is ours now; [`end_leftovers`] has left it in the file.
    pub(crate) fn adopt(&self, child: Child) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    }

    /// What an earlier owner has written down and is still alive.
    pub(crate) fn alive(&self) -> Vec<Child> {
        let text = std::fs::read(file(&self.root)).unwrap_or_default();
        let list: Vec<Child> = serde_json::from_slice(&text).unwrap_or_default();
        list.into_iter().filter(|child| child.process.as_ref().is_some_and(Identity::is_alive)).collect()
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Child>)) -> Result<(), durable::Error> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut list);
        if !self.kept {
            return Ok(());
        }
        let path = file(&self.root);
        if let Some(folder) = path.parent() {
            durable::create_dir(folder, durable::PRIVATE_DIR)?;
        }
        let text = serde_json::to_vec_pretty(&*list).map_err(|e| durable::Error::io("write", &path, e))?;
        match durable::write(&path, durable::PRIVATE, &text) {
            // The mark finds a child without the list. A full disk must not keep the old release from being
            // started again by an undo.
            Err(e) if e.is_disk_full() => Ok(()),
            written => written,
        }
    }
}

fn file(root: &Path) -> PathBuf {
    root.join("runs/children.json")
}

/// Ends every child that a dead owner of the app at `root` has left, and tells of each; but not the one of the role
/// `adopted`, which has been taken over. To be called with the app's lock held, before anything is started.
///
/// # Errors
/// When one cannot be ended, or `/proc` cannot be read: then nobody may start the app or touch its database.
pub fn end_leftovers(root: &Path, adopted: Option<&str>) -> Result<Vec<String>, Failure> {
    let mut told = Vec::new();
    let path = file(root);
    let list: Vec<Child> = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|e| {
            told.push(format!(
                "{} is damaged ({e}); children were looked for by their marks",
                path.display()
            ));
            Vec::new()
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => {
            told.push(format!(
                "{} cannot be read ({e}); children were looked for by their marks",
                path.display()
            ));
            Vec::new()
        }
    };
    let stays = |why: String| {
        let what = "processes of an earlier `plimsoll serve` could not be ended";
        Failure::failed(what, why, "end them by hand, then start `plimsoll serve` again")
    };
    let (kept, list): (Vec<Child>, Vec<Child>) =
        list.into_iter().partition(|child| Some(child.role.as_str()) == adopted);
    for child in list {
        let Some(process) = child.process.filter(Identity::is_alive) else { continue };
        let mark = Mark { root: root.to_owned(), role: child.role.clone() };
        let command = process.command();
        let ended = end_group(&process, Some(&mark), GRACE).map_err(|s| stays(s.to_string()))?;
        let how = if ended.killed { "killed" } else { "stopped" };
        let more = ended.signalled.len().saturating_sub(1);
        let more = if more == 0 { String::new() } else { format!(" and {more} that it had started") };
        told.push(format!("{how} {} ({process}{more}; {command})", child.role));
    }
    // Those that were started in the instant before the crash, and those that left their group.
    let found = marked(root).map_err(|e| stays(format!("/proc cannot be read: {e}")))?;
    for (process, mark) in found {
        if process.is_alive() && Some(mark.role.as_str()) != adopted {
            let command = process.command();
            end_marked(&mark, GRACE).map_err(|s| stays(s.to_string()))?;
            told.push(format!("stopped {} ({process}, found by its mark; {command})", mark.role));
        }
    }
    let cleared = match kept.as_slice() {
        [] => durable::remove(&path),
        kept => {
            let text = serde_json::to_vec_pretty(kept).map_err(|e| stays(e.to_string()))?;
            durable::write(&path, durable::PRIVATE, &text)
        }
    };
    cleared.map_err(|e| {
        Failure::failed(
            "the list of children could not be cleared",
            e.to_string(),
            "mend runs/, then start again",
        )
    })?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;
    use crate::process::{
        spawn,
        tests::{shell, wait_for_pid},
    };

    /// A child of this test that stands for one of a dead owner.
    fn left(root: &Path, role: &str, script: &str) -> crate::process::Running {
        let mut command = shell(root, script);
        command.mark = Some(Mark { root: root.to_owned(), role: role.to_owned() });
        spawn(&command, Stdio::null(), Stdio::null()).unwrap()
    }

    #[test]
    fn children_of_a_dead_owner_are_ended_recorded_or_not() {
        let root = tempfile::tempdir().unwrap();
        let children = Children::of(root.path());
        children.intend("app-000001-abcdef0", None).unwrap();
        let recorded = left(root.path(), "app-000001-abcdef0", "setsid sleep 60 & echo $! > inner; wait");
        children.started("app-000001-abcdef0", recorded.identity()).unwrap();
        let inner = wait_for_pid(&root.path().join("inner"));
        children.intend("app-000002-abcdef0", None).unwrap();
        let unrecorded = left(root.path(), "app-000002-abcdef0", "exec sleep 60");

        let told = end_leftovers(root.path(), None).unwrap();
        assert!(!inner.is_alive());
        assert!(!recorded.identity().is_alive() && !unrecorded.identity().is_alive());
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(
            told[0].contains("stopped app-000001-abcdef0 (pid ") && told[0].contains("and 1 that"),
            "{told:?}"
        );
        assert!(told[1].contains("app-000002-abcdef0") && told[1].contains("mark"), "{told:?}");
        assert!(!file(root.path()).exists());
        assert_eq!(end_leftovers(root.path(), None).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn the_adopted_child_is_left_alone_and_stays_in_the_list() {
        let root = tempfile::tempdir().unwrap();
        let children = Children::of(root.path());
        let mut running = Vec::new();
        for role in ["app-000001-abcdef0", "app-000002-abcdef0"] {
            children.intend(role, None).unwrap();
            let child = left(root.path(), role, "sleep 60 & wait");
            children.started(role, child.identity()).unwrap();
            running.push(child);
        }
        let told = end_leftovers(root.path(), Some("app-000002-abcdef0")).unwrap();
        assert!(told.len() == 1 && told[0].contains("app-000001-abcdef0"), "{told:?}");
        assert!(!running[0].identity().is_alive() && running[1].identity().is_alive());
        let alive = Children::of(root.path()).alive();
        assert_eq!(alive.iter().map(|child| child.role.as_str()).collect::<Vec<_>>(), ["app-000002-abcdef0"]);
    }

    #[test]
    fn a_recorded_pid_that_is_somebody_elses_now_is_left_alone() {
        let (root, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let stranger =
            spawn(&shell(elsewhere.path(), "exec sleep 60"), Stdio::null(), Stdio::null()).unwrap();
        let children = Children::of(root.path());
        children.intend("app", None).unwrap();
        let before = Identity { start: stranger.identity().start - 1, ..stranger.identity().clone() };
        children.started("app", &before).unwrap();
        assert_eq!(end_leftovers(root.path(), None).unwrap(), Vec::<String>::new());
        assert_eq!(stranger.ended(), None);
    }

    #[test]
    fn a_damaged_list_is_told_and_the_marks_still_find_them() {
        let root = tempfile::tempdir().unwrap();
        let child = left(root.path(), "app", "exec sleep 60");
        std::fs::create_dir(root.path().join("runs")).unwrap();
        std::fs::write(file(root.path()), "{half").unwrap();
        let told = end_leftovers(root.path(), None).unwrap();
        assert!(told[0].contains("damaged") && told[1].contains("mark"), "{told:?}");
        assert!(!child.identity().is_alive());
    }

    #[test]
    fn a_child_that_has_ended_is_no_longer_in_the_list() {
        let root = tempfile::tempdir().unwrap();
        let children = Children::of(root.path());
        children.intend("a", None).unwrap();
        children.intend("b", None).unwrap();
        children.gone("a").unwrap();
        let text = std::fs::read_to_string(file(root.path())).unwrap();
        assert!(!text.contains("\"a\"") && text.contains("\"b\""), "{text}");
    }
}
