//! One message: what it says, and where it is on its way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use plimsoll_core::check::Verdict;
use plimsoll_core::notify::{Delivery, Occasion, Told, Way};
use plimsoll_core::plan::Release;
use plimsoll_core::record::{Ending, Kind, State};
use serde::{Deserialize, Serialize};

use super::report_of;

/// A message as it lies in the outbox. Holds no secret: addresses of webhooks and passwords are looked up when it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    /// Whom it is for, and what became of it.
    pub told: Told,
    /// The app.
    pub app: String,
    /// The run; 0 for a test message.
    pub run: u32,
    /// The release, if it has a number.
    pub release: Option<String>,
    /// One line.
    pub subject: String,
    /// The whole message.
    pub text: String,
    /// The report to go with it; left out when it is not there.
    pub report: Option<PathBuf>,
    /// Role to name, phone, hours.
    pub contacts: BTreeMap<String, String>,
    /// When it was put down, seconds since 1970.
    pub put_at: i64,
    /// When it is tried next, seconds since 1970.
    pub due_at: i64,
}

impl Letter {
    /// What is said of a run.
    #[must_use]
    pub fn of(
        app: &str,
        contacts: &BTreeMap<String, String>,
        runs: &Path,
        occasion: Occasion,
        state: &State,
    ) -> Letter {
        let run = state.order.as_ref().map_or(0, |order| order.run);
        let release = state.release.as_ref().map(|release| release.id.0.clone());
        let named = release.clone().map_or_else(|| format!("run {run}"), |id| format!("release {id}"));
        let back = state.order.as_ref().is_some_and(|order| order.kind == Kind::Rollback);
        let what = match occasion {
            Occasion::Planned if back => format!("the rollback to {named} is planned"),
            Occasion::Planned => format!("{named} is going to be deployed"),
            Occasion::Started if back => format!("the rollback to {named} has begun"),
            Occasion::Started => format!("the deployment of {named} has begun"),
            Occasion::Done => format!("{named} is live"),
            Occasion::Failed if back => format!("the rollback to {named} failed"),
            Occasion::Failed if serves_on(state) => format!("{named} turned bad and goes on serving"),
            Occasion::Failed => format!("{named} failed"),
            Occasion::RolledBack if back => format!("rolled back to {named}"),
            Occasion::RolledBack => format!("{named} was rolled back"),
            Occasion::Signed => format!("{named} was signed off"),
            Occasion::Alarm => format!("{named} needs a look"),
        };
        let text = words(&what, contacts, runs, occasion, state);
        Letter::new(app, contacts, occasion, run, release, &what, text, Some(report_of(runs, run)))
    }

    /// What is said of a release that turned bad and was rolled back by itself: all that somebody who is woken by it wants
    /// to know, in the order in which they ask. `bad` is its run, `back` the rollback's.
    #[must_use]
    pub fn taken_back(
        app: &str,
        contacts: &BTreeMap<String, String>,
        runs: &Path,
        bad: &State,
        back: &State,
    ) -> Letter {
        let name = |release: Option<&Release>| release.map_or_else(String::new, |r| r.id.0.clone());
        let (was, now) = (name(bad.release.as_ref()), name(back.release.as_ref()));
        let run = bad.order.as_ref().map_or(0, |order| order.run);
        let what = format!("release {was} turned bad and was rolled back; {now} serves again");
        let why = bad.taken_back.as_ref().map_or("", |(_, why)| why.as_str());
        let carried = back.rehearsal.as_ref().is_some_and(|rehearsal| rehearsal.carry.is_some());
        let safe = match carried {
            true => "safe: what users wrote since the deployment was carried over into the data from before",
            false => "safe: the code alone went back, the database stayed as it was",
        };
        let mut text = format!("{}.\n\n", sentence(&what));
        line(&mut text, "Why", why);
        line(&mut text, "Orders", safe);
        line(&mut text, "Now", &format!("{now} has all users; nothing needs to be done at once"));
        line(&mut text, "Locked", "nothing can be deployed until somebody says why it may go on");
        line(
            &mut text,
            "Next",
            &format!("plimsoll show {run} has the evidence, plimsoll status how things are"),
        );
        line(&mut text, "", "when it is mended: plimsoll deploy --unlock \"WHY\"");
        text.push('\n');
        add_release(&mut text, bad);
        if let (Some(order), Some(back)) = (&bad.order, &back.order) {
            line(
                &mut text,
                "Run",
                &format!("{}, asked by {}; rolled back by run {}", run, order.by, back.run),
            );
        }
        let report = report_of(runs, run);
        if report.exists() {
            line(&mut text, "Report", &report.display().to_string());
        }
        add_contacts(&mut text, contacts);
        let release = bad.release.as_ref().map(|release| release.id.0.clone());
        Letter::new(app, contacts, Occasion::RolledBack, run, release, &what, text, Some(report))
    }

    /// A message that says only that it arrives.
    #[must_use]
    pub fn test(app: &str, contacts: &BTreeMap<String, String>) -> Letter {
        let mut text = "This is a test: whoever reads it will be told of deployments.\n".to_owned();
        add_contacts(&mut text, contacts);
        Letter::new(app, contacts, Occasion::Planned, 0, None, "a test message", text, None)
    }

    #[allow(clippy::too_many_arguments, reason = "each is one field of it")]
    fn new(
        app: &str,
        contacts: &BTreeMap<String, String>,
        occasion: Occasion,
        run: u32,
        release: Option<String>,
        what: &str,
        text: String,
        report: Option<PathBuf>,
    ) -> Letter {
        let now = Timestamp::now();
        // Unique in the app: a run tells of the same occasion once, but alarms and tests come again. The time comes
        // first: messages of one second are sent in the order of their names.
        let id = format!("{run:06}-{}-{}", now.as_millisecond(), occasion.word());
        let told = Told {
            id,
            group: String::new(),
            way: Way::Mail,
            to: String::new(),
            occasion,
            delivery: Delivery::Queued,
            attempts: 0,
            why: String::new(),
        };
        let subject = format!("[{app}] {}", one_line(what));
        let (put_at, due_at) = (now.as_second(), now.as_second());
        let (app, contacts) = (app.to_owned(), contacts.clone());
        Letter { told, app, run, release, subject, text, report, contacts, put_at, due_at }
    }

    /// Addresses it.
    pub(super) fn address(&mut self, group: &str, way: Way, to: String) {
        let safe: String = group.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        self.told.id = format!("{}-{safe}-{}", self.told.id, way.word());
        (self.told.group, self.told.way, self.told.to) = (group.to_owned(), way, to);
    }
}

/// Line ends in a commit's first line would become headers of a mail.
fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_control()).collect::<Vec<_>>().join(" ")
}

/// Whether a run's release is bad and has all users still.
fn serves_on(state: &State) -> bool {
    state.locked.is_some() && matches!(state.ended, Some((Ending::Live, ..)))
}

fn sentence(what: &str) -> String {
    let mut first = what.chars();
    first.next().into_iter().flat_map(char::to_uppercase).chain(first).collect()
}

fn line(text: &mut String, label: &str, value: &str) {
    if !value.is_empty() {
        text.push_str(&format!("{label:<12}{}\n", one_line(value)));
    }
}

fn add_release(text: &mut String, state: &State) {
    if let Some(release) = &state.release {
        line(text, "Changes", &release.subject);
        line(text, "Author", &release.author);
        line(text, "Commit", &release.commit);
    }
}

fn words(
    what: &str,
    contacts: &BTreeMap<String, String>,
    runs: &Path,
    occasion: Occasion,
    state: &State,
) -> String {
    let mut text = format!("{}.\n", sentence(what));
    add_release(&mut text, state);
    let mut line = |label: &str, value: &str| line(&mut text, label, value);
    if let Some(order) = &state.order {
        line("Run", &format!("{} {}", order.kind.word(), order.run));
        line("Asked by", &order.by);
        line("Before", order.from.as_ref().map_or("nothing", |id| &id.0));
    }
    if let Some(decision) = &state.decision {
        line("Strategy", &format!("{}: {}", decision.strategy.word(), decision.reasons.join("; ")));
        if decision.predicted_hold_ms > 0 && matches!(occasion, Occasion::Planned | Occasion::Started) {
            line("Users wait", &format!("about {} ms", decision.predicted_hold_ms));
        }
    }
    if let Some((_, _, message)) = &state.ended {
        line("Result", message);
    }
    if let Some(failure) = state.undoing.as_ref().or(state.failure.as_ref().map(|(_, failure)| failure)) {
        line("Why", &failure.to_string());
        let now = "look at it now: plimsoll watch; go back with: plimsoll rollback";
        line("Next", if serves_on(state) { now } else { &failure.next });
    }
    if let Some(why) = &state.locked {
        line("Locked", why);
    }
    let failed: Vec<&str> = state
        .checks
        .iter()
        .filter(|(_, check)| check.verdict == Verdict::Fail)
        .map(|(_, check)| check.name.as_str())
        .collect();
    line("Failed", &failed.join("; "));
    for warning in &state.warnings {
        line("Warning", warning);
    }
    if let Some(order) = &state.order {
        let report = report_of(runs, order.run);
        if state.ended.is_some() && report.exists() {
            line("Report", &report.display().to_string());
        }
        line("More", &format!("plimsoll show {}", order.run));
    }
    add_contacts(&mut text, contacts);
    text
}

fn add_contacts(text: &mut String, contacts: &BTreeMap<String, String>) {
    if contacts.is_empty() {
        return;
    }
    text.push_str("\nContacts\n");
    for (role, person) in contacts {
        text.push_str(&format!("  {role}: {}\n", one_line(person)));
    }
}
