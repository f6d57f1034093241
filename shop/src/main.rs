//! The shop's commands.

use std::error::Error;
use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use greengrocer::db::{self, import, migrations, seed};
use greengrocer::settings::Settings;
use greengrocer::{password, second_factor, serve};

/// A small grocery shop.
///
/// Settings come from the environment; the README lists them. The first ones to set: DATABASE_PATH, PORT,
/// GREENGROCER_SECRET_FILE, GREENGROCER_URL, GREENGROCER_ENV.
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
    /// Take over goods from a product export of WooCommerce (CSV): all of them or none
    #[command(name = "import-csv")]
    ImportCsv {
        /// The file; `-` is standard input
        file: std::path::PathBuf,
    },
    /// People who run the shop
    #[command(subcommand)]
    Admin(Admin),
}

#[derive(Subcommand)]
enum Admin {
    /// Make an admin, or give one a new password and second factor: the password from GREENGROCER_ADMIN_PASSWORD
    /// or a line of standard input. Shows the secret of the second factor, once
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
        Command::ImportCsv { file } => {
            let text = if file.as_os_str() == "-" {
                io::read_to_string(io::stdin())?
            } else {
                std::fs::read_to_string(&file)?
            };
            let done = import::woocommerce(&mut db::open_existing(&path)?, &text)?;
            let (added, changed, skipped) = (done.added, done.changed, done.skipped);
            say(&format!(
                "{}: {added} products added, {changed} changed, {skipped} rows skipped",
                path.display()
            ))?;
        }
        Command::Admin(Admin::Create { email }) => {
            let hash = password::hash_new(&password_given()?, password::Whose::Admin)?;
            let email = password::checked_email(&email)?;
            let secret = second_factor_given()?;
            let new = greengrocer::set_admin(&mut db::open_existing(&path)?, &email, &hash, &secret)?;
            let what = if new { "admin made" } else { "password and second factor set, sessions ended" };
            say(&format!("{email}: {what}"))?;
            let address = second_factor::address(&email, &secret);
            if let Some(picture) = second_factor::picture(&address).filter(|_| io::stdout().is_terminal()) {
                say(&picture)?;
            }
            say(&format!(
                "Scan this with an app for one-time codes, or type the secret into it: {secret}\n{address}"
            ))?;
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

/// A new secret, or for a machine that sets others up the one in GREENGROCER_ADMIN_TOTP_SECRET.
fn second_factor_given() -> io::Result<String> {
    match std::env::var("GREENGROCER_ADMIN_TOTP_SECRET") {
        Ok(secret) if second_factor::is_secret(&secret) => Ok(secret),
        Ok(_) => {
            Err(io::Error::other("GREENGROCER_ADMIN_TOTP_SECRET is not 80 bits or more in Base32 (A-Z, 2-7)"))
        }
        Err(_) => Ok(second_factor::new_secret()),
    }
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
