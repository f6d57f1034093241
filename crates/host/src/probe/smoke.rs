//! Smoke tests: a few requests that show that the app does what it is for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use plimsoll_core::check::Check;
use plimsoll_core::plan::{Smoke, SmokeStep};
use regex::{Captures, Regex};
use serde_json::{Value, json};

use super::http::{self, Answer};
use super::jar::Jar;
use super::page;

/// The longest that one request may take.
const LONGEST: Duration = Duration::from_secs(10);
/// How much of an unexpected answer is shown, characters.
const EXCERPT: usize = 300;

/// Where the tests go to.
#[derive(Clone, Debug)]
pub struct Target {
    /// The app's private address.
    pub address: SocketAddr,
    /// `[front].public_url`: its host and scheme are what the app is told. Without it, the address over http.
    pub public_url: Option<String>,
    /// The one-time token of the header `x-plimsoll-smoke`.
    pub token: Option<String>,
    /// Whether production's own database is behind it; then tests that write are left out unless they say
    /// `production = true`.
    pub production: bool,
}

/// One test's outcome.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The check `verify.smoke`.
    pub check: Check,
    /// How long all its answers took together, milliseconds; 0 when it did not run.
    pub ms: u64,
}

/// Runs every test, one after the other, each as a visitor of its own. `limit` is for all of them together: what
/// it leaves no time for is unknown, not passed. `stop` is asked before every request.
#[must_use]
pub fn run(
    tests: &[Smoke],
    target: &Target,
    limit: Option<Duration>,
    stop: &dyn Fn() -> bool,
) -> Vec<Outcome> {
    let until = limit.map(|limit| Instant::now() + limit);
    tests.iter().map(|test| run_one(test, target, until, stop)).collect()
}

fn run_one(test: &Smoke, target: &Target, until: Option<Instant>, stop: &dyn Fn() -> bool) -> Outcome {
    let without = |check| Outcome { check, ms: 0 };
    if test.writes && target.production && !test.production {
        let why = "it writes to the database, and this is production (production = true lets it run behind the shut door)";
        return without(Check::skipped("verify.smoke", &test.name, why));
    }
    if test.steps.is_empty() {
        return without(Check::unknown("verify.smoke", &test.name, "the test has no request"));
    }
    let mut visit = Visit { target, jar: Jar::default(), captured: BTreeMap::new(), last_path: None };
    let mut steps: Vec<Value> = Vec::new();
    let mut ms = 0;
    for step in &test.steps {
        let title = format!("{} {}", method(step), step.path);
        let left =
            until.map_or(LONGEST, |until| until.saturating_duration_since(Instant::now()).min(LONGEST));
        if left.is_zero() || stop() {
            let why =
                if left.is_zero() { "there was no time left for" } else { "somebody asked to stop before" };
            let check = Check::unknown("verify.smoke", &test.name, format!("{why} {title}"));
            return Outcome { check: check.with("steps", steps), ms };
        }
        match visit.make(step, left) {
            Ok(answer) => {
                ms += answer.ms;
                steps.push(json!({ "step": title, "status": answer.status, "ms": answer.ms }));
            }
            Err(wrong) => {
                let took = wrong.answer.as_ref().map_or(0, |answer| answer.ms);
                let mut check = Check::fail("verify.smoke", &test.name, format!("{title}: {}", wrong.why))
                    .with("step", title)
                    .with("steps", steps)
                    .with("ms", ms + took);
                if let Some(expected) = wrong.expected {
                    check = check.with("expected", expected);
                }
                if let Some(answer) = wrong.answer {
                    let secrets = visit.captured.values().map(String::as_str).chain(visit.jar.values());
                    let secrets = secrets.chain(target.token.as_deref());
                    check = check
                        .with("status", answer.status)
                        .with("came", page::excerpt(&page::text(&answer), EXCERPT, secrets));
                    if let Some(to) = answer.header("location") {
                        check = check.with("location", to.split('?').next().unwrap_or(to));
                    }
                }
                return Outcome { check, ms: ms + took };
            }
        }
    }
    let status = steps.last().and_then(|step| step.get("status")).cloned().unwrap_or_default();
    let check =
        Check::pass("verify.smoke", &test.name).with("status", status).with("ms", ms).with("steps", steps);
    Outcome { check, ms }
}

/// The method of a step, in capitals.
fn method(step: &SmokeStep) -> String {
    if step.method.is_empty() { "GET".to_owned() } else { step.method.to_ascii_uppercase() }
}

/// What was wrong with a step.
struct Wrong {
    why: String,
    expected: Option<String>,
    answer: Option<Answer>,
}

impl Wrong {
    fn unsent(why: impl Into<String>) -> Self {
        Wrong { why: why.into(), expected: None, answer: None }
    }
}

/// One visitor: cookies and captured values.
struct Visit<'a> {
    target: &'a Target,
    jar: Jar,
    captured: BTreeMap<String, String>,
    last_path: Option<String>,
}

impl Visit<'_> {
    fn make(&mut self, step: &SmokeStep, limit: Duration) -> Result<Answer, Wrong> {
        let method = method(step);
        let path = self.path(&step.path).map_err(Wrong::unsent)?;
        let (kind, body) = self.body(step).map_err(Wrong::unsent)?.unzip();
        let mut headers = self.headers(&method, &path, kind);
        for (name, value) in &step.headers {
            let value = self.fill(value, str::to_owned).map_err(Wrong::unsent)?;
            let name = name.to_ascii_lowercase();
            headers.retain(|(have, _)| *have != name);
            headers.push((name, value));
        }
        let pairs: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        // POST without a body still has a length.
        let body = body.or_else(|| (!["GET", "HEAD", "DELETE"].contains(&method.as_str())).then(Vec::new));
        let answer = http::send(self.target.address, &method, &path, &pairs, body, limit)
            .map_err(|error| Wrong::unsent(error.to_string()))?;
        self.jar.take(&answer, &path);
        self.last_path = Some(path);
        if let Some((why, expected)) = unmet(step, &answer) {
            return Err(Wrong { why, expected: Some(expected), answer: Some(answer) });
        }
        for (name, what) in &step.capture {
            match page::capture(what, &answer) {
                Ok(value) => {
                    self.captured.insert(name.clone(), value);
                }
                Err(why) => {
                    let expected = Some(format!("a value for {{{name}}}"));
                    return Err(Wrong { why: format!("{{{name}}}: {why}"), expected, answer: Some(answer) });
                }
            }
        }
        Ok(answer)
    }

    /// What a browser behind the front door would send.
    fn headers(&self, method: &str, path: &str, kind: Option<&'static str>) -> Vec<(String, String)> {
        let address = self.target.address.to_string();
        let (scheme, host) = match self.target.public_url.as_deref().and_then(|url| url.split_once("://")) {
            Some((scheme, rest)) => (scheme, rest.split('/').next().unwrap_or(rest)),
            None => ("http", address.as_str()),
        };
        let mut headers = vec![
            ("host", host.to_owned()),
            ("accept", "text/html,application/json;q=0.9,*/*;q=0.8".to_owned()),
            ("x-forwarded-proto", scheme.to_owned()),
            ("x-forwarded-host", host.to_owned()),
            ("x-forwarded-for", "127.0.0.1".to_owned()),
        ];
        // Frameworks that guard against forged forms compare these with the host.
        if !["GET", "HEAD"].contains(&method) {
            headers.push(("origin", format!("{scheme}://{host}")));
        }
        if let Some(last) = &self.last_path {
            headers.push(("referer", format!("{scheme}://{host}{last}")));
        }
        headers.extend(self.jar.header(path).map(|cookies| ("cookie", cookies)));
        headers.extend(kind.map(|kind| ("content-type", kind.to_owned())));
        headers.extend(self.target.token.iter().map(|token| ("x-plimsoll-smoke", token.clone())));
        headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn path(&self, template: &str) -> Result<String, String> {
        /// What may not stand in a request line as it is; a captured link has its own escapes already.
        const UNFIT: &AsciiSet =
            &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`').add(b'{').add(b'}');
        /// In a query written by hand the whole value belongs to one name.
        const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
        let (path, query) = match template.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (template, None),
        };
        let mut whole = self.fill(path, |value| utf8_percent_encode(value, UNFIT).to_string())?;
        // A captured link may be whole: https://shop.example.com/order/7
        if let Some((_, rest)) = whole.split_once("://").filter(|(scheme, _)| !scheme.contains('/')) {
            whole = rest.find('/').map_or_else(|| "/".to_owned(), |at| rest[at..].to_owned());
        }
        if let Some(query) = query {
            whole.push(if whole.contains('?') { '&' } else { '?' });
            whole.push_str(&self.fill(query, |value| utf8_percent_encode(value, VALUE).to_string())?);
        }
        // A fragment is for the browser alone.
        let whole = utf8_percent_encode(whole.split('#').next().unwrap_or_default(), UNFIT).to_string();
        Ok(if whole.starts_with('/') { whole } else { format!("/{whole}") })
    }

    fn body(&self, step: &SmokeStep) -> Result<Option<(&'static str, Vec<u8>)>, String> {
        if let Some(template) = &step.json {
            let quoted = |value: &str| {
                let quoted = Value::String(value.to_owned()).to_string();
                quoted[1..quoted.len() - 1].to_owned()
            };
            // Braces are JSON's own, so a name that nobody captured stays as it is.
            let text = PLACES.replace_all(template, |found: &Captures<'_>| {
                self.captured.get(&found[1]).map_or_else(|| found[0].to_owned(), |value| quoted(value))
            });
            return Ok(Some(("application/json", text.into_owned().into_bytes())));
        }
        if step.form.is_empty() {
            return Ok(None);
        }
        let mut fields = BTreeMap::new();
        for (name, value) in &step.form {
            fields.insert(name, self.fill(value, str::to_owned)?);
        }
        let text = serde_urlencoded::to_string(fields).map_err(|error| error.to_string())?;
        Ok(Some(("application/x-www-form-urlencoded", text.into_bytes())))
    }

    /// Replaces every `{name}` by its captured value, as `form` writes it.
    fn fill(&self, template: &str, form: impl Fn(&str) -> String) -> Result<String, String> {
        let missing = PLACES.captures_iter(template).find(|found| !self.captured.contains_key(&found[1]));
        if let Some(found) = missing {
            return Err(format!("no step before this one captured {}", &found[0]));
        }
        let filled = PLACES.replace_all(template, |found: &Captures<'_>| form(&self.captured[&found[1]]));
        Ok(filled.into_owned())
    }
}

static PLACES: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\{([A-Za-z_][A-Za-z0-9_-]*)\}").expect("a constant pattern"));

/// The first expectation that an answer does not meet: what came instead, and what was expected.
fn unmet(step: &SmokeStep, answer: &Answer) -> Option<(String, String)> {
    let came = format!("status {}", answer.status);
    match step.status {
        Some(status) if answer.status != status => return Some((came, format!("status {status}"))),
        None if answer.status >= 400 => return Some((came, "a status below 400".to_owned())),
        _ => {}
    }
    for (name, part) in &step.expect_headers {
        let expected = format!("the header {name} with {part:?}");
        match answer.header(&name.to_ascii_lowercase()) {
            None => return Some((format!("there is no header {name}"), expected)),
            // The value is not shown: it may be a session.
            Some(value) if !value.contains(part.as_str()) => {
                return Some((format!("the header {name} does not hold {part:?}"), expected));
            }
            Some(_) => {}
        }
    }
    if step.contains.is_empty() && step.lacks.is_empty() {
        return None;
    }
    let raw = answer.text();
    let text = page::text(answer);
    let holds = |part: &str| raw.contains(part) || text.contains(&page::one_space(part));
    if let Some(part) = step.contains.iter().find(|part| !holds(part)) {
        return Some((format!("the page does not hold {part:?}"), format!("{part:?} on the page")));
    }
    let part = step.lacks.iter().find(|part| holds(part))?;
    Some((format!("the page holds {part:?}"), format!("no {part:?} on the page")))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};
    use std::thread;

    use plimsoll_core::check::Verdict;
    use plimsoll_core::plan::Capture;

    use super::*;

    /// A request as the shop got it.
    #[derive(Clone, Debug, Default)]
    struct Got {
        line: String,
        headers: BTreeMap<String, String>,
        body: String,
    }

    /// A small shop: a session cookie, a form with a token, a cart, an order in JSON.
    struct Shop {
        address: SocketAddr,
        got: Arc<Mutex<Vec<Got>>>,
        thread: Option<thread::JoinHandle<()>>,
    }

    impl Shop {
        fn open() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let got: Arc<Mutex<Vec<Got>>> = Arc::default();
            let seen = got.clone();
            let thread = thread::spawn(move || {
                let mut carts: BTreeMap<String, usize> = BTreeMap::new();
                for socket in listener.incoming() {
                    let mut socket = socket.unwrap();
                    let request = read(&mut socket);
                    if request.line.starts_with("QUIT") {
                        return;
                    }
                    if !request.line.is_empty() {
                        seen.lock().unwrap().push(request.clone());
                        let _ = socket.write_all(answer(&request, &mut carts).as_bytes());
                    }
                    let _ = socket.shutdown(Shutdown::Write);
                }
            });
            Shop { address, got, thread: Some(thread) }
        }

        fn target(&self) -> Target {
            Target {
                address: self.address,
                public_url: Some("https://shop.example.com".to_owned()),
                token: Some("one-time-token".to_owned()),
                production: false,
            }
        }

        fn run(&self, steps: Vec<SmokeStep>) -> Outcome {
            let test = Smoke { name: "It works".to_owned(), steps, ..Smoke::default() };
            run(&[test], &self.target(), None, &|| false).remove(0)
        }
    }

    impl Drop for Shop {
        fn drop(&mut self) {
            if let Ok(mut socket) = TcpStream::connect(self.address) {
                let _ = socket.write_all(b"QUIT / HTTP/1.1\r\n\r\n");
            }
            let ended = self.thread.take().unwrap().join();
            assert!(ended.is_ok() || thread::panicking(), "the shop failed");
        }
    }

    fn read(socket: &mut TcpStream) -> Got {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let mut lines = head.split("\r\n");
                let line = lines.next().unwrap().to_owned();
                let headers: BTreeMap<String, String> = lines
                    .filter_map(|line| line.split_once(": "))
                    .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
                    .collect();
                let length = headers.get("content-length").map_or(0, |n| n.parse().unwrap());
                if body.len() >= length {
                    return Got { line, headers, body: body.to_owned() };
                }
            }
            match socket.read(&mut buffer) {
                Ok(n) if n > 0 => bytes.extend_from_slice(&buffer[..n]),
                _ => return Got::default(),
            }
        }
    }

    fn answer(request: &Got, carts: &mut BTreeMap<String, usize>) -> String {
        let cookie = request.headers.get("cookie").cloned().unwrap_or_default();
        let session =
            cookie.split("; ").find_map(|pair| pair.strip_prefix("__Host-session=")).unwrap_or_default();
        let page = |head: &str, body: &str| {
            let length = body.len();
            format!("HTTP/1.1 {head}\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        let path = request.line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        match path.as_str() {
            "GET /" => page("200 OK", "<h1>Tea &amp;\n Rice</h1><p>Error-free</p>"),
            "GET /product/1" => {
                let name = format!("visitor-{}", carts.len());
                carts.insert(name.clone(), 0);
                page(
                    &format!("200 OK\r\nSet-Cookie: __Host-session={name}; Path=/; Secure; HttpOnly"),
                    "<form><input name='csrf' value='t+/=&amp;&quot; secret'></form><a class=next href='/cart'>Cart</a>",
                )
            }
            "POST /cart/add" => {
                let fields: BTreeMap<String, String> = serde_urlencoded::from_str(&request.body).unwrap();
                match carts.get_mut(session) {
                    Some(items) if fields["csrf"] == "t+/=&\" secret" => {
                        *items += fields["quantity"].parse::<usize>().unwrap();
                        page("303 See Other\r\nLocation: /cart?key=hidden", "")
                    }
                    _ => page("403 Forbidden", "<p>The form was forged: t+/=&amp;&quot; secret</p>"),
                }
            }
            "GET /cart" => {
                page("200 OK", &format!("<p>{} item</p>", carts.get(session).copied().unwrap_or(0)))
            }
            "POST /api/orders" => {
                let order: Value = serde_json::from_str(&request.body).unwrap();
                let body =
                    json!({ "id": 7, "link": "https://shop.example.com/order/7?a=b", "for": order["name"] });
                format!("HTTP/1.1 201 Created\r\nConnection: close\r\n\r\n{body}")
            }
            "GET /order/7?a=b" | "GET /search?q=t%2B%2F%3D%26%22%20secret" => page("200 OK", "found"),
            "GET /slow" => {
                thread::sleep(Duration::from_secs(2));
                page("200 OK", "")
            }
            _ => page("500 Internal Server Error", "<h1>Boom</h1><script>x</script> token: abcdefgh"),
        }
    }

    fn step(method: &str, path: &str) -> SmokeStep {
        SmokeStep { method: method.to_owned(), path: path.to_owned(), ..SmokeStep::default() }
    }

    fn css(css: &str, attr: &str) -> Capture {
        Capture::Css { css: css.to_owned(), attr: Some(attr.to_owned()) }
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn product() -> SmokeStep {
        SmokeStep {
            capture: BTreeMap::from([
                ("csrf".to_owned(), css("input[name=csrf]", "value")),
                ("next".to_owned(), css("a.next", "href")),
            ]),
            ..step("GET", "/product/1")
        }
    }

    fn add(quantity: &str) -> SmokeStep {
        SmokeStep {
            form: map(&[("csrf", "{csrf}"), ("quantity", quantity)]),
            status: Some(303),
            expect_headers: map(&[("Location", "/cart")]),
            ..step("post", "/cart/add")
        }
    }

    #[test]
    fn a_visitor_with_a_session_fills_a_form_and_sees_the_cart() {
        let shop = Shop::open();
        let cart = SmokeStep { contains: vec!["1 item".to_owned()], ..step("GET", "{next}") };
        let outcome = shop.run(vec![product(), add("1"), cart]);
        assert_eq!(outcome.check.verdict, Verdict::Pass, "{:?}", outcome.check);
        assert_eq!(outcome.check.id, "verify.smoke");
        let steps = outcome.check.evidence["steps"].as_array().unwrap().clone();
        assert_eq!(
            (steps.len(), &steps[1]["status"], &steps[1]["step"]),
            (3, &json!(303), &json!("POST /cart/add"))
        );
        let got = shop.got.lock().unwrap().clone();
        assert_eq!(got.len(), 3, "a redirect is not followed");
        assert_eq!(got[0].headers["host"], "shop.example.com");
        assert_eq!(got[0].headers["x-forwarded-proto"], "https");
        assert_eq!(got[0].headers["x-plimsoll-smoke"], "one-time-token");
        assert!(!got[0].headers.contains_key("cookie") && !got[0].headers.contains_key("origin"));
        assert_eq!(got[1].headers["origin"], "https://shop.example.com");
        assert_eq!(got[1].headers["referer"], "https://shop.example.com/product/1");
        assert_eq!(got[1].headers["content-type"], "application/x-www-form-urlencoded");
    }

    #[test]
    fn every_test_is_a_visitor_of_its_own() {
        let shop = Shop::open();
        let cart = |text: &str| SmokeStep { contains: vec![text.to_owned()], ..step("GET", "/cart") };
        let tests = [vec![product(), add("2"), cart("2 item")], vec![product(), cart("0 item")]];
        let tests = tests.map(|steps| Smoke { name: "cart".into(), steps, ..Smoke::default() });
        let outcomes = run(&tests, &shop.target(), None, &|| false);
        assert!(outcomes.iter().all(|outcome| outcome.check.verdict == Verdict::Pass), "{outcomes:?}");
    }

    #[test]
    fn json_is_sent_and_captured_and_a_whole_link_is_followed_by_its_path() {
        let shop = Shop::open();
        let order = SmokeStep {
            json: Some(r#"{"name": "{csrf}", "items": {}}"#.to_owned()),
            status: Some(201),
            capture: BTreeMap::from([("link".to_owned(), Capture::Json("/link".to_owned()))]),
            ..step("POST", "/api/orders")
        };
        let look = SmokeStep { contains: vec!["found".to_owned()], ..step("GET", "{link}") };
        let search = step("GET", "/search?q={csrf}");
        let outcome = shop.run(vec![product(), order, look, search]);
        assert_eq!(outcome.check.verdict, Verdict::Pass, "{:?}", outcome.check);
        let got = shop.got.lock().unwrap()[1].clone();
        let body: Value = serde_json::from_str(&got.body).unwrap();
        assert_eq!(body["name"], "t+/=&\" secret");
        assert_eq!(got.headers["content-type"], "application/json");
    }

    #[test]
    fn text_is_found_with_and_without_entities_and_unwanted_text_fails() {
        let shop = Shop::open();
        let contains = ["Tea &amp;", "Tea & Rice", "<h1>Tea"].map(str::to_owned).to_vec();
        let home = SmokeStep { contains, lacks: vec!["Traceback".to_owned()], ..step("GET", "/") };
        assert_eq!(shop.run(vec![home]).check.verdict, Verdict::Pass);
        let home = SmokeStep { contains: vec!["Coffee".to_owned()], ..step("GET", "/") };
        let check = shop.run(vec![home]).check;
        assert_eq!(check.verdict, Verdict::Fail);
        assert_eq!(check.why(), "GET /: the page does not hold \"Coffee\"");
        assert_eq!(check.evidence["came"], "Tea & Rice Error-free");
        assert_eq!(check.evidence["status"], 200);
        let home = SmokeStep { lacks: vec!["Error".to_owned()], ..step("GET", "/") };
        assert!(shop.run(vec![home]).check.why().contains("holds \"Error\""));
    }

    #[test]
    fn a_failure_says_what_was_expected_and_shows_no_secret() {
        let shop = Shop::open();
        let check = shop.run(vec![step("GET", "/broken")]).check;
        assert_eq!(check.why(), "GET /broken: status 500");
        assert_eq!(check.evidence["expected"], "a status below 400");
        assert_eq!(check.evidence["came"], "Boom token: ***");
        // The form's token and the session are in the answer or the jar, and in no evidence.
        let wrong = SmokeStep { status: Some(200), ..add("1") };
        let check = shop.run(vec![product(), wrong]).check;
        assert_eq!((check.verdict, &check.evidence["status"]), (Verdict::Fail, &json!(303)));
        assert_eq!(check.evidence["location"], "/cart");
        let forged = SmokeStep { form: map(&[("csrf", "{csrf}x")]), ..step("POST", "/cart/add") };
        let check = shop.run(vec![product(), forged]).check;
        assert_eq!(check.evidence["came"], "The form was forged: ***");
        let text = serde_json::to_string(&check).unwrap();
        for secret in ["t+/=", "visitor-", "one-time-token", "hidden"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }

    #[test]
    fn a_header_that_is_missing_or_other_fails() {
        let shop = Shop::open();
        for (name, part, why) in
            [("X-Release", "1", "no header X-Release"), ("content-type", "json", "does not hold")]
        {
            let step = SmokeStep { expect_headers: map(&[(name, part)]), ..step("GET", "/") };
            assert!(shop.run(vec![step]).check.why().contains(why));
        }
    }

    #[test]
    fn a_value_that_was_not_captured_fails_before_anything_is_sent() {
        let shop = Shop::open();
        let check = shop.run(vec![step("GET", "/order/{id}")]).check;
        assert_eq!(check.why(), "GET /order/{id}: no step before this one captured {id}");
        assert!(shop.got.lock().unwrap().is_empty());
        let lost =
            SmokeStep { capture: BTreeMap::from([("id".to_owned(), css("b", "id"))]), ..step("GET", "/") };
        assert!(shop.run(vec![lost]).check.why().contains("{id}: nothing on the page fits b"));
    }

    #[test]
    fn a_test_that_writes_runs_on_a_copy_and_only_when_allowed_in_production() {
        let shop = Shop::open();
        let test =
            Smoke { name: "Order".into(), steps: vec![step("GET", "/")], writes: true, production: false };
        let production = Target { production: true, ..shop.target() };
        let verdict = |test: &Smoke, target: &Target| {
            run(std::slice::from_ref(test), target, None, &|| false)[0].check.clone()
        };
        assert_eq!(verdict(&test, &shop.target()).verdict, Verdict::Pass);
        let skipped = verdict(&test, &production);
        assert_eq!(skipped.verdict, Verdict::Skipped);
        assert!(skipped.why().contains("writes to the database"));
        assert_eq!(shop.got.lock().unwrap().len(), 1);
        assert_eq!(verdict(&Smoke { production: true, ..test }, &production).verdict, Verdict::Pass);
    }

    #[test]
    fn no_time_no_app_and_no_steps_are_no_pass() {
        let shop = Shop::open();
        let test =
            |path: &str| Smoke { name: "x".into(), steps: vec![step("GET", path)], ..Smoke::default() };
        let limit = Some(Duration::from_millis(200));
        let outcomes = run(&[test("/slow"), test("/")], &shop.target(), limit, &|| false);
        assert_eq!(outcomes[0].check.verdict, Verdict::Fail);
        assert!(outcomes[0].check.why().contains("no whole answer within"), "{:?}", outcomes[0]);
        assert_eq!(outcomes[1].check.verdict, Verdict::Unknown);
        let stopped = run(&[test("/")], &shop.target(), None, &|| true);
        assert_eq!(stopped[0].check.verdict, Verdict::Unknown);
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let nobody = run(&[test("/")], &Target { address: free, ..shop.target() }, None, &|| false);
        assert!(nobody[0].check.why().contains("nobody listens"), "{nobody:?}");
        assert_eq!(shop.run(Vec::new()).check.verdict, Verdict::Unknown);
    }
}
