//! A real browser, driven over WebDriver. One per test, with a profile of its own.

use std::fs;
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// A slow machine draws slowly; what never comes fails all the same.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Chromium {
    client: Option<Client>,
    runtime: Runtime,
    driver: Child,
    port: u16,
    _profile: TempDir,
}

/// Starts a browser with a phone's screen, or says loudly, and where `scripts/test` looks, why it cannot.
pub(crate) fn on_a_phone(test: &str) -> Option<Chromium> {
    start(
        test,
        json!({ "mobileEmulation": { "deviceMetrics": { "width": 390, "height": 844, "pixelRatio": 1.0 } } }),
    )
}

/// The same with a desk's screen.
pub(crate) fn on_a_desk(test: &str) -> Option<Chromium> {
    start(test, json!({}))
}

fn start(test: &str, options: Value) -> Option<Chromium> {
    let found = |name: &str| -> Option<PathBuf> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
    };
    let (Some(chromium), Some(driver)) = (found("chromium"), found("chromedriver")) else {
        let why = "chromium or chromedriver is not installed: run scripts/tools as root";
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
        let list = std::env::var_os("PLIMSOLL_SKIPPED")?;
        let file = fs::OpenOptions::new().append(true).create(true).open(list);
        let _ = file.and_then(|mut file| writeln!(file, "{test}: {why}"));
        return None;
    };
    Some(Chromium::start(&chromium, &driver, options))
}

impl Chromium {
    fn start(chromium: &Path, driver: &Path, mut options: Value) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut driver = Command::new(driver)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut port = None;
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once("successfully on port ") {
                port = rest.trim_end_matches('.').parse::<u16>().ok();
                break;
            }
        }
        let port = port.expect("chromedriver says on which port it listens");
        // It goes on talking; a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));

        options["binary"] = json!(chromium);
        options["args"] = json!([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--window-size=1280,900",
            format!("--user-data-dir={}", profile.path().display()),
        ]);
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let Value::Object(capabilities) = capabilities else { unreachable!("written as an object") };
        let client = runtime.block_on(async {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            builder.capabilities(capabilities).connect(&format!("http://127.0.0.1:{port}")).await
        });
        match client {
            Ok(client) => Self { client: Some(client), runtime, driver, port, _profile: profile },
            Err(error) => {
                let _ = driver.kill();
                let _ = driver.wait();
                panic!("the browser does not start: {error}");
            }
        }
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is closed by Drop only")
    }

    /// Tries again until it goes: pages load, and what is on them moves.
    fn until<T, E, F>(&self, what: &str, mut work: impl FnMut() -> F) -> T
    where
        F: Future<Output = Result<T, E>>,
        E: std::fmt::Display,
    {
        let deadline = Instant::now() + PATIENCE;
        self.runtime.block_on(async {
            loop {
                match work().await {
                    Ok(done) => return done,
                    Err(error) if Instant::now() > deadline => {
                        let source = self.client().source().await.unwrap_or_default();
                        panic!("{what}: not within {PATIENCE:?}: {error}\n{source}");
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        })
    }

    pub(crate) fn open(&self, url: &str) {
        self.runtime.block_on(self.client().goto(url)).unwrap();
    }

    pub(crate) fn path(&self) -> String {
        self.runtime.block_on(self.client().current_url()).unwrap().path().to_owned()
    }

    /// Waits for something on the page and answers its text.
    pub(crate) fn text(&self, css: &str) -> String {
        self.until(css, || async { self.client().find(Locator::Css(css)).await?.text().await })
    }

    /// Waits until the text of something holds this.
    pub(crate) fn wait_text(&self, css: &str, wanted: &str) {
        self.until(&format!("{css} says {wanted}"), || async {
            let text =
                self.client().find(Locator::Css(css)).await.map_err(|error| error.to_string())?.text().await;
            let text = text.map_err(|error| error.to_string())?;
            if text.contains(wanted) { Ok(()) } else { Err(format!("it says {text}")) }
        });
    }

    pub(crate) fn is_there(&self, css: &str) -> bool {
        self.runtime.block_on(async { self.client().find(Locator::Css(css)).await.is_ok() })
    }

    pub(crate) fn click(&self, css: &str) {
        self.until(css, || async { self.client().find(Locator::Css(css)).await?.click().await });
    }

    /// Types into a field, instead of what is in it.
    pub(crate) fn fill(&self, css: &str, text: &str) {
        self.until(css, || async {
            let field = self.client().find(Locator::Css(css)).await?;
            field.clear().await?;
            field.send_keys(text).await
        });
    }

    /// Presses keys where the focus is.
    pub(crate) fn press(&self, keys: &str) {
        self.until("typing", || async { self.client().active_element().await?.send_keys(keys).await });
    }

    /// Goes into the checkout's frame.
    pub(crate) fn enter_frame(&self) {
        self.until("the checkout's frame", || async {
            let frame = self.client().find(Locator::Css("iframe[name=razorpay-checkout]")).await?;
            frame.enter_frame().await
        });
    }

    /// Back to the shop's page.
    pub(crate) fn leave_frame(&self) {
        // Not to the frame's parent: the frame may be gone.
        self.runtime.block_on(async {
            let window = self.client().windows().await.unwrap().remove(0);
            self.client().switch_to_window(window).await.unwrap();
        });
    }

    pub(crate) fn reload(&self) {
        self.runtime.block_on(self.client().refresh()).unwrap();
    }

    /// What a script answers that runs in the page.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.runtime.block_on(self.client().execute(script, Vec::new())).unwrap()
    }

    /// Keeps a picture in the folder that `GREENGROCER_SCREENSHOTS` names, for whoever wants to look.
    pub(crate) fn picture(&self, name: &str) {
        let Some(folder) = std::env::var_os("GREENGROCER_SCREENSHOTS") else { return };
        let picture = self.runtime.block_on(self.client().screenshot()).unwrap();
        fs::create_dir_all(&folder).unwrap();
        fs::write(Path::new(&folder).join(format!("{name}.png")), picture).unwrap();
    }

    /// What the browser complained about: scripts, blocked loads, the pages' policies.
    pub(crate) fn complaints(&self) -> Vec<String> {
        // A command of Chromium's own.
        let session = self.runtime.block_on(self.client().session_id()).unwrap().unwrap();
        let url = format!("http://127.0.0.1:{}/session/{session}/se/log", self.port);
        let answer =
            ureq::post(url).send(r#"{"type":"browser"}"#).unwrap().into_body().read_to_string().unwrap();
        let told: Value = serde_json::from_str(&answer).unwrap();
        let lines = told["value"].as_array().expect("a list of lines");
        lines
            .iter()
            .filter(|line| matches!(line["level"].as_str(), Some("SEVERE" | "WARNING")))
            .map(|line| line["message"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            let _ = self.runtime.block_on(client.close());
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
