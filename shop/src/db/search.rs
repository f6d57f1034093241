//! Finding goods by words: in English, Kannada or Hindi, by their beginnings, and with typing mistakes forgiven.

use rusqlite::{Connection, OptionalExtension};

use super::Result;
use super::products::{self, Product};

/// The most words of a search that are looked at.
const MOST_WORDS: usize = 8;

/// The most products that a search shows.
const MOST_FOUND: i64 = 48;

/// What was found, and for which words if not for those that were typed.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) products: Vec<Product>,
    /// The words that were looked for instead; `None` when nothing was mended.
    pub(crate) instead: Option<String>,
}

/// Makes the list of all words that the goods are described with readable as `temp.terms`. On a database without
/// the search's table (before its migration) there is nothing to search in, and nothing fails here.
pub(super) fn open_terms(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'product_search'";
    if connection.query_row(sql, [], |row| row.get::<_, i64>(0))? > 0 {
        connection.execute_batch(
            "CREATE VIRTUAL TABLE IF NOT EXISTS temp.terms USING fts5vocab (main, product_search, row)",
        )?;
    }
    Ok(())
}

/// The words of a search. Signs between them only part them, as they do in the index; marks of Indian scripts
/// belong to their word.
fn words(query: &str) -> Vec<String> {
    let is_mark = |c: char| matches!(u32::from(c), 0x0300..=0x036f | 0x0900..=0x0dff | 0x200c..=0x200d);
    query
        .split(|c: char| !c.is_alphanumeric() && !is_mark(c))
        .filter(|word| !word.is_empty())
        .take(MOST_WORDS)
        .map(str::to_lowercase)
        .collect()
}

/// The search in FTS5's language: every word a quoted beginning, all of them wanted. Quoting takes every sign for
/// itself.
fn expression(words: &[String]) -> String {
    let quoted: Vec<String> =
        words.iter().map(|word| format!("\"{}\"*", word.replace('"', "\"\""))).collect();
    quoted.join(" ")
}

/// Looks for products that are for sale.
pub(crate) fn find(connection: &Connection, query: &str) -> Result<Found> {
    let typed = words(query);
    if typed.is_empty() {
        return Ok(Found { products: Vec::new(), instead: None });
    }
    let found = matching(connection, &typed)?;
    if !found.is_empty() {
        return Ok(Found { products: found, instead: None });
    }
    let mut mended = Vec::new();
    for word in &typed {
        match if known(connection, word)? { Some(word.clone()) } else { nearest(connection, word)? } {
            Some(word) => mended.push(word),
            None => return Ok(Found { products: Vec::new(), instead: None }),
        }
    }
    if mended == typed {
        return Ok(Found { products: Vec::new(), instead: None });
    }
    Ok(Found { products: matching(connection, &mended)?, instead: Some(mended.join(" ")) })
}

fn matching(connection: &Connection, words: &[String]) -> Result<Vec<Product>> {
    // A word in the name counts for far more than one in the description.
    let rest = "JOIN (SELECT rowid, bm25(product_search, 10.0, 10.0, 5.0, 1.0) AS score FROM product_search
                      WHERE product_search MATCH ?1 ORDER BY score LIMIT ?2) AS f ON f.rowid = p.id
                WHERE p.is_active = 1 ORDER BY f.score, p.id";
    // Some of what is found may not be for sale: a few more are looked for than are shown.
    products::list(connection, rest, &[&expression(words), &(MOST_FOUND * 2)]).map(|mut found| {
        found.truncate(usize::try_from(MOST_FOUND).unwrap_or(usize::MAX));
        found
    })
}

fn known(connection: &Connection, word: &str) -> Result<bool> {
    let mut statement =
        connection.prepare_cached("SELECT 1 FROM product_search WHERE product_search MATCH ?1 LIMIT 1")?;
    Ok(statement.query_row([expression(&[word.to_owned()])], |_| Ok(())).optional()?.is_some())
}

/// The word of the goods that is nearest to a mistyped one: one mistake in a short word, two in a longer one.
/// Among equals the one that more goods have.
fn nearest(connection: &Connection, word: &str) -> Result<Option<String>> {
    let length = word.chars().count();
    let mistakes = match length {
        0..=2 => return Ok(None),
        3..=4 => 1,
        _ => 2,
    };
    let mut statement =
        connection.prepare_cached("SELECT term, doc FROM temp.terms WHERE length(term) BETWEEN ?1 AND ?2")?;
    let range =
        (i64::try_from(length - mistakes).unwrap_or(0), i64::try_from(length + mistakes).unwrap_or(0));
    let mut rows = statement.query(range)?;
    let mut best: Option<(usize, i64, String)> = None;
    while let Some(row) = rows.next()? {
        let term = row.get_ref(0)?.as_str().unwrap_or_default();
        let distance = strsim::damerau_levenshtein(term, word);
        let goods: i64 = row.get(1)?;
        let better = |(known, many, _): &(usize, i64, String)| (distance, -goods) < (*known, -*many);
        if distance <= mistakes && best.as_ref().is_none_or(better) {
            best = Some((distance, goods, term.to_owned()));
        }
    }
    Ok(best.map(|(_, _, term)| term))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parted_where_the_index_parts_them() {
        assert_eq!(words("  Toor-Dal (1 kg) "), ["toor", "dal", "1", "kg"]);
        assert_eq!(words("ಬೇಳೆ बासमती"), ["ಬೇಳೆ", "बासमती"]);
        assert_eq!(words("\"*:^-()"), Vec::<String>::new());
        assert_eq!(expression(&words("or AND near(")), "\"or\"* \"and\"* \"near\"*");
    }
}
