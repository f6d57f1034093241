//! The copy of the backup in which the differences are made. A finished file is copied by the kernel: at once where the
//! file system can share blocks (Btrfs, XFS), else without the bytes coming by here.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::io::Errno;

use crate::sqlite::connection::beside;
use crate::sqlite::copy::{copy_to, settle};
use crate::sqlite::partial::{Partial, room};
use crate::sqlite::{Control, Error, Limits, Phase};

/// Copied between two looks whether to stop.
const STEP: usize = 64 << 20;

/// Copies a finished file. What is returned keeps the copy open and must be closed after SQLite is done with it: closing
/// drops this process's locks on the file.
///
/// # Errors
/// When it cannot be read or written.
pub(super) fn finished(
    source: &Path,
    out: &Partial,
    limits: &Limits,
    control: &mut Control<'_>,
) -> Result<File, Error> {
    let write = |e| Error::io(out.path(), "write", e);
    let copy = OpenOptions::new().write(true).open(out.path()).map_err(write)?;
    if ["-wal", "-journal"].iter().any(|suffix| beside(source, suffix).exists())
        || !by_the_kernel(source, &copy, out, control)?
    {
        copy_to(source, out, limits, control)?;
    } else {
        settle(out.path())?;
    }
    Ok(copy)
}

/// `false` when this kernel or file system cannot.
fn by_the_kernel(
    source: &Path,
    copy: &File,
    out: &Partial,
    control: &mut Control<'_>,
) -> Result<bool, Error> {
    let read = |e| Error::io(source, "read", e);
    let from = match File::open(source) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::Absent { path: source.to_owned() });
        }
        other => other.map_err(read)?,
    };
    let total = from.metadata().map_err(read)?.len();
    room(out.path().parent().unwrap_or(Path::new(".")), total + (1 << 20))?;
    let mut done = 0;
    while done < total {
        control.stop.check("copying")?;
        let (mut at, mut to) = (done, done);
        match rustix::fs::copy_file_range(&from, Some(&mut at), copy, Some(&mut to), STEP) {
            Ok(0) => break,
            Ok(copied) => done += copied as u64,
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                return Ok(false);
            }
            Err(e) => return Err(Error::io(out.path(), "write", e.into())),
        }
        control.tell(Phase::Copying, done, total, "bytes");
    }
    Ok(done == total)
}
