//! A `.tar.gz` of texts.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

const BLOCK: usize = 512;

/// Packs texts under their names into a compressed archive.
///
/// # Errors
/// A name that is longer than the format allows; nothing else, for it is all in memory.
pub fn pack(files: &[(String, String)], at_unix: u64) -> io::Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    for (name, text) in files {
        out.write_all(&header(name, text.len(), at_unix)?)?;
        out.write_all(text.as_bytes())?;
        out.write_all(&vec![0; text.len().next_multiple_of(BLOCK) - text.len()])?;
    }
    // Two empty blocks end it.
    out.write_all(&[0; 2 * BLOCK])?;
    out.finish()
}

/// The header of one file, in the format `ustar`.
fn header(name: &str, length: usize, at_unix: u64) -> io::Result<[u8; BLOCK]> {
    let mut block = [0_u8; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    if name.len() > 99 {
        return Err(io::Error::other(format!("{name} is too long a name for an archive")));
    }
    put(0, name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{length:011o}\0"));
    put(136, &format!("{at_unix:011o}\0"));
    // The sum is made with spaces where it will stand.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn tar_unpacks_it() {
        let folder = tempfile::tempdir().unwrap();
        let files = [
            ("a/b.txt".to_owned(), "x".repeat(513)),
            ("c".to_owned(), String::new()),
            ("d".to_owned(), "ä\n".to_owned()),
        ];
        let path = folder.path().join("x.tar.gz");
        std::fs::write(&path, pack(&files, 1_700_000_000).unwrap()).unwrap();
        let status =
            Command::new("tar").arg("-xzf").arg(&path).arg("-C").arg(folder.path()).status().unwrap();
        assert!(status.success());
        for (name, text) in &files {
            assert_eq!(std::fs::read_to_string(folder.path().join(name)).unwrap(), *text);
        }
        assert!(pack(&[("n".repeat(100), String::new())], 0).is_err());
    }
}
