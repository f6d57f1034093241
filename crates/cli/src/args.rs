//! The command line as it was typed: nothing is resolved or looked up here. The doc comments are the manual.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

/// Deploys a web application and its database without losing data or requests.
///
/// Plimsoll carries out, records and if need be undoes a deployment: it backs up and verifies the data, tries the
/// release on a copy, holds requests at the front door while the release is changed, proves the new release, and
/// puts everything back when something is wrong.
#[derive(Debug, Parser)]
#[command(
    name = "plimsoll",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_long_help = "\
Begin with:
  plimsoll init      write a plimsoll.toml from what is found here
  plimsoll check     see whether this machine can do what it asks
  plimsoll serve     start the front door and the app (keeps running)
  plimsoll deploy    bring the newest commit live

Exit codes:
   0  done
   1  a check or the rehearsal failed, or the run was undone: production is as it was
   2  usage, configuration, or `plimsoll serve` is not running
   3  blocked until a person acknowledges, answers or unlocks; nothing changed
   4  interrupted and not yet resolved: plimsoll resume
   5  live, but a later step failed
   6  deploy: rolled back after the commit point; rollback: done, with values set aside
  70  a bug in Plimsoll"
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, ClapArgs)]
pub(crate) struct Global {
    /// Do everything as if started in DIR
    #[arg(short = 'C', value_name = "DIR", global = true, default_value = ".", hide_default_value = true)]
    pub(crate) directory: PathBuf,
    /// Read FILE instead of plimsoll.toml
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// Write one JSON object a line to stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Write nothing to stderr but warnings and errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a commented plimsoll.toml from what is found
    ///
    /// Looks for Flask, Django, Rails, Node and Rust applications, systemd units and supervisor programs that run
    /// them, SQLite files, migrations and the git repository. Says what it found and what it guessed. Never
    /// overwrites a file.
    #[command(after_long_help = "\
Examples:
  plimsoll init                      look here, write ./plimsoll.toml
  plimsoll -C /srv/shop init         look there
  plimsoll init --print              show the file without writing it")]
    Init(InitArgs),
    /// Take over an app that runs from a checkout: its folder, database and unit become release 1
    ///
    /// Builds release 1 while the app runs on; then stops the app, backs its database up, moves it and what else
    /// outlives releases, and lets the front door answer at the address that the app had. What is in front of it, and
    /// every path of before, go on working. Shows everything first; when it does not work out, all is taken back.
    #[command(after_long_help = "\
Examples:
  plimsoll -C /srv/shop adopt --print               show what would be done, and change nothing
  sudo plimsoll -C /srv/shop adopt                  do it, into /srv/shop-production
  sudo plimsoll -C /srv/shop adopt --root /srv/grocery
  sudo plimsoll -C /srv/grocery adopt --undo        take it back")]
    Adopt(AdoptArgs),
    /// See whether the configuration is right and this machine can do what it asks
    ///
    /// Changes nothing. Exit 0 when all is well, 2 when the file has mistakes, 1 when the machine cannot do it.
    #[command(after_long_help = "\
Examples:
  plimsoll check
  plimsoll check --json | jq 'select(.verdict == \"fail\")'")]
    Check,
    /// Start `plimsoll serve` with the machine: systemd units, or a supervisor program
    ///
    /// Shows the files first. Writes a service, for the front door a socket that stays open while Plimsoll is
    /// restarted, and for units that a run stops a drop-in that keeps them down meanwhile.
    #[command(after_long_help = "\
Examples:
  plimsoll install --print           show the files
  plimsoll install --start           write them, start it now and with the machine
  plimsoll install --supervisor      a supervisor program instead of systemd units")]
    Install(InstallArgs),
    /// Take away what `install` wrote, and nothing else
    #[command(after_long_help = "\
Examples:
  plimsoll uninstall --print         show which files go away
  plimsoll uninstall")]
    Uninstall(UninstallArgs),
    /// Run the front door, the app and the engine; keeps running
    ///
    /// Finishes or undoes a deployment that was interrupted before it lets anybody in. Ends on SIGTERM.
    #[command(after_long_help = "\
Examples:
  plimsoll serve
  plimsoll serve --json              its log as one JSON object a line, on stderr
  plimsoll --config /etc/shop/plimsoll.toml serve")]
    Serve,
    /// Bring a revision live
    ///
    /// Backs up, builds, rehearses on a copy, holds requests, migrates, starts and proves the new release, and only
    /// then lets users in. Until that moment everything can be undone, and is, when something fails.
    #[command(after_long_help = "\
Examples:
  plimsoll deploy                                  the newest commit of the branch
  plimsoll deploy 3fa9c1b --yes                    one commit, without asking
  plimsoll deploy --acknowledge drop:sso_nonce     though this table goes away")]
    Deploy(DeployArgs),
    /// Show on one screen what a deployment would do, and what must be typed for it
    ///
    /// Fetches and builds the revision, tries it on a copy of the database, walled off from production, and takes
    /// both away again. Exit 0 when it is ready to be deployed, 3 when a person must do something first, 1 when it
    /// failed on the copy.
    #[command(after_long_help = "\
Examples:
  plimsoll plan                      the newest commit of the branch
  plimsoll plan 3fa9c1b --format md  as a table for a pull request
  plimsoll plan --json | jq .losses")]
    Plan(PlanArgs),
    /// Try a revision on a copy of the database and show what was seen, check by check
    ///
    /// The same as `plan`, with every check: migrations both ways, the new release and its smoke tests, the old
    /// release on the migrated copy, the restore.
    #[command(after_long_help = "\
Examples:
  plimsoll rehearse
  plimsoll rehearse v2 --json | jq '.checks[] | select(.verdict != \"pass\")'")]
    Rehearse(RehearseArgs),
    /// Go back to an earlier release
    #[command(after_long_help = "\
Examples:
  plimsoll rollback                                to the release before this one
  plimsoll rollback --to 000011-9c01d22 --dry-run  show what it would do")]
    Rollback(RollbackArgs),
    /// Finish or undo a run that was interrupted
    ///
    /// Exits with the code that the run itself would have had.
    #[command(after_long_help = "\
Examples:
  plimsoll resume")]
    Resume,
    /// Show what is live, and what is going on
    #[command(after_long_help = "\
Examples:
  plimsoll status
  plimsoll status --json")]
    Status,
    /// Show how the live release does: traffic, errors, memory, disk, spot checks
    ///
    /// On a terminal it goes on until Ctrl-C; else it shows how things stand.
    #[command(after_long_help = "\
Examples:
  plimsoll watch
  plimsoll watch 12
  plimsoll watch --json")]
    Watch(WatchArgs),
    /// Send a test message to every group of [notify]
    ///
    /// Tells of each whether it was taken. Exit 1 when one was not.
    #[command(after_long_help = "\
Examples:
  plimsoll notify-test")]
    NotifyTest,
    /// List the runs
    #[command(after_long_help = "\
Examples:
  plimsoll history
  plimsoll history --json | jq .outcome")]
    History,
    /// Show one run as the filled-in checklist
    #[command(after_long_help = "\
Examples:
  plimsoll show                      the last run
  plimsoll show 12 --format html     run 12, as a page")]
    Show(ShowArgs),
    /// Answer a question of the checklist that only a person can
    ///
    /// Without a question it lists those that are open. Answers are kept in the run's journal with name and time.
    #[command(after_long_help = "\
Examples:
  plimsoll answer                                                 list the open questions
  plimsoll answer watch.reports \"no complaints until 18:00\" --by \"Asha Rao\"
  plimsoll answer pre.review \"read the diff\" --by Ravi --run 12
  plimsoll answer go-ahead yes --by Ravi                          to a deployment that waits for it")]
    Answer(AnswerArgs),
    /// Sign a run, as the one who deployed or the one who verified
    ///
    /// The two are different people, unless [people].same_person says otherwise. The second signature closes the run.
    /// Exit 3 while a required answer or the other person is missing.
    #[command(after_long_help = "\
Examples:
  plimsoll sign --as deployer --name \"Asha Rao\"
  plimsoll sign 12 --as verifier --name Ravi --note \"one slow page, mended in run 13\"")]
    Sign(SignArgs),
    /// Prove that no journal was changed after it was written, and that the reports say what the journals say
    ///
    /// Each line of a journal holds the hash of the line before. Names the first bad line. Exit 1 when there is one.
    #[command(after_long_help = "\
Examples:
  plimsoll audit
  plimsoll audit --json | jq 'select(.bad)'")]
    Audit,
    /// Gather what helps to find a mistake: logs, reports, system, schema, plan, versions
    ///
    /// Secrets and personal data are taken out: what the configuration, the environment and .env files hold, and what
    /// looks like a password, a token, an address, a phone or a card. No row of the database is in it.
    #[command(after_long_help = "\
Examples:
  plimsoll diagnose
  plimsoll diagnose --output /tmp/shop.tar.gz")]
    Diagnose(DiagnoseArgs),
    /// Write the completions of a shell to stdout
    #[command(after_long_help = "\
Examples:
  plimsoll completions bash > /etc/bash_completion.d/plimsoll
  plimsoll completions zsh > ~/.zfunc/_plimsoll")]
    Completions(CompletionsArgs),
    /// Write the manual page to stdout, or a page for each command to a folder
    #[command(after_long_help = "\
Examples:
  plimsoll man | man -l -
  plimsoll man --dir /usr/local/share/man/man1
  plimsoll man --markdown > docs/cli.md")]
    Man(ManArgs),
    /// Back up the database; list, verify and restore backups
    ///
    /// Without a further word it makes one backup, verifies it, and prunes old ones as configured.
    #[command(
        args_conflicts_with_subcommands = true,
        after_long_help = "\
Examples:
  plimsoll backup
  plimsoll backup list
  plimsoll backup --db store.db --days 14
  plimsoll backup verify backups/store.db.backup.20260114_020301
  plimsoll backup restore backups/store.db.backup.LATEST
  plimsoll backup restore backups/store.db.backup.LATEST --to /tmp/look.db
  plimsoll backup prune --dry-run"
    )]
    Backup(BackupArgs),
    /// Check a database: integrity, tables, columns, foreign keys, schema versions, counts
    ///
    /// Opens it read-only and creates nothing. What it should hold comes from replaying the release's migrations on an
    /// empty database, and from what was learned from a good one. Exit 0 when all checks pass, 1 when one does not.
    #[command(after_long_help = "\
Examples:
  plimsoll verify
  plimsoll verify --db store.db --quiet
  plimsoll verify --db store.db --learn             note what a good database looks like
  plimsoll verify --report issue_report.json
  plimsoll verify --compare backups/store.db.backup.LATEST")]
    Verify(VerifyArgs),
    /// Apply and inspect migrations on their own, without a deployment
    ///
    /// Each pending file is tried on a copy of the database with foreign keys on and off, and applied in the way that
    /// loses nothing, in one transaction with its line in schema_version. What would be lost is refused with exit 3 and
    /// the words that acknowledge it.
    #[command(after_long_help = "\
Examples:
  plimsoll migrate status
  plimsoll migrate up --db store.db --dir migrations
  plimsoll migrate up --acknowledge drop:sso_nonce
  plimsoll migrate lint
  plimsoll migrate baseline 7 --db store.db          this database has had 1 to 7")]
    Migrate(MigrateArgs),
    /// Become a program that can reach nothing of production; Plimsoll starts itself so
    #[command(name = "__confine", hide = true)]
    Confine(ConfineArgs),
}

/// `__confine`
#[derive(Debug, ClapArgs)]
pub(crate) struct ConfineArgs {
    /// What the program may do
    #[arg(value_name = "WALLS")]
    pub(crate) walls: PathBuf,
    /// The program and its arguments
    #[arg(value_name = "PROGRAM", last = true, required = true)]
    pub(crate) words: Vec<std::ffi::OsString>,
}

/// `init`
#[derive(Debug, ClapArgs)]
pub(crate) struct InitArgs {
    /// Show the file on stdout instead of writing it
    #[arg(long)]
    pub(crate) print: bool,
}

/// `adopt`
#[derive(Debug, ClapArgs)]
pub(crate) struct AdoptArgs {
    /// Show what would be done and change nothing
    #[arg(long)]
    pub(crate) print: bool,
    /// Do not ask before it begins
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Where releases, data and backups go [default: the folder's name with -production, beside it]
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Take an adoption back: the app runs from its checkout again, with all that was ordered since
    #[arg(long, conflicts_with = "print")]
    pub(crate) undo: bool,
    /// Build the release of this commit and nothing else: how an adoption calls itself as the app's user
    #[arg(long, value_name = "COMMIT", hide = true)]
    pub(crate) prepare: Option<String>,
}

/// `install`
#[derive(Debug, ClapArgs)]
pub(crate) struct InstallArgs {
    /// Show the files on stdout and write nothing
    #[arg(long)]
    pub(crate) print: bool,
    /// Do not ask before they are written
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Start it now, and with the machine
    #[arg(long)]
    pub(crate) start: bool,
    /// Write a supervisor program instead of systemd units [default: when supervisor runs the app]
    #[arg(long)]
    pub(crate) supervisor: bool,
    /// Units of your own systemd (`systemctl --user`), which need no root
    #[arg(long, conflicts_with_all = ["supervisor", "user"])]
    pub(crate) systemd_user: bool,
    /// Who it runs as [default: the owner of the app's root]
    #[arg(long, value_name = "NAME", value_parser = user)]
    pub(crate) user: Option<String>,
    /// Where the socket unit listens, when [front].listen is "systemd"
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<std::net::SocketAddr>,
}

/// `uninstall`
#[derive(Debug, ClapArgs)]
pub(crate) struct UninstallArgs {
    /// Show which files go away and remove nothing
    #[arg(long)]
    pub(crate) print: bool,
    /// Do not ask before it is stopped and they are removed
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// `deploy`
#[derive(Debug, ClapArgs)]
pub(crate) struct DeployArgs {
    /// A commit, tag or branch [default: the configured branch]
    #[arg(value_name = "REV", value_parser = revision)]
    pub(crate) revision: Option<String>,
    /// Do not ask before the deployment begins
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Who approved it; goes into the report
    #[arg(long, value_name = "NAME", value_parser = words)]
    pub(crate) approved_by: Option<String>,
    /// Accept one named loss, as the refused deployment named it; may be given several times
    #[arg(long, value_name = "WHAT", value_parser = words)]
    pub(crate) acknowledge: Vec<String>,
    /// Deploy outside the window or in spite of a freeze, and why
    #[arg(long, value_name = "WHY", value_parser = words)]
    pub(crate) unlock: Option<String>,
    /// Return when the release is live, without looking at errors for a while
    #[arg(long)]
    pub(crate) no_watch: bool,
}

/// `plan`
#[derive(Debug, ClapArgs)]
pub(crate) struct PlanArgs {
    /// A commit, tag or branch [default: the configured branch]
    #[arg(value_name = "REV", value_parser = revision)]
    pub(crate) revision: Option<String>,
    /// How to write it [default: for a terminal]
    #[arg(long, value_enum)]
    pub(crate) format: Option<PlanFormat>,
}

/// How a plan is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum PlanFormat {
    /// Markdown
    Md,
}

/// `rehearse`
#[derive(Debug, ClapArgs)]
pub(crate) struct RehearseArgs {
    /// A commit, tag or branch [default: the configured branch]
    #[arg(value_name = "REV", value_parser = revision)]
    pub(crate) revision: Option<String>,
}

/// `rollback`
#[derive(Debug, ClapArgs)]
pub(crate) struct RollbackArgs {
    /// The release to go back to [default: the one before]
    #[arg(long, value_name = "RELEASE", value_parser = words)]
    pub(crate) to: Option<String>,
    /// Do not ask before it begins
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Show what it would do, tried on copies, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Take the data back too, with what users wrote since, though the code alone would do
    #[arg(long)]
    pub(crate) data: bool,
    /// Accept one named loss, as the refused rollback named it; may be given several times
    #[arg(long, value_name = "WHAT", value_parser = words)]
    pub(crate) acknowledge: Vec<String>,
}

/// `watch`
#[derive(Debug, ClapArgs)]
pub(crate) struct WatchArgs {
    /// The run [default: the one that brought the live release]
    #[arg(value_name = "RUN")]
    pub(crate) run: Option<u32>,
    /// Show how things stand and end
    #[arg(long)]
    pub(crate) once: bool,
}

/// `show`
#[derive(Debug, ClapArgs)]
pub(crate) struct ShowArgs {
    /// The run's number [default: the last run]
    #[arg(value_name = "RUN")]
    pub(crate) run: Option<u32>,
    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Md)]
    pub(crate) format: Format,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    /// Markdown
    Md,
    /// A page for a browser
    Html,
    /// JSON
    Json,
}

/// `answer`
#[derive(Debug, ClapArgs)]
pub(crate) struct AnswerArgs {
    /// The box of the checklist: pre.review, watch.reports, diag.post; or go-ahead
    #[arg(value_name = "ITEM", value_parser = words, requires = "text")]
    pub(crate) item: Option<String>,
    /// The answer
    #[arg(value_name = "TEXT", value_parser = words, requires = "by")]
    pub(crate) text: Option<String>,
    /// Who answers
    #[arg(long, value_name = "NAME", value_parser = words)]
    pub(crate) by: Option<String>,
    /// The run's number [default: the one that is going on, else the last]
    #[arg(long, value_name = "RUN")]
    pub(crate) run: Option<u32>,
}

/// `sign`
#[derive(Debug, ClapArgs)]
pub(crate) struct SignArgs {
    /// The run's number [default: the last run]
    #[arg(value_name = "RUN")]
    pub(crate) run: Option<u32>,
    /// As whom
    #[arg(long = "as", value_enum, value_name = "ROLE")]
    pub(crate) role: SignAs,
    /// Who signs
    #[arg(long, value_name = "NAME", value_parser = words)]
    pub(crate) name: String,
    /// Issues that were met, and how they were resolved
    #[arg(long, value_name = "TEXT", value_parser = words)]
    pub(crate) note: Option<String>,
}

/// `diagnose`
#[derive(Debug, ClapArgs)]
pub(crate) struct DiagnoseArgs {
    /// The archive to write [default: plimsoll-diagnose-APP-TIME.tar.gz here]
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// `completions`
#[derive(Debug, ClapArgs)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// `man`
#[derive(Debug, ClapArgs)]
pub(crate) struct ManArgs {
    /// Write a page for each command into DIR
    #[arg(long, value_name = "DIR", conflicts_with = "markdown")]
    pub(crate) dir: Option<PathBuf>,
    /// Write the reference of all commands as Markdown
    #[arg(long)]
    pub(crate) markdown: bool,
}

/// As whom a run is signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum SignAs {
    /// Whoever deployed
    Deployer,
    /// Whoever verified that it went well
    Verifier,
}

/// `backup`
#[derive(Debug, ClapArgs)]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    pub(crate) command: Option<BackupCommand>,
    #[command(flatten)]
    pub(crate) create: BackupCreateArgs,
}

/// `backup create`, and the bare `backup`
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct BackupCreateArgs {
    #[command(flatten)]
    pub(crate) place: BackupPlace,
    /// Compress it [default: as configured]
    #[arg(long)]
    pub(crate) compress: bool,
    /// Prune backups older than N days [default: as configured]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: Option<u32>,
}

/// Which database, and where its backups are.
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct BackupPlace {
    /// This SQLite file, without any configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) db: Option<PathBuf>,
    /// The folder of the backups [default: backups/ in the app's root, or beside FILE]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// What to do with backups.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Make a backup and verify it
    Create(BackupCreateArgs),
    /// List the backups, the newest first
    List(BackupPlace),
    /// Read a backup back and compare it with its manifest
    Verify(BackupVerifyArgs),
    /// Put a backup back into the database, or into a new file
    ///
    /// The backup is verified first, and what it replaces is kept as a backup of its own. Refused while the app has
    /// the database open.
    Restore(BackupRestoreArgs),
    /// Remove old backups, and say of each why it stays or goes
    ///
    /// The newest verified backup stays, and those of the last runs. What any rule keeps is kept. The configured places
    /// for second copies are pruned by the same rules.
    Prune(BackupPruneArgs),
    /// Copy a backup to another folder or to S3, read it back from there and compare
    ///
    /// A folder must be there. It is marked, so that a disk that is not mounted the next time is noticed, and not its
    /// empty mount point filled. s3://BUCKET/PREFIX goes to S3, or to what speaks like it; endpoint and keys come from
    /// [backup.s3], else from where the AWS tools look. From s3://BUCKET/PREFIX/NAME a backup comes back into a folder;
    /// the NAME <database>.backup.LATEST is the newest.
    Copy(BackupCopyArgs),
    /// Restore the newest backup of each place aside, check it and time it
    ///
    /// Touches no database. `plimsoll status` shows when each was last drilled.
    Drill(BackupPlace),
}

/// `backup verify`
#[derive(Debug, ClapArgs)]
pub(crate) struct BackupVerifyArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) place: BackupPlace,
}

/// `backup restore`
#[derive(Debug, ClapArgs)]
pub(crate) struct BackupRestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Write a new file instead of restoring the database
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    /// Do not ask before it begins
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Believe that nobody has the database open where that cannot be seen
    ///
    /// Needed only for a database that is damaged or of another page size, and only when other users' processes
    /// cannot be looked into. A process that can be seen still keeps the restore from beginning.
    #[arg(long)]
    pub(crate) app_stopped: bool,
    #[command(flatten)]
    pub(crate) place: BackupPlace,
}

/// `backup prune`
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct BackupPruneArgs {
    #[command(flatten)]
    pub(crate) place: BackupPlace,
    /// Keep those of the last N days [default: as configured, else 14]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: Option<u32>,
    /// Keep the last N [default: as configured]
    #[arg(long, value_name = "N")]
    pub(crate) last: Option<u32>,
    /// Keep the last one of each of the last N days that have one [default: as configured]
    #[arg(long, value_name = "N")]
    pub(crate) daily: Option<u32>,
    /// Keep the last one of each of the last N weeks that have one [default: as configured]
    #[arg(long, value_name = "N")]
    pub(crate) weekly: Option<u32>,
    /// Keep the last one of each of the last N months that have one [default: as configured]
    #[arg(long, value_name = "N")]
    pub(crate) monthly: Option<u32>,
    /// Show what would become of each, and remove nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// `verify`
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct VerifyArgs {
    /// This SQLite file, without any configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) db: Option<PathBuf>,
    /// Write what was found to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Compare tables, schema and rows with a backup; fails where something is gone
    #[arg(long, value_name = "BACKUP")]
    pub(crate) compare: Option<PathBuf>,
    /// Note tables, columns, versions and orphans of this database beside it, to compare with from now on
    #[arg(long)]
    pub(crate) learn: bool,
    /// Compare with the migrations in DIR [default: those of the current release]
    #[arg(long, value_name = "MIGRATIONS")]
    pub(crate) dir: Option<PathBuf>,
}

/// `migrate`
#[derive(Debug, ClapArgs)]
pub(crate) struct MigrateArgs {
    #[command(subcommand)]
    pub(crate) command: MigrateCommand,
}

/// What to do with migrations.
#[derive(Debug, Subcommand)]
pub(crate) enum MigrateCommand {
    /// Show what is applied, pending, edited or missing
    Status(MigratePlace),
    /// Try the pending ones on a copy, then apply them
    Up(MigrateWayArgs),
    /// Take back the last one, or all above N, by their .down.sql
    Down(MigrateWayArgs),
    /// Say what is dangerous in the pending ones, why, and what to write instead
    Lint(MigratePlace),
    /// Note that an existing database has had all up to N, and run none
    Baseline(MigrateOneArgs),
    /// Accept that the file of an applied one has been edited
    Accept(MigrateOneArgs),
}

/// Which database and which migrations.
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct MigratePlace {
    /// This SQLite file, without any configuration
    #[arg(long, value_name = "FILE")]
    pub(crate) db: Option<PathBuf>,
    /// The folder of migrations [default: that of the current release, or migrations/]
    #[arg(long, value_name = "MIGRATIONS")]
    pub(crate) dir: Option<PathBuf>,
}

/// `migrate up`, `migrate down`
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct MigrateWayArgs {
    /// Up to N, N included; down to N, N stays
    #[arg(long, value_name = "N")]
    pub(crate) to: Option<u64>,
    #[command(flatten)]
    pub(crate) place: MigratePlace,
    /// Accept one named loss, as the refusal named it; may be given several times
    #[arg(long, value_name = "WHAT", value_parser = words)]
    pub(crate) acknowledge: Vec<String>,
}

/// `migrate baseline`, `migrate accept`
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct MigrateOneArgs {
    /// The migration's number
    #[arg(value_name = "N")]
    pub(crate) version: u64,
    #[command(flatten)]
    pub(crate) place: MigratePlace,
    /// Accept one named difference, as the refusal named it
    #[arg(long, value_name = "WHAT", value_parser = words)]
    pub(crate) acknowledge: Vec<String>,
}

/// `backup copy`
#[derive(Clone, Debug, Default, ClapArgs)]
pub(crate) struct BackupCopyArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Where to copy it: a folder (another disk, a NAS), or s3://BUCKET/PREFIX
    #[arg(value_name = "DEST")]
    pub(crate) dest: PathBuf,
    /// Accept that DEST is another disk than before
    #[arg(long)]
    pub(crate) new_disk: bool,
    #[command(flatten)]
    pub(crate) place: BackupPlace,
}

/// A revision goes to git as an argument: it must not look like an option.
fn revision(text: &str) -> Result<String, String> {
    match text {
        "" => Err("a revision is a commit, tag or branch".to_owned()),
        _ if text.starts_with('-') => Err("a revision does not begin with `-`".to_owned()),
        _ if text.contains(|c: char| c.is_whitespace() || c.is_control()) => {
            Err("a revision has no spaces".to_owned())
        }
        _ => Ok(text.to_owned()),
    }
}

/// A user's name goes into a file that root's programs read: one plain word.
fn user(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    match text {
        "" => Err("a user's name is a word".to_owned()),
        _ if text.chars().all(plain) && !text.starts_with('-') => Ok(text.to_owned()),
        _ => Err("a user's name has letters, digits, `.`, `-` and `_`".to_owned()),
    }
}

/// Something to say: not nothing.
fn words(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("this must not be empty".to_owned()),
        trimmed => Ok(trimmed.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("plimsoll").chain(line.split(' ')))
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples() {
        for command in Args::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            let typed = format!("plimsoll {}", command.get_name());
            let shown = help.contains(&typed) || help.contains("init") || help.contains(command.get_name());
            assert!(help.starts_with("Examples:") && shown, "{}", command.get_name());
        }
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        for line in ["-C /srv --json -q check", "check --json -C /srv --quiet"] {
            let args = parse(line).unwrap();
            assert!(args.global.json && args.global.quiet, "{line}");
            assert_eq!(args.global.directory, PathBuf::from("/srv"));
        }
    }

    #[test]
    fn deploy_takes_what_the_contract_names() {
        let line = "deploy v2 --yes --approved-by Asha --acknowledge drop:a --acknowledge rows:b --unlock fix --no-watch";
        let Command::Deploy(deploy) = parse(line).unwrap().command else { panic!() };
        assert_eq!(deploy.revision.as_deref(), Some("v2"));
        assert_eq!(deploy.acknowledge, ["drop:a", "rows:b"]);
        assert_eq!((deploy.approved_by.as_deref(), deploy.unlock.as_deref()), (Some("Asha"), Some("fix")));
        assert!(deploy.yes && deploy.no_watch);
    }

    #[test]
    fn backup_alone_makes_one_and_its_words_do_the_rest() {
        let Command::Backup(bare) = parse("backup --db a.db --days 3").unwrap().command else { panic!() };
        assert!(bare.command.is_none());
        assert_eq!((bare.create.place.db, bare.create.days), (Some(PathBuf::from("a.db")), Some(3)));
        let Command::Backup(restore) = parse("backup restore b --to c --db a.db").unwrap().command else {
            panic!()
        };
        let Some(BackupCommand::Restore(restore)) = restore.command else { panic!() };
        assert_eq!((restore.file, restore.to), (PathBuf::from("b"), Some(PathBuf::from("c"))));
        assert!(parse("backup --days 0").is_err());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "deploy --upload-pack=x",
            "deploy -- -x",
            "rollback 12",
            "show twelve",
            "frobnicate",
            "show --format pdf",
            "install --user a\nb",
            "install --listen 8080",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(Args::try_parse_from(["plimsoll", "deploy", "--approved-by", " "]).is_err());
        assert!(Args::try_parse_from(["plimsoll", "deploy", "a b"]).is_err());
    }
}
