//! The figures of front door, runs and backups in the text format of Prometheus. No names of people, no secrets.

use std::fmt::Write as _;

use crate::house::{Now, RunRow};

/// The figures as they are now.
pub(crate) fn text(now: &Now, runs: &[RunRow]) -> String {
    let mut out = String::new();
    let app = now.app.replace(['"', '\\', '\n'], "");
    let mut family = |name: &str, kind: &str, help: &str, values: &[(String, f64)]| {
        if values.is_empty() {
            return;
        }
        let _ = writeln!(out, "# HELP plimsoll_{name} {help}\n# TYPE plimsoll_{name} {kind}");
        for (labels, value) in values {
            let labels = if labels.is_empty() { String::new() } else { format!(",{labels}") };
            let _ = writeln!(out, "plimsoll_{name}{{app=\"{app}\"{labels}}} {value}");
        }
    };
    let one = |value: f64| vec![(String::new(), value)];
    let maybe = |value: Option<f64>| value.map(one).unwrap_or_default();
    let release = now.release.iter().map(|id| (format!("release=\"{id}\""), 1.0)).collect::<Vec<_>>();
    family("release_info", "gauge", "The release that is current", &release);
    let doors = ["open", "held", "shut", "none"];
    let door = doors.map(|door| (format!("state=\"{door}\""), f64::from(u8::from(now.door == door))));
    family("door_state", "gauge", "1 for the state that the front door is in", &door);
    family("healthy", "gauge", "1 when nothing is wrong", &one(f64::from(u8::from(now.trouble.is_empty()))));
    family(
        "run_going",
        "gauge",
        "The run that is going on, 0 without one",
        &one(f64::from(now.running.unwrap_or(0))),
    );
    if let Some(traffic) = &now.traffic {
        family("requests_total", "counter", "Requests accepted", &one(traffic.requests as f64));
        let classes =
            (1..=5).zip(traffic.classes).map(|(class, count)| (format!("class=\"{class}xx\""), count as f64));
        family("answers_total", "counter", "Answers by class", &classes.collect::<Vec<_>>());
        family(
            "requests_left_total",
            "counter",
            "Requests whose client left first",
            &one(traffic.left as f64),
        );
        family(
            "requests_held_total",
            "counter",
            "Requests that waited at the door",
            &one(traffic.held as f64),
        );
        family(
            "door_failed_total",
            "counter",
            "502 and 504 written by the door",
            &one(traffic.failed_here as f64),
        );
        family("door_refused_total", "counter", "503 written by the door", &one(traffic.refused_here as f64));
        family("requests_waiting", "gauge", "Requests that wait at the door", &one(traffic.waiting as f64));
        family("requests_in_flight", "gauge", "Requests at the app", &one(traffic.in_flight as f64));
        let latency = [("0.5", traffic.p50_ms), ("0.99", traffic.p99_ms)];
        let latency =
            latency.iter().filter_map(|(q, ms)| Some((format!("quantile=\"{q}\""), (*ms)? / 1_000.0)));
        family("latency_seconds", "gauge", "Time until the head of an answer", &latency.collect::<Vec<_>>());
    }
    let machine = &now.machine;
    family(
        "app_restarts_total",
        "counter",
        "Restarts because the app ended by itself",
        &one(machine.restarts as f64),
    );
    family("app_cpu_seconds_total", "counter", "Processor time of the app", &maybe(machine.cpu_s));
    family("app_memory_bytes", "gauge", "Memory of the app", &maybe(machine.memory_bytes.map(|b| b as f64)));
    family(
        "disk_free_bytes",
        "gauge",
        "Free where the app lives",
        &maybe(machine.disk_free_bytes.map(|b| b as f64)),
    );
    family(
        "database_bytes",
        "gauge",
        "The database's file",
        &maybe(machine.database_bytes.map(|b| b as f64)),
    );
    family(
        "wal_bytes",
        "gauge",
        "The database's write-ahead log",
        &maybe(machine.wal_bytes.map(|b| b as f64)),
    );
    family(
        "backup_age_seconds",
        "gauge",
        "Age of the newest verified backup",
        &maybe(now.backup_age_s.map(|s| s as f64)),
    );
    family(
        "drill_age_seconds",
        "gauge",
        "Time since a backup was restored in a drill",
        &maybe(now.drill_age_s.map(|s| s as f64)),
    );
    let mut endings: std::collections::BTreeMap<(&str, &str), f64> = std::collections::BTreeMap::new();
    for run in runs {
        *endings.entry((run.kind.as_str(), run.ending.as_deref().unwrap_or("open"))).or_default() += 1.0;
    }
    let endings = endings
        .into_iter()
        .map(|((kind, ending), count)| (format!("kind=\"{kind}\",ending=\"{ending}\""), count));
    family("runs", "gauge", "Runs on record by kind and ending", &endings.collect::<Vec<_>>());
    if let Some(last) = &now.last {
        family("last_run", "gauge", "The number of the last run", &one(f64::from(last.run)));
        family("last_run_exit", "gauge", "Its exit code", &maybe(last.exit.map(f64::from)));
        family(
            "last_run_hold_seconds",
            "gauge",
            "How long users waited in it",
            &one(last.hold_ms as f64 / 1_000.0),
        );
        family("last_run_seconds", "gauge", "How long it took", &one(last.ms as f64 / 1_000.0));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::Traffic;

    #[test]
    fn every_line_is_a_comment_or_a_name_with_labels_and_a_number() {
        let last = RunRow {
            run: 3,
            kind: "deploy".into(),
            ending: Some("live".into()),
            exit: Some(0),
            ..RunRow::default()
        };
        let now = Now {
            app: "sh\"op".into(),
            release: Some("000003-abcdef0".into()),
            door: "open".into(),
            traffic: Some(Traffic { requests: 7, p50_ms: Some(1.5), ..Traffic::default() }),
            last: Some(last.clone()),
            ..Now::default()
        };
        let text = text(&now, &[last]);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(
                name.starts_with("plimsoll_") && name.ends_with('}') && name.contains("{app=\"shop\""),
                "{line}"
            );
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
        assert!(text.contains("plimsoll_requests_total{app=\"shop\"} 7\n"), "{text}");
        assert!(text.contains("plimsoll_latency_seconds{app=\"shop\",quantile=\"0.5\"} 0.0015\n"), "{text}");
        assert!(text.contains("plimsoll_runs{app=\"shop\",kind=\"deploy\",ending=\"live\"} 1\n"), "{text}");
        assert!(!text.contains("quantile=\"0.99\""), "what is not known is left out");
    }
}
