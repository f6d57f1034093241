//! Whose listener answers on a port: another program there must not be taken for the app.

use std::collections::BTreeSet;
use std::io;

use crate::process::Identity;

/// Who listens on a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Owner {
    /// One of the given processes, and nobody else.
    Ours,
    /// Somebody else, at least beside them.
    Other,
    /// Nobody.
    Nobody,
    /// It cannot be seen, and why. Never counted as ours.
    Unknown(String),
}

/// Looks whether the listeners on `port` belong to `processes`.
pub(crate) fn owner(port: u16, processes: &[Identity]) -> Owner {
    let mut wanted = BTreeSet::new();
    // Of this thread and not of the process: a rehearsal's thread has a network of its own.
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        match std::fs::read_to_string(table) {
            Ok(text) => wanted.extend(listening(&text, port)),
            // A kernel without IPv6 has only the first.
            Err(e) if e.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {}
            Err(e) => return Owner::Unknown(format!("{table}: {e}")),
        }
    }
    if wanted.is_empty() {
        return Owner::Nobody;
    }
    let mut hidden = None;
    for process in processes {
        match sockets(process.pid) {
            Ok(held) => wanted.retain(|socket| !held.contains(socket)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => hidden = Some(format!("the open files of {process}: {e}")),
        }
    }
    match hidden {
        _ if wanted.is_empty() => Owner::Ours,
        Some(why) => Owner::Unknown(why),
        None => Owner::Other,
    }
}

/// The TCP ports that a process listens on, in no order; none when it cannot be seen.
#[must_use]
pub fn listening_ports(pid: i32) -> Vec<u16> {
    let Ok(held) = sockets(pid) else { return Vec::new() };
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    let texts = tables.iter().filter_map(|table| std::fs::read_to_string(table).ok());
    let of = |text: String| {
        let all = text.lines().skip(1).filter_map(listener).collect::<Vec<_>>();
        all.into_iter().filter(|(_, inode)| held.contains(inode)).map(|(port, _)| port)
    };
    texts.flat_map(of).collect()
}

/// Port and inode of a line of `/proc/net` that is a listener.
fn listener(line: &str) -> Option<(u16, u64)> {
    const LISTEN: &str = "0A";
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let (_, at) = fields.get(1)?.rsplit_once(':')?;
    let port = u16::from_str_radix(at, 16).ok()?;
    (*fields.get(3)? == LISTEN).then(|| Some((port, fields.get(9)?.parse().ok()?)))?
}

/// The inodes of sockets that listen on `port`, from a table of `/proc/net`.
fn listening(table: &str, port: u16) -> Vec<u64> {
    let all = table.lines().skip(1).filter_map(listener);
    all.filter(|(at, _)| *at == port).map(|(_, inode)| inode).collect()
}

fn sockets(pid: i32) -> io::Result<BTreeSet<u64>> {
    let mut held = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One that was closed since is simply not there.
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let inode: Option<u64> =
            target.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        held.extend(inode);
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_owner_of_a_listener_is_told_from_others() {
        let own = [Identity::own().unwrap()];
        for at in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(at) else { continue };
            let port = listener.local_addr().unwrap().port();
            assert_eq!(owner(port, &own), Owner::Ours, "{at}");
            let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
            let stranger = Identity::of(other.id().try_into().unwrap()).unwrap();
            assert_eq!(owner(port, &[stranger]), Owner::Other);
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }

    #[test]
    fn a_connection_is_no_listener() {
        let table = "  sl  local_address rem_address   st\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 111 1\n\
             1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000 0 0 222 1\n\
             2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 333 1\n";
        assert_eq!(listening(table, 8080), [111]);
    }
}
