//! `[[smoke]]`: requests that prove the app, as the core's [`Smoke`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::LazyLock;

use plimsoll_core::plan::{Capture, Smoke, SmokeStep};
use regex::Regex;
use serde_json::{Map, Number, Value};
use toml::de::DeValue;

use super::form::{path, pattern, pointer};
use super::mistake::Unfit;
use super::table::{At, Table};

const METHODS: [&str; 6] = ["get", "post", "put", "patch", "delete", "head"];

/// Reads all `[[smoke]]`.
pub(super) fn read(file: &Table<'_>) -> Vec<Smoke> {
    let mut names = BTreeSet::new();
    let mut tests = Vec::new();
    for table in file.tables("smoke") {
        let name = table.required("name", "\"Homepage loads without errors\"");
        if let Some(name) = &name
            && !names.insert(name.value.clone())
        {
            let what = format!("there are two smoke tests named `{}`", name.value);
            table.mistakes().wrong(&name.span, what, "give each its own name: reports tell them apart by it");
        }
        let writes = table.flag("writes").unwrap_or(false);
        let production = table.flag("production").unwrap_or(false);
        let steps = steps(&table);
        tests.extend(name.map(|name| Smoke { name: name.value, steps, writes, production }));
    }
    tests
}

fn steps(table: &Table<'_>) -> Vec<SmokeStep> {
    let mut captured = BTreeSet::new();
    if !table.has("steps") {
        // Asked for all the same, so that it is known.
        table.any("steps");
        return step(table, &mut captured).into_iter().collect();
    }
    for key in METHODS.into_iter().chain(OF_A_STEP) {
        table.any(key);
        if let Some(span) = table.key_span(key) {
            let what = format!("`{key}` stands beside `steps`");
            table.mistakes().wrong(&span, what, "put it into a step, or leave `steps` out");
        }
    }
    let steps = table.tables("steps");
    if steps.is_empty()
        && table.any("steps").is_some_and(|s| s.get_ref().as_array().is_some_and(|a| a.is_empty()))
    {
        let help = "for example: steps = [{ get = \"/\" }]";
        table.mistakes().wrong(&table.span(), "this smoke test asks for nothing", help);
    }
    steps.iter().filter_map(|table| step(table, &mut captured)).collect()
}

/// The keys of a step besides its method.
const OF_A_STEP: [&str; 8] =
    ["status", "contains", "lacks", "headers", "form", "json", "expect_headers", "capture"];

fn step(table: &Table<'_>, captured: &mut BTreeSet<String>) -> Option<SmokeStep> {
    let mut step = SmokeStep::default();
    let mut request = None;
    for method in METHODS {
        let Some(text) = table.parsed(method, path) else { continue };
        if request.is_some() {
            let help = "one request a step; several go into `steps`";
            table.mistakes().wrong(&text.span, "there is a second request in this step", help);
        }
        request = Some(At { value: method.to_uppercase(), span: text.span.clone() });
        step.path = used(table, captured, text);
    }
    if !METHODS.iter().any(|method| table.has(method)) {
        let help = "for example: get = \"/\"";
        table.mistakes().missing(Some(&table.span()), "it must be said what to ask for", help);
    }
    step.status = table.number("status", 100..=599).and_then(|n| u16::try_from(n.value).ok());
    step.contains = plain(table.texts("contains", true));
    step.lacks = plain(table.texts("lacks", true));
    let headers = table.names("headers");
    header_names(table, &headers);
    step.headers = headers.into_iter().map(|(name, text)| (name, used(table, captured, text))).collect();
    let form = table.names("form");
    step.form = form.into_iter().map(|(name, text)| (name, used(table, captured, text))).collect();
    if let Some(body) = table.any("json") {
        step.json = Some(match body.get_ref() {
            DeValue::String(text) => text.to_string(),
            other => json(other).to_string(),
        });
    }
    bodies(table, request.as_ref());
    let expected = table.names("expect_headers");
    header_names(table, &expected);
    step.expect_headers = expected.into_iter().map(|(name, text)| (name, text.value)).collect();
    step.capture = captures(table);
    captured.extend(step.capture.keys().cloned());
    step.method = request?.value;
    Some(step)
}

fn plain(texts: Vec<At<String>>) -> Vec<String> {
    texts.into_iter().map(|text| text.value).collect()
}

fn bodies(table: &Table<'_>, request: Option<&At<String>>) {
    let both = table.has("form") && table.has("json");
    if let (true, Some(span)) = (both, table.key_span("json")) {
        table.mistakes().wrong(&span, "a request has one body", "keep `form` or `json`");
    }
    let bodiless = request.is_some_and(|r| ["GET", "HEAD"].contains(&r.value.as_str()));
    for key in ["form", "json"] {
        if let (true, Some(span)) = (bodiless, table.key_span(key)) {
            let what = format!("a GET or HEAD has no body, so `{key}` would not be sent");
            table.mistakes().wrong(&span, what, "put the values into the path: get = \"/search?q=apple\"");
        }
    }
}

fn header_names(table: &Table<'_>, headers: &BTreeMap<String, At<String>>) {
    for (name, text) in headers {
        if let Err(unfit) = header(name) {
            table.mistakes().wrong(&text.span, unfit.what, unfit.help);
        }
        if text.value.contains(|c: char| c.is_control()) {
            table.mistakes().wrong(
                &text.span,
                format!("the header `{name}` is not one line"),
                "write one line",
            );
        }
    }
}

fn header(name: &str) -> Result<String, Unfit> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        return Ok(name.to_owned());
    }
    Err(Unfit::new(format!("`{name}` cannot be the name of a header"), "for example: content-type"))
}

/// The text, after a look at the captured values that it uses.
fn used(table: &Table<'_>, captured: &BTreeSet<String>, text: At<String>) -> String {
    static NAME: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\{([A-Za-z_]\w*)\}").expect("a constant pattern, compiled by a test"));
    for found in NAME.captures_iter(&text.value) {
        let name = &found[1];
        if captured.contains(name) {
            continue;
        }
        let help = match super::mistake::nearest(name, captured.iter().map(String::as_str)) {
            Some(near) => format!("did you mean {{{near}}}?"),
            None => format!("an earlier step must say: capture = {{ {name} = {{ css = \"…\" }} }}"),
        };
        let what = format!("no earlier step of this smoke test captures `{name}`");
        table.mistakes().wrong(&text.span, what, help);
    }
    text.value
}

fn captures(table: &Table<'_>) -> BTreeMap<String, Capture> {
    let mut captures = BTreeMap::new();
    for (name, value) in table.free("capture") {
        let span = value.span();
        if !is_name(&name) {
            let help = "letters, digits and `_`, for example: csrf";
            table.mistakes().wrong(&span, format!("`{name}` cannot be the name of a captured value"), help);
        }
        let Some(entry) = table.table_of(&name, format!("the capture `{name}`"), value) else { continue };
        captures.extend(capture(&entry, &span).map(|capture| (name, capture)));
    }
    captures
}

fn is_name(name: &str) -> bool {
    super::secret::is_variable(name)
}

fn capture(entry: &Table<'_>, span: &Range<usize>) -> Option<Capture> {
    let attr = entry.text("attr").map(|a| a.value);
    let css = entry.text("css").map(|c| Capture::Css { css: c.value, attr });
    let json = entry.parsed("json", pointer).map(|j| Capture::Json(j.value));
    let header = entry.parsed("header", header).map(|h| Capture::Header(h.value));
    let regex = entry.parsed("regex", |text| match pattern(text)?.captures_len() {
        1 => Err(Unfit::new("this expression has no group to capture", "put ( ) around what is wanted")),
        _ => Ok(text.to_owned()),
    });
    let regex = regex.map(|r| Capture::Regex(r.value));
    let said = ["css", "json", "header", "regex"].iter().filter(|key| entry.has(key)).count();
    if said != 1 {
        let help = "{ css = \"input[name=csrf]\", attr = \"value\" }, { json = \"/id\" }, { header = \"location\" } or { regex = \"id=(\\\\d+)\" }";
        entry.mistakes().wrong(span, "a captured value comes from exactly one place", help);
    } else if entry.has("attr") && !entry.has("css") {
        entry.mistakes().wrong(span, "`attr` belongs to `css`", "leave it out");
    }
    css.or(json).or(header).or(regex)
}

/// A TOML value as the JSON that it stands for; dates as their text.
fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(flag) => Value::Bool(*flag),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::String(number.to_string()), |n| Value::Number(n.into())),
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .ok()
            .and_then(Number::from_f64)
            .map_or_else(|| Value::String(number.to_string()), Value::Number),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(list) => Value::Array(list.iter().map(|item| json(item.get_ref())).collect()),
        DeValue::Table(entries) => Value::Object(
            entries
                .iter()
                .map(|(name, value)| (name.get_ref().to_string(), json(value.get_ref())))
                .collect::<Map<String, Value>>(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use toml::de::DeTable;

    use super::super::mistake::Mistakes;
    use super::*;

    fn parse(text: &str) -> Result<Vec<Smoke>, String> {
        let mistakes = Mistakes::new(Path::new("p.toml"), text);
        let entries = DeTable::parse(text).unwrap();
        let tests = read(&Table::root(entries.get_ref(), &mistakes));
        match mistakes.into_list() {
            list if list.is_empty() => Ok(tests),
            list => Err(list.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n")),
        }
    }

    #[test]
    fn every_key_of_a_step_is_read() {
        let text = r#"
            [[smoke]]
            name = "An order"
            production = true
            steps = [
              { get = "/p?a=1", headers = { accept = "text/html" }, lacks = ["Traceback", "500"], capture = {
                  csrf = { css = "input[name=csrf]", attr = "value" }, title = { css = "h1" },
                  id = { json = "/order/id" }, place = { header = "location" }, nr = { regex = "nr=(\\d+)" } } },
              { put = "/o/{id}", json = { n = 1, price = 2.5, on = true, tags = ["{nr}"], at = 2026-01-02 }, status = 204 },
              { post = "/raw", json = '{"a": {nr}}', expect_headers = { Location = "/o" } },
              { patch = "/a" }, { delete = "/a" }, { head = "/a" },
            ]"#;
        let test = &parse(text).unwrap()[0];
        assert!(test.production && !test.writes);
        let first = &test.steps[0];
        assert_eq!((first.path.as_str(), first.headers["accept"].as_str()), ("/p?a=1", "text/html"));
        assert_eq!(first.lacks, ["Traceback", "500"]);
        assert_eq!(
            first.capture["csrf"],
            Capture::Css { css: "input[name=csrf]".into(), attr: Some("value".into()) }
        );
        assert_eq!(first.capture["title"], Capture::Css { css: "h1".into(), attr: None });
        assert_eq!(first.capture["id"], Capture::Json("/order/id".into()));
        assert_eq!(first.capture["place"], Capture::Header("location".into()));
        assert_eq!(first.capture["nr"], Capture::Regex("nr=(\\d+)".into()));
        let body: Value = serde_json::from_str(test.steps[1].json.as_deref().unwrap()).unwrap();
        assert_eq!(
            body,
            serde_json::json!({ "n": 1, "price": 2.5, "on": true, "tags": ["{nr}"], "at": "2026-01-02" })
        );
        assert_eq!(test.steps[1].status, Some(204));
        assert_eq!(test.steps[2].json.as_deref(), Some(r#"{"a": {nr}}"#));
        assert_eq!(test.steps[2].expect_headers["Location"], "/o");
        let methods: Vec<&str> = test.steps.iter().map(|s| s.method.as_str()).collect();
        assert_eq!(methods, ["GET", "PUT", "POST", "PATCH", "DELETE", "HEAD"]);
    }

    #[test]
    fn steps_may_be_written_as_tables_of_their_own() {
        let text = "[[smoke]]\nname = 'a'\n[[smoke.steps]]\nget = '/'\n[[smoke.steps]]\npost = '/b'\nform = { a = '' }\n";
        let test = &parse(text).unwrap()[0];
        assert_eq!((test.steps.len(), test.steps[1].form["a"].as_str()), (2, ""));
    }

    #[test]
    fn a_request_beside_steps_is_a_mistake() {
        let text = "[[smoke]]\nname = 'a'\nget = '/'\ncontains = 'x'\nsteps = [{ get = '/' }]\n";
        insta::assert_snapshot!(parse(text).unwrap_err(), @"
        p.toml:3:1: `get` stands beside `steps`
          3 | get = '/'
            | ^^^
          = put it into a step, or leave `steps` out

        p.toml:4:1: `contains` stands beside `steps`
          4 | contains = 'x'
            | ^^^^^^^^
          = put it into a step, or leave `steps` out
        ");
    }

    #[test]
    fn mistakes_are_found_where_they_are() {
        for (below, place, said) in [
            ("", "1:1", "what to ask for"),
            ("steps = []\n", "1:1", "asks for nothing"),
            ("steps = [{}]\n", "3:10", "what to ask for"),
            ("get = '/'\npost = '/a'\n", "4:8", "a second request in this step"),
            ("get = 'cart'\n", "3:7", "did you mean \"/cart\"?"),
            ("get = '//evil'\n", "3:7", "begins with one slash"),
            ("get = '/a b'\n", "3:7", "a path has no spaces"),
            ("get = '/'\nstatus = 99\n", "4:10", "`status` is out of bounds"),
            ("get = '/'\nstatus = '200'\n", "4:10", "write 200 without quotes"),
            ("get = '/'\ncontain = 'x'\n", "4:1", "did you mean `contains`?"),
            ("get = '/'\nform = { a = 'b' }\n", "4:1", "has no body"),
            ("post = '/'\nform = { a = 'b' }\njson = {}\n", "5:1", "a request has one body"),
            (
                "post = '/'\nform = { a = '{csrf}' }\n",
                "4:14",
                "no earlier step of this smoke test captures `csrf`",
            ),
            ("get = '/'\ncapture = { a = {} }\n", "4:17", "exactly one place"),
            ("get = '/'\ncapture = { a = { css = 'a', json = '/a' } }\n", "4:17", "exactly one place"),
            ("get = '/'\ncapture = { a = { json = '/a', attr = 'b' } }\n", "4:17", "`attr` belongs to `css`"),
            ("get = '/'\ncapture = { a = { json = 'a.b' } }\n", "4:26", "did you mean \"/a/b\"?"),
            ("get = '/'\ncapture = { a = { regex = 'a+' } }\n", "4:27", "no group to capture"),
            (
                "get = '/'\ncapture = { a-b = { css = 'a' } }\n",
                "4:19",
                "cannot be the name of a captured value",
            ),
            ("get = '/'\nheaders = { 'a b' = 'c' }\n", "4:21", "cannot be the name of a header"),
            ("get = '/'\n[[smoke]]\nname = 'a'\nget = '/'\n", "5:8", "two smoke tests named `a`"),
        ] {
            let text = parse(&format!("[[smoke]]\nname = 'a'\n{below}")).expect_err(below);
            assert_eq!(text.matches("p.toml:").count(), 1, "{below}: {text}");
            assert!(text.starts_with(&format!("p.toml:{place}: ")), "{below}: {text}");
            assert!(text.contains(said), "{below}: {text}");
        }
    }
}
