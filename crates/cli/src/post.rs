//! From the configuration to who is told, and the thread that sends what the runs have put down.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use plimsoll_core::notify::{Delivery, Told};
use plimsoll_core::record::{Event, State};
use plimsoll_host::notify::{Group, Post, Reveal, Smtp, Webhook};

use crate::audience::Onlooker;
use crate::config::{Config, Secret, Setting};
use crate::station::Station;

/// How often the outbox is looked into.
const LOOK: Duration = Duration::from_millis(500);

/// All groups of the configuration. Secrets are looked up when something is sent, never kept.
pub(crate) fn post(config: &Config) -> Post {
    let reveal = |secret: Secret| -> Reveal { Arc::new(move || secret.reveal().map_err(|e| e.to_string())) };
    let groups = config.notify.iter().map(|(name, notify)| Group {
        name: name.clone(),
        mail: notify.mail.clone(),
        webhook: notify.webhook.clone().map(|setting| Webhook {
            shown: match &setting {
                Setting::Secret(place) => place.to_string(),
                Setting::Plain(url) => host(url),
            },
            url: Arc::new(move || setting.reveal().map_err(|e| e.to_string())),
            kind: notify.kind,
            key: notify.key.clone().map(reveal),
        }),
        on: notify.on.clone(),
    });
    let smtp = &config.smtp;
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Post {
        app: config.app.name.clone(),
        groups: groups.collect(),
        smtp: Smtp {
            host: smtp.host.clone(),
            port: smtp.port,
            login: smtp.user.clone().zip(smtp.password.clone().map(reveal)),
            from: smtp.from.clone().unwrap_or_else(|| format!("plimsoll@{machine}")),
            tls: smtp.tls,
            ca: smtp.ca.clone(),
        },
        contacts: config.contacts.clone(),
        runs: config.runs(),
    }
}

/// The host of a URL: its path may be a secret.
fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    host.rsplit_once('@').map_or(host, |(_, host)| host).to_owned()
}

/// Sends what is due, for ever, and notes what became of it.
pub(crate) fn send_forever(station: &Station, onlooker: &Onlooker) {
    let post = post(station.config());
    let mut waiting: Vec<(u32, Told)> = Vec::new();
    loop {
        // What waits is said once; what is done is given again until it is noted.
        waiting.retain(|(run, told)| !note(station, *run, told, onlooker));
        for (run, told) in post.send_due() {
            let noted = note(station, run, &told, onlooker);
            match told.delivery {
                Delivery::Queued if !noted => waiting.push((run, told)),
                Delivery::Queued => {}
                Delivery::Sent | Delivery::Failed => {
                    waiting.retain(|(_, earlier)| earlier.id != told.id);
                    if noted {
                        post.forget(&told);
                    }
                }
            }
        }
        thread::sleep(LOOK);
    }
}

/// Sends what is due until nothing waits or the time is up: for a command that ends with its run. What is left is sent
/// by the next one.
pub(crate) fn send_for(station: &Station, time: Duration, onlooker: &Onlooker) {
    let post = post(station.config());
    let until = Instant::now() + time;
    loop {
        for (run, told) in post.send_due() {
            if note(station, run, &told, onlooker) && told.delivery != Delivery::Queued {
                post.forget(&told);
            }
        }
        if post.waiting() == 0 || Instant::now() >= until {
            return;
        }
        thread::sleep(LOOK);
    }
}

/// Whether it is noted, or there is nothing to note it in.
fn note(station: &Station, run: u32, told: &Told, onlooker: &Onlooker) -> bool {
    if run == 0 {
        return true;
    }
    // Whoever puts a message down notes that first: the newest word about it counts.
    let _alone = station.telling();
    // The journal of a run that goes on, or is being taken over, belongs to its engine: it is noted when that has ended.
    let Ok(entries) = station.runs().entries(run) else { return true };
    State::fold(&entries).is_over() && station.learn(run, Event::Told { told: told.clone() }, onlooker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_address_only_the_host_is_shown() {
        assert_eq!(host("https://hooks.slack.com/services/T/B/secret"), "hooks.slack.com");
        assert_eq!(host("http://user:secret@127.0.0.1:8080/x"), "127.0.0.1:8080");
    }
}
