//! Checks for [`Declaration::validate`](super::Declaration::validate).

use std::fmt::Display;
use std::ops::RangeInclusive;

/// One of a few texts.
pub fn one_of(allowed: &'static [&'static str]) -> impl Fn(&str) -> Result<(), String> {
    move |value| {
        if allowed.contains(&value) {
            return Ok(());
        }
        Err(format!("{value:?} is not one of {}", allowed.join(", ")))
    }
}

/// A number within bounds.
pub fn between<T>(range: RangeInclusive<T>) -> impl Fn(&T) -> Result<(), String>
where
    T: PartialOrd + Display,
{
    move |value| {
        if range.contains(value) {
            return Ok(());
        }
        Err(format!(
            "{value} is not between {} and {}",
            range.start(),
            range.end()
        ))
    }
}

/// A text that is not empty.
pub fn not_empty(value: &str) -> Result<(), &'static str> {
    if value.is_empty() {
        Err("an empty text is not allowed; leave the attribute out")
    } else {
        Ok(())
    }
}
