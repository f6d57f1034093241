//! Runs one program to its end: own process group, time limit, a way to stop it, output as it comes.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// How long a program has between the polite signal and the kill.
const GRACE: Duration = Duration::from_secs(3);
/// How long output is still read once the program has ended: a grandchild may keep the pipe open for ever.
const DREGS: Duration = Duration::from_millis(500);

/// Which of a program's outputs a piece came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// How a program ended.
#[derive(Debug)]
pub(crate) enum End {
    Exited(ExitStatus),
    TimedOut,
    Stopped,
}

/// Runs `command` without input until it ends, `limit` has passed or `stop` says so. Whatever it leaves running
/// in its process group is killed before this returns.
pub(crate) fn run(
    mut command: Command,
    limit: Duration,
    stop: &dyn Fn() -> bool,
    on_output: &mut dyn FnMut(Stream, &[u8]),
) -> io::Result<End> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let group = Pid::from_child(&child);
    let (sender, pieces) = sync_channel(64);
    if let Some(out) = child.stdout.take() {
        read_in_thread(out, Stream::Out, sender.clone());
    }
    if let Some(err) = child.stderr.take() {
        read_in_thread(err, Stream::Err, sender);
    }
    let end = wait(&mut child, group, &pieces, Instant::now() + limit, stop, on_output);
    // The leader is reaped only after this, so that its id cannot belong to somebody else yet.
    let _ = kill_process_group(group, Signal::KILL);
    let status = child.wait()?;
    Ok(end?.unwrap_or(End::Exited(status)))
}

/// Waits for the end without reaping; `None` means that the program ended by itself.
fn wait(
    child: &mut Child,
    group: Pid,
    pieces: &Receiver<(Stream, Vec<u8>)>,
    deadline: Instant,
    stop: &dyn Fn() -> bool,
    on_output: &mut dyn FnMut(Stream, &[u8]),
) -> io::Result<Option<End>> {
    let mut ended_at: Option<Instant> = None;
    let mut ending: Option<(Instant, End)> = None;
    let mut open = true;
    loop {
        match pieces.recv_timeout(Duration::from_millis(20)) {
            Ok((stream, bytes)) => on_output(stream, &bytes),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                open = false;
                thread::sleep(Duration::from_millis(2));
            }
        }
        if ended_at.is_none() && has_ended(child)? {
            ended_at = Some(Instant::now());
        }
        match (ended_at, &ending) {
            (Some(at), _) if !open || at.elapsed() > DREGS => return Ok(ending.map(|(_, end)| end)),
            (Some(_), _) => {}
            (None, Some((asked, _))) if asked.elapsed() > GRACE => {
                let _ = kill_process_group(group, Signal::KILL);
            }
            (None, Some(_)) => {}
            (None, None) => {
                let why = if stop() {
                    End::Stopped
                } else if Instant::now() >= deadline {
                    End::TimedOut
                } else {
                    continue;
                };
                let _ = kill_process_group(group, Signal::TERM);
                ending = Some((Instant::now(), why));
            }
        }
    }
}

fn has_ended(child: &Child) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    Ok(waitid(WaitId::Pid(Pid::from_child(child)), options)?.is_some())
}

fn read_in_thread(mut from: impl Read + Send + 'static, stream: Stream, to: SyncSender<(Stream, Vec<u8>)>) {
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(n) = from.read(&mut buffer) {
            if n == 0 || to.send((stream, buffer[..n].to_vec())).is_err() {
                break;
            }
        }
    });
}

/// Cuts output into lines; a carriage return ends one too, as progress bars use it.
#[derive(Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The longest line that is kept whole, bytes.
    const LONGEST: usize = 4096;

    /// Takes a piece and gives every line that it completes, without blank ones.
    pub(crate) fn push(&mut self, piece: &[u8], on_line: &mut dyn FnMut(&str)) {
        for &byte in piece {
            if byte == b'\n' || byte == b'\r' || self.rest.len() >= Self::LONGEST {
                self.finish(on_line);
            }
            if byte != b'\n' && byte != b'\r' {
                self.rest.push(byte);
            }
        }
    }

    /// Gives what is left without a line end.
    pub(crate) fn finish(&mut self, on_line: &mut dyn FnMut(&str)) {
        let line = String::from_utf8_lossy(&self.rest);
        if !line.trim().is_empty() {
            on_line(line.trim_end());
        }
        self.rest.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration, stop: &dyn Fn() -> bool) -> (End, String) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let mut seen = Vec::new();
        let end = run(command, limit, stop, &mut |_, piece| seen.extend_from_slice(piece)).unwrap();
        (end, String::from_utf8(seen).unwrap())
    }

    /// Whether the process ends soon; a kill takes effect a moment after it was sent.
    fn ends(pid: &str) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        // A zombie that nobody has reaped yet still has a folder, but no command line.
        while std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty()) {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }

    #[test]
    fn output_and_status_come_back() {
        let (end, seen) = sh("echo one; echo two >&2; exit 7", Duration::from_secs(20), &|| false);
        assert!(matches!(end, End::Exited(status) if status.code() == Some(7)));
        assert!(seen.contains("one\n") && seen.contains("two\n"));
    }

    #[test]
    fn a_time_limit_ends_the_whole_group() {
        let begun = Instant::now();
        let (end, seen) = sh("sleep 600 & echo $!; sleep 600", Duration::from_millis(300), &|| false);
        assert!(matches!(end, End::TimedOut));
        assert!(begun.elapsed() < Duration::from_secs(60));
        assert!(ends(seen.trim()), "the grandchild still runs");
    }

    #[test]
    fn who_ignores_the_polite_signal_is_killed() {
        let (end, _) = sh("trap '' TERM; while :; do sleep 0.1; done", Duration::from_secs(600), &|| true);
        assert!(matches!(end, End::Stopped));
    }

    #[test]
    fn what_a_command_leaves_running_does_not_hang_it_and_is_ended() {
        let begun = Instant::now();
        let (end, seen) = sh("sleep 600 & echo $!", Duration::from_secs(600), &|| false);
        assert!(matches!(end, End::Exited(status) if status.success()));
        assert!(begun.elapsed() < Duration::from_secs(60));
        assert!(ends(seen.trim()));
    }

    #[test]
    fn lines_are_cut_at_line_feeds_and_carriage_returns() {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        lines.push(b"one\r\ntw", &mut |line| got.push(line.to_owned()));
        lines.push(b"o\r50%\r100%", &mut |line| got.push(line.to_owned()));
        lines.finish(&mut |line| got.push(line.to_owned()));
        assert_eq!(got, ["one", "two", "50%", "100%"]);
    }
}
