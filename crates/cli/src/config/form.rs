//! Forms of values: what a text may be for a key, and what was meant when it is not.

use std::path::{Component, Path, PathBuf};

use jiff::civil::Time;
use jiff::tz::TimeZone;
use regex::Regex;

use super::mistake::{Unfit, nearest};
use super::secret::{Setting, Settings, is_variable};
use super::table::Table;
use super::url;

pub(super) fn app_name(text: &str) -> Result<String, Unfit> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.chars().all(plain) && !text.starts_with(['.', '-']) && text.len() <= 64 {
        return Ok(text.to_owned());
    }
    let meant: String =
        text.to_lowercase().chars().map(|c| if plain(c) { c } else { '-' }).take(64).collect();
    let meant = meant.trim_matches(['.', '-']).to_owned();
    let help = "letters, digits, `.`, `-` and `_`: it becomes part of file names";
    let help = if meant.is_empty() { help.to_owned() } else { format!("did you mean \"{meant}\"? {help}") };
    Err(Unfit::new(format!("`{text}` cannot be the name of an app"), help))
}

/// A URL, `host:path` as git reads it, or a path, which is made absolute.
pub(super) fn git_url(text: &str, root: &Path) -> Result<String, Unfit> {
    if text.starts_with('-') {
        return Err(Unfit::new(format!("`{text}` is not a repository"), "a URL or a path"));
    }
    if let Some((_, rest)) = text.split_once("://") {
        let user = rest.split('/').next().unwrap_or_default().rsplit_once('@').map(|(user, _)| user);
        return match user {
            Some(user) if user.contains(':') => Err(Unfit::new(
                "a password does not stand in the file itself",
                "take it out, and let git's credential store or an SSH key answer",
            )),
            _ => Ok(text.to_owned()),
        };
    }
    let before_slash = text.split('/').next().unwrap_or_default();
    if before_slash.contains(':') {
        return Ok(text.to_owned());
    }
    Ok(url::normal(&root.join(text)).display().to_string())
}

/// A relative path that stays where it begins; `.` is the empty path.
pub(super) fn within(text: &str, what: &str) -> Result<PathBuf, Unfit> {
    let mut path = PathBuf::new();
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                return Err(Unfit::new(format!("`{text}` leads out of {what}"), "leave out `..`"));
            }
            Component::RootDir | Component::Prefix(_) => {
                let help = format!("write it relative to {what}, without the slash in front");
                return Err(Unfit::new(format!("`{text}` must be within {what}"), help));
            }
        }
    }
    Ok(path)
}

/// A command line: words as a shell splits them, at least one.
pub(super) fn command(text: &str) -> Result<String, Unfit> {
    match shell_words::split(text) {
        Ok(words) if words.first().is_some_and(|word| !word.is_empty()) => Ok(text.to_owned()),
        Ok(_) => Err(Unfit::new("there is no command in this", "for example: \"python3 app.py\"")),
        Err(_) => Err(Unfit::new(
            "a quotation mark in this command is not closed",
            "close it, or write \\' or \\\"",
        )),
    }
}

pub(super) fn unit(text: &str) -> Result<String, Unfit> {
    let name = unit_free_name(text)?;
    let known = [".service", ".target", ".timer", ".socket"];
    match name.rsplit_once('.') {
        Some((_, kind))
            if !known.contains(&format!(".{kind}").as_str()) && nearest(kind, ["service"]).is_some() =>
        {
            Err(Unfit::new(format!("`{text}` is not a unit"), "for example: shop.service"))
        }
        _ if known.iter().any(|kind| name.ends_with(kind)) => Ok(name),
        _ => Ok(format!("{name}.service")),
    }
}

pub(super) fn unit_free_name(text: &str) -> Result<String, Unfit> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-@:\\".contains(c);
    if text.chars().all(plain) && !text.starts_with('-') {
        return Ok(text.to_owned());
    }
    Err(Unfit::new(
        format!("`{text}` is not the name of a unit or program"),
        "the name alone, without a path",
    ))
}

pub(super) fn path(text: &str) -> Result<String, Unfit> {
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Unfit::new("a path has no spaces", "write %20"));
    }
    match text.strip_prefix('/') {
        Some(rest) if !rest.starts_with('/') => Ok(text.to_owned()),
        _ => {
            let meant =
                text.split_once("://").map_or(text, |(_, rest)| rest.split_once('/').map_or("", |(_, p)| p));
            let help = format!("did you mean \"/{}\"?", meant.trim_start_matches('/'));
            Err(Unfit::new("a path begins with one slash, without scheme and host", help))
        }
    }
}

pub(super) fn pointer(text: &str) -> Result<String, Unfit> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    let help = format!("did you mean \"/{}\"?", text.replace('.', "/"));
    Err(Unfit::new("a JSON pointer begins with a slash", help))
}

pub(super) fn pattern(text: &str) -> Result<Regex, Unfit> {
    Regex::new(text).map_err(|error| {
        let shown = error.to_string();
        let reason = shown.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Unfit::new(format!("this is not a regular expression: {reason}"), "see https://docs.rs/regex/#syntax")
    })
}

pub(super) fn time(text: &str) -> Result<Time, Unfit> {
    let parts = text.split_once(':').filter(|(hour, minute)| hour.len() == 2 && minute.len() == 2);
    let number = |text: &str| text.parse::<i8>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    parts.and_then(|(hour, minute)| Time::new(number(hour)?, number(minute)?, 0, 0).ok()).ok_or_else(|| {
        Unfit::new(format!("`{text}` is not a time of day"), "hours and minutes, for example: \"02:00\"")
    })
}

pub(super) fn zone(text: &str) -> Result<TimeZone, Unfit> {
    TimeZone::get(text).map_err(|_| {
        if jiff::tz::db().is_definitively_empty() {
            let help = "install the package tzdata, or leave `zone` out for UTC";
            return Unfit::new("this machine has no time zones", help);
        }
        let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
        let help = match nearest(text, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "for example: \"Asia/Kolkata\"".to_owned(),
        };
        Unfit::new(format!("there is no time zone `{text}`"), help)
    })
}

pub(super) fn mail_address(text: &str) -> Result<String, Unfit> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "<>,;".contains(c);
    match text.rsplit_once('@') {
        Some((user, host)) if !user.is_empty() && !host.is_empty() && !text.contains(odd) => {
            Ok(text.to_owned())
        }
        _ => Err(Unfit::new(format!("`{text}` is not a mail address"), "for example: \"team@example.com\"")),
    }
}

pub(super) fn webhook(text: &str) -> Result<Setting, Unfit> {
    match Setting::new(text.to_owned()) {
        Setting::Plain(text) if !text.starts_with("https://") && !text.starts_with("http://") => {
            Err(Unfit::new(
                "this is neither the place of a secret nor a URL",
                "write \"env:NAME\", \"file:/path\", or the URL when it is no secret",
            ))
        }
        setting => Ok(setting),
    }
}

/// A list of command lines.
pub(super) fn commands(table: &Table<'_>, key: &'static str, one_is_enough: bool) -> Vec<String> {
    let list = table.texts(key, one_is_enough);
    list.into_iter().filter_map(|text| table.fit(text, command)).map(|command| command.value).collect()
}

/// A table of environment variables.
pub(super) fn settings(table: &Table<'_>, key: &'static str) -> Settings {
    let mut settings = Settings::new();
    for (name, text) in table.names(key) {
        if !is_variable(&name) {
            let what = format!("`{name}` cannot be the name of an environment variable");
            table.mistakes().wrong(&text.span, what, "letters, digits and `_`, not beginning with a digit");
        }
        settings.insert(name, Setting::new(text.value));
    }
    settings
}
