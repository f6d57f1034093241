//! The boxes of the paper checklist: every id, from the start, whether a run fills it in yet or not.

/// The part of the paper that a box stands in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Phase {
    /// 24 hours before.
    Pre,
    /// One to two hours before.
    Backup,
    /// During the window.
    Deploy,
    /// Right after.
    Verify,
    /// The next 24 hours.
    Watch,
    /// Only when something went wrong.
    Rollback,
    /// After verification.
    After,
}

impl Phase {
    /// All of them, in the order of the paper.
    pub const ALL: [Phase; 7] = [
        Phase::Pre,
        Phase::Backup,
        Phase::Deploy,
        Phase::Verify,
        Phase::Watch,
        Phase::Rollback,
        Phase::After,
    ];

    /// The heading on the paper.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Phase::Pre => "Before the deployment",
            Phase::Backup => "Backup",
            Phase::Deploy => "Deployment",
            Phase::Verify => "Verification",
            Phase::Watch => "Monitoring",
            Phase::Rollback => "Rollback and diagnosis",
            Phase::After => "After the deployment",
        }
    }
}

/// Who can fill in a box.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Who {
    /// Plimsoll does and judges it.
    Auto,
    /// Only a person can know; Plimsoll asks and records the answer.
    Ask,
    /// Plimsoll gathers, a person accepts.
    Both,
}

/// One box of the paper.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Item {
    /// Used in code, reports and JSON; never changes.
    pub id: &'static str,
    /// Where it stands on the paper.
    pub phase: Phase,
    /// Its words.
    pub title: &'static str,
    /// Who fills it in.
    pub who: Who,
}

const fn item(id: &'static str, phase: Phase, title: &'static str, who: Who) -> Item {
    Item { id, phase, title, who }
}

/// Every box, in the order of the paper.
pub const ITEMS: &[Item] = &[
    item("pre.review", Phase::Pre, "Review changes: files, schema, configuration", Who::Both),
    item("pre.notify", Phase::Pre, "Notify development, DevOps, business; window", Who::Auto),
    item("pre.window", Phase::Pre, "Schedule a low-traffic window and a back-up slot, UTC/IST", Who::Auto),
    item("pre.staging", Phase::Pre, "Test on staging", Who::Auto),
    item("pre.rollback", Phase::Pre, "Prepare the rollback plan: backup, steps, minutes", Who::Auto),
    item("backup.create", Phase::Backup, "Full backup: file, size, verified", Who::Auto),
    item("backup.verify", Phase::Backup, "Verify backup integrity", Who::Auto),
    item("backup.second", Phase::Backup, "Second copy on a drive/NAS or in S3", Who::Auto),
    item("backup.record", Phase::Backup, "Record primary, secondary, timestamp, counts", Who::Auto),
    item("backup.counts", Phase::Backup, "Row counts before: products, orders, users, regions", Who::Auto),
    item("deploy.stop", Phase::Deploy, "Stop the application (only if needed): status, time", Who::Auto),
    item("deploy.pull", Phase::Deploy, "Pull the code: branch, commit, conflicts", Who::Auto),
    item("deploy.install", Phase::Deploy, "Install dependencies: all installed, messages", Who::Auto),
    item("deploy.migrate", Phase::Deploy, "Run migrations: applied, log", Who::Auto),
    item("deploy.restart", Phase::Deploy, "Restart: started, startup time", Who::Auto),
    item("verify.script", Phase::Verify, "Verification script: overall, failed checks", Who::Auto),
    item("verify.counts", Phase::Verify, "Counts match the ones before", Who::Auto),
    item("verify.versions", Phase::Verify, "Expected migration versions applied", Who::Auto),
    item(
        "verify.smoke",
        Phase::Verify,
        "Homepage, listing, search, cart, checkout, admin login, products, orders",
        Who::Auto,
    ),
    item("verify.logs", Phase::Verify, "No errors in the logs", Who::Auto),
    item("verify.errors", Phase::Verify, "Error rate for 10 minutes; new errors", Who::Auto),
    item("verify.speed", Phase::Verify, "Query time, page load, API response; slow queries", Who::Auto),
    item("watch.hour", Phase::Watch, "First hour: logs, CPU, memory, disk", Who::Auto),
    item("watch.customers", Phase::Watch, "Orders placed, processed, payments, notifications", Who::Auto),
    item("watch.database", Phase::Watch, "Responds quickly, no locks, backup size normal", Who::Auto),
    item("watch.spots", Phase::Watch, "Spot checks at 1, 4, 8, 24 hours", Who::Auto),
    item("watch.apm", Phase::Watch, "Error rate, response times, database normal (APM)", Who::Auto),
    item("watch.reports", Phase::Watch, "Customers' reports", Who::Ask),
    item("back.stop", Phase::Rollback, "Rollback: stop", Who::Auto),
    item("back.restore", Phase::Rollback, "Restore primary or secondary backup; verified", Who::Auto),
    item("back.rows", Phase::Rollback, "Orders placed since the backup", Who::Auto),
    item("back.code", Phase::Rollback, "Revert the code", Who::Auto),
    item("back.restart", Phase::Rollback, "Restart", Who::Auto),
    item("back.verify", Phase::Rollback, "Verify the rollback", Who::Auto),
    item("back.notify", Phase::Rollback, "Notify stakeholders, reason", Who::Auto),
    item("back.time", Phase::Rollback, "Under 5 minutes", Who::Auto),
    item("diag.collect", Phase::Rollback, "Logs, database report, system information", Who::Auto),
    item("diag.post", Phase::Rollback, "Post-mortem: what, root cause, prevention", Who::Ask),
    item("after.changelog", Phase::After, "Update CHANGELOG: version, time, changes, result", Who::Auto),
    item("after.archive", Phase::After, "Archive notes: `deployment_YYYYMMDD_HHMM.log`", Who::Auto),
    item("after.cleanup", Phase::After, "Clean up old backups after 7 stable days", Who::Auto),
    item("after.summary", Phase::After, "Send the summary: changes, results, issues", Who::Auto),
    item("after.sign", Phase::After, "Sign-off: deployed by, verified by, issues, resolution", Who::Ask),
    item("contacts", Phase::After, "Support contacts by role", Who::Auto),
    item("next", Phase::After, "Last deployment, next scheduled check, status", Who::Auto),
];

/// The box with this id.
#[must_use]
pub fn find(id: &str) -> Option<&'static Item> {
    ITEMS.iter().find(|item| item.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_phases_keep_the_order_of_the_paper() {
        for (n, item) in ITEMS.iter().enumerate() {
            assert_eq!(find(item.id).map(|i| i.title), Some(item.title));
            assert!(ITEMS[..n].iter().all(|other| other.id != item.id), "{} stands twice", item.id);
            assert!(ITEMS[..n].iter().all(|other| other.phase <= item.phase), "{} is out of order", item.id);
        }
        assert_eq!(ITEMS.len(), 45);
    }
}
