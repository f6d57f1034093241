//! Opening the shop, and closing it without leaving a customer standing.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::db::{Store, StoreError, migrations, open_existing};
use crate::settings::{Secret, Settings};
use crate::web::{self, Shop, page::PagesError};
use crate::{clock, log, mail};

/// How long requests in flight may take after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// Why the shop did not open, or closed by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The database is not there or cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The migrations of this release cannot be read.
    #[error(transparent)]
    Migrations(#[from] migrations::MigrateError),
    /// The database's schema is older than this release.
    #[error("{} lacks migration(s) {} of this release: run `greengrocer migrate` first; nothing was changed",
            database.display(), missing.join(", "))]
    OldSchema {
        /// The database.
        database: PathBuf,
        /// The names of the migrations it has not had.
        missing: Vec<String>,
    },
    /// A template or a static file cannot be used.
    #[error(transparent)]
    Pages(#[from] PagesError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The system refused something that serving needs.
    #[error("the system refused what serving needs")]
    System(#[from] io::Error),
}

/// Serves until SIGTERM or SIGINT, then finishes what is in flight, within five seconds.
///
/// The first line on standard output is `listening on http://ADDRESS`.
///
/// # Errors
/// The shop does not open on a database that is missing or older than this release.
pub fn run(settings: Settings) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(settings));
    // A thread that still works on the database is not waited for beyond the grace that has passed.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

async fn serve(settings: Settings) -> Result<(), ServeError> {
    let connection = open_existing(&settings.database)?;
    let release = migrations::in_folder(&settings.home.join("migrations"))?;
    let missing = migrations::pending(&connection, &release)?;
    if !missing.is_empty() {
        let name = |migration: &migrations::Migration| {
            format!("{:04} ({})", migration.version, migration.description)
        };
        let missing = missing.iter().map(name).collect();
        return Err(ServeError::OldSchema { database: settings.database, missing });
    }
    drop(connection);
    if settings.log_json {
        log::use_json();
    }
    let unnamed = settings.seller.missing();
    if settings.production && !unnamed.is_empty() {
        log::info(format_args!("the law wants customers to know who sells; not set: {}", unnamed.join(", ")));
    }

    let secret = settings.secret.clone().unwrap_or_else(|| {
        log::info("GREENGROCER_SECRET is not set: a secret was made for this process, baskets and logins end with it");
        Secret(crate::db::random_hex::<32>().into_bytes())
    });
    let shop = Shop::new(Store::open(&settings.database)?, settings.clone(), secret)?;

    // Before the address is told to anybody: who knows it may send SIGTERM.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let address = SocketAddr::new(settings.bind, settings.port);
    let listen = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    writeln!(io::stdout(), "listening on http://{address}")?;
    log::info(format_args!("release {} serves {}", settings.release, settings.database.display()));

    let (closing, mut closed) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        log::info("closing: requests in flight are finished");
        closing.send_replace(true);
    });
    let mut told = closed.clone();
    let shop = Arc::new(shop);
    // A copy that is tried out only looks: what waits in it has been sent or will be by the real shop.
    if !settings.rehearsal {
        tokio::spawn(mail::run(shop.clone()));
        tokio::spawn(clock::run(shop.clone()));
        if let Some(cashier) = shop.cashier.clone() {
            let shop = shop.clone();
            tokio::spawn(async move { cashier.reconcile_forever(&shop.store).await });
        }
    }
    let app = web::router(shop).into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        // An error means that the sender is gone, which ends serving just as well.
        let _ = told.wait_for(|closing| *closing).await;
    });
    let overdue = async {
        let _ = closed.wait_for(|closing| *closing).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = server => result?,
        () = overdue => log::info("closed with requests unfinished after 5 s"),
    }
    Ok(())
}
