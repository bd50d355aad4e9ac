//! Sizes and times that keep the text they were written in.
//!
//! The text is kept because it goes back to Terraform on import: "2048M" must not come back as "2G".

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// A year is beyond any wait; it keeps deadlines far from overflow.
pub(crate) const LONGEST_SPAN: Duration = Duration::from_hours(365 * 24);

/// No number needs more digits. Bytes.
const LONGEST_TEXT: usize = 64;

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a size: write a whole number with a unit K, M, G or T (binary), such as \"512M\" or \"2G\""
)]
pub struct InvalidSize(pub String);

/// An amount of memory or disk, as written ("512M"); binary units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size {
    text: String,
    bytes: u64,
}

impl Size {
    /// The amount in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl FromStr for Size {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let invalid = || InvalidSize(text.to_owned());
        if text.len() > LONGEST_TEXT {
            return Err(invalid());
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit {
            "" => 0,
            "K" | "Ki" | "KiB" => 10,
            "M" | "Mi" | "MiB" => 20,
            "G" | "Gi" | "GiB" => 30,
            "T" | "Ti" | "TiB" => 40,
            _ => return Err(invalid()),
        };
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let bytes = number.checked_mul(1 << shift).ok_or_else(invalid)?;
        Ok(Self {
            text: text.to_owned(),
            bytes,
        })
    }
}

/// A text that is not a time span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a time span: write numbers with a unit ms, s, m or h, such as \"90s\" or \"1h30m\""
)]
pub struct InvalidTimeSpan(pub String);

/// A time span in the form that Go and Terraform use ("2m", "1h30m").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeSpan {
    text: String,
    duration: Duration,
}

impl TimeSpan {
    /// The span as a duration.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

impl FromStr for TimeSpan {
    type Err = InvalidTimeSpan;

    fn from_str(text: &str) -> Result<Self, InvalidTimeSpan> {
        let invalid = || InvalidTimeSpan(text.to_owned());
        let mut rest = text;
        let mut seconds = 0.0_f64;
        while !rest.is_empty() {
            let digits = rest
                .bytes()
                .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
                .count();
            let (number, tail) = rest.split_at(digits);
            let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, tail) = tail.split_at(letters);
            let factor = match unit {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(invalid()),
            };
            seconds += number.parse::<f64>().map_err(|_| invalid())? * factor;
            rest = tail;
        }
        let duration = Duration::try_from_secs_f64(seconds).map_err(|_| invalid())?;
        if text.is_empty() || text.len() > LONGEST_TEXT || duration > LONGEST_SPAN {
            return Err(invalid());
        }
        Ok(Self {
            text: text.to_owned(),
            duration,
        })
    }
}

macro_rules! kept_text {
    ($type:ty, $error:ty) => {
        impl TryFrom<String> for $type {
            type Error = $error;
            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.text
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.text)
            }
        }
    };
}

kept_text!(Size, InvalidSize);
kept_text!(TimeSpan, InvalidTimeSpan);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("2G", 2 << 30),
            ("1KiB", 1024),
            ("7", 7),
            ("1Ti", 1 << 40),
            ("0", 0),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, text));
        }
        for text in [
            "",
            "12 potatoes",
            "M",
            "-1M",
            "1.5G",
            "99999999999T",
            "2g",
            "2 G",
            &"0".repeat(100),
        ] {
            assert_eq!(text.parse::<Size>(), Err(InvalidSize(text.to_owned())));
        }
    }

    #[test]
    fn time_spans() {
        for (text, milliseconds) in [
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("10s", 10_000),
            ("250ms", 250),
            ("1.5s", 1500),
            ("0s", 0),
        ] {
            let span: TimeSpan = text.parse().unwrap();
            assert_eq!(
                (span.duration(), span.to_string().as_str()),
                (Duration::from_millis(milliseconds), text)
            );
        }
        for text in [
            "",
            "s",
            "10",
            "ten",
            "-1s",
            "1d",
            "1s2",
            "9999999h",
            "1..5s",
            &"0s".repeat(50),
        ] {
            assert_eq!(
                text.parse::<TimeSpan>(),
                Err(InvalidTimeSpan(text.to_owned()))
            );
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,20}") {
            let _ = text.parse::<Size>();
            let _ = text.parse::<TimeSpan>();
        }
    }
}
