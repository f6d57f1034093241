//! Forms with files (RFC 7578). The body is in memory already, within the guard's limit.

use axum::http::{HeaderMap, header};

/// An uploaded file. What its sender calls it is not kept: it is nobody's business here.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) field: String,
    pub(crate) bytes: Vec<u8>,
}

/// The fields with their values, and the files.
pub(crate) type Parts = (Vec<(String, String)>, Vec<File>);

/// The most parts that are read.
const MOST_PARTS: usize = 40;

/// What parts the body of such a form; `None` for another kind of form.
pub(crate) fn boundary(headers: &HeaderMap) -> Option<String> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let rest = kind.strip_prefix("multipart/form-data")?;
    let value = rest.split(';').find_map(|part| part.trim().strip_prefix("boundary="))?.trim_matches('"');
    (1..=70).contains(&value.len()).then(|| value.to_owned())
}

/// The fields and the files of a body; `None` when it is not what it says it is.
pub(crate) fn read(body: &[u8], boundary: &str) -> Option<Parts> {
    let line = format!("\r\n--{boundary}");
    let first = line.as_bytes().get(2..)?;
    let mut rest = body.strip_prefix(first)?;
    let (mut fields, mut files) = (Vec::new(), Vec::new());
    for _ in 0..MOST_PARTS {
        if rest.starts_with(b"--") {
            return Some((fields, files));
        }
        rest = rest.strip_prefix(b"\r\n")?;
        let heading_ends = find(rest, b"\r\n\r\n")?;
        let heading = std::str::from_utf8(rest.get(..heading_ends)?).ok()?;
        rest = rest.get(heading_ends + 4..)?;
        let ends = find(rest, line.as_bytes())?;
        let bytes = rest.get(..ends)?;
        rest = rest.get(ends + line.len()..)?;
        let disposition = heading
            .split("\r\n")
            .find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
        let field = attribute(disposition, "name")?;
        if attribute(disposition, "filename").is_some() {
            files.push(File { field, bytes: bytes.to_vec() });
        } else {
            fields.push((field, std::str::from_utf8(bytes).ok()?.to_owned()));
        }
    }
    None
}

fn attribute(disposition: &str, name: &str) -> Option<String> {
    let start = format!("{name}=\"");
    let part = disposition.split(';').find_map(|part| part.trim().strip_prefix(start.as_str()))?;
    Some(part.split('"').next()?.to_owned())
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = wanted.first()?;
    let mut from = 0;
    while let Some(at) = bytes.get(from..)?.iter().position(|byte| byte == first) {
        if bytes.get(from + at..)?.starts_with(wanted) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = b"--x1\r\nContent-Disposition: form-data; name=\"csrf\"\r\n\r\nabc\r\n--x1\r\n\
        content-disposition: form-data; name=\"picture\"; filename=\"../../etc/passwd\"\r\nContent-Type: image/png\r\n\r\n\
        \x89PNG\r\n--x2\r\n--x1--\r\n";

    #[test]
    fn fields_and_files_are_told_apart_and_names_of_files_are_dropped() {
        let (fields, files) = read(BODY, "x1").unwrap();
        assert_eq!(fields, [("csrf".to_owned(), "abc".to_owned())]);
        assert_eq!(
            (files[0].field.as_str(), files[0].bytes.as_slice()),
            ("picture", &b"\x89PNG\r\n--x2"[..])
        );
    }

    #[test]
    fn what_breaks_off_is_no_form() {
        for end in 0..BODY.len() - 4 {
            assert!(read(&BODY[..end], "x1").is_none(), "{end}");
        }
        assert!(read(BODY, "x2").is_none());
    }
}
