//! SQLite's records: values one after the other behind a header that tells their kinds, and how they are ordered.

use std::cmp::Ordering;

use rusqlite::types::ValueRef;

use super::Trouble;

/// SQLite's numbers of one to nine bytes, and where the next thing begins.
pub(super) fn varint(bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((i64::from(first), at + 1));
    }
    let mut value = u64::from(first & 0x7f);
    for place in 1..8 {
        let byte = *bytes.get(at + place)?;
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Some((value.cast_signed(), at + place + 1));
        }
    }
    let last = *bytes.get(at + 8)?;
    Some(((value << 8 | u64::from(last)).cast_signed(), at + 9))
}

/// A value's kind in the header of its record, and where the value is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    kind: u64,
    at: usize,
}

/// Where the values of a record are. An error when they do not fill it exactly.
pub(super) fn fields(record: &[u8], into: &mut Vec<Field>) -> Result<(), Trouble> {
    let odd = || Trouble::odd("a record");
    into.clear();
    let (header, mut at) = varint(record, 0).ok_or_else(odd)?;
    let header =
        usize::try_from(header).ok().filter(|end| (2..=record.len()).contains(end)).ok_or_else(odd)?;
    let mut value = header;
    while at < header {
        let (kind, next) = varint(&record[..header], at).ok_or_else(odd)?;
        let kind = u64::try_from(kind).ok().filter(|kind| *kind != 10 && *kind != 11).ok_or_else(odd)?;
        into.push(Field { kind, at: value });
        value = value.checked_add(length(kind)).filter(|end| *end <= record.len()).ok_or_else(odd)?;
        at = next;
    }
    if value == record.len() { Ok(()) } else { Err(odd()) }
}

fn length(kind: u64) -> usize {
    match kind {
        0 | 8 | 9 => 0,
        1..=4 => usize::try_from(kind).unwrap_or(0),
        5 => 6,
        6 | 7 => 8,
        // Longer than anything: the caller sees that it does not fit.
        _ => usize::try_from((kind - 12) / 2).unwrap_or(usize::MAX / 2),
    }
}

/// The value of a field of a record that [`fields`] has accepted.
pub(super) fn value(record: &[u8], field: Field) -> ValueRef<'_> {
    let bytes = record.get(field.at..field.at + length(field.kind)).unwrap_or_default();
    match field.kind {
        0 => ValueRef::Null,
        8 => ValueRef::Integer(0),
        9 => ValueRef::Integer(1),
        1..=6 => {
            let sign = if bytes.first().is_some_and(|byte| *byte >= 0x80) { -1 } else { 0 };
            ValueRef::Integer(bytes.iter().fold(sign, |value, byte| value << 8 | i64::from(*byte)))
        }
        7 => {
            let bits = bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
            let real = f64::from_bits(bits);
            // SQLite has no such number: it is a NULL to it.
            if real.is_nan() { ValueRef::Null } else { ValueRef::Real(real) }
        }
        kind if kind % 2 == 1 => ValueRef::Text(bytes),
        _ => ValueRef::Blob(bytes),
    }
}

/// How text is ordered, as far as it is known here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Collation {
    Binary,
    NoCase,
    RTrim,
}

impl Collation {
    pub(super) fn named(name: &str) -> Option<Collation> {
        let known = [("BINARY", Self::Binary), ("NOCASE", Self::NoCase), ("RTRIM", Self::RTrim)];
        known.into_iter().find(|(one, _)| one.eq_ignore_ascii_case(name)).map(|(_, collation)| collation)
    }

    fn compare(self, one: &[u8], two: &[u8]) -> Ordering {
        match self {
            Collation::Binary => one.cmp(two),
            Collation::NoCase => {
                // As SQLite does it: letters of ASCII, no further than a NUL, then by length.
                for (one, two) in one.iter().zip(two) {
                    let order = one.to_ascii_lowercase().cmp(&two.to_ascii_lowercase());
                    if order.is_ne() {
                        return order;
                    }
                    if *one == 0 {
                        break;
                    }
                }
                one.len().cmp(&two.len())
            }
            Collation::RTrim => trimmed(one).cmp(trimmed(two)),
        }
    }
}

fn trimmed(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    &text[..end]
}

/// The order of two values.
pub(super) fn compare(one: ValueRef<'_>, two: ValueRef<'_>, collation: Collation) -> Ordering {
    use ValueRef::{Blob, Integer, Real, Text};
    match (one, two) {
        (Integer(one), Integer(two)) => one.cmp(&two),
        (Real(one), Real(two)) => one.partial_cmp(&two).unwrap_or(Ordering::Equal),
        (Integer(one), Real(two)) => whole_and_real(one, two),
        (Real(one), Integer(two)) => whole_and_real(two, one).reverse(),
        (Text(one), Text(two)) => collation.compare(one, two),
        (Blob(one), Blob(two)) => one.cmp(two),
        _ => rank(one).cmp(&rank(two)),
    }
}

fn rank(value: ValueRef<'_>) -> u8 {
    match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) | ValueRef::Real(_) => 1,
        ValueRef::Text(_) => 2,
        ValueRef::Blob(_) => 3,
    }
}

const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;

#[allow(clippy::cast_possible_truncation, reason = "within the range of an i64, which is asked before")]
fn whole_and_real(whole: i64, real: f64) -> Ordering {
    if real >= TWO_TO_63 {
        return Ordering::Less;
    }
    if real < -TWO_TO_63 {
        return Ordering::Greater;
    }
    let below = real.trunc();
    whole.cmp(&(below as i64)).then_with(|| below.partial_cmp(&real).unwrap_or(Ordering::Equal))
}

/// The same value in one form: SQLite keeps 5.0 as 5 where that is shorter.
#[allow(clippy::cast_possible_truncation, reason = "within the range of an i64, which is asked before")]
pub(super) fn canonical(value: ValueRef<'_>) -> ValueRef<'_> {
    match value {
        ValueRef::Real(real) if real.trunc() == real && (-TWO_TO_63..TWO_TO_63).contains(&real) => {
            ValueRef::Integer(real as i64)
        }
        other => other,
    }
}
