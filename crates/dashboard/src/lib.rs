//! The pages: now, history, a run as it happens, its report, backups, questions, sign-off; and metrics and health.
//!
//! They work without JavaScript; with it they change by themselves. Nothing here knows how runs are made: [`House`] does.

mod house;
mod live;
mod login;
mod metrics;
mod pages;
mod spark;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use tokio::sync::watch;

pub use house::{BackupRow, House, Machine, Now, Question, Refused, RunRow, Traffic, Visitor};
pub use login::Login;

/// The pages while they are served; dropped, they are no more.
pub struct Dashboard {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Dashboard {
    /// Serves the pages on `listener`, in threads of its own.
    ///
    /// # Errors
    /// When the listener cannot be used or no thread be started.
    pub fn start(listener: TcpListener, login: Login, house: Arc<dyn House>) -> io::Result<Dashboard> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(8)
            .thread_name("dashboard")
            .enable_all()
            .build()?;
        let (stop, stopped) = watch::channel(false);
        let site = pages::site(login, house, stopped.clone());
        let mut done = stopped;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let thread = thread::Builder::new().name("dashboard".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let served = async { axum::serve(listener, site).await };
                tokio::select! {
                    // It ends only with the process.
                    _ = served => {}
                    _ = done.changed() => {}
                }
            });
            runtime.shutdown_background();
        })?;
        Ok(Dashboard { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
