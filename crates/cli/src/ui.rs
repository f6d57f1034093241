//! The only writer to stdout and stderr: data to stdout, everything else to stderr.
//!
//! Colours, live progress and questions only on a terminal. A reader that went away (`plimsoll history | head`) is
//! no error: Rust ignores SIGPIPE, and a broken pipe is ignored here.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use plimsoll_core::check::Verdict;
use serde::Serialize;
use serde_json::json;

use crate::error::{Error, exit_code};

const GREEN: Style = AnsiColor::Green.on_default();
const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const DIM: Style = Style::new().dimmed();
const BOLD: Style = Style::new().bold();

/// How the two streams are written to.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    json: bool,
    quiet: bool,
    colour_out: bool,
    colour_err: bool,
    /// A spinner can be drawn, and lines rewritten.
    live: bool,
    /// What goes to stderr is a log of JSON lines.
    log: bool,
    /// The same for data.
    live_out: bool,
}

/// Writes for the command; shared by reference, also between threads.
pub(crate) struct Ui {
    look: Look,
    out: Mutex<Box<dyn Write + Send>>,
    err: Mutex<Box<dyn Write + Send>>,
    /// The spinner that is on the terminal now; other lines must go above it.
    spinner: Mutex<Option<ProgressBar>>,
    /// The first failure to write data, other than a reader that went away.
    lost: Mutex<Option<io::Error>>,
}

impl Ui {
    /// For the program's own streams. Looks at the terminal, `NO_COLOR` and `TERM` once.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let colour = !set("NO_COLOR") && !dumb;
        let (out, err) = (io::stdout(), io::stderr());
        let look = Look {
            json,
            quiet,
            colour_out: colour && out.is_terminal(),
            colour_err: colour && err.is_terminal(),
            live: !dumb && !quiet && err.is_terminal(),
            log: false,
            live_out: !dumb && out.is_terminal(),
        };
        Ui::on(look, Box::new(out), Box::new(err))
    }

    /// The same for a service: what goes to stderr is one JSON object a line, for a collector of logs.
    pub(crate) fn logging(mut self) -> Self {
        self.look = Look { log: true, live: false, colour_err: false, ..self.look };
        self
    }

    fn log_line(&self, level: &str, text: &str, more: serde_json::Value) {
        let mut line =
            json!({ "at": jiff::Timestamp::now().to_string(), "level": level, "message": plain(text) });
        if let (Some(line), serde_json::Value::Object(more)) = (line.as_object_mut(), more) {
            line.extend(more);
        }
        self.err_line(&line.to_string());
    }

    fn on(look: Look, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Ui {
            look,
            out: Mutex::new(out),
            err: Mutex::new(err),
            spinner: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    /// Whether data is written as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.look.json
    }

    /// Whether stdout is a terminal that shows colours and pictures.
    pub(crate) fn is_rich(&self) -> bool {
        self.look.colour_out
    }

    /// The text for stdout in the colour of a verdict; `None` dims it. Plain when stdout is no terminal.
    pub(crate) fn toned(&self, verdict: Option<Verdict>, text: &str) -> String {
        let style = match verdict {
            Some(Verdict::Pass) => GREEN,
            Some(Verdict::Fail) => RED,
            Some(Verdict::Unknown) => YELLOW,
            Some(Verdict::Skipped) | None => DIM,
        };
        paint(self.look.colour_out, style, text)
    }

    /// Whether data goes to a terminal that a page can be rewritten on.
    pub(crate) fn is_terminal(&self) -> bool {
        self.look.live_out
    }

    /// Empties the terminal, for the next state of a page.
    pub(crate) fn clear(&self) {
        if self.look.live_out {
            self.data("\x1b[H\x1b[2J");
        }
    }

    /// Writes data to stdout as it is, with a line end unless it has one.
    pub(crate) fn data(&self, text: &str) {
        self.above_spinner(|| {
            let mut out = lock(&self.out);
            let ended = if text.ends_with('\n') { "" } else { "\n" };
            let written = write!(out, "{text}{ended}").and_then(|()| out.flush());
            if let Err(error) = written
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                lock(&self.lost).get_or_insert(error);
            }
        });
    }

    /// Writes one JSON object, on one line, to stdout.
    pub(crate) fn object(&self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(line) => self.data(&line),
            Err(error) => {
                lock(&self.lost).get_or_insert(io::Error::other(error));
            }
        }
    }

    /// What was written to stdout and did not arrive, if anything: a full disk behind `> file`.
    pub(crate) fn lost_output(&self) -> Result<(), Error> {
        match lock(&self.lost).take() {
            None => Ok(()),
            Some(error) => Err(Error::failed("the output could not be written").why(error.to_string())),
        }
    }

    /// A line for a person, to stderr; nothing when quiet.
    pub(crate) fn say(&self, text: &str) {
        match (self.look.quiet, self.look.log) {
            (true, _) => {}
            (false, true) => self.log_line("info", text, json!({})),
            (false, false) => self.err_line(text),
        }
    }

    /// A dimmed, indented line: what a child wrote, a remark. Control characters are taken out, so that a build
    /// command cannot paint over the terminal.
    pub(crate) fn aside(&self, text: &str) {
        match (self.look.quiet, self.look.log) {
            (true, _) => {}
            (false, true) => self.log_line("debug", text, json!({})),
            (false, false) => self.err_line(&self.paint(DIM, &format!("    {}", plain(text)))),
        }
    }

    /// A warning, to stderr, quiet or not.
    pub(crate) fn warn(&self, text: &str) {
        if self.look.log {
            return self.log_line("warning", text, json!({}));
        }
        self.err_line(&format!("{} {text}", self.paint(YELLOW, "warning:")));
    }

    /// An error: what failed, why, the state of production, what to type. With `--json` also as an object.
    pub(crate) fn error(&self, error: &Error) {
        if self.look.log {
            let more = json!({
                "kind": error.kind.word(), "details": error.details, "why": error.why, "state": error.state,
                "next": error.next,
            });
            return self.log_line("error", &error.what, more);
        }
        if self.look.json {
            self.object(&json!({
                "event": "error", "kind": error.kind.word(), "what": error.what, "details": error.details,
                "why": error.why, "state": error.state, "next": error.next,
                "exit": exit_code(&Err(error.clone())),
            }));
        }
        let mut text = format!("{} {}", self.paint(RED, "error:"), error.what);
        for detail in &error.details {
            text.push_str("\n\n  ");
            text.push_str(&detail.replace('\n', "\n  "));
        }
        if !error.details.is_empty() {
            text.push('\n');
        }
        for (name, value) in [("why", &error.why), ("state", &error.state), ("next", &error.next)] {
            if !value.is_empty() {
                let value = value.trim_end().replace('\n', "\n    ");
                text.push_str(&format!("\n  {} {value}", self.paint(BOLD, &format!("{name}:"))));
            }
        }
        self.err_line(&text);
    }

    /// What clap has to say: help and version are data, the rest is an error. Returns the exit code.
    pub(crate) fn clap(&self, error: &clap::Error) -> u8 {
        let text = error.render();
        if error.use_stderr() {
            let text = if self.look.colour_err { text.ansi().to_string() } else { text.to_string() };
            self.err_line(text.trim_end());
            return exit_code(&Err(Error::usage("")));
        }
        self.data(&if self.look.colour_out { text.ansi().to_string() } else { text.to_string() });
        exit_code(&Ok(()))
    }

    /// One line for an observation, to stderr: tick or cross, what was looked at, and a note.
    pub(crate) fn observed(&self, verdict: Verdict, name: &str, note: &str) {
        self.say(&verdict_line(self.look.colour_err, verdict, name, note));
    }

    /// One line for an observation that is the command's result, to stdout; a hint below it.
    pub(crate) fn finding(&self, verdict: Verdict, name: &str, note: &str, hint: &str) {
        let mut text = verdict_line(self.look.colour_out, verdict, name, note);
        if !hint.is_empty() {
            text.push_str(&format!("\n    {hint}"));
        }
        self.data(&text);
    }

    /// Asks a yes-or-no question. `None` when there is nobody to ask: no terminal, or its end.
    pub(crate) fn confirm(&self, question: &str) -> Option<bool> {
        if !self.can_ask() {
            return None;
        }
        self.confirm_from(question, &mut io::stdin().lock())
    }

    /// Whether a person is there to be asked.
    pub(crate) fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    fn confirm_from(&self, question: &str, answers: &mut dyn BufRead) -> Option<bool> {
        loop {
            self.err_text(&format!("{question} [y/N] "));
            let mut answer = String::new();
            if answers.read_line(&mut answer).unwrap_or(0) == 0 {
                self.err_text("\n");
                return None;
            }
            match answer.trim().to_lowercase().as_str() {
                "y" | "yes" => return Some(true),
                "" | "n" | "no" => return Some(false),
                _ => self.err_line("please answer y or n"),
            }
        }
    }

    /// Begins to show a step that takes time; the line is finished by [`Progress::done_after`].
    pub(crate) fn progress(&self, title: &str) -> Progress<'_> {
        if self.look.live {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{spinner} {msg}  {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            bar.set_style(style.tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ "));
            bar.set_message(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            *lock(&self.spinner) = Some(bar);
        }
        Progress { ui: self, title: title.to_owned(), finished: false }
    }

    fn paint(&self, style: Style, text: &str) -> String {
        paint(self.look.colour_err, style, text)
    }

    fn err_line(&self, text: &str) {
        self.err_text(&format!("{text}\n"));
    }

    fn err_text(&self, text: &str) {
        self.above_spinner(|| {
            let mut err = lock(&self.err);
            // There is nowhere left to say that stderr cannot be written to.
            let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
        });
    }

    fn above_spinner(&self, write: impl FnOnce()) {
        let spinner = lock(&self.spinner).clone();
        match spinner {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

/// A step on the screen: one line in the end; a spinner with the time until then, on a terminal.
pub(crate) struct Progress<'a> {
    ui: &'a Ui,
    title: String,
    finished: bool,
}

impl Progress<'_> {
    /// How far it is; `total` 0 when unknown. Seen on a terminal only.
    pub(crate) fn at(&self, done: u64, total: u64, unit: &str) {
        let Some(bar) = lock(&self.ui.spinner).clone() else { return };
        let percent = done.saturating_mul(100).checked_div(total);
        let how_far = percent.map_or_else(|| format!("{done} {unit}"), |p| format!("{}%", p.min(100)));
        bar.set_message(format!("{}  {how_far}", self.title));
    }

    /// Finishes the line, with the time it took as it was measured and a note that may be empty.
    pub(crate) fn done_after(mut self, verdict: Verdict, took: Duration, note: &str) {
        self.clear();
        let note = if note.is_empty() { took_words(took) } else { format!("{}  {note}", took_words(took)) };
        self.ui.observed(verdict, &self.title, &note);
    }

    fn clear(&mut self) {
        self.finished = true;
        if let Some(bar) = lock(&self.ui.spinner).take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.clear();
        }
    }
}

/// A time as people read it: `12 ms`, `3.4 s`, `2 m 05 s`.
pub(crate) fn took_words(took: Duration) -> String {
    let ms = took.as_millis();
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} m {:02} s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

/// A size as people read it: `512 bytes`, `3.4 MiB`.
pub(crate) fn size_words(bytes: u64) -> String {
    let mut unit = "bytes";
    let mut tenths = bytes.saturating_mul(10);
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1_024;
        unit = larger;
    }
    match unit {
        "bytes" => format!("{bytes} bytes"),
        _ => format!("{}.{} {unit}", tenths / 10, tenths % 10),
    }
}

/// An age as people say it: `40 s`, `12 min`, `5 h`, `3 days`.
pub(crate) fn age_words(age: jiff::SignedDuration) -> String {
    match age.as_secs() {
        ..0 => "future".to_owned(),
        s @ 0..60 => format!("{s} s"),
        s @ 60..3_600 => format!("{} min", s / 60),
        s @ 3_600..172_800 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}

fn paint(colour: bool, style: Style, text: &str) -> String {
    if colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

fn verdict_line(colour: bool, verdict: Verdict, name: &str, note: &str) -> String {
    let (mark, style) = match verdict {
        Verdict::Pass => ("✓", GREEN),
        Verdict::Fail => ("✗", RED),
        Verdict::Unknown => ("?", YELLOW),
        Verdict::Skipped => ("-", DIM),
    };
    let note = if note.is_empty() { String::new() } else { format!("  {}", paint(colour, DIM, note)) };
    format!("{} {name}{note}", paint(colour, style, mark))
}

/// The text without escape sequences and control characters.
fn plain(text: &str) -> String {
    let stripped = anstream::adapter::strip_str(text).to_string();
    stripped.chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A thread that panicked while writing left at worst half a line.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;

    /// Keeps what is written, for a look at it.
    #[derive(Clone, Default)]
    pub(crate) struct Stream {
        text: Arc<Mutex<Vec<u8>>>,
        fails_with: Option<io::ErrorKind>,
    }

    impl Write for Stream {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.fails_with {
                Some(kind) => Err(kind.into()),
                None => {
                    lock(&self.text).extend_from_slice(bytes);
                    Ok(bytes.len())
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Stream {
        pub(crate) fn seen(&self) -> String {
            String::from_utf8(lock(&self.text).clone()).unwrap()
        }
    }

    /// A command's output without a terminal: data and the rest.
    pub(crate) fn kept(json: bool) -> (Ui, Stream, Stream) {
        ui(Look { json, ..Look::default() })
    }

    fn ui(look: Look) -> (Ui, Stream, Stream) {
        let (out, err) = (Stream::default(), Stream::default());
        (Ui::on(look, Box::new(out.clone()), Box::new(err.clone())), out, err)
    }

    fn sample() -> Error {
        Error::failed("migration 0007 failed")
            .details(["a.toml:1:1: wrong\n  1 | x".to_owned()])
            .why("no such table: orders\nat line 3")
            .state("production is as it was")
            .next("mend it, then: plimsoll deploy")
    }

    #[test]
    fn an_error_says_what_why_state_and_next() {
        let (ui, out, err) = ui(Look::default());
        ui.error(&sample());
        assert_eq!(out.seen(), "");
        insta::assert_snapshot!(err.seen(), @"
        error: migration 0007 failed

          a.toml:1:1: wrong
            1 | x

          why: no such table: orders
            at line 3
          state: production is as it was
          next: mend it, then: plimsoll deploy
        ");
    }

    #[test]
    fn with_json_an_error_is_one_object_on_stdout_too() {
        let (ui, out, err) = ui(Look { json: true, ..Look::default() });
        ui.error(&sample());
        let object: serde_json::Value = serde_json::from_str(out.seen().trim_end()).unwrap();
        assert_eq!(object["exit"], 1);
        assert_eq!(object["next"], "mend it, then: plimsoll deploy");
        assert!(err.seen().starts_with("error:"));
    }

    #[test]
    fn quiet_leaves_warnings_and_errors() {
        let (ui, out, err) = ui(Look { quiet: true, ..Look::default() });
        ui.say("hello");
        ui.aside("compiling");
        ui.observed(Verdict::Pass, "git", "");
        ui.progress("Build").done_after(Verdict::Pass, Duration::ZERO, "");
        assert_eq!(err.seen(), "");
        ui.warn("old");
        ui.data("x");
        assert_eq!((out.seen(), err.seen()), ("x\n".into(), "warning: old\n".into()));
    }

    #[test]
    fn a_step_is_one_plain_line_without_a_terminal() {
        let (ui, _, err) = ui(Look::default());
        let step = ui.progress("Build the release");
        step.at(1, 2, "pages");
        step.done_after(Verdict::Pass, Duration::from_millis(3_456), "12 files");
        ui.progress("given up");
        assert_eq!(err.seen(), "✓ Build the release  3.4 s  12 files\n");
    }

    #[test]
    fn colours_only_where_they_are_wanted() {
        let (ui, out, err) = ui(Look { colour_err: true, ..Look::default() });
        ui.observed(Verdict::Fail, "git", "not found");
        ui.data("data");
        assert!(err.seen().contains("\u{1b}[1m\u{1b}[31m✗\u{1b}[0m git"), "{:?}", err.seen());
        assert_eq!(out.seen(), "data\n");
    }

    #[test]
    fn a_childs_output_cannot_paint_the_terminal() {
        let (ui, _, err) = ui(Look::default());
        ui.aside("\u{1b}[31mred\u{1b}[0m\u{1b}]0;title\u{7}\rok\u{8}");
        assert_eq!(err.seen(), "    redok\n");
    }

    #[test]
    fn a_reader_that_went_away_is_no_error_and_a_full_disk_is() {
        for (kind, lost) in [(io::ErrorKind::BrokenPipe, false), (io::ErrorKind::StorageFull, true)] {
            let out = Stream { fails_with: Some(kind), ..Stream::default() };
            let ui = Ui::on(Look::default(), Box::new(out), Box::new(Stream::default()));
            ui.data("x");
            ui.data("y");
            assert_eq!(ui.lost_output().is_err(), lost, "{kind}");
        }
    }

    #[test]
    fn a_question_is_asked_until_it_is_answered() {
        let (ui, _, err) = ui(Look::default());
        for (typed, answer) in
            [("y\n", Some(true)), ("\n", Some(false)), ("what\nYES\n", Some(true)), ("", None)]
        {
            assert_eq!(ui.confirm_from("Deploy?", &mut typed.as_bytes()), answer, "{typed:?}");
        }
        assert!(err.seen().starts_with("Deploy? [y/N] "));
    }

    #[test]
    fn ages_are_short() {
        let words = |seconds| age_words(jiff::SignedDuration::from_secs(seconds));
        assert_eq!(
            [words(-5), words(59), words(60), words(7_200), words(172_800)],
            ["future", "59 s", "1 min", "2 h", "2 days"]
        );
    }

    #[test]
    fn times_and_sizes_are_short() {
        let words = |ms| took_words(Duration::from_millis(ms));
        assert_eq!(
            [words(0), words(999), words(59_999), words(125_000)],
            ["0 ms", "999 ms", "59.9 s", "2 m 05 s"]
        );
        assert_eq!(
            [size_words(0), size_words(1_023), size_words(1_024), size_words(3_600_000)].join(" "),
            "0 bytes 1023 bytes 1.0 KiB 3.4 MiB"
        );
        size_words(u64::MAX);
    }
}
