//! Messages: by a real mail server and a real web server, also down and slow; never a failed deployment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use plimsoll_testkit::{Buyers, Sandbox, fault, shop, wait};

use crate::production::{until_ended, until_step};
use crate::sources::workspace;

/// A server program that is ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn server(python: &Path, script: &str, arguments: &[&str]) -> Server {
    use std::io::BufRead;
    let mut command = Command::new(python);
    command.arg(workspace().join("tests/data").join(script)).args(arguments).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "{script}");
    Server(child)
}

/// The interpreter that has a mail server, if `scripts/tools` could set it up.
fn mail_python(test: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home)?;
    let python = cache.join("plimsoll/mail-server/bin/python");
    if python.exists() {
        return Some(python);
    }
    fault::skipped(test, "there is no mail server; scripts/tools sets one up");
    None
}

fn web_python(test: &str) -> Option<PathBuf> {
    let python = PathBuf::from("python3");
    let works = Command::new(&python).arg("--version").stdout(Stdio::null()).status();
    if works.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    fault::skipped(test, "there is no python3");
    None
}

fn port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn inbox() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Waits until as many files with that ending are in the folder; gives their texts in the order they came.
fn arrived(folder: &Path, kind: &str, count: usize) -> Vec<String> {
    let files = || {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|ending| ending == kind))
            .collect();
        files.sort();
        files
    };
    let seen = wait::within(Duration::from_secs(40), || (files().len() >= count).then(files));
    let seen = seen.unwrap_or_else(|| panic!("only {} of {count} messages arrived", files().len()));
    seen.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
}

fn told(sandbox: &Sandbox, run: u32) -> Vec<serde_json::Value> {
    sandbox.journal(run).into_iter().filter(|entry| entry["event"] == "told").collect()
}

#[test]
fn a_deployment_is_told_by_mail_with_starttls_report_and_contacts() {
    const TEST: &str = "notify::a_deployment_is_told_by_mail_with_starttls_report_and_contacts";
    let Some(python) = mail_python(TEST) else { return };
    let (folder, port) = (inbox(), port());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"])
        .args(["-keyout", &file("key.pem"), "-out", &file("cert.pem")])
        .stderr(Stdio::null())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        fault::skipped(TEST, "openssl cannot make a certificate");
        return;
    }
    let inbox = folder.path().display().to_string();
    let _server =
        server(&python, "smtp_server.py", &[&port.to_string(), &inbox, &file("cert.pem"), &file("key.pem")]);
    let mut sandbox = Sandbox::new();
    sandbox.configure(&format!(
        "smtp = {{ host = 'localhost', port = {port}, tls = 'starttls', ca = '{}', from = 'plimsoll@example.com' }}\n\
         notify.team = {{ mail = ['team@example.com'] }}\ncontacts.devops = 'Ravi, +91 98, 9-18'",
        file("cert.pem")
    ));
    sandbox.plimsoll(&["notify-test"]).exits(0);
    let serve = sandbox.live();
    let mails = arrived(folder.path(), "eml", 4);
    for mail in &mails {
        assert!(mail.starts_with("X-Protected: yes"), "{mail}");
        assert!(mail.contains("Ravi, +91 98"), "{mail}");
    }
    assert!(mails[1].contains("is going to be deployed"), "{}", mails[1]);
    assert!(mails[3].contains("is live") && mails[3].contains("report-000001.html"), "{}", mails[3]);
    let all_sent = wait::within(Duration::from_secs(20), || {
        let sent = told(&sandbox, 1).iter().filter(|e| e["told"]["delivery"] == "sent").count();
        (sent == 3).then_some(())
    });
    assert!(all_sent.is_some(), "{:#?}", told(&sandbox, 1));
    let report = sandbox.read("runs/000001/report.md");
    assert!(report.contains("team told by mail: planned"), "{report}");
    drop(serve);
}

#[test]
fn a_mail_server_that_is_down_fails_no_deployment_and_gets_the_mail_when_it_is_back() {
    const TEST: &str =
        "notify::a_mail_server_that_is_down_fails_no_deployment_and_gets_the_mail_when_it_is_back";
    let Some(python) = mail_python(TEST) else { return };
    let (folder, port) = (inbox(), port());
    let mut sandbox = Sandbox::new();
    sandbox.configure(&format!(
        "smtp.port = {port}\nnotify.team = {{ mail = ['team@example.com'], on = ['done'] }}"
    ));
    sandbox.plimsoll(&["notify-test"]).exits(1).says("was not taken");
    let serve = sandbox.live();
    sandbox.plimsoll(&["show"]).says("queued");
    // What waits is sent by the next `serve`, too.
    drop(serve);
    let serve = sandbox.serve();
    let inbox = folder.path().display().to_string();
    let _server = server(&python, "smtp_server.py", &[&port.to_string(), &inbox]);
    let mails = arrived(folder.path(), "eml", 1);
    assert!(mails[0].contains("is live"), "{}", mails[0]);
    drop(serve);
}

#[test]
fn a_mail_that_is_refused_is_a_warning_in_the_report() {
    let Some(python) = mail_python("notify::a_mail_that_is_refused_is_a_warning_in_the_report") else {
        return;
    };
    let (folder, port) = (inbox(), port());
    let inbox = folder.path().display().to_string();
    let _server = server(&python, "smtp_server.py", &[&port.to_string(), &inbox]);
    let mut sandbox = Sandbox::new();
    sandbox.configure(&format!(
        "smtp.port = {port}\nnotify.team = {{ mail = ['nobody@example.com'], on = ['done'] }}"
    ));
    let serve = sandbox.live();
    let warned = wait::within(Duration::from_secs(20), || {
        sandbox.read("runs/000001/report.md").contains("team could not be told by mail").then_some(())
    });
    assert!(warned.is_some(), "{}", sandbox.read("runs/000001/report.md"));
    assert!(sandbox.read("runs/000001/report.md").contains("there is no such person"));
    drop(serve);
}

#[test]
fn a_webhook_is_signed_and_a_slow_one_holds_nothing_up() {
    let Some(python) = web_python("notify::a_webhook_is_signed_and_a_slow_one_holds_nothing_up") else {
        return;
    };
    let (folder, port) = (inbox(), port());
    let inbox = folder.path().display().to_string();
    let _server = server(&python, "webhook_server.py", &[&port.to_string(), &inbox, "4"]);
    let secrets = folder.path().join("url");
    std::fs::write(&secrets, format!("http://127.0.0.1:{port}/hooks/T0PSECRETPATH")).unwrap();
    std::fs::write(folder.path().join("key"), "S1GNINGKEY").unwrap();
    let mut sandbox = Sandbox::new();
    sandbox.configure(&format!(
        "notify.team = {{ webhook = 'file:{}', key = 'file:{}' }}",
        secrets.display(),
        folder.path().join("key").display()
    ));
    let serve = sandbox.serve();
    let begun = Instant::now();
    sandbox.deploy().exits(0);
    let took = begun.elapsed();
    let hooks = arrived(folder.path(), "hook", 3);
    // Three answers of four seconds each come after it, not before.
    assert!(took < begun.elapsed(), "the deployment waited for the webhook: {took:?}");
    for hook in &hooks {
        let hook: serde_json::Value = serde_json::from_str(hook).unwrap();
        let signature = hook["head"]["x-plimsoll-signature"].as_str().unwrap();
        assert!(signature.starts_with("sha256=") && signature.len() == 7 + 64, "{signature}");
        let body: serde_json::Value = serde_json::from_str(hook["body"].as_str().unwrap()).unwrap();
        assert_eq!(body["app"], "shop");
    }
    // Neither the address nor the key is anywhere.
    let mut files = vec![sandbox.root().join("runs")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().flatten().map(|entry| entry.path()));
        } else if let Ok(text) = std::fs::read(&path) {
            let text = String::from_utf8_lossy(&text);
            assert!(!text.contains("T0PSECRET") && !text.contains("S1GNINGKEY"), "{}", path.display());
        }
    }
    assert!(!serve.log().contains("T0PSECRET"), "{}", serve.log());
    drop(serve);
}

/// The mails about a run, with their soft line breaks taken out.
fn about(folder: &Path, words: &str) -> Vec<String> {
    let mails = arrived(folder, "eml", 1).into_iter();
    mails.map(|mail| mail.replace("=\r\n", "")).filter(|mail| mail.contains(words)).collect()
}

/// Every message of the run as the record has it now: id, occasion, delivery.
fn deliveries(sandbox: &Sandbox, run: u32) -> BTreeMap<String, (String, String)> {
    let word = |entry: &serde_json::Value, key: &str| entry["told"][key].as_str().unwrap().to_owned();
    let events = told(sandbox, run);
    events.iter().map(|e| (word(e, "id"), (word(e, "occasion"), word(e, "delivery")))).collect()
}

fn until_all_sent(sandbox: &Sandbox, run: u32, count: usize) {
    let sent = wait::within(Duration::from_secs(30), || {
        let now = deliveries(sandbox, run);
        (now.len() == count && now.values().all(|(_, delivery)| delivery == "sent")).then_some(())
    });
    assert!(sent.is_some(), "{:#?}", deliveries(sandbox, run));
}

#[test]
fn somebody_woken_at_night_gets_one_message_of_a_release_that_turned_bad_and_was_rolled_back() {
    const TEST: &str =
        "notify::somebody_woken_at_night_gets_one_message_of_a_release_that_turned_bad_and_was_rolled_back";
    let Some(python) = mail_python(TEST) else { return };
    let (folder, port) = (inbox(), port());
    let _server =
        server(&python, "smtp_server.py", &[&port.to_string(), &folder.path().display().to_string()]);
    let mut sandbox = Sandbox::new();
    sandbox.configure(&format!(
        "smtp.port = {port}\nwatch.errors_for = '25s'\nwatch.every = '300ms'\n\
         notify.pager = {{ mail = ['pager@example.com'], on = ['failed', 'rolled-back', 'alarm'] }}"
    ));
    let serve = sandbox.serve();
    sandbox.plimsoll(&["deploy", "--yes", "--no-watch"]).exits(0);
    let good = sandbox.current().unwrap();
    let buyers = Buyers::start(sandbox.port, 4);
    buyers.place(60);
    sandbox.release(r#"{ "fail_after_requests": 60 }"#, &[]);
    sandbox.deploy().exits(6);
    let ledger = buyers.stop();
    assert!(ledger.lost(&sandbox.database()).is_empty());
    until_all_sent(&sandbox, 2, 1);
    let mails = about(folder.path(), "Subject:");
    assert_eq!(mails.len(), 1, "{mails:#?}");
    let mail = &mails[0];
    for words in [
        "turned bad and was rolled back",
        &format!("{good} serves again"),
        "requests failed",
        "safe: the code alone went back",
        "plimsoll show 2",
        "plimsoll deploy --unlock",
        "rolled back by run 3",
        "report-000002.html",
    ] {
        assert!(mail.contains(words), "it does not say {words:?}: {mail}");
    }
    assert!(told(&sandbox, 3).is_empty(), "the rollback by itself tells too: {:#?}", told(&sandbox, 3));
    let report = sandbox.read("runs/000003/report.md");
    assert!(report.contains("one message tells of the bad release and of this"), "{report}");
    // The next `serve` does not say it again.
    drop(serve);
    let serve = sandbox.serve();
    serve.until_it_answers();
    sandbox.plimsoll(&["deploy", "--yes", "--no-watch", "--unlock", "mended"]).exits(0);
    assert_eq!(about(folder.path(), "turned bad").len(), 1);
    drop(serve);
}

#[test]
fn what_was_put_down_before_a_crash_is_not_shown_as_queued_when_it_was_sent_during_the_recovery() {
    const TEST: &str = "notify::what_was_put_down_before_a_crash_is_not_shown_as_queued_when_it_was_sent_during_the_recovery";
    let Some(python) = mail_python(TEST) else { return };
    // Takes connections and says nothing: what is put down waits.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (folder, port) = (inbox(), silent.local_addr().unwrap().port());
    let mut sandbox = Sandbox::new();
    sandbox.release(r#"{ "boot_ms": 2000 }"#, &[]);
    sandbox.configure(&format!(
        "smtp.port = {port}\nnotify.team = {{ mail = ['team@example.com'], on = ['planned', 'started', 'failed'] }}"
    ));
    let serve = sandbox.live();
    sandbox.release(r#"{ "boot_ms": 3000 }"#, &[shop::REBUILD]);
    let deploying = sandbox.start(&["deploy", "--yes"]);
    until_step(&sandbox, 2, "start");
    serve.kill9();
    let _ = deploying.wait();
    drop(silent);
    let _server =
        server(&python, "smtp_server.py", &[&port.to_string(), &folder.path().display().to_string()]);
    // The app of before takes two seconds to start; the messages go out at once.
    let serve = sandbox.serve();
    until_ended(&sandbox, 2);
    until_all_sent(&sandbox, 2, 3);
    for name in ["report.md", "report.html"] {
        let seen = wait::within(Duration::from_secs(10), || {
            (!sandbox.read(&format!("runs/000002/{name}")).contains("queued")).then_some(())
        });
        assert!(seen.is_some(), "{name} still shows a message as queued");
    }
    let empty = wait::within(Duration::from_secs(10), || {
        let mut left = std::fs::read_dir(sandbox.root().join("runs/outbox")).unwrap();
        left.next().is_none().then_some(())
    });
    assert!(empty.is_some(), "something is left in the outbox");
    assert_eq!(arrived(folder.path(), "eml", 5).len(), 5, "two of run 1, three of run 2, each once");
    drop(serve);
}

#[test]
fn a_signature_is_told_by_mail() {
    let Some(python) = mail_python("notify::a_signature_is_told_by_mail") else { return };
    let (folder, port) = (inbox(), port());
    let _server =
        server(&python, "smtp_server.py", &[&port.to_string(), &folder.path().display().to_string()]);
    let mut sandbox = Sandbox::new();
    sandbox.configure(&format!(
        "smtp.port = {port}\nnotify.team = {{ mail = ['team@example.com'], on = ['signed'] }}"
    ));
    let serve = sandbox.live();
    sandbox.plimsoll(&["sign", "--as", "deployer", "--name", "Asha Rao"]).exits(0);
    until_all_sent(&sandbox, 1, 1);
    let mails = arrived(folder.path(), "eml", 1);
    assert!(mails[0].contains("was signed off") && mails[0].contains("Asha Rao"), "{}", mails[0]);
    drop(serve);
}
