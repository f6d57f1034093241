//! `plimsoll diagnose`, and secrets: planted in configuration, environment, logs and database, they appear in no output of
//! any command.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use plimsoll_testkit::{Sandbox, shop, wait};

/// What nobody may see, by where it was planted. None of them follows a rule but by its name or its form.
const PLANTED: [(&str, &str); 7] = [
    ("a file that the configuration names", "fq81-zlorp-vendetta"),
    ("the environment of serve", "ww73-gribble-octarine"),
    ("shared/.env", "kk55-mumble-cassowary"),
    ("a log line, by its key", "pp20-snark-halcyon"),
    ("a log line, a mail address", "asha.planted@example.com"),
    ("a row of the database", "hh99-frobnicate-nimbus"),
    ("a log line, a card", "4111111111111111"),
];

fn plant() -> (Sandbox, plimsoll_testkit::Serve) {
    let mut sandbox = Sandbox::new();
    let root = sandbox.root().to_owned();
    fs::write(root.join("pay-secret"), PLANTED[0].1).unwrap();
    sandbox.configure(&format!(
        "[service.env]\nPAY_KEY = \"file:{0}/pay-secret\"\nSMTP_PASS = \"env:PLANTED_PASS\"\n\
         [notify.team]\nwebhook = \"file:{0}/pay-secret\"\n",
        root.display()
    ));
    sandbox.unset("notify", None);
    fs::write(root.join("shared/.env"), format!("API_TOKEN=\"{}\"\nLOG=info\n", PLANTED[2].1)).unwrap();
    shop::open(&sandbox.database())
        .execute_batch(&format!(
            "CREATE TABLE staff(name, hash); INSERT INTO staff VALUES('x', '{}')",
            PLANTED[5].1
        ))
        .unwrap();
    let serve = sandbox.serve_with(&[("PLANTED_PASS", PLANTED[1].1)]);
    serve.until_it_answers();
    wait::until("serve says what it waits for", std::time::Duration::from_secs(40), || {
        serve.log().contains("there is no release yet")
    });
    sandbox.deploy().exits(0);
    let mut log = fs::OpenOptions::new().append(true).open(root.join("logs/app.log")).unwrap();
    for line in [
        format!("login ok password={}", PLANTED[3].1),
        format!("mail to {}", PLANTED[4].1),
        format!("paid with {}", PLANTED[6].1),
        format!("key {} and pass {} and token {}", PLANTED[0].1, PLANTED[1].1, PLANTED[2].1),
        "an ordinary line that helps".to_owned(),
    ] {
        writeln!(log, "{line}").unwrap();
    }
    (sandbox, serve)
}

fn clean(what: &str, text: &str) {
    for (place, secret) in PLANTED {
        assert!(!text.contains(secret), "{what} shows what was planted in {place}: {text}");
    }
}

/// Every file below a folder, as text.
fn texts(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        // The socket of `serve` lies there too.
        if path.is_dir() {
            found.extend(texts(&path));
        } else if path.is_file() {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            found.push((path.display().to_string(), text));
        }
    }
    found
}

#[test]
fn the_archive_holds_what_helps_and_nothing_that_was_planted() {
    let (sandbox, serve) = plant();
    let output = sandbox.plimsoll(&["diagnose", "--output", "out.tar.gz"]);
    output.exits(0);
    clean("what it says", &output.said());
    let path = sandbox.root().join("out.tar.gz");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("tar").arg("-xzf").arg(&path).arg("-C").arg(folder.path()).status().unwrap();
    assert!(status.success());
    let files = texts(folder.path());
    for (name, text) in &files {
        clean(name, text);
    }
    let holds = |end: &str, words: &str| {
        let found = files.iter().find(|(name, _)| name.ends_with(end));
        let (_, text) = found
            .unwrap_or_else(|| panic!("no {end} in {:?}", files.iter().map(|f| &f.0).collect::<Vec<_>>()));
        assert!(text.contains(words), "{end} does not say {words:?}: {text}");
    };
    holds("logs/app.log", "an ordinary line that helps");
    holds("schema.sql", "CREATE TABLE");
    holds("schema.sql", "-- orders:");
    holds("plimsoll.toml", "PAY_KEY = \"file:");
    holds("versions.txt", "sqlite 3.");
    holds("system.txt", "current release: 000001-");
    holds("plan.json", "\"decision\"");
    holds("runs/000001/journal.jsonl", "\"event\":\"ended\"");
    holds("runs/000001/report.md", "Deployment of shop");
    drop(serve);
}

#[test]
fn no_command_shows_what_was_planted_and_no_record_keeps_it() {
    let (sandbox, serve) = plant();
    sandbox.release(r#"{ "checkout": "broken" }"#, &[]);
    let broken = sandbox.deploy();
    broken.exits(1);
    clean("deploy", &broken.said());
    sandbox.release(r#"{ "boot": "crash" }"#, &[shop::REBUILD]);
    for arguments in [
        &["deploy", "--yes"][..],
        &["status"],
        &["status", "--json"],
        &["history", "--json"],
        &["show", "1"],
        &["show", "1", "--format", "html"],
        &["show", "2", "--format", "json"],
        &["check"],
        &["check", "--json"],
        &["audit", "--json"],
        &["answer"],
        &["backup"],
        &["backup", "list"],
        &["backup", "verify", "backups/store.db.backup.LATEST"],
        &["verify"],
        &["migrate", "status"],
        &["rollback", "--dry-run"],
        &["install", "--print"],
    ] {
        let output = sandbox.plimsoll(arguments);
        clean(&arguments.join(" "), &output.text());
    }
    clean("serve", &serve.log());
    for (name, text) in texts(&sandbox.root().join("runs")) {
        // A copy of the database that belongs to a run holds its rows.
        if !name.contains(".db") {
            clean(&name, &text);
        }
    }
    clean("the changelog", &sandbox.read("CHANGELOG.md"));
    drop(serve);
}
