//! What the schema says about the trees of a file: which columns their records have, and what must hold for them.

use std::collections::BTreeMap;

use rusqlite::Connection;
use rusqlite::types::Value;

use super::Trouble;
use super::record::Collation;
use crate::sqlite::connection::quoted;

/// What SQLite must still say about a table. In the order of what it costs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Left {
    /// Nothing: the pages told all.
    Nothing,
    /// Its rows: conditions and derived columns are SQL.
    Rows,
    /// Its rows and its indexes.
    Indexes,
}

/// A table with rows of its own, or a virtual one.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: String,
    /// 0 for a virtual table.
    pub(super) root: u32,
    pub(super) without_rowid: bool,
    /// The columns of its records, in their order.
    pub(super) columns: Vec<Column>,
    /// Of a table without row numbers, how many of them are its key, and how each is ordered.
    pub(super) key: Vec<(bool, Collation)>,
    /// Those whose values count as the table's content, in the table's order.
    pub(super) content: Vec<usize>,
    pub(super) indexes: Vec<Index>,
    pub(super) references: Vec<Reference>,
    /// The column that is the row's number.
    pub(super) row_number: Option<usize>,
    pub(super) left: Left,
    /// Whether its records cannot be told from its schema; their pages can be.
    pub(super) strange: bool,
}

#[derive(Debug)]
pub(super) struct Column {
    name: String,
    /// Whole numbers in it are read as floating ones.
    pub(super) real: bool,
    pub(super) allowed: Kinds,
    /// What a record has that is older than the column. `None`: it is not known here.
    pub(super) default: Option<Value>,
}

/// Which kinds of values a column may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kinds {
    pub(super) null: bool,
    pub(super) integer: bool,
    pub(super) real: bool,
    pub(super) text: bool,
    /// Whether text must not look like a number.
    pub(super) no_numbers: bool,
    pub(super) blob: bool,
}

#[derive(Debug)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) root: u32,
    /// `None` when its entries cannot be told from the table's rows here.
    pub(super) parts: Option<Vec<Part>>,
    /// How many parts must not be the same in two entries: the index of a UNIQUE, or all parts.
    pub(super) distinct: usize,
}

/// A value of an index's entry: where it comes from and how it is ordered.
#[derive(Debug)]
pub(super) struct Part {
    /// A column of the table's record; `None` for the row's number.
    pub(super) column: Option<usize>,
    pub(super) descending: bool,
    pub(super) collation: Collation,
}

/// A foreign key: a column here, and the table whose row number it names. `None`: not to be told here.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) column: Option<usize>,
    pub(super) parent: Option<usize>,
}

/// All tables and virtual tables.
pub(super) fn read(connection: &Connection) -> Result<Vec<Table>, Trouble> {
    let mut roots = BTreeMap::new();
    let mut checks = BTreeMap::new();
    let mut statement = connection.prepare("SELECT type, name, rootpage, sql FROM sqlite_schema")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, name): (String, String) = (row.get(0)?, row.get(1)?);
        let root = row.get::<_, Option<u32>>(2)?.unwrap_or(0);
        let sql = row.get::<_, Option<String>>(3)?.unwrap_or_default();
        if kind == "table" || kind == "index" {
            checks.insert(name.clone(), sql.to_ascii_uppercase().contains("CHECK"));
            if roots.insert(name, root).is_some() {
                return Err(Trouble::odd("two objects with one name"));
            }
        }
    }
    roots.insert("sqlite_schema".into(), 1);
    let mut tables = Vec::new();
    let mut statement = connection.prepare(
        "SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main' AND type <> 'view'",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (name, kind): (String, String) = (row.get(0)?, row.get(1)?);
        let root = *roots.get(&name).ok_or_else(|| Trouble::odd("a table without a page"))?;
        if kind == "virtual" {
            tables.push(Table { left: Left::Indexes, ..Table::empty(name, 0) });
            continue;
        }
        let check = checks.get(&name).copied().unwrap_or(false);
        let mut table = Table::empty(name, root);
        (table.without_rowid, table.left) = (row.get(2)?, if check { Left::Rows } else { Left::Nothing });
        describe(connection, &mut table, row.get(3)?, &roots)?;
        tables.push(table);
    }
    let trees = tables.iter().map(|table| usize::from(table.root != 0) + table.indexes.len()).sum::<usize>();
    if trees != roots.values().filter(|root| **root != 0).count() {
        return Err(Trouble::odd("a tree that belongs to no table"));
    }
    references(connection, &mut tables)?;
    Ok(tables)
}

impl Table {
    fn empty(name: String, root: u32) -> Table {
        Table {
            name,
            root,
            without_rowid: false,
            columns: Vec::new(),
            key: Vec::new(),
            content: Vec::new(),
            indexes: Vec::new(),
            references: Vec::new(),
            row_number: None,
            left: Left::Nothing,
            strange: false,
        }
    }
}

fn describe(
    connection: &Connection,
    table: &mut Table,
    strict: bool,
    roots: &BTreeMap<String, u32>,
) -> Result<(), Trouble> {
    // Where each column of the table is in its record; nowhere when it is derived on reading.
    let mut place: Vec<Option<usize>> = Vec::new();
    let mut content = Vec::new();
    let mut key = Vec::new();
    let mut statement = connection.prepare(
        "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid",
    )?;
    let mut rows = statement.query([&table.name])?;
    while let Some(row) = rows.next()? {
        let (declared, hidden): (String, i64) = (row.get(1)?, row.get(5)?);
        if hidden != 0 && hidden != 3 {
            table.left = table.left.max(Left::Rows);
            place.push(None);
            continue;
        }
        let affinity = Affinity::of(&declared, strict);
        if row.get::<_, i64>(4)? > 0 {
            key.push((table.columns.len(), declared.eq_ignore_ascii_case("INTEGER")));
        }
        if hidden == 0 {
            content.push(table.columns.len());
        }
        place.push(Some(table.columns.len()));
        table.columns.push(Column {
            name: row.get(0)?,
            real: affinity == Affinity::Real,
            allowed: affinity.kinds(strict, row.get(2)?),
            default: default(row.get::<_, Option<String>>(3)?, &declared, strict, hidden == 3),
        });
    }
    let mut primary = None;
    let mut statement =
        connection.prepare("SELECT name, \"unique\", origin, partial FROM pragma_index_list(?1)")?;
    let mut rows = statement.query([&table.name])?;
    while let Some(row) = rows.next()? {
        let (name, origin): (String, String) = (row.get(0)?, row.get(2)?);
        let (unique, partial): (bool, bool) = (row.get(1)?, row.get(3)?);
        let (parts, keys) = parts(connection, &name, &place)?;
        if origin == "pk" && table.without_rowid {
            primary = Some((parts, keys));
            continue;
        }
        if origin == "pk" {
            key.clear();
        }
        let parts = parts.filter(|_| !partial);
        if parts.is_none() {
            table.left = Left::Indexes;
        }
        let root = *roots.get(&name).ok_or_else(|| Trouble::odd("an index without a page"))?;
        let distinct = if unique { keys } else { parts.as_ref().map_or(0, Vec::len) };
        table.indexes.push(Index { name, root, parts, distinct });
    }
    if table.without_rowid {
        order_by_key(table, primary, &content, &place);
    } else {
        table.content = content;
        if let [(column, true)] = key[..] {
            table.row_number = Some(column);
        }
    }
    Ok(())
}

/// The records of a table without row numbers begin with its key. What refers to columns by their place in the table is
/// brought to that order.
fn order_by_key(
    table: &mut Table,
    primary: Option<(Option<Vec<Part>>, usize)>,
    content: &[usize],
    place: &[Option<usize>],
) {
    let Some((Some(parts), keys)) = primary else {
        return table.give_up();
    };
    let order: Vec<usize> = parts.iter().filter_map(|part| part.column).collect();
    let mut now = vec![None; table.columns.len()];
    for (to, from) in order.iter().enumerate() {
        now[*from] = Some(to);
    }
    let stored = place.iter().flatten().count();
    // A column that is twice in the key is once in the record; then SQLite is asked.
    if order.len() != parts.len() || order.len() != stored || now.contains(&None) {
        return table.give_up();
    }
    table.key = parts.iter().take(keys).map(|part| (part.descending, part.collation)).collect();
    let mut columns: Vec<Option<Column>> = std::mem::take(&mut table.columns).into_iter().map(Some).collect();
    table.columns = order.iter().filter_map(|from| columns[*from].take()).collect();
    table.content = content.iter().filter_map(|column| now[*column]).collect();
    for part in table.indexes.iter_mut().filter_map(|index| index.parts.as_mut()).flatten() {
        part.column = part.column.and_then(|column| now[column]);
    }
}

impl Table {
    /// Leaves everything but the shape of its pages to SQLite.
    fn give_up(&mut self) {
        self.strange = true;
        self.left = Left::Indexes;
        for index in &mut self.indexes {
            index.parts = None;
        }
    }
}

/// The parts of an index, and how many of them are its key. `None` for an expression or an order that is not known here.
fn parts(
    connection: &Connection,
    index: &str,
    place: &[Option<usize>],
) -> Result<(Option<Vec<Part>>, usize), Trouble> {
    let mut statement =
        connection.prepare("SELECT cid, \"desc\", coll, key FROM pragma_index_xinfo(?1) ORDER BY seqno")?;
    let mut rows = statement.query([index])?;
    let (mut parts, mut keys) = (Some(Vec::new()), 0);
    while let Some(row) = rows.next()? {
        let (column, descending): (i64, bool) = (row.get(0)?, row.get(1)?);
        let collation = Collation::named(&row.get::<_, Option<String>>(2)?.unwrap_or_default());
        keys += usize::from(row.get::<_, bool>(3)?);
        let column = match column {
            -1 => Some(None),
            _ => {
                usize::try_from(column).ok().and_then(|column| place.get(column).copied().flatten()).map(Some)
            }
        };
        let part = column.zip(collation).map(|(column, collation)| Part { column, descending, collation });
        parts = parts.zip(part).map(|(mut parts, part)| {
            parts.push(part);
            parts
        });
    }
    Ok((parts, keys))
}

fn references(connection: &Connection, tables: &mut [Table]) -> Result<(), Trouble> {
    let known: BTreeMap<String, usize> =
        tables.iter().enumerate().map(|(place, table)| (table.name.to_ascii_lowercase(), place)).collect();
    for child in 0..tables.len() {
        let mut found: BTreeMap<i64, Reference> = BTreeMap::new();
        let mut statement = connection
            .prepare("SELECT id, seq, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(?1)")?;
        let mut rows = statement.query([&tables[child].name])?;
        while let Some(row) = rows.next()? {
            let (parent, from): (String, String) = (row.get(2)?, row.get(3)?);
            let to: Option<String> = row.get(4)?;
            let parent = known.get(&parent.to_ascii_lowercase()).copied().filter(|place| {
                let number = tables[*place].row_number.map(|column| &tables[*place].columns[column].name);
                number.is_some_and(|name| to.as_ref().is_none_or(|to| to.eq_ignore_ascii_case(name)))
            });
            let mut columns = tables[child].columns.iter();
            let column = columns.position(|column| column.name.eq_ignore_ascii_case(&from));
            // Of several columns: not for us.
            let whole = row.get::<_, i64>(1)? == 0 && !tables[child].strange;
            let reference = Reference { column: column.filter(|_| whole), parent: parent.filter(|_| whole) };
            found.insert(row.get(0)?, reference);
        }
        tables[child].references = found.into_values().collect();
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Affinity {
    /// ANY in a STRICT table.
    Any,
    Blob,
    Text,
    Numeric,
    Integer,
    Real,
}

impl Affinity {
    /// SQLite's rules for the type of a column.
    fn of(declared: &str, strict: bool) -> Affinity {
        let declared = declared.to_ascii_uppercase();
        let has = |word: &str| declared.contains(word);
        if strict && declared == "ANY" {
            Affinity::Any
        } else if has("INT") {
            Affinity::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Affinity::Text
        } else if has("BLOB") || declared.is_empty() {
            Affinity::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Affinity::Real
        } else {
            Affinity::Numeric
        }
    }

    fn kinds(self, strict: bool, not_null: bool) -> Kinds {
        let all =
            Kinds { null: !not_null, integer: true, real: true, text: true, no_numbers: false, blob: true };
        match (self, strict) {
            (Affinity::Any, _) | (Affinity::Blob, false) => all,
            (Affinity::Blob, true) => Kinds { integer: false, real: false, text: false, ..all },
            (Affinity::Text, false) => Kinds { integer: false, real: false, ..all },
            (_, false) => Kinds { no_numbers: true, ..all },
            (Affinity::Text, true) => Kinds { integer: false, real: false, blob: false, ..all },
            (Affinity::Integer, true) => Kinds { real: false, text: false, blob: false, ..all },
            (Affinity::Real | Affinity::Numeric, true) => Kinds { text: false, blob: false, ..all },
        }
    }
}

/// The value of a column in records that are older than it, as SQLite reads it. `None` when that is not certain.
fn default(text: Option<String>, declared: &str, strict: bool, derived: bool) -> Option<Value> {
    if derived {
        return None;
    }
    let Some(text) = text else { return Some(Value::Null) };
    // Only what is a plain literal is the same in every row. It is read as it would be: 1.50 in a text column is '1.50'
    // there, and '1.5' in a row that was written with it.
    let literal = text.eq_ignore_ascii_case("NULL")
        || text.starts_with('\'')
        || text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first));
    if !literal || text.contains('"') {
        return None;
    }
    let read = || -> rusqlite::Result<Value> {
        let own = Connection::open_in_memory()?;
        let kind = if declared.is_empty() { String::new() } else { quoted(declared) };
        let end = if strict { "STRICT" } else { "" };
        own.execute_batch(&format!(
            "CREATE TABLE t (a INT) {end}; INSERT INTO t VALUES (1);
             ALTER TABLE t ADD COLUMN c {kind} DEFAULT {text}"
        ))?;
        own.query_row("SELECT c FROM t", [], |row| row.get(0))
    };
    read().ok()
}
