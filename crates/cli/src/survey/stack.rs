//! Kinds of applications, told by their files.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;

/// A kind of application, and how one of it is usually built and started.
pub(crate) struct Stack {
    /// `Flask`, `Rails`...
    pub(crate) word: &'static str,
    /// The file that told.
    pub(crate) told_by: String,
    /// The app's name in its own files.
    pub(crate) name: Option<String>,
    pub(crate) build: Vec<String>,
    pub(crate) command: String,
    /// Why the command is as it is, when that is not plain.
    pub(crate) remark: Option<&'static str>,
    pub(crate) migrations: Migrations,
    /// The port it has when nobody says.
    pub(crate) port: u16,
    /// Where it keeps SQLite when there is no file yet.
    pub(crate) database: &'static str,
    /// How the names of its code files end.
    extensions: &'static [&'static str],
}

/// How its schema is changed.
pub(crate) enum Migrations {
    /// SQL files, in a folder.
    Folder(String),
    /// A command.
    Command(String),
    /// By itself, when it starts; or not at all.
    App,
}

const DOES_NOT_READ_PORT: &str = "its code does not mention PORT: it must listen on 127.0.0.1:$PORT";

/// The first kind that fits.
pub(crate) fn find(folder: &Path) -> Option<Stack> {
    let mut stack = [django, rails, flask, node, rust].into_iter().find_map(|kind| kind(folder))?;
    if let Some(web) = procfile(folder) {
        stack.command = web;
        stack.remark = None;
    }
    if let Some(environment) = environment(folder) {
        stack.use_environment(&environment);
    }
    Some(stack)
}

/// A virtual environment of Python that is there already.
struct Environment {
    /// Its folder, relative.
    name: &'static str,
    /// Whether it sees the packages of the system, as with distributions that bring Flask along.
    system: bool,
}

fn environment(folder: &Path) -> Option<Environment> {
    [".venv", "venv", "env"].into_iter().find_map(|name| {
        let text = read(folder, &format!("{name}/pyvenv.cfg"))?;
        let system = text.lines().any(|line| {
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            key.trim() == "include-system-site-packages" && value.trim() == "true"
        });
        Some(Environment { name, system })
    })
}

impl Stack {
    /// Builds and starts with an environment like the one that is there.
    fn use_environment(&mut self, environment: &Environment) {
        let make =
            if environment.system { "python3 -m venv --system-site-packages" } else { "python3 -m venv" };
        let adapted = |text: &str| {
            text.replace("python3 -m venv .venv", &format!("{make} {}", environment.name))
                .replace(".venv/", &format!("{}/", environment.name))
        };
        self.build = self.build.iter().map(|command| adapted(command)).collect();
        self.command = adapted(&self.command);
        if let Migrations::Command(command) = &mut self.migrations {
            *command = adapted(command);
        }
    }

    /// The texts of its code, as far as they are quickly read.
    pub(crate) fn code(&self, folder: &Path) -> Vec<String> {
        let mut texts = Vec::new();
        let mut folders = vec![(folder.to_owned(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let (path, name) = (entry.path(), entry.file_name());
                let Ok(kind) = entry.file_type() else { continue };
                let name = name.to_string_lossy();
                let foreign = [
                    "node_modules",
                    "target",
                    "venv",
                    "vendor",
                    "releases",
                    "static",
                    "public",
                    "log",
                    "tmp",
                ];
                if kind.is_dir() && depth < 3 && !name.starts_with('.') && !foreign.contains(&name.as_ref()) {
                    folders.push((path, depth + 1));
                } else if kind.is_file()
                    && path.extension().is_some_and(|e| self.extensions.iter().any(|known| e == *known))
                    && entry.metadata().is_ok_and(|m| m.len() < 256 << 10)
                {
                    texts.extend(fs::read_to_string(&path));
                }
                if texts.len() >= 200 {
                    return texts;
                }
            }
        }
        texts
    }
}

fn read(folder: &Path, name: &str) -> Option<String> {
    fs::read_to_string(folder.join(name)).ok()
}

fn procfile(folder: &Path) -> Option<String> {
    let text = read(folder, "Procfile")?;
    let web = text.lines().find_map(|line| line.strip_prefix("web:"))?.trim().to_owned();
    needs_no_shell(&web).then_some(web)
}

/// Whether the command line can be started without a shell.
fn needs_no_shell(line: &str) -> bool {
    let words = shell_words::split(line).is_ok_and(|words| !words.is_empty());
    words && !line.contains(['&', '|', ';', '>', '<', '`', '(', '*'])
}

/// How Python's packages get into `.venv`, and the text that names them.
fn python(folder: &Path) -> (Vec<String>, String) {
    let mut build = vec!["python3 -m venv .venv".to_owned()];
    let mut packages = String::new();
    if let Some(text) = read(folder, "requirements.txt") {
        build.push(".venv/bin/pip install -r requirements.txt".to_owned());
        packages = text;
    } else if let Some(text) = read(folder, "pyproject.toml") {
        build.push(".venv/bin/pip install .".to_owned());
        packages = text;
    }
    (build, packages.to_lowercase())
}

fn django(folder: &Path) -> Option<Stack> {
    let manage = read(folder, "manage.py")?;
    let (mut build, packages) = python(folder);
    let settings = Regex::new(r#"["']([\w]+)\.settings"#).expect("a constant pattern, compiled by a test");
    let project = settings.captures(&manage).map(|found| found[1].to_owned());
    let command = match &project {
        Some(project) if packages.contains("gunicorn") => {
            format!(".venv/bin/gunicorn --bind 127.0.0.1:$PORT {project}.wsgi")
        }
        _ => ".venv/bin/python manage.py runserver --noreload 127.0.0.1:$PORT".to_owned(),
    };
    if read(folder, &format!("{}/settings.py", project.as_deref().unwrap_or("")))
        .is_some_and(|s| s.contains("STATIC_ROOT"))
    {
        build.push(".venv/bin/python manage.py collectstatic --noinput".to_owned());
    }
    Some(Stack {
        word: "Django",
        told_by: "manage.py".to_owned(),
        name: project,
        build,
        command,
        remark: None,
        migrations: Migrations::Command(".venv/bin/python manage.py migrate --noinput".to_owned()),
        port: 8000,
        database: "db.sqlite3",
        extensions: &["py"],
    })
}

fn flask(folder: &Path) -> Option<Stack> {
    let (build, packages) = python(folder);
    let (file, code) = ["wsgi.py", "app.py", "main.py", "application.py", "run.py"]
        .into_iter()
        .filter_map(|name| Some((name, read(folder, name)?)))
        .find(|(_, code)| packages.contains("flask") || code.contains("flask"))?;
    let module = file.trim_end_matches(".py");
    let named = Regex::new(r"(?m)^(\w+)\s*=\s*(?:Flask|create_app)\(")
        .expect("a constant pattern, compiled by a test");
    let app = named.captures(&code).map(|found| found[1].to_owned());
    let factory = app.is_none() && code.contains("def create_app(");
    let object = app.unwrap_or_else(|| if factory { "create_app()".to_owned() } else { "app".to_owned() });
    let reads_port = code.contains("PORT");
    let command = if packages.contains("gunicorn") {
        format!(".venv/bin/gunicorn --bind 127.0.0.1:$PORT '{module}:{object}'")
    } else if reads_port && code.contains("__main__") {
        format!(".venv/bin/python {file}")
    } else {
        format!(".venv/bin/python -m flask --app '{module}:{object}' run --host 127.0.0.1 --port $PORT")
    };
    let migrations = if folder.join("migrations/env.py").is_file() && packages.contains("flask-migrate") {
        Migrations::Command(format!(".venv/bin/python -m flask --app '{module}:{object}' db upgrade"))
    } else if folder.join("alembic.ini").is_file() {
        Migrations::Command(".venv/bin/alembic upgrade head".to_owned())
    } else {
        sql_files(folder)
    };
    Some(Stack {
        word: "Flask",
        told_by: file.to_owned(),
        name: None,
        build,
        command,
        remark: None,
        migrations,
        port: if packages.contains("gunicorn") { 8000 } else { 5000 },
        database: "instance/app.db",
        extensions: &["py"],
    })
}

fn rails(folder: &Path) -> Option<Stack> {
    let application = read(folder, "config/application.rb")?;
    read(folder, "Gemfile")?;
    let module = Regex::new(r"(?m)^module (\w+)").expect("a constant pattern, compiled by a test");
    let mut build =
        vec!["bundle config set --local path vendor/bundle".to_owned(), "bundle install".to_owned()];
    if folder.join("app/assets").is_dir() {
        build.push("RAILS_ENV=production SECRET_KEY_BASE_DUMMY=1 bin/rails assets:precompile".to_owned());
    }
    Some(Stack {
        word: "Rails",
        told_by: "config/application.rb".to_owned(),
        name: module.captures(&application).map(|found| found[1].to_owned()),
        build,
        command: "bundle exec rails server --environment production --binding 127.0.0.1 --port $PORT"
            .to_owned(),
        remark: None,
        migrations: Migrations::Command("env RAILS_ENV=production bundle exec rails db:migrate".to_owned()),
        port: 3000,
        database: "storage/production.sqlite3",
        extensions: &["rb"],
    })
}

fn node(folder: &Path) -> Option<Stack> {
    let package: Value = serde_json::from_str(&read(folder, "package.json")?).ok()?;
    let scripts = &package["scripts"];
    let start = scripts["start"].as_str()?;
    let (install, run) =
        match ["pnpm-lock.yaml", "yarn.lock", "package-lock.json"].map(|f| folder.join(f).is_file()) {
            [true, ..] => ("pnpm install --frozen-lockfile", "pnpm run build"),
            [_, true, _] => ("yarn install --frozen-lockfile", "yarn build"),
            [_, _, true] => ("npm ci", "npm run build"),
            _ => ("npm install", "npm run build"),
        };
    let mut build = vec![install.to_owned()];
    if scripts["build"].is_string() {
        build.push(run.to_owned());
    }
    let depends = |name: &str| {
        package["dependencies"][name].is_string() || package["devDependencies"][name].is_string()
    };
    let migrations = if folder.join("prisma/migrations").is_dir() {
        Migrations::Command("npx prisma migrate deploy".to_owned())
    } else if depends("knex") && folder.join("migrations").is_dir() {
        Migrations::Command("npx knex migrate:latest".to_owned())
    } else {
        sql_files(folder)
    };
    let mut stack = Stack {
        word: "Node",
        told_by: "package.json".to_owned(),
        name: package["name"].as_str().map(str::to_owned),
        build,
        // npm between Plimsoll and the app may swallow the signal to stop; a plain command is started itself.
        command: if plain(start) { start.to_owned() } else { "npm start".to_owned() },
        remark: None,
        migrations,
        port: 3000,
        database: "data/app.db",
        extensions: &["js", "mjs", "cjs", "ts"],
    };
    if !stack.code(folder).iter().any(|text| text.contains("PORT")) {
        stack.remark = Some(DOES_NOT_READ_PORT);
    }
    Some(stack)
}

/// Whether a start script can run without a shell and without npm's PATH.
fn plain(script: &str) -> bool {
    script.starts_with("node ") && !script.contains('$') && needs_no_shell(script)
}

fn rust(folder: &Path) -> Option<Stack> {
    let manifest: toml::Table = read(folder, "Cargo.toml")?.parse().ok()?;
    let package = manifest.get("package")?;
    let name = package.get("name")?.as_str()?.to_owned();
    let binary = package.get("default-run").and_then(|run| run.as_str()).unwrap_or(&name).to_owned();
    let dependencies = manifest.get("dependencies");
    let sqlx = dependencies.is_some_and(|d| d.get("sqlx").is_some() || d.get("refinery").is_some());
    let mut stack = Stack {
        word: "Rust",
        told_by: "Cargo.toml".to_owned(),
        build: vec!["cargo build --release --locked".to_owned()],
        command: format!("target/release/{binary}"),
        name: Some(name),
        remark: None,
        // These libraries keep a table of their own; the app applies its migrations when it starts.
        migrations: if sqlx { Migrations::App } else { sql_files(folder) },
        port: 3000,
        database: "data/app.db",
        extensions: &["rs"],
    };
    if !stack.code(folder).iter().any(|text| text.contains("PORT")) {
        stack.remark = Some(DOES_NOT_READ_PORT);
    }
    Some(stack)
}

/// A folder of numbered SQL files.
pub(crate) fn sql_files(folder: &Path) -> Migrations {
    let numbered = |path: &PathBuf| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let digits = name.chars().take_while(char::is_ascii_digit).count();
        (1..=9).contains(&digits) && name[digits..].starts_with('_') && name.ends_with(".sql")
    };
    for within in ["migrations", "db/migrations", "sql/migrations"] {
        let Ok(entries) = fs::read_dir(folder.join(within)) else { continue };
        if entries.flatten().map(|entry| entry.path()).any(|path| numbered(&path)) {
            return Migrations::Folder(within.to_owned());
        }
    }
    Migrations::App
}
