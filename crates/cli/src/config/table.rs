//! A declarative reader of one table: every key that is asked for is known, all others are refused.
//!
//! Reading never stops at a mistake. A value that is absent or unfit reads as `None` (unfit ones after they were
//! reported), so that one pass over the file finds all mistakes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::duration;
use super::mistake::{Mistakes, Unfit, nearest};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// One table of the file; an absent one reads as empty. Reports the keys nobody asked for when it is dropped.
pub(super) struct Table<'a> {
    /// As messages call it: `[front]`.
    name: String,
    /// Where its header or braces are; `None` for the file itself.
    span: Option<Range<usize>>,
    entries: &'a DeTable<'a>,
    asked: RefCell<BTreeSet<&'static str>>,
    mistakes: &'a Mistakes<'a>,
}

impl<'a> Table<'a> {
    pub(super) fn root(entries: &'a DeTable<'a>, mistakes: &'a Mistakes<'a>) -> Self {
        Table { name: "the file".to_owned(), span: None, entries, asked: RefCell::default(), mistakes }
    }

    /// Where its header or braces are.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone().unwrap_or(0..0)
    }

    /// Whether the key is there, fit or not. Does not count as asking for it.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Where the key (not its value) stands.
    pub(super) fn key_span(&self, key: &str) -> Option<Range<usize>> {
        self.entries.get_key_value(key).map(|(key, _)| key.span())
    }

    pub(super) fn mistakes(&self) -> &'a Mistakes<'a> {
        self.mistakes
    }

    fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.borrow_mut().insert(key);
        self.entries.get(key)
    }

    fn missing(&self, key: &str, example: &str) {
        let what = format!("{} needs the key `{key}`", self.name);
        self.mistakes.missing(self.span.as_ref(), what, format!("for example: {key} = {example}"));
    }

    fn unfit_type(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let found = type_name(value.get_ref());
        self.mistakes.wrong(
            &value.span(),
            format!("`{key}` must be {expected}, and this is {found}"),
            hint_for_type(value.get_ref(), expected),
        );
    }

    /// A text.
    pub(super) fn text(&self, key: &'static str) -> Option<At<String>> {
        let value = self.value(key)?;
        self.text_of(key, value)
    }

    fn text_of(&self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<At<String>> {
        let Some(text) = value.get_ref().as_str() else {
            self.unfit_type(key, value, "a text");
            return None;
        };
        if text.trim().is_empty() {
            self.mistakes.wrong(
                &value.span(),
                format!("`{key}` is empty"),
                "leave the key out, or give it a value",
            );
            return None;
        }
        Some(At { value: text.to_owned(), span: value.span() })
    }

    /// A text that must be there.
    pub(super) fn required(&self, key: &'static str, example: &str) -> Option<At<String>> {
        if !self.has(key) {
            self.asked.borrow_mut().insert(key);
            self.missing(key, example);
        }
        self.text(key)
    }

    /// A text that `parse` makes something of.
    pub(super) fn parsed<T>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, Unfit>,
    ) -> Option<At<T>> {
        let text = self.text(key)?;
        self.fit(text, parse)
    }

    /// Turns a read text into something else, or reports why it is none.
    pub(super) fn fit<T>(
        &self,
        text: At<String>,
        parse: impl FnOnce(&str) -> Result<T, Unfit>,
    ) -> Option<At<T>> {
        match parse(&text.value) {
            Ok(value) => Some(At { value, span: text.span }),
            Err(unfit) => {
                self.mistakes.wrong(&text.span, unfit.what, unfit.help);
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<At<T>> {
        self.parsed(key, |text| one_of(key, text, words))
    }

    /// A time limit: more than nothing.
    pub(super) fn limit(&self, key: &'static str) -> Option<At<Duration>> {
        self.duration(key, duration::positive)
    }

    /// A duration read by one of [`duration`]'s functions. A bare number gets a hint.
    pub(super) fn duration(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<Duration, Unfit>,
    ) -> Option<At<Duration>> {
        if let Some(DeValue::Integer(number)) = self.entries.get(key).map(Spanned::get_ref) {
            let value = self.value(key)?;
            let what = format!("`{key}` must be a duration, and this is a number");
            self.mistakes.wrong(&value.span(), what, format!("did you mean \"{number}s\"?"));
            return None;
        }
        self.parsed(key, parse)
    }

    /// Yes or no.
    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.unfit_type(key, value, "true or false");
        }
        flag
    }

    /// Any number.
    pub(super) fn figure(&self, key: &'static str) -> Option<f64> {
        let value = self.value(key)?;
        let figure = match value.get_ref() {
            DeValue::Integer(number) => number.to_string().parse().ok(),
            DeValue::Float(number) => number.to_string().parse().ok(),
            _ => None,
        };
        if figure.is_none() {
            self.unfit_type(key, value, "a number");
        }
        figure
    }

    /// A whole number within bounds.
    pub(super) fn number(
        &self,
        key: &'static str,
        allowed: std::ops::RangeInclusive<u32>,
    ) -> Option<At<u32>> {
        let value = self.value(key)?;
        let Some(integer) = value.get_ref().as_integer() else {
            self.unfit_type(key, value, "a whole number");
            return None;
        };
        let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number.filter(|n| allowed.contains(n)) {
            Some(value_read) => Some(At { value: value_read, span: value.span() }),
            None => {
                let what = format!("`{key}` is out of bounds");
                let help = format!("from {} to {}", allowed.start(), allowed.end());
                self.mistakes.wrong(&value.span(), what, help);
                None
            }
        }
    }

    /// A list of texts; one text counts as a list of one where `one_is_enough`.
    pub(super) fn texts(&self, key: &'static str, one_is_enough: bool) -> Vec<At<String>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(list) => list.iter().filter_map(|item| self.text_of(key, item)).collect(),
            DeValue::String(_) if one_is_enough => self.text_of(key, value).into_iter().collect(),
            _ => {
                self.unfit_type(key, value, "a list of texts");
                Vec::new()
            }
        }
    }

    /// A list of texts, none of them twice.
    pub(super) fn distinct(&self, key: &'static str) -> Vec<At<String>> {
        let list = self.texts(key, false);
        let mut seen = BTreeSet::new();
        for item in &list {
            if !seen.insert(item.value.clone()) {
                self.mistakes.wrong(
                    &item.span,
                    format!("`{}` is in `{key}` twice", item.value),
                    "name it once",
                );
            }
        }
        list
    }

    /// A table whose keys are free names, each with a text.
    pub(super) fn names(&self, key: &'static str) -> BTreeMap<String, At<String>> {
        let entries = self.free(key);
        let mut names = BTreeMap::new();
        for (name, value) in entries {
            // An empty text is a value here: `RAZORPAY_KEY_ID = ""` turns payments off.
            match value.get_ref().as_str() {
                Some(text) => {
                    names.insert(name, At { value: text.to_owned(), span: value.span() });
                }
                None => self.unfit_type(&name, value, "a text"),
            }
        }
        names
    }

    /// The entries of a table whose keys are free names.
    pub(super) fn free(&self, key: &'static str) -> Vec<(String, &'a Spanned<DeValue<'a>>)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Table(entries) => {
                entries.iter().map(|(name, value)| (name.get_ref().to_string(), value)).collect()
            }
            _ => {
                self.unfit_type(key, value, "a table");
                Vec::new()
            }
        }
    }

    /// Any value; the caller judges it.
    pub(super) fn any(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.value(key)
    }

    /// The table under `key`, when it is there.
    pub(super) fn table(&self, key: &'static str) -> Option<Table<'a>> {
        let value = self.value(key)?;
        self.table_of(key, format!("[{key}]"), value)
    }

    /// The table under `key`, which must be there.
    pub(super) fn section(&self, key: &'static str, why: &str) -> Option<Table<'a>> {
        if !self.has(key) {
            self.mistakes.missing(self.span.as_ref(), format!("[{key}] is missing"), why);
        }
        self.table(key)
    }

    /// A value as a table with the given name in messages.
    pub(super) fn table_of(
        &self,
        key: &str,
        name: String,
        value: &'a Spanned<DeValue<'a>>,
    ) -> Option<Table<'a>> {
        let DeValue::Table(entries) = value.get_ref() else {
            self.unfit_type(key, value, "a table");
            return None;
        };
        let span = Some(value.span());
        Some(Table { name, span, entries, asked: RefCell::default(), mistakes: self.mistakes })
    }

    /// The tables of a list: `[[key]]`, or a list of `{ … }`.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Table<'a>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(list) => {
                let name = if self.span.is_none() { format!("[[{key}]]") } else { format!("`{key}`") };
                list.iter().filter_map(|item| self.table_of(key, name.clone(), item)).collect()
            }
            DeValue::Table(_) if self.span.is_none() => {
                let what = format!("[{key}] stands in single brackets, but there may be several");
                self.mistakes.wrong(&value.span(), what, format!("write [[{key}]]"));
                Vec::new()
            }
            _ => {
                self.unfit_type(key, value, "a list of tables");
                Vec::new()
            }
        }
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        let asked = self.asked.borrow();
        for (key, value) in self.entries.iter() {
            let name = key.get_ref();
            if asked.contains(name.as_ref()) {
                continue;
            }
            let section =
                self.span.is_none() && matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_));
            let what = if section {
                format!("there is no section `{name}`")
            } else {
                format!("there is no key `{name}` in {}", self.name)
            };
            let help = match nearest(name, asked.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", asked.iter().copied().collect::<Vec<_>>().join(", ")),
            };
            // The header of `[a]` spans the whole header; an unknown key's own span is the word to mend.
            self.mistakes.wrong(&key.span(), what, help);
        }
    }
}

/// One of a few words, or which one was meant.
pub(super) fn one_of<T: Copy>(key: &str, text: &str, words: &[(&str, T)]) -> Result<T, Unfit> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let known = words.iter().map(|(word, _)| *word);
    let help = match nearest(text, known.clone()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("one of: {}", known.collect::<Vec<_>>().join(", ")),
    };
    Err(Unfit::new(format!("`{key}` cannot be `{text}`"), help))
}

pub(super) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn hint_for_type(value: &DeValue<'_>, expected: &str) -> String {
    match (value, expected) {
        (DeValue::Integer(number), "a text") => format!("write \"{number}\""),
        (DeValue::Boolean(flag), "a text") => format!("write \"{flag}\""),
        (DeValue::String(text), "true or false") if ["true", "false"].contains(&text.as_ref()) => {
            format!("write {text} without quotes")
        }
        (DeValue::String(text), "a whole number") if text.parse::<u32>().is_ok() => {
            format!("write {text} without quotes")
        }
        (DeValue::String(text), "a list of texts") => format!("write [\"{text}\"]"),
        _ => String::new(),
    }
}
