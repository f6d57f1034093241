//! Addresses in the file: databases, listeners, public URLs, destinations of backup copies.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::mistake::Unfit;

/// Where the data is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum DatabaseUrl {
    /// One SQLite file, absolute.
    Sqlite(PathBuf),
    /// A PostgreSQL database. Read and checked; this version cannot deploy one yet.
    Postgres(Postgres),
}

/// Where a PostgreSQL database is; its password is a secret of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Postgres {
    /// The role, or `None` for the system user's.
    pub(crate) user: Option<String>,
    /// The host, or `None` for the local socket.
    pub(crate) host: Option<String>,
    /// 5432 unless given.
    pub(crate) port: u16,
    /// The database's name.
    pub(crate) name: String,
}

impl DatabaseUrl {
    /// Reads `sqlite:shared/store.db` (below `root`), `sqlite:/abs/path`, `sqlite:///abs/path` or
    /// `postgres://user@host:port/name`.
    pub(super) fn parse(text: &str, root: &Path) -> Result<DatabaseUrl, Unfit> {
        if let Some(rest) = text.strip_prefix("sqlite:") {
            return sqlite(text, rest, root).map(DatabaseUrl::Sqlite);
        }
        if let Some(rest) = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")) {
            return postgres(rest).map(DatabaseUrl::Postgres);
        }
        let help = if text.contains(':') {
            "for example: sqlite:shared/store.db, or postgres://user@host/name".to_owned()
        } else {
            format!("did you mean \"sqlite:{text}\"?")
        };
        Err(Unfit::new("this is not the address of a database that Plimsoll knows", help))
    }
}

fn sqlite(text: &str, rest: &str, root: &Path) -> Result<PathBuf, Unfit> {
    let path = match rest.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(relative) => {
            let help =
                format!("write \"sqlite:{relative}\" below the root, or three slashes and a full path");
            return Err(Unfit::new("two slashes would begin a host, and SQLite has none", help));
        }
        None => rest,
    };
    if path.is_empty() || path == ":memory:" || path.ends_with('/') {
        let help = "for example: sqlite:shared/store.db";
        return Err(Unfit::new(format!("`{text}` names no file that could be kept"), help));
    }
    if path.contains(['?', '#']) {
        return Err(Unfit::new("options after the path are not understood", "write the path alone"));
    }
    let path = normal(&root.join(path));
    let within = path.strip_prefix(root).unwrap_or(Path::new(""));
    for folder in ["releases", "current", "backups", "runs"] {
        if within.starts_with(folder) {
            return Err(Unfit::new(
                format!("{folder}/ changes with every deployment; the data must not be in there"),
                "keep it in shared/, for example: sqlite:shared/store.db",
            ));
        }
    }
    Ok(path)
}

fn postgres(rest: &str) -> Result<Postgres, Unfit> {
    let example = "for example: postgres://user@host:5432/name";
    let unfit = |what: &str| Err(Unfit::new(what, example));
    let (authority, name) = rest.split_once('/').unwrap_or((rest, ""));
    if name.is_empty() || name.contains(['/', '?', '#']) {
        return unfit("the name of the database belongs after the host, and nothing after it");
    }
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, authority),
    };
    if user.is_some_and(|user| user.contains(':')) {
        let help = "take it out, and say where it is: password = \"env:DATABASE_PASSWORD\"";
        return Err(Unfit::new("a password does not stand in the file itself", help));
    }
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (place, None),
    };
    let Ok(port) = port.unwrap_or("5432").parse() else { return unfit("the port is not a number") };
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(Postgres { user: user.and_then(some), host: some(host), port, name: name.to_owned() })
}

/// Where the front door takes connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Listen {
    /// An own socket.
    Address(SocketAddr),
    /// A socket that systemd opened and passes on.
    Systemd,
}

impl Listen {
    /// Whether only this machine can reach it, as far as that is known.
    pub(crate) fn is_loopback(&self) -> bool {
        matches!(self, Listen::Address(address) if address.ip().is_loopback())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Address(address) => address.fmt(f),
            Listen::Systemd => f.write_str("systemd"),
        }
    }
}

/// Reads an address and port, or `systemd`.
pub(super) fn listen(text: &str) -> Result<Listen, Unfit> {
    if text == "systemd" {
        return Ok(Listen::Systemd);
    }
    let mut unfit = match socket(text) {
        Ok(address) => return Ok(Listen::Address(address)),
        Err(unfit) => unfit,
    };
    unfit.help.push_str("; or \"systemd\" for a socket that systemd opens");
    Err(unfit)
}

/// Reads an address and port.
pub(super) fn socket(text: &str) -> Result<SocketAddr, Unfit> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err(Unfit::new("port 0 is another port every time", "name the port"));
        }
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port_is_one = port.parse::<u16>().is_ok_and(|p| p > 0);
    let help = match host {
        _ if !port_is_one => "an address and a port, for example: \"127.0.0.1:8080\"".to_owned(),
        "" | "localhost" => format!("did you mean \"127.0.0.1:{port}\"?"),
        "*" => format!("did you mean \"0.0.0.0:{port}\"?"),
        _ => format!("an address of this machine and a port, for example: \"127.0.0.1:{port}\""),
    };
    Err(Unfit::new(format!("`{text}` is not an address"), help))
}

/// The address that users know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PublicUrl {
    /// Whether users come by HTTPS.
    pub(crate) https: bool,
    /// The host and, unless it is the usual one, the port: what `Host` says.
    pub(crate) host: String,
}

impl PublicUrl {
    pub(super) fn parse(text: &str) -> Result<PublicUrl, Unfit> {
        let example = "for example: https://shop.example.com";
        let (https, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(Unfit::new(format!("`{text}` is not a URL"), example)),
        };
        let host = rest.strip_suffix('/').unwrap_or(rest);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if host.is_empty() || !host.chars().all(plain) {
            return Err(Unfit::new("only the scheme and the host, without user or path", example));
        }
        Ok(PublicUrl { https, host: host.to_lowercase() })
    }

    /// The scheme, without `://`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }
}

/// Where a second copy of a backup goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Destination {
    /// A folder, absolute: another disk, a NAS.
    Folder(PathBuf),
    /// S3 or what speaks like it; endpoint and keys come from the environment, as the AWS tools read them.
    S3 {
        /// The bucket.
        bucket: String,
        /// What object names begin with, without a slash at either end; may be empty.
        prefix: String,
    },
}

impl Destination {
    /// Reads what was typed: `s3://bucket/prefix`, or a folder. An error is what is wrong with it.
    pub(crate) fn typed(text: &str, directory: &Path) -> Result<Destination, (String, String)> {
        Destination::parse(text, directory).map_err(|unfit| (unfit.what, unfit.help))
    }

    pub(super) fn parse(text: &str, root: &Path) -> Result<Destination, Unfit> {
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(Unfit::new("the bucket is missing", "for example: s3://bucket/backups"));
            }
            return Ok(Destination::S3 {
                bucket: bucket.to_owned(),
                prefix: prefix.trim_matches('/').to_owned(),
            });
        }
        if text.contains("://") {
            return Err(Unfit::new(
                "Plimsoll copies to folders and to s3:// only",
                "for example: /mnt/external/backup",
            ));
        }
        Ok(Destination::Folder(normal(&root.join(text))))
    }
}

/// The path without `.` and `..`, by its text alone: the folders need not exist yet.
pub(super) fn normal(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(text: &str) -> Result<DatabaseUrl, Unfit> {
        DatabaseUrl::parse(text, Path::new("/srv/grocery"))
    }

    #[test]
    fn sqlite_has_three_forms() {
        for (text, path) in [
            ("sqlite:shared/store.db", "/srv/grocery/shared/store.db"),
            ("sqlite:./shared/../shared/store.db", "/srv/grocery/shared/store.db"),
            ("sqlite:/var/lib/store.db", "/var/lib/store.db"),
            ("sqlite:///var/lib/store.db", "/var/lib/store.db"),
            ("sqlite:../releases/store.db", "/srv/releases/store.db"),
        ] {
            assert_eq!(database(text).unwrap(), DatabaseUrl::Sqlite(path.into()), "{text}");
        }
    }

    #[test]
    fn a_database_that_could_not_be_kept_is_refused() {
        for text in [
            "sqlite:",
            "sqlite::memory:",
            "sqlite://store.db",
            "sqlite:shared/",
            "sqlite:a.db?mode=ro",
            "sqlite:current/store.db",
            "sqlite:releases/000001-abcdefa/store.db",
            "sqlite:shared/../runs/a.db",
            "mysql://h/db",
            "postgres://h",
            "postgres://u@h:x/db",
            "postgres://h/db?sslmode=off",
        ] {
            assert!(database(text).is_err(), "{text}");
        }
        assert_eq!(database("shared/store.db").unwrap_err().help, "did you mean \"sqlite:shared/store.db\"?");
    }

    #[test]
    fn a_password_in_a_database_url_is_refused_and_not_repeated() {
        let unfit = database("postgres://grocer:hunter2@db/grocery").unwrap_err();
        assert!(unfit.what.contains("password"));
        assert!(!format!("{unfit:?}").contains("hunter2"));
    }

    #[test]
    fn postgres_is_read() {
        let Ok(DatabaseUrl::Postgres(read)) = database("postgresql://grocer@[::1]:5433/grocery") else {
            panic!()
        };
        assert_eq!(
            (read.user.as_deref(), read.host.as_deref(), read.port),
            (Some("grocer"), Some("[::1]"), 5433)
        );
        let Ok(DatabaseUrl::Postgres(read)) = database("postgres:///grocery") else { panic!() };
        assert_eq!(read, Postgres { user: None, host: None, port: 5432, name: "grocery".into() });
    }

    #[test]
    fn listeners_are_addresses_or_systemd() {
        assert_eq!(listen("systemd").unwrap(), Listen::Systemd);
        assert_eq!(listen("[::]:80").unwrap().to_string(), "[::]:80");
        for (text, meant) in [
            ("8080", "127.0.0.1:8080"),
            (":8080", "127.0.0.1:8080"),
            ("localhost:80", "127.0.0.1:80"),
            ("*:80", "0.0.0.0:80"),
        ] {
            assert!(listen(text).unwrap_err().help.contains(meant), "{text}");
        }
        for text in
            ["127.0.0.1", "127.0.0.1:0", "127.0.0.1:99999", "shop.example.com:80", "http://127.0.0.1:80"]
        {
            assert!(listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn public_urls_are_a_scheme_and_a_host() {
        let url = PublicUrl::parse("https://Shop.example.com/").unwrap();
        assert_eq!((url.scheme(), url.host.as_str()), ("https", "shop.example.com"));
        for text in ["shop.example.com", "https://", "https://a/b", "https://u:p@a", "ftp://a", "https://a b"]
        {
            assert!(PublicUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn copies_go_to_folders_and_s3() {
        let root = Path::new("/srv/grocery");
        let s3 = Destination::parse("s3://bucket/a/b/", root).unwrap();
        assert_eq!(s3, Destination::S3 { bucket: "bucket".into(), prefix: "a/b".into() });
        assert_eq!(Destination::parse("../nas", root).unwrap(), Destination::Folder("/srv/nas".into()));
        assert!(Destination::parse("ftp://host/x", root).is_err());
        assert!(Destination::parse("s3:///x", root).is_err());
    }
}
