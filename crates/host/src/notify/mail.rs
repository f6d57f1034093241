//! Mail, by SMTP.

use std::net::IpAddr;
use std::time::Duration;

use lettre::message::header::ContentType;
use lettre::message::{Attachment, Mailbox, Message, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{SmtpTransport, Transport};

use super::{Letter, MailTls, Smtp, Untaken};

/// How long the server may take to answer one command.
const PATIENCE: Duration = Duration::from_secs(10);
/// A larger report stays where it is; its path is in the message.
const LARGEST_REPORT: u64 = 5 << 20;

pub(super) fn send(smtp: &Smtp, to: &[String], letter: &Letter) -> Result<(), Untaken> {
    let message = message(smtp, to, letter)?;
    let later = |why: String| Untaken::Later(why);
    let parameters = || -> Result<TlsParameters, Untaken> {
        let mut builder = TlsParameters::builder(smtp.host.clone());
        if let Some(file) = &smtp.ca {
            let pem = std::fs::read(file).map_err(|e| later(format!("{}: {e}", file.display())))?;
            let own = Certificate::from_pem(&pem).map_err(|e| later(format!("{}: {e}", file.display())))?;
            builder = builder.add_root_certificate(own);
        }
        builder.build().map_err(|e| later(format!("TLS cannot be used: {e}")))
    };
    let tls = match (smtp.tls, smtp.port) {
        (Some(MailTls::None), _) => Tls::None,
        (Some(MailTls::Tls), _) | (None, 465) => Tls::Wrapper(parameters()?),
        (Some(MailTls::Starttls), _) | (None, 587) => Tls::Required(parameters()?),
        // What does not leave this machine needs no protection, and its certificate is seldom its own.
        (None, _) if is_loopback(&smtp.host) => Tls::None,
        (None, _) => Tls::Opportunistic(parameters()?),
    };
    let mut transport =
        SmtpTransport::builder_dangerous(&smtp.host).port(smtp.port).tls(tls).timeout(Some(PATIENCE));
    if let Some((user, password)) = &smtp.login {
        let password = password().map_err(later)?;
        transport = transport.credentials(Credentials::new(user.clone(), password));
    }
    transport.build().send(&message).map(|_| ()).map_err(|error| {
        let mut why = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            let more = inner.to_string();
            if !why.contains(&more) {
                why = format!("{why}: {more}");
            }
            cause = inner.source();
        }
        // 535 is a wrong password: somebody may mend it. Any other 5xx is about this message.
        let login = error.status().is_some_and(|code| matches!(u16::from(code), 530 | 534 | 535 | 538));
        if error.is_permanent() && !login { Untaken::Never(why) } else { Untaken::Later(why) }
    })
}

fn message(smtp: &Smtp, to: &[String], letter: &Letter) -> Result<Message, Untaken> {
    let never = |why: String| Untaken::Never(why);
    let mailbox = |text: &str| -> Result<Mailbox, Untaken> {
        text.parse().map_err(|e| never(format!("{text} is no mail address: {e}")))
    };
    let host = smtp.from.rsplit_once('@').map_or("localhost", |(_, host)| host);
    let mut builder = Message::builder()
        .from(mailbox(&smtp.from)?)
        .subject(&letter.subject)
        // The same when it is sent again, so that it can be recognised.
        .message_id(Some(format!("<{}@{host}>", letter.told.id)));
    for address in to {
        builder = builder.to(mailbox(address)?);
    }
    let text = SinglePart::plain(letter.text.clone());
    let report = letter.report.as_ref().filter(|file| {
        std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.len() <= LARGEST_REPORT)
    });
    let built = match report.and_then(|file| std::fs::read(file).ok()) {
        None => builder.singlepart(text),
        Some(html) => {
            let name = format!("report-{:06}.html", letter.run);
            let report = Attachment::new(name).body(html, ContentType::TEXT_HTML);
            builder.multipart(MultiPart::mixed().singlepart(text).singlepart(report))
        }
    };
    built.map_err(|e| never(format!("the mail cannot be written: {e}")))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
