//! A record as the filled-in checklist.
