//! Webhooks: one HTTP request with JSON, in the form that its receiver wants.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::{Letter, Untaken, Webhook, WebhookKind};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Discord takes 2,000 characters, the others more.
const LONGEST: usize = 1_900;

pub(super) fn send(webhook: &Webhook, letter: &Letter) -> Result<(), Untaken> {
    let url = (webhook.url)().map_err(Untaken::Later)?;
    let body = body(webhook.kind.unwrap_or_else(|| kind_of(&url)), letter).to_string();
    let timestamp = jiff::Timestamp::now().as_second().to_string();
    let mut request = agent()
        .post(&url)
        .header("content-type", "application/json; charset=utf-8")
        .header("x-plimsoll-message", &letter.told.id)
        .header("x-plimsoll-timestamp", &timestamp);
    if let Some(key) = &webhook.key {
        let key = key().map_err(Untaken::Later)?;
        let signature = format!("sha256={}", signature(&key, &timestamp, &body));
        request = request.header("x-plimsoll-signature", &signature);
    }
    let response = request.send(body.as_bytes()).map_err(|error| Untaken::Later(without(&url, &error)))?;
    match response.status().as_u16() {
        200..=299 => Ok(()),
        // Too early, too many, or their own trouble.
        status @ (408 | 425 | 429 | 500..=599) => {
            Err(Untaken::Later(format!("answered with status {status}")))
        }
        status => Err(Untaken::Never(format!("answered with status {status}"))),
    }
}

/// The error without the address, which may be a secret.
fn without(url: &str, error: &ureq::Error) -> String {
    let path = url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
    let text = format!("no answer: {error}").replace(url, "the webhook");
    match path {
        Some(path) if path.len() > 1 => text.replace(path, "/…"),
        _ => text,
    }
}

/// HMAC-SHA-256 over the time, a full stop and the body: an old message cannot be sent once more as a new one.
pub(super) fn signature(key: &str, timestamp: &str, body: &str) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_bytes()) else { return String::new() };
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

fn kind_of(url: &str) -> WebhookKind {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split(['/', ':', '?']).next().unwrap_or_default();
    let within = |domain: &str| host == domain || host.ends_with(&format!(".{domain}"));
    if within("slack.com") {
        WebhookKind::Slack
    } else if within("discord.com") || within("discordapp.com") {
        WebhookKind::Discord
    } else if within("office.com") || within("logic.azure.com") || within("powerplatform.com") {
        WebhookKind::Teams
    } else {
        WebhookKind::Json
    }
}

fn body(kind: WebhookKind, letter: &Letter) -> Value {
    let text: String = letter.text.chars().take(LONGEST).collect();
    match kind {
        // These would make a mention or a link of a commit's words.
        WebhookKind::Slack => {
            let safe = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            json!({ "text": format!("*{}*\n```{}```", safe(&letter.subject), safe(&text)) })
        }
        WebhookKind::Discord => {
            let text: String = text.chars().take(LONGEST - letter.subject.len().min(300)).collect();
            json!({ "content": format!("**{}**\n```\n{}\n```", letter.subject, text.replace("```", "'''")),
                    "allowed_mentions": { "parse": [] } })
        }
        WebhookKind::Teams => json!({
            "type": "message",
            "attachments": [{
                "contentType": "application/vnd.microsoft.card.adaptive",
                "content": {
                    "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                    "type": "AdaptiveCard",
                    "version": "1.4",
                    "body": [
                        { "type": "TextBlock", "size": "Medium", "weight": "Bolder", "wrap": true, "text": letter.subject },
                        { "type": "TextBlock", "fontType": "Monospace", "wrap": true, "text": text },
                    ],
                },
            }],
        }),
        WebhookKind::Json => json!({
            "message": letter.told.id,
            "app": letter.app,
            "occasion": letter.told.occasion.word(),
            "run": letter.run,
            "release": letter.release,
            "subject": letter.subject,
            "text": letter.text,
            "report": letter.report,
            "contacts": letter.contacts,
        }),
    }
}

fn agent() -> ureq::Agent {
    static CERTIFICATES: OnceLock<RootCerts> = OnceLock::new();
    let roots = CERTIFICATES.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs().certs;
        let certificates: Vec<_> = found.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        RootCerts::new_with_certs(&certificates)
    });
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(roots.clone())
        .build();
    ureq::Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(PATIENCE))
        .user_agent("plimsoll")
        .build()
        .into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_webhook_is_told_in_its_own_form() {
        for (url, kind) in [
            ("https://hooks.slack.com/services/T/B/x", WebhookKind::Slack),
            ("https://discord.com/api/webhooks/1/x", WebhookKind::Discord),
            ("https://example.webhook.office.com/webhookb2/x", WebhookKind::Teams),
            ("https://prod-1.westeurope.logic.azure.com:443/workflows/x", WebhookKind::Teams),
            ("https://slack.com.example.org/x", WebhookKind::Json),
            ("http://127.0.0.1:9/x", WebhookKind::Json),
        ] {
            assert_eq!(kind_of(url), kind, "{url}");
        }
        let mut letter = Letter::test("grocery", &BTreeMap::new());
        letter.subject = "<!channel> & @everyone ```".into();
        letter.text = "x".repeat(5_000);
        let slack = body(WebhookKind::Slack, &letter)["text"].as_str().unwrap().to_owned();
        assert!(slack.contains("&lt;!channel&gt; &amp;"), "{slack}");
        let discord = body(WebhookKind::Discord, &letter);
        assert!(discord["content"].as_str().unwrap().chars().count() <= 2_000);
        assert_eq!(discord["allowed_mentions"]["parse"], json!([]));
        let card = &body(WebhookKind::Teams, &letter)["attachments"][0]["content"];
        assert_eq!(card["body"][0]["text"], letter.subject);
    }

    #[test]
    fn the_signature_is_the_one_that_others_compute() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac key
        let wanted = "9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae";
        let found = signature("key", "1700000000", "{}");
        assert_eq!(found, wanted);
        assert_ne!(found, signature("kez", "1700000000", "{}"));
        assert_ne!(found, signature("key", "1700000001", "{}"));
    }
}
