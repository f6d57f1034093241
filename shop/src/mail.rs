//! Sends what waits in the outbox. The words are in `templates/mail/`: the first line is the subject.

use std::sync::Arc;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{Message, SmtpTransport, Transport};
use minijinja::context;
use minijinja::value::Serde;

use crate::db::outbox::{self, Mail};
use crate::db::{StoreError, orders};
use crate::log;
use crate::settings::{Smtp, SmtpTls};
use crate::web::Shop;

/// How often the outbox is looked into.
const EVERY: Duration = Duration::from_secs(2);

/// How many mails are sent before the outbox is looked into again.
const BATCH: i64 = 20;

/// A mail server that takes longer is given up for now.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a mail was not sent.
#[derive(Debug, thiserror::Error)]
enum MailError {
    #[error("the mail's text cannot be made: {0}")]
    Text(String),
    #[error("the address or the text is not one that can be sent")]
    Address(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the mail server did not take it")]
    Server(#[from] lettre::transport::smtp::Error),
}

impl MailError {
    /// Trying again would not help.
    fn is_for_good(&self) -> bool {
        match self {
            Self::Text(_) | Self::Address(_) => true,
            Self::Server(error) => error.is_permanent(),
        }
    }
}

/// Sends mail until the shop closes. Without a mail server, mail waits.
pub(crate) async fn run(shop: Arc<Shop>) {
    let Some(smtp) = shop.settings.smtp.clone() else {
        log::info("SMTP_HOST is not set: mail waits in the outbox");
        return;
    };
    let transport = match transport(&smtp) {
        Ok(transport) => transport,
        Err(error) => return log::error("mail cannot be sent", &error),
    };
    let from = smtp.from.clone();
    loop {
        if let Err(error) = send_due(&shop, &transport, &from).await {
            log::error("outbox", &error);
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn transport(smtp: &Smtp) -> Result<SmtpTransport, lettre::transport::smtp::Error> {
    let tls = match smtp.tls {
        SmtpTls::None => Tls::None,
        SmtpTls::StartTls => Tls::Required(TlsParameters::new(smtp.host.clone())?),
        SmtpTls::Tls => Tls::Wrapper(TlsParameters::new(smtp.host.clone())?),
    };
    let mut builder =
        SmtpTransport::builder_dangerous(&smtp.host).port(smtp.port).tls(tls).timeout(Some(PATIENCE));
    if let Some((user, password)) = &smtp.login {
        let password = String::from_utf8_lossy(&password.0).into_owned();
        builder = builder.credentials(Credentials::new(user.clone(), password));
    }
    Ok(builder.build())
}

async fn send_due(shop: &Arc<Shop>, transport: &SmtpTransport, from: &str) -> Result<(), StoreError> {
    let due = shop.store.read(|connection| outbox::due(connection, BATCH)).await?;
    for mail in due {
        let (id, kind) = (mail.id, mail.kind.clone());
        let result = match message(shop, mail, from).await? {
            Ok(message) => {
                let transport = transport.clone();
                let send = move || transport.send(&message);
                tokio::task::spawn_blocking(send).await?.map(|_| ()).map_err(MailError::from)
            }
            Err(error) => Err(error),
        };
        // Sent and not noted would be sent twice; noted and not sent never. Twice is the smaller evil.
        match result {
            Ok(()) => shop.store.write(move |transaction| outbox::sent(transaction, id)).await?,
            Err(error) => {
                log::error(format_args!("mail {id} ({kind})"), &error);
                let (text, for_good) = (error.to_string(), error.is_for_good());
                shop.store.write(move |transaction| outbox::failed(transaction, id, &text, for_good)).await?;
            }
        }
    }
    Ok(())
}

/// The mail as it goes out.
async fn message(shop: &Arc<Shop>, mail: Mail, from: &str) -> Result<Result<Message, MailError>, StoreError> {
    let order = match mail.order_id {
        None => None,
        Some(id) => {
            let read = shop.store.read(move |connection| {
                let Some(order) = orders::by_id(connection, id)? else { return Ok(None) };
                Ok::<_, StoreError>(Some((order, orders::items(connection, id)?)))
            });
            read.await?
        }
    };
    let (order, items) = order.unzip();
    let values = context! {
        order => Serde(order),
        items => Serde(items),
        facts => Serde(&mail.facts),
        url => shop.settings.public_url.as_str(),
        seller => Serde(&shop.settings.seller),
    };
    // A language that the shop no longer has is written in English.
    let language = shop.pages.language(&mail.language).unwrap_or(0);
    let text = match shop.pages.render(language, &format!("mail/{}.txt", mail.kind), values) {
        Ok(text) => text,
        Err(error) => return Ok(Err(MailError::Text(error.to_string()))),
    };
    Ok(written(&text, &mail.recipient, from))
}

fn written(text: &str, to: &str, from: &str) -> Result<Message, MailError> {
    let (subject, body) =
        text.split_once('\n').ok_or_else(|| MailError::Text("there is only a subject".to_owned()))?;
    let address = |text: &str| {
        text.parse::<lettre::Address>()
            .map(|address| Mailbox::new(None, address))
            .map_err(|error| MailError::Address(Box::new(error)))
    };
    let mut from = address(from)?;
    from.name = Some("Greengrocer".to_owned());
    Message::builder()
        .from(from)
        .to(address(to)?)
        .subject(subject.trim())
        .header(ContentType::TEXT_PLAIN)
        .body(format!("{}\n", body.trim()))
        .map_err(|error| MailError::Address(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_recipient_and_one_subject_whatever_is_in_them() {
        let mail =
            written("Your order\n\nHello\n.\nBcc: x@y.in\n", "asha@example.in", "shop@example.in").unwrap();
        let text = String::from_utf8(mail.formatted()).unwrap();
        let (head, _) = text.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("Bcc") && head.contains("Subject: Your order"), "{text}");
        assert_eq!(mail.envelope().to().len(), 1);
        assert!(written("S\n\nx", "a@b.in\r\nRCPT TO:<x@y.in>", "shop@example.in").is_err());
        assert!(written("only a subject", "a@b.in", "shop@example.in").is_err());
    }
}
