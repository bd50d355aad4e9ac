//! Fault points: places at which the kill sweep (acceptance-tests/tests/promise_survives_kills.rs) ends or
//! freezes a process. They exist in builds with the feature `points` alone, and nothing but tests makes those.

#[cfg(feature = "points")]
mod points;
#[cfg(feature = "points")]
pub use points::{done, operation, point, watch};

/// Says what kind of process this is, and where the sweep says what is to happen to it.
#[cfg(not(feature = "points"))]
#[inline]
pub fn watch(_kind: &str, _folder: Option<&str>) {}

/// A place between two changes, named by what has just been done or is about to be.
#[cfg(not(feature = "points"))]
#[inline]
pub fn point<S: Into<String>>(_name: impl FnOnce() -> S) {}

/// A deed as errors call it, which has just been done: a point, unless it begins with a word for looking.
#[cfg(not(feature = "points"))]
#[inline]
pub fn done<S: Into<String>>(_deed: impl FnOnce() -> S) {}

/// An operation of Terraform, "before: Applying x" or "after: Applying x": a point, but not after one that only looks.
#[cfg(not(feature = "points"))]
#[inline]
pub fn operation(_name: &str) {}
