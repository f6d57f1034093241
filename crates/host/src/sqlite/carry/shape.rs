//! The tables of one of the databases, as far as carrying rows over needs to know them.

use std::collections::BTreeMap;

use rusqlite::Connection;
use rusqlite::types::Value;

use crate::sqlite::connection::quoted;
use crate::sqlite::schema;

/// One column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) declared: String,
    /// What a row gets that does not name the column; `None` when it is not a constant.
    pub(super) default: Value,
    /// Its number among the table's columns, derived ones counted; -1 for one that is none of them.
    pub(super) place: i64,
}

/// A table that holds rows of its own, or a virtual table that takes rows.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) name: String,
    pub(super) root_page: i64,
    pub(super) sql: String,
    pub(super) columns: Vec<Column>,
    /// The key's columns; empty when rows can be told apart by their values only.
    pub(super) key: Vec<String>,
    pub(super) strict: bool,
    pub(super) virtual_table: bool,
    /// A name by which the row number can be reached; none in WITHOUT ROWID tables, or when columns took all three.
    pub(super) rowid: Option<&'static str>,
}

impl Shape {
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name))
    }

    pub(super) fn keyed_by(&self, name: &str) -> bool {
        self.key.iter().any(|key| key.eq_ignore_ascii_case(name))
    }
}

/// A full-text index over the rows of another table: derived, so it is built again instead of carried.
#[derive(Clone, Debug)]
pub(super) struct Derived {
    pub(super) name: String,
}

/// What a database consists of.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    /// By lower-case name.
    pub(super) tables: BTreeMap<String, Shape>,
    pub(super) derived: Vec<Derived>,
    /// Virtual tables whose rows can neither be read nor be built again.
    pub(super) beyond: Vec<String>,
}

impl Shapes {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut shapes = Shapes::default();
        let listed = listed(connection)?;
        for (name, table) in schema::tables(connection)? {
            let Some(kind) = listed.get(&name) else { continue };
            if kind.of == "shadow" {
                continue;
            }
            let columns = columns(connection, &name)?;
            let rowid = if kind.without_rowid { None } else { free_rowid(&columns) };
            let shape = Shape {
                root_page: table.root_page,
                sql: table.sql,
                key: table.key,
                strict: kind.strict,
                virtual_table: false,
                rowid,
                columns,
                name: name.clone(),
            };
            shapes.tables.insert(name.to_lowercase(), shape);
        }
        for (name, _) in listed.iter().filter(|(_, kind)| kind.of == "virtual") {
            shapes.add_virtual(connection, name)?;
        }
        Ok(shapes)
    }

    /// The same but for some tables.
    pub(super) fn without(mut self, skip: &[&str]) -> Self {
        self.tables.retain(|name, _| !skip.iter().any(|skipped| skipped.eq_ignore_ascii_case(name)));
        self
    }

    fn add_virtual(&mut self, connection: &Connection, name: &str) -> rusqlite::Result<()> {
        let sql: String = connection.query_row(
            "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1",
            [name],
            |row| row.get(0),
        )?;
        match Module::of(&sql) {
            Module::Own { row_number } => {
                let mut columns = columns(connection, name)?;
                if row_number {
                    let declared = "INTEGER".to_owned();
                    columns.insert(
                        0,
                        Column { name: "rowid".into(), declared, default: Value::Null, place: -1 },
                    );
                }
                let key = columns.first().map(|column| column.name.clone()).into_iter().collect();
                let shape = Shape {
                    name: name.to_owned(),
                    root_page: 0,
                    sql,
                    columns,
                    key,
                    strict: false,
                    virtual_table: true,
                    rowid: Some("rowid"),
                };
                self.tables.insert(name.to_lowercase(), shape);
            }
            Module::Derived => self.derived.push(Derived { name: name.to_owned() }),
            Module::Other => self.beyond.push(name.to_owned()),
        }
        Ok(())
    }
}

/// What a virtual table does with its rows.
enum Module {
    /// Keeps them; found by `rowid`, or by its first column.
    Own {
        row_number: bool,
    },
    /// Indexes those of another table.
    Derived,
    Other,
}

impl Module {
    fn of(sql: &str) -> Self {
        let lower = sql.to_lowercase();
        let Some((_, using)) = lower.split_once(" using ") else { return Module::Other };
        let using = using.trim_start();
        let module: String = using.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let packed: String = using.chars().filter(|c| !c.is_whitespace()).collect();
        let option =
            |start: &str| packed.contains(&format!("({start}")) || packed.contains(&format!(",{start}"));
        match module.as_str() {
            "fts3" | "fts4" | "fts5" if option("content=''") || option("content=\"\"") => Module::Other,
            "fts3" | "fts4" | "fts5" if option("content=") => Module::Derived,
            "fts3" | "fts4" | "fts5" => Module::Own { row_number: true },
            "rtree" | "rtree_i32" => Module::Own { row_number: false },
            _ => Module::Other,
        }
    }
}

struct Listed {
    of: String,
    without_rowid: bool,
    strict: bool,
}

fn listed(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Listed>> {
    let mut statement =
        connection.prepare("SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main'")?;
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, Listed { of: row.get(1)?, without_rowid: row.get(2)?, strict: row.get(3)? }))
    })?;
    rows.collect()
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Column>> {
    let mut statement = connection.prepare(
        "SELECT name, type, dflt_value, cid FROM pragma_table_xinfo(?1) WHERE hidden = 0 ORDER BY cid",
    )?;
    let rows = statement.query_map([table], |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, Option<String>>(2)?,
            row.get(3)?,
        ))
    })?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let column = |(name, declared, default, place): (String, String, Option<String>, i64)| {
        // An expression that cannot be evaluated on its own is no constant: then no value counts as the default.
        let value = default.map(|sql| connection.query_row(&format!("SELECT ({sql})"), [], |row| row.get(0)));
        Column { name, declared, place, default: value.and_then(Result::ok).unwrap_or(Value::Null) }
    };
    Ok(rows.into_iter().map(column).collect())
}

fn free_rowid(columns: &[Column]) -> Option<&'static str> {
    let taken = |name: &str| columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    ["rowid", "_rowid_", "oid"].into_iter().find(|name| !taken(name))
}

/// Whether the values of `a` and `b` are the same, type included, or the same seen through another type and back: what
/// a column that was declared anew holds of an unchanged value. 5 is '5' and 5.0; 98 is not '0098'.
pub(super) fn faithful(a: &str, b: &str) -> String {
    let cast = |value: &str, like: &str| {
        format!(
            "CASE typeof({like}) WHEN 'integer' THEN CAST({value} AS INTEGER) WHEN 'real' THEN CAST({value} AS REAL)
             ELSE CAST({value} AS TEXT) END"
        )
    };
    format!(
        "CASE WHEN typeof({a}) = typeof({b}) THEN +{a} COLLATE BINARY IS +{b}
              WHEN typeof({a}) IN ('null', 'blob') OR typeof({b}) IN ('null', 'blob') THEN 0
              ELSE ({}) COLLATE BINARY IS +{b} AND ({}) COLLATE BINARY IS +{a} END",
        cast(a, b),
        cast(b, a)
    )
}

/// A column of a table as SQL.
pub(super) fn of(table: &str, column: &str) -> String {
    format!("{table}.{}", quoted(column))
}
