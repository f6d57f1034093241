//! The workspace's own sources, read as far as the rules about them need: without comments, strings and tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The workspace's folder.
pub(crate) fn workspace() -> PathBuf {
    let cli = Path::new(env!("CARGO_MANIFEST_DIR"));
    cli.ancestors().nth(2).expect("the cli crate is at crates/cli").to_owned()
}

/// All files below `folder` with that ending, sorted; nothing when there is no such folder.
pub(crate) fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A word or a mark of Rust; `::` is one mark.
pub(crate) type Token = String;

/// The tokens of a source without comments, strings and test modules.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let chars: Vec<char> = source.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let word = rest.iter().take_while(|c| c.is_alphanumeric() || **c == '_').count();
        if rest[0].is_whitespace() {
            at += 1;
        } else if rest.starts_with(&['/', '/']) {
            at += rest.iter().take_while(|c| **c != '\n').count();
        } else if rest.starts_with(&['/', '*']) {
            at += block_comment(rest);
        } else if let Some(length) = raw_string(rest) {
            at += length;
        } else if rest[0] == '"' || rest.starts_with(&['b', '"']) || rest.starts_with(&['c', '"']) {
            at += string(rest);
        } else if rest[0] == '\'' {
            at += character_or_lifetime(rest);
        } else if word > 0 {
            tokens.push(rest[..word].iter().collect());
            at += word;
        } else {
            let mark = if rest.starts_with(&[':', ':']) { 2 } else { 1 };
            tokens.push(rest[..mark].iter().collect());
            at += mark;
        }
    }
    without_tests(&tokens)
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(&['/', '*']) {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(&['*', '/']) {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn raw_string(rest: &[char]) -> Option<usize> {
    let prefix = if rest.starts_with(&['b', 'r']) || rest.starts_with(&['c', 'r']) { 2 } else { 1 };
    if rest.get(prefix - 1) != Some(&'r') {
        return None;
    }
    let hashes = rest[prefix..].iter().take_while(|c| **c == '#').count();
    let mut at = prefix + hashes;
    if rest.get(at) != Some(&'"') {
        return None;
    }
    let mut end = vec!['"'];
    end.extend(std::iter::repeat_n('#', hashes));
    at += 1;
    while at < rest.len() && !rest[at..].starts_with(&end) {
        at += 1;
    }
    Some((at + end.len()).min(rest.len()))
}

fn string(rest: &[char]) -> usize {
    let mut at = rest.iter().position(|c| *c == '"').map_or(rest.len(), |open| open + 1);
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn character_or_lifetime(rest: &[char]) -> usize {
    if rest.get(1) == Some(&'\\') {
        let close = rest.iter().skip(3).position(|c| *c == '\'');
        return close.map_or(rest.len(), |close| close + 4);
    }
    if rest.get(2) == Some(&'\'') { 3 } else { 1 }
}

const TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if is_at(tokens, at, &TEST) {
            at = end_of_item(tokens, at + TEST.len());
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

fn is_at(tokens: &[Token], at: usize, wanted: &[&str]) -> bool {
    tokens.len() >= at + wanted.len()
        && tokens[at..].iter().zip(wanted).all(|(token, wanted)| token == wanted)
}

/// Behind the `;` or the closing brace of what begins here.
fn end_of_item(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => return at + 1,
            "}" => depth -= 1,
            ";" if depth == 0 => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// The modules that a source declares for tests only: `#[cfg(test)] mod name;`.
pub(crate) fn test_modules(source: &str) -> BTreeSet<String> {
    let names = source.split("#[cfg(test)]").skip(1).filter_map(|after| {
        let name = after.trim_start().strip_prefix("mod ")?.split(';').next()?;
        name.chars().all(|c| c.is_alphanumeric() || c == '_').then(|| name.to_owned())
    });
    names.collect()
}

/// Every path below the crate's root that the tokens of `module` name, as far as the first `depth` names. `module` is
/// the path of the file's module: `["report", "html"]`.
pub(crate) fn paths(tokens: &[Token], module: &[String], depth: usize) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for (at, token) in tokens.iter().enumerate() {
        if tokens.get(at + 1).map(String::as_str) != Some("::") || (at > 0 && tokens[at - 1] == "::") {
            continue;
        }
        let mut base = module.to_vec();
        let mut next = at;
        match token.as_str() {
            "crate" => {
                base.clear();
                next += 2;
            }
            "self" => next += 2,
            "super" => {
                while tokens.get(next).is_some_and(|t| t == "super")
                    && tokens.get(next + 1).is_some_and(|t| t == "::")
                {
                    base.pop();
                    next += 2;
                }
            }
            _ => continue,
        }
        tree(tokens, &mut next, &base, depth, &mut found);
    }
    found
}

/// A path or a use tree that begins at `at`.
fn tree(tokens: &[Token], at: &mut usize, base: &[String], depth: usize, found: &mut BTreeSet<Vec<String>>) {
    let Some(token) = tokens.get(*at) else { return };
    if token == "{" {
        *at += 1;
        while tokens.get(*at).is_some_and(|t| t != "}") {
            tree(tokens, at, base, depth, found);
            while tokens.get(*at).is_some_and(|t| t != "," && t != "}") {
                *at += 1;
            }
            if tokens.get(*at).is_some_and(|t| t == ",") {
                *at += 1;
            }
        }
        *at += 1;
        return;
    }
    let mut path = base.to_vec();
    if token != "self" {
        path.push(token.clone());
    }
    *at += 1;
    if tokens.get(*at).is_some_and(|t| t == "::") {
        *at += 1;
        return tree(tokens, at, &path, depth, found);
    }
    path.truncate(depth);
    found.insert(path);
}

/// The module that a file is, below a crate's `src`.
pub(crate) fn module(src: &Path, file: &Path) -> Vec<String> {
    let below = file.strip_prefix(src).expect("the file is in src").with_extension("");
    let mut names: Vec<String> = below.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if names.last().is_some_and(|name| ["mod", "lib", "main"].contains(&name.as_str())) {
        names.pop();
    }
    names
}

#[test]
fn comments_strings_and_tests_are_no_code() {
    let source = r##"
        // use crate::a;
        /* crate::b /* nested */ crate::c */
        const X: &str = "crate::d \" crate::e"; const Y: char = '"'; const Z: &str = r#"crate::f"#;
        fn g<'a>(x: &'a str) -> crate::h::I { 'l'; b'\''; super::k() }
        #[cfg(test)]
        mod tests { use crate::m; fn n() { { } } }
        use crate::{o, p::{q, r}, self as s};
        use self::t::u;
    "##;
    let found = paths(&tokens(source), &["here".into(), "file".into()], 2);
    let found: Vec<String> = found.into_iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["", "h::I", "here::file", "here::k", "o", "p::q", "p::r"]);
    assert_eq!(
        test_modules("#[cfg(test)]\nmod app;\n#[cfg(test)] mod tests { }"),
        BTreeSet::from(["app".into()])
    );
}
