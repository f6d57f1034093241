//! The shop's catalogue under load, with 10,000 products and 100,000 orders: requests per second, the time of the
//! slowest hundredth, memory, and the processor's time per request, which other programs on the machine disturb least.
//!
//! `original` is what the Flask shop that this one replaces did on such a machine: two workers, 120 products, on two
//! cores that also ran the load. It is a published figure and is not measured here. Settings: `SHOP_BENCH_SECONDS`
//! (5 per page), `SHOP_BENCH_CLIENTS` (16), `SHOP_BENCH_PRODUCTS` (10000), `SHOP_BENCH_ORDERS` (100000).

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

type Failure = Box<dyn Error + Send + Sync>;

/// A page: its name, what the original did per second, and its addresses.
struct Page {
    name: &'static str,
    original: f64,
    paths: Vec<String>,
    /// Sent with each request: a basket, so that no page that is kept for all will do.
    cookie: String,
}

fn main() -> Result<(), Failure> {
    let seconds = setting("SHOP_BENCH_SECONDS", 5)?;
    let clients = usize::try_from(setting("SHOP_BENCH_CLIENTS", 16)?)?;
    let (products, orders) =
        (setting("SHOP_BENCH_PRODUCTS", 10_000)?, setting("SHOP_BENCH_ORDERS", 100_000)?);
    let folder = tempfile::Builder::new().prefix("greengrocer-bench-").tempdir()?;
    let database = folder.path().join("store.db");
    let program = std::env::current_exe()?.with_file_name("greengrocer");
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shop");
    let command = |what: &str| {
        let mut command = Command::new(&program);
        command.arg(what).env("DATABASE_PATH", &database).env("GREENGROCER_HOME", &home).env("PORT", "0");
        command.env("GREENGROCER_SECRET", "a secret of the benchmark, 32 bytes").stdout(Stdio::piped());
        command
    };
    for what in ["migrate", "seed"] {
        if !command(what).stdout(Stdio::null()).status()?.success() {
            return Err(format!("greengrocer {what} failed").into());
        }
    }
    fill(&database, products, orders)?;
    let mut shop = Shop::start(command("serve"))?;
    let product = |number: u64| format!("/product/{}", 1 + number * 7919 % products);
    let words = ["dal", "rice", "tomato", "jaggery", "chilli", "ragi", "organic", "tomatto", "बासमती", "ಬೇಳೆ"];
    let search = |number: u64| {
        let word = words[usize::try_from(number).unwrap_or(0) % words.len()];
        let encoded: String = word.bytes().map(|byte| format!("%{byte:02X}")).collect();
        format!("/search?q={encoded}+{}", number % 50)
    };
    let basket = shop.basket()?;
    let pages = |cookie: &str| {
        [
            Page { name: "home", original: 270.0, paths: vec!["/".to_owned()], cookie: cookie.to_owned() },
            Page {
                name: "search",
                original: 295.0,
                paths: (0..500).map(search).collect(),
                cookie: cookie.to_owned(),
            },
            Page {
                name: "product",
                original: 352.0,
                paths: (0..products).map(product).collect(),
                cookie: cookie.to_owned(),
            },
        ]
    };
    println!(
        "{products} products, {orders} orders, {clients} clients, {seconds} s per page, load and shop on one machine"
    );
    println!(
        "home: one address; search: 500 different; product: {products} different, each asked for in turn. `busy` is a new \
         visitor\nwhile something in the database changes every second, after which no kept page is shown"
    );
    println!("page     visitor  requests/s  original  times    p50 ms  p99 ms  CPU us/request  resident MiB");
    for (visitor, cookie) in [("new", String::new()), ("basket", basket), ("busy", String::new())] {
        for page in pages(&cookie) {
            let changes = (visitor == "busy").then_some(database.as_path());
            let (cpu, began) = (shop.cpu()?, Instant::now());
            let mut times = load(&shop.address, &page, clients, Duration::from_secs(seconds), changes)?;
            let (took, cpu) = (began.elapsed().as_secs_f64(), shop.cpu()? - cpu);
            times.sort_unstable();
            let rate = times.len() as f64 / took;
            let at = |part: usize| {
                times.get(times.len() * part / 1000).copied().unwrap_or_default() as f64 / 1000.0
            };
            println!(
                "{:<8} {visitor:<8} {rate:>10.0}  {:>8.0}  {:>5.1}  {:>7.2} {:>7.2}  {:>14.0}  {:>12.1}",
                page.name,
                page.original,
                rate / page.original,
                at(500),
                at(990),
                cpu.as_micros() as f64 / times.len().max(1) as f64,
                shop.memory()? as f64 / 1024.0
            );
        }
    }
    shop.child.kill()?;
    shop.child.wait()?;
    Ok(())
}

fn setting(name: &str, default: u64) -> Result<u64, Failure> {
    std::env::var(name).map_or(Ok(default), |value| Ok(value.parse()?))
}

/// Products like the seed's with other numbers in their names, and old orders of them.
fn fill(database: &Path, products: u64, orders: u64) -> Result<(), Failure> {
    let mut connection = rusqlite::Connection::open(database)?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 62 UNION ALL SELECT i + 1 FROM n WHERE i < {products})
         INSERT INTO products (category_id, name, local_name, description, pack_size, net_quantity, unit, mrp_paise,
             price_paise, stock)
         SELECT p.category_id, p.name || ' ' || (i % 163), p.local_name, p.description, p.pack_size || ' / ' || i,
             p.net_quantity, p.unit, p.mrp_paise, p.price_paise, 50 FROM n JOIN products AS p ON p.id = 1 + i % 61;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {orders})
         INSERT INTO orders (token, idempotency_key, customer_name, phone, address, city, pincode, region_id,
             subtotal_paise, delivery_paise, total_paise, state, created_at)
         SELECT printf('old-%032d', i), printf('old-%032d', i), 'Lakshmi Rao', '9845012345', '3rd Cross', 'Bengaluru',
             '560004', 1, 5000, 0, 5000, 'delivered', strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-' || (i % 9000) || ' hours')
         FROM n;
         INSERT INTO order_items (order_id, product_id, product_name, pack_size, quantity, unit_price_paise)
         SELECT o.id, p.id, p.name, p.pack_size, 1, 5000 FROM orders AS o JOIN products AS p ON p.id = 1 + o.id % {products};"
    ))?;
    transaction.commit()?;
    Ok(())
}

struct Shop {
    child: Child,
    address: String,
}

impl Shop {
    fn start(mut command: Command) -> Result<Self, Failure> {
        let mut child = command.stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let address =
            line.trim().strip_prefix("listening on http://").ok_or("the shop did not open")?.to_owned();
        Ok(Self { child, address })
    }

    /// The cookies of a visitor with something in the basket.
    fn basket(&self) -> Result<String, Failure> {
        let ask = |request: String| -> Result<String, Failure> {
            let mut stream = TcpStream::connect(&self.address)?;
            stream.write_all(request.as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let cookie = |answer: &str, name: &str| -> Result<String, Failure> {
            let start = format!("set-cookie: {name}=");
            let line = answer.lines().find(|line| line.starts_with(&start)).ok_or("no cookie")?;
            Ok(line["set-cookie: ".len()..].split(';').next().unwrap_or_default().to_owned())
        };
        let end = format!("host: {}\r\nconnection: close\r\n", self.address);
        let page = ask(format!("GET /product/1 HTTP/1.1\r\n{end}\r\n"))?;
        let visitor = cookie(&page, "visitor")?;
        let csrf = page.split("name=\"csrf\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
        let form = format!("csrf={}&product_id=2", csrf.ok_or("no token")?);
        let added = ask(format!(
            "POST /cart/add HTTP/1.1\r\n{end}cookie: {visitor}\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             content-length: {}\r\n\r\n{form}",
            form.len()
        ))?;
        Ok(format!("{visitor}; {}", cookie(&added, "cart")?))
    }

    /// Processor time so far.
    fn cpu(&self) -> Result<Duration, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        Ok(Duration::from_millis(ticks * 10))
    }

    /// The most memory that it has held, KiB.
    fn memory(&self) -> Result<u64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).ok_or("no VmHWM")?;
        Ok(line.split_whitespace().nth(1).unwrap_or_default().parse()?)
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks for a page's addresses over and over on kept connections, and answers the microseconds of each answer.
/// Meanwhile `changed`, a database, is written to every second.
fn load(
    address: &str,
    page: &Page,
    clients: usize,
    time: Duration,
    changed: Option<&Path>,
) -> Result<Vec<u32>, Failure> {
    thread::scope(|scope| {
        let changer = changed.map(|database| {
            scope.spawn(move || -> Result<(), Failure> {
                let (connection, end) = (rusqlite::Connection::open(database)?, Instant::now() + time);
                while Instant::now() < end {
                    connection.execute("UPDATE products SET stock = stock + 1 WHERE id = 1", [])?;
                    thread::sleep(Duration::from_secs(1).min(end.saturating_duration_since(Instant::now())));
                }
                Ok(())
            })
        });
        let workers: Vec<_> = (0..clients)
            .map(|number| {
                scope.spawn(move || client(address, page, number * page.paths.len() / clients, time))
            })
            .collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().map_err(|_| "a client panicked")??);
        }
        if let Some(changer) = changer {
            changer.join().map_err(|_| "the thread that changes the database panicked")??;
        }
        Ok(all)
    })
}

fn client(address: &str, page: &Page, first: usize, time: Duration) -> Result<Vec<u32>, Failure> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let cookie = if page.cookie.is_empty() { String::new() } else { format!("cookie: {}\r\n", page.cookie) };
    let mut times = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let end = Instant::now() + time;
    let mut next = first;
    while Instant::now() < end {
        let path = &page.paths[next % page.paths.len()];
        next += 1;
        let began = Instant::now();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{cookie}\r\n").as_bytes())?;
        let mut held = 0;
        let body_from = loop {
            held += stream.read(&mut buffer[held..])?;
            if let Some(at) = buffer[..held].windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = std::str::from_utf8(&buffer[..body_from])?;
        if !head.starts_with("HTTP/1.1 200") {
            return Err(format!("{path}: {}", head.lines().next().unwrap_or_default()).into());
        }
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).ok_or("no length")?;
        let mut left = (body_from + length.trim().parse::<usize>()?).saturating_sub(held);
        while left > 0 {
            let most = buffer.len().min(left);
            let read = stream.read(&mut buffer[..most])?;
            if read == 0 {
                return Err("the answer broke off".into());
            }
            left -= read;
        }
        times.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    Ok(times)
}
