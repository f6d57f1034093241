//! `completions`, `man`: made from the definition of the command line, so that they cannot be behind it.

use std::fmt::Write as _;
use std::io;

use clap::{Arg, Command, CommandFactory};

use crate::args::{Args, CompletionsArgs, ManArgs};
use crate::error::Error;
use crate::ui::Ui;

/// `plimsoll completions SHELL`
pub(crate) fn completions(args: &CompletionsArgs, ui: &Ui) -> Result<(), Error> {
    let mut bytes = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "plimsoll", &mut bytes);
    ui.data(&String::from_utf8_lossy(&bytes));
    Ok(())
}

/// `plimsoll man`
pub(crate) fn man(args: &ManArgs, ui: &Ui) -> Result<(), Error> {
    let command = Args::command();
    if args.markdown {
        ui.data(&reference(command));
        return Ok(());
    }
    let failed = |error: io::Error| Error::failed("the manual cannot be written").why(error.to_string());
    let Some(folder) = &args.dir else {
        let mut bytes = Vec::new();
        clap_mangen::Man::new(command).render(&mut bytes).map_err(failed)?;
        ui.data(&String::from_utf8_lossy(&bytes));
        return Ok(());
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(command, folder).map_err(failed)
}

/// The reference as Markdown: every command with its options.
fn reference(mut command: Command) -> String {
    command.build();
    let mut out =
        "# Commands\n\nMade by `plimsoll man --markdown`; a test fails when it is not current.\n".to_owned();
    section(&mut out, &command, "plimsoll", 2);
    out
}

fn section(out: &mut String, command: &Command, path: &str, level: usize) {
    let _ = writeln!(out, "\n{} `{path}`\n", "#".repeat(level.min(4)));
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        let _ = writeln!(out, "{}\n", about.to_string().trim());
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = writeln!(out, "```text\n{usage}\n```\n");
    let shown = |arg: &&Arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str());
    // The global options stand once, at the top.
    let here = command.get_arguments().filter(shown).filter(|arg| level == 2 || !arg.is_global_set());
    let arguments: Vec<&Arg> = here.collect();
    if !arguments.is_empty() {
        out.push_str("| option | meaning |\n|---|---|\n");
        for arg in arguments {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
            let values: Vec<String> =
                arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
            let flag = arg.get_action().takes_values();
            let values =
                if values.is_empty() || !flag { String::new() } else { format!(" ({})", values.join(", ")) };
            let _ = writeln!(out, "| `{}` | {}{values} |", name(arg), help.replace('\n', " "));
        }
        out.push('\n');
    }
    if let Some(help) = command.get_after_long_help() {
        let help = help.to_string();
        let help = help.strip_prefix("Examples:\n").unwrap_or(&help);
        let lines: Vec<&str> = help.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
        let _ = writeln!(out, "```text\n{}\n```", lines.join("\n").trim());
    }
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
    {
        section(out, below, &format!("{path} {}", below.get_name()), level + 1);
    }
}

fn name(arg: &Arg) -> String {
    let value = arg
        .get_value_names()
        .map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    let value = value.filter(|_| arg.get_action().takes_values()).unwrap_or_default();
    let flags: Vec<String> = arg
        .get_short()
        .map(|short| format!("-{short}"))
        .into_iter()
        .chain(arg.get_long().map(|long| format!("--{long}")))
        .collect();
    match (flags.is_empty(), value.is_empty()) {
        (true, _) => value,
        (false, true) => flags.join(", "),
        (false, false) => format!("{} {value}", flags.join(", ")),
    }
}
