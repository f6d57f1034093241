//! The pictures of the report, as SVG that stands in the page: steps over time, traffic around the switch, rows before and
//! after. Only classes, no styles: the page colours them, on paper too.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::Report;
use super::evidence::{duration, duration_ms, one_line, thousands};
use super::html::escape;
use crate::watch::Sample;

const WIDTH: f64 = 720.0;
/// Tables that are drawn; those with a difference come first.
const TABLES: usize = 16;

/// Requests and errors a second, and how long answers took, around the moment of the switch.
#[must_use]
pub fn traffic(report: &Report) -> Option<String> {
    let samples: Vec<&Sample> = report.samples.iter().filter(|s| s.requests.is_some()).collect();
    let (first, last) = (samples.first()?, samples.last()?);
    let begin = (first.after_ms - i64::try_from(first.span_ms).unwrap_or(0)) as f64;
    let end = (last.after_ms as f64).max(begin + 1.0);
    let x = |ms: f64| 60.0 + (ms - begin) / (end - begin) * (WIDTH - 70.0);
    let rate = |count: Option<u64>, span: u64| count.unwrap_or(0) as f64 * 1_000.0 / (span.max(1) as f64);
    let most = samples.iter().map(|s| rate(s.requests, s.span_ms)).fold(1.0, f64::max);
    let slowest = samples.iter().filter_map(|s| s.p99_us.or(s.p50_us)).max().unwrap_or(0) as f64;
    let (top, foot, low, base) = (20.0, 130.0, 165.0, 255.0);
    let total: u64 = samples.iter().filter_map(|s| s.requests).sum();
    let errors: u64 = samples.iter().filter_map(|s| s.errors).sum();
    let mut out = open(
        275.0,
        &format!("{} requests and {} errors around the switch", thousands(total), thousands(errors)),
    );
    if let (Some(hold), Some(commit)) = (report.hold, report.commit_ms) {
        let from = hold.at_ms as f64 - commit as f64;
        let to = from + hold.ms as f64;
        let (left, right) = (x(from.max(begin)), x(to.min(end)));
        rect(&mut out, "hold", left, top, (right - left).max(2.0), base - top);
    }
    text(&mut out, 0.0, 12.0, "start", "Requests a second");
    text(&mut out, 54.0, top + 8.0, "end", &format!("{most:.1}"));
    text(&mut out, 54.0, foot, "end", "0");
    for sample in &samples {
        let left = x((sample.after_ms - i64::try_from(sample.span_ms).unwrap_or(0)) as f64);
        let wide = (x(sample.after_ms as f64) - left - 0.5).max(1.0);
        for (class, count) in [("ok", sample.requests), ("bad", sample.errors)] {
            let tall = rate(count, sample.span_ms) / most * (foot - top);
            if tall > 0.0 {
                let tall = tall.max(1.5);
                rect(&mut out, class, left, foot - tall, wide, tall);
            }
        }
    }
    text(
        &mut out,
        0.0,
        157.0,
        "start",
        "Time until the answer: half within (thick), 99 of 100 within (thin)",
    );
    if slowest > 0.0 {
        text(&mut out, 54.0, low + 8.0, "end", &duration(slowest / 1_000.0));
        for (class, pick) in
            [("p99", (|s: &Sample| s.p99_us) as fn(&Sample) -> Option<u64>), ("p50", |s| s.p50_us)]
        {
            let mut points = String::new();
            for sample in &samples {
                if let Some(us) = pick(sample) {
                    let y = base - us as f64 / slowest * (base - low);
                    let _ = write!(points, "{:.1},{y:.1} ", x(sample.after_ms as f64));
                }
            }
            let _ = write!(out, "<polyline class=\"{class}\" points=\"{}\"/>", points.trim_end());
        }
    } else {
        text(&mut out, 60.0, 210.0, "start", "was not measured");
    }
    if begin < 0.0 && end > 0.0 {
        let at = x(0.0);
        let _ =
            write!(out, "<line class=\"mark\" x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{base}\"/>");
        text(&mut out, at, 270.0, "middle", "switch");
    }
    let side = |ms: f64| {
        if ms < 0.0 { format!("{} before", duration(-ms)) } else { format!("{} after", duration(ms)) }
    };
    text(&mut out, 60.0, 270.0, "start", &side(begin));
    text(&mut out, WIDTH - 10.0, 270.0, "end", &side(end));
    Some(out + "</svg>")
}

/// Rows of each table before and after.
#[must_use]
pub fn rows(report: &Report) -> Option<String> {
    let check =
        report.item("verify.counts")?.checks.iter().rev().find(|o| o.check.evidence.contains_key("after"))?;
    let map = |name: &str| check.check.evidence.get(name).and_then(Value::as_object);
    let (before, after) = (map("before")?, map("after")?);
    let count = |map: &Map<String, Value>, table: &str| map.get(table).and_then(Value::as_u64);
    let mut tables: Vec<(&str, Option<u64>, Option<u64>)> =
        after.keys().map(|table| (table.as_str(), count(before, table), count(after, table))).collect();
    let gone = before.keys().filter(|table| !after.contains_key(*table));
    tables.extend(gone.map(|table| (table.as_str(), count(before, table), None)));
    // Those that changed must be seen; the order within stays.
    tables.sort_by_key(|(_, was, is)| was == is);
    let hidden = tables.len().saturating_sub(TABLES);
    tables.truncate(TABLES);
    let most = tables.iter().filter_map(|(_, was, is)| (*was).max(*is)).max()?.max(1) as f64;
    let height = tables.len() as f64 * 26.0 + if hidden > 0 { 26.0 } else { 6.0 };
    let mut out = open(height, "rows of each table before and after");
    for (at, (table, was, is)) in tables.iter().enumerate() {
        let y = at as f64 * 26.0;
        text(&mut out, 172.0, y + 16.0, "end", &shortened(table));
        for (class, rows, down) in [("before", was, 4.0), ("after", is, 13.0)] {
            if let Some(rows) = rows {
                rect(&mut out, class, 180.0, y + down, (*rows as f64 / most * 360.0).max(1.0), 8.0);
            }
        }
        let shown = |rows: &Option<u64>| rows.map_or_else(|| "none".to_owned(), thousands);
        let words = if was == is { shown(is) } else { format!("{} → {}", shown(was), shown(is)) };
        text(&mut out, 550.0, y + 16.0, "start", &words);
    }
    if hidden > 0 {
        text(&mut out, 180.0, height - 8.0, "start", &format!("{hidden} more tables, unchanged"));
    }
    Some(out + "</svg>")
}

fn shortened(table: &str) -> String {
    let name: String = one_line(table).chars().take(24).collect();
    name
}

/// The run on one line: the time before, the hold, the commit point.
#[must_use]
pub fn overview(report: &Report) -> String {
    let end = report.ms.max(1) as f64;
    let x = |ms: u64| 10.0 + (ms as f64).min(end) / end * (WIDTH - 20.0);
    let mut out = open(58.0, "the run from its start to its end");
    rect(&mut out, "track", 10.0, 16.0, WIDTH - 20.0, 16.0);
    if let Some(hold) = report.hold {
        rect(&mut out, "hold", x(hold.at_ms), 8.0, (x(hold.at_ms + hold.ms) - x(hold.at_ms)).max(2.0), 32.0);
    }
    for step in &report.steps {
        let class = if step.state == super::StepState::Failed { "bad" } else { "ok" };
        let (left, right) = (x(step.at_ms), x(step.at_ms + step.ms.unwrap_or(0)));
        rect(&mut out, class, left, 16.0, (right - left - 0.5).max(1.0), 16.0);
        if let Some(undo) = step.undo {
            rect(
                &mut out,
                "undo",
                x(undo.at_ms),
                16.0,
                (x(undo.at_ms + undo.ms) - x(undo.at_ms)).max(1.0),
                16.0,
            );
        }
    }
    if let Some(commit) = report.commit_ms {
        let at = x(commit);
        let _ = write!(out, "<line class=\"mark\" x1=\"{at:.1}\" y1=\"6\" x2=\"{at:.1}\" y2=\"42\"/>");
        let anchor = if at > WIDTH - 120.0 { "end" } else { "start" };
        text(&mut out, at, 55.0, anchor, &format!("commit point at {}", duration_ms(commit)));
    }
    text(&mut out, WIDTH - 10.0, 12.0, "end", &duration_ms(report.ms));
    out + "</svg>"
}

fn open(height: f64, label: &str) -> String {
    format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\"><title>{}</title>",
        escape(label),
        escape(label)
    )
}

fn rect(out: &mut String, class: &str, x: f64, y: f64, width: f64, height: f64) {
    let _ = write!(
        out,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let _ = write!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(words));
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    fn sampled() -> Report {
        let mut report = Report::of(&sample::live());
        let one = |after_ms, requests, errors, p50_us| Sample {
            after_ms,
            span_ms: 1_000,
            requests: Some(requests),
            errors: Some(errors),
            p50_us: Some(p50_us),
            p99_us: Some(p50_us * 3),
            ..Sample::default()
        };
        report.samples = vec![one(-2_000, 10, 0, 900), one(-1_000, 12, 0, 1_000), one(1_000, 400, 1, 20_000)];
        report
    }

    #[test]
    fn one_error_among_hundreds_of_requests_is_drawn_and_the_switch_is_marked() {
        let picture = traffic(&sampled()).unwrap();
        assert_eq!(picture.matches("class=\"bad\"").count(), 1, "{picture}");
        assert!(picture.contains("422 requests and 1 errors") && picture.contains(">switch<"), "{picture}");
        assert!(picture.contains("class=\"hold\"") && picture.contains("60 ms"), "{picture}");
        assert!(traffic(&Report::of(&sample::live())).is_none(), "nothing sampled draws nothing");
    }

    #[test]
    fn a_table_that_lost_rows_stands_before_those_that_did_not() {
        let mut report = Report::of(&sample::live());
        let item = report.items.iter_mut().find(|item| item.id == "verify.counts").unwrap();
        item.checks[0].check = crate::check::Check::pass("verify.counts", "x")
            .with("before", serde_json::json!({"a<b": 5, "orders": 1204, "old": 3}))
            .with("after", serde_json::json!({"a<b": 5, "orders": 1200, "new": 1}));
        let picture = rows(&report).unwrap();
        let at = |words: &str| picture.find(words).unwrap_or_else(|| panic!("no {words} in {picture}"));
        assert!(at("1,204 → 1,200") < at("a&lt;b") && at("3 → none") > 0 && at("none → 1") > 0);
    }

    #[test]
    fn no_number_of_a_picture_is_nonsense() {
        for report in
            [sampled(), Report::of(&sample::undone()), Report::of(&sample::refused()), Report::of(&[])]
        {
            let pictures = [Some(overview(&report)), traffic(&report), rows(&report)];
            for picture in pictures.into_iter().flatten() {
                assert!(
                    !picture.contains("NaN") && !picture.contains("inf\"") && !picture.contains("=\"-"),
                    "{picture}"
                );
            }
        }
    }
}
