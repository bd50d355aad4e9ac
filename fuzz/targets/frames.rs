//! A frame's header, and the request behind it, as the agent reads them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{
    desired::{Desired, Image, ImageSource, ObjectKey, TarballLocation},
    frame::{DATA_LIMIT, FrameKind, HEADER_LENGTH, Header, MESSAGE_LIMIT},
    message::Request,
};

fuzz_target!(|bytes: &[u8]| {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_LENGTH>() else {
        return;
    };
    if let Ok(decoded) = Header::decode(*header) {
        assert_eq!(decoded.encode().as_ref(), Ok(header));
        let limit = match decoded.kind {
            FrameKind::Message => MESSAGE_LIMIT,
            FrameKind::Data => DATA_LIMIT,
            FrameKind::Heartbeat => 0,
        };
        assert!(decoded.length <= limit);
    }
    // A length that doesn't fit the rest would keep most inputs from the part with the values.
    let Ok(request) = Request::decode(payload) else {
        return;
    };
    let again = serde_json::to_vec(&request).expect("what was read can be written");
    assert_eq!(Request::decode(&again).as_ref(), Ok(&request));
    match &request {
        Request::Put(put) => {
            assert!(put.deadline <= YEAR);
            assert_key_is_safe(&put.desired.key());
            if let Desired::Image(image) = &put.desired {
                assert_image_is_safe(image);
            }
            if let Desired::Container(container) = &put.desired {
                let keys = container.ssh_authorized_keys.iter().flatten();
                assert!(
                    keys.into_iter()
                        .all(|line| !line.contains(['\n', '\r', '\0']))
                );
            }
        }
        Request::Remove { key, deadline, .. } => {
            assert!(*deadline <= YEAR);
            assert_key_is_safe(key);
        }
        Request::Claim { objects } => objects.iter().for_each(|(key, _)| assert_key_is_safe(key)),
        Request::TakeOver { key, .. } => assert_key_is_safe(key),
        _ => {}
    }
});

const YEAR: u64 = 365 * 24 * 60 * 60;

/// Names are parts of paths, of units and of arguments.
fn assert_key_is_safe(key: &ObjectKey) {
    let name = match key {
        ObjectKey::Host => return,
        ObjectKey::Image(name) => name.as_str(),
        ObjectKey::Container(name) => name.as_str(),
        // A prefix is written with one slash, which a file's name has an underscore for.
        ObjectKey::Address(name) => &name.replacen('/', "_", 1),
    };
    assert!((1..=64).contains(&name.len()), "{name:?}");
    assert!(
        !name.starts_with(['-', '.']) && !name.contains(".."),
        "{name:?}"
    );
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    assert!(name.bytes().all(safe), "{name:?}");
}

/// What becomes an argument of debootstrap or curl, or a folder's name.
fn assert_image_is_safe(image: &Image) {
    match &image.source {
        ImageSource::Debootstrap(recipe) => {
            for script in [&recipe.suite, &recipe.variant] {
                assert!(
                    !script.starts_with(['-', '.']) && !script.contains('/'),
                    "{script:?}"
                );
            }
            let lists = recipe.include.iter().chain(&recipe.components).flatten();
            for word in lists.chain(&recipe.mirror) {
                assert!(
                    !word.starts_with('-') && !word.contains([' ', ',', '\n'])
                        || word.contains("://")
                );
            }
        }
        ImageSource::Tarball(tarball) => {
            assert!(
                tarball.sha256.len() == 64
                    && tarball.sha256.bytes().all(|byte| byte.is_ascii_hexdigit())
            );
            if let TarballLocation::Url(url) = &tarball.location {
                assert!(!url.starts_with('-') && !url.contains(char::is_whitespace));
            }
        }
    }
}
