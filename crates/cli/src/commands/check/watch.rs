//! What the watch will count, and whom it will tell.

use jiff::Timestamp;
use plimsoll_host::watch::counts;

use super::Finding;
use crate::config::{Config, Occasion};

/// The configured counts are SQL that this database understands, and count what is new and nothing else.
pub(super) fn watch(config: &Config) -> Vec<Finding> {
    if config.watch.counts.is_empty() {
        return Vec::new();
    }
    // A database that is not there yet has been said already.
    let Some(Ok(open)) = config.database_file().map(counts::open) else { return Vec::new() };
    let finding = |(name, sql): (&String, &String)| {
        let name = format!("[watch] count \"{name}\"");
        match open.prepare(sql).map(|statement| (statement.readonly(), statement.column_count())) {
            Ok((true, 1)) => {}
            Ok((true, _)) => return Finding::fail(name, "gives more than one column", "select one number"),
            Ok((false, _)) => return Finding::fail(name, "would change the database", "only read"),
            Err(error) => {
                return Finding::fail(name, error.to_string(), "mend the SQL; the time is given as :since");
            }
        }
        let in_an_hour = Timestamp::now() + jiff::SignedDuration::from_hours(1);
        let hour = jiff::SignedDuration::from_hours(1);
        match (counts::since(&open, sql, in_an_hour), counts::since(&open, sql, Timestamp::now() - hour)) {
            (Ok(0), Ok(n)) => Finding::pass(name, format!("{n} in the last hour")),
            (Ok(n), Ok(_)) => Finding::fail(
                name,
                format!(
                    "counts {n} that are newer than an hour from now: the times are compared in different forms"
                ),
                "use :since for 2026-01-31 23:59:59, :since_iso for 2026-01-31T23:59:59Z, :since_unix for seconds",
            ),
            (Err(why), _) | (_, Err(why)) => Finding::fail(name, why, "mend the SQL"),
        }
    };
    config.watch.counts.iter().map(finding).collect()
}

/// Whom messages go to, and whether what they need is there.
pub(super) fn notify(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, group) in &config.notify {
        let mut ways = Vec::new();
        let mut missing = Vec::new();
        if !group.mail.is_empty() {
            ways.push(format!(
                "mail to {} through {}:{}",
                group.mail.join(", "),
                config.smtp.host,
                config.smtp.port
            ));
            missing.extend(config.smtp.password.as_ref().and_then(|password| password.reveal().err()));
        }
        if let Some(webhook) = &group.webhook {
            ways.push("webhook".to_owned());
            missing.extend(webhook.reveal().err());
            missing.extend(group.key.as_ref().and_then(|key| key.reveal().err()));
        }
        let of =
            Occasion::ALL.iter().filter(|(_, occasion)| group.on.contains(occasion)).map(|(word, _)| *word);
        let note = format!("{}, of {}", ways.join(", "), of.collect::<Vec<_>>().join(", "));
        let name = format!("[notify.{name}]");
        findings.push(match missing.first() {
            None => Finding::pass(name, format!("{note}; try it: plimsoll notify-test")),
            // The environment of `plimsoll serve` may have it.
            Some(error) => Finding::unknown(
                name,
                error.to_string(),
                "see that `plimsoll serve` has it: plimsoll notify-test",
            ),
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use plimsoll_core::check::Verdict;

    use super::*;

    const LEAST: &str = "[app]\nname='a'\n[source]\ngit='a'\n[service]\nkind='process'\ncommand='a'\naddress='127.0.0.1:1'\n[database]\nurl='sqlite:a.db'\n";

    fn config(root: &Path, more: &str) -> Config {
        let config = Config::from_text(&root.join("plimsoll.toml"), &format!("{LEAST}{more}"));
        config.unwrap_or_else(|error| panic!("{error:?}"))
    }

    #[test]
    fn a_count_must_be_sql_that_reads_one_number_of_what_is_new() {
        let folder = tempfile::tempdir().unwrap();
        rusqlite::Connection::open(folder.path().join("a.db"))
            .unwrap()
            .execute_batch("CREATE TABLE orders(at); INSERT INTO orders VALUES (strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '+2 hours'))")
            .unwrap();
        let more = "[watch.counts]\na = \"SELECT count(*) FROM orders WHERE at >= :since_iso AND at < '2000'\"\nb = 'SELECT count(*) FROM ordres'\nc = 'WITH x AS (SELECT 1) DELETE FROM orders'\nd = 'SELECT 1, 2'\ne = 'SELECT count(*) FROM orders WHERE at >= :since'\n";
        let verdicts: Vec<Verdict> =
            watch(&config(folder.path(), more)).into_iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Pass, Verdict::Fail, Verdict::Fail, Verdict::Fail, Verdict::Fail]);
    }

    #[test]
    fn a_secret_that_is_missing_is_named_and_one_that_is_there_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let more = "[notify.a]\nmail=['a@b']\non=['done']\n[notify.b]\nwebhook='env:PLIMSOLL_NO_SUCH_NAME'\n";
        let found = notify(&config(folder.path(), more));
        assert_eq!((found[0].verdict, found[1].verdict), (Verdict::Pass, Verdict::Unknown));
        assert!(found[0].note.starts_with("mail to a@b through 127.0.0.1:25, of done"), "{}", found[0].note);
        assert!(found[1].note.contains("PLIMSOLL_NO_SUCH_NAME"), "{}", found[1].note);
    }
}
