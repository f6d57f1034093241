//! A real S3 server on the loopback: SeaweedFS' `weed mini`, from `PATH` or where `scripts/tools` puts it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::sandbox::free_port;
use crate::{http, wait};

/// The access key's id that the server knows.
pub const KEY_ID: &str = "plimsolltestkey0";
/// Its secret.
pub const SECRET: &str = "plimsolltestsecret0";
/// The bucket that is there.
pub const BUCKET: &str = "shop-backups";

/// The server; killed when it is dropped.
#[derive(Debug)]
pub struct S3Server {
    folder: TempDir,
    program: PathBuf,
    ports: Vec<u16>,
    child: Option<Child>,
}

/// What each port is for: the flag, in the order of [`S3Server::ports`].
const PORTS: [&str; 10] = [
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
];

impl S3Server {
    /// Starts one with an empty bucket.
    ///
    /// # Errors
    /// The program is not installed; the reason is for [`crate::fault::skipped`].
    ///
    /// # Panics
    /// When it is installed and does not start.
    pub fn start() -> Result<S3Server, String> {
        let program = program().ok_or("weed is not installed (scripts/tools gets it with python3-venv)")?;
        for _ in 0..3 {
            let folder =
                tempfile::Builder::new().prefix("plimsoll-s3-").tempdir().expect("a folder can be made");
            let config = format!(
                r#"{{"identities":[{{"name":"t","credentials":[{{"accessKey":"{KEY_ID}","secretKey":"{SECRET}"}}],"actions":["Admin","Read","Write","List"]}}],"kms":{{"default_provider":"local","providers":{{"local":{{"type":"local","enableOnDemandCreate":true}}}}}}}}"#
            );
            std::fs::write(folder.path().join("s3.json"), config).expect("a fresh folder is writable");
            std::fs::create_dir(folder.path().join("data")).expect("a fresh folder is empty");
            let mut server = S3Server {
                folder,
                program: program.clone(),
                ports: PORTS.map(|_| free_port()).to_vec(),
                child: None,
            };
            // A port may have been taken in between.
            if server.come_up() {
                return Ok(server);
            }
        }
        panic!("{} does not start", program.display());
    }

    /// Where it answers.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports[0]
    }

    /// Kills it in the midst of whatever it does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It is ours, and not yet waited for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again with what it held.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_again(&mut self) {
        assert!(self.come_up(), "the S3 server does not start again");
    }

    /// The names below a folder of the bucket, as the server's own file list has them.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let filer = self.ports[6];
        let url = format!("http://127.0.0.1:{filer}/buckets/{BUCKET}/{prefix}/?limit=1000");
        let mut answer = match ureq::get(&url).header("accept", "application/json").call() {
            Ok(answer) => answer,
            Err(ureq::Error::StatusCode(404)) => return Vec::new(),
            Err(error) => panic!("{url}: {error}"),
        };
        let text = answer.body_mut().read_to_string().expect("the list is a text");
        let list: serde_json::Value = serde_json::from_str(&text).expect("the list is JSON");
        let path = |entry: &serde_json::Value| entry["FullPath"].as_str().map(str::to_owned);
        let entries = list["Entries"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut names: Vec<String> = entries
            .iter()
            .filter_map(path)
            .filter_map(|path| Some(path.rsplit_once('/')?.1.to_owned()))
            .collect();
        names.sort();
        names
    }

    /// Changes what an object holds, past S3: what a failing disk does.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn damage(&self, key: &str, bytes: &[u8]) {
        let url = format!("http://127.0.0.1:{}/buckets/{BUCKET}/{key}", self.ports[6]);
        ureq::put(&url).send(bytes).unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    fn come_up(&mut self) -> bool {
        let log = std::fs::File::create(self.folder.path().join("log")).expect("the folder is writable");
        let mut command = Command::new(&self.program);
        command
            .args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-webdav=false"])
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-admin.ui=false", "-dir=data"])
            .args(["-s3.config=s3.json", &format!("-bucket={BUCKET}")])
            .args(PORTS.iter().zip(&self.ports).map(|(flag, port)| format!("-{flag}={port}")))
            .current_dir(self.folder.path())
            .env("TMPDIR", self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log);
        let mut child = command.spawn().expect("the program was found");
        // The bucket is made after the server answers.
        let made = format!("http://127.0.0.1:{}/buckets/{BUCKET}/", self.ports[6]);
        let up = wait::within(Duration::from_secs(60), || {
            if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return Some(false);
            }
            let bucket = || ureq::get(&made).header("accept", "application/json").call().is_ok();
            (http::get(self.port(), "/").is_ok() && bucket()).then_some(true)
        });
        self.child = Some(child);
        if up != Some(true) {
            self.kill();
        }
        up == Some(true)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn program() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    let private = cache.map(|cache| cache.join("plimsoll/tools-venv/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    private
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join("weed"))
        .find(|path| path.is_file())
}
