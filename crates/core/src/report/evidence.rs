//! Evidence in a person's words: the blanks of the paper and what stands in them.

use serde_json::{Map, Value};

use crate::check::Check;

/// How many entries of a list are shown.
const LIST: usize = 8;
/// How many unchanged tables are shown; those that changed always are.
const TABLES: usize = 12;
/// How much of a long text is shown: characters of a line, last lines of an output.
const CHARACTERS: usize = 400;
const LINES: usize = 20;

/// The blanks as the paper words them, in its order: id (any when empty; `back.` as `deploy.`), name, label.
const LABELS: &[(&str, &str, &str)] = &[
    ("pre.review", "files", "Files changed"),
    ("pre.review", "insertions", "Lines added"),
    ("pre.review", "deletions", "Lines removed"),
    ("pre.review", "commits", "Commits"),
    ("pre.review", "config_names", "Configuration changes (names)"),
    ("pre.review", "schema", "Database schema changes"),
    ("pre.staging", "pending", "Pending migrations"),
    ("pre.rollback", "restore_ms", "Estimated rollback time"),
    ("pre.rollback", "mode", "Rollback mode"),
    ("backup.create", "file", "Backup file created"),
    ("backup.create", "bytes", "File size"),
    ("backup.verify", "integrity", "Integrity check"),
    ("backup.verify", "foreign_keys", "Foreign keys"),
    ("backup.record", "primary", "Primary backup"),
    ("backup.record", "file", "Primary backup"),
    ("backup.record", "secondary", "Secondary backup"),
    ("backup.record", "timestamp", "Backup timestamp"),
    ("deploy.stop", "status", "Status"),
    ("deploy.stop", "strategy", "Strategy"),
    ("deploy.stop", "waited", "Requests that waited"),
    ("deploy.stop", "in_flight", "Requests under way"),
    ("deploy.stop", "drained_ms", "Drained in"),
    ("deploy.stop", "stopped_ms", "Stopped in"),
    ("deploy.pull", "branch", "Branch pulled"),
    ("deploy.pull", "commit", "Commit hash"),
    ("deploy.pull", "author", "Author"),
    ("deploy.pull", "subject", "Subject"),
    ("deploy.install", "commands", "Commands"),
    ("deploy.migrate", "versions", "Migrations applied"),
    ("deploy.restart", "startup_ms", "Startup time"),
    ("deploy.restore", "file", "Backup restored"),
    ("deploy.verify", "passed", "Passed"),
    ("deploy.verify", "failed", "Failed"),
    ("deploy.code", "release", "Code reverted to"),
    ("verify.versions", "expected", "Expected versions"),
    ("verify.versions", "applied", "Versions"),
    ("verify.errors", "requests", "Requests"),
    ("verify.errors", "errors", "Errors"),
    ("verify.errors", "rate", "Error rate"),
    ("verify.speed", "p50_ms", "Half of the answers within"),
    ("verify.speed", "p99_ms", "99 of 100 answers within"),
    ("after.sign", "signed_at", "Signed"),
    ("after.sign", "account", "Account"),
    ("after.sign", "note", "Issues and resolution"),
    ("", "answer", "Answer"),
    ("", "by", "By"),
    ("", "given_in_run", "Given in run"),
    ("", "release", "Release"),
    ("", "sha256", "SHA-256"),
    ("", "pid", "Process id"),
    ("", "expected", "Expected"),
    ("", "got", "Got"),
    ("", "ms", "Took"),
    ("", "seconds", "Took"),
    ("", "unavailable_ms", "Unavailable for"),
];

/// One blank of the paper, filled in.
#[derive(Debug, PartialEq)]
pub(super) struct Blank {
    pub(super) label: String,
    /// One line, or several when `block`.
    pub(super) value: String,
    /// Output of a program, kept as it is.
    pub(super) block: bool,
}

/// What was seen, as blanks. `why` is not among them: it belongs to the verdict.
pub(super) fn blanks(check: &Check) -> Vec<Blank> {
    let id = check.id.replace("back.", "deploy.");
    let mut names: Vec<&String> = check.evidence.keys().filter(|name| *name != "why").collect();
    names.sort_by_key(|name| place(&id, name));
    let mut blanks = Vec::new();
    for name in names {
        let value = &check.evidence[name];
        let partner = |this: &str, other: &str| {
            name.strip_suffix(this).and_then(|stem| check.evidence.get(&format!("{stem}{other}")))
        };
        match (partner("before", "after"), partner("after", "before"), value) {
            (Some(_), ..) => {}
            (_, Some(Value::Object(before)), Value::Object(after)) => blanks.extend(compared(before, after)),
            (_, Some(before), after) => {
                let stem = name.trim_end_matches("after").trim_end_matches('_');
                let label = if stem.is_empty() { "After".to_owned() } else { label(&id, stem) };
                blanks.push(line(label, pair(stem, before, after)));
            }
            (_, _, Value::Object(counts)) if is_counts(counts) => {
                let shown = counts.iter().take(TABLES);
                blanks.extend(shown.map(|(table, rows)| line(table_name(table), text("rows", rows))));
                if counts.len() > TABLES {
                    let rest = counts.len() - TABLES;
                    blanks.push(line("Other tables".to_owned(), format!("{rest} more, in the JSON report")));
                }
            }
            (_, _, Value::String(output)) if output.trim().contains('\n') => {
                blanks.push(Blank { label: label(&id, name), value: last_lines(output), block: true });
            }
            _ => blanks.push(line(label(&id, name), text(name, value))),
        }
    }
    blanks
}

fn line(label: String, value: String) -> Blank {
    Blank { label, value, block: false }
}

fn place(id: &str, name: &str) -> usize {
    LABELS.iter().position(|(i, n, _)| (*i == id || i.is_empty()) && *n == name).unwrap_or(LABELS.len())
}

fn label(id: &str, name: &str) -> String {
    if let Some((.., label)) = LABELS.get(place(id, name)) {
        return (*label).to_owned();
    }
    let stem = ["_ms", "_bytes", "_seconds"].iter().find_map(|unit| name.strip_suffix(unit)).unwrap_or(name);
    let words = stem.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// As on the paper: "Products". Names that are not plain words stay as they are.
fn table_name(table: &str) -> String {
    let plain = !table.is_empty() && table.bytes().all(|b| b.is_ascii_lowercase());
    if plain { format!("{}{}", table[..1].to_uppercase(), &table[1..]) } else { one_line(table) }
}

fn is_counts(map: &Map<String, Value>) -> bool {
    !map.is_empty() && map.values().all(Value::is_u64)
}

/// "Products: 60 (was 60)", a blank a table.
fn compared(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<Blank> {
    let gone = before.keys().filter(|table| !after.contains_key(*table));
    let mut unchanged = 0;
    let mut blanks = Vec::new();
    for table in after.keys().chain(gone) {
        let (was, is) = (before.get(table), after.get(table));
        unchanged += usize::from(was == is);
        if was == is && unchanged > TABLES {
            continue;
        }
        let value = match (was, is) {
            (Some(was), Some(is)) => pair("rows", was, is),
            (None, Some(is)) => format!("{} (new)", text("rows", is)),
            (Some(was), None) => format!("gone (was {})", text("rows", was)),
            (None, None) => continue,
        };
        blanks.push(line(table_name(table), value));
    }
    if unchanged > TABLES {
        blanks.push(line("Other tables".to_owned(), format!("{} more, unchanged", unchanged - TABLES)));
    }
    blanks
}

fn pair(name: &str, before: &Value, after: &Value) -> String {
    let change = match (before.as_i64(), after.as_i64()) {
        (Some(was), Some(is)) if is > was && !has_unit(name) => format!(", +{}", thousands(is.abs_diff(was))),
        (Some(was), Some(is)) if is < was && !has_unit(name) => format!(", -{}", thousands(was.abs_diff(is))),
        _ => String::new(),
    };
    format!("{} (was {}{change})", text(name, after), text(name, before))
}

fn has_unit(name: &str) -> bool {
    ["ms", "bytes", "seconds"].iter().any(|unit| has_suffix(name, unit))
}

/// One value on one line, with the unit that its name carries.
pub(super) fn text(name: &str, value: &Value) -> String {
    match value {
        Value::Null => "not known".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number_text(name, number),
        Value::String(words) if words.is_empty() => "none".to_owned(),
        Value::String(words) => shortened(&one_line(words)),
        Value::Array(list) if list.is_empty() => "none".to_owned(),
        Value::Array(list) => {
            let between = if list.iter().any(Value::is_object) { "; " } else { ", " };
            let shown: Vec<String> = list.iter().take(LIST).map(|v| text(name, v)).collect();
            more(shown.join(between), list.len())
        }
        Value::Object(map) if map.is_empty() => "none".to_owned(),
        Value::Object(map) if map.contains_key("version") => version(map),
        Value::Object(map) => {
            let unit = if is_counts(map) { "rows" } else { "" };
            let entry = |(key, v): (&String, &Value)| {
                let v = text(if unit.is_empty() { key } else { unit }, v);
                format!("{} {v}", one_line(key).replace("_ms", "").replace('_', " "))
            };
            more(map.iter().take(LIST).map(entry).collect::<Vec<_>>().join(", "), map.len())
        }
    }
}

fn more(shown: String, total: usize) -> String {
    if total > LIST { format!("{shown} and {} more", total - LIST) } else { shown }
}

/// A migration as the paper prints it: "v7: split address (rebuild, 45 ms)".
fn version(map: &Map<String, Value>) -> String {
    let mut words = format!("v{}", text("version", &map["version"]));
    if let Some(description) = map.get("description") {
        words += &format!(": {}", text("description", description));
    }
    let rest = map.iter().filter(|(key, _)| !matches!(key.as_str(), "version" | "description"));
    let rest: Vec<String> = rest
        .map(|(key, v)| {
            let named = v.is_string() || has_unit(key);
            if named { text(key, v) } else { format!("{} {}", key.replace('_', " "), text(key, v)) }
        })
        .collect();
    if rest.is_empty() { words } else { format!("{words} ({})", rest.join(", ")) }
}

fn has_suffix(name: &str, unit: &str) -> bool {
    name == unit || name.strip_suffix(unit).is_some_and(|stem| stem.ends_with('_'))
}

fn number_text(name: &str, number: &serde_json::Number) -> String {
    let float = number.as_f64().unwrap_or(0.0);
    if has_suffix(name, "ms") {
        return duration(float);
    }
    if has_suffix(name, "seconds") {
        return duration(float * 1000.0);
    }
    if has_suffix(name, "bytes") {
        return bytes(float);
    }
    if has_suffix(name, "rate") {
        return format!("{:.2} %", float * 100.0);
    }
    // Numbers that name something are not counts.
    let names =
        ["pid", "port", "status", "version", "versions", "expected", "got", "applied", "run", "given_in_run"];
    match number.as_u64() {
        Some(count) if !names.contains(&name) => thousands(count),
        _ => number.to_string(),
    }
}

/// "1,204".
pub(super) fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut words = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            words.push(',');
        }
        words.push(digit);
    }
    words
}

/// "45 ms", "1.3 s", "1 min 30 s", "2 h 5 min".
pub(super) fn duration(ms: f64) -> String {
    let seconds = (ms / 1000.0).round();
    if ms < 10.0 && ms.fract() != 0.0 {
        format!("{ms:.1} ms")
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if ms < 59_950.0 {
        format!("{:.1} s", ms / 1000.0)
    } else if seconds < 3600.0 {
        match seconds % 60.0 {
            0.0 => format!("{:.0} min", seconds / 60.0),
            rest => format!("{:.0} min {rest:.0} s", (seconds / 60.0).floor()),
        }
    } else {
        let minutes = (seconds / 60.0).floor();
        format!("{:.0} h {:.0} min", (minutes / 60.0).floor(), minutes % 60.0)
    }
}

/// The same for whole milliseconds.
#[allow(clippy::cast_precision_loss, reason = "a duration that is shown with two digits")]
pub(super) fn duration_ms(ms: u64) -> String {
    duration(ms as f64)
}

/// "12.4 MB", in decimal units as disks are sold.
fn bytes(count: f64) -> String {
    match count {
        c if c < 999.5 => format!("{c:.0} bytes"),
        c if c < 999_950.0 => format!("{:.1} kB", c / 1e3),
        c if c < 999_950_000.0 => format!("{:.1} MB", c / 1e6),
        c => format!("{:.1} GB", c / 1e9),
    }
}

/// "2026-11-23 03:48:00 UTC" of an RFC 3339 time in UTC; anything else as it is.
pub(super) fn utc(at: &str) -> String {
    match (at.get(..10), at.get(11..19)) {
        (Some(date), Some(time)) => format!("{date} {time} UTC"),
        _ => one_line(at),
    }
}

/// The text without what could move a cursor, break a line or turn its direction: a commit's subject and an app's
/// output are written by others.
pub(super) fn one_line(words: &str) -> String {
    words.trim().chars().map(|c| if is_safe(c) { c } else { ' ' }).collect()
}

fn is_safe(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

fn shortened(words: &str) -> String {
    let count = words.chars().count();
    if count <= CHARACTERS {
        return words.to_owned();
    }
    let shown: String = words.chars().take(CHARACTERS).collect();
    format!("{shown}… and {} more characters", thousands((count - CHARACTERS) as u64))
}

fn last_lines(output: &str) -> String {
    let lines: Vec<&str> = output.trim_matches('\n').lines().collect();
    let skipped = lines.len().saturating_sub(LINES);
    let mut shown: Vec<String> = Vec::new();
    if skipped > 0 {
        shown.push(format!("({skipped} lines before these)"));
    }
    let clean = |l: &&str| l.trim_end().chars().map(|c| if is_safe(c) { c } else { ' ' }).collect::<String>();
    shown.extend(lines[skipped..].iter().map(clean).map(|l| shortened(&l)));
    shown.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(check: Check) -> String {
        blanks(&check).iter().map(|b| format!("{}: {}\n", b.label, b.value)).collect()
    }

    #[test]
    fn units_come_from_the_names() {
        let check = Check::pass("backup.create", "x")
            .with("bytes", 12_400_000)
            .with("file", "backups/a")
            .with("ms", 1_300)
            .with("wal_bytes", 512)
            .with("copied_rows", 1_204_567);
        assert_eq!(
            shown(check),
            "Backup file created: backups/a\nFile size: 12.4 MB\nTook: 1.3 s\nCopied rows: 1,204,567\nWal: 512 bytes\n"
        );
        let texts = |name, values: &[Value]| values.iter().map(|v| text(name, v)).collect::<Vec<_>>();
        assert_eq!(
            texts("p99_ms", &[json!(0), json!(1.74), json!(45), json!(999.7), json!(59_960), json!(90_000)]),
            ["0 ms", "1.7 ms", "45 ms", "1.0 s", "1 min", "1 min 30 s"]
        );
        assert_eq!(texts("ms", &[json!(7_500_000)]), ["2 h 5 min"]);
        assert_eq!(
            texts("bytes", &[json!(999), json!(999_960), json!(2_500_000_000_u64)]),
            ["999 bytes", "1.0 MB", "2.5 GB"]
        );
        assert_eq!(texts("rate", &[json!(0.0042)]), ["0.42 %"]);
        assert_eq!(texts("pid", &[json!(12345)]), ["12345"]);
        assert_eq!(
            texts("x", &[json!(null), json!(true), json!([]), json!("")]),
            ["not known", "yes", "none", "none"]
        );
    }

    #[test]
    fn counts_are_compared_table_by_table_and_every_difference_is_shown() {
        let mut before: Map<String, Value> = (0..30).map(|n| (format!("t{n}"), json!(n))).collect();
        let mut after = before.clone();
        before.insert("products".into(), json!(60));
        before.insert("old".into(), json!(5));
        after.insert("products".into(), json!(60));
        after.insert("orders".into(), json!(1_204));
        after.insert("t29".into(), json!(2_000));
        let check = Check::pass("verify.counts", "x").with("before", before).with("after", after);
        let shown = shown(check);
        assert!(shown.contains("t29: 2,000 (was 29, +1,971)\n"), "{shown}");
        assert!(shown.contains("Orders: 1,204 (new)\n") && shown.contains("Old: gone (was 5)\n"), "{shown}");
        assert!(
            shown.contains("t0: 0 (was 0)\n") && shown.contains("Other tables: 18 more, unchanged\n"),
            "{shown}"
        );
    }

    #[test]
    fn lists_and_long_texts_are_cut_and_say_so() {
        let versions = json!([{"version": 7, "description": "split address", "class": "rebuild", "ms": 45}]);
        assert_eq!(text("versions", &versions), "v7: split address (rebuild, 45 ms)");
        let list: Vec<u32> = (1..=11).collect();
        assert_eq!(text("x", &json!(list)), "1, 2, 3, 4, 5, 6, 7, 8 and 3 more");
        assert_eq!(text("x", &json!({"products": 60, "orders": 1204})), "products 60, orders 1,204");
        assert!(text("x", &json!("ä".repeat(500))).ends_with("ä… and 100 more characters"));
        let output: String = (1..=30).map(|n| format!("line {n}\n")).collect();
        let check = Check::fail("deploy.install", "x", "exit 1").with("output", output);
        let blanks = blanks(&check);
        assert!(blanks[0].block && blanks[0].value.starts_with("(10 lines before these)\nline 11\n"));
    }

    #[test]
    fn what_others_wrote_cannot_move_the_cursor() {
        let subject = text("subject", &json!("Fix\u{1b}[2Jcart\nand \u{202e}more"));
        assert_eq!(subject, "Fix [2Jcart and  more");
        assert_eq!(utc("2026-11-23T03:48:00.120Z"), "2026-11-23 03:48:00 UTC");
    }
}
