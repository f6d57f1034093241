//! An app that something else runs, with no front door: what must be true whoever that is.

use std::time::Duration;

use plimsoll_testkit::{Sandbox, SystemdBox, binary, fault, http, shop, wait};
use serde_json::Value;

use crate::production::{Production, ending, steps, strategy};

/// A sandbox whose app something else runs, in a box of its own.
pub(crate) struct Managed {
    // Dropped in this order: the box ends what runs in the sandbox's folder.
    pub(crate) inside: SystemdBox,
    pub(crate) sandbox: Sandbox,
    /// Where the app listens.
    port: u16,
}

impl Managed {
    /// With these lines in `[service]`. `None` when it cannot be had here; that has been said.
    pub(crate) fn start(test: &str, service: &str) -> Option<Managed> {
        let mut sandbox = Sandbox::new();
        sandbox.unset("front", None);
        let port = sandbox.port;
        Managed::on(test, service, sandbox, port)
    }

    /// The same behind the front door, which has `sandbox.port` then.
    pub(crate) fn behind_the_front_door(test: &str, service: &str) -> Option<Managed> {
        Managed::on(test, service, Sandbox::new(), Sandbox::new().port)
    }

    fn on(test: &str, service: &str, mut sandbox: Sandbox, port: u16) -> Option<Managed> {
        sandbox.unset("service", Some("command"));
        sandbox.configure(&format!("service.address = '127.0.0.1:{port}'\n{service}"));
        match SystemdBox::start(&sandbox) {
            Ok(inside) => Some(Managed { inside, sandbox, port }),
            Err(why) => {
                fault::skipped(test, &why);
                None
            }
        }
    }

    /// The app's folder and command line, as a person writes them into a unit or program.
    pub(crate) fn folder(&self) -> String {
        self.sandbox.root().join("current").display().to_string()
    }

    /// A script that starts the app and tells it which release it is.
    pub(crate) fn script(&self) -> String {
        let path = self.sandbox.root().join("start-app");
        let (app, root, port) = (binary("scripted-app"), self.sandbox.root(), self.port);
        let text = format!(
            "#!/bin/sh\nexport PORT={port} DATABASE_PATH={}/shared/store.db\n\
             export PLIMSOLL_RELEASE=$(basename \"$(pwd -P)\")\nexec {}\n",
            root.display(),
            app.display(),
        );
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path.display().to_string()
    }

    /// Nothing of a run is left, and the current release is what users meet.
    #[track_caller]
    pub(crate) fn is_settled(&self) {
        assert!(!self.sandbox.root().join("runs/HELD").exists(), "runs/HELD is left");
        assert_eq!(self.sandbox.serving(), self.sandbox.current(), "users meet another release");
        assert_eq!(self.sandbox.apps().len(), 1, "{:?}", self.sandbox.apps());
    }

    /// The check of a run with this name.
    pub(crate) fn check(&self, run: u32, name: &str) -> Option<Value> {
        let entries = self.sandbox.journal(run);
        let mut checks = entries.into_iter().filter(|entry| entry["event"] == "checked");
        checks.find(|entry| entry["check"]["name"] == name).map(|mut entry| entry["check"].take())
    }

    /// The first release, a migration under the next one, and the gap that its users met.
    pub(crate) fn goes_live(&self) {
        self.inside.plimsoll(&["deploy", "--yes"]).exits(0).says("Live.");
        self.is_settled();
        let first = self.check(1, "Gap seen from outside").expect("the first start was looked at");
        assert_eq!(first["verdict"], "skipped", "nobody was interrupted by the first release: {first}");

        self.sandbox.release(r#"{ "page": "two", "boot_ms": 400 }"#, &[shop::REBUILD]);
        self.inside.plimsoll(&["deploy", "--yes"]).exits(0).says("Live.");
        self.is_settled();
        assert!(self.sandbox.get("/").text().contains("two"));
        assert_eq!(shop::number(&self.sandbox.database(), "SELECT max(version) FROM schema_version"), 2);
        assert_eq!(
            (ending(&self.sandbox, 2), strategy(&self.sandbox, 2)),
            (("live".into(), 0), "restart".into())
        );
        let gap = self.check(2, "Gap seen from outside").expect("the gap was measured");
        let number = |name: &str| gap["evidence"][name].as_u64().unwrap_or_else(|| panic!("{name}: {gap}"));
        assert_eq!(gap["verdict"], "pass");
        assert!(number("gap_ms") >= 400, "the app alone takes 400 ms to boot: {gap}");
        assert!(number("failed") >= 4 && number("failed") <= number("probes"), "{gap}");
        assert!(self.sandbox.read("runs/000002/report.md").contains("Gap seen from outside"));
    }

    /// A release that does not start is taken back, and so is its migration.
    pub(crate) fn takes_back_what_does_not_start(&self) {
        self.inside.plimsoll(&["deploy", "--yes"]).exits(0);
        let before = Production::of(&self.sandbox);
        self.sandbox.release(r#"{ "exit_at_start": 3 }"#, &[shop::REBUILD]);
        let output = self.inside.plimsoll(&["deploy", "--yes"]);
        output.exits(6).says("Rolled back, no data was lost").says("exiting at once, as scripted");
        self.is_settled();
        before.is_still(&Production::of(&self.sandbox));
        assert_eq!(ending(&self.sandbox, 2), ("rolled-back".into(), 6));
        let gap = self.check(2, "Gap seen from outside").expect("the gap was measured");
        assert!(gap["evidence"]["gap_ms"].as_u64().is_some_and(|ms| ms > 0), "{gap}");
    }

    /// Many deployments in a row do not reach a limit of whatever starts the app.
    pub(crate) fn may_be_deployed_often(&self) {
        for number in 1..=4 {
            self.sandbox.release(&format!(r#"{{ "page": "number {number}" }}"#), &[]);
            self.inside.plimsoll(&["deploy", "--yes"]).exits(0);
            self.is_settled();
        }
    }

    /// The order in which a run touched workers, app and data.
    pub(crate) fn order(&self, run: u32) -> Vec<String> {
        let wanted = ["stop-workers", "stop", "snapshot", "migrate", "start", "start-workers"];
        steps(&self.sandbox, run).into_iter().filter(|step| wanted.contains(&step.as_str())).collect()
    }

    /// Waits until the app answers.
    pub(crate) fn until_it_answers(&self) {
        wait::until("the app answers", Duration::from_secs(20), || {
            http::get(self.sandbox.port, "/healthz").is_ok()
        });
    }
}
