//! What a look at the files alone can see.

use std::collections::BTreeSet;

use crate::sources::{files, workspace};

/// Raised knowingly: each locked package is somebody else's code in a program that runs as the owner of the data.
const MOST_LOCKED_PACKAGES: usize = 352;

fn all_sources() -> Vec<std::path::PathBuf> {
    let root = workspace();
    let found: Vec<_> = ["crates", "shop", "simulator", "tests"]
        .iter()
        .flat_map(|folder| files(&root.join(folder), ".rs"))
        .collect();
    assert!(found.len() > 50, "only {} sources were found", found.len());
    found
}

#[test]
fn every_file_of_the_tests_is_declared() {
    let root = workspace();
    let main = std::fs::read_to_string(root.join("tests/main.rs")).unwrap();
    let declared: BTreeSet<String> = main
        .lines()
        .filter_map(|line| Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned()))
        .collect();
    let mut there: BTreeSet<String> = files(&root.join("tests"), ".rs")
        .iter()
        .map(|file| file.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    there.remove("main");
    assert_eq!(declared, there, "a test file that tests/main.rs does not declare is never run");
}

#[test]
fn no_file_is_a_drawer_for_anything() {
    for file in all_sources() {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let drawer = ["util", "utils", "helper", "helpers", "common", "misc"].contains(&name.as_str());
        assert!(!drawer, "{}: name it after what is in it", file.display());
    }
}

#[test]
fn nothing_is_left_to_be_done_in_the_sources() {
    // In two parts, so that this file does not hold them itself.
    let left =
        [("todo", "!("), ("dbg", "!("), ("unimplemented", "!("), ("FIX", "ME"), ("XX", "X:"), ("TO", "DO")];
    for file in all_sources() {
        let text = std::fs::read_to_string(&file).unwrap();
        for (a, b) in left {
            let mark = format!("{a}{b}");
            let line = text.lines().position(|line| line.contains(&mark)).map(|line| line + 1);
            assert_eq!(line, None, "{} is left in {}", mark, file.display());
        }
    }
}

#[test]
fn the_locked_packages_stay_few() {
    let lock = std::fs::read_to_string(workspace().join("Cargo.lock")).unwrap();
    let packages = lock.lines().filter(|line| *line == "[[package]]").count();
    assert!(packages > 10, "the lock file was not read");
    assert!(
        packages <= MOST_LOCKED_PACKAGES,
        "{packages} packages are locked; {MOST_LOCKED_PACKAGES} are allowed"
    );
}
