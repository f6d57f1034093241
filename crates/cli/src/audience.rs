//! Whoever looks on at a run: gets what happens, may ask it to stop, may be asked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_core::plan::{Decision, Rehearsal, Release};
use plimsoll_core::ports::{Audience, Failure, News};
use plimsoll_core::record::Answered;

use crate::people::Person;
use crate::wire::Reply;

/// A wish to stop the run, from any thread.
#[derive(Clone, Default)]
pub(crate) struct StopWish {
    asked: Arc<AtomicBool>,
    by: Arc<Mutex<String>>,
}

impl StopWish {
    /// Asks for it; the first to ask is named.
    pub(crate) fn ask(&self, by: &str) {
        let mut name = self.by.lock().unwrap_or_else(PoisonError::into_inner);
        if name.is_empty() {
            by.clone_into(&mut name);
        }
        self.asked.store(true, Ordering::SeqCst);
    }

    /// Who asked.
    pub(crate) fn by(&self) -> Option<String> {
        self.asked
            .load(Ordering::SeqCst)
            .then(|| self.by.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// The bare flag, for long operations that poll it.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.asked)
    }
}

/// Shows a reply; must not block and must not fail.
pub(crate) type Show = Arc<dyn Fn(&Reply) + Send + Sync>;
/// Asks a person; `None` when nobody answers.
pub(crate) type Ask = Arc<dyn Fn(&str) -> Option<Said> + Send + Sync>;
/// What people have said to a release, with whoever said yes to the question.
pub(crate) type Heard =
    Arc<dyn Fn(&Release, Option<&Person>) -> Result<Vec<Answered>, Failure> + Send + Sync>;

/// The answer to the question whether to go on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    /// Yes or no.
    pub(crate) yes: bool,
    /// Who: at the command, or on the page.
    pub(crate) by: Person,
}

/// The audience of one run.
#[derive(Clone)]
pub(crate) struct Onlooker {
    show: Show,
    ask: Option<Ask>,
    stop: StopWish,
    heard: Option<Heard>,
    /// Who said yes.
    approved: Arc<Mutex<Option<Person>>>,
}

impl Onlooker {
    /// An audience; without `ask` nobody is asked and the run goes ahead.
    pub(crate) fn new(show: Show, ask: Option<Ask>, stop: StopWish) -> Self {
        Onlooker { show, ask, stop, heard: None, approved: Arc::default() }
    }

    /// The same, for a run that people have something to say to.
    pub(crate) fn hearing(&self, heard: Heard) -> Onlooker {
        Onlooker { heard: Some(heard), ..self.clone() }
    }

    /// Nobody looks on.
    pub(crate) fn nobody() -> Self {
        Onlooker::new(Arc::new(|_| {}), None, StopWish::default())
    }

    /// The same, without a wish to stop and without questions: for the way back.
    pub(crate) fn deaf(&self) -> Onlooker {
        Onlooker::new(Arc::clone(&self.show), None, StopWish::default())
    }

    /// Its wish to stop.
    pub(crate) fn stop(&self) -> &StopWish {
        &self.stop
    }

    /// Shows a line of a child's output or a remark.
    pub(crate) fn line(&self, text: &str) {
        (self.show)(&Reply::Line { text: text.to_owned() });
    }

    /// Shows how far a long step is.
    pub(crate) fn progress(&self, done: u64, total: u64, unit: &str) {
        (self.show)(&Reply::Progress { done, total, unit: unit.to_owned() });
    }
}

impl Audience for Onlooker {
    fn show(&self, news: News<'_>) {
        match news {
            News::Entry(entry) => (self.show)(&Reply::Entry { entry: entry.clone() }),
            News::Line(text) => self.line(text),
            News::Progress { done, total, unit } => self.progress(done, total, unit),
        }
    }

    fn stop_asked(&self) -> Option<String> {
        self.stop.by()
    }

    fn go_ahead(&self, release: &Release, rehearsal: &Rehearsal, decision: &Decision) -> bool {
        let Some(ask) = &self.ask else { return true };
        let said = ask(&question(release, rehearsal, decision)).filter(|said| said.yes);
        let yes = said.is_some();
        *self.approved.lock().unwrap_or_else(PoisonError::into_inner) = said.map(|said| said.by);
        yes
    }

    fn answers(&self, release: &Release) -> Result<Vec<Answered>, Failure> {
        let Some(heard) = &self.heard else { return Ok(Vec::new()) };
        heard(release, self.approved.lock().unwrap_or_else(PoisonError::into_inner).as_ref())
    }
}

fn question(release: &Release, rehearsal: &Rehearsal, decision: &Decision) -> String {
    let mut text = format!("Bring {} live: {}", release.id, release.subject);
    for migration in &rehearsal.pending {
        let (version, description, class) = (migration.version, &migration.description, &migration.class);
        text.push_str(&format!("\n  migration {version:04} {description}: {class}, {} ms", migration.ms));
    }
    text.push_str(&format!("\n  strategy {}: {}", decision.strategy.word(), decision.reasons.join("; ")));
    text.push_str("\nGo ahead?");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_ask_for_a_stop_is_named() {
        let stop = StopWish::default();
        assert_eq!(stop.by(), None);
        stop.ask("Ctrl-C");
        stop.ask("serve is stopping");
        assert_eq!(stop.by().as_deref(), Some("Ctrl-C"));
        assert!(stop.flag().load(Ordering::SeqCst));
    }
}
