//! Shops that run as they always did become release 1: Flask under systemd behind nginx, Django under supervisor, Node
//! started by hand. The applications are those in `examples/`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plimsoll_testkit::{Buyers, Output, Sandbox, SystemdBox, binary, fault, http, shop, wait};

use crate::sources::workspace;

/// What the unit's secret is, to be found nowhere but in its file.
const SECRET: &str = "s3cr3t-of-the-unit";

/// A shop in a checkout of its own, in a box where something starts it.
struct Shop {
    // Dropped in this order: the box ends what runs in the sandbox's folder.
    inside: SystemdBox,
    _sandbox: Sandbox,
    folder: PathBuf,
    /// A copy of the program that every user may run.
    program: PathBuf,
    /// Where the app listens.
    port: u16,
}

impl Shop {
    /// The example in a checkout. What it needs must be the system's own: the box sees no other. `None` when it cannot be had here; that has been said.
    fn of(example: &str, test: &str, needs: &[&str]) -> Option<Shop> {
        for need in needs {
            let words: Vec<String> = need.split(' ').map(|word| word.replace(':', " ")).collect();
            let there = std::process::Command::new(&words[0]).args(&words[1..]).output();
            if !there.is_ok_and(|output| output.status.success()) {
                fault::skipped(
                    test,
                    &format!("`{need}` does not work here; scripts/tools installs it as root"),
                );
                return None;
            }
        }
        let sandbox = Sandbox::new();
        let top = sandbox.root().parent().unwrap().to_owned();
        let open = |path: &Path| fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        open(&top);
        let folder = top.join("grocery");
        let copied = std::process::Command::new("cp")
            .arg("--recursive")
            .arg(workspace().join("examples").join(example))
            .arg(&folder)
            .status();
        assert!(copied.unwrap().success());
        let program = top.join("plimsoll");
        fs::hard_link(binary("plimsoll"), &program)
            .or_else(|_| fs::copy(binary("plimsoll"), &program).map(drop))
            .unwrap();
        let inside = match SystemdBox::start(&sandbox) {
            Ok(inside) => inside,
            Err(why) => {
                fault::skipped(test, &why);
                return None;
            }
        };
        let port = sandbox.port;
        let shop = Shop { inside, _sandbox: sandbox, folder, program, port };
        shop.sh("git init -q -b main . && git add . && git -c user.name=a -c user.email=a@example.com commit -qm 'As it runs'");
        Some(shop)
    }

    /// In the checkout.
    #[track_caller]
    fn sh(&self, line: &str) -> String {
        let output = self.try_sh(line);
        output.exits(0);
        output.stdout.clone()
    }

    fn try_sh(&self, line: &str) -> Output {
        self.inside.run(&["env", "-C", &self.folder.display().to_string(), "sh", "-c", line])
    }

    fn plimsoll(&self, arguments: &[&str]) -> Output {
        let program = self.program.display().to_string();
        let words: Vec<&str> = std::iter::once(program.as_str()).chain(arguments.iter().copied()).collect();
        self.inside.run(&words)
    }

    /// On the checkout.
    fn adopt(&self, more: &[&str]) -> Output {
        let folder = self.folder.display().to_string();
        let words: Vec<&str> =
            ["-C", folder.as_str(), "adopt"].into_iter().chain(more.iter().copied()).collect();
        self.plimsoll(&words)
    }

    fn root(&self) -> PathBuf {
        self.folder.with_file_name("grocery-production")
    }

    /// On the new root.
    fn at_root(&self, arguments: &[&str]) -> Output {
        let root = self.root().display().to_string();
        let words: Vec<&str> = ["-C", root.as_str()].into_iter().chain(arguments.iter().copied()).collect();
        self.plimsoll(&words)
    }

    #[track_caller]
    fn until_it_answers(&self, port: u16) {
        wait::until("the shop answers", Duration::from_secs(30), || {
            http::get(port, "/healthz").is_ok_and(|answer| answer.status() == Some(200))
        });
    }

    fn commit(&self, line: &str) {
        // As root, in a checkout of the app's user.
        let git = "git -c safe.directory='*' -c user.name=a -c user.email=a@example.com";
        self.sh(&format!("{line} && {git} add . && {git} commit -qm 'Next'"));
    }

    /// Taken over while people buy, then deployed while people buy, then taken back.
    fn is_adopted_deployed_and_taken_back(&self, database: &str, users: u16, change: &str) {
        let before = self.listing();
        self.adopt(&["--print"]).exits(0).says("move ").says("release 1");
        assert_eq!(before, self.listing(), "showing it changed something");
        assert!(!self.root().exists());

        let old = self.folder.join(database);
        let buyers = Buyers::start(users, 3);
        buyers.place(20);
        self.adopt(&["--yes"]).exits(0).says("adopted: 000001-").says(" is live at ");
        buyers.place(20);
        // Between stop and start nobody answered them; what they were promised is there.
        let ledger = buyers.stop();
        let new = self.root().join("shared").join(database);
        assert!(ledger.promised() >= 40);
        assert_eq!(ledger.lost(&new), Vec::<String>::new());
        assert_eq!(fs::read_link(&old).unwrap(), new, "the path of before leads to the database");
        assert_eq!(ledger.lost(&old), Vec::<String>::new());

        self.commit(change);
        let buyers = Buyers::start(users, 3);
        buyers.place(10);
        self.at_root(&["deploy", "--yes", "--no-watch"]).exits(0).says("Live.");
        buyers.place(10);
        buyers.stop().unharmed(&new);

        // The checkout has the code of the first release, so that is where the way back begins.
        self.at_root(&["adopt", "--undo", "--yes"]).exits(3).says("rollback --to 000001-");
        self.at_root(&["rollback", "--yes"]).exits(0);
        let buyers = Buyers::start(users, 2);
        buyers.place(10);
        self.at_root(&["adopt", "--undo", "--yes"]).exits(0).says("taken back");
        let ledger = buyers.stop();
        assert_eq!(ledger.lost(&old), Vec::<String>::new());
        assert!(!fs::symlink_metadata(&old).unwrap().is_symlink() && !new.exists());
    }

    /// Names, kinds and modes of all in the checkout but git's and Python's own.
    fn listing(&self) -> String {
        let find = "find . -not -path './.git/*' -not -path '*/__pycache__*' -not -path './.venv/*' -printf '%p %y %m %u\\n' | grep -v -- -journal | sort";
        self.sh(find)
    }
}

const VENV: &str = "python3 -m venv --system-site-packages .venv";

fn flask(test: &str, more: &str) -> Option<(Shop, u16)> {
    let shop = Shop::of(
        "flask",
        test,
        &[
            "/usr/bin/python3 -c import:flask",
            "gunicorn --version",
            "nginx -v",
            "/usr/bin/python3 -m venv -h",
        ],
    )?;
    shop.sh(VENV);
    shop.sh("sqlite3 store.db < migrations/0001_shop.sql && sqlite3 store.db \"PRAGMA journal_mode = WAL; INSERT INTO products VALUES (1, 'Basmati', 12000), (2, 'Toor dal', 9000), (3, 'Ghee', 45000)\"");
    shop.sh("mkdir uploads && echo picture >uploads/ghee.jpg && echo MAIL=1 >.env");
    shop.sh(more);
    shop.sh("chown -R www-data: .");
    let (folder, port) = (shop.folder.display(), shop.port);
    shop.inside.write(
        "/etc/systemd/system/grocery.service",
        &format!(
            "[Unit]\nDescription=Grocery\n[Service]\nUser=www-data\nWorkingDirectory={folder}\n\
             Environment=SECRET_KEY={SECRET}\n\
             ExecStart={folder}/.venv/bin/python -m gunicorn --workers 2 --bind 127.0.0.1:{port} app:app\n\
             Restart=always\n[Install]\nWantedBy=box.target\n"
        ),
    );
    let front = Sandbox::new().port;
    shop.inside.write(
        "/etc/nginx/grocery.conf",
        &format!(
            "pid /run/nginx-grocery.pid;\nevents {{}}\nhttp {{ access_log off; server {{ listen 127.0.0.1:{front};\n\
             location / {{ proxy_pass http://127.0.0.1:{port}; proxy_read_timeout 60s; }} }} }}\n"
        ),
    );
    shop.sh("systemctl daemon-reload && systemctl enable --now grocery.service 2>&1");
    shop.sh("cd / && nginx -c /etc/nginx/grocery.conf >/dev/null 2>&1");
    shop.until_it_answers(front);
    Some((shop, front))
}

#[test]
fn a_flask_shop_under_systemd_behind_nginx_is_adopted_and_taken_back() {
    let Some((shop, users)) = flask("adopting a Flask shop", "true") else { return };
    shop.is_adopted_deployed_and_taken_back("store.db", users, "sed -i 's/Grocery:/The grocery:/' app.py");
    assert_eq!(shop.inside.is_active("grocery.service"), "active");
    shop.sh("systemctl is-enabled grocery.service && test -f uploads/ghee.jpg && test ! -L uploads && test ! -L .env");
    shop.until_it_answers(users);
}

#[test]
fn what_an_adopted_shop_is_given_stands_in_files_of_its_own_and_nowhere_else() {
    let Some((shop, _)) = flask("the secrets of an adopted shop", "true") else { return };
    let output = shop.adopt(&["--yes"]);
    output.exits(0);
    assert!(!output.said().contains(SECRET), "{}", output.said());
    let found = shop.inside.run(&["grep", "-rlF", SECRET, &shop.root().display().to_string()]);
    let file = shop.root().join("shared/env/SECRET_KEY");
    assert_eq!(found.stdout.trim(), file.display().to_string());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_ne!(shop.inside.is_active("grocery.service"), "active");
    let enabled = shop.try_sh("systemctl is-enabled grocery.service").stdout;
    assert_eq!(enabled.trim(), "disabled", "it must not start beside the front door after a reboot");
    // Uploads and settings moved, and are where they were for whoever looks there.
    assert_eq!(fs::read_to_string(shop.folder.join("uploads/ghee.jpg")).unwrap(), "picture\n");
    assert!(shop.root().join("shared/uploads/ghee.jpg").exists());
    // A second time is refused, and says where things stand.
    shop.adopt(&["--yes"]).exits(2).says("is adopted already");
    let versions =
        shop::number(&shop.root().join("shared/store.db"), "SELECT max(version) FROM schema_version");
    assert_eq!(versions, 1, "the schema was there before: it is noted, not made again");
    shop.commit("echo 'ALTER TABLE orders ADD COLUMN note TEXT;' >migrations/0002_note.sql");
    shop.at_root(&["deploy", "--yes", "--no-watch"]).exits(0).says("Live.");
    assert_eq!(shop::number(&shop.root().join("shared/store.db"), "SELECT count(note) FROM orders"), 0);
}

#[test]
fn a_shop_whose_release_does_not_start_runs_from_its_checkout_again() {
    // Works in the checkout and not from a commit: the classic.
    let missing = "printf 'TITLE = \"Grocery\"\\n' >settings_local.py && echo settings_local.py >>.gitignore && sed -i '1a import settings_local' app.py && git add . && git -c user.name=a -c user.email=a@example.com commit -qm 'Settings'";
    let Some((shop, users)) = flask("a shop that cannot be adopted", missing) else { return };
    let buyers = Buyers::start(users, 2);
    buyers.place(10);
    let output = shop.adopt(&["--yes"]);
    output.exits(1).says("settings_local").says("runs as before, from its checkout, with all its data");
    shop.until_it_answers(users);
    buyers.place(10);
    let ledger = buyers.stop();
    assert_eq!(ledger.lost(&shop.folder.join("store.db")), Vec::<String>::new());
    assert_eq!(shop.inside.is_active("grocery.service"), "active");
    assert!(!fs::symlink_metadata(shop.folder.join("store.db")).unwrap().is_symlink());
    assert!(!fs::symlink_metadata(shop.folder.join("uploads")).unwrap().is_symlink());
}

#[test]
fn what_runs_must_be_what_is_committed() {
    let Some((shop, _)) = flask("a shop with uncommitted changes", "echo '# mended at night' >>app.py")
    else {
        return;
    };
    shop.adopt(&["--yes"]).exits(2).says("app.py").says("nothing was changed").says("commit");
    assert!(!shop.root().exists());
}

#[test]
fn a_django_shop_under_supervisor_is_adopted_and_taken_back() {
    let needs = [
        "/usr/bin/python3 -c import:django",
        "gunicorn --version",
        "supervisord --version",
        "/usr/bin/python3 -m venv -h",
    ];
    let Some(shop) = Shop::of("django", "adopting a Django shop", &needs) else { return };
    shop.sh(&format!("{VENV} && mkdir media && echo picture >media/rice.jpg"));
    shop.sh(&format!("DJANGO_SECRET_KEY={SECRET} .venv/bin/python manage.py migrate --noinput"));
    let (folder, port) = (shop.folder.display(), shop.port);
    shop.inside.write(
        "/etc/supervisor/conf.d/bazaar.conf",
        &format!(
            "[program:bazaar]\ndirectory={folder}\ncommand={folder}/.venv/bin/python -m gunicorn --workers 2 -b 127.0.0.1:{port} bazaar.wsgi\n\
             environment=DJANGO_SECRET_KEY=\"{SECRET}\"\nstartsecs=1\nstopasgroup=true\n"
        ),
    );
    shop.sh("systemctl start supervisor.service");
    shop.until_it_answers(port);
    shop.is_adopted_deployed_and_taken_back(
        "db.sqlite3",
        port,
        "sed -i 's/Bazaar:/The bazaar:/' orders/views.py",
    );
    shop.until_it_answers(port);
    assert!(shop.sh("supervisorctl status bazaar").contains("RUNNING"));
    assert_eq!(shop.inside.read("/etc/supervisor/conf.d/bazaar.conf.before-plimsoll"), None);
    // It once ran beside the front door for a moment, on the database that was to be moved back.
    let log = shop.sh("cat /var/log/supervisor/supervisord.log");
    let last = |what: &str| log.rfind(what).unwrap_or_else(|| panic!("no {what} in {log}"));
    assert!(last("stopped: plimsoll-bazaar") < last("spawned: 'bazaar'"), "{log}");
}

#[test]
fn a_node_shop_started_by_hand_is_adopted_and_taken_back() {
    let Some(shop) =
        Shop::of("node", "adopting a Node shop", &["node --version", "npm --version", "sqlite3 --version"])
    else {
        return;
    };
    shop.sh("mkdir data && sqlite3 data/shop.db 'CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, reference TEXT NOT NULL UNIQUE, created_at TEXT); CREATE TABLE order_items (id INTEGER PRIMARY KEY, order_id INTEGER REFERENCES orders(id), product_id INTEGER, quantity INTEGER);'");
    let port = shop.port;
    shop.sh(&format!(
        "PORT={port} SHOP_KEY={SECRET} setsid --fork node server.js >/tmp/node.log 2>&1 </dev/null"
    ));
    shop.until_it_answers(port);
    shop.is_adopted_deployed_and_taken_back(
        "data/shop.db",
        port,
        "sed -i 's/Corner shop:/The corner shop:/' server.js",
    );
    // Nothing supervised it, so nothing starts it again: the command says how.
}
