//! One file a command.

mod adopt;
mod audit;
mod backup;
mod check;
mod confine;
mod deploy;
mod diagnose;
mod history;
mod init;
mod install;
mod manual;
mod migrate;
mod notify_test;
mod people;
mod serve;
mod verify;
mod watch;

use std::sync::Arc;

pub(crate) use confine::confine;

use crate::args::{Args, Command};
use crate::config::Config;
use crate::error::Error;
use crate::ui::Ui;

/// Does what was asked for.
pub(crate) fn run(args: &Args, ui: &Arc<Ui>) -> Result<(), Error> {
    let config = || {
        let file = Config::locate(&args.global.directory, args.global.config.as_deref());
        Config::load(&file)
    };
    match &args.command {
        Command::Init(init) => init::init(&args.global, init, ui),
        Command::Adopt(adopt) => adopt::adopt(&args.global, adopt, ui),
        Command::Check => check::check(&args.global, ui),
        Command::Install(install) => install::install(&config()?, install, ui),
        Command::Uninstall(uninstall) => install::uninstall(&config()?, uninstall, ui),
        Command::Serve => serve::run(&config()?, ui),
        Command::Deploy(deploy) => deploy::deploy(&config()?, deploy, ui),
        Command::Plan(plan) => deploy::plan(&config()?, plan, ui),
        Command::Rehearse(rehearse) => deploy::rehearse(&config()?, rehearse, ui),
        Command::Rollback(rollback) => deploy::rollback(&config()?, rollback, ui),
        Command::Resume => deploy::resume(&config()?, ui),
        Command::Status => history::status(&config()?, ui),
        Command::Watch(watch) => watch::watch(&config()?, watch, ui),
        Command::NotifyTest => notify_test::notify_test(&config()?, ui),
        Command::History => history::history(&config()?, ui),
        Command::Show(show) => history::show(&config()?, show, ui),
        Command::Answer(answer) => people::answer(&config()?, answer, ui),
        Command::Sign(sign) => people::sign(&config()?, sign, ui),
        Command::Diagnose(diagnose) => diagnose::diagnose(&config()?, diagnose, &args.global.directory, ui),
        Command::Completions(completions) => manual::completions(completions, ui),
        Command::Man(man) => manual::man(man, ui),
        Command::Audit => audit::audit(&config()?, ui),
        Command::Backup(backup) => backup::backup(&args.global, backup, ui),
        Command::Migrate(migrate) => migrate::migrate(&args.global, migrate, ui),
        Command::Verify(verify) => verify::verify(&args.global, verify, ui),
        Command::Confine(_) => Err(Error::usage("this is for Plimsoll's own use")),
    }
}
