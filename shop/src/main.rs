//! The shop's commands.

use std::error::Error;
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use greengrocer::db::{self, migrations, seed};
use greengrocer::settings::Settings;
use greengrocer::{password, serve};

/// A small grocery shop.
///
/// Settings come from the environment: PORT, GREENGROCER_BIND, DATABASE_PATH, GREENGROCER_HOME,
/// GREENGROCER_SECRET or GREENGROCER_SECRET_FILE, GREENGROCER_ENV, PLIMSOLL_RELEASE.
#[derive(Parser)]
#[command(name = "greengrocer", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Open the shop on 127.0.0.1:$PORT until SIGTERM or SIGINT
    Serve,
    /// Bring the database's schema up to this release, creating the database if there is none
    Migrate,
    /// Put goods and regions into an empty shop
    Seed,
    /// People who run the shop
    #[command(subcommand)]
    Admin(Admin),
}

#[derive(Subcommand)]
enum Admin {
    /// Make an admin or set the password of one: from GREENGROCER_ADMIN_PASSWORD or a line of standard input
    Create {
        /// What the admin signs in with
        #[arg(long)]
        email: String,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Box<dyn Error>> {
    let settings = Settings::from_env()?;
    let path = settings.database.clone();
    match command {
        Command::Serve => serve::run(settings)?,
        Command::Migrate => {
            let pending = migrations::in_folder(&settings.home.join("migrations"))?;
            let applied = migrations::apply(&mut db::open_or_create(&path)?, &pending)?;
            for migration in &applied {
                say(&format!("applied {:04} {}", migration.version, migration.description))?;
            }
            say(&format!(
                "{}: {} migration(s) applied, schema is up to date",
                path.display(),
                applied.len()
            ))?;
        }
        Command::Seed => {
            let seeded = seed::fill(&mut db::open_existing(&path)?)?;
            say(&format!("{}: {} products, {} regions", path.display(), seeded.products, seeded.regions))?;
        }
        Command::Admin(Admin::Create { email }) => {
            let hash = password::hash_new(&password_given()?)?;
            let email = password::checked_email(&email)?;
            let new = greengrocer::set_admin(&mut db::open_existing(&path)?, &email, &hash)?;
            let what = if new { "admin made" } else { "password set, sessions ended" };
            say(&format!("{email}: {what}"))?;
        }
    }
    Ok(())
}

fn password_given() -> io::Result<String> {
    if let Ok(given) = std::env::var("GREENGROCER_ADMIN_PASSWORD") {
        return Ok(given);
    }
    let stdin = io::stdin();
    if stdin.is_terminal() {
        writeln!(io::stderr(), "Password (it will be visible while you type):")?;
    }
    let mut line = String::new();
    stdin.lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn say(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

fn complain(error: &dyn Error) {
    let mut text = format!("greengrocer: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!("\n  because: {error}"));
        cause = error.source();
    }
    // With standard error gone there is nobody left to tell; the exit code still says it.
    let _ = writeln!(io::stderr(), "{text}");
}
