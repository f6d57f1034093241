//! `init`: writes a commented `plimsoll.toml` from what is found.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use serde_json::json;

use crate::args::{Global, InitArgs};
use crate::config::{Config, FILE_NAME};
use crate::error::{Error, Kind};
use crate::survey::{self, Draft, Places};
use crate::ui::Ui;

/// `plimsoll init`
pub(crate) fn init(global: &Global, args: &InitArgs, ui: &Ui) -> Result<(), Error> {
    let folder = std::fs::canonicalize(&global.directory).map_err(|error| {
        Error::usage(format!("cannot look into {}", global.directory.display()))
            .why(error.to_string())
            .next("name the app's folder: plimsoll -C DIR init")
    })?;
    let file = Config::locate(&folder, global.config.as_deref());
    if !args.print && file.symlink_metadata().is_ok() {
        return Err(there_already(&file));
    }
    let draft = draft(&Places::of(folder), &file)?;
    for what in &draft.found {
        ui.say(&format!("found    {what}"));
    }
    for what in &draft.guessed {
        ui.say(&format!("guessed  {what}"));
    }
    if args.print {
        if ui.is_json() {
            ui.object(&json!({ "event": "init", "text": draft.text, "found": draft.found, "guessed": draft.guessed }));
        } else {
            ui.data(&draft.text);
        }
        return Ok(());
    }
    write(&file, &draft.text)?;
    if ui.is_json() {
        let name = file.display().to_string();
        ui.object(&json!({ "event": "init", "file": name, "found": draft.found, "guessed": draft.guessed }));
    }
    ui.say(&format!("wrote {}", file.display()));
    let option = if file.ends_with(FILE_NAME) { "" } else { " --config FILE" };
    ui.say(&format!("next: read it, mend what was guessed wrong, then: plimsoll{option} check"));
    Ok(())
}

/// What is found, as a file that has been seen to load.
fn draft(places: &Places, file: &Path) -> Result<Draft, Error> {
    let draft = survey::draft(&survey::look(places), &places.folder, None);
    if let Err(error) = Config::from_text(file, &draft.text) {
        let mistakes = Error::from(error);
        return Err(Error::new(Kind::Bug, "init wrote a file that does not load")
            .details(mistakes.details.to_vec())
            .state("nothing was written")
            .next("please report this with the messages above"));
    }
    Ok(draft)
}

fn there_already(file: &Path) -> Error {
    Error::usage(format!("{} is there already", file.display()))
        .state("it was not touched")
        .next("compare it with: plimsoll init --print")
}

/// Writes a file that must not be there yet, and takes it away again when it could not be written whole.
fn write(file: &Path, text: &str) -> Result<(), Error> {
    let unwritable = |error: std::io::Error| {
        Error::failed(format!("cannot write {}", file.display()))
            .why(error.to_string())
            .next("see who may write there, or show it instead: plimsoll init --print")
    };
    let mut open = OpenOptions::new().write(true).create_new(true).open(file).map_err(|error| {
        if error.kind() == ErrorKind::AlreadyExists { there_already(file) } else { unwritable(error) }
    })?;
    open.write_all(text.as_bytes()).and_then(|()| open.sync_all()).map_err(|error| {
        // It is ours, made a moment ago.
        let _ = std::fs::remove_file(file);
        unwritable(error)
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crate::config::{Migrations, ServiceKind};
    use crate::ui::tests::kept;

    use super::*;

    /// A folder with these files, and nothing of this machine around it.
    struct Sample {
        _folder: tempfile::TempDir,
        places: Places,
    }

    impl Sample {
        fn of(files: &[(&str, &str)]) -> Sample {
            let folder = tempfile::tempdir().unwrap();
            let top = std::fs::canonicalize(folder.path()).unwrap();
            let places = Places {
                folder: top.join("shop"),
                units: vec![top.join("units")],
                programs: top.join("programs"),
            };
            std::fs::create_dir(&places.folder).unwrap();
            let sample = Sample { _folder: folder, places };
            for (name, text) in files {
                sample.write(name, text);
            }
            sample
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.places.folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = text.replace("HERE", &self.places.folder.display().to_string());
            std::fs::write(path, text).unwrap();
        }

        fn sqlite(&self, name: &str, sql: &str) {
            let path = self.places.folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
        }

        fn git(&self, args: &[&str]) {
            let mut git = std::process::Command::new("git");
            git.args(["-c", "user.name=a", "-c", "user.email=a@b", "-C"]).arg(&self.places.folder).args(args);
            for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
                git.env_remove(name);
            }
            assert!(git.output().unwrap().status.success(), "git {args:?}");
        }

        fn draft(&self) -> Draft {
            draft(&self.places, &self.file()).unwrap_or_else(|error| panic!("{error:?}"))
        }

        fn file(&self) -> PathBuf {
            self.places.folder.join(FILE_NAME)
        }

        /// What the written file means once it is loaded from the disk.
        fn config(&self) -> Config {
            write(&self.file(), &self.draft().text).unwrap();
            Config::load(&self.file()).unwrap_or_else(|error| panic!("{error:?}"))
        }
    }

    fn command(config: &Config) -> &str {
        match &config.service.kind {
            ServiceKind::Process { command } => command,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flask_with_gunicorn_data_and_a_repository() {
        let sample = Sample::of(&[
            ("shop/app.py", ""),
            (
                "app.py",
                "from flask import Flask\nshop = Flask(__name__)\n@shop.get('/healthz')\ndef up(): return 'ok'\n",
            ),
            ("requirements.txt", "Flask==3.0\ngunicorn\n"),
            (".env", "SECRET=1"),
            ("migrations/0001_first.sql", "SELECT 1;"),
        ]);
        sample.sqlite(
            "instance/store.db",
            "CREATE TABLE orders(id); CREATE TABLE schema_version(id); INSERT INTO orders VALUES (1);",
        );
        sample.sqlite("instance/store.db.backup", "CREATE TABLE orders(id);");
        sample.git(&["init", "-q", "-b", "trunk"]);
        let config = sample.config();
        assert_eq!(command(&config), ".venv/bin/gunicorn --bind 127.0.0.1:$PORT 'app:shop'");
        assert_eq!(config.build.commands[1], ".venv/bin/pip install -r requirements.txt");
        assert_eq!(config.source.git, sample.places.folder.display().to_string());
        assert_eq!(config.source.branch, "trunk");
        assert_eq!(config.app.root, sample.places.folder.with_file_name("shop-production"));
        assert_eq!(config.database_file().unwrap(), config.shared().join("instance/store.db"));
        assert_eq!(config.build.link, [PathBuf::from(".env"), PathBuf::from("instance")]);
        assert_eq!(config.database.tables, ["orders"]);
        assert_eq!(config.database.migrations, Migrations::Folder("migrations".into()));
        assert_eq!(config.service.health, "/healthz");
    }

    #[test]
    fn flask_without_a_server_and_with_a_factory() {
        let sample = Sample::of(&[
            ("wsgi.py", "from shop import create_app\napp = create_app()\n"),
            ("requirements.txt", "flask\nflask-migrate\n"),
            ("migrations/env.py", ""),
        ]);
        let config = sample.config();
        assert_eq!(
            command(&config),
            ".venv/bin/python -m flask --app 'wsgi:app' run --host 127.0.0.1 --port $PORT"
        );
        let upgrade = ".venv/bin/python -m flask --app 'wsgi:app' db upgrade".to_owned();
        assert_eq!(config.database.migrations, Migrations::Commands(vec![upgrade]));
    }

    #[test]
    fn an_app_that_reads_port_itself_is_started_as_it_is() {
        let sample = Sample::of(&[(
            "app.py",
            "import os, flask\napp = flask.Flask('a')\nif __name__ == '__main__':\n  app.run(port=int(os.environ['PORT']))\n",
        )]);
        assert_eq!(command(&sample.config()), ".venv/bin/python app.py");
    }

    #[test]
    fn django() {
        let sample = Sample::of(&[
            ("manage.py", "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'bazaar.settings')"),
            ("bazaar/settings.py", "STATIC_ROOT = 'static'"),
            ("requirements.txt", "Django>=5\ngunicorn\n"),
        ]);
        sample.sqlite("db.sqlite3", "CREATE TABLE auth_user(id); CREATE TABLE shop_order(id);");
        let config = sample.config();
        assert_eq!(config.app.name, "bazaar");
        assert_eq!(command(&config), ".venv/bin/gunicorn --bind 127.0.0.1:$PORT bazaar.wsgi");
        assert!(config.build.commands.iter().any(|c| c.contains("collectstatic")));
        assert!(
            matches!(&config.database.migrations, Migrations::Commands(c) if c[0].contains("manage.py migrate"))
        );
        assert_eq!(config.build.link, [PathBuf::from("db.sqlite3")]);
        assert_eq!(config.database.tables, ["shop_order"]);
    }

    #[test]
    fn rails() {
        let sample = Sample::of(&[
            ("Gemfile", "gem 'rails'"),
            ("config/application.rb", "module Bazaar\n  class Application < Rails::Application\n"),
            ("config/routes.rb", "get \"/up\" => \"rails/health#show\""),
        ]);
        sample.sqlite(
            "storage/development.sqlite3",
            "CREATE TABLE big(a); INSERT INTO big VALUES (zeroblob(100000));",
        );
        sample.sqlite("storage/production.sqlite3", "CREATE TABLE orders(id);");
        let config = sample.config();
        assert_eq!(config.app.name, "bazaar");
        assert_eq!(config.database_file().unwrap(), config.shared().join("storage/production.sqlite3"));
        assert_eq!(config.build.link, [PathBuf::from("storage")]);
        assert_eq!(config.service.health, "/up");
    }

    #[test]
    fn node() {
        let sample = Sample::of(&[
            (
                "package.json",
                r#"{"name": "@acme/Shop", "scripts": {"start": "node server.js", "build": "tsc"}, "dependencies": {"knex": "1"}}"#,
            ),
            ("package-lock.json", "{}"),
            ("server.js", "http.createServer().listen(process.env.PORT || 3000)"),
            ("migrations/20260101_a.js", ""),
        ]);
        let config = sample.config();
        assert_eq!(config.app.name, "acme-shop");
        assert_eq!(command(&config), "node server.js");
        assert_eq!(config.build.commands, ["npm ci", "npm run build"]);
        assert_eq!(config.database.migrations, Migrations::Commands(vec!["npx knex migrate:latest".into()]));
        let odd = Sample::of(&[("package.json", r#"{"scripts": {"start": "next start -p $PORT && true"}}"#)]);
        assert_eq!(command(&odd.config()), "npm start");
        assert!(odd.draft().guessed.iter().any(|line| line.contains("PORT")));
    }

    #[test]
    fn rust() {
        let sample = Sample::of(&[
            ("Cargo.toml", "[package]\nname = \"bazaar\"\n[dependencies]\nsqlx = \"0.8\"\n"),
            ("src/main.rs", "fn main() { std::env::var(\"PORT\"); route(\"/health\"); }"),
            ("migrations/0001_a.sql", ""),
        ]);
        let config = sample.config();
        assert_eq!(command(&config), "target/release/bazaar");
        assert_eq!(config.database.migrations, Migrations::App);
        assert_eq!(config.service.health, "/health");
    }

    #[test]
    fn a_procfile_says_how_it_is_started() {
        let files = [
            ("app.py", "import flask\napp = flask.Flask('a')"),
            ("Procfile", "worker: a\nweb: gunicorn app:app\n"),
        ];
        assert_eq!(command(&Sample::of(&files).config()), "gunicorn app:app");
    }

    #[test]
    fn a_unit_that_runs_from_here_is_the_service_and_its_mailer_a_worker() {
        let sample = Sample::of(&[
            ("app.py", "import flask"),
            (
                "../units/shop.service",
                "[Service]\nWorkingDirectory=HERE\nExecStart=HERE/.venv/bin/gunicorn -b 127.0.0.1:8123 app:app\n",
            ),
            (
                "../units/shop_mailer.service",
                "[Service]\nWorkingDirectory=HERE\nExecStart=HERE/.venv/bin/python mailer.py\n",
            ),
            ("../units/shop2.service", "[Service]\nExecStart=HERE2/app --port 1234\n"),
        ]);
        let config = sample.config();
        assert_eq!(config.service.kind, ServiceKind::Systemd { unit: "shop.service".into() });
        assert_eq!(config.service.address.unwrap().port(), 8123);
        assert_eq!(config.workers.iter().map(|w| w.name.as_str()).collect::<Vec<_>>(), ["shop_mailer"]);
        assert!(config.front.is_none());
    }

    #[test]
    fn a_supervisor_program_that_runs_from_here_is_the_service() {
        let sample = Sample::of(&[
            ("app.py", "import flask"),
            (
                "../programs/all.conf",
                "[program:other]\ncommand=/bin/x\n[program:shop]\ncommand=flask run\ndirectory=HERE\n[group:a]\n",
            ),
        ]);
        let config = sample.config();
        assert_eq!(config.service.kind, ServiceKind::Supervisor { program: "shop".into() });
        assert_eq!(config.service.address.unwrap().port(), 5000);
    }

    #[test]
    fn the_app_may_be_in_a_folder_of_its_repository() {
        let mut sample = Sample::of(&[("web/app.py", "import flask")]);
        sample.git(&["init", "-q", "-b", "main"]);
        sample.git(&["remote", "add", "origin", "https://me:hunter2@git.example.com/shop.git"]);
        sample.places.folder.push("web");
        let draft = sample.draft();
        assert!(!draft.text.contains("hunter2"));
        let config = sample.config();
        assert_eq!(config.source.git, "https://git.example.com/shop.git");
        assert_eq!(config.source.directory, Path::new("web"));
    }

    #[test]
    fn an_empty_folder_and_one_with_an_awkward_name_load_too() {
        let mut sample = Sample::of(&[]);
        assert_eq!(sample.config().app.root, sample.places.folder);
        sample.places.folder.push("My \"Shop\" \\ #1");
        std::fs::create_dir(&sample.places.folder).unwrap();
        sample.write("package.json", r#"{"name": "\"\\\n", "scripts": {"start": "node \"a b.js\" # é"}}"#);
        sample.sqlite("a\u{7f}'b\n[x].db", "CREATE TABLE \"odd \u{7f}\"(id);");
        sample.sqlite("what?.db", "CREATE TABLE a(id);");
        sample.write("Procfile", "web: node 'a\n");
        let config = sample.config();
        assert_eq!(config.database_file().unwrap(), config.shared().join("a\u{7f}'b\n[x].db"));
        assert_eq!(config.database.tables, ["odd \u{7f}"]);
    }

    #[test]
    fn print_writes_the_file_to_stdout_alone() {
        let sample = Sample::of(&[("plimsoll.toml", "mine"), ("app.py", "import flask")]);
        let global =
            Global { directory: sample.places.folder.clone(), config: None, json: false, quiet: false };
        let (ui, out, err) = kept(false);
        init(&global, &InitArgs { print: true }, &ui).unwrap();
        assert!(Config::from_text(&sample.file(), &out.seen()).is_ok());
        assert!(err.seen().starts_with("found    "), "{}", err.seen());
        assert!(err.seen().contains("guessed  "));
        let refused = init(&global, &InitArgs { print: false }, &ui).unwrap_err();
        assert_eq!((refused.kind, refused.what.ends_with("is there already")), (Kind::Usage, true));
        assert_eq!(std::fs::read_to_string(sample.file()).unwrap(), "mine");
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_touched() {
        let sample = Sample::of(&[("plimsoll.toml", "mine")]);
        let error = write(&sample.file(), "new").unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
        assert_eq!(std::fs::read_to_string(sample.file()).unwrap(), "mine");
    }
}
