//! The `timeouts` object that all resources share, and what holds where it is silent.

use std::time::Duration;

use protocol::{desired, text::TimeSpan};
use tfplugin::{Attr, Parsed};

tfplugin::model! {
    /// How long each operation may take, such as `90s`, `10m` or `1h30m`.
    pub struct Timeouts {
        /// How long creating it may take.
        create: Attr<Parsed<TimeSpan>> => optional(),
        /// How long a refresh may take.
        read: Attr<Parsed<TimeSpan>> => optional(),
        /// How long a change may take.
        update: Attr<Parsed<TimeSpan>> => optional(),
        /// How long destroying it may take.
        delete: Attr<Parsed<TimeSpan>> => optional(),
    }
}

/// What may take how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Creating it.
    pub create: Duration,
    /// Looking at it.
    pub read: Duration,
    /// Changing it.
    pub update: Duration,
    /// Removing it.
    pub delete: Duration,
}

/// So many minutes.
pub const fn minutes(count: u64) -> Duration {
    Duration::from_mins(count)
}

impl Limits {
    /// These limits, where the user has set no others.
    #[must_use]
    pub fn with(self, timeouts: &Attr<Timeouts>) -> Self {
        let Some(timeouts) = timeouts.known() else {
            return self;
        };
        let pick = |set: &Attr<Parsed<TimeSpan>>, limit| {
            set.known().map_or(limit, |span| span.value().duration())
        };
        Self {
            create: pick(&timeouts.create, self.create),
            read: pick(&timeouts.read, self.read),
            update: pick(&timeouts.update, self.update),
            delete: pick(&timeouts.delete, self.delete),
        }
    }
}

/// As the host keeps them.
pub fn to_desired(timeouts: &Attr<Timeouts>) -> Option<desired::Timeouts> {
    let span = |set: &Attr<Parsed<TimeSpan>>| set.cloned().map(Parsed::into_value);
    timeouts.known().map(|timeouts| desired::Timeouts {
        create: span(&timeouts.create),
        read: span(&timeouts.read),
        update: span(&timeouts.update),
        delete: span(&timeouts.delete),
    })
}

/// As they were written.
pub fn from_desired(timeouts: Option<&desired::Timeouts>) -> Attr<Timeouts> {
    let span = |span: &Option<TimeSpan>| span.clone().map(Parsed::new).into();
    timeouts
        .map(|timeouts| Timeouts {
            create: span(&timeouts.create),
            read: span(&timeouts.read),
            update: span(&timeouts.update),
            delete: span(&timeouts.delete),
        })
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_wins_and_comes_back_as_written() {
        let set = Attr::Known(Timeouts {
            create: Attr::Known("90s".parse().unwrap()),
            ..Timeouts::default()
        });
        let minute = Duration::from_mins(1);
        let limits = Limits {
            create: minute,
            read: minute,
            update: minute,
            delete: minute,
        };
        assert_eq!(
            limits.with(&set),
            Limits {
                create: Duration::from_secs(90),
                ..limits
            }
        );
        assert_eq!(from_desired(to_desired(&set).as_ref()), set);
        assert_eq!(limits.with(&Attr::Null), limits);
        assert_eq!(from_desired(None), Attr::Null);
    }
}
