//! `[window]`, `[notify.*]` and `[smtp]`: when, and who is told.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::civil::Weekday;
use jiff::tz::TimeZone;

use super::form::{mail_address, time, webhook, zone};
use super::table::{Table, one_of};
use super::{MailTls, Notify, Occasion, Secret, Smtp, WebhookKind, Window};

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Monday),
    ("tue", Weekday::Tuesday),
    ("wed", Weekday::Wednesday),
    ("thu", Weekday::Thursday),
    ("fri", Weekday::Friday),
    ("sat", Weekday::Saturday),
    ("sun", Weekday::Sunday),
];

pub(super) fn window(table: &Table<'_>) -> Option<Window> {
    let days: Vec<Weekday> = table
        .distinct("days")
        .into_iter()
        .filter_map(|day| table.fit(day, |text| one_of("days", text, &DAYS)))
        .map(|day| day.value)
        .collect();
    let time = |key, example| table.required(key, example).and_then(|text| table.fit(text, time));
    let from = time("from", "\"02:00\"");
    let to = time("to", "\"05:00\"");
    if let (Some(from), Some(to)) = (&from, &to)
        && from.value == to.value
    {
        table.mistakes().wrong(
            &to.span,
            "the window ends when it begins",
            "leave [window] out when any time will do",
        );
    }
    let zone = table.parsed("zone", zone).map(|z| z.value);
    let days = if days.is_empty() { DAYS.map(|(_, day)| day).to_vec() } else { days };
    Some(Window { days, from: from?.value, to: to?.value, zone: zone.unwrap_or(TimeZone::UTC) })
}

pub(super) fn notify(file: &Table<'_>) -> BTreeMap<String, Notify> {
    let mut groups = BTreeMap::new();
    for (name, value) in file.free("notify") {
        let Some(table) = file.table_of("notify", format!("[notify.{name}]"), value) else { continue };
        let mail: Vec<String> = table
            .distinct("mail")
            .into_iter()
            .filter_map(|text| table.fit(text, mail_address))
            .map(|mail| mail.value)
            .collect();
        let webhook = table.parsed("webhook", webhook).map(|w| w.value);
        let kind = table.word("kind", &WebhookKind::ALL).map(|k| k.value);
        let key = table.parsed("key", Secret::parse).map(|k| k.value);
        if !table.has("mail") && !table.has("webhook") {
            let help = "for example: mail = [\"team@example.com\"]";
            table.mistakes().missing(Some(&table.span()), format!("[notify.{name}] tells nobody"), help);
        }
        let mut on: Vec<Occasion> = table
            .distinct("on")
            .into_iter()
            .filter_map(|text| table.fit(text, |text| one_of("on", text, &Occasion::ALL)))
            .map(|occasion| occasion.value)
            .collect();
        if !table.has("on") {
            on = Occasion::ALL.map(|(_, occasion)| occasion).to_vec();
        }
        drop(table);
        groups.insert(name, Notify { mail, webhook, kind, key, on });
    }
    groups
}

pub(super) fn smtp(table: Option<&Table<'_>>, root: &Path) -> Smtp {
    let host = table.and_then(|t| t.text("host")).map_or_else(|| "127.0.0.1".to_owned(), |h| h.value);
    let port = table.and_then(|t| t.number("port", 1..=65_535)).and_then(|p| u16::try_from(p.value).ok());
    let text = |key| table.and_then(|t| t.text(key)).map(|text| text.value);
    Smtp {
        host,
        port: port.unwrap_or(25),
        user: text("user"),
        password: table.and_then(|t| t.parsed("password", Secret::parse)).map(|p| p.value),
        from: table.and_then(|t| t.parsed("from", mail_address)).map(|f| f.value),
        tls: table.and_then(|t| t.word("tls", &MailTls::ALL)).map(|t| t.value),
        ca: text("ca").map(|file| super::url::normal(&root.join(file))),
    }
}
