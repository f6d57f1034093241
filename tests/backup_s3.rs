//! Second copies in S3: a real server program on the loopback, also one that dies in the midst of it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use plimsoll_testkit::s3::{BUCKET, KEY_ID, S3Server, SECRET};
use plimsoll_testkit::{Sandbox, fault, shop, wait};

/// A sandbox whose second copies go to the server's bucket, and the server; `None` after it said why not.
fn with_bucket(test: &str, more: &str) -> Option<(Sandbox, S3Server)> {
    let server = S3Server::start().map_err(|why| fault::skipped(test, &why)).ok()?;
    let mut sandbox = Sandbox::new();
    point_at(&mut sandbox, &server.endpoint(), more);
    Some((sandbox, server))
}

/// The keys come from files, as a careful owner has them.
pub(crate) fn point_at(sandbox: &mut Sandbox, endpoint: &str, more: &str) {
    let (id, secret) = (sandbox.root().join("key.id"), sandbox.root().join("key.secret"));
    fs::write(&id, format!("{KEY_ID}\n")).unwrap();
    fs::write(&secret, format!("{SECRET}\n")).unwrap();
    sandbox.configure(&format!(
        "[backup]\ncopies = [\"s3://{BUCKET}/shop\"]\n[backup.s3]\nendpoint = \"{endpoint}\"\nretry_for = \"2s\"\n\
         access_key_id = \"file:{}\"\nsecret_access_key = \"file:{}\"\n{more}",
        id.display(),
        secret.display()
    ));
}

fn latest(sandbox: &Sandbox) -> PathBuf {
    fs::canonicalize(sandbox.root().join("backups/store.db.backup.LATEST")).unwrap()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Makes the database so large that it goes in several parts.
fn grow(sandbox: &Sandbox, mebibytes: u32) {
    let own = rusqlite::Connection::open(sandbox.database()).unwrap();
    own.execute_batch("CREATE TABLE photos (id INTEGER PRIMARY KEY, jpeg BLOB)").unwrap();
    for _ in 0..mebibytes {
        own.execute("INSERT INTO photos (jpeg) VALUES (randomblob(1048576))", []).unwrap();
    }
}

fn state(sandbox: &Sandbox) -> serde_json::Value {
    let all: serde_json::Value = serde_json::from_str(&sandbox.read("backups/destinations.json")).unwrap();
    all[format!("s3://{BUCKET}/shop")].clone()
}

#[test]
fn a_backup_goes_to_the_bucket_is_read_back_drilled_and_comes_home_to_a_new_machine() {
    let Some((sandbox, server)) = with_bucket("second copies in S3", "encryption = \"AES256\"\n") else {
        return;
    };
    grow(&sandbox, 20);
    let output = sandbox.plimsoll(&["backup"]);
    output.exits(0).says("read back and compared").says(&format!("s3://{BUCKET}/shop/store.db.backup."));
    let backup = latest(&sandbox);
    let names = server.names("shop");
    assert_eq!(names.len(), 2, "an object and its manifest: {names:?}");
    assert!(names.iter().any(|n| *n == format!("{}.json", name(&backup))), "{names:?}");
    assert!(state(&sandbox)["copied"]["file"] == name(&backup).as_str(), "{}", state(&sandbox));
    sandbox.plimsoll(&["backup", "drill"]).exits(0).says(&format!("s3://{BUCKET}/shop/{}", name(&backup)));
    assert!(state(&sandbox)["drilled"]["at"].is_string(), "{}", state(&sandbox));
    // Once more is no second upload.
    let again =
        sandbox.plimsoll(&["backup", "copy", backup.to_str().unwrap(), &format!("s3://{BUCKET}/shop")]);
    again.exits(0).says("was there already");
    // The machine is gone: all that is left is the bucket.
    let rows = shop::number(&sandbox.database(), "SELECT count(*) FROM orders");
    fs::remove_dir_all(sandbox.root().join("backups")).unwrap();
    fs::remove_file(sandbox.database()).unwrap();
    fs::create_dir(sandbox.root().join("backups")).unwrap();
    let from = format!("s3://{BUCKET}/shop/store.db.backup.LATEST");
    sandbox.plimsoll(&["backup", "copy", &from, "backups"]).exits(0);
    assert!(sandbox.root().join("backups").join(name(&backup)).exists());
    sandbox.plimsoll(&["backup", "restore", &name(&backup), "--yes"]).exits(0);
    assert_eq!(shop::number(&sandbox.database(), "SELECT count(*) FROM orders"), rows);
    assert_eq!(shop::number(&sandbox.database(), "SELECT count(*) FROM photos"), 20);
}

/// The keys stand in two files and nowhere else: no journal, no state, no message, no argument.
#[test]
fn keys_of_a_bucket_are_nowhere_also_when_they_are_refused() {
    let Some((sandbox, _server)) = with_bucket("keys of S3", "") else { return };
    fs::write(sandbox.root().join("key.secret"), "not-the-secret-of-this-server").unwrap();
    let output = sandbox.plimsoll(&["backup"]);
    output.exits(1).says("not every second copy is").says("Check the keys");
    assert!(!output.said().contains(KEY_ID), "{}", output.said());
    fs::write(sandbox.root().join("key.secret"), SECRET).unwrap();
    sandbox.plimsoll(&["backup"]).exits(0);
    for file in files_below(sandbox.root()) {
        if ["key.id", "key.secret"].contains(&name(&file).as_str()) {
            continue;
        }
        let bytes = fs::read(&file).unwrap();
        for secret in [KEY_ID, SECRET, "not-the-secret"] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in {}", file.display());
        }
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files.extend(files_below(&entry.path())),
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    files
}

#[test]
fn a_bucket_that_cannot_be_reached_does_not_cost_the_local_backup_and_is_told_by_status() {
    let mut sandbox = Sandbox::new();
    // Nobody listens there.
    point_at(&mut sandbox, "http://127.0.0.1:9", "");
    let output = sandbox.plimsoll(&["backup"]);
    output.exits(1).says("✓ Backup database integrity verified").says("is there and counts");
    sandbox.plimsoll(&["backup", "verify", "store.db.backup.LATEST"]).exits(0);
    assert!(state(&sandbox)["trouble"]["why"].is_string(), "{}", state(&sandbox));
    sandbox.plimsoll(&["status"]).says(&format!("s3://{BUCKET}/shop"));
    sandbox.plimsoll(&["check"]).says(&format!("s3://{BUCKET}/shop"));
}

/// Passes bytes on to the server, and does something once so many have gone there.
struct Tap {
    port: u16,
    passed: Arc<AtomicU64>,
    sent: Arc<Mutex<Vec<u8>>>,
    closed: Arc<AtomicBool>,
}

impl Tap {
    fn on(server: u16, after: u64, then: impl FnOnce() + Send + 'static) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (passed, closed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let sent = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&sent);
        let then = Arc::new(Mutex::new(Some(then)));
        let (count, end) = (Arc::clone(&passed), Arc::clone(&closed));
        thread::spawn(move || {
            for client in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), Ok(upstream)) = (client, TcpStream::connect(("127.0.0.1", server))) else {
                    continue;
                };
                let (from, to) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || pass(from, to, |_| {}));
                let (then, count, all) = (Arc::clone(&then), Arc::clone(&count), Arc::clone(&all));
                thread::spawn(move || {
                    let mut head = Vec::new();
                    pass(client, upstream, |sent| {
                        let bytes = sent.len() as u64;
                        heads_in(sent, &mut head, &all);
                        if count.fetch_add(bytes, Ordering::SeqCst) + bytes >= after
                            && let Some(then) = then.lock().unwrap().take()
                        {
                            then();
                        }
                    });
                });
            }
        });
        Tap { port, passed, sent, closed }
    }

    /// The heads of all requests that went through, a line each.
    fn heads(&self) -> Vec<String> {
        let sent = String::from_utf8_lossy(&self.sent.lock().unwrap()).into_owned();
        sent.split("\r\n\r\n")
            .filter(|head| !head.is_empty())
            .map(|head| head.replace("\r\n", "\n"))
            .collect()
    }
}

/// Keeps what looks like the head of a request: a connection's pieces are taken together up to the empty line.
fn heads_in(piece: &[u8], head: &mut Vec<u8>, all: &Mutex<Vec<u8>>) {
    const METHODS: [&[u8]; 5] = [b"PUT /", b"GET /", b"POST /", b"HEAD /", b"DELETE /"];
    if METHODS.iter().any(|method| piece.starts_with(method)) {
        head.clear();
    } else if head.is_empty() {
        return;
    }
    head.extend_from_slice(piece);
    if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
        all.lock().unwrap().extend_from_slice(&head[..end + 4]);
        head.clear();
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut seen: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
        seen(&buffer[..read]);
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[test]
fn a_server_that_dies_in_the_middle_of_an_upload_leaves_nothing_that_counts_and_the_next_copy_is_whole() {
    let Some((mut sandbox, server)) = with_bucket("an S3 server that dies", "") else { return };
    grow(&sandbox, 30);
    let (port, endpoint) = (server.port(), server.endpoint());
    let server = Arc::new(Mutex::new(server));
    let tap = {
        let server = Arc::clone(&server);
        Tap::on(port, 12 << 20, move || server.lock().unwrap().kill())
    };
    point_at(&mut sandbox, &format!("http://127.0.0.1:{}", tap.port), "");
    let output = sandbox.plimsoll(&["backup"]);
    output.exits(1).says("✓ Backup database integrity verified").says("not every second copy is");
    assert!(tap.passed.load(Ordering::SeqCst) >= 12 << 20, "it died before the middle");
    let backup = latest(&sandbox);
    sandbox.plimsoll(&["backup", "verify", backup.to_str().unwrap()]).exits(0);
    assert!(
        state(&sandbox)["trouble"]["why"].is_string() && state(&sandbox)["copied"].is_null(),
        "{}",
        state(&sandbox)
    );

    server.lock().unwrap().start_again();
    assert!(
        server.lock().unwrap().names("shop").iter().all(|name| !name.ends_with(".json")),
        "half a copy counts"
    );
    point_at(&mut sandbox, &endpoint, "");
    let dest = format!("s3://{BUCKET}/shop");
    sandbox
        .plimsoll(&["backup", "copy", backup.to_str().unwrap(), &dest])
        .exits(0)
        .says("read back and compared");
    assert!(state(&sandbox)["trouble"].is_null(), "{}", state(&sandbox));
    sandbox.plimsoll(&["backup", "drill"]).exits(0);
}

/// Within the time for which requests are repeated nobody notices.
#[test]
fn a_server_that_comes_back_in_the_middle_of_an_upload_gets_the_rest() {
    let Some((mut sandbox, server)) = with_bucket("an S3 server that comes back", "") else { return };
    grow(&sandbox, 30);
    let server = Arc::new(Mutex::new(server));
    let port = server.lock().unwrap().port();
    let tap = {
        let server = Arc::clone(&server);
        Tap::on(port, 12 << 20, move || {
            let mut server = server.lock().unwrap();
            server.kill();
            server.start_again();
        })
    };
    point_at(&mut sandbox, &format!("http://127.0.0.1:{}", tap.port), "");
    sandbox.configure("[backup.s3]\nretry_for = \"90s\"\n");
    sandbox.plimsoll(&["backup"]).exits(0).says("read back and compared");
    sandbox.plimsoll(&["backup", "drill"]).exits(0);
}

/// A backup and a drill through a tap, and the heads of all requests. `None` after it was said why not.
fn through_a_tap(
    test: &str,
    encryption: &str,
) -> Option<(Sandbox, S3Server, Vec<String>, plimsoll_testkit::Output)> {
    let (mut sandbox, server) = with_bucket(test, "")?;
    grow(&sandbox, 12);
    let tap = Tap::on(server.port(), u64::MAX, || {});
    point_at(&mut sandbox, &format!("http://127.0.0.1:{}", tap.port), encryption);
    let output = sandbox.plimsoll(&["backup"]);
    if output.code == Some(0) {
        sandbox.plimsoll(&["backup", "drill"]).exits(0);
    }
    let heads = tap.heads();
    Some((sandbox, server, heads, output))
}

/// What a request must say, by what it is for: those that make an object, and all that touch one.
fn say(heads: &[String], header: &str, value: &str, all: bool) {
    let makes = |head: &&String| {
        head.starts_with("POST ") && head.contains("?uploads")
            || head.starts_with("PUT ") && head.contains(".json")
    };
    let touches = |head: &&String| {
        let ends = head.starts_with("DELETE ") || head.starts_with("POST ") && head.contains("uploadId=");
        !ends && !head.contains("list-type=2")
    };
    let wanted: Vec<&String> =
        heads.iter().filter(|head| if all { touches(head) } else { makes(head) }).collect();
    assert!(wanted.len() >= 2, "an upload is begun and a manifest is put: {heads:#?}");
    for head in wanted {
        let line = format!("{header}: {value}");
        assert!(head.lines().any(|l| l.eq_ignore_ascii_case(&line)), "no {line} in {head}");
    }
}

#[test]
fn objects_are_encrypted_by_a_key_of_the_key_service_when_that_is_said() {
    let more = "encryption = \"aws:kms\"\nkms_key = \"plimsoll-test-key\"\n";
    let Some((_sandbox, _server, heads, output)) = through_a_tap("SSE-KMS", more) else { return };
    say(&heads, "x-amz-server-side-encryption", "aws:kms", false);
    say(&heads, "x-amz-server-side-encryption-aws-kms-key-id", "plimsoll-test-key", false);
    output.exits(0);
}

/// The server forgets the key: without it, or with another, nobody reads the object, and no other file holds it.
#[test]
fn objects_are_encrypted_by_the_owners_own_key_and_cannot_be_read_with_another() {
    let (key, other) =
        ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "HxECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sse.key");
    fs::write(&file, format!("{key}\n")).unwrap();
    let more = format!("encryption = \"customer\"\nencryption_key = \"file:{}\"\n", file.display());
    let Some((sandbox, _server, heads, output)) = through_a_tap("SSE-C", &more) else { return };
    say(&heads, "x-amz-server-side-encryption-customer-algorithm", "AES256", true);
    say(&heads, "x-amz-server-side-encryption-customer-key", key, true);
    output.exits(0);
    fs::write(&file, other).unwrap();
    let refused = sandbox.plimsoll(&["backup", "drill"]);
    refused.exits(1);
    assert!(!refused.said().contains(key) && !refused.said().contains(other), "{}", refused.said());
    fs::write(&file, "hunter2").unwrap();
    sandbox.plimsoll(&["backup", "drill"]).exits(1).says("openssl rand -base64 32");
    for file in files_below(sandbox.root()) {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(key.len()).any(|window| window == key.as_bytes()), "{}", file.display());
    }
}

#[test]
fn a_damaged_object_is_found_by_the_drill_and_never_comes_home() {
    let Some((sandbox, server)) = with_bucket("a damaged object", "") else { return };
    sandbox.plimsoll(&["backup"]).exits(0);
    let object = server.names("shop").into_iter().find(|name| !name.ends_with(".json")).unwrap();
    let mut bytes = fs::read(latest(&sandbox)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    server.damage(&format!("shop/{object}"), &bytes);
    sandbox.plimsoll(&["backup", "drill"]).exits(1).says("another hash");
    let from = format!("s3://{BUCKET}/shop/store.db.backup.LATEST");
    fs::create_dir(sandbox.root().join("home")).unwrap();
    sandbox.plimsoll(&["backup", "copy", &from, "home"]).exits(1);
    assert_eq!(fs::read_dir(sandbox.root().join("home")).unwrap().count(), 0);
}

#[test]
fn old_copies_in_a_bucket_are_pruned_by_the_same_rules_and_a_dry_run_only_explains() {
    let Some((mut sandbox, server)) = with_bucket("retention in S3", "") else { return };
    for _ in 0..3 {
        sandbox.plimsoll(&["backup"]).exits(0);
        // Names know seconds.
        let first = latest(&sandbox);
        wait::until("the next second", Duration::from_secs(3), || {
            let stamp = name(&first);
            let now = rusqlite::Connection::open_in_memory()
                .unwrap()
                .query_row("SELECT strftime('%Y%m%d_%H%M%S', 'now')", [], |row| row.get::<_, String>(0))
                .unwrap();
            !stamp.ends_with(&now)
        });
    }
    assert_eq!(server.names("shop").len(), 6);
    sandbox.configure("[backup]\nkeep_last = 2\n");
    age_all(&sandbox, &server);
    let dry = sandbox.plimsoll(&["backup", "prune", "--dry-run"]);
    dry.exits(0).says("would be removed").says("last rule, 2 of 2").says(&format!("in s3://{BUCKET}/shop:"));
    assert_eq!(server.names("shop").len(), 6, "a dry run removes nothing");
    sandbox.plimsoll(&["backup", "prune"]).exits(0);
    assert_eq!(server.names("shop").len(), 4, "{:?}", server.names("shop"));
}

/// Makes every backup a year old, here and there, as its manifest says it.
fn age_all(sandbox: &Sandbox, server: &S3Server) {
    for file in files_below(&sandbox.root().join("backups")) {
        let file_name = name(&file);
        if !file_name.contains(".backup.") || !file_name.ends_with(".json") {
            continue;
        }
        let old = |text: &str| {
            let mut manifest: serde_json::Value = serde_json::from_str(text).unwrap();
            let at = manifest["created_at"].as_str().unwrap().replacen("20", "19", 1);
            manifest["created_at"] = at.into();
            manifest
        };
        let manifest = old(&fs::read_to_string(&file).unwrap());
        let mut there = manifest.clone();
        let sha = manifest["sha256"].as_str().unwrap()[..16].to_owned();
        there["object"] = format!("{}-{sha}", file_name.trim_end_matches(".json")).into();
        fs::write(&file, manifest.to_string()).unwrap();
        server.damage(&format!("shop/{file_name}"), there.to_string().as_bytes());
    }
}
