//! Which database an app opens instead of the one that it is given, and where its path is written.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Folders of other people's code, and of compiled files.
const SKIPPED: [&str; 7] = [".git", "node_modules", ".venv", "venv", "vendor", "__pycache__", "target"];
/// A larger file is no configuration and no source.
const LARGEST: u64 = 256 << 10;
/// So many places are named at most.
const MOST: usize = 5;

/// The lines below `folder` that name one of the paths: `config.py:12`.
pub(super) fn lines_that_name(folder: &Path, paths: &[PathBuf]) -> Vec<String> {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let mut found = Vec::new();
    each_file(folder, &mut |file, size| {
        if size > LARGEST || found.len() >= MOST {
            return;
        }
        let Ok(text) = fs::read(file) else { return };
        let text = String::from_utf8_lossy(&text);
        let names = |line: &str| paths.iter().any(|path| line.contains(path));
        if let Some(number) = text.lines().position(names) {
            let shown = file.strip_prefix(folder).unwrap_or(file).display();
            found.push(format!("{shown}:{}", number + 1));
        }
    });
    found.sort();
    found
}

/// Where files below `folder` put rows into one of the tables without naming its columns: file, line, table.
pub(super) fn inserts_by_position(folder: &Path, tables: &[String]) -> Vec<(String, usize, String)> {
    let names: Vec<String> = tables.iter().map(|table| regex::escape(table)).collect();
    let insert = format!(
        r#"(?i)\b(?:insert(?:\s+or\s+\w+)?|replace)\s+into\s+(?:main\.)?["'`\[]?({})["'`\]]?\s+values\b"#,
        names.join("|")
    );
    let Ok(insert) = regex::Regex::new(&insert) else { return Vec::new() };
    let mut found = Vec::new();
    each_file(folder, &mut |file, size| {
        if size > LARGEST || found.len() >= MOST || is_migration(file) {
            return;
        }
        let Ok(bytes) = fs::read(file) else { return };
        let text = String::from_utf8_lossy(&bytes);
        let Some(hit) = insert.captures(&text) else { return };
        let (at, table) = (hit.get(0).map_or(0, |hit| hit.start()), &hit[1]);
        let line = 1 + text[..at].matches('\n').count();
        found.push((file.strip_prefix(folder).unwrap_or(file).display().to_string(), line, table.to_owned()));
    });
    found.sort();
    found
}

/// SQL that ran before is not what the release does.
fn is_migration(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending == "sql")
}

/// The SQLite databases below `folder` that were written since then, without the one that is meant to be.
pub(super) fn databases_written(folder: &Path, since: SystemTime, meant: &Path) -> Vec<PathBuf> {
    let meant = fs::canonicalize(meant).unwrap_or_else(|_| meant.to_owned());
    let mut found = Vec::new();
    each_file(folder, &mut |file, size| {
        let fresh = fs::metadata(file).and_then(|m| m.modified()).is_ok_and(|modified| modified >= since);
        let is_meant = fs::canonicalize(file).is_ok_and(|file| file == meant);
        let mut begin = [0; 16];
        let read = fs::File::open(file).and_then(|mut file| file.read_exact(&mut begin));
        let begun = read.is_ok() && &begin == b"SQLite format 3\0";
        // Nothing has been written to it yet: only its name tells.
        let empty = size == 0 && named_as_a_database(file);
        if fresh && !is_meant && (begun || empty) {
            found.push(file.to_owned());
        }
    });
    found.sort();
    found
}

fn named_as_a_database(file: &Path) -> bool {
    file.extension()
        .is_some_and(|ending| ["db", "db3", "sqlite", "sqlite3"].iter().any(|known| ending == *known))
}

/// Every file, links not followed. What cannot be read is passed over: this only helps to explain.
fn each_file(folder: &Path, visit: &mut dyn FnMut(&Path, u64)) {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                if !SKIPPED.iter().any(|skipped| entry.file_name() == *skipped) {
                    folders.push(entry.path());
                }
            } else if found.is_file() {
                visit(&entry.path(), found.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_names_production_is_found_in_the_apps_own_files_only() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("node_modules/x")).unwrap();
        fs::create_dir_all(dir.path().join("shop")).unwrap();
        fs::write(dir.path().join("node_modules/x/i.js"), "/srv/shop/store.db").unwrap();
        fs::write(dir.path().join("shop/config.py"), b"A = 1\n# \xff\nDB = '/srv/shop/store.db'\n").unwrap();
        fs::write(dir.path().join("other.py"), "DB = '/srv/shop/other.db'").unwrap();
        let found = lines_that_name(dir.path(), &[PathBuf::from("/srv/shop/store.db")]);
        assert_eq!(found, ["shop/config.py:3"]);
    }

    #[test]
    fn inserts_that_name_no_columns_are_found_and_those_that_do_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("a.py", "x = 1\ndb.execute('insert or replace into\n  \"orders\" VALUES (?, ?)')");
        write(
            "b.js",
            "run('INSERT INTO orders (id, total) VALUES (?, ?)'); run('INSERT INTO lines VALUES (1)')",
        );
        write("c.rb", "sql = 'INSERT INTO orders_old VALUES (1)'");
        write("0001_seed.sql", "INSERT INTO orders VALUES (1, 2)");
        let found = inserts_by_position(dir.path(), &["orders".to_owned()]);
        assert_eq!(found, [("a.py".to_owned(), 2, "orders".to_owned())]);
    }

    #[test]
    fn only_databases_written_since_then_and_not_the_meant_one_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let make = |name: &str| {
            rusqlite::Connection::open(at(name)).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
        };
        make("meant.db");
        make("fresh.db");
        make("old.db");
        fs::write(at("notes.txt"), "SQLite format 4 is none").unwrap();
        let hour = std::time::Duration::from_secs(3600);
        let old = fs::File::options().write(true).open(at("old.db")).unwrap();
        old.set_modified(SystemTime::now() - hour * 2).unwrap();
        let found = databases_written(dir.path(), SystemTime::now() - hour, &at("meant.db"));
        assert_eq!(found, [at("fresh.db")]);
        fs::write(at("notes.md"), "").unwrap();
        fs::write(at("shop.sqlite3"), "").unwrap();
        let found = databases_written(dir.path(), SystemTime::now() - hour, &at("meant.db"));
        assert_eq!(found, [at("fresh.db"), at("shop.sqlite3")]);
    }
}
