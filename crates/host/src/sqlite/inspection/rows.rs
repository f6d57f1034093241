//! What the records of tables and indexes told: contents, and whether the one is what the other should be.

use rusqlite::types::ValueRef;
use twox_hash::XxHash3_128;

use super::model::{Kinds, Left, Part, Table};
use super::record::{Collation, Field, canonical, compare, fields, value};
use super::references::Numbers;
use super::{Seen, Trouble};
use crate::sqlite::fingerprint::{Content, Hashing, Tally, encode};

/// Entries counted, and the sum of their hashes: the same for a table's rows and the index that was made of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Entries {
    count: u64,
    sum: u128,
}

impl Entries {
    fn add(&mut self, entry: &[u8]) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(XxHash3_128::oneshot(entry));
    }

    fn join(&mut self, other: Entries) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// What one thread has found about a table.
struct Rows {
    tally: Tally,
    /// Per index: what the rows say, and what the index says.
    should: Vec<Entries>,
    is: Vec<Entries>,
    /// How deep the branches of its tree are.
    depth: Option<usize>,
    /// Its row numbers, when foreign keys name them.
    numbers: Option<Numbers>,
    /// Per foreign key: the row numbers that it names.
    named: Vec<Numbers>,
    /// Text in a column for numbers may look like one.
    doubtful: bool,
    /// Records are older than a column whose default is not known here.
    strange: bool,
}

/// What one thread has found.
pub(super) struct Found<'m> {
    tables: &'m [Table],
    rows: Vec<Rows>,
    /// Blocks left for sets of row numbers.
    room: usize,
    fields: Vec<Field>,
    buffer: Vec<u8>,
    last: Last,
}

/// The entry before, to which the next is compared.
#[derive(Default)]
struct Last {
    record: Vec<u8>,
    fields: Vec<Field>,
}

impl<'m> Found<'m> {
    pub(super) fn new(tables: &'m [Table], hashing: Hashing) -> Found<'m> {
        let is_parent = |place: usize| {
            let mut all = tables.iter().flat_map(|table| &table.references);
            all.any(|reference| reference.parent == Some(place))
        };
        let rows = tables.iter().enumerate().map(|(place, table)| Rows {
            tally: Tally::new(hashing),
            should: vec![Entries::default(); table.indexes.len()],
            is: vec![Entries::default(); table.indexes.len()],
            depth: None,
            numbers: is_parent(place).then(Numbers::default),
            named: table.references.iter().map(|_| Numbers::default()).collect(),
            doubtful: false,
            strange: table.strange,
        });
        Found {
            tables,
            rows: rows.collect(),
            room: Numbers::MOST,
            fields: Vec::new(),
            buffer: Vec::new(),
            last: Last::default(),
        }
    }

    /// All branches below a root are equally deep.
    pub(super) fn depth(&mut self, table: usize, depth: usize) -> Result<(), Trouble> {
        match *self.rows[table].depth.get_or_insert(depth) == depth {
            true => Ok(()),
            false => Err(Trouble::odd("the depth of a tree")),
        }
    }

    /// A row of a table.
    pub(super) fn row(&mut self, place: usize, number: Option<i64>, record: &[u8]) -> Result<(), Trouble> {
        let (table, rows) = (&self.tables[place], &mut self.rows[place]);
        if rows.strange {
            return Ok(());
        }
        fields(record, &mut self.fields)?;
        let fields = &self.fields;
        if fields.len() > table.columns.len() {
            return Err(Trouble::odd("a record with more values than columns"));
        }
        let old = fields.len() < table.columns.len();
        if old && table.columns[fields.len()..].iter().any(|column| column.default.is_none()) {
            rows.strange = true;
            return Ok(());
        }
        let of = |column: usize| of(table, fields, record, number, column);
        for (place, column) in table.columns.iter().enumerate() {
            if table.row_number != Some(place) && !allowed(column.allowed, of(place), &mut rows.doubtful) {
                return Err(Trouble::odd("a value that its column does not allow"));
            }
        }
        self.buffer.clear();
        for column in &table.content {
            encode(of(*column), &mut self.buffer);
        }
        rows.tally.add(&self.buffer);
        for (index, should) in table.indexes.iter().zip(&mut rows.should) {
            let Some(parts) = &index.parts else { continue };
            self.buffer.clear();
            for part in parts {
                let value = part.column.map_or(ValueRef::Integer(number.unwrap_or(0)), of);
                encode(canonical(value), &mut self.buffer);
            }
            should.add(&self.buffer);
        }
        if let (Some(numbers), Some(number)) = (&mut rows.numbers, number) {
            numbers.add(number, &mut self.room);
        }
        for (reference, named) in table.references.iter().zip(&mut rows.named) {
            match reference.column.map(of) {
                Some(ValueRef::Null) => {}
                Some(ValueRef::Integer(number)) if reference.parent.is_some() => {
                    named.add(number, &mut self.room)
                }
                // Another kind may still name a row: 5.0 and '5' do.
                _ => named.lose(),
            }
        }
        Ok(())
    }

    /// The order of the rows of a table without row numbers.
    pub(super) fn order(&self, table: &'m Table) -> Order<'m> {
        Order { table, last: Last::default(), fields: Vec::new() }
    }

    /// An entry of an index.
    pub(super) fn entry(&mut self, table: usize, index: usize, record: &[u8]) -> Result<(), Trouble> {
        let model = &self.tables[table].indexes[index];
        let Some(parts) = &model.parts else { return Ok(()) };
        fields(record, &mut self.fields)?;
        let fields = &self.fields;
        if fields.len() != parts.len() {
            return Err(Trouble::odd("an entry of an index"));
        }
        self.buffer.clear();
        for (part, field) in parts.iter().zip(fields) {
            let value = value(record, *field);
            if part.column.is_none() && !matches!(value, ValueRef::Integer(_)) {
                return Err(Trouble::odd("the row of an entry of an index"));
            }
            encode(canonical(value), &mut self.buffer);
        }
        self.rows[table].is[index].add(&self.buffer);
        let last = &mut self.last;
        if !last.fields.is_empty() {
            let orders = parts.iter().map(|Part { descending, collation, .. }| (*descending, *collation));
            let same = last.same(record, fields, orders)?;
            let null =
                || fields[..model.distinct].iter().any(|field| value(record, *field) == ValueRef::Null);
            if same >= model.distinct && (same == parts.len() || !null()) {
                return Err(Trouble::odd("an entry that is twice in an index"));
            }
        }
        last.keep(record, &mut self.fields);
        Ok(())
    }

    /// The next entry is the first of another index.
    pub(super) fn next_index(&mut self) {
        self.last = Last::default();
    }

    /// What two threads have found.
    pub(super) fn join(mut self, other: Found<'m>) -> Found<'m> {
        for (one, two) in self.rows.iter_mut().zip(other.rows) {
            one.tally.join(two.tally);
            one.should.iter_mut().zip(two.should).for_each(|(one, two)| one.join(two));
            one.is.iter_mut().zip(two.is).for_each(|(one, two)| one.join(two));
            // Differing depths of one table's branches: no depth is that of both.
            if let Some(depth) = two.depth
                && *one.depth.get_or_insert(depth) != depth
            {
                one.depth = Some(usize::MAX);
            }
            if let (Some(one), Some(two)) = (&mut one.numbers, two.numbers) {
                one.join(two);
            }
            one.named.iter_mut().zip(two.named).for_each(|(one, two)| one.join(two));
            one.doubtful |= two.doubtful;
            one.strange |= two.strange;
        }
        self
    }

    /// Compares indexes with their tables and foreign keys with the rows that they name.
    pub(super) fn judge(mut self, tables: &[Table]) -> Result<Seen, Trouble> {
        let mut seen = Seen {
            tables: std::collections::BTreeMap::new(),
            left: std::collections::BTreeMap::new(),
            references: std::collections::BTreeSet::new(),
        };
        for (place, table) in tables.iter().enumerate() {
            let rows = &mut self.rows[place];
            if rows.depth == Some(usize::MAX) {
                return Err(Trouble::odd("the depth of a tree"));
            }
            for ((index, should), is) in table.indexes.iter().zip(&rows.should).zip(&rows.is) {
                if !rows.strange && index.parts.is_some() && should != is {
                    return Err(Trouble::Odd(format!("the entries of index {}", index.name)));
                }
            }
            let left = match (rows.strange, rows.doubtful) {
                (true, _) => Left::Indexes,
                (false, true) => table.left.max(Left::Rows),
                (false, false) => table.left,
            };
            if left != Left::Nothing {
                seen.left.insert(table.name.clone(), left);
            }
            let strange = rows.strange;
            let mut named = std::mem::take(&mut rows.named);
            let sound = table.references.iter().zip(&mut named).all(|(reference, named)| {
                let parent = reference.parent.and_then(|parent| {
                    let parent = &mut self.rows[parent];
                    parent.numbers.as_mut().filter(|_| !parent.strange)
                });
                !strange && parent.is_some_and(|parent| named.within(parent))
            });
            if !sound {
                seen.references.insert(table.name.clone());
            }
        }
        for (table, rows) in tables.iter().zip(self.rows) {
            if table.root != 0 && !rows.strange && !table.content.is_empty() {
                let (rows, hash) = rows.tally.finish();
                seen.tables.insert(table.name.clone(), Content { rows, hash: Some(hash) });
            }
        }
        Ok(seen)
    }
}

/// The order of the rows of a table without row numbers.
pub(super) struct Order<'m> {
    table: &'m Table,
    last: Last,
    fields: Vec<Field>,
}

impl Order<'_> {
    pub(super) fn next(&mut self, record: &[u8]) -> Result<(), Trouble> {
        if self.table.strange {
            return Ok(());
        }
        fields(record, &mut self.fields)?;
        let keys = self.table.key.len();
        if self.fields.len() < keys {
            return Err(Trouble::odd("a row without its key"));
        }
        if !self.last.fields.is_empty()
            && self.last.same(record, &self.fields, self.table.key.iter().copied())? >= keys
        {
            return Err(Trouble::odd("a key that is twice in a table"));
        }
        self.last.keep(record, &mut self.fields);
        Ok(())
    }
}

impl Last {
    /// How many values at the beginning are the same as those of the entry before. An error when it comes before it.
    fn same(
        &self,
        record: &[u8],
        fields: &[Field],
        orders: impl Iterator<Item = (bool, Collation)>,
    ) -> Result<usize, Trouble> {
        let mut same = 0;
        for (place, (descending, collation)) in orders.enumerate() {
            let before = value(&self.record, self.fields[place]);
            let order = compare(before, value(record, fields[place]), collation);
            match if descending { order.reverse() } else { order } {
                std::cmp::Ordering::Equal => same += 1,
                std::cmp::Ordering::Less => break,
                std::cmp::Ordering::Greater => return Err(Trouble::odd("the order of an index")),
            }
        }
        Ok(same)
    }

    fn keep(&mut self, record: &[u8], fields: &mut Vec<Field>) {
        self.record.clear();
        self.record.extend_from_slice(record);
        std::mem::swap(&mut self.fields, fields);
    }
}

/// The value of a column, as SQLite reads it.
fn of<'r>(
    table: &'r Table,
    fields: &[Field],
    record: &'r [u8],
    number: Option<i64>,
    column: usize,
) -> ValueRef<'r> {
    if let (Some(number), true) = (number, table.row_number == Some(column)) {
        return ValueRef::Integer(number);
    }
    let found = match fields.get(column) {
        Some(field) => value(record, *field),
        None => table.columns[column].default.as_ref().map_or(ValueRef::Null, |value| value.into()),
    };
    match found {
        #[allow(clippy::cast_precision_loss, reason = "as SQLite reads it")]
        ValueRef::Integer(whole) if table.columns[column].real => ValueRef::Real(whole as f64),
        other => other,
    }
}

fn allowed(kinds: Kinds, value: ValueRef<'_>, doubtful: &mut bool) -> bool {
    match value {
        ValueRef::Null => kinds.null,
        ValueRef::Integer(_) => kinds.integer,
        ValueRef::Real(_) => kinds.real,
        ValueRef::Blob(_) => kinds.blob,
        ValueRef::Text(text) => {
            if kinds.no_numbers {
                // SQLite says whether it is one.
                let first = text.iter().find(|byte| !byte.is_ascii_whitespace() && **byte != 0x0b);
                *doubtful |= first.is_some_and(|first| first.is_ascii_digit() || b"+-.".contains(first));
            }
            kinds.text
        }
    }
}
