//! Tables as text, the way spreadsheets read and write them (RFC 4180).

/// Reads a table: every row with the number of its line. An unclosed quotation mark is an error: its line.
pub(crate) fn read(text: &str) -> Result<Vec<(usize, Vec<String>)>, usize> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut began, mut quoted, mut opened) = (1, 1, false, 1);
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => {
                quoted = true;
                opened = line;
            }
            ',' if !quoted => row.push(std::mem::take(&mut field)),
            '\r' if !quoted && letters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                rows.push((began, std::mem::take(&mut row)));
                line += 1;
                began = line;
            }
            _ => {
                line += usize::from(letter == '\n');
                field.push(letter);
            }
        }
    }
    if quoted {
        return Err(opened);
    }
    if !field.is_empty() || !row.is_empty() {
        row.push(field);
        rows.push((began, row));
    }
    rows.retain(|(_, row)| row.iter().any(|field| !field.trim().is_empty()));
    Ok(rows)
}

/// Appends a row to a table. A field that a spreadsheet would take for a formula is made text.
pub(crate) fn push_row(table: &mut String, fields: &[&str]) {
    for (place, field) in fields.iter().enumerate() {
        if place > 0 {
            table.push(',');
        }
        let formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
        if formula || field.contains(['"', ',', '\n', '\r']) {
            table.push('"');
            table.push_str(if formula { "'" } else { "" });
            table.push_str(&field.replace('"', "\"\""));
            table.push('"');
        } else {
            table.push_str(field);
        }
    }
    table.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut table = String::new();
        push_row(&mut table, &["1", "Rao, Lakshmi", "14 \"A\"\n3rd Cross", ""]);
        push_row(&mut table, &["2", "ಬೇಳೆ", "x", "y"]);
        let rows = read(&table).unwrap();
        assert_eq!(
            rows[0],
            (1, vec!["1".into(), "Rao, Lakshmi".into(), "14 \"A\"\n3rd Cross".into(), String::new()])
        );
        assert_eq!(rows[1].0, 3, "lines are counted as an editor counts them");
        assert_eq!(read("a,\"b\nc"), Err(1));
        assert_eq!(read("\u{feff}a;b\n\n").unwrap(), [(1, vec!["a;b".to_owned()])]);
    }

    #[test]
    fn formulas_are_made_text() {
        let mut table = String::new();
        push_row(&mut table, &["=HYPERLINK(\"http://evil\")", "-1+2", "@x", "fine"]);
        assert_eq!(table, "\"'=HYPERLINK(\"\"http://evil\"\")\",\"'-1+2\",\"'@x\",fine\r\n");
    }
}
