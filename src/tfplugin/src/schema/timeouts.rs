//! The `timeouts` attribute that resources share.

use std::time::Duration;

use crate::Attr;

crate::model! {
    /// How long operations may take, such as `90s`, `10m` or `1h30m`.
    pub struct Timeouts {
        /// How long creating it may take.
        create: Attr<super::Parsed<humantime::Duration>> => optional(),
        /// How long reading it may take.
        read: Attr<super::Parsed<humantime::Duration>> => optional(),
        /// How long changing it may take.
        update: Attr<super::Parsed<humantime::Duration>> => optional(),
        /// How long deleting it may take.
        delete: Attr<super::Parsed<humantime::Duration>> => optional(),
    }
}

/// The accessors of a resource's `timeouts: Attr<Timeouts>`.
impl Attr<Timeouts> {
    /// How long a create may take.
    pub fn create_or(&self, otherwise: Duration) -> Duration {
        self.pick(otherwise, |timeouts| &timeouts.create)
    }

    /// How long a read may take.
    pub fn read_or(&self, otherwise: Duration) -> Duration {
        self.pick(otherwise, |timeouts| &timeouts.read)
    }

    /// How long an update may take.
    pub fn update_or(&self, otherwise: Duration) -> Duration {
        self.pick(otherwise, |timeouts| &timeouts.update)
    }

    /// How long a delete may take.
    pub fn delete_or(&self, otherwise: Duration) -> Duration {
        self.pick(otherwise, |timeouts| &timeouts.delete)
    }

    fn pick(
        &self,
        otherwise: Duration,
        field: impl Fn(&Timeouts) -> &Attr<super::Parsed<humantime::Duration>>,
    ) -> Duration {
        let set = self.known().and_then(|timeouts| field(timeouts).known());
        set.map_or(otherwise, |duration| (*duration.value()).into())
    }
}
