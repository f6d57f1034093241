//! How long a test goes on: a few rounds with every `make test`, the full measure with `make soak`.

/// `full` rounds when `PLIMSOLL_SOAK=1` is set (as `make soak` does), else `small`.
#[must_use]
pub fn rounds(small: usize, full: usize) -> usize {
    if std::env::var_os("PLIMSOLL_SOAK").is_some_and(|value| value == "1") { full } else { small }
}
