//! What this run plans, over all its resources: finds one object planned twice, and knows what will
//! be there by the time that another resource needs it.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use protocol::desired::ObjectKey;

/// The objects that this process has planned, each with its host.
#[derive(Debug, Default)]
pub struct Planned {
    objects: Mutex<Objects>,
}

#[derive(Debug, Default)]
struct Objects {
    creates: HashSet<(String, ObjectKey)>,
    all: HashSet<(String, ObjectKey)>,
}

impl Planned {
    /// Notes that an object will be created. False when another resource has planned the same.
    ///
    /// Terraform plans each create once a process, also as the second half of a replacement: only
    /// plans without a prior state come here.
    pub fn create(&self, host: &str, key: ObjectKey) -> bool {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.all.insert((host.to_owned(), key.clone()));
        objects.creates.insert((host.to_owned(), key))
    }

    /// Notes that an object stays or is changed.
    pub fn keep(&self, host: &str, key: ObjectKey) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.all.insert((host.to_owned(), key));
    }

    /// Whether the object will be there after this run.
    pub fn expects(&self, host: &str, key: &ObjectKey) -> bool {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.all.contains(&(host.to_owned(), key.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_object_twice_on_one_host_is_found() {
        let planned = Planned::default();
        let key = || ObjectKey::Address("203.0.113.2".into());
        planned.keep("root@a:22", key());
        assert!(
            planned.create("root@a:22", key()),
            "the second half of a replacement"
        );
        assert!(!planned.create("root@a:22", key()));
        assert!(planned.create("root@b:22", key()));
        assert!(planned.expects("root@b:22", &key()) && !planned.expects("root@c:22", &key()));
    }
}
