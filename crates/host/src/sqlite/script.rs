//! The text of a migration: its statements, what they name, and the form in which edits of comments and layout
//! do not count. It knows the words of SQL and no more; what a statement does is found out by running it.

use std::collections::BTreeSet;
use std::ops::Range;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// White space and comments.
    Gap,
    Word,
    Quoted,
    Semicolon,
    Sign,
}

/// A statement of a script.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Statement<'a> {
    /// Its text, without the semicolon and what surrounds it.
    pub text: &'a str,
    /// The line on which it begins, from 1.
    pub line: usize,
    /// Its words and signs; words in upper case, quoted names without their quotes.
    words: Vec<String>,
}

/// Splits a script into statements, triggers whole.
#[must_use]
pub fn statements(sql: &str) -> Vec<Statement<'_>> {
    let mut found = Vec::new();
    let mut begin: Option<usize> = None;
    let mut end = 0;
    let mut words: Vec<String> = Vec::new();
    let mut trigger = Trigger::No;
    let mut close = |begin: &mut Option<usize>, end: usize, words: &mut Vec<String>| {
        if let Some(start) = begin.take() {
            let line = 1 + sql[..start].matches('\n').count();
            found.push(Statement { text: &sql[start..end], line, words: std::mem::take(words) });
        }
    };
    for (kind, range) in tokens(sql) {
        if kind == Kind::Gap {
            continue;
        }
        if kind == Kind::Semicolon && trigger.semicolon() {
            close(&mut begin, end, &mut words);
            trigger = Trigger::No;
            continue;
        }
        begin.get_or_insert(range.start);
        end = range.end;
        let word = match kind {
            Kind::Word => sql[range].to_ascii_uppercase(),
            Kind::Quoted => unquoted(&sql[range]),
            _ => sql[range].to_owned(),
        };
        if kind == Kind::Word {
            trigger.word(&word, &words);
        } else if kind != Kind::Semicolon {
            trigger.other();
        }
        words.push(word);
    }
    close(&mut begin, end, &mut words);
    found
}

/// Where in a trigger's body we are: it ends at `; END ;`.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Trigger {
    No,
    Inside,
    AfterSemicolon,
    AfterEnd,
}

impl Trigger {
    fn word(&mut self, word: &str, before: &[String]) {
        *self = match *self {
            Trigger::No => {
                let created = before.first().is_some_and(|first| first == "CREATE");
                let only_temp = before.iter().skip(1).all(|w| w == "TEMP" || w == "TEMPORARY");
                if created && only_temp && word == "TRIGGER" { Trigger::Inside } else { Trigger::No }
            }
            Trigger::AfterSemicolon if word == "END" => Trigger::AfterEnd,
            _ => Trigger::Inside,
        };
    }

    fn other(&mut self) {
        if *self != Trigger::No {
            *self = Trigger::Inside;
        }
    }

    /// Whether a semicolon here ends the statement.
    fn semicolon(&mut self) -> bool {
        match *self {
            Trigger::No | Trigger::AfterEnd => true,
            _ => {
                *self = Trigger::AfterSemicolon;
                false
            }
        }
    }
}

impl Statement<'_> {
    /// Its words and signs; words in upper case, quoted names as they are.
    pub(crate) fn words(&self) -> &[String] {
        &self.words
    }

    /// Whether it begins with these words.
    #[must_use]
    pub fn begins(&self, words: &[&str]) -> bool {
        self.words.len() >= words.len() && self.words.iter().zip(words).all(|(a, b)| a == b)
    }

    /// The pragma it sets or asks for, in lower case.
    #[must_use]
    pub fn pragma(&self) -> Option<String> {
        if !self.begins(&["PRAGMA"]) {
            return None;
        }
        let name =
            if self.words.get(2).is_some_and(|w| w == ".") { self.words.get(3) } else { self.words.get(1) };
        name.map(|name| name.to_ascii_lowercase())
    }

    /// Whether it begins or ends a transaction.
    #[must_use]
    pub fn is_transaction(&self) -> bool {
        ["BEGIN", "COMMIT", "END", "ROLLBACK"].iter().any(|word| self.begins(&[word]))
            && !self.words.iter().any(|word| word == "TO")
    }

    /// Tables whose rows it says to change in place.
    fn updates(&self, into: &mut BTreeSet<String>) {
        if self.begins(&["CREATE"]) {
            return;
        }
        let replaces = self.words.windows(2).any(|w| w[0] == "OR" && w[1] == "REPLACE")
            || self.words.windows(2).any(|w| w[0] == "DO" && w[1] == "UPDATE")
            || self.begins(&["REPLACE"]);
        for (place, word) in self.words.iter().enumerate() {
            let before = place.checked_sub(1).and_then(|before| self.words.get(before)).map(String::as_str);
            let name = match word.as_str() {
                "UPDATE" if before != Some("DO") => {
                    let after_or = self.words.get(place + 1).is_some_and(|next| next == "OR");
                    self.name_at(place + if after_or { 3 } else { 1 })
                }
                "INTO" if replaces => self.name_at(place + 1),
                _ => None,
            };
            into.extend(name);
        }
    }

    /// The object it drops by name.
    fn drops(&self) -> Option<String> {
        if !self.begins(&["DROP"]) {
            return None;
        }
        self.name_at(if self.words.get(2).is_some_and(|word| word == "IF") { 4 } else { 2 })
    }

    /// The name at a place, without a schema before it, in lower case.
    fn name_at(&self, place: usize) -> Option<String> {
        let qualified = self.words.get(place + 1).is_some_and(|word| word == ".");
        self.words.get(if qualified { place + 2 } else { place }).map(|name| name.to_lowercase())
    }
}

/// What a script says that it does, by the names it uses. In lower case.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Named {
    /// Tables named in an UPDATE, a REPLACE or an upsert.
    pub updated: BTreeSet<String>,
    /// Objects named in a DROP.
    pub dropped: BTreeSet<String>,
}

impl Named {
    /// Reads a script.
    #[must_use]
    pub fn in_script(sql: &str) -> Self {
        let mut named = Named::default();
        for statement in statements(sql) {
            statement.updates(&mut named.updated);
            named.dropped.extend(statement.drops());
        }
        named
    }
}

/// The script without byte order mark and comments, with one space or none between its parts: what a checksum is
/// taken of, so that line endings, comments and layout may change.
#[must_use]
pub fn canonical(sql: &str) -> String {
    let sql = sql.strip_prefix('\u{feff}').unwrap_or(sql).replace("\r\n", "\n");
    let mut text = String::with_capacity(sql.len());
    let mut gap = false;
    for (kind, range) in tokens(&sql) {
        if kind == Kind::Gap {
            gap = true;
            continue;
        }
        if gap && !text.is_empty() && kind != Kind::Semicolon {
            text.push(' ');
        }
        gap = false;
        text.push_str(&sql[range]);
    }
    text
}

/// What stands in double quotes and is no alias, no name of a constraint and no part of a dotted name.
pub(crate) fn double_quoted(sql: &str) -> Vec<String> {
    let parts: Vec<(Kind, &str)> =
        tokens(sql).filter(|(kind, _)| *kind != Kind::Gap).map(|(kind, range)| (kind, &sql[range])).collect();
    let word = |place: Option<usize>| {
        place.and_then(|place| parts.get(place)).map_or(String::new(), |(_, text)| text.to_ascii_uppercase())
    };
    let mut found = Vec::new();
    for (place, (kind, text)) in parts.iter().enumerate() {
        let (before, after) = (word(place.checked_sub(1)), word(Some(place + 1)));
        let named = ["AS", "CONSTRAINT", "COLLATE", "USING", "."].contains(&before.as_str())
            || [".", "AS"].contains(&after.as_str());
        if *kind == Kind::Quoted && text.starts_with('"') && !named {
            found.push(unquoted(text));
        }
    }
    found
}

fn unquoted(text: &str) -> String {
    let inner = text.get(1..text.len().saturating_sub(1)).unwrap_or("");
    match text.as_bytes().first() {
        Some(b'\'') => inner.replace("''", "'"),
        Some(b'"') => inner.replace("\"\"", "\""),
        Some(b'`') => inner.replace("``", "`"),
        _ => inner.to_owned(),
    }
}

fn tokens(sql: &str) -> impl Iterator<Item = (Kind, Range<usize>)> {
    let bytes = sql.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = *bytes.get(at)?;
        let rest = &bytes[at..];
        let word =
            |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b'$' || *byte >= 0x80;
        let length = |found: Option<usize>, extra: usize| found.map_or(rest.len(), |place| place + extra);
        let (kind, long) = match first {
            _ if first.is_ascii_whitespace() => {
                (Kind::Gap, length(rest.iter().position(|b| !b.is_ascii_whitespace()), 0))
            }
            b'-' if rest.starts_with(b"--") => (Kind::Gap, length(rest.iter().position(|b| *b == b'\n'), 0)),
            b'/' if rest.starts_with(b"/*") => {
                (Kind::Gap, length(rest[2..].windows(2).position(|pair| pair == b"*/"), 4))
            }
            b'\'' | b'"' | b'`' => (Kind::Quoted, quoted_length(rest, first)),
            b'[' => (Kind::Quoted, length(rest.iter().position(|b| *b == b']'), 1)),
            b';' => (Kind::Semicolon, 1),
            _ if word(&first) => (Kind::Word, length(rest.iter().position(|b| !word(b)), 0)),
            _ => (Kind::Sign, 1),
        };
        let range = at..at + long;
        at += long;
        Some((kind, range))
    })
}

/// The length of a quoted text; a doubled quote stands for itself.
fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        if rest[at] == quote {
            if rest.get(at + 1) != Some(&quote) {
                return at + 1;
            }
            at += 1;
        }
        at += 1;
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sql: &str) -> Vec<(usize, &str)> {
        statements(sql).into_iter().map(|s| (s.line, s.text)).collect()
    }

    #[test]
    fn statements_end_at_semicolons_outside_of_quotes_and_comments() {
        let sql = "-- first; not one\nINSERT INTO a VALUES ('x;''y'); /* ; */\n\nUPDATE \"b;c\" SET d = 1\n";
        assert_eq!(texts(sql), [(2, "INSERT INTO a VALUES ('x;''y')"), (4, "UPDATE \"b;c\" SET d = 1")]);
    }

    #[test]
    fn a_trigger_is_one_statement_with_its_cases_and_semicolons() {
        let sql = "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN UPDATE b SET c = CASE WHEN 1 THEN 2 END; DELETE FROM d; END;\nSELECT 1;";
        let found = texts(sql);
        assert_eq!(found.len(), 2);
        assert!(found[0].1.ends_with("END"));
        assert_eq!(found[1], (2, "SELECT 1"));
    }

    #[test]
    fn a_word_that_only_looks_like_a_trigger_ends_as_usual() {
        assert_eq!(texts("CREATE TABLE trigger_log (x); SELECT 2").len(), 2);
    }

    #[test]
    fn names_are_found_in_every_form_of_quoting() {
        let named = Named::in_script(
            "UPDATE OR IGNORE main.\"Orders\" SET a = 1; WITH x AS (SELECT 1) UPDATE [stock] SET b = 2;
             INSERT INTO prices VALUES (1) ON CONFLICT DO UPDATE SET p = 2; REPLACE INTO `tax` VALUES (1);
             INSERT INTO plain VALUES (1); DROP INDEX IF EXISTS Idx; DROP TABLE main.old;
             CREATE TRIGGER t AFTER UPDATE ON other BEGIN UPDATE inner_one SET a = 1; END;",
        );
        let updated: Vec<&str> = named.updated.iter().map(String::as_str).collect();
        assert_eq!(updated, ["orders", "prices", "stock", "tax"]);
        let dropped: Vec<&str> = named.dropped.iter().map(String::as_str).collect();
        assert_eq!(dropped, ["idx", "old"]);
    }

    #[test]
    fn comments_line_endings_and_layout_do_not_change_the_canonical_form() {
        let one = "\u{feff}CREATE TABLE a (\r\n  b TEXT, -- note\r\n  c\r\n);\r\n";
        let two = "CREATE TABLE a ( b TEXT, c );\n/* end */";
        assert_eq!(canonical(one), canonical(two));
        assert_ne!(canonical("SELECT 'a  b'"), canonical("SELECT 'a b'"), "inside quotes every space counts");
    }

    #[test]
    fn unfinished_quotes_and_comments_run_to_the_end() {
        assert_eq!(texts("SELECT 'abc; SELECT 2").len(), 1);
        assert_eq!(texts("SELECT 1; /* open").len(), 1);
    }
}
