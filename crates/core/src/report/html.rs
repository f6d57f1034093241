//! The report as one HTML file: no script, nothing from outside, readable on paper and on a phone at night.

use std::fmt::Write as _;

use super::chart;
use super::evidence::{Blank, blanks, duration_ms, one_line, utc};
use super::markdown::{SIGNATURES, issues, smoke_cells, step_words, stopped_at, title};
use super::summary::{Tone, data, facts, message, result, standing, verdict_tone, verdict_word};
use super::{Answer, ItemReport, Observed, Report, Span, StepReport, StepState, Trouble};
use crate::check::{Check, Verdict};
use crate::checklist::Phase;

/// A hold shorter than this share of the run is drawn a second time, enlarged.
const ENLARGE_BELOW: u64 = 4;

/// The report as one HTML file.
#[must_use]
pub fn html(report: &Report) -> String {
    let (tone, word) = result(report);
    let release = report.release.as_ref().map_or_else(String::new, |r| format!(" {}", r.id));
    let heading = escape(&format!("{} of {}{release}", title(report), report.app));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}: {heading}</title>\n<style>\n{}</style>\n</head>\n<body>\n<h1>{heading}</h1>\n",
        escape(word),
        include_str!("report.css")
    );
    let (class, message, data) = (class(tone), escape(&message(report)), escape(&data(report)));
    let _ = writeln!(
        out,
        "<div class=\"result {class}\"><strong>{}</strong><p>{message}</p><p>Data: {data}.</p></div>",
        escape(word)
    );
    report.undo_failure.iter().chain(&report.failure).for_each(|t| trouble(&mut out, t));
    out.push_str("<dl class=\"facts\">\n");
    for (label, value) in facts(report) {
        let _ = writeln!(out, "<dt>{label}</dt><dd>{}</dd>", escape(&value));
    }
    out.push_str("</dl>\n");
    pictures(&mut out, report);
    timelines(&mut out, report);
    if !report.warnings.is_empty() {
        out.push_str("<h2>Warnings</h2>\n<ul>\n");
        for warning in &report.warnings {
            let _ = writeln!(out, "<li>{}</li>", escape(warning));
        }
        out.push_str("</ul>\n");
    }
    for phase in Phase::ALL {
        let _ = writeln!(out, "<h2>{}</h2>\n<ol class=\"boxes\">", escape(phase.title()));
        report.phase(phase).for_each(|item| form(&mut out, item));
        out.push_str("</ol>\n");
    }
    if !report.other.is_empty() {
        out.push_str("<h2>Other observations</h2>\n<ul class=\"blanks\">\n");
        report.other.iter().for_each(|seen| observation(&mut out, &seen.check));
        out.push_str("</ul>\n");
    }
    let (by, at) = (escape(&report.by), escape(&utc(&report.started_at)));
    let _ = writeln!(out, "<h2>Sign-off</h2>\n<p>Begun by: {by} ({at})</p>");
    for (role, words) in SIGNATURES {
        let _ = match report.signed(role) {
            Some(signature) => {
                let (name, at) = (escape(&signature.signed.name), escape(&utc(&signature.at)));
                writeln!(out, "<p>{words}: <b>{name}</b> ({at})</p>")
            }
            None => writeln!(out, "<p>{words}: ____________________ Date and time: ____________________</p>"),
        };
    }
    let (trouble, resolution) = issues(report);
    let _ = writeln!(out, "<p>Issues encountered: {}</p>", escape(&trouble));
    let _ = writeln!(out, "<p>Resolution: {}</p>", escape(&resolution));
    let closed = if report.closed { "yes" } else { "not yet: two signatures close the run" };
    let _ = writeln!(out, "<p>Closed: {closed}</p>");
    let _ = writeln!(out, "<p class=\"note\">Log: {}</p>\n</body>\n</html>", escape(&report.log));
    out
}

fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "good",
        Tone::Careful => "careful",
        Tone::Bad => "bad",
        Tone::Quiet => "quiet",
    }
}

fn trouble(out: &mut String, trouble: &Trouble) {
    let step = trouble.step.map_or_else(String::new, |s| format!("at “{}”", s.title()));
    let what = escape(&trouble.what);
    let _ =
        write!(out, "<div class=\"trouble\"><p><b class=\"bad\">FAILED {}:</b> {what}</p>", escape(&step));
    for (label, words) in [("Why", &trouble.why), ("Next", &trouble.next)] {
        if !words.is_empty() {
            let _ = write!(out, "<p><b>{label}:</b> {}</p>", escape(words));
        }
    }
    out.push_str("</div>\n");
}

/// The run at a glance, the traffic around the switch, the rows before and after.
fn pictures(out: &mut String, report: &Report) {
    if report.ended_at.is_some() {
        let _ = writeln!(out, "<h2>The run</h2>\n<figure>{}</figure>", chart::overview(report));
    }
    out.push_str("<h2>Requests, errors and latency around the switch</h2>\n");
    let _ = match chart::traffic(report) {
        Some(picture) => writeln!(
            out,
            "<figure>{picture}</figure>\n<p class=\"key\"><i></i>requests<i class=\"failed\"></i>errors\
             <i class=\"hold\"></i>users wait</p>"
        ),
        None => writeln!(out, "<p class=\"note\">No traffic was sampled in this run.</p>"),
    };
    if let Some(picture) = chart::rows(report) {
        let _ = writeln!(
            out,
            "<h2>Rows before and after</h2>\n<figure>{picture}</figure>\n\
             <p class=\"key\"><i class=\"before\"></i>before<i></i>after</p>"
        );
    }
}

/// The steps as bars over the run's time; a short hold once more, enlarged.
fn timelines(out: &mut String, report: &Report) {
    let end =
        report.steps.iter().map(|s| s.at_ms + s.ms.unwrap_or(0)).max().unwrap_or(0).max(report.ms).max(1);
    let _ = writeln!(out, "<h2>Steps</h2>");
    let whole = Span { at_ms: 0, ms: end };
    timeline(out, report, whole);
    if let Some(hold) = report.hold
        && hold.ms > 0
        && hold.ms < end / ENLARGE_BELOW
    {
        let waited = duration_ms(hold.ms);
        let _ = writeln!(out, "<h3>The {waited} in which users waited, enlarged</h3>");
        timeline(out, report, hold);
    }
    out.push_str("<p class=\"key\"><i></i>step");
    if report.hold.is_some() {
        out.push_str("<i class=\"hold\"></i>users wait");
    }
    if report.steps.iter().any(|s| s.state == StepState::Failed) {
        out.push_str("<i class=\"failed\"></i>failed");
    }
    if report.steps.iter().any(|s| s.undo.is_some()) {
        out.push_str("<i class=\"undo\"></i>undone");
    }
    out.push_str("</p>\n");
}

fn timeline(out: &mut String, report: &Report, window: Span) {
    let end = window.at_ms + window.ms;
    out.push_str("<div class=\"time\">\n");
    for step in &report.steps {
        let took = step.ms.unwrap_or_else(|| end.saturating_sub(step.at_ms));
        let spans = [Some(Span { at_ms: step.at_ms, ms: took }), step.undo];
        // A step that ends where the window begins is not part of it.
        let within = |s: &Span| s.at_ms + s.ms > window.at_ms && s.at_ms < end || window.at_ms == 0;
        if !spans.iter().flatten().any(within) {
            continue;
        }
        let (name, words) = (escape(step.title), escape(step_words(step).trim_start_matches("done, ")));
        let tone = if step.state == StepState::Failed { "bad" } else { "note" };
        let _ = write!(out, "<div>{name}");
        if step.state != StepState::Done {
            let _ = write!(out, " <span class=\"{tone}\">{words}</span>");
        }
        let took = step.ms.map_or_else(|| "not ended".to_owned(), duration_ms);
        let track =
            "<svg class=\"track\" viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\">";
        let _ = write!(out, "</div>{track}");
        if let Some(hold) = report.hold {
            bar(out, "hold", hold, window);
        }
        bars(out, step, spans, window);
        let _ = writeln!(out, "</svg><div class=\"took\">{took}</div>");
    }
    let (first, last) = (duration_ms(window.at_ms), duration_ms(end));
    let _ = writeln!(out, "<div class=\"axis\"><span>{first}</span><span>{last}</span></div>\n</div>");
}

fn bars(out: &mut String, step: &StepReport, spans: [Option<Span>; 2], window: Span) {
    let forward = if step.state == StepState::Failed { "bar failed" } else { "bar" };
    for (class, span) in [forward, "bar undo"].iter().zip(spans) {
        if let Some(span) = span {
            bar(out, class, span, window);
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a place on the screen")]
fn bar(out: &mut String, class: &str, span: Span, window: Span) {
    let share = |ms: u64| 1000.0 * ms as f64 / window.ms.max(1) as f64;
    let from = span.at_ms.clamp(window.at_ms, window.at_ms + window.ms);
    let to = (span.at_ms + span.ms).clamp(from, window.at_ms + window.ms);
    let visible = span.at_ms + span.ms >= window.at_ms && span.at_ms <= window.at_ms + window.ms;
    if visible {
        // The narrowest bar must be seen, and must not leave the track on the right.
        let (left, wide) = (share(from - window.at_ms).min(995.0), share(to - from).max(5.0));
        let (y, tall) = if class == "hold" { (0, 10) } else { (2, 6) };
        let _ = write!(
            out,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{y}\" width=\"{wide:.1}\" height=\"{tall}\"/>"
        );
    }
}

fn form(out: &mut String, item: &ItemReport) {
    let (tone, mark, words) = standing(item);
    let ticked = item.answer == Answer::Answered && item.verdict == Some(Verdict::Pass);
    let (class, sign) = (class(tone), if ticked { "☑" } else { "☐" });
    let _ = write!(out, "<li id=\"{}\"><span class=\"box {class}\">{sign}</span><div>", item.id);
    if !mark.is_empty() {
        let _ = write!(out, "<span class=\"word {class}\">{mark}</span> ");
    }
    let _ = write!(out, "<b>{}</b>", escape(item.title));
    let one = match item.checks.as_slice() {
        [one] => Some(one),
        _ => None,
    };
    let name = one.map(|seen| escape(&seen.check.name)).unwrap_or_default();
    let note =
        if words.is_empty() { words } else { format!("<span class=\"note\">{}</span>", escape(&words)) };
    let parts: Vec<&str> = [name.as_str(), &note].into_iter().filter(|part| !part.is_empty()).collect();
    if !parts.is_empty() {
        let _ = write!(out, " — {}", parts.join(": "));
    }
    if item.id == "verify.smoke" && !item.checks.is_empty() {
        smoke(out, &item.checks);
    } else if !item.checks.is_empty() {
        out.push_str("<ul class=\"blanks\">");
        match one {
            Some(seen) => {
                if let Some(time) = stopped_at(seen) {
                    let _ = write!(out, "<li>{}</li>", escape(&time));
                }
                blanks(&seen.check).iter().for_each(|b| blank(out, b));
            }
            None => item.checks.iter().for_each(|seen| observation(out, &seen.check)),
        }
        out.push_str("</ul>");
    }
    out.push_str("</div></li>\n");
}

fn blank(out: &mut String, blank: &Blank) {
    let (label, value) = (escape(&blank.label), &blank.value);
    let _ = match blank.block {
        true => write!(out, "<li><span>{label}:</span><pre>{}</pre></li>", escape_lines(value)),
        false => write!(out, "<li><span>{label}:</span> {}</li>", escape(value)),
    };
}

fn observation(out: &mut String, check: &Check) {
    let (class, word) = (class(verdict_tone(check.verdict)), verdict_word(check.verdict));
    let _ = write!(out, "<li><b class=\"{class}\">{word}</b> {}", escape(&check.name));
    let blanks = blanks(check);
    let mut words: Vec<String> = vec![escape(check.why())];
    let labelled = |b: &Blank| format!("<span>{}:</span> {}", escape(&b.label), escape(&b.value));
    words.extend(blanks.iter().filter(|b| !b.block).map(labelled));
    words.retain(|w| !w.is_empty());
    if !words.is_empty() {
        let _ = write!(out, " — {}", words.join("; "));
    }
    for block in blanks.iter().filter(|b| b.block) {
        let _ = write!(
            out,
            "<br><span>{}:</span><pre>{}</pre>",
            escape(&block.label),
            escape_lines(&block.value)
        );
    }
    out.push_str("</li>");
}

fn smoke(out: &mut String, checks: &[Observed]) {
    let heads = ["Test", "Verdict", "Status", "Took", "Seen"];
    let _ = write!(
        out,
        "<table><thead><tr>{}</tr></thead><tbody>",
        heads.map(|h| format!("<th>{h}</th>")).concat()
    );
    for Observed { check, .. } in checks {
        let class = class(verdict_tone(check.verdict));
        out.push_str("<tr>");
        for (head, cell) in heads.iter().zip(smoke_cells(check)) {
            let (label, class) = match *head {
                "Test" => (String::new(), ""),
                "Verdict" => (String::new(), class),
                _ => (format!(" data-label=\"{head}\""), ""),
            };
            let _ = write!(out, "<td class=\"{class}\"{label}>{}</td>", escape(&cell));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table>");
}

/// The text as text, on one line.
pub(super) fn escape(words: &str) -> String {
    escape_lines(&one_line(words))
}

fn escape_lines(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for c in words.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn one_file_without_scripts_or_anything_from_outside() {
        for entries in [sample::live(), sample::undone(), sample::frozen(), sample::rolled_back()] {
            let page = html(&Report::of(&entries));
            for foreign in
                ["<script", "http://", "https://", "src=", "href=", "url(", "@import", "javascript:"]
            {
                assert!(!page.contains(foreign), "{foreign} in the page");
            }
        }
    }

    #[test]
    fn every_element_that_is_opened_is_closed() {
        for entries in [sample::live(), sample::undone(), sample::frozen(), sample::rolled_back()] {
            let page = html(&Report::of(&entries));
            let mut open = Vec::new();
            for tag in page.split('<').skip(1).filter(|t| !t.starts_with('!')) {
                let name: String =
                    tag.trim_start_matches('/').chars().take_while(char::is_ascii_alphanumeric).collect();
                match (tag.starts_with('/'), name.as_str()) {
                    (_, "meta" | "br" | "rect" | "line" | "polyline") => {}
                    (false, _) => open.push(name),
                    (true, _) => assert_eq!(open.pop().as_deref(), Some(name.as_str()), "{tag}"),
                }
            }
            assert!(open.is_empty(), "left open: {open:?}");
        }
    }

    #[test]
    fn the_hold_is_marked_and_enlarged() {
        let page = html(&Report::of(&sample::live()));
        assert!(page.contains("The 900 ms in which users waited, enlarged"));
        let enlarged = page.split("enlarged</h3>").nth(1).unwrap();
        assert!(enlarged.contains("<rect class=\"hold\" x=\"0.0\" y=\"0\" width=\"1000.0\""), "{enlarged}");
        assert!(!enlarged.split("</div>\n</div>").next().unwrap().contains("Back up the database"));
        assert!(!html(&Report::of(&sample::rolled_back())).contains("<rect class=\"hold\""));
    }
}
