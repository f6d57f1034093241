//! `answer` and `sign`: what people say to a run. A client of `plimsoll serve` where it runs; else the command takes the
//! lock itself.

use plimsoll_core::record::{Role, State};
use plimsoll_host::journal::Runs;
use plimsoll_proxy::control::{self, ControlError};
use serde_json::json;

use crate::args::{AnswerArgs, SignArgs, SignAs};
use crate::config::Config;
use crate::error::Error;
use crate::follow::{self, Follow};
use crate::ledger::Ledger;
use crate::people::{Person, Say, open_questions};
use crate::station;
use crate::ui::Ui;
use crate::wire::{Reply, Request};

/// `plimsoll answer`
pub(crate) fn answer(config: &Config, args: &AnswerArgs, ui: &Ui) -> Result<(), Error> {
    let (Some(item), Some(text), Some(name)) = (&args.item, &args.text, &args.by) else {
        return questions(config, args.run, ui);
    };
    let by = Person { name: name.clone(), account: station::person() };
    if item == "go-ahead" {
        let yes = match text.to_lowercase().as_str() {
            "yes" | "y" => true,
            "no" | "n" => false,
            _ => return Err(Error::usage("go-ahead is answered with yes or no")),
        };
        return say(config, &Request::GoAhead { yes, by }, ui);
    }
    let what = Say::Answer { item: item.clone(), text: text.clone(), by };
    say(config, &Request::Say { run: args.run, what }, ui)
}

/// `plimsoll sign`
pub(crate) fn sign(config: &Config, args: &SignArgs, ui: &Ui) -> Result<(), Error> {
    let role = match args.role {
        SignAs::Deployer => Role::Deployer,
        SignAs::Verifier => Role::Verifier,
    };
    let by = Person { name: args.name.clone(), account: station::person() };
    let what = Say::Sign { role, note: args.note.clone(), by };
    say(config, &Request::Say { run: args.run, what }, ui)
}

fn say(config: &Config, request: &Request, ui: &Ui) -> Result<(), Error> {
    let failed = |error: ControlError| {
        Error::usage("`plimsoll serve` could not be asked")
            .why(error.to_string())
            .state("nothing was recorded by this command")
            .next("run it as the user who runs `plimsoll serve`, or as root")
    };
    let reply = match control::connect(&station::socket(config)) {
        Ok(mut client) => {
            client.send(&json!(request)).map_err(failed)?;
            let value = client.next().transpose().map_err(failed)?.unwrap_or_default();
            serde_json::from_value::<Reply>(value).map_err(|error| {
                Error::usage("`plimsoll serve` answered something unknown")
                    .why(error.to_string())
                    .next("use the same version for `plimsoll serve` and for commands: plimsoll --version")
            })?
        }
        Err(ControlError::NoServer { .. }) => {
            let Request::Say { run, what } = request else {
                return Err(Error::usage("no run waits for an answer")
                    .why("`plimsoll serve` is not running, and no deployment is going on in it")
                    .next("plimsoll status"));
            };
            let _lock = station::own(config, "answer")?;
            Ledger::new(config).hear(*run, what.clone())
        }
        Err(error) => return Err(failed(error)),
    };
    Follow::new(ui).reply(reply).unwrap_or(Ok(()))
}

/// The questions that are open.
fn questions(config: &Config, run: Option<u32>, ui: &Ui) -> Result<(), Error> {
    let runs = Runs::of(&config.app.root);
    let unreadable = |error: plimsoll_host::journal::Error| follow::plain(error.into());
    let numbers = runs.list().map_err(unreadable)?;
    let Some(run) = run.or(numbers.last().copied()) else {
        ui.say("there are no runs yet");
        return Ok(());
    };
    if !numbers.contains(&run) {
        return Err(Error::usage(format!("there is no run {run}")).next("list them with: plimsoll history"));
    }
    let state = State::fold(&runs.entries(run).map_err(unreadable)?);
    let open = open_questions(&state, &config.people);
    for question in &open {
        if ui.is_json() {
            ui.object(&json!({
                "run": run, "item": question.item, "title": question.title, "required": question.required,
            }));
        } else {
            let required = if question.required { "  (required)" } else { "" };
            ui.data(&format!("{:<14}  {}{required}", question.item, question.title));
        }
    }
    let signed = |role| state.signed(role).is_some();
    let unsigned = [Role::Deployer, Role::Verifier].into_iter().filter(|role| !signed(*role));
    let unsigned: Vec<&str> = unsigned.map(Role::word).collect();
    match (open.is_empty(), unsigned.as_slice()) {
        (_, []) => ui.say(&format!("run {run} is signed and closed")),
        (empty, unsigned) => {
            let open = if empty { "no question is open, " } else { "" };
            ui.say(&format!("run {run}: {open}not signed yet by {}", unsigned.join(" and ")));
        }
    }
    Ok(())
}
