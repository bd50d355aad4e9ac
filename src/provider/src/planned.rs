//! What this run has read and plans, over all its resources: finds one object planned twice, and
//! knows what will be there by the time that another resource needs it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use protocol::{desired::ObjectKey, name::OwnerToken};

use crate::{
    connection::{Identity, Target},
    marks::Marks,
    resources::Private,
};

/// The objects that this process has planned, each with its host.
#[derive(Debug, Default)]
pub struct Planned {
    objects: Mutex<Objects>,
}

#[derive(Debug, Default)]
struct Objects {
    creates: HashSet<(Identity, ObjectKey)>,
    kept: HashSet<(Identity, ObjectKey)>,
    renamed: HashSet<(Identity, ObjectKey)>,
    all: HashSet<(Identity, ObjectKey)>,
    /// What is destroyed in this run, and the token that it had.
    destroyed: HashMap<(Identity, ObjectKey), OwnerToken>,
    /// By the resource's type.
    read: HashMap<&'static str, HashMap<(Identity, ObjectKey), Private>>,
}

impl Planned {
    /// Notes that an object will be created. False when another resource has planned the same.
    ///
    /// Terraform plans each create once a process, also as the second half of a replacement, which
    /// `replaces` an object that may have been kept just before, under the same name.
    pub fn create(&self, target: &Target, key: ObjectKey, replaces: bool) -> bool {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let object = (target.identity(), key);
        objects.all.insert(object.clone());
        let own = replaces && !objects.renamed.contains(&object);
        let free = own || !objects.kept.contains(&object);
        objects.creates.insert(object) && free
    }

    /// Notes that an object stays or is changed. False when another resource is planned to become it.
    pub fn keep(&self, target: &Target, key: ObjectKey) -> bool {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let object = (target.identity(), key);
        objects.all.insert(object.clone());
        objects.kept.insert(object.clone());
        !objects.creates.contains(&object)
    }

    /// Notes the first half of a replacement that gives the object another name or host.
    pub fn rename(&self, target: &Target, key: ObjectKey) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.all.insert((target.identity(), key.clone()));
        objects.renamed.insert((target.identity(), key));
    }

    /// Notes that an object is being destroyed.
    pub fn destroy(&self, target: &Target, key: ObjectKey, token: OwnerToken) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.destroyed.insert((target.identity(), key), token);
    }

    /// Whether this run destroys the object; `found` is the token that it has, if it is there still.
    pub fn destroys(&self, target: &Target, key: &ObjectKey, found: Option<&OwnerToken>) -> bool {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let token = objects.destroyed.get(&(target.identity(), key.clone()));
        token.is_some_and(|token| found.is_none_or(|found| found == token))
    }

    /// Notes what the state holds of an object beside its attributes.
    pub fn read(&self, kind: &'static str, target: &Target, key: ObjectKey, private: Private) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind = objects.read.entry(kind).or_default();
        of_kind.insert((target.identity(), key), private);
    }

    /// Whether this object was read: then this is a plan with a refresh, and no second look in the apply.
    pub fn has_read(&self, kind: &str, target: &Target, key: &ObjectKey) -> bool {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let object = (target.identity(), key.clone());
        objects
            .read
            .get(kind)
            .is_some_and(|of_kind| of_kind.contains_key(&object))
    }

    /// What the state holds of the object that one which is to be created replaces, if it does.
    ///
    /// Terraform hands what the plan of a create says to the destroy of the object that it replaces, which
    /// needs the token. The plan gets it from the replacement's first half, under whatever name that was;
    /// but of a tainted object it gets nothing, and finds what was read under the same name. A tainted one that gets
    /// another name, or one that is not known yet, is any of those that were read.
    pub fn replaced(
        &self,
        kind: &str,
        planned: Option<&(Target, ObjectKey)>,
        handed: Private,
    ) -> Private {
        if handed.token.is_some() {
            return handed;
        }
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let of_kind = objects.read.get(kind);
        // It may have been on another host. One that is being imported has its former token still.
        let marks = Marks::of(
            of_kind
                .into_iter()
                .flatten()
                .flat_map(|((_, key), private)| {
                    let tokens = private.token.iter().chain(&private.taken_from);
                    tokens.map(move |token| (key, token))
                }),
        );
        let refreshed = !objects.read.is_empty();
        let object = planned.map(|(target, key)| (target.identity(), key.clone()));
        let read = object.and_then(|object| {
            let private = of_kind?.get(&object)?.clone();
            Some((object, private))
        });
        let (read_of, private) = read.unzip();
        Private {
            refreshed,
            read_of,
            marks,
            ..private.unwrap_or_default()
        }
    }

    /// Whether the object will be there after this run.
    pub fn expects(&self, target: &Target, key: &ObjectKey) -> bool {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        objects.all.contains(&(target.identity(), key.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "nspawn_host";
    const ADDRESS: &str = "nspawn_public_address";

    fn host(address: &str) -> Target {
        Target::new(address)
    }

    fn replaced(planned: &Planned, kind: &str, address: &str, key: &ObjectKey) -> Private {
        let object = (host(address), key.clone());
        planned.replaced(kind, Some(&object), Private::default())
    }

    #[test]
    fn the_replacement_of_a_tainted_object_knows_its_token() {
        let (planned, key) = (Planned::default(), ObjectKey::Host);
        let private = Private {
            token: Some(crate::fixture::token('a')),
            ..Private::default()
        };
        planned.read(HOST, &host("a"), key.clone(), private.clone());
        let known = Private {
            refreshed: true,
            read_of: Some((host("a").identity(), key.clone())),
            marks: Marks::of([(&key, &crate::fixture::token('a'))].into_iter()),
            ..private
        };
        assert_eq!(replaced(&planned, HOST, "a", &key), known);
        let other = Private {
            refreshed: true,
            ..Private::default()
        };
        let another = ObjectKey::Address("203.0.113.3".into());
        assert_eq!(replaced(&planned, ADDRESS, "a", &another), other);
        let elsewhere = Private {
            marks: Marks::of([(&key, &crate::fixture::token('a'))].into_iter()),
            ..other
        };
        assert!(planned.has_read(HOST, &host("a"), &key));
        assert!(!planned.has_read(HOST, &host("b"), &key));
        let on_b = replaced(&planned, HOST, "b", &key);
        assert_eq!(on_b, elsewhere, "it may have been on a");
        let unknown = planned.replaced(HOST, None, Private::default());
        assert_eq!(unknown, elsewhere, "its address is not known yet");
        let blind = replaced(&Planned::default(), HOST, "a", &key);
        assert_eq!(blind, Private::default(), "nobody has looked");
    }

    #[test]
    fn the_replacement_of_a_tainted_object_under_another_name_knows_what_was_read() {
        let planned = Planned::default();
        let address = |last: u8| ObjectKey::Address(format!("203.0.113.{last}"));
        let private = |own, former: Option<char>| Private {
            token: Some(crate::fixture::token(own)),
            taken_from: former.map(crate::fixture::token),
            ..Private::default()
        };
        planned.read(ADDRESS, &host("a"), address(2), private('a', None));
        planned.read(ADDRESS, &host("a"), address(3), private('b', Some('c')));
        planned.read(HOST, &host("a"), ObjectKey::Host, private('d', None));
        planned.read(ADDRESS, &host("b"), address(4), private('e', None));
        let replaced = replaced(&planned, ADDRESS, "a", &address(9));
        assert!(replaced.token.is_none() && replaced.read_of.is_none() && replaced.refreshed);
        for (key, token, is_known) in [
            (address(2), 'a', true),
            (address(3), 'b', true),
            (address(3), 'c', true),
            (address(2), 'b', false),
            (ObjectKey::Host, 'd', false),
            (address(4), 'e', true),
        ] {
            let found = replaced.marks.contain(&key, &crate::fixture::token(token));
            assert_eq!(found, is_known, "{key} {token}");
        }
    }

    #[test]
    fn a_replacement_under_another_name_keeps_the_token_that_the_destroy_needs() {
        let (planned, key) = (Planned::default(), ObjectKey::Address("203.0.113.3".into()));
        let handed = Private {
            token: Some(crate::fixture::token('a')),
            ..Private::default()
        };
        let object = (host("a"), key.clone());
        let replaced = || planned.replaced(ADDRESS, Some(&object), handed.clone());
        assert_eq!(replaced(), handed, "nothing was read under that name");
        planned.read(ADDRESS, &host("a"), key.clone(), Private::default());
        assert_eq!(replaced(), handed, "somebody else has that name");
    }

    #[test]
    fn what_this_run_destroys_is_its_own() {
        let (planned, key, token) = (Planned::default(), ObjectKey::Host, crate::fixture::token);
        planned.destroy(&host("a"), key.clone(), token('a'));
        for (address, found, expected) in [
            ("a", Some('a'), true),
            ("a", None, true),
            ("a", Some('b'), false),
            ("b", Some('a'), false),
        ] {
            let found = found.map(token);
            assert_eq!(
                planned.destroys(&host(address), &key, found.as_ref()),
                expected
            );
        }
    }

    #[test]
    fn the_same_object_twice_on_one_host_is_found() {
        let planned = Planned::default();
        let key = || ObjectKey::Address("203.0.113.2".into());
        assert!(planned.keep(&host("a"), key()));
        assert!(
            planned.create(&host("a"), key(), true),
            "the second half of a replacement"
        );
        assert!(!planned.create(&host("a"), key(), false));
        assert!(planned.create(&host("b"), key(), false));
        assert!(planned.expects(&host("b"), &key()) && !planned.expects(&host("c"), &key()));
    }

    #[test]
    fn what_is_there_is_not_made_or_renamed_to_once_more() {
        let key = || ObjectKey::Address("203.0.113.2".into());
        let planned = Planned::default();
        assert!(planned.keep(&host("a"), key()));
        assert!(!planned.create(&host("a"), key(), false), "a new one");
        let planned = Planned::default();
        assert!(planned.create(&host("a"), key(), false));
        assert!(!planned.keep(&host("a"), key()), "in the other order");
        let planned = Planned::default();
        assert!(planned.keep(&host("a"), key()));
        planned.rename(&host("a"), key());
        assert!(!planned.create(&host("a"), key(), true), "a renamed one");
        let planned = Planned::default();
        planned.rename(&host("a"), key());
        assert!(planned.create(&host("a"), key(), true));
        assert!(!planned.keep(&host("a"), key()), "in the other order");
    }
}
