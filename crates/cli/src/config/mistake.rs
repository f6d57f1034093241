//! Mistakes in the configuration file: gathered while it is read, shown all at once with the lines they are on.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// No such file.
    #[error("there is no {}", .path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is there and cannot be read.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file says something that it may not say.
    #[error("{}", headline(.path, .mistakes.len()))]
    Mistakes {
        /// The file.
        path: PathBuf,
        /// All of them, in the order of the file.
        mistakes: Vec<Mistake>,
    },
}

fn headline(path: &Path, count: usize) -> String {
    let noun = if count == 1 { "1 mistake" } else { &format!("{count} mistakes") };
    format!("{noun} in {}", path.display())
}

/// One mistake and where it is. Shows as the place, what is wrong, the line, and what to write instead.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Mistake {
    /// The file's name, without its folder.
    pub(crate) file: String,
    /// Where, or `None` when something is missing from the file as a whole.
    pub(crate) place: Option<Place>,
    /// What is wrong.
    pub(crate) what: String,
    /// What to write instead; may be empty.
    pub(crate) help: String,
}

/// A place in the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    /// From 1.
    pub(crate) line: usize,
    /// In characters, from 1.
    pub(crate) column: usize,
    /// How many characters are meant.
    pub(crate) width: usize,
    /// The line as it stands in the file, secrets blotted out.
    pub(crate) quoted: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            None => write!(f, "{}: {}", self.file, self.what)?,
            Some(place) => {
                writeln!(f, "{}:{}:{}: {}", self.file, place.line, place.column, self.what)?;
                let number = place.line.to_string();
                writeln!(f, "  {number} | {}", place.quoted)?;
                // Tabs are kept, so that the mark stands below what it means whatever a tab's width is.
                let blank: String = place.quoted.chars().take(place.column - 1).map(as_blank).collect();
                write!(f, "  {} | {blank}{}", " ".repeat(number.len()), "^".repeat(place.width))?;
            }
        }
        if !self.help.is_empty() {
            write!(f, "\n  = {}", self.help)?;
        }
        Ok(())
    }
}

fn as_blank(c: char) -> char {
    if c == '\t' { '\t' } else { ' ' }
}

/// Why a value cannot be what its key needs, and what to write instead.
#[derive(Debug)]
pub(super) struct Unfit {
    pub(super) what: String,
    pub(super) help: String,
}

impl Unfit {
    pub(super) fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Unfit { what: what.into(), help: help.into() }
    }
}

/// Gathers mistakes while a file is read.
pub(super) struct Mistakes<'a> {
    file: String,
    text: &'a str,
    found: RefCell<Vec<(Finding, Mistake)>>,
}

/// What kind of mistake it is: a missing key is no news when the file could not be read to its end.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Finding {
    Syntax,
    Missing,
    Wrong,
}

impl<'a> Mistakes<'a> {
    pub(super) fn new(path: &Path, text: &'a str) -> Self {
        let file = path.file_name().map_or_else(|| path.display().to_string(), |n| n.display().to_string());
        Mistakes { file, text, found: RefCell::new(Vec::new()) }
    }

    /// The text is not TOML here.
    pub(super) fn syntax(&self, span: Option<Range<usize>>, what: &str) {
        let span = span.unwrap_or(0..0);
        let help = if what.contains("string values must be quoted") {
            let value = self.text.get(span.clone()).unwrap_or_default();
            format!("write \"{value}\"")
        } else {
            String::new()
        };
        let what = format!("this is not TOML: {}", what.replace('\n', ": "));
        self.push(Finding::Syntax, Some(span), what, help);
    }

    /// What the span says is wrong.
    pub(super) fn wrong(&self, span: &Range<usize>, what: impl Into<String>, help: impl Into<String>) {
        self.push(Finding::Wrong, Some(span.clone()), what.into(), help.into());
    }

    /// A key is absent from the table at `span`, or a whole table from the file.
    pub(super) fn missing(
        &self,
        span: Option<&Range<usize>>,
        what: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(Finding::Missing, span.cloned(), what.into(), help.into());
    }

    fn push(&self, finding: Finding, span: Option<Range<usize>>, what: String, help: String) {
        let place = span.map(|span| self.place(&span));
        let mistake = Mistake { file: self.file.clone(), place, what, help };
        self.found.borrow_mut().push((finding, mistake));
    }

    /// All mistakes in the order of the file. What follows from a syntax error alone is left out.
    pub(super) fn into_list(self) -> Vec<Mistake> {
        let mut found = self.found.into_inner();
        let broken: Vec<usize> = found
            .iter()
            .filter(|(finding, _)| *finding == Finding::Syntax)
            .filter_map(|(_, mistake)| mistake.place.as_ref().map(|p| p.line))
            .collect();
        if !broken.is_empty() {
            found.retain(|(finding, mistake)| match finding {
                Finding::Syntax => true,
                Finding::Missing => false,
                Finding::Wrong => mistake.place.as_ref().is_some_and(|p| !broken.contains(&p.line)),
            });
        }
        let mut list: Vec<Mistake> = found.into_iter().map(|(_, mistake)| mistake).collect();
        list.sort_by_key(|m| m.place.as_ref().map_or((0, 0), |p| (p.line, p.column)));
        list.dedup();
        list
    }

    fn place(&self, span: &Range<usize>) -> Place {
        let start = self.boundary(span.start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = self.text[..line_start].matches('\n').count() + 1;
        let rest = &self.text[line_start..];
        let quoted = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let column = self.text[line_start..start].chars().count() + 1;
        // A value may go on over several lines; only its first line is quoted and marked.
        let end = span.end.clamp(start, line_start + quoted.len().max(start - line_start));
        let width = self.text[start..self.boundary(end)].chars().count().max(1);
        Place { line, column, width, quoted: blot(quoted) }
    }

    /// The nearest place at or before `at` where a character begins.
    fn boundary(&self, at: usize) -> usize {
        (0..=at.min(self.text.len())).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0)
    }
}

/// Blots out what may be a secret on a quoted line, each character by a star so that columns stay.
fn blot(line: &str) -> String {
    static SECRET: LazyLock<Regex> = LazyLock::new(|| {
        let name = r#"[\w.-]*(?:secret|passw|token|api_?key|credential|webhook)[\w.-]*"?"#;
        let pattern = format!(
            r#"(?i)(?:{name}\s*=\s*(?:"(?<double>[^"]*)"?|'(?<single>[^']*)'?))|(?://[^:/@\s"']*:(?<url>[^@\s"']+)@)"#
        );
        Regex::new(&pattern).expect("a constant pattern, compiled by every test of this file")
    });
    let mut blotted = String::with_capacity(line.len());
    let mut from = 0;
    for found in SECRET.captures_iter(line) {
        let value = ["double", "single", "url"].iter().find_map(|name| found.name(name));
        let Some(value) = value else { continue };
        let reference = value.as_str().starts_with("env:") || value.as_str().starts_with("file:");
        blotted.push_str(&line[from..value.start()]);
        if reference {
            blotted.push_str(value.as_str());
        } else {
            blotted.extend(value.as_str().chars().map(|_| '*'));
        }
        from = value.end();
    }
    blotted.push_str(&line[from..]);
    blotted
}

/// The known word nearest to `word`, when one is near enough to have been meant.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word = word.to_lowercase();
    let allowed = (word.chars().count() / 3).max(2);
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&word, &k.to_lowercase()), k))
        .filter(|(distance, k)| *distance <= allowed && *distance < k.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters_and_keeps_tabs_below_tabs() {
        let text = "a = 1\n\tname = \"é\", x\r\n";
        let mistakes = Mistakes::new(Path::new("/srv/plimsoll.toml"), text);
        let at = text.find('x').unwrap();
        mistakes.wrong(&(at..at + 1), "wrong", "help");
        insta::assert_snapshot!(mistakes.into_list()[0], @r#"
        plimsoll.toml:2:14: wrong
          2 | 	name = "é", x
            | 	            ^
          = help
        "#);
    }

    #[test]
    fn a_span_past_the_end_or_over_lines_does_not_panic() {
        let text = "y = '''\nmulti\n'''";
        let mistakes = Mistakes::new(Path::new("p.toml"), text);
        mistakes.wrong(&(4..text.len()), "long", "");
        mistakes.wrong(&(900..950), "past", "");
        let list = mistakes.into_list();
        assert_eq!(list[0].place.as_ref().unwrap().width, 3);
        assert_eq!(list[1].place.as_ref().unwrap().line, 3);
    }

    #[test]
    fn a_quoted_line_shows_no_secret() {
        for (line, shown) in [
            (r#"password = "hunter2" # x"#, r#"password = "*******" # x"#),
            (
                r#"env = { STRIPE_SECRET_KEY = 'sk_1', A = "b" }"#,
                r#"env = { STRIPE_SECRET_KEY = '****', A = "b" }"#,
            ),
            (r#"url = "postgres://u:pw@host/db""#, r#"url = "postgres://u:**@host/db""#),
            (r#"webhook = "env:TEAM_WEBHOOK""#, r#"webhook = "env:TEAM_WEBHOOK""#),
            (r#"password = "unclosed"#, r#"password = "********"#),
        ] {
            assert_eq!(blot(line), shown);
        }
    }

    #[test]
    fn the_nearest_word_is_near() {
        assert_eq!(nearest("hold_buget", ["drain", "hold_budget"]), Some("hold_budget"));
        assert_eq!(nearest("Branch", ["branch"]), Some("branch"));
        assert_eq!(nearest("xyz", ["git", "env"]), None);
        assert_eq!(nearest("to", ["on"]), None);
    }
}
