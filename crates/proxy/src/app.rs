//! A scripted app and raw clients, for this crate's tests: sockets and threads, no HTTP library of ours in between.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::{FrontDoor, Options, Target};

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection's number at this app.
    pub(crate) connection: usize,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn path(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// What the script does after an answer.
#[derive(PartialEq)]
pub(crate) enum Then {
    Keep,
    Close,
}

type Script = dyn Fn(&Asked, &mut BufReader<TcpStream>) -> io::Result<Then> + Send + Sync;

pub(crate) struct App {
    pub(crate) addr: SocketAddr,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<BTreeMap<usize, TcpStream>>>,
    listening: Option<thread::JoinHandle<()>>,
}

impl App {
    pub(crate) fn start(
        script: impl Fn(&Asked, &mut BufReader<TcpStream>) -> io::Result<Then> + Send + Sync + 'static,
    ) -> App {
        // An address of its own: the port of an app that was stopped must not become that of another test's.
        static ADDRESSES: AtomicUsize = AtomicUsize::new(0);
        let [high, low] = (ADDRESSES.fetch_add(1, SeqCst) as u16).to_be_bytes();
        App::start_at((Ipv4Addr::new(127, 77, high, low), 0).into(), script)
    }

    pub(crate) fn start_at(
        addr: SocketAddr,
        script: impl Fn(&Asked, &mut BufReader<TcpStream>) -> io::Result<Then> + Send + Sync + 'static,
    ) -> App {
        let listener = TcpListener::bind(addr).unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let open = Arc::new(Mutex::new(BTreeMap::new()));
        let script: Arc<Script> = Arc::new(script);
        let numbers = AtomicUsize::new(0);
        let listening = thread::spawn({
            let (asked, stop, open) = (Arc::clone(&asked), Arc::clone(&stop), Arc::clone(&open));
            move || {
                for stream in listener.incoming() {
                    if stop.load(SeqCst) {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    let number = numbers.fetch_add(1, SeqCst);
                    open.lock().unwrap().insert(number, stream.try_clone().unwrap());
                    let (asked, script, open) = (Arc::clone(&asked), Arc::clone(&script), Arc::clone(&open));
                    thread::spawn(move || {
                        let _ = converse(number, stream, &asked, &script);
                        open.lock().unwrap().remove(&number);
                    });
                }
            }
        });
        App { addr, asked, stop, open, listening: Some(listening) }
    }

    /// An app that answers 200 with `text`, after `delay`.
    pub(crate) fn saying(text: &'static str, delay: Duration) -> App {
        App::start(move |_, stream| {
            thread::sleep(delay);
            reply(stream, text)
        })
    }

    pub(crate) fn target(&self, release: &str) -> Target {
        Target { addr: self.addr, release: release.to_owned() }
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub(crate) fn last(&self) -> Asked {
        self.asked.lock().unwrap().last().cloned().expect("the app was not asked")
    }

    /// Ends like a process: the listener and all connections are closed.
    pub(crate) fn stop(&mut self) {
        if let Some(listening) = self.listening.take() {
            self.stop.store(true, SeqCst);
            let _ = TcpStream::connect(self.addr);
            listening.join().unwrap();
            for stream in self.open.lock().unwrap().values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn reply(stream: &mut BufReader<TcpStream>, text: &str) -> io::Result<Then> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nx-release: 1\r\n\r\n{text}", text.len());
    stream.get_mut().write_all(head.as_bytes())?;
    Ok(Then::Keep)
}

fn converse(
    connection: usize,
    stream: TcpStream,
    log: &Mutex<Vec<Asked>>,
    script: &Arc<Script>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let Some((line, headers)) = read_head(&mut stream)? else { return Ok(()) };
        let mut asked = Asked { line, headers, body: Vec::new(), connection };
        asked.body = read_body(&mut stream, &asked.headers)?;
        log.lock().unwrap().push(asked.clone());
        if script(&asked, &mut stream)? == Then::Close {
            return Ok(());
        }
    }
}

type Head = (String, Vec<(String, String)>);

fn read_head(stream: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        if stream.read_line(&mut header)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match header.trim_end().split_once(':') {
            None => return Ok(Some((line.trim_end().to_owned(), headers))),
            Some((name, value)) => headers.push((name.to_owned(), value.trim().to_owned())),
        }
    }
}

fn read_body(stream: &mut impl BufRead, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
    let header =
        |name: &str| headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
    let mut body = Vec::new();
    if header("transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
            if size == 0 {
                break;
            }
            let at = body.len();
            body.resize(at + size, 0);
            stream.read_exact(&mut body[at..])?;
            let mut end = [0; 2];
            stream.read_exact(&mut end)?;
        }
        // Trailers are kept at the end of the body, as lines.
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line)? == 0 || line == "\r\n" {
                return Ok(body);
            }
            body.extend_from_slice(line.as_bytes());
        }
    } else if let Some(length) = header("content-length") {
        body.resize(length.parse().map_err(io::Error::other)?, 0);
        stream.read_exact(&mut body)?;
    }
    Ok(body)
}

/// An answer as a raw client sees it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) fn open(addr: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_nodelay(true).unwrap();
    BufReader::new(stream)
}

pub(crate) fn send(stream: &mut BufReader<TcpStream>, text: &str) {
    stream.get_mut().write_all(text.as_bytes()).unwrap();
}

pub(crate) fn receive(stream: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let (line, headers) = read_head(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status =
        line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let body = read_body(stream, &headers)?;
    Ok(Answer { status, headers, body })
}

/// One request on a connection of its own.
pub(crate) fn ask(addr: SocketAddr, request: &str) -> io::Result<Answer> {
    let mut stream = open(addr);
    stream.get_mut().write_all(request.as_bytes())?;
    receive(&mut stream)
}

pub(crate) fn get(addr: SocketAddr, path: &str) -> io::Result<Answer> {
    ask(addr, &format!("GET {path} HTTP/1.1\r\nhost: shop.test\r\n\r\n"))
}

pub(crate) fn post(addr: SocketAddr, path: &str, body: &str) -> io::Result<Answer> {
    ask(
        addr,
        &format!("POST {path} HTTP/1.1\r\nhost: shop.test\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
    )
}

pub(crate) fn door(options: Options) -> FrontDoor {
    FrontDoor::start(TcpListener::bind("127.0.0.1:0").unwrap(), options).unwrap()
}

/// A door that is open to `app`.
pub(crate) fn door_to(app: &App) -> FrontDoor {
    let door = door(Options::default());
    door.set_target(Some(app.target("1")));
    door.gate().open();
    door
}

/// Polls until `true`; panics after ten seconds.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// An open-loop load: each request at its time, whatever became of the others. Returns status and how long each took.
pub(crate) fn load(
    addr: SocketAddr,
    per_second: u32,
    span: Duration,
    ask: impl Fn(SocketAddr, u32) -> io::Result<Answer> + Send + Sync,
) -> Vec<(u16, Duration)> {
    let count = (span.as_secs_f64() * f64::from(per_second)) as u32;
    let began = Instant::now();
    thread::scope(|scope| {
        let asking: Vec<_> = (0..count)
            .map(|number| {
                let at = began + Duration::from_secs(1) * number / per_second;
                let ask = &ask;
                thread::Builder::new()
                    .stack_size(128 * 1024)
                    .spawn_scoped(scope, move || {
                        thread::sleep(at.saturating_duration_since(Instant::now()));
                        let began = Instant::now();
                        let status = ask(addr, number).map_or(0, |answer| answer.status);
                        (status, began.elapsed())
                    })
                    .unwrap()
            })
            .collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    })
}
