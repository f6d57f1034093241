//! `[[query]]`: a figure that another program knows, Prometheus or any page that answers JSON, as one more check.

use std::time::Duration;

use plimsoll_core::check::Check;
use serde_json::Value;

/// What is read of an answer.
const LONGEST_BODY: u64 = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// One question.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// What is asked, in a person's words.
    pub name: String,
    /// Where; for Prometheus `http://HOST:9090/api/v1/query?query=...`.
    pub url: String,
    /// JSON pointer to the figure in the answer.
    pub pointer: String,
    /// Bad above this.
    pub at_most: Option<f64>,
    /// Bad below this.
    pub at_least: Option<f64>,
}

/// Where Prometheus's instant queries have their figure.
pub const PROMETHEUS: &str = "/data/result/0/value/1";

impl Query {
    /// Asks, and judges the figure.
    #[must_use]
    pub fn ask(&self) -> Check {
        let check = match self.figure() {
            Err(why) => Check::unknown("watch.apm", &self.name, why),
            Ok(figure) if self.at_most.is_some_and(|most| figure > most) => {
                let why = format!("it is {figure}, and may be {} at most", self.at_most.unwrap_or_default());
                Check::fail("watch.apm", &self.name, why).with("figure", figure)
            }
            Ok(figure) if self.at_least.is_some_and(|least| figure < least) => {
                let why =
                    format!("it is {figure}, and must be {} at least", self.at_least.unwrap_or_default());
                Check::fail("watch.apm", &self.name, why).with("figure", figure)
            }
            Ok(figure) => Check::pass("watch.apm", &self.name).with("figure", figure),
        };
        let judgement = match check.verdict {
            plimsoll_core::check::Verdict::Pass => "good",
            plimsoll_core::check::Verdict::Fail => "bad",
            _ => "not enough",
        };
        check.with("judgement", judgement)
    }

    fn figure(&self) -> Result<f64, String> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .user_agent("plimsoll-watch")
            .build()
            .into();
        let mut response = agent.get(&self.url).call().map_err(|e| format!("no answer: {e}"))?;
        if !response.status().is_success() {
            return Err(format!("answered with status {}", response.status().as_u16()));
        }
        let body = response.body_mut().with_config().limit(LONGEST_BODY).read_to_vec();
        let body = body.map_err(|e| format!("no whole answer: {e}"))?;
        let json: Value = serde_json::from_slice(&body).map_err(|_| "the answer is not JSON".to_owned())?;
        let found = json
            .pointer(&self.pointer)
            .ok_or_else(|| format!("the answer has nothing at {}", self.pointer))?;
        // Prometheus gives its figures as texts.
        let figure = found.as_f64().or_else(|| found.as_str()?.parse().ok());
        figure.filter(|f| f.is_finite()).ok_or_else(|| format!("at {} is no number", self.pointer))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use plimsoll_core::check::Verdict;

    use super::*;

    fn answering(body: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/api/v1/query?query=up", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let head =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        });
        url
    }

    fn asked(body: &'static str, at_most: f64) -> Check {
        let (url, pointer) = (answering(body), PROMETHEUS.to_owned());
        Query { name: "5xx share".into(), url, pointer, at_most: Some(at_most), at_least: None }.ask()
    }

    #[test]
    fn a_figure_of_prometheus_is_judged_and_what_is_none_is_unknown() {
        const UP: &str = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1, "0.07"]}]}}"#;
        let bad = asked(UP, 0.05);
        assert_eq!((bad.verdict, bad.why()), (Verdict::Fail, "it is 0.07, and may be 0.05 at most"));
        assert_eq!(asked(UP, 0.1).verdict, Verdict::Pass);
        const NOTHING: &str = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
        assert_eq!(asked(NOTHING, 0.1).verdict, Verdict::Unknown, "no data is no pass");
        assert_eq!(asked("<html>", 0.1).verdict, Verdict::Unknown);
        let url = "http://127.0.0.1:1/".to_owned();
        let query =
            Query { name: "x".into(), url, pointer: String::new(), at_most: None, at_least: Some(1.0) };
        assert_eq!(query.ask().verdict, Verdict::Unknown);
    }
}
