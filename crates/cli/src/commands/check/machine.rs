//! What the machine must have: folders, space, the address, a sane clock, a recent kernel.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Access, access, statvfs};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::Finding;
use crate::config::{Config, Listen};
use crate::station;
use crate::ui::size_words;

/// Room for journals, reports and a release, besides the copies of the database.
const BASE_BYTES: u64 = 64 << 20;

/// The folders of the root can be made and written, and a release can be put in place by a rename.
pub(super) fn folders(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, folder) in [
        ("root", config.app.root.clone()),
        ("releases", config.releases()),
        ("shared", config.shared()),
        ("backups", config.backups()),
        ("runs", config.runs()),
    ] {
        findings.push(writable(name, &folder));
    }
    let here = device(&config.app.root);
    let apart: Vec<&str> = [("releases", config.releases()), ("runs", config.runs())]
        .into_iter()
        .filter(|(_, folder)| device(folder) != here)
        .map(|(name, _)| name)
        .collect();
    findings.push(if apart.is_empty() {
        Finding::pass("one file system", "releases/ and runs/ are where current is")
    } else {
        let note = format!("{} on another file system than the root", apart.join(", "));
        Finding::fail(
            "one file system",
            note,
            "current is replaced by a rename, which does not cross file systems",
        )
    });
    findings
}

pub(super) fn writable(name: &str, folder: &Path) -> Finding {
    let name = format!("folder {name}");
    let shown = folder.display();
    let there = existing(folder);
    if !there.is_dir() {
        let note = format!("{} is not a folder", there.display());
        return Finding::fail(name, note, "name another folder, or move the file away");
    }
    if let Err(error) = access(&there, Access::WRITE_OK | Access::EXEC_OK) {
        let hint =
            format!("give the user who runs Plimsoll the right to write there: ls -ld {}", there.display());
        return Finding::fail(name, format!("cannot write {}: {error}", there.display()), hint);
    }
    match there == folder {
        true => Finding::pass(name, shown.to_string()),
        false => Finding::pass(name, format!("{shown} will be made")),
    }
}

/// The folder itself, or the nearest one above it that exists.
fn existing(folder: &Path) -> PathBuf {
    folder.ancestors().find(|path| path.symlink_metadata().is_ok()).unwrap_or(Path::new("/")).to_owned()
}

fn device(folder: &Path) -> Option<u64> {
    fs::metadata(existing(folder)).ok().map(|found| found.dev())
}

/// Space for a backup, a rehearsal's copy and the final snapshot.
pub(super) fn disk(config: &Config) -> Vec<Finding> {
    let database = config.database_file().map_or(0, bytes_with_log);
    let need = database.saturating_mul(3).saturating_add(BASE_BYTES);
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for folder in [config.app.root.clone(), config.backups(), config.releases()] {
        let Some(device) = device(&folder).filter(|device| !seen.contains(device)) else { continue };
        seen.push(device);
        let name = format!("free space at {}", folder.display());
        findings.push(match statvfs(existing(&folder)) {
            Ok(found) => {
                let free = found.f_bavail.saturating_mul(found.f_frsize);
                let note = format!("{} free, {} needed", size_words(free), size_words(need));
                match free >= need {
                    true => Finding::pass(name, note),
                    false => {
                        Finding::fail(name, note, "three times the database: backup, rehearsal, snapshot")
                    }
                }
            }
            Err(error) => Finding::unknown(name, error.to_string(), "see: df -h"),
        });
    }
    findings
}

fn bytes_with_log(file: &Path) -> u64 {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    [file.as_os_str(), &log].iter().filter_map(|path| fs::metadata(path).ok()).map(|found| found.len()).sum()
}

/// The front door's address is free, or Plimsoll itself has it.
pub(super) fn listener(config: &Config) -> Vec<Finding> {
    let Some(front) = &config.front else {
        return vec![Finding::skipped(
            "front door",
            "there is no [front]: users see the gap while the app restarts",
        )];
    };
    let name = format!("front door on {}", front.listen);
    let Listen::Address(address) = front.listen else {
        return vec![Finding::skipped(name, "systemd opens it")];
    };
    if UnixStream::connect(station::socket(config)).is_ok() {
        return vec![Finding::pass(name, "plimsoll serve is running")];
    }
    vec![match TcpListener::bind(address) {
        Ok(_) => Finding::pass(name, "free"),
        Err(error) => {
            let port = address.port();
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => format!("see who has it: ss -ltnp 'sport = :{port}'"),
                std::io::ErrorKind::PermissionDenied => {
                    "ports below 1024 are for root; or let systemd open it: listen = \"systemd\"".to_owned()
                }
                std::io::ErrorKind::AddrNotAvailable => {
                    "this machine does not have that address: ip addr".to_owned()
                }
                _ => "choose another address".to_owned(),
            };
            Finding::fail(name, error.to_string(), hint)
        }
    }]
}

/// A clock that is far off makes wrong names of backups, and wrong windows.
pub(super) fn clock(config: &Config) -> Vec<Finding> {
    let now = SystemTime::now();
    let written = fs::metadata(&config.file).and_then(|found| found.modified()).ok();
    let shown = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let behind = written.is_some_and(|written| written > now + Duration::from_secs(60));
    vec![if behind {
        let note = format!("it is {shown}, before {} was written", config.file.display());
        Finding::fail("clock", note, "set it: timedatectl set-ntp true")
    } else {
        Finding::pass("clock", shown)
    }]
}

/// What the kernel offers; without it Plimsoll does with less.
pub(super) fn kernel(_: &Config) -> Vec<Finding> {
    let landlock = match fs::read_to_string("/sys/kernel/security/lsm") {
        Ok(modules) if modules.trim().split(',').any(|module| module == "landlock") => {
            Finding::pass("landlock", "a rehearsal can be kept away from production")
        }
        Ok(_) => Finding::unknown("landlock", "not among the kernel's modules", "boot with lsm=landlock,…"),
        Err(_) => Finding::unknown("landlock", "the kernel does not say", "mount securityfs to see"),
    };
    let pidfd = match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => Finding::pass("pidfd", "processes are ended without mistaking one for another"),
        Err(error) => Finding::unknown("pidfd", error.to_string(), "a kernel from 5.3 on has it"),
    };
    vec![landlock, pidfd]
}

#[cfg(test)]
mod tests {
    use plimsoll_core::check::Verdict;

    use super::*;
    use crate::config::Config;

    fn config(root: &Path, more: &str) -> Config {
        let text = format!(
            "[app]\nname = 'shop'\n[source]\ngit = '.'\n[database]\nurl = 'sqlite:shared/a.db'\n[service]\nkind = 'process'\ncommand = 'a'\naddress = '127.0.0.1:8000'\n{more}"
        );
        Config::from_text(&root.join("plimsoll.toml"), &text).unwrap()
    }

    #[test]
    fn an_address_that_somebody_else_has_fails_and_a_free_one_passes() {
        let folder = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let config = config(folder.path(), &format!("[front]\nlisten = '{}'\n", taken.local_addr().unwrap()));
        let finding = listener(&config).remove(0);
        assert_eq!(finding.verdict, Verdict::Fail);
        assert!(finding.hint.contains(&taken.local_addr().unwrap().port().to_string()), "{}", finding.hint);
        drop(taken);
        assert_eq!(listener(&config).remove(0).verdict, Verdict::Pass);
    }

    #[test]
    fn an_address_that_this_machine_does_not_have_fails() {
        let folder = tempfile::tempdir().unwrap();
        // TEST-NET-1: nobody has it.
        let config = config(folder.path(), "[front]\nlisten = '192.0.2.1:8080'\n");
        assert_eq!(listener(&config).remove(0).verdict, Verdict::Fail);
    }

    #[test]
    fn folders_that_are_not_there_yet_will_be_made_and_a_file_in_the_way_fails() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), "");
        fs::write(folder.path().join("backups"), "").unwrap();
        let findings = folders(&config);
        let failed: Vec<&str> =
            findings.iter().filter(|f| f.verdict == Verdict::Fail).map(|f| f.name.as_str()).collect();
        assert_eq!(failed, ["folder backups"]);
        assert!(findings.iter().any(|f| f.name == "folder releases" && f.note.ends_with("will be made")));
        assert!(!folder.path().join("releases").exists(), "check changes nothing");
    }

    #[test]
    fn a_folder_below_a_file_cannot_be_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(writable("x", &file.join("below/it")).verdict, Verdict::Fail);
    }

    #[test]
    fn space_is_three_times_the_database_and_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), "");
        fs::create_dir(folder.path().join("shared")).unwrap();
        let sparse = fs::File::create(folder.path().join("shared/a.db-wal")).unwrap();
        assert_eq!(disk(&config).remove(0).verdict, Verdict::Pass);
        // Far more than any disk here, and no block of it is written.
        sparse.set_len(1 << 43).unwrap();
        assert_eq!(disk(&config).remove(0).verdict, Verdict::Fail);
    }

    #[test]
    fn a_clock_behind_the_file_fails() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), "");
        let file = fs::File::create(&config.file).unwrap();
        assert_eq!(clock(&config)[0].verdict, Verdict::Pass);
        file.set_modified(SystemTime::now() + Duration::from_secs(86_400)).unwrap();
        assert_eq!(clock(&config)[0].verdict, Verdict::Fail);
    }
}
