//! The pages of `plimsoll serve`, asked as a browser without JavaScript asks them.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use plimsoll_testkit::{Sandbox, Serve, fault, wait};

/// A sandbox whose `serve` shows pages to two people: Asha, who may act, and Ravi, who may look.
pub(crate) struct Pages {
    pub(crate) sandbox: Sandbox,
    pub(crate) port: u16,
}

/// What somebody got.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<String> {
        let line = self.head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    }

    /// The hidden field of the page's forms.
    fn csrf(&self) -> String {
        let (_, rest) = self.body.split_once("name=\"csrf\" value=\"").expect("the page has a form");
        rest.split('"').next().unwrap().to_owned()
    }
}

fn ask(port: u16, method: &str, path: &str, headers: &[(&str, &str)], form: Option<&str>) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    if let Some(form) = form {
        let length = form.len();
        request +=
            &format!("content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n");
    }
    request += "\r\n";
    request += form.unwrap_or_default();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

impl Pages {
    pub(crate) fn new() -> Pages {
        Pages::with("")
    }

    pub(crate) fn with(more: &str) -> Pages {
        let mut sandbox = Sandbox::new();
        for (name, token) in [("asha", "asha-t0ken"), ("ravi", "ravi-t0ken"), ("meena", "meena-t0ken")] {
            fs::write(sandbox.root().join(format!("token-{name}")), format!("{token}\n")).unwrap();
        }
        // Asked for and let go again: nobody else takes it from here on, as with the front door's own.
        let port = sandbox.spare_port();
        let root = sandbox.root().display().to_string();
        sandbox.configure(&format!(
            "[dashboard]\nlisten = \"127.0.0.1:{port}\"\n\
             [dashboard.people.asha]\ntoken = \"file:{root}/token-asha\"\nrole = \"operator\"\n\
             [dashboard.people.meena]\ntoken = \"file:{root}/token-meena\"\nrole = \"operator\"\n\
             [dashboard.people.ravi]\ntoken = \"file:{root}/token-ravi\"\n{more}"
        ));
        Pages { sandbox, port }
    }

    fn ask(&self, method: &str, path: &str, cookie: Option<&str>, form: Option<&str>) -> Answer {
        let cookie = cookie.map(|cookie| ("cookie", cookie));
        ask(self.port, method, path, cookie.as_slice(), form)
    }

    fn get(&self, path: &str, cookie: &str) -> Answer {
        self.ask("GET", path, Some(cookie), None)
    }

    fn post(&self, path: &str, cookie: &str, form: &str) -> Answer {
        self.ask("POST", path, Some(cookie), Some(form))
    }

    fn log_in(&self, token: &str) -> String {
        let answer = self.ask("POST", "/login", None, Some(&format!("token={token}")));
        assert_eq!(answer.status, 303, "{}", answer.body);
        let cookie = answer.header("set-cookie").expect("a session");
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        cookie.split(';').next().unwrap().to_owned()
    }

    fn live(&self) -> Serve {
        self.sandbox.live()
    }
}

#[test]
fn nobody_sees_anything_without_a_token_and_every_answer_has_its_policy() {
    let pages = Pages::new();
    let serve = pages.live();
    for path in ["/", "/runs", "/runs/1", "/runs/1/report", "/runs/1/report.json", "/backups"] {
        let answer = pages.ask("GET", path, None, None);
        assert_eq!((answer.status, answer.header("location").as_deref()), (303, Some("/login")), "{path}");
        assert!(!answer.body.contains("000001-"), "{path} shows something: {}", answer.body);
    }
    assert_eq!(pages.ask("GET", "/live", None, None).status, 401);
    let wrong = pages.ask("POST", "/login", None, Some("token=guess"));
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    let asha = pages.log_in("asha-t0ken");
    for path in ["/", "/runs", "/runs/1", "/runs/1/report", "/backups", "/style.css", "/live.js", "/nothing"]
    {
        let answer = pages.get(path, &asha);
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert!(
            policy.starts_with("default-src 'none'") && !policy.contains("unsafe-eval"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("script-src 'unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options").as_deref(), Some("nosniff"), "{path}");
        assert_eq!(answer.status, if path == "/nothing" { 404 } else { 200 }, "{path}: {}", answer.body);
    }
    let now = pages.get("/", &asha).body;
    for words in ["Serving", "000001-", "Last backup", "Front door", "Sign it"] {
        assert!(now.contains(words), "no {words:?} in {now}");
    }
    let csrf = pages.get("/", &asha).csrf();
    assert_eq!(pages.post("/logout", &asha, &format!("csrf={csrf}")).status, 303);
    assert_eq!(pages.get("/", &asha).status, 303, "the session goes on after logging out");
    drop(serve);
}

#[test]
fn operators_answer_and_sign_and_nobody_else_and_no_form_from_elsewhere() {
    let pages = Pages::new();
    let serve = pages.live();
    let (asha, ravi, meena) =
        (pages.log_in("asha-t0ken"), pages.log_in("ravi-t0ken"), pages.log_in("meena-t0ken"));
    let page = pages.get("/runs/1", &asha);
    let csrf = page.csrf();
    assert!(page.body.contains("Customers&#x27; reports") || page.body.contains("reports"), "{}", page.body);
    let answer = |cookie: &str, csrf: &str| {
        pages.post("/runs/1/answer", cookie, &format!("csrf={csrf}&item=watch.reports&text=none+%3Cb%3Eyet"))
    };
    assert_eq!(answer(&asha, "").status, 403);
    assert_eq!(answer(&asha, &pages.get("/runs/1", &meena).csrf()).status, 403, "another's form token");
    let theirs = pages.get("/runs/1", &ravi).csrf();
    assert_eq!(answer(&ravi, &theirs).status, 403, "a viewer answered");
    assert_eq!(answer(&asha, &csrf).status, 303);
    let page = pages.get("/runs/1", &asha).body;
    assert!(page.contains("none &lt;b&gt;yet") && !page.contains("none <b>yet"), "{page}");
    let sign = |cookie: &str, csrf: &str, role: &str| {
        pages.post("/runs/1/sign", cookie, &format!("csrf={csrf}&role={role}&note=fine"))
    };
    assert_eq!(sign(&asha, &csrf, "deployer").status, 303);
    let twice = sign(&asha, &csrf, "verifier");
    assert_eq!(twice.status, 409);
    assert!(twice.body.contains("deployer and verifier are two people"), "{}", twice.body);
    assert_eq!(sign(&meena, &pages.get("/runs/1", &meena).csrf(), "verifier").status, 303);
    assert!(pages.get("/runs/1", &ravi).body.contains("The run is closed"));
    let report = pages.sandbox.read("runs/000001/report.md");
    assert!(report.contains("Deployed by: asha") && report.contains("Verified by: meena"), "{report}");
    pages.sandbox.plimsoll(&["audit"]).exits(0);
    drop(serve);
}

#[test]
fn a_page_hears_of_a_run_while_it_goes_on() {
    let pages = Pages::new();
    let serve = pages.live();
    let asha = pages.log_in("asha-t0ken");
    let mut stream = TcpStream::connect(("127.0.0.1", pages.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(format!("GET /live HTTP/1.1\r\nhost: x\r\ncookie: {asha}\r\n\r\n").as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("event: tick")), "the page hears nothing");
    pages.sandbox.release(r#"{ "page": "two" }"#, &[]);
    let deploying = pages.sandbox.start(&["deploy", "--yes"]);
    assert!(lines.any(|line| line.contains("event: change")), "the page does not hear of the run");
    deploying.wait().exits(0);
    assert!(pages.get("/runs", &asha).body.contains("000002-"));
    // A page that listens does not keep `serve` from ending.
    serve.stop().exits(0);
}

#[test]
fn prometheus_and_a_health_check_need_no_token_and_learn_no_names() {
    let pages = Pages::new();
    let serve = pages.live();
    assert_eq!(pages.sandbox.get("/").status(), Some(200));
    let metrics = pages.ask("GET", "/metrics", None, None);
    assert_eq!(metrics.status, 200);
    let body = &metrics.body;
    let value = |name: &str| -> f64 {
        let line =
            body.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {body}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value("plimsoll_requests_total") >= 1.0);
    assert!(value("plimsoll_answers_total{app=\"shop\",class=\"2xx\"}") >= 1.0);
    assert_eq!(value("plimsoll_runs{app=\"shop\",kind=\"deploy\",ending=\"live\"}"), 1.0);
    assert!(value("plimsoll_backup_age_seconds") < 600.0);
    assert!(value("plimsoll_app_memory_bytes") > 100_000.0);
    assert!(!body.contains("asha") && !body.contains("t0ken"), "{body}");
    let health = pages.ask("GET", "/health", None, None);
    assert_eq!(health.status, 200, "{}", health.body);
    assert!(health.body.contains("\"status\":\"ok\""), "{}", health.body);
    drop(serve);
}

/// nginx before the pages, as the guide has it; `None` when there is none on this machine. Ends with the test.
struct Nginx(std::process::Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its master ends the workers; killed, it would leave them.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

fn nginx(folder: &Path, front: u16, pages: u16) -> Option<Nginx> {
    let program = ["nginx", "/usr/sbin/nginx"]
        .into_iter()
        .find(|program| Command::new(program).arg("-v").stderr(Stdio::null()).status().is_ok())?;
    let mut users = String::new();
    for name in ["asha", "ravi"] {
        let hash = Command::new("openssl").args(["passwd", "-apr1", &format!("{name}-pw")]).output().ok()?;
        users += &format!("{name}:{}\n", String::from_utf8(hash.stdout).ok()?.trim());
    }
    fs::write(folder.join("users"), users).unwrap();
    let place = folder.display();
    let mut temporary = String::new();
    for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        temporary += &format!("{name}_temp_path {place}/{name};\n");
    }
    // The worker reads the users' file: it stays with whoever made it.
    let owner = if rustix::process::getuid().is_root() { "user root;" } else { "" };
    let config = format!(
        "{owner} daemon off; pid {place}/nginx.pid; error_log {place}/nginx.log;\n\
         events {{}}\nhttp {{ access_log off; {temporary} server {{ listen 127.0.0.1:{front};\n\
         location / {{ auth_basic \"shop\"; auth_basic_user_file {place}/users;\n\
         proxy_pass http://127.0.0.1:{pages}; proxy_buffering off;\n\
         proxy_set_header X-Remote-User $remote_user;\n\
         proxy_set_header X-Plimsoll-Proxy \"pr0xy-s3cret\";\n\
         proxy_set_header X-Forwarded-Proto $scheme; }} }} }}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let child = Command::new(program)
        .args(["-p", &place.to_string(), "-c", &file.display().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let nginx = Nginx(child);
    let up = wait::within(Duration::from_secs(20), || TcpStream::connect(("127.0.0.1", front)).ok());
    let said = || fs::read_to_string(folder.join("nginx.log")).unwrap_or_default();
    assert!(up.is_some(), "nginx does not answer: {}", said());
    Some(nginx)
}

/// `Authorization` of somebody whom nginx knows.
fn basic(name: &str) -> String {
    let mut openssl = Command::new("openssl");
    let mut child =
        openssl.args(["base64", "-A"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{name}:{name}-pw").as_bytes()).unwrap();
    format!("Basic {}", String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap())
}

#[test]
fn nginx_names_whoever_it_let_in_and_nobody_else_can() {
    const TEST: &str = "dashboard::nginx_names_whoever_it_let_in_and_nobody_else_can";
    let mut pages = Pages::new();
    let folder = tempfile::tempdir().unwrap();
    let front = pages.sandbox.spare_port();
    let Some(_nginx) = nginx(folder.path(), front, pages.port) else {
        fault::skipped(TEST, "there is no nginx or no openssl; scripts/tools installs nginx");
        return;
    };
    let secret = folder.path().join("secret");
    fs::write(&secret, "pr0xy-s3cret\n").unwrap();
    pages.sandbox.configure(&format!(
        "dashboard.header = 'x-remote-user'\ndashboard.header_secret = 'file:{}'",
        secret.display()
    ));
    let serve = pages.live();
    let through = |headers: &[(&str, &str)], path: &str| ask(front, "GET", path, headers, None);
    let direct = |headers: &[(&str, &str)]| ask(pages.port, "GET", "/", headers, None).status;
    let (asha, ravi) = (basic("asha"), basic("ravi"));

    assert_eq!(through(&[], "/").status, 401, "nginx lets nobody in without a password");
    assert_eq!(through(&[("authorization", "Basic YXNoYTpndWVzcw==")], "/").status, 401);
    let page = through(&[("authorization", &ravi)], "/");
    assert_eq!(page.status, 200, "{}", page.body);
    assert!(page.body.contains(">ravi"), "{}", page.body);

    // Who names themselves to nginx is overwritten: one header, several, other spellings, and a guessed secret.
    for forged in [
        vec![("X-Remote-User", "asha")],
        vec![("x-remote-user", "asha"), ("X-REMOTE-USER", "asha"), ("X_Remote_User", "asha")],
        vec![("x-remote-user", "asha"), ("x-plimsoll-proxy", "pr0xy-s3cret")],
    ] {
        let mut headers = forged.clone();
        assert_eq!(through(&headers, "/").status, 401, "{forged:?}");
        headers.push(("authorization", &ravi));
        let page = through(&headers, "/runs/1").body;
        assert!(page.contains(">ravi") && !page.contains(">asha"), "{forged:?}: {page}");
        assert!(!page.contains("Sign as"), "a viewer may sign: {page}");
    }

    // Past nginx the header alone names nobody.
    assert_eq!(direct(&[("x-remote-user", "asha")]), 303);
    assert_eq!(direct(&[("x-remote-user", "asha"), ("x-plimsoll-proxy", "guess")]), 303);
    assert_eq!(direct(&[("x-remote-user", "asha"), ("x-plimsoll-proxy", "")]), 303);
    assert_eq!(direct(&[("authorization", &asha)]), 303);

    // An operator whom nginx named signs, and the journal says how they came in.
    let csrf = through(&[("authorization", &asha)], "/runs/1").csrf();
    let form = format!("csrf={csrf}&role=deployer&note=fine");
    let theirs = ask(front, "POST", "/runs/1/sign", &[("authorization", &ravi)], Some(&form));
    assert_eq!(theirs.status, 403, "{}", theirs.body);
    let signed = ask(front, "POST", "/runs/1/sign", &[("authorization", &asha)], Some(&form));
    assert_eq!(signed.status, 303, "{}", signed.body);
    let journal = pages.sandbox.journal(1);
    let signature = journal.iter().find(|entry| entry["event"] == "signed").unwrap().to_string();
    assert!(signature.contains("\"asha\"") && signature.contains("through the proxy"), "{signature}");
    assert!(!serve.log().contains("s3cret"), "{}", serve.log());
    drop(serve);
}
