//! From the configuration to how releases are tried on a copy.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use plimsoll_core::plan::ReleaseId;
use plimsoll_core::record::Order;
use plimsoll_host::database::Trying;
use plimsoll_host::release::Releases;
use plimsoll_host::service::App;

use crate::config::{Config, ServiceKind, reveal_all};
use crate::wiring;

/// For all of a rehearsal: both releases, their smoke tests, the restore. Nobody waits meanwhile.
const LIMIT: Duration = Duration::from_secs(600);

/// How releases are tried on a copy; else why they cannot be.
pub(crate) fn trying(config: &Config, order: &Order) -> Result<Trying, String> {
    let (command, own) = match (&config.rehearsal.command, &config.service.kind) {
        (Some(command), _) => (command, true),
        (None, ServiceKind::Process { command }) => (command, false),
        (None, _) => {
            let why = "it is not said how a copy of the app is started: set [rehearsal].command, which gets PORT and \
                       DATABASE_PATH";
            return Err(why.to_owned());
        }
    };
    let app = wiring::app(config, command).map_err(|failure| failure.to_string())?;
    // `[rehearsal].command` gets a port of its own, whatever address production has.
    let app = App { address: if own { None } else { app.address }, ..app };
    let releases = Releases::new(&config.app.root);
    let url = config.front.as_ref().and_then(|front| front.public_url.as_ref());
    let mut refused: Vec<PathBuf> = vec![config.backups()];
    refused.extend(config.backup.folders().cloned());
    Ok(Trying {
        app,
        env: reveal_all(&config.rehearsal.env).map_err(|e| format!("a secret of [rehearsal].env: {e}"))?,
        old: order.from.clone(),
        folder: Arc::new(move |release: &ReleaseId| releases.folder(release)),
        smoke: config.smoke.clone(),
        public_url: url.map(|url| format!("{}://{}", url.scheme(), url.host)),
        refused,
        // This very program, also when its file has been replaced since it was started.
        launcher: vec!["/proc/self/exe".to_owned(), "__confine".to_owned()],
        limit: LIMIT,
    })
}
