//! Where mail goes.

use super::{Secret, SettingsError, one_of, parsed, secret_text, text};
use crate::password;

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SmtpTls {
    /// Not at all: for a mail server on this machine.
    None,
    /// Begins plain and must turn into TLS, port 587.
    StartTls,
    /// TLS from the first byte, port 465.
    Tls,
}

/// The mail server.
#[derive(Clone, Debug)]
pub(crate) struct Smtp {
    /// `SMTP_HOST`.
    pub(crate) host: String,
    /// `SMTP_PORT`: 587, 465 or 25 by the kind of TLS.
    pub(crate) port: u16,
    /// `SMTP_TLS`: `starttls` unless the server is on this machine.
    pub(crate) tls: SmtpTls,
    /// `SMTP_USER` and `SMTP_PASSWORD`.
    pub(crate) login: Option<(String, Secret)>,
    /// `SMTP_FROM`.
    pub(crate) from: String,
}

impl Smtp {
    pub(super) fn from_env() -> Result<Option<Self>, SettingsError> {
        let Some(host) = text("SMTP_HOST") else { return Ok(None) };
        let local = ["localhost", "127.0.0.1", "::1"].contains(&host.as_str());
        let tls = match one_of("SMTP_TLS", &["", "none", "starttls", "tls"])? {
            "none" => SmtpTls::None,
            "tls" => SmtpTls::Tls,
            "starttls" => SmtpTls::StartTls,
            _ if local => SmtpTls::None,
            _ => SmtpTls::StartTls,
        };
        let port = match tls {
            SmtpTls::None => "25",
            SmtpTls::StartTls => "587",
            SmtpTls::Tls => "465",
        };
        let login = match (text("SMTP_USER"), secret_text("SMTP_PASSWORD")?) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            _ => {
                let why = "SMTP_USER and SMTP_PASSWORD go together: one of them is not set";
                return Err(SettingsError::Mail(why.to_owned()));
            }
        };
        if login.is_some() && tls == SmtpTls::None && !local {
            let why = "SMTP_PASSWORD would cross the network in the clear: set SMTP_TLS to starttls or tls";
            return Err(SettingsError::Mail(why.to_owned()));
        }
        let from = text("SMTP_FROM").unwrap_or_else(|| "shop@localhost.localdomain".to_owned());
        let from = password::checked_email(&from).map_err(|_| SettingsError::Value {
            name: "SMTP_FROM",
            value: from.clone(),
            wanted: "an e-mail address",
        })?;
        let port = parsed("SMTP_PORT", port, "a port number")?;
        Ok(Some(Self { host, port, tls, login, from }))
    }
}
