//! `[people]` and `[dashboard]`: who has to say something, and who may see the pages.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use plimsoll_core::checklist::{Who, find};

use super::mistake::Unfit;
use super::secret::Secret;
use super::table::Table;
use super::{Dashboard, People, Visitor};

pub(super) fn people(table: Option<&Table<'_>>) -> People {
    let Some(table) = table else { return People::default() };
    let required = table.distinct("required").into_iter().filter_map(|text| table.fit(text, question));
    let required = required.map(|item| item.value).collect();
    People { required, same_person: table.flag("same_person").unwrap_or(false) }
}

/// The id of a box that a person fills in, other than by signing.
fn question(text: &str) -> Result<String, Unfit> {
    match find(text) {
        Some(item) if item.who != Who::Auto && item.id != "after.sign" => Ok(text.to_owned()),
        _ => Err(Unfit::new(
            format!("`{text}` is no question to a person"),
            "one of pre.review, watch.reports, diag.post",
        )),
    }
}

pub(super) fn dashboard(table: &Table<'_>) -> Option<Dashboard> {
    let listen = table.required("listen", "\"127.0.0.1:9180\"").and_then(|text| table.fit(text, loopback));
    let header = table.parsed("header", header);
    let header_secret = table.parsed("header_secret", Secret::parse).map(|s| s.value);
    if let (Some(header), None) = (&header, &header_secret) {
        table.mistakes().wrong(
            &header.span,
            "anybody on this machine could name themselves in this header",
            "add header_secret = \"env:NAME\", and let the proxy send it as x-plimsoll-proxy",
        );
    }
    let mut people = BTreeMap::new();
    for (name, value) in table.free("people") {
        let Some(person) = table.table_of("people", format!("[dashboard.people.{name}]"), value) else {
            continue;
        };
        let token = person.parsed("token", Secret::parse).map(|s| s.value);
        let operator = person.word("role", &[("viewer", false), ("operator", true)]);
        if token.is_none() && header.is_none() && !person.has("token") {
            person.mistakes().missing(
                Some(&person.span()),
                format!("[dashboard.people.{name}] has no way in"),
                "for example: token = \"env:DASHBOARD_TOKEN\"",
            );
        }
        people.insert(name, Visitor { token, operator: operator.is_some_and(|o| o.value) });
    }
    if people.is_empty() && header.is_none() && !table.has("people") && !table.has("header") {
        table.mistakes().missing(
            Some(&table.span()),
            "[dashboard] lets nobody in".to_owned(),
            "for example: [dashboard.people.asha] with token = \"env:DASHBOARD_ASHA\" and role = \"operator\"",
        );
    }
    Some(Dashboard { listen: listen?.value, people, header: header.map(|h| h.value), header_secret })
}

/// The pages are for people who log in on this machine or come through a proxy on it.
fn loopback(text: &str) -> Result<SocketAddr, Unfit> {
    let help = "for example: \"127.0.0.1:9180\"; let a proxy or `ssh -L` bring people there from elsewhere";
    match text.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(address),
        Ok(_) => Err(Unfit::new(format!("`{text}` is not on the loopback"), help)),
        Err(_) => Err(Unfit::new(format!("`{text}` is no address with a port"), help)),
    }
}

fn header(text: &str) -> Result<String, Unfit> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && text.len() <= 64;
    if plain && !text.is_empty() {
        return Ok(text.to_lowercase());
    }
    Err(Unfit::new(format!("`{text}` cannot be the name of a header"), "for example: x-remote-user"))
}
