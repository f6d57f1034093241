//! Of what people are told, and what became of each message.

use serde::{Deserialize, Serialize};

/// Of what a group is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occasion {
    /// A deployment is going to be made.
    Planned,
    /// It has begun.
    Started,
    /// It is live and finished.
    Done,
    /// It failed; production is as it was, or a person is needed.
    Failed,
    /// It was rolled back.
    RolledBack,
    /// Somebody signed it.
    Signed,
    /// The watch over the live release saw something bad after the run had ended. Who is told of failures is told of
    /// this too.
    Alarm,
}

impl Occasion {
    /// All of them, with their words in the configuration.
    pub const ALL: [(&'static str, Occasion); 7] = [
        ("planned", Occasion::Planned),
        ("started", Occasion::Started),
        ("done", Occasion::Done),
        ("failed", Occasion::Failed),
        ("rolled-back", Occasion::RolledBack),
        ("signed", Occasion::Signed),
        ("alarm", Occasion::Alarm),
    ];

    /// The word used in the configuration, in the journal and in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        Occasion::ALL.iter().find(|(_, occasion)| *occasion == self).map_or("", |(word, _)| word)
    }

    /// The box of the paper that a message about this fills in; `back` for a run that is a rollback.
    #[must_use]
    pub fn item(self, back: bool) -> &'static str {
        match self {
            Occasion::RolledBack => "back.notify",
            Occasion::Planned | Occasion::Started if back => "back.notify",
            Occasion::Planned | Occasion::Started => "pre.notify",
            Occasion::Done | Occasion::Failed | Occasion::Signed | Occasion::Alarm => "after.summary",
        }
    }
}

/// How a message travels.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// By SMTP.
    Mail,
    /// By an HTTP request.
    Webhook,
}

impl Way {
    /// The word used in reports and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Way::Mail => "mail",
            Way::Webhook => "webhook",
        }
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// In the outbox on the disk; not sent yet.
    Queued,
    /// Taken by the mail server, or answered by the webhook.
    Sent,
    /// Given up. A warning, never a failed deployment.
    Failed,
}

impl Delivery {
    /// The word used in reports and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Delivery::Queued => "queued",
            Delivery::Sent => "sent",
            Delivery::Failed => "failed",
        }
    }
}

/// One message to one group by one way, and what became of it. The newest with the same `id` counts. Holds no address
/// of a webhook, which often is a secret itself.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// Of the message: unique in the app, the same from queued to sent.
    pub id: String,
    /// The group, as the configuration names it.
    pub group: String,
    /// How.
    pub way: Way,
    /// To whom: mail addresses, or the webhook's kind and host.
    pub to: String,
    /// Of what.
    pub occasion: Occasion,
    /// What became of it.
    pub delivery: Delivery,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it is not sent; empty when it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_occasion_has_the_word_that_json_has() {
        for (word, occasion) in Occasion::ALL {
            assert_eq!(occasion.word(), word);
            assert_eq!(serde_json::to_value(occasion).unwrap(), word);
            assert!(crate::checklist::find(occasion.item(false)).is_some());
            assert!(crate::checklist::find(occasion.item(true)).is_some());
        }
    }
}
