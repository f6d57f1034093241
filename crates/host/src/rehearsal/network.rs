//! A network of its own for a copy of the app: loopback, empty, and nothing beyond.
//!
//! A namespace belongs to a thread. The thread that rehearses moves into a new one and starts the app from there, so
//! that both meet on the same loopback, where nobody else is; it ends with the last of them.

use std::thread;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, recv, sendto,
    socket_with,
};
use rustix::thread::UnshareFlags;

/// Does the work in a thread with a network of its own; where that is not allowed, with this one and the reason why.
pub(super) fn within<T: Send>(work: impl FnOnce(Result<(), String>) -> T + Send) -> T {
    thread::scope(|scope| {
        // What the thread could not do is handed back with the work, so that it is done once and only once.
        let alone = scope.spawn(|| match enter() {
            Ok(()) => Ok(work(Ok(()))),
            Err(why) => Err((work, why)),
        });
        match alone.join() {
            Ok(Ok(done)) => done,
            Ok(Err((work, why))) => work(Err(why)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn enter() -> Result<(), String> {
    // Deprecated for the sake of file tables, which are not asked for here.
    #[expect(deprecated, reason = "its successor is unsafe for a flag that is not used")]
    rustix::thread::unshare(UnshareFlags::NEWNET)
        .map_err(|e| format!("a network namespace was refused ({e}); it takes root or CAP_SYS_ADMIN"))?;
    raise_loopback().map_err(|e| format!("loopback could not be raised in a new network namespace: {e}"))
}

/// Asks the kernel to set `lo` up: RTM_NEWLINK for interface 1, which a new namespace always begins with.
fn raise_loopback() -> rustix::io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    const NLMSG_ERROR: u16 = 2;
    const UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend(32u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0; 4]);
    message.extend(1u32.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    // Without a protocol it is NETLINK_ROUTE, which is number 0.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 512];
    let (_, length) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    let kind = answer.get(4..6).map(|b| u16::from_ne_bytes([b[0], b[1]]));
    let code = answer.get(16..20).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) if length >= 20 => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) if code < 0 => Err(rustix::io::Errno::from_raw_os_error(-code)),
        _ => Err(rustix::io::Errno::PROTO),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn inside_loopback_works_and_nothing_outside_is_reached() {
        let outside = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = outside.local_addr().unwrap();
        within(|entered| {
            if let Err(why) = entered {
                super::super::tests::skipped(&format!("network namespace: {why}"));
                return;
            }
            assert!(TcpStream::connect_timeout(&to, Duration::from_secs(2)).is_err(), "the outside answers");
            let inside = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut one = TcpStream::connect(inside.local_addr().unwrap()).unwrap();
            one.write_all(b"x").unwrap();
            let mut byte = [0];
            inside.accept().unwrap().0.read_exact(&mut byte).unwrap();
        });
        // The thread that called is where it was.
        assert!(TcpStream::connect(to).is_ok());
    }
}
