//! Whoever looks on at a run: gets what happens, may ask it to stop, may be asked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use plimsoll_core::plan::{Decision, Rehearsal, Release};
use plimsoll_core::ports::{Audience, News};

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
/// Asks a person; `false` when nobody answers.
pub(crate) type Ask = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The audience of one run.
#[derive(Clone)]
pub(crate) struct Onlooker {
    show: Show,
    ask: Option<Ask>,
    stop: StopWish,
}

impl Onlooker {
    /// An audience; without `ask` nobody is asked and the run goes ahead.
    pub(crate) fn new(show: Show, ask: Option<Ask>, stop: StopWish) -> Self {
        Onlooker { show, ask, stop }
    }

    /// The same, without a wish to stop and without questions: for the way back.
    pub(crate) fn deaf(&self) -> Onlooker {
        Onlooker { show: Arc::clone(&self.show), ask: None, stop: StopWish::default() }
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
        ask(&question(release, rehearsal, decision))
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
