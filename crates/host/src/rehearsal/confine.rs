//! Walls around a copy of the app: what it may read, write and reach is decided before its first instruction.
//!
//! A program cannot be confined from outside between its start and its first instruction without unsafe code. So a
//! helper is started (`plimsoll __confine WALLS -- PROGRAM...`), confines itself for good, and becomes the program.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, NetPort, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags, capabilities, set_capabilities};
use serde::{Deserialize, Serialize};

/// The newest kernel interface that is made use of; older ones give what they have.
const NEWEST: ABI = ABI::V9;
/// Devices that any program may write to.
const DEVICES: [&str; 6] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
const SHM: &str = "/dev/shm";

/// What a confined program may do; everything else is refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Walls {
    /// Files and folders that it may read and execute.
    pub(super) readable: Vec<PathBuf>,
    /// Folders that are its own.
    pub(super) writable: Vec<PathBuf>,
    /// Sockets of programs outside, to be covered.
    pub(super) sockets: Vec<PathBuf>,
    /// Whether its connections must be kept to the port in its variable `PORT`: when it shares this machine's network.
    pub(super) own_port_only: bool,
    /// Where it notes what it was confined to: a [`Report`].
    pub(super) report: PathBuf,
}

/// What the kernel did.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) files: String,
    pub(super) ports: bool,
    pub(super) sockets: String,
}

/// Why a program was not confined. It was not started.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The file that says how cannot be used.
    #[error("{}: {why}", path.display())]
    Walls {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No program was named.
    #[error("no program to start was named")]
    Empty,
    /// The kernel does not confine it.
    #[error("the program cannot be kept from production's files: {0}")]
    Unconfined(String),
    /// It is confined, and cannot be started.
    #[error("{program} could not be started: {cause}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        cause: io::Error,
    },
}

/// Confines this process as the file says and becomes the program; for the hidden command `__confine` alone. The
/// process has no other thread that matters: those end here.
///
/// Returns only when that failed.
#[must_use]
pub fn exec(walls: &Path, words: &[OsString]) -> Refused {
    match confine(walls, words) {
        Ok(mut command) => {
            let program = command.get_program().to_string_lossy().into_owned();
            Refused::Start { program, cause: command.exec() }
        }
        Err(refused) => refused,
    }
}

fn confine(path: &Path, words: &[OsString]) -> Result<Command, Refused> {
    let bad = |why: String| Refused::Walls { path: path.to_owned(), why };
    let text = fs::read(path).map_err(|e| bad(e.to_string()))?;
    let mut walls: Walls = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    let (program, arguments) = words.split_first().ok_or(Refused::Empty)?;
    let covered = cover(&mut walls);
    let mut report = landlock(&walls).map_err(Refused::Unconfined)?;
    give_up_privileges()
        .map_err(|e| Refused::Unconfined(format!("privileges could not be given up: {e}")))?;
    report.sockets = match covered {
        _ if report.sockets == "refused" => report.sockets,
        Ok(()) => "covered".to_owned(),
        Err(why) => format!("reachable: {why}"),
    };
    let text = serde_json::to_vec(&report).map_err(|e| bad(e.to_string()))?;
    fs::write(&walls.report, text).map_err(|e| bad(format!("{}: {e}", walls.report.display())))?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// Lays /dev/null over the sockets of other programs, and empty memory over what programs share, in a view of the
/// file system that only this process has. Landlock cannot refuse sockets before its ninth version.
fn cover(walls: &mut Walls) -> Result<(), String> {
    #[expect(deprecated, reason = "its successor is unsafe for a flag that is not used")]
    rustix::thread::unshare(UnshareFlags::NEWNS)
        .map_err(|e| format!("a mount namespace was refused ({e}); it takes root or CAP_SYS_ADMIN"))?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)
        .map_err(|e| format!("mounts could not be made private: {e}"))?;
    if mount("tmpfs", SHM, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None).is_ok() {
        walls.writable.push(PathBuf::from(SHM));
    }
    for socket in &walls.sockets {
        match mount_bind("/dev/null", socket) {
            // It is gone, and cannot be reached.
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(format!("{} could not be covered: {e}", socket.display())),
        }
    }
    Ok(())
}

/// Root keeps what a service needs to change its user. With the rest it could step around the walls: measured, with
/// CAP_PERFMON it reads the environment of any process, Landlock or not.
fn give_up_privileges() -> rustix::io::Result<()> {
    let keep = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::KILL
        | CapabilitySet::SETGID
        | CapabilitySet::SETUID
        | CapabilitySet::NET_BIND_SERVICE;
    let has = capabilities(None)?;
    let CapabilitySets { effective, permitted, inheritable } = has;
    let kept = CapabilitySets {
        effective: effective & keep,
        permitted: permitted & keep,
        inheritable: inheritable & keep,
    };
    set_capabilities(None, kept)
}

fn landlock(walls: &Walls) -> Result<Report, String> {
    let said = |e: landlock::RulesetError| e.to_string();
    let all = AccessFs::from_all(NEWEST);
    let mut rules = Ruleset::default()
        // Without these nothing is started; what later versions add is taken where it is there.
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .map_err(said)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)
        .map_err(said)?
        .scope(Scope::from_all(NEWEST))
        .map_err(said)?;
    if walls.own_port_only {
        rules = rules.handle_access(AccessNet::ConnectTcp).map_err(said)?;
    }
    let devices = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut created = rules
        .create()
        .map_err(said)?
        .add_rules(path_beneath_rules(&walls.readable, AccessFs::from_read(NEWEST)))
        .map_err(said)?
        // A device that it made would be as good as the disk itself.
        .add_rules(path_beneath_rules(&walls.writable, all & !(AccessFs::MakeBlock | AccessFs::MakeChar)))
        .map_err(said)?
        .add_rules(path_beneath_rules(DEVICES, devices))
        .map_err(said)?;
    if let (true, Some(port)) = (walls.own_port_only, own_port()) {
        created = created.add_rule(NetPort::new(port, AccessNet::ConnectTcp)).map_err(said)?;
    }
    let status = created.restrict_self().map_err(said)?;
    let LandlockStatus::Available { effective_abi: abi, .. } = status.landlock else {
        return Err("the kernel has no Landlock".to_owned());
    };
    if status.ruleset == RulesetStatus::NotEnforced || !status.no_new_privs {
        return Err("the kernel did not enforce Landlock".to_owned());
    }
    let files = match abi {
        ABI::V1 | ABI::V2 => "full, but for cutting files short and signals (kernel older than 6.2)",
        ABI::V3 | ABI::V4 | ABI::V5 => "full, but for signals (kernel older than 6.12)",
        _ => "full",
    };
    let sockets = if abi >= ABI::V9 { "refused" } else { "" };
    Ok(Report {
        files: files.to_owned(),
        ports: walls.own_port_only && abi >= ABI::V4,
        sockets: sockets.to_owned(),
    })
}

fn own_port() -> Option<u16> {
    std::env::var("PORT").ok()?.parse().ok()
}

/// Whether this kernel can keep a program from files.
pub(super) fn supported() -> Result<(), String> {
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create);
    ruleset
        .map(|_| ())
        .map_err(|_| "this kernel has no Landlock (Linux 5.13 and newer, lsm=landlock)".to_owned())
}

/// All of the file system except these folders: Landlock can only allow, so what lies around them is listed.
///
/// Folders that hold a refused one cannot be listed from inside; what appears in them later is refused too.
pub(super) fn all_but(refused: &[PathBuf]) -> Vec<PathBuf> {
    let refused: BTreeSet<PathBuf> =
        refused.iter().map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.clone())).collect();
    let mut allowed = Vec::new();
    let mut to_list = vec![PathBuf::from("/")];
    if refused.is_empty() {
        return to_list;
    }
    while let Some(folder) = to_list.pop() {
        // One that cannot be listed by us cannot be by the app, which runs as the same user.
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            // A link may lead to what is refused; where it leads to is listed under its own name.
            let is_link = fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
            if is_link || refused.contains(&path) {
                continue;
            }
            if refused.iter().any(|one| one.starts_with(&path)) {
                to_list.push(path);
            } else {
                allowed.push(path);
            }
        }
    }
    allowed
}

/// The sockets in the file system that programs listen on now. Those of this thread's network: to be called before
/// it moves into another.
pub(super) fn listening_sockets() -> Vec<PathBuf> {
    // Flags with __SO_ACCEPTCON: it is listened on.
    const LISTENS: &str = "00010000";
    let table = fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default();
    let path = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let listens = fields.nth(3)? == LISTENS;
        let kind = fields.next()?;
        let path = fields.nth(2)?;
        // Datagram sockets (a log daemon's) are never listened on; they take messages all the same.
        ((listens || kind == "0002") && path.starts_with('/')).then(|| PathBuf::from(path))
    };
    let found: BTreeSet<PathBuf> = table.lines().skip(1).filter_map(path).collect();
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn all_but_the_refused_folders_is_allowed_and_no_link_leads_into_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        for folder in ["srv/shop/shared", "srv/shop/bin", "srv/blog"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        symlink(root.join("srv/shop/shared"), root.join("srv/data")).unwrap();
        symlink(root.join("srv"), root.join("www")).unwrap();
        let allowed = all_but(&[root.join("www/shop/shared")]);
        let below = |path: &str| allowed.contains(&root.join(path));
        assert!(below("srv/shop/bin") && below("srv/blog"), "{allowed:?}");
        assert!(allowed.contains(&PathBuf::from("/usr")) && !allowed.contains(&PathBuf::from("/")));
        let shared = root.join("srv/shop/shared");
        for path in &allowed {
            let real = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            assert!(!real.starts_with(&shared) && !shared.starts_with(&real), "{}", path.display());
        }
    }

    #[test]
    fn sockets_that_take_connections_or_messages_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let (stream, message) = (dir.path().join("stream.sock"), dir.path().join("message.sock"));
        let _listener = UnixListener::bind(&stream).unwrap();
        let _log = UnixDatagram::bind(&message).unwrap();
        let found = listening_sockets();
        assert!(found.contains(&stream) && found.contains(&message), "{found:?}");
    }

    #[test]
    fn nothing_is_started_without_walls() {
        let dir = tempfile::tempdir().unwrap();
        let walls = dir.path().join("walls.json");
        let words = [OsString::from("true")];
        assert!(matches!(exec(&walls, &words), Refused::Walls { .. }));
        fs::write(&walls, "{}").unwrap();
        assert!(matches!(exec(&walls, &words), Refused::Walls { .. }));
    }
}
