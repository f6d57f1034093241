//! What the shop says to its customers, in each of its languages: `templates/texts/CODE.txt`. No such text stands
//! anywhere else; a test looks.

use std::collections::HashMap;
use std::fmt::{self, Display};

/// The language in which every text is there.
pub(crate) const FIRST: &str = "en";

/// A file of texts that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextsError {
    /// There is no English file, which every other one is measured by.
    #[error("there is no {FIRST}.txt among the texts")]
    NoFirst,
    /// A line is neither a comment nor `name = text`, or the name was used before.
    #[error("{file}, line {line}: not `name = text`, or a name that is there twice")]
    Line {
        /// The file's name.
        file: String,
        /// Which line, from 1.
        line: usize,
    },
    /// English has no such text.
    #[error("{file}: {name} is the name of no English text")]
    Unknown {
        /// The file's name.
        file: String,
        /// The text's name.
        name: String,
    },
    /// A text asks for a value that the English one does not have: nobody would fill it in.
    #[error("{file}: {name} has a {{{place}}}, the English text has none")]
    Place {
        /// The file's name.
        file: String,
        /// The text's name.
        name: String,
        /// What stands in the braces.
        place: String,
    },
}

/// One of the shop's languages.
#[derive(Debug)]
pub(crate) struct Language {
    /// The file's name, `hi`: as in the cookie.
    pub(crate) code: String,
    texts: HashMap<String, String>,
}

/// Something to be said in the language of whoever reads it.
#[derive(Clone, Debug)]
pub(crate) struct Say {
    name: &'static str,
    values: Vec<(&'static str, String)>,
}

impl Say {
    /// The text of this name.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, values: Vec::new() }
    }

    /// With a value for one of its places.
    pub(crate) fn with(mut self, place: &'static str, value: impl Display) -> Self {
        self.values.push((place, value.to_string()));
        self
    }
}

/// What a refusal says: to customers a text of their language; to those who run the shop English, in which that
/// part of the shop is written.
#[derive(Clone, Debug)]
pub(crate) enum Words {
    Say(Say),
    English(String),
}

impl Words {
    /// For those who run the shop only.
    pub(crate) fn english(text: impl Into<String>) -> Self {
        Self::English(text.into())
    }
}

impl From<Say> for Words {
    fn from(say: Say) -> Self {
        Self::Say(say)
    }
}

/// For logs and tests; pages ask [`Language::words`].
impl Display for Words {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Say(say) => out.write_str(say.name),
            Self::English(text) => out.write_str(text),
        }
    }
}

impl Language {
    /// A text by its name; of two that a number decides between the one for `n`.
    pub(crate) fn text(&self, name: &str, n: Option<i64>) -> Option<&str> {
        let counted = n.and_then(|n| {
            let one = n == 1 || (n == 0 && self.code != FIRST);
            self.texts.get(&format!("{name}.{}", if one { "one" } else { "other" }))
        });
        counted.or_else(|| self.texts.get(name)).map(String::as_str)
    }

    /// A text without places.
    pub(crate) fn plain(&self, name: &str) -> String {
        self.text(name, None).unwrap_or(name).to_owned()
    }

    /// Says something.
    pub(crate) fn say(&self, say: &Say) -> String {
        let value = |place: &str| say.values.iter().find(|(name, _)| *name == place).map(|(_, value)| value);
        let n = value("n").and_then(|n| n.parse().ok());
        let mut text = String::new();
        for part in parts(self.text(say.name, n).unwrap_or(say.name)) {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Place(place) => text.push_str(value(place).map_or("", |value| value)),
            }
        }
        text
    }

    /// The words of a refusal, as a sentence.
    pub(crate) fn words(&self, words: &Words) -> String {
        match words {
            Words::Say(say) => self.say(say),
            Words::English(text) => sentence(text),
        }
    }

    /// A day as people say it: `Sunday, 1 March`.
    pub(crate) fn day(&self, stored: &str) -> String {
        let Ok(day) = stored.parse::<jiff::civil::Date>() else { return stored.to_owned() };
        let weekday = self.plain(&format!("weekday.{}", day.weekday().to_monday_one_offset()));
        let month = self.plain(&format!("month.{}", day.month()));
        self.say(&Say::new("day").with("weekday", weekday).with("day", day.day()).with("month", month))
    }

    /// A time of day as people say it: `7 am`, `5:30 pm`.
    pub(crate) fn hour(&self, stored: &str) -> String {
        let Some((hour, minute)) = stored.split_once(':') else { return stored.to_owned() };
        let Ok(hour) = hour.parse::<u8>() else { return stored.to_owned() };
        let half = if hour < 12 { "hour.am" } else { "hour.pm" };
        let hour = if hour % 12 == 0 { 12 } else { hour % 12 };
        let time = if minute == "00" { hour.to_string() } else { format!("{hour}:{minute}") };
        self.say(&Say::new(half).with("time", time))
    }

    /// A stored UTC time as people in India read it.
    pub(crate) fn in_india(&self, stored: &str) -> String {
        let offset = jiff::tz::TimeZone::fixed(
            jiff::tz::offset(5).saturating_add(jiff::SignedDuration::from_mins(30)),
        );
        let Ok(time) = stored.parse::<jiff::Timestamp>() else { return stored.to_owned() };
        let time = time.to_zoned(offset);
        let half = self.plain(if time.hour() < 12 { "half.am" } else { "half.pm" });
        let month = self.plain(&format!("month-short.{}", time.month()));
        let hour = if time.hour() % 12 == 0 { 12 } else { time.hour() % 12 };
        self.say(
            &Say::new("time")
                .with("day", time.day())
                .with("month", month)
                .with("year", time.year())
                .with("hour", hour)
                .with("minute", format_args!("{:02}", time.minute()))
                .with("half", half),
        )
    }

    /// Why money went back: the program's own reasons in this language, what an admin typed as it is.
    pub(crate) fn reason(&self, stored: &str) -> String {
        let name = format!("reason.{}", stored.replace(' ', "-"));
        self.texts.get(&name).map_or_else(|| stored.to_owned(), Clone::clone)
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    let end = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{end}", letters.as_str())
}

/// A part of a text.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Part<'a> {
    Text(&'a str),
    /// What stands in braces: a value goes there.
    Place(&'a str),
}

/// A text in its parts.
pub(crate) fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if let Some(after) = rest.strip_prefix('{')
            && let Some((place, after)) = after.split_once('}')
        {
            rest = after;
            return Some(Part::Place(place));
        }
        let start = rest.char_indices().skip(1).find(|(_, sign)| *sign == '{').map(|(at, _)| at);
        let (text, after) = rest.split_at(start.unwrap_or(rest.len()));
        rest = after;
        (!text.is_empty()).then_some(Part::Text(text))
    })
}

/// Reads the languages from `(code, file)`: English first, the others by their code. What one lacks is said in English.
pub(crate) fn read(files: Vec<(String, String)>) -> Result<Vec<Language>, TextsError> {
    let mut read = Vec::new();
    for (code, text) in files {
        let texts = lines(&format!("{code}.txt"), &text)?;
        read.push(Language { code, texts });
    }
    read.sort_by(|one, other| (one.code != FIRST, &one.code).cmp(&(other.code != FIRST, &other.code)));
    let (first, others) = read.split_first_mut().ok_or(TextsError::NoFirst)?;
    if first.code != FIRST {
        return Err(TextsError::NoFirst);
    }
    for language in others {
        let file = format!("{}.txt", language.code);
        for (name, text) in &language.texts {
            let Some(english) = first.texts.get(name) else {
                return Err(TextsError::Unknown { file, name: name.clone() });
            };
            let known: Vec<Part<'_>> = parts(english).collect();
            for part in parts(text) {
                if let Part::Place(place) = part
                    && !known.contains(&Part::Place(place))
                {
                    return Err(TextsError::Place { file, name: name.clone(), place: place.to_owned() });
                }
            }
        }
        for (name, text) in &first.texts {
            language.texts.entry(name.clone()).or_insert_with(|| text.clone());
        }
    }
    Ok(read)
}

fn lines(file: &str, text: &str) -> Result<HashMap<String, String>, TextsError> {
    let mut texts = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = || TextsError::Line { file: file.to_owned(), line: number + 1 };
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, text) = line.split_once(" = ").ok_or_else(wrong)?;
        if texts.insert(name.trim().to_owned(), text.trim().to_owned()).is_some() {
            return Err(wrong());
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn languages(second: &str) -> Result<Vec<Language>, TextsError> {
        let english = "# texts\n\nhello = Hello {name}, welcome\nitems.one = {n} item\nitems.other = {n} items\nbye = Bye";
        read(vec![("hi".to_owned(), second.to_owned()), ("en".to_owned(), english.to_owned())])
    }

    #[test]
    fn what_a_language_lacks_is_said_in_english() {
        let read = languages("hello = नमस्ते {name}").unwrap();
        let hello = Say::new("hello").with("name", "Asha {name}");
        assert_eq!(read[0].say(&hello), "Hello Asha {name}, welcome");
        assert_eq!(read[1].say(&hello), "नमस्ते Asha {name}");
        assert_eq!(read[1].plain("bye"), "Bye");
    }

    #[test]
    fn numbers_decide_as_the_language_has_it() {
        let read = languages("items.one = {n} चीज़\nitems.other = {n} चीज़ें").unwrap();
        let items = |language: &Language, n| language.say(&Say::new("items").with("n", n));
        assert_eq!([0, 1, 2].map(|n| items(&read[0], n)), ["0 items", "1 item", "2 items"]);
        assert_eq!([0, 1, 2].map(|n| items(&read[1], n)), ["0 चीज़", "1 चीज़", "2 चीज़ें"]);
    }

    #[test]
    fn a_file_that_would_show_holes_is_refused() {
        let refused = |text: &str| languages(text).unwrap_err().to_string();
        assert!(refused("hello = नमस्ते {nam}").contains("hello has a {nam}"));
        assert!(refused("hallo = नमस्ते").contains("hallo is the name of no English text"));
        assert!(refused("bye = a\nbye = b").contains("hi.txt, line 2"));
        assert!(refused("bye").contains("line 1"));
        assert!(read(Vec::new()).unwrap_err().to_string().contains("no en.txt"));
    }
}
