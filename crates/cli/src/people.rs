//! What people say to a run: which questions there are, who may sign, what must be there before something goes on.

use plimsoll_core::checklist::{self, ITEMS, Who};
use plimsoll_core::ports::{Failure, FailureKind};
use plimsoll_core::record::{Answered, Ending, Event, Kind, Role, Signed, State, exit};
use serde::{Deserialize, Serialize};

use crate::config::People;

/// A person: the name that they gave, and who that is for the system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Person {
    /// As it goes into the report.
    pub(crate) name: String,
    /// The account, or how they came in.
    pub(crate) account: String,
}

/// What somebody says to a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(crate) enum Say {
    /// An answer to a question of the checklist.
    Answer {
        /// The box's id.
        item: String,
        /// The answer.
        text: String,
        /// Who.
        by: Person,
    },
    /// A signature.
    Sign {
        /// As what.
        role: Role,
        /// Issues and their resolution.
        note: Option<String>,
        /// Who.
        by: Person,
    },
}

/// A question that nobody has answered.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Question {
    /// The box's id.
    pub(crate) item: &'static str,
    /// What is asked.
    pub(crate) title: &'static str,
    /// Whether something waits for it.
    pub(crate) required: bool,
}

/// What is asked about this run and not answered, in the order of the paper.
pub(crate) fn open_questions(state: &State, rules: &People) -> Vec<Question> {
    let deploys = state.order.as_ref().is_some_and(|order| order.kind != Kind::Rehearse);
    if state.is_closed() || !deploys {
        return Vec::new();
    }
    let well = state.ended.as_ref().is_none_or(|(_, code, _)| *code == exit::DONE);
    let untouched = matches!(state.ended, Some((Ending::Unchanged, ..)));
    let asked = ITEMS.iter().filter(|item| match item.id {
        "pre.review" => state.order.as_ref().is_some_and(|order| order.kind == Kind::Deploy),
        // Of what users saw nothing there is nothing that they could report.
        "watch.reports" => !untouched,
        "diag.post" => !well,
        _ => false,
    });
    let open = asked.filter(|item| state.answer(item.id).is_none());
    let required = |id: &str| rules.required.iter().any(|required| required == id);
    open.map(|item| Question { item: item.id, title: item.title, required: required(item.id) }).collect()
}

/// The event for what somebody says, or why it cannot be said.
///
/// # Errors
/// [`FailureKind::Usage`] for what can never be said so, [`FailureKind::Blocked`] for what somebody else must say first.
pub(crate) fn event(run: u32, state: &State, rules: &People, say: Say) -> Result<Event, Failure> {
    if let (Some((at, deployer)), Some((_, verifier))) =
        (state.signed(Role::Deployer), state.signed(Role::Verifier))
    {
        let why = format!("{} and {} signed it; the first of them at {at}", deployer.name, verifier.name);
        return Err(usage(format!("run {run} is closed"), why, "what comes later belongs to a later run"));
    }
    match say {
        Say::Answer { item, text, by } => {
            let asked = checklist::find(&item).filter(|item| item.who != Who::Auto);
            match asked {
                None => Err(usage(
                    format!("`{item}` is no question to a person"),
                    "the other boxes are filled in with what was seen",
                    "one of: pre.review, watch.reports, diag.post (plimsoll answer lists those that are open)",
                )),
                Some(item) if item.id == "after.sign" => Err(usage(
                    "a signature is no answer",
                    "it has a role and a name",
                    "plimsoll sign --as deployer --name NAME",
                )),
                Some(_) => {
                    let answer = Answered { item, text, by: by.name, account: by.account, run: None };
                    Ok(Event::Answered { answer })
                }
            }
        }
        Say::Sign { role, note, by } => sign(run, state, rules, role, note, by),
    }
}

fn sign(
    run: u32,
    state: &State,
    rules: &People,
    role: Role,
    note: Option<String>,
    by: Person,
) -> Result<Event, Failure> {
    if !state.is_over() {
        return Err(blocked(
            format!("run {run} has not ended"),
            "there is nothing to sign yet",
            "wait for it: plimsoll status",
        ));
    }
    if let Some((at, signature)) = state.signed(role) {
        return Err(usage(
            format!("run {run} is signed already as {}", role.word()),
            format!("by {} at {at}", signature.name),
            "add what is missing as an answer: plimsoll answer watch.reports TEXT --by NAME",
        ));
    }
    let other = match role {
        Role::Deployer => Role::Verifier,
        Role::Verifier => Role::Deployer,
    };
    if let Some((_, signature)) = state.signed(other).filter(|_| !rules.same_person)
        && same(&signature.name, &by.name)
    {
        return Err(blocked(
            format!("{} has signed this run as {}", signature.name, other.word()),
            "deployer and verifier are two people",
            "let somebody else sign, or set [people].same_person = true",
        ));
    }
    if role == Role::Verifier {
        let open = open_questions(state, rules);
        let missing: Vec<&str> = open.iter().filter(|q| q.required).map(|q| q.item).collect();
        if !missing.is_empty() {
            return Err(missing_answers(&missing, Some(run)));
        }
    }
    Ok(Event::Signed { signature: Signed { role, name: by.name, note, account: by.account } })
}

/// "Asha Rao" and " asha  rao" are one person.
fn same(one: &str, other: &str) -> bool {
    let plain = |name: &str| name.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>();
    plain(one) == plain(other)
}

/// The questions that must be answered before production is touched, and are not.
pub(crate) fn missing_before(rules: &People, answers: &[Answered]) -> Vec<String> {
    let before = rules.required.iter().filter(|item| item.starts_with("pre."));
    before.filter(|item| !answers.iter().any(|answer| answer.item == **item)).cloned().collect()
}

/// What somebody still has to answer.
pub(crate) fn missing_answers(items: &[&str], run: Option<u32>) -> Failure {
    let titles: Vec<&str> = items.iter().filter_map(|id| Some(checklist::find(id)?.title)).collect();
    let run = run.map_or_else(String::new, |run| format!(" --run {run}"));
    let then = if items.iter().any(|item| item.starts_with("pre.")) { "; then deploy again" } else { "" };
    blocked(
        format!("an answer is missing: {}", items.join(", ")),
        format!("[people].required asks for it: {}", titles.join("; ")),
        format!("plimsoll answer {} TEXT --by NAME{run}{then}", items.first().unwrap_or(&"ITEM")),
    )
}

fn usage(what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Failure {
    Failure::failed(what, why, next).of_kind(FailureKind::Usage)
}

fn blocked(what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Failure {
    Failure::failed(what, why, next).of_kind(FailureKind::Blocked)
}

#[cfg(test)]
mod tests {
    use plimsoll_core::ports::Moment;
    use plimsoll_core::record::{Entry, FORMAT, Order};

    use super::*;

    fn over(code: u8) -> State {
        let mut state = State {
            order: Some(Order {
                kind: Kind::Deploy,
                app: "shop".into(),
                run: 1,
                by: "root".into(),
                asked: None,
                from: None,
                to: None,
                acknowledged: Vec::new(),
                watch: false,
                unlock: None,
                tool: String::new(),
                format: FORMAT,
                boot: String::new(),
            }),
            ..State::default()
        };
        state.ended = Some((if code == 0 { Ending::Live } else { Ending::Undone }, code, String::new()));
        state
    }

    fn person(name: &str) -> Person {
        Person { name: name.into(), account: "root".into() }
    }

    fn apply(state: &mut State, rules: &People, say: Say) -> Result<(), FailureKind> {
        let event = event(1, state, rules, say).map_err(|failure| failure.kind)?;
        let at = "2026-11-23T00:00:00.000Z".to_owned();
        state.apply(&Entry { seq: state.next_seq, at, moment: Moment(0), event });
        Ok(())
    }

    fn signs(role: Role, name: &str) -> Say {
        Say::Sign { role, note: None, by: person(name) }
    }

    fn answers(item: &str) -> Say {
        Say::Answer { item: item.into(), text: "none".into(), by: person("Asha") }
    }

    #[test]
    fn deployer_and_verifier_are_two_people_unless_it_is_configured() {
        let mut state = over(0);
        let rules = People::default();
        apply(&mut state, &rules, signs(Role::Deployer, "Asha Rao")).unwrap();
        assert_eq!(apply(&mut state, &rules, signs(Role::Deployer, "Ravi")), Err(FailureKind::Usage));
        for name in ["Asha Rao", " asha  RAO"] {
            assert_eq!(apply(&mut state, &rules, signs(Role::Verifier, name)), Err(FailureKind::Blocked));
        }
        let alone = People { same_person: true, ..People::default() };
        apply(&mut state.clone(), &alone, signs(Role::Verifier, "Asha Rao")).unwrap();
        apply(&mut state, &rules, signs(Role::Verifier, "Ravi")).unwrap();
        assert!(state.is_closed());
        assert_eq!(apply(&mut state, &rules, answers("watch.reports")), Err(FailureKind::Usage));
    }

    #[test]
    fn a_required_answer_comes_before_the_verifiers_signature_and_not_before_the_deployers() {
        let mut state = over(0);
        let rules = People { required: vec!["watch.reports".into()], same_person: false };
        apply(&mut state, &rules, signs(Role::Deployer, "Asha")).unwrap();
        assert_eq!(apply(&mut state, &rules, signs(Role::Verifier, "Ravi")), Err(FailureKind::Blocked));
        apply(&mut state, &rules, answers("watch.reports")).unwrap();
        apply(&mut state, &rules, signs(Role::Verifier, "Ravi")).unwrap();
    }

    #[test]
    fn only_questions_to_people_can_be_answered_and_an_open_run_not_be_signed() {
        let mut state = over(0);
        let rules = People::default();
        for item in ["backup.create", "nonsense", "after.sign"] {
            assert_eq!(apply(&mut state, &rules, answers(item)), Err(FailureKind::Usage), "{item}");
        }
        state.ended = None;
        assert_eq!(apply(&mut state, &rules, signs(Role::Deployer, "Asha")), Err(FailureKind::Blocked));
        apply(&mut state, &rules, answers("pre.review")).unwrap();
    }

    #[test]
    fn a_failed_run_asks_for_its_post_mortem_and_a_good_one_does_not() {
        let items = |state: &State| -> Vec<&str> {
            open_questions(state, &People::default()).iter().map(|question| question.item).collect()
        };
        assert_eq!(items(&over(0)), ["pre.review", "watch.reports"]);
        assert_eq!(items(&over(1)), ["pre.review", "watch.reports", "diag.post"]);
        assert_eq!(items(&State::default()), [""; 0]);
    }
}
