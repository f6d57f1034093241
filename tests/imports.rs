//! Who may import whom. Cargo refuses a cycle between crates; between the modules of a crate it is this test that does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use toml::{Table, Value};

use crate::sources::{files, module, paths, test_modules, tokens, workspace};

/// Our crates: where they are, and which of ours each may import. `testkit` is for tests only.
const CRATES: [(&str, &str, &[&str]); 8] = [
    ("plimsoll-core", "crates/core", &[]),
    ("plimsoll-host", "crates/host", &["plimsoll-core"]),
    ("plimsoll-proxy", "crates/proxy", &["plimsoll-core", "plimsoll-host"]),
    ("plimsoll-dashboard", "crates/dashboard", &["plimsoll-core"]),
    ("plimsoll", "crates/cli", &["plimsoll-core", "plimsoll-host", "plimsoll-proxy", "plimsoll-dashboard"]),
    ("plimsoll-testkit", "crates/testkit", &[]),
    ("greengrocer", "shop", &[]),
    ("razorpay-simulator", "simulator", &[]),
];

/// The modules of the core, and which others each may import.
const CORE: [(&str, &[&str]); 10] = [
    ("check", &[]),
    ("plan", &[]),
    ("checklist", &[]),
    ("notify", &[]),
    ("reconcile", &["check"]),
    ("watch", &["check"]),
    ("ports", &["plan", "check", "record", "notify", "reconcile"]),
    ("record", &["plan", "check", "ports", "notify", "watch", "reconcile"]),
    ("engine", &["plan", "check", "record", "ports", "checklist", "notify", "reconcile"]),
    // Records hold failures, which are ports' values; the ports themselves are none of a report's business.
    (
        "report",
        &[
            "plan",
            "check",
            "record",
            "checklist",
            "notify",
            "watch",
            "reconcile",
            "ports::Failure",
            "ports::FailureKind",
        ],
    ),
];

/// Every rule that the workspace at `root` breaks, in words.
fn violations(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    crates(root, &mut found);
    core(root, &mut found);
    commands(root, &mut found);
    streams(root, &mut found);
    found
}

fn crates(root: &Path, found: &mut Vec<String>) {
    let read =
        |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let workspace: Table = read(&root.join("Cargo.toml")).parse().expect("cargo reads it too");
    let members = workspace["workspace"]["members"].as_array().expect("members");
    let known: BTreeMap<&str, &[&str]> = CRATES.iter().map(|(name, _, may)| (*name, *may)).collect();
    for member in members.iter().filter_map(Value::as_str) {
        if !CRATES.iter().any(|(_, folder, _)| *folder == member) {
            found.push(format!("{member} is in no rule of tests/imports.rs"));
        }
    }
    for (name, folder, may) in CRATES {
        let manifest: Table =
            read(&root.join(folder).join("Cargo.toml")).parse().expect("cargo reads it too");
        let mut all = Vec::new();
        dependencies(&manifest, &mut all);
        for (kind, dependency) in all {
            let ours = known.contains_key(dependency.as_str());
            let testing =
                kind == "dev-dependencies" && dependency == "plimsoll-testkit" && name != "greengrocer";
            // The shop's tests pay at it; the shop itself never knows it.
            let paying = kind == "dev-dependencies"
                && (name, dependency.as_str()) == ("greengrocer", "razorpay-simulator");
            if ours && !testing && !paying && !may.contains(&dependency.as_str()) {
                found.push(format!("{folder}/Cargo.toml: {name} must not depend on {dependency} ({kind})"));
            }
        }
        // A manifest may allow more than the source uses for a moment; the source is looked at too.
        let src = root.join(folder).join("src");
        for file in files(&src, ".rs") {
            if is_for_tests(&src, &module(&src, &file)) {
                continue;
            }
            let tokens = tokens(&read(&file));
            let named: BTreeSet<&str> =
                tokens.windows(2).filter(|w| w[1] == "::").map(|w| w[0].as_str()).collect();
            for (other, _, _) in CRATES {
                let as_named = other.replace('-', "_");
                let itself = other == name;
                // The package `plimsoll` has no library that could be imported.
                if !itself
                    && other != "plimsoll"
                    && named.contains(as_named.as_str())
                    && !may.contains(&other)
                {
                    found.push(format!("{}: {name} must not import {other}", shown(root, &file)));
                }
            }
        }
    }
}

/// All dependencies of a manifest with the table they are in, those of single targets too.
fn dependencies(manifest: &Table, all: &mut Vec<(String, String)>) {
    for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
        for (key, value) in manifest.get(kind).and_then(Value::as_table).into_iter().flatten() {
            let package = value.get("package").and_then(Value::as_str).unwrap_or(key);
            all.push((kind.to_owned(), package.to_owned()));
        }
    }
    for (_, target) in manifest.get("target").and_then(Value::as_table).into_iter().flatten() {
        dependencies(target.as_table().expect("a target is a table"), all);
    }
}

fn core(root: &Path, found: &mut Vec<String>) {
    let src = root.join("crates/core/src");
    for file in files(&src, ".rs") {
        let path = module(&src, &file);
        let Some(name) = path.first() else { continue };
        let Some((_, may)) = CORE.iter().find(|(module, _)| module == name) else {
            found.push(format!("{}: {name} is in no rule of tests/imports.rs", shown(root, &file)));
            continue;
        };
        if is_for_tests(&src, &path) {
            continue;
        }
        for path in paths(&tokens(&source(&file)), &path, 2) {
            let used = path.first().map_or("", String::as_str);
            if used == name || may.contains(&used) || may.contains(&path.join("::").as_str()) {
                continue;
            }
            let through =
                if CORE.iter().any(|(module, _)| *module == used) { "" } else { "what lib.rs names: " };
            found.push(format!("{}: {name} must not import {through}{used}", shown(root, &file)));
        }
    }
}

/// Whether the module's parent declares it under `#[cfg(test)]`.
fn is_for_tests(src: &Path, path: &[String]) -> bool {
    let Some((name, parents)) = path.split_last() else { return false };
    let folder = parents.iter().fold(src.to_owned(), |folder, name| folder.join(name));
    let parent = if parents.is_empty() { folder.join("lib.rs") } else { folder.join("mod.rs") };
    // A program has neither.
    parent.exists() && test_modules(&source(&parent)).contains(name)
}

fn commands(root: &Path, found: &mut Vec<String>) {
    let src = root.join("crates/cli/src");
    let names: BTreeSet<String> = files(&src.join("commands"), ".rs")
        .iter()
        .filter_map(|file| module(&src, file).get(1).cloned())
        .collect();
    for file in files(&src.join("commands"), ".rs") {
        let path = module(&src, &file);
        let Some(name) = path.get(1) else { continue };
        for used in paths(&tokens(&source(&file)), &path, 2) {
            let [first, other] = used.as_slice() else { continue };
            if first == "commands" && other != name && names.contains(other) {
                found.push(format!("{}: {name} must not import the command {other}", shown(root, &file)));
            }
        }
    }
}

/// Only `ui.rs` of the cli touches stdout and stderr.
fn streams(root: &Path, found: &mut Vec<String>) {
    let src = root.join("crates/cli/src");
    for file in files(&src, ".rs") {
        if module(&src, &file).first().is_some_and(|name| name == "ui") {
            continue;
        }
        let tokens = tokens(&source(&file));
        for (at, token) in tokens.iter().enumerate() {
            let before = at.checked_sub(1).map_or("", |at| tokens[at].as_str());
            let after = tokens.get(at + 1).map_or("", String::as_str);
            let stream = matches!(token.as_str(), "stdout" | "stderr")
                && (before == "::" || matches!(before, "{" | ",") && matches!(after, "}" | ","));
            let print = matches!(token.as_str(), "print" | "println" | "eprint" | "eprintln") && after == "!";
            if stream || print {
                found.push(format!("{}: only ui.rs may use {token}", shown(root, &file)));
            }
        }
    }
}

fn source(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn shown(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).display().to_string()
}

#[test]
fn every_import_goes_the_allowed_way() {
    let found = violations(&workspace());
    assert!(found.is_empty(), "{found:#?}");
}

/// Manifests and sources in a folder of their own.
fn copy() -> tempfile::TempDir {
    let root = workspace();
    let copy = tempfile::tempdir().unwrap();
    let put = |file: &Path| {
        let to = copy.path().join(file.strip_prefix(&root).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    };
    put(&root.join("Cargo.toml"));
    for (_, folder, _) in CRATES {
        put(&root.join(folder).join("Cargo.toml"));
        files(&root.join(folder).join("src"), ".rs").iter().for_each(|file| put(file));
    }
    copy
}

/// Writes `text` at the top of a copied file (behind its inner comments) and returns what is newly found.
fn seeded(file: &str, change: impl Fn(&str) -> String) -> Vec<String> {
    let copy = copy();
    let before: BTreeSet<String> = violations(copy.path()).into_iter().collect();
    let path = copy.path().join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    std::fs::write(&path, change(&text)).unwrap();
    violations(copy.path()).into_iter().filter(|found| !before.contains(found)).collect()
}

fn with_line(file: &str, line: &str) -> Vec<String> {
    seeded(file, |text| {
        let head = text.lines().take_while(|l| l.starts_with("//!") || l.is_empty()).count();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.insert(head, line);
        lines.join("\n")
    })
}

#[test]
fn a_forbidden_import_between_modules_of_the_core_is_found() {
    let found = with_line("crates/core/src/plan.rs", "use crate::engine::Engine;");
    assert_eq!(found, ["crates/core/src/plan.rs: plan must not import engine"]);
    let found = with_line("crates/core/src/check.rs", "use super::{plan::Step as S};");
    assert_eq!(found, ["crates/core/src/check.rs: check must not import plan"]);
    let found = with_line("crates/core/src/engine.rs", "fn f() { let _ = crate::report::X; }");
    assert_eq!(found, ["crates/core/src/engine.rs: engine must not import report"]);
    let found = with_line("crates/core/src/report/log.rs", "use crate::ports::{Failure, Gate};");
    assert_eq!(found, ["crates/core/src/report/log.rs: report must not import ports"]);
    let found = with_line("crates/core/src/record.rs", "use crate::*;");
    assert_eq!(found, ["crates/core/src/record.rs: record must not import what lib.rs names: *"]);
}

#[test]
fn a_forbidden_import_between_crates_is_found() {
    let found = with_line("crates/host/src/durable.rs", "use plimsoll_proxy::Gate;");
    assert_eq!(found, ["crates/host/src/durable.rs: plimsoll-host must not import plimsoll-proxy"]);
    let add = |name: &'static str| {
        move |text: &str| {
            text.replace("[dependencies]\n", &format!("[dependencies]\n{name}.workspace = true\n"))
        }
    };
    let found = seeded("crates/core/Cargo.toml", add("plimsoll-host"));
    assert_eq!(found.len(), 1, "{found:?}");
    let found = seeded("crates/cli/Cargo.toml", add("plimsoll-testkit"));
    assert_eq!(found.len(), 1, "the testkit in the program itself: {found:?}");
    let found = seeded("shop/Cargo.toml", add("plimsoll-core"));
    assert_eq!(found.len(), 1, "{found:?}");
    let renamed =
        |text: &str| format!("{text}\n[target.'cfg(unix)'.dependencies]\nx = {{ package = \"plimsoll\" }}\n");
    let found = seeded("crates/proxy/Cargo.toml", renamed);
    assert_eq!(found.len(), 1, "a renamed dependency for one target: {found:?}");
}

#[test]
fn a_command_that_imports_another_and_a_print_outside_ui_are_found() {
    let found =
        with_line("crates/cli/src/commands/deploy.rs", "use super::mod_that_is_none; use super::history::X;");
    assert_eq!(found, ["crates/cli/src/commands/deploy.rs: deploy must not import the command history"]);
    let found = with_line("crates/cli/src/error.rs", "fn f() { println!(); std::io::stderr().lock(); }");
    assert_eq!(found.len(), 2, "{found:?}");
}

/// Each package is something to trust, to update and to wait for. Raising the ceiling is a decision: say why in the commit.
const LOCKED_PACKAGES: usize = 352;

#[test]
fn locked_packages_stay_under_their_ceiling() {
    let lock = std::fs::read_to_string(workspace().join("Cargo.lock")).expect("Cargo.lock is committed");
    let locked = lock.lines().filter(|line| *line == "[[package]]").count();
    assert!(locked > 0, "Cargo.lock is no longer read as it should be");
    assert!(locked <= LOCKED_PACKAGES, "{locked} packages are locked, {LOCKED_PACKAGES} are allowed");
}
