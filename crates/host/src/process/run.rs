//! Runs a command to its end.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, PipeReader, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::{Command, End, Running, StartError, Survivors, spawn};

/// How many last lines are kept for messages.
const TAIL: usize = 20;
/// A longer line is cut into several.
const LONGEST_LINE: u64 = 16 << 10;
/// How often a child and the wish to stop are looked at.
const POLL: Duration = Duration::from_millis(20);

/// What limits a command.
pub struct Limits<'a> {
    /// How long it may take; `None` for ever.
    pub time: Option<Duration>,
    /// How long it has to stop after TERM before it is killed.
    pub grace: Duration,
    /// Whether somebody asked to stop; asked many times a second.
    pub cancel: &'a dyn Fn() -> bool,
    /// Whether what it started in the background may live on: for commands that start a service. Goes with
    /// [`Sink::File`], since a pipe ends with the command.
    pub keep_background: bool,
}

impl Default for Limits<'_> {
    fn default() -> Self {
        Limits { time: None, grace: Duration::from_secs(5), cancel: &|| false, keep_background: false }
    }
}

/// Where output goes.
pub enum Sink<'a> {
    /// Each line of stdout and stderr, as it comes, without its line end.
    Lines(&'a mut dyn FnMut(&str)),
    /// At the end of this file, as it comes.
    File(&'a Path),
}

/// A command that has ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// How.
    pub end: End,
    /// The last lines that it wrote.
    pub tail: Vec<String>,
    /// How long it took.
    pub took: Duration,
    /// What it had left in the background and could not be ended.
    pub survivors: Option<Survivors>,
}

/// Runs a command to its end; what it leaves in the background is ended too.
///
/// # Errors
/// It could not be started. Every other way to end is an [`End`].
pub fn run(command: &Command, limits: Limits<'_>, sink: Sink<'_>) -> Result<Ran, StartError> {
    match sink {
        Sink::Lines(show) => {
            let failed = |cause| StartError::System { program: "the pipe of a command".to_owned(), cause };
            // One pipe for both: lines come in the order in which they were written.
            let (from, out) = std::io::pipe().map_err(failed)?;
            let err = out.try_clone().map_err(failed)?;
            let child = spawn(command, out.into(), err.into())?;
            let mut lines = Lines::of(from, show);
            let mut ran = wait(child, &limits, &mut |time| lines.receive(time));
            ran.tail = lines.rest();
            Ok(ran)
        }
        Sink::File(path) => {
            let failed = |cause| StartError::System { program: path.display().to_string(), cause };
            let open = OpenOptions::new().append(true).create(true).mode(crate::durable::PRIVATE).open(path);
            let file = open.map_err(failed)?;
            let from = file.metadata().map_err(failed)?.len();
            let other = file.try_clone().map_err(failed)?;
            let child = spawn(command, file.into(), other.into())?;
            let mut ran = wait(child, &limits, &mut |time| std::thread::sleep(time));
            ran.tail = tail_since(path, from);
            Ok(ran)
        }
    }
}

fn wait(mut child: Running, limits: &Limits<'_>, pass: &mut dyn FnMut(Duration)) -> Ran {
    let begun = Instant::now();
    // A short command is not kept waiting for a long look.
    let mut look = Duration::from_millis(1);
    let stopped: Option<fn(Duration, Option<i32>) -> End> = loop {
        if child.ended().is_some() {
            break None;
        }
        if limits.time.is_some_and(|time| begun.elapsed() >= time) {
            break Some(|limit, exit| End::TimedOut { limit, exit });
        }
        if (limits.cancel)() {
            break Some(|_, exit| End::Cancelled { exit });
        }
        pass(look);
        look = (look * 2).min(POLL);
    };
    if stopped.is_none() && limits.keep_background {
        let end = child.reap();
        return Ran { end, tail: Vec::new(), took: begun.elapsed(), survivors: None };
    }
    let (own, survivors) = match child.end_while(limits.grace, &mut || pass(Duration::ZERO)) {
        Ok((end, _)) => (Some(end), None),
        Err(survivors) => (child.ended(), Some(survivors)),
    };
    let end = match (stopped, own) {
        (None, own) => own.unwrap_or(End::Signal(0)),
        (Some(end), Some(End::Exit(code))) => end(limits.time.unwrap_or_default(), Some(code)),
        (Some(end), _) => end(limits.time.unwrap_or_default(), None),
    };
    Ran { end, tail: Vec::new(), took: begun.elapsed(), survivors }
}

/// The lines of a child, read by a thread.
struct Lines<'a> {
    from: Receiver<String>,
    show: &'a mut dyn FnMut(&str),
    tail: VecDeque<String>,
    open: bool,
}

impl<'a> Lines<'a> {
    fn of(pipe: PipeReader, show: &'a mut dyn FnMut(&str)) -> Self {
        // Bounded: a child that writes faster than its lines are shown waits, as it would for a terminal.
        let (to, from) = sync_channel(256);
        std::thread::spawn(move || read_lines(pipe, &to));
        Lines { from, show, tail: VecDeque::new(), open: true }
    }

    /// Shows what comes within `time`; returns early at the first line, and later lines do not wait.
    fn receive(&mut self, time: Duration) {
        if !self.open {
            std::thread::sleep(time);
            return;
        }
        match self.from.recv_timeout(time) {
            Ok(line) => {
                self.take(line);
                while let Ok(line) = self.from.try_recv() {
                    self.take(line);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.open = false,
        }
    }

    fn take(&mut self, line: String) {
        (self.show)(&line);
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// The last lines, once the child has ended. A survivor may hold a pipe open for ever, so there is a limit.
    fn rest(mut self) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_millis(500);
        while self.open && Instant::now() < deadline {
            self.receive(POLL);
        }
        self.tail.into()
    }
}

fn read_lines(pipe: PipeReader, to: &SyncSender<String>) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut pipe).take(LONGEST_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        if to.send(text.trim_end_matches(['\n', '\r']).to_owned()).is_err() {
            return;
        }
    }
}

fn tail_since(path: &Path, from: u64) -> Vec<String> {
    let read = || {
        let mut file = File::open(path)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(LONGEST_LINE))))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&text).into_owned())
    };
    // Only for messages: without them the end of the command is still told.
    let text = read().unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].iter().map(|l| (*l).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{shell, wait_for_pid};
    use super::*;

    fn ran(script: &str, limits: Limits<'_>) -> (Ran, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let mut lines = Vec::new();
        let ran = run(&shell(folder.path(), script), limits, Sink::Lines(&mut |l| lines.push(l.to_owned())));
        (ran.unwrap(), lines)
    }

    #[test]
    fn every_way_to_end_has_a_name() {
        assert_eq!(ran("exit 0", Limits::default()).0.end, End::Exit(0));
        assert_eq!(ran("exit 3", Limits::default()).0.end, End::Exit(3));
        assert_eq!(ran("kill -9 $$", Limits::default()).0.end, End::Signal(9));
        let limit = Duration::from_millis(100);
        let short = || Limits { time: Some(limit), grace: Duration::from_millis(100), ..Limits::default() };
        assert_eq!(ran("sleep 60", short()).0.end, End::TimedOut { limit, exit: None });
        let cancel = Limits { cancel: &|| true, ..Limits::default() };
        assert_eq!(ran("sleep 60", cancel).0.end, End::Cancelled { exit: None });
    }

    #[test]
    fn a_command_that_ends_well_although_it_was_told_to_stop_is_told_apart() {
        let limit = Duration::from_millis(300);
        let limits = Limits { time: Some(limit), grace: Duration::from_secs(10), ..Limits::default() };
        let (ran, lines) =
            ran("trap 'echo done; exit 0' TERM; echo up; while :; do sleep 0.01; done", limits);
        assert_eq!(ran.end, End::TimedOut { limit, exit: Some(0) });
        assert!(!ran.end.is_success());
        assert!(lines.contains(&"done".to_owned()), "what it wrote while it stopped is there too: {lines:?}");
    }

    #[test]
    fn a_command_that_ignores_term_is_killed_after_the_grace() {
        let limits = Limits {
            time: Some(Duration::from_millis(200)),
            grace: Duration::from_millis(200),
            ..Limits::default()
        };
        let (ran, _) = ran("trap '' TERM; while :; do sleep 0.01; done", limits);
        assert!(matches!(ran.end, End::TimedOut { exit: None, .. }), "{ran:?}");
        assert!(ran.took >= Duration::from_millis(400) && ran.took < Duration::from_secs(10), "{ran:?}");
        assert!(ran.survivors.is_none());
    }

    #[test]
    fn both_outputs_come_line_by_line_and_the_last_are_kept() {
        let (ran, lines) = ran(
            "i=0; while [ $i -lt 50 ]; do echo $i; i=$((i+1)); done; echo err >&2; printf end",
            Limits::default(),
        );
        assert_eq!(lines.len(), 52);
        assert_eq!(ran.tail.len(), TAIL);
        assert_eq!(ran.tail[17..], ["49", "err", "end"], "in the order in which they were written");
    }

    #[test]
    fn much_output_is_read_to_its_end() {
        let (ran, lines) = ran("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last", Limits::default());
        assert_eq!(lines.iter().map(String::len).sum::<usize>(), 3_000_004);
        assert_eq!(ran.tail.last().unwrap(), "last");
    }

    #[test]
    fn what_a_command_leaves_in_the_background_is_ended_and_does_not_delay_it() {
        let folder = tempfile::tempdir().unwrap();
        let command = shell(folder.path(), "sleep 60 & echo $! > inner");
        let begun = Instant::now();
        let ran = run(&command, Limits::default(), Sink::Lines(&mut |_| {})).unwrap();
        assert_eq!(ran.end, End::Exit(0));
        assert!(begun.elapsed() < Duration::from_secs(30));
        let pid: i32 = std::fs::read_to_string(folder.path().join("inner")).unwrap().trim().parse().unwrap();
        assert!(super::super::Identity::of(pid).is_none_or(|p| !p.is_alive()));
    }

    #[test]
    fn a_command_that_starts_a_service_may_leave_it_running_and_writing() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let script = "(echo $$ > /dev/null; sh -c 'echo $$ > inner; while [ ! -e go ]; do sleep 0.01; done; \
                      echo later; exec sleep 60') & echo started";
        let limits = Limits { keep_background: true, ..Limits::default() };
        let ran = run(&shell(folder.path(), script), limits, Sink::File(&log)).unwrap();
        assert_eq!((ran.end, ran.tail), (End::Exit(0), vec!["started".to_owned()]));
        let service = wait_for_pid(&folder.path().join("inner"));
        std::fs::write(folder.path().join("go"), "").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !std::fs::read_to_string(&log).unwrap().contains("later") {
            assert!(Instant::now() < deadline && service.is_alive());
            std::thread::sleep(Duration::from_millis(2));
        }
        service.signal(rustix::process::Signal::KILL).unwrap();
    }
}
