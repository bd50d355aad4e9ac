//! By what a destroy knows an object again that a plan has read, when Terraform hands it no token.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use protocol::{desired::ObjectKey, name::OwnerToken};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How much of a hash is kept: each of hundreds of creates in a plan holds the marks of hundreds of objects. Bytes.
const LENGTH: usize = 8;

type Mark = [u8; LENGTH];

/// Marks of objects and of the tokens that they had, sorted, as base64.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Marks(String);

impl Marks {
    /// Of these objects.
    pub fn of<'a>(objects: impl Iterator<Item = (&'a ObjectKey, &'a OwnerToken)>) -> Self {
        let mut marks: Vec<_> = objects.map(|(key, token)| mark(key, token)).collect();
        marks.sort_unstable();
        marks.dedup();
        Self(STANDARD_NO_PAD.encode(marks.concat()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this object is among them, with this token.
    pub fn contain(&self, key: &ObjectKey, token: &OwnerToken) -> bool {
        let bytes = STANDARD_NO_PAD.decode(&self.0).unwrap_or_default();
        let (marks, _) = bytes.as_chunks::<LENGTH>();
        marks.binary_search(&mark(key, token)).is_ok()
    }
}

fn mark(key: &ObjectKey, token: &OwnerToken) -> Mark {
    let hash = Sha256::digest(format!("{key} {token}"));
    let mut mark = Mark::default();
    mark.copy_from_slice(&hash[..LENGTH]);
    mark
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::token;

    fn key(number: usize) -> ObjectKey {
        ObjectKey::Container(format!("c{number}").parse().unwrap())
    }

    #[test]
    fn an_object_is_known_again_by_its_name_and_token() {
        let keys: Vec<_> = (0..300).map(key).collect();
        let token_a = token('a');
        let marks = Marks::of(keys.iter().map(|key| (key, &token_a)).rev());
        assert!(keys.iter().all(|key| marks.contain(key, &token('a'))));
        assert!(
            !marks.contain(&key(0), &token('b')),
            "another's of that name"
        );
        assert!(!marks.contain(&key(300), &token('a')));
        let text = serde_json::to_string(&marks).unwrap();
        assert!(text.len() < 4000, "{} bytes for 300 objects", text.len());
        assert_eq!(serde_json::from_str::<Marks>(&text).unwrap(), marks);
    }

    #[test]
    fn no_marks_and_broken_ones_know_nothing() {
        for marks in [Marks::default(), Marks("no base64!".to_owned())] {
            assert!(!marks.contain(&key(0), &token('a')));
        }
        assert!(Marks::of(std::iter::empty()).is_empty());
    }
}
