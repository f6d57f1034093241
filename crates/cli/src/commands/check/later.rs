//! What the file may ask for and this version does not do yet. It is checked all the same, and said plainly: who
//! relies on a window that nobody keeps is worse off than who has none.

use std::collections::BTreeMap;

use plimsoll_host::sqlite::connection;

use super::Finding;
use crate::config::{Config, Notify, Occasion, show_duration};

const HINT: &str = "it is read and checked, and a later version will act on it";

/// Every section that is there and has no effect.
pub(super) fn later(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut not_yet = |name: String, note: &str| findings.push(Finding::unknown(name, note, HINT));
    for (name, group) in &config.notify {
        let smtp = format!("{}:{}", config.smtp.host, config.smtp.port);
        not_yet(format!("[notify.{name}] {}", told(group, &smtp)), "this version tells nobody");
    }
    if !config.watch.spots.is_empty() {
        let spots: Vec<String> = config.watch.spots.iter().map(|spot| show_duration(*spot)).collect();
        not_yet(format!("[watch] spots after {}", spots.join(", ")), "this version makes no spot checks");
    }
    if !config.logs.is_empty() {
        not_yet(format!("[[log]] {} of them", config.logs.len()), "this version does not look into logs");
    }
    findings.extend(counts(config));
    findings
}

fn told(group: &Notify, smtp: &str) -> String {
    let mut ways = Vec::new();
    if !group.mail.is_empty() {
        ways.push(format!("mail to {} through {smtp}", group.mail.join(", ")));
    }
    if group.webhook.is_some() {
        ways.push("webhook".to_owned());
    }
    let of = Occasion::ALL.iter().filter(|(_, occasion)| group.on.contains(occasion)).map(|(word, _)| *word);
    format!("{}, of {}", ways.join(", "), of.collect::<Vec<_>>().join(", "))
}

/// The configured counts are SQL that this database understands.
fn counts(config: &Config) -> Vec<Finding> {
    let counts: &BTreeMap<String, String> = &config.watch.counts;
    let open = config.database_file().filter(|_| !counts.is_empty()).map(connection::open_read);
    let Some(Ok(open)) = open else { return Vec::new() };
    let finding = |(name, sql): (&String, &String)| {
        let name = format!("[watch] count \"{name}\"");
        match open.prepare(sql).map(|statement| (statement.readonly(), statement.column_count())) {
            Ok((true, 1)) => Finding::unknown(name, "this version does not count it", HINT),
            Ok((true, _)) => Finding::fail(name, "gives more than one column", "select one number"),
            Ok((false, _)) => Finding::fail(name, "would change the database", "only read"),
            Err(error) => Finding::fail(name, error.to_string(), "mend the SQL; the time is given as :since"),
        }
    };
    counts.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use plimsoll_core::check::Verdict;

    use super::*;

    const LEAST: &str = "[app]\nname='a'\n[source]\ngit='a'\n[service]\nkind='process'\ncommand='a'\naddress='127.0.0.1:1'\n[database]\nurl='sqlite:a.db'\n";

    fn found(root: &Path, more: &str) -> Vec<(String, Verdict)> {
        let config = Config::from_text(&root.join("plimsoll.toml"), &format!("{LEAST}{more}"));
        let config = config.unwrap_or_else(|error| panic!("{error:?}"));
        later(&config).into_iter().map(|finding| (finding.name, finding.verdict)).collect()
    }

    #[test]
    fn what_has_no_effect_is_said_and_what_is_absent_is_not() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(found(folder.path(), ""), []);
        let more = "[notify.team]\nmail=['a@b']\non=['done']\n[watch]\nspots=['1h']\n";
        let names: Vec<String> = found(folder.path(), more).into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["[notify.team] mail to a@b through 127.0.0.1:25, of done", "[watch] spots after 1h"]
        );
    }

    #[test]
    fn a_count_must_be_sql_that_reads_one_number() {
        let folder = tempfile::tempdir().unwrap();
        rusqlite::Connection::open(folder.path().join("a.db"))
            .unwrap()
            .execute_batch("CREATE TABLE orders(at)")
            .unwrap();
        let more = "[watch.counts]\na = 'SELECT count(*) FROM orders WHERE at >= :since'\nb = 'SELECT count(*) FROM ordres'\nc = 'WITH x AS (SELECT 1) DELETE FROM orders'\nd = 'SELECT 1, 2'\n";
        let verdicts: Vec<Verdict> =
            found(folder.path(), more).into_iter().map(|(_, verdict)| verdict).collect();
        assert_eq!(verdicts, [Verdict::Unknown, Verdict::Fail, Verdict::Fail, Verdict::Fail]);
    }
}
