//! What is known of a release that no run made: release 1 of an app that was taken over while it ran.

use std::path::{Path, PathBuf};

use plimsoll_core::plan::ReleaseId;
use serde::Deserialize;

/// Where `plimsoll adopt` notes what it did.
pub(crate) fn path(root: &Path) -> PathBuf {
    root.join("runs/adopted.json")
}

/// The part of the note that others need.
#[derive(Deserialize)]
struct Adopted {
    release: ReleaseId,
    /// The schema that its database had.
    schema: Option<String>,
}

/// The schema that the release ran with when the app was taken over; `None` for any other release.
pub(crate) fn schema_of(root: &Path, release: &ReleaseId) -> Option<String> {
    let text = std::fs::read_to_string(path(root)).ok()?;
    let adopted: Adopted = serde_json::from_str(&text).ok()?;
    (adopted.release == *release).then_some(adopted.schema)?
}
