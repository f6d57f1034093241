//! `[database.expect]`: what the owner of the database has written down about it, for `verify`.

use plimsoll_host::sqlite::verification::Declared;
use toml::de::DeValue;

use super::table::Table;

/// Reads it; without the section nothing is expected.
pub(super) fn expect(database: &Table<'_>) -> Declared {
    let mut declared = Declared::default();
    let Some(value) = database.any("expect") else { return declared };
    let Some(table) = database.table_of("expect", "[database.expect]".to_owned(), value) else {
        return declared;
    };
    let wrong = |span, what: String, help: &str| table.mistakes().wrong(&span, what, help.to_owned());
    for (name, value) in table.free("columns") {
        let texts = value.get_ref().as_array().map(|list| {
            list.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        match texts {
            Some(Some(columns)) => drop(declared.columns.insert(name, columns)),
            _ => wrong(
                value.span(),
                format!("the columns of `{name}` must be a list of texts"),
                "for example: columns = { orders = [\"id\", \"total\"] }",
            ),
        }
    }
    for (name, value) in table.free("at_least") {
        match whole(value.get_ref()) {
            Some(rows) => drop(declared.at_least.insert(name, rows)),
            None => wrong(
                value.span(),
                format!("the rows of `{name}` must be a whole number"),
                "for example: at_least = { products = 10 }",
            ),
        }
    }
    if let Some(value) = table.any("versions") {
        let list = value.get_ref().as_array();
        match list.map(|list| list.iter().map(|item| whole(item.get_ref())).collect::<Option<Vec<_>>>()) {
            Some(Some(versions)) => declared.versions = versions,
            _ => wrong(
                value.span(),
                "`versions` must be a list of whole numbers".to_owned(),
                "for example: versions = [1, 2, 3]",
            ),
        }
    }
    declared
}

fn whole(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tests::{mistakes, parse_with};

    #[test]
    fn what_is_expected_of_a_database_is_read_and_its_mistakes_are_told() {
        let config = parse_with(
            "[database.expect]\ncolumns = { orders = [\"id\", \"total\"] }\nat_least = { products = 3 }\nversions = [1, 2]\n",
        );
        let declared = config.database.expect;
        assert_eq!(declared.columns, BTreeMap::from([("orders".into(), vec!["id".into(), "total".into()])]));
        assert_eq!(declared.at_least, BTreeMap::from([("products".into(), 3)]));
        assert_eq!(declared.versions, [1, 2]);
        for (below, said) in [
            ("columns = { orders = \"id\" }", "must be a list of texts"),
            ("at_least = { products = \"3\" }", "must be a whole number"),
            ("versions = [\"1\"]", "must be a list of whole numbers"),
            ("tabels = []", "there is no key `tabels` in [database.expect]"),
        ] {
            let text = mistakes(&format!("[database.expect]\n{below}\n"));
            assert!(text.contains(said), "{below}: {text}");
        }
    }
}
