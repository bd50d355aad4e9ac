//! What this run has read and plans, over all its resources: finds one object planned twice, and
//! knows what will be there by the time that another resource needs it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use protocol::desired::ObjectKey;

use crate::resources::Private;

/// The objects that this process has planned, each with its host.
#[derive(Debug, Default)]
pub struct Planned {
    objects: Mutex<Objects>,
}

#[derive(Debug, Default)]
struct Objects {
    creates: HashSet<(String, ObjectKey)>,
    kept: HashSet<(String, ObjectKey)>,
    renamed: HashSet<(String, ObjectKey)>,
    all: HashSet<(String, ObjectKey)>,
    read: HashMap<(String, ObjectKey), Private>,
}

impl Planned {
    /// Notes that an object will be created. False when another resource has planned the same.
    ///
    /// Terraform plans each create once a process, also as the second half of a replacement, which
    /// `replaces` an object that may have been kept just before, under the same name.
    pub fn create(&self, host: &str, key: ObjectKey, replaces: bool) -> bool {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let object = (host.to_owned(), key);
        objects.all.insert(object.clone());
        let own = replaces && !objects.renamed.contains(&object);
        let free = own || !objects.kept.contains(&object);
        objects.creates.insert(object) && free
    }

    /// Notes that an object stays or is changed. False when another resource is planned to become it.
    pub fn keep(&self, host: &str, key: ObjectKey) -> bool {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let object = (host.to_owned(), key);
        objects.all.insert(object.clone());
        objects.kept.insert(object.clone());
        !objects.creates.contains(&object)
    }

    /// Notes the first half of a replacement that gives the object another name.
    pub fn rename(&self, host: &str, key: ObjectKey) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.all.insert((host.to_owned(), key.clone()));
        objects.renamed.insert((host.to_owned(), key));
    }

    /// Notes what the state holds of an object beside its attributes.
    pub fn read(&self, host: &str, key: ObjectKey, private: Private) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.read.insert((host.to_owned(), key), private);
    }

    /// What the state holds of an object that is to be created.
    ///
    /// Terraform plans the replacement of a tainted object without its private state, and hands what
    /// that plan says to the destroy of the tainted one, which needs the token.
    pub fn replaced(&self, host: &str, key: &ObjectKey) -> Private {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let read = objects.read.get(&(host.to_owned(), key.clone()));
        read.cloned().unwrap_or_default()
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
    fn the_replacement_of_a_tainted_object_knows_its_token() {
        let (planned, key) = (Planned::default(), ObjectKey::Host);
        let private = Private {
            token: Some(crate::fixture::token('a')),
            ..Private::default()
        };
        planned.read("root@a:22", key.clone(), private.clone());
        assert_eq!(planned.replaced("root@a:22", &key), private);
        assert_eq!(planned.replaced("root@b:22", &key), Private::default());
    }

    #[test]
    fn the_same_object_twice_on_one_host_is_found() {
        let planned = Planned::default();
        let key = || ObjectKey::Address("203.0.113.2".into());
        assert!(planned.keep("root@a:22", key()));
        assert!(
            planned.create("root@a:22", key(), true),
            "the second half of a replacement"
        );
        assert!(!planned.create("root@a:22", key(), false));
        assert!(planned.create("root@b:22", key(), false));
        assert!(planned.expects("root@b:22", &key()) && !planned.expects("root@c:22", &key()));
    }

    #[test]
    fn what_is_there_is_not_made_or_renamed_to_once_more() {
        let key = || ObjectKey::Address("203.0.113.2".into());
        let planned = Planned::default();
        assert!(planned.keep("root@a:22", key()));
        assert!(!planned.create("root@a:22", key(), false), "a new one");
        let planned = Planned::default();
        assert!(planned.create("root@a:22", key(), false));
        assert!(!planned.keep("root@a:22", key()), "in the other order");
        let planned = Planned::default();
        assert!(planned.keep("root@a:22", key()));
        planned.rename("root@a:22", key());
        assert!(!planned.create("root@a:22", key(), true), "a renamed one");
        let planned = Planned::default();
        planned.rename("root@a:22", key());
        assert!(planned.create("root@a:22", key(), true));
        assert!(!planned.keep("root@a:22", key()), "in the other order");
    }
}
