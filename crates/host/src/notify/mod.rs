//! Messages to people: put down on the disk by the run, sent beside it by [`Post::send_due`] until they arrive.
//!
//! A run never waits for a mail server and never fails because of one. A message is sent at least once: after a crash
//! between the sending and its note it goes out again, under the same id.

mod letter;
mod mail;
mod webhook;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use plimsoll_core::notify::{Delivery, Occasion, Told, Way};
use plimsoll_core::ports::Notifier;
use plimsoll_core::record::State;

use crate::durable;
pub use letter::Letter;

/// How long after each failed attempt the next one follows, seconds; the last is repeated.
const AGAIN: [i64; 8] = [1, 5, 30, 120, 600, 1_800, 3_600, 7_200];
/// A message that nobody took for so long is given up, seconds.
const GIVE_UP: i64 = 24 * 3_600;

/// How the connection to a mail server is protected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MailTls {
    /// Not at all: for a server on this machine.
    None,
    /// STARTTLS, required.
    Starttls,
    /// TLS from the start.
    Tls,
}

impl MailTls {
    /// All of them, with their words in the configuration.
    pub const ALL: [(&'static str, MailTls); 3] =
        [("none", MailTls::None), ("starttls", MailTls::Starttls), ("tls", MailTls::Tls)];
}

/// Whose webhook it is, and so what it wants to be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WebhookKind {
    /// `{"text": ...}`
    Slack,
    /// `{"content": ...}`
    Discord,
    /// An adaptive card.
    Teams,
    /// The message as plain JSON, signed.
    Json,
}

impl WebhookKind {
    /// All of them, with their words in the configuration.
    pub const ALL: [(&'static str, WebhookKind); 4] = [
        ("slack", WebhookKind::Slack),
        ("discord", WebhookKind::Discord),
        ("teams", WebhookKind::Teams),
        ("json", WebhookKind::Json),
    ];
}

/// Gives a secret as it is now, or says where it is missing. Never kept.
pub type Reveal = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// `[notify.NAME]`.
#[derive(Clone)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Mail addresses.
    pub mail: Vec<String>,
    /// A webhook.
    pub webhook: Option<Webhook>,
    /// Of what it is told.
    pub on: Vec<Occasion>,
}

/// A webhook. Its address is often a secret itself.
#[derive(Clone)]
pub struct Webhook {
    /// Its URL.
    pub url: Reveal,
    /// What it is called in records: where the address stands, or its host.
    pub shown: String,
    /// Whose it is; as its host tells when `None`.
    pub kind: Option<WebhookKind>,
    /// The key that plain JSON is signed with.
    pub key: Option<Reveal>,
}

/// `[smtp]`.
#[derive(Clone)]
pub struct Smtp {
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who logs in, with the password.
    pub login: Option<(String, Reveal)>,
    /// Who the mail is from.
    pub from: String,
    /// How the connection is protected; by port and host when `None`.
    pub tls: Option<MailTls>,
    /// A certificate that is trusted besides the system's.
    pub ca: Option<PathBuf>,
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Untaken {
    /// It may be taken later.
    #[error("{0}")]
    Later(String),
    /// It never will be as it is.
    #[error("{0}")]
    Never(String),
}

/// All groups and how they are reached.
#[derive(Clone)]
pub struct Post {
    /// The app's name.
    pub app: String,
    /// `[notify.*]`.
    pub groups: Vec<Group>,
    /// `[smtp]`.
    pub smtp: Smtp,
    /// `[contacts]`: role to name, phone, hours.
    pub contacts: BTreeMap<String, String>,
    /// `runs/`: the outbox is in it, and reports.
    pub runs: PathBuf,
}

impl Post {
    fn outbox(&self) -> PathBuf {
        self.runs.join("outbox")
    }

    /// Puts a message for everybody who is told of this on the disk. What cannot even be put down has failed.
    #[must_use]
    pub fn tell(&self, occasion: Occasion, state: &State) -> Vec<Told> {
        let letter = Letter::of(&self.app, &self.contacts, &self.runs, occasion, state);
        self.put(&letter, |on| {
            // Who hears of failures hears of a release that turns bad later, too.
            on.contains(&occasion) || (occasion == Occasion::Alarm && on.contains(&Occasion::Failed))
        })
    }

    /// Puts the one message about a release that turned bad and was rolled back on the disk: `bad` is its run, `back` the
    /// rollback's. Who hears of failures or alarms is told, too: it is the only message that says so.
    #[must_use]
    pub fn tell_taken_back(&self, bad: &State, back: &State) -> Vec<Told> {
        let letter = Letter::taken_back(&self.app, &self.contacts, &self.runs, bad, back);
        let of = [Occasion::RolledBack, Occasion::Failed, Occasion::Alarm];
        self.put(&letter, |on| of.iter().any(|occasion| on.contains(occasion)))
    }

    /// Puts a test message for every group, or the named one, on the disk.
    #[must_use]
    pub fn test(&self) -> Vec<Told> {
        self.put(&Letter::test(&self.app, &self.contacts), |_| true)
    }

    fn put(&self, letter: &Letter, wanted: impl Fn(&[Occasion]) -> bool) -> Vec<Told> {
        let mut all = Vec::new();
        for group in self.groups.iter().filter(|group| wanted(&group.on)) {
            let mut ways = Vec::new();
            if !group.mail.is_empty() {
                ways.push((Way::Mail, group.mail.join(", ")));
            }
            if let Some(webhook) = &group.webhook {
                ways.push((Way::Webhook, webhook.shown.clone()));
            }
            for (way, to) in ways {
                let mut letter = letter.clone();
                letter.address(&group.name, way, to);
                if let Err(error) = self.write(&letter) {
                    letter.told.delivery = Delivery::Failed;
                    letter.told.why = error.to_string();
                }
                all.push(letter.told);
            }
        }
        all
    }

    fn file(&self, id: &str) -> PathBuf {
        self.outbox().join(format!("{id}.json"))
    }

    fn write(&self, letter: &Letter) -> Result<(), durable::Error> {
        durable::create_dir(&self.outbox(), durable::PRIVATE_DIR)?;
        let text = serde_json::to_vec(letter).unwrap_or_default();
        durable::write(&self.file(&letter.told.id), durable::PRIVATE, &text)
    }

    /// How many messages wait to be sent.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.letters().iter().filter(|letter| letter.told.delivery == Delivery::Queued).count()
    }

    fn letters(&self) -> Vec<Letter> {
        let Ok(entries) = std::fs::read_dir(self.outbox()) else { return Vec::new() };
        let mut letters: Vec<Letter> = entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|kind| kind == "json"))
            .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
            .collect();
        letters.sort_by(|a, b| (a.put_at, &a.told.id).cmp(&(b.put_at, &b.told.id)));
        letters
    }

    /// Sends what is due, one after another. Gives what became of each message that there is something new of, with the
    /// number of its run. What was sent or given up stays in the outbox, and is given again, until [`Post::forget`]: a
    /// crash before it is noted must not leave it "queued" in the record.
    pub fn send_due(&self) -> Vec<(u32, Told)> {
        let mut news = Vec::new();
        for mut letter in self.letters() {
            if letter.told.delivery != Delivery::Queued {
                news.push((letter.run, letter.told));
                continue;
            }
            let now = Timestamp::now().as_second();
            // A wall clock that was set back must not keep a message for hours.
            if letter.due_at > now && letter.due_at - now <= GIVE_UP {
                continue;
            }
            letter.told.attempts += 1;
            match self.send(&letter) {
                Ok(()) => {
                    letter.told.delivery = Delivery::Sent;
                    letter.told.why.clear();
                    self.is_done(&letter);
                    news.push((letter.run, letter.told));
                }
                Err(untaken) => {
                    letter.told.why = untaken.to_string();
                    let old = now - letter.put_at > GIVE_UP;
                    if matches!(untaken, Untaken::Never(_)) || old {
                        letter.told.delivery = Delivery::Failed;
                        self.is_done(&letter);
                        news.push((letter.run, letter.told));
                        continue;
                    }
                    let attempt = letter.told.attempts as usize - 1;
                    letter.due_at = now + AGAIN[attempt.min(AGAIN.len() - 1)];
                    let _ = self.write(&letter);
                    // Once is enough to know that it waits, and why.
                    if letter.told.attempts == 1 {
                        news.push((letter.run, letter.told));
                    }
                }
            }
        }
        news
    }

    /// Never sent again. A test message belongs to no run, so nobody notes it.
    fn is_done(&self, letter: &Letter) {
        if letter.run == 0 || self.write(letter).is_err() {
            self.forget(&letter.told);
        }
    }

    /// What became of it is noted: it leaves the outbox.
    pub fn forget(&self, told: &Told) {
        let _ = durable::remove(&self.file(&told.id));
    }

    fn send(&self, letter: &Letter) -> Result<(), Untaken> {
        let group = self.groups.iter().find(|group| group.name == letter.told.group);
        let Some(group) = group else {
            return Err(Untaken::Never("the group is not in plimsoll.toml any more".into()));
        };
        match letter.told.way {
            Way::Mail => mail::send(&self.smtp, &group.mail, letter),
            Way::Webhook => match &group.webhook {
                Some(webhook) => webhook::send(webhook, letter),
                None => Err(Untaken::Never("the group has no webhook any more".into())),
            },
        }
    }
}

impl Notifier for Post {
    fn tell(&mut self, occasion: Occasion, run: &State) -> Vec<Told> {
        Post::tell(self, occasion, run)
    }
}

/// The report's file of a run, if there is one.
fn report_of(runs: &Path, run: u32) -> PathBuf {
    runs.join(format!("{run:06}/report.html"))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    use plimsoll_core::plan::{Release, ReleaseId};

    use super::*;

    fn state() -> State {
        let id = ReleaseId::new(12, "3fa9c1bbbb");
        let (commit, branch, author) = ("3fa9c1bbbb".into(), "main".into(), "Asha".into());
        let release = Release { id, commit, branch, author, subject: "Faster \"cart\"\r\nBcc: x@y".into() };
        State { release: Some(release), ..State::default() }
    }

    fn post(folder: &Path, url: Option<String>, mail_port: Option<u16>) -> Post {
        let webhook = url.map(|url| Webhook {
            url: Arc::new(move || Ok(url.clone())),
            shown: "env:TEAM_WEBHOOK".into(),
            kind: None,
            key: Some(Arc::new(|| Ok("key".into()))),
        });
        Post {
            app: "grocery".into(),
            groups: vec![Group {
                name: "team".into(),
                mail: mail_port.map(|_| "team@example.com".to_owned()).into_iter().collect(),
                webhook,
                on: vec![Occasion::Done, Occasion::Failed],
            }],
            smtp: Smtp {
                host: "127.0.0.1".into(),
                port: mail_port.unwrap_or(1),
                login: None,
                from: "plimsoll@example.com".into(),
                tls: None,
                ca: None,
            },
            contacts: [("devops".to_owned(), "Ravi, +91 1, 9-18".to_owned())].into(),
            runs: folder.to_owned(),
        }
    }

    /// Answers one request and gives its head and body.
    fn one(listener: TcpListener, answer: &'static str) -> std::thread::JoinHandle<(String, String)> {
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
                head += &line.to_lowercase();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            (head, String::from_utf8(body).unwrap())
        })
    }

    #[test]
    fn only_who_wants_to_know_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let post = post(folder.path(), Some("http://127.0.0.1:1/".into()), Some(1));
        assert!(post.tell(Occasion::Planned, &state()).is_empty());
        assert_eq!(post.tell(Occasion::Done, &state()).len(), 2, "by mail and by webhook");
        assert_eq!(post.tell(Occasion::Alarm, &state()).len(), 2, "who hears of failures hears of alarms");
        assert_eq!(post.waiting(), 4);
    }

    #[test]
    fn a_message_waits_on_the_disk_until_somebody_takes_it_and_holds_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let post = post(folder.path(), Some(format!("http://{address}/hook/T0PSECRET")), None);
        let told = post.tell(Occasion::Done, &state());
        assert_eq!((told[0].delivery, told[0].to.as_str()), (Delivery::Queued, "env:TEAM_WEBHOOK"));
        let news = post.send_due();
        assert_eq!((news[0].1.delivery, news[0].1.attempts), (Delivery::Queued, 1));
        assert!(!news[0].1.why.contains("T0PSECRET"), "{}", news[0].1.why);
        for entry in std::fs::read_dir(folder.path().join("outbox")).unwrap().flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap();
            assert!(!text.contains("T0PSECRET"), "{text}");
        }
        let hearing =
            one(TcpListener::bind(address).unwrap(), "HTTP/1.1 204 OK\r\ncontent-length: 0\r\n\r\n");
        let sent = (0..100).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            post.send_due().pop()
        });
        let (_, sent) = sent.unwrap();
        assert_eq!((sent.delivery, sent.attempts, post.waiting()), (Delivery::Sent, 2, 0));
        let (head, body) = hearing.join().unwrap();
        let signature = webhook::signature("key", head_of(&head, "x-plimsoll-timestamp"), &body);
        assert_eq!(head_of(&head, "x-plimsoll-signature"), format!("sha256={signature}"));
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&json["app"], &json["occasion"]), (&"grocery".into(), &"done".into()));
        assert_eq!(json["contacts"]["devops"], "Ravi, +91 1, 9-18");
    }

    #[test]
    fn a_release_was_said_to_be_live_before_it_was_said_to_be_planned() {
        let folder = tempfile::tempdir().unwrap();
        let mut post = post(folder.path(), Some("http://127.0.0.1:9/".into()), None);
        post.groups[0].on = vec![Occasion::Planned, Occasion::Started, Occasion::Done];
        let occasions = [Occasion::Planned, Occasion::Started, Occasion::Done];
        for occasion in occasions {
            assert_eq!(post.tell(occasion, &state()).len(), 1);
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let sent_as: Vec<Occasion> = post.letters().iter().map(|letter| letter.told.occasion).collect();
        assert_eq!(sent_as, occasions);
    }

    fn head_of<'a>(head: &'a str, name: &str) -> &'a str {
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map_or("", str::trim)
    }

    #[test]
    fn what_is_refused_for_good_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/gone", listener.local_addr().unwrap());
        let hearing = one(listener, "HTTP/1.1 404 Gone\r\ncontent-length: 0\r\n\r\n");
        let post = post(folder.path(), Some(url), None);
        assert_eq!(post.test().len(), 1);
        let news = post.send_due();
        assert_eq!(
            (news[0].1.delivery, news[0].1.why.as_str()),
            (Delivery::Failed, "answered with status 404")
        );
        assert_eq!(post.waiting(), 0);
        hearing.join().unwrap();
    }

    #[test]
    fn an_outbox_that_cannot_be_written_is_said_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("outbox"), "in the way").unwrap();
        let told = post(folder.path(), None, Some(1)).tell(Occasion::Done, &state());
        assert_eq!(told[0].delivery, Delivery::Failed);
        assert!(told[0].why.contains("outbox"), "{}", told[0].why);
    }
}
