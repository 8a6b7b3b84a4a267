//! `galley pull` against a stand-in hub that truncates, lies, drops and worse. After each failure: nothing wrong is to
//! be seen in the cache, what was good is good, and the next pull from an honest hub succeeds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod downloads;
mod place;
mod stand_in;
