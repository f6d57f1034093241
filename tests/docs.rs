//! README and guides say what is true: their commands run, their configurations are accepted, their links lead somewhere.
//!
//! A ```console block below a line `<!-- run -->` is run, each `$ plimsoll …` line of it in order, a sandbox for each
//! file. Lines between the commands must be in what the command before them said.

use std::fs;
use std::path::{Path, PathBuf};

use plimsoll_testkit::Sandbox;
use regex::Regex;

use crate::sources::{files, workspace};

/// README and the guides, with their texts.
fn pages() -> Vec<(PathBuf, String)> {
    let root = workspace();
    let mut pages = files(&root.join("docs"), ".md");
    pages.push(root.join("README.md"));
    pages.push(root.join("shop/README.md"));
    pages.into_iter().map(|page| (page.clone(), fs::read_to_string(page).unwrap())).collect()
}

/// A command of a page and what it should say.
#[derive(Debug, PartialEq)]
struct Typed {
    arguments: Vec<String>,
    says: Vec<String>,
}

/// The commands of the marked blocks.
fn typed(page: &str) -> Vec<Typed> {
    let mut commands: Vec<Typed> = Vec::new();
    for part in page.split("<!-- run -->\n").skip(1) {
        let block =
            part.trim_start().strip_prefix("```console\n").expect("a mark stands above a console block");
        let block = block.split("```").next().unwrap_or_default();
        for line in block.lines().filter(|line| !line.is_empty()) {
            match (line.strip_prefix("$ plimsoll "), commands.last_mut()) {
                (Some(arguments), _) => {
                    let arguments = shell_words::split(arguments).unwrap();
                    commands.push(Typed { arguments, says: Vec::new() });
                }
                (None, Some(command)) => command.says.push(line.to_owned()),
                (None, None) => panic!("{line:?} belongs to no command"),
            }
        }
    }
    commands
}

/// Runs a page's commands where nothing runs yet when the page starts `serve` itself, else where a second release is
/// live. Returns how many there were.
fn run(commands: &[Typed]) -> usize {
    let sandbox = Sandbox::new();
    let starts_serve = |command: &Typed| command.arguments == ["serve", "&"];
    let mut serve = None;
    if !commands.iter().any(starts_serve) {
        serve = Some(sandbox.live());
        sandbox.release(r#"{ "page": "two" }"#, &[]);
        sandbox.deploy().exits(0);
    }
    for command in commands {
        if starts_serve(command) {
            serve = Some(sandbox.serve());
            continue;
        }
        let arguments: Vec<&str> = command.arguments.iter().map(String::as_str).collect();
        let output = sandbox.plimsoll(&arguments);
        output.exits(0);
        for line in &command.says {
            assert!(output.said().contains(line), "{command:?} said instead:\n{}", output.said());
        }
    }
    drop(serve);
    commands.len()
}

#[test]
fn the_commands_of_the_pages_do_what_the_pages_say() {
    let ran: usize = pages()
        .iter()
        .map(|(_, text)| typed(text))
        .filter(|commands| !commands.is_empty())
        .map(|commands| run(&commands))
        .sum();
    assert!(ran >= 8, "only {ran} commands were found in the pages");
}

#[test]
fn a_marked_block_is_read_with_what_its_commands_say() {
    let page = "x\n```console\n$ plimsoll no\n```\n<!-- run -->\n```console\n$ plimsoll status --json\nall is well\n\n$ plimsoll show\n```\n";
    let command = |arguments: &[&str], says: &[&str]| Typed {
        arguments: arguments.iter().map(ToString::to_string).collect(),
        says: says.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(typed(page), [command(&["status", "--json"], &["all is well"]), command(&["show"], &[])]);
}

#[test]
fn the_configurations_of_the_pages_have_no_mistakes() {
    let sandbox = Sandbox::new();
    let mut seen = 0;
    for (page, text) in pages() {
        let blocks = text.split("```toml\n").skip(1).filter_map(|part| part.split("```").next());
        for block in blocks.filter(|block| block.starts_with("[app]")) {
            let file = sandbox.root().join("from-a-page.toml");
            fs::write(&file, block).unwrap();
            // It names folders and users of another machine: only its form can be right or wrong here.
            let output = sandbox.plimsoll(&["--config", "from-a-page.toml", "check"]);
            assert_ne!(output.code, Some(2), "{}: {}", page.display(), output.said());
            seen += 1;
        }
    }
    assert!(seen >= 2, "only {seen} configurations were found in the pages");
}

#[test]
fn every_link_of_the_pages_leads_to_a_file() {
    let link = Regex::new(r"\]\(([^)#\s]+)[^)]*\)").unwrap();
    let mut seen = 0;
    for (page, text) in pages() {
        let folder = page.parent().unwrap_or(Path::new("."));
        for target in link.captures_iter(&text).map(|found| found[1].to_owned()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            assert!(folder.join(&target).exists(), "{}: {target} is not there", page.display());
            seen += 1;
        }
    }
    assert!(seen >= 10, "only {seen} links were found in the pages");
}

#[test]
fn the_reference_of_commands_is_what_the_program_says_now() {
    let sandbox = Sandbox::new();
    let output = sandbox.plimsoll(&["man", "--markdown"]);
    output.exits(0);
    let written = fs::read_to_string(workspace().join("docs/cli.md")).unwrap_or_default();
    assert!(written == output.stdout, "make docs/cli.md anew: plimsoll man --markdown > docs/cli.md");
}

/// A rule that is in the code and not in the table is one that nobody can look up.
#[test]
fn every_rule_of_migrations_is_in_the_guide_with_where_it_shows() {
    let rule = Regex::new(r#": Rule = Rule\(\s*"([a-z-]+)""#).unwrap();
    let guide = fs::read_to_string(workspace().join("docs/guides/migrations.md")).unwrap();
    let mut seen = 0;
    for file in files(&workspace().join("crates/host/src"), ".rs") {
        let text = fs::read_to_string(&file).unwrap();
        for found in rule.captures_iter(&text) {
            let row = guide
                .lines()
                .find(|line| line.starts_with("| ") && line.contains(&format!("`{}`", &found[1])));
            assert!(row.is_some(), "{} of {} is not in docs/guides/migrations.md", &found[1], file.display());
            seen += 1;
        }
    }
    assert!(seen > 35, "only {seen} rules were found");
}

#[test]
fn completions_and_manual_pages_are_made_for_every_command() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        sandbox.plimsoll(&["completions", shell]).exits(0).says("rollback");
    }
    sandbox.plimsoll(&["man"]).exits(0).says(".TH plimsoll 1");
    sandbox.plimsoll(&["man", "--dir", "pages"]).exits(0);
    let page = sandbox.read("pages/plimsoll-sign.1");
    assert!(page.contains("deployer"), "{page}");
}

#[test]
fn serve_logs_json_lines_when_asked() {
    let sandbox = Sandbox::new();
    let serving = sandbox.start(&["serve", "--json"]);
    serving.until_said("there is no release yet");
    for line in serving.stderr().lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["at"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    serving.signal(rustix::process::Signal::TERM);
    serving.wait().exits(0);
}
