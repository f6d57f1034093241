//! Debian's Chromium, driven through its own driver over WebDriver: a few calls of JSON over HTTP, so no crate for it.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::Message;
use crate::wait;

/// How long a page, or something on it, may take: other programs run here too.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one window and a profile of its own. Dropped, it is gone with all of its processes.
#[derive(Debug)]
pub struct Browser {
    port: u16,
    session: String,
    driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// Starts it.
    ///
    /// # Errors
    /// Chromium or its driver is not on this machine; the reason is for [`crate::fault::skipped`].
    ///
    /// # Panics
    /// When they are here and do not start.
    pub fn start(port: u16) -> Result<Browser, String> {
        for program in ["/usr/bin/chromium", "/usr/bin/chromedriver"] {
            if !Path::new(program).exists() {
                return Err(format!("{program} is not here: apt install chromium chromium-driver"));
            }
        }
        let profile = tempfile::tempdir().expect("a folder can be made");
        let driver = Command::new("/usr/bin/chromedriver")
            .arg(format!("--port={port}"))
            .env("HOME", profile.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let mut browser = Browser { port, session: String::new(), driver, _profile: profile };
        let ready = wait::within(PATIENCE, || {
            let status = browser.ask("GET", "/status", None)?;
            (status["ready"] == true).then_some(())
        });
        assert!(ready.is_some(), "chromedriver is not ready");
        let data = format!("--user-data-dir={}", browser._profile.path().display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            &data,
        ];
        let options = json!({ "binary": "/usr/bin/chromium", "args": arguments });
        let wanted = json!({ "capabilities": { "alwaysMatch": { "browserName": "chrome", "goog:chromeOptions": options } } });
        let session = browser.ask("POST", "/session", Some(&wanted)).expect("a session");
        browser.session = session["sessionId"].as_str().unwrap_or_else(|| panic!("{session}")).to_owned();
        Ok(browser)
    }

    /// As large as a phone or a desk's screen, light or dark.
    pub fn look(&self, width: u32, height: u32, dark: bool) {
        let mobile = width < 600;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": if mobile { 2 } else { 1 }, "mobile": mobile });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = json!({ "name": "prefers-color-scheme", "value": if dark { "dark" } else { "light" } });
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": [scheme] }));
    }

    /// With scripts, or without: as for somebody who has turned them off.
    pub fn scripts(&self, on: bool) {
        self.devtools("Emulation.setScriptExecutionDisabled", &json!({ "value": !on }));
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        self.tell("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    /// Goes to a page and waits until it is there.
    pub fn go(&self, url: &str) {
        self.tell("/url", &json!({ "url": url }));
    }

    /// Waits until an element of this selector is on the page.
    ///
    /// # Panics
    /// When it does not come; with what is there instead.
    pub fn until(&self, selector: &str) -> String {
        let found = wait::within(PATIENCE, || self.find(selector));
        found.unwrap_or_else(|| panic!("no {selector} on the page, but: {}", self.text("body")))
    }

    /// Waits until the page says this.
    ///
    /// # Panics
    /// When it never does; with what it says.
    pub fn until_says(&self, words: &str) {
        let said = wait::within(PATIENCE, || self.text("body").contains(words).then_some(()));
        assert!(said.is_some(), "the page never says {words:?}, but: {}", self.text("body"));
    }

    fn find(&self, selector: &str) -> Option<String> {
        let body = json!({ "using": "css selector", "value": selector });
        let path = format!("/session/{}/element", self.session);
        let element = self.ask("POST", &path, Some(&body))?;
        element.as_object()?.values().next()?.as_str().map(str::to_owned)
    }

    /// What the first element of this selector says.
    #[must_use]
    pub fn text(&self, selector: &str) -> String {
        let Some(element) = self.find(selector) else { return String::new() };
        let path = format!("/session/{}/element/{element}/text", self.session);
        self.ask("GET", &path, None).and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// Clicks it.
    pub fn click(&self, selector: &str) {
        let element = self.until(selector);
        self.tell(&format!("/element/{element}/click"), &json!({}));
    }

    /// Types into it.
    pub fn type_into(&self, selector: &str, text: &str) {
        let element = self.until(selector);
        self.tell(&format!("/element/{element}/value"), &json!({ "text": text }));
    }

    /// Runs a script on the page and gives what it returns.
    #[must_use]
    pub fn script(&self, script: &str) -> Value {
        self.tell("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// A picture of what is seen, as a PNG file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn picture(&self, path: &Path) {
        let path_of = format!("/session/{}/screenshot", self.session);
        let text = self.ask("GET", &path_of, None).expect("a picture");
        let bytes = base64(text.as_str().expect("in base64"));
        std::fs::write(path, bytes).expect("the picture can be written");
    }

    fn tell(&self, path: &str, body: &Value) -> Value {
        let path = format!("/session/{}{path}", self.session);
        self.ask("POST", &path, Some(body)).unwrap_or_else(|| panic!("the browser did not do {path}: {body}"))
    }

    /// One call; `None` when it failed.
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        );
        stream.write_all(request.as_bytes()).ok()?;
        // The driver keeps the connection open, whatever it is asked: what it says of the length counts.
        let answer = Message::read(&mut BufReader::new(stream), true).ok()??;
        if answer.status() != Some(200) {
            return None;
        }
        let value: Value = serde_json::from_slice(&answer.body).ok()?;
        Some(value["value"].clone())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.ask("DELETE", &format!("/session/{}", self.session), None);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The bytes that a text in base64 stands for.
fn base64(text: &str) -> Vec<u8> {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::new();
    let digits: Vec<u32> = text.bytes().filter_map(value).collect();
    for four in digits.chunks(4) {
        let sum = four.iter().enumerate().fold(0, |sum, (at, digit)| sum | digit << (18 - 6 * at));
        let three = [(sum >> 16) as u8, (sum >> 8) as u8, sum as u8];
        bytes.extend_from_slice(&three[..four.len().saturating_sub(1)]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_read() {
        assert_eq!(super::base64("aGVsbG8="), b"hello");
        assert_eq!(super::base64("aGVsbG8h"), b"hello!");
        assert_eq!(super::base64("/+8="), [0xff, 0xef]);
    }
}
