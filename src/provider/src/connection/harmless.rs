//! What a host answers, without what could do harm where it is shown: it may come from a guest, by way of the
//! journal or a program's complaint, or from a host that is hostile itself.

use protocol::{
    Failure,
    message::{Answer, Event},
    observed::{
        AddressState, ContainerState, Facts, HostState, ImageState, Object, Observed, Owner,
    },
};

/// No attribute's path is longer. Bytes.
const LONGEST_ATTRIBUTE: usize = 200;

/// The event, with all that is shown to a person printable. What an honest host says stays as it is.
pub(super) fn harmless(mut event: Event) -> Event {
    match &mut event {
        Event::Progress(line) => make_printable(line),
        Event::Done(Err(failure)) => clean_failure(failure),
        Event::Done(Ok(answer)) => clean_answer(answer),
        Event::WantData | Event::Received(_) => {}
    }
    event
}

fn make_printable(text: &mut String) {
    *text = texts::printable(text);
}

fn clean_failure(failure: &mut Failure) {
    make_printable(&mut failure.message);
    failure.help.iter_mut().for_each(make_printable);
    // A path is made of it, and it is looked for in the text.
    failure.attribute = failure.attribute.take().filter(|path| is_attribute(path));
}

/// "tarball.sha256"
fn is_attribute(path: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.".contains(&byte);
    path.len() <= LONGEST_ATTRIBUTE && path.bytes().all(plain)
}

fn clean_answer(answer: &mut Answer) {
    match answer {
        Answer::Welcome {
            version: _,
            agent_version,
            machine_id,
            boot_id,
        } => [agent_version, machine_id, boot_id]
            .into_iter()
            .for_each(make_printable),
        Answer::Changed { object, failure } => {
            match &mut **object {
                Object::Host(facts, host) => {
                    clean_facts(facts);
                    clean(host);
                }
                Object::Image(image) => clean(image),
                Object::Container(container) => clean(container),
                Object::Address(address) => clean(address),
            }
            failure.iter_mut().for_each(clean_failure);
        }
        Answer::Snapshot(snapshot) => {
            clean_facts(&mut snapshot.facts);
            snapshot.host.iter_mut().for_each(clean);
            snapshot.images.values_mut().for_each(clean);
            snapshot.containers.values_mut().for_each(clean);
            snapshot.addresses.values_mut().for_each(clean);
            snapshot
                .foreign_machines
                .iter_mut()
                .for_each(make_printable);
        }
        Answer::TakenOver { owner } => clean_owner(owner),
        Answer::Removed | Answer::Noted => {}
    }
}

fn clean<D, S: Told>(observed: &mut Observed<D, S>) {
    clean_owner(&mut observed.owner);
    observed.state.texts().for_each(make_printable);
    observed.drift.iter_mut().for_each(make_printable);
}

fn clean_owner(owner: &mut Owner) {
    let holder = owner.holder.iter_mut();
    holder.for_each(|holder| make_printable(&mut holder.name));
}

fn clean_facts(facts: &mut Facts) {
    let texts = [
        &mut facts.machine_id,
        &mut facts.os,
        &mut facts.kernel,
        &mut facts.architecture,
        &mut facts.systemd_version,
        &mut facts.agent_version,
    ];
    texts
        .into_iter()
        .chain(&mut facts.uplink)
        .for_each(make_printable);
}

/// What is told of an object's state.
trait Told {
    /// Every text in it.
    fn texts(&mut self) -> impl Iterator<Item = &mut String>;
}

impl Told for HostState {
    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        let records = self.rolled_back.iter_mut();
        records
            .flat_map(|record| {
                let lists = record.changes.iter_mut().chain(&mut record.put_back);
                lists.chain([&mut record.reason])
            })
            .chain([&mut self.uplink])
    }
}

impl Told for ImageState {
    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        [&mut self.digest, &mut self.os].into_iter()
    }
}

impl Told for ContainerState {
    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        [&mut self.image_digest, &mut self.mac_address].into_iter()
    }
}

impl Told for AddressState {
    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        std::iter::empty()
    }
}

#[cfg(test)]
mod tests {
    use protocol::{
        FailureKind,
        desired::{Host, Image, ImageSource, Tarball, TarballLocation},
        observed::{Holder, RolledBack, Snapshot},
    };

    use super::*;
    use crate::fixture;

    const HOSTILE: &str = "the last lines:\n\x1b]0;owned\x07\x1b[2J";

    fn owner() -> Owner {
        Owner {
            token: fixture::token('a'),
            claimed: true,
            holder: Some(Holder {
                name: HOSTILE.to_owned(),
                since: 0,
            }),
        }
    }

    fn image() -> Observed<Image, ImageState> {
        Observed {
            desired: Image {
                name: "debian".parse().unwrap(),
                source: ImageSource::Tarball(Tarball {
                    location: TarballLocation::Path("/tmp/debian.tar".to_owned()),
                    sha256: "a".repeat(64),
                }),
                customize: None,
                timeouts: None,
            },
            owner: owner(),
            state: ImageState {
                digest: HOSTILE.to_owned(),
                os: HOSTILE.to_owned(),
                size_bytes: 1,
            },
            drift: vec![HOSTILE.to_owned()],
        }
    }

    fn host() -> Observed<Host, HostState> {
        Observed {
            desired: fixture::desired_host(),
            owner: owner(),
            state: HostState {
                uplink: HOSTILE.to_owned(),
                confirm_within: None,
                rolled_back: Some(RolledBack {
                    at: 0,
                    reason: HOSTILE.to_owned(),
                    changes: vec![HOSTILE.to_owned()],
                    put_back: vec![HOSTILE.to_owned()],
                }),
            },
            drift: vec![HOSTILE.to_owned()],
        }
    }

    fn facts() -> Facts {
        Facts {
            machine_id: HOSTILE.to_owned(),
            os: HOSTILE.to_owned(),
            kernel: HOSTILE.to_owned(),
            architecture: HOSTILE.to_owned(),
            systemd_version: HOSTILE.to_owned(),
            uplink: Some(HOSTILE.to_owned()),
            agent_version: HOSTILE.to_owned(),
            ..fixture::facts()
        }
    }

    #[test]
    fn nothing_that_a_host_or_a_guest_says_steers_the_terminal() {
        let failure = || Failure::new(FailureKind::Command, HOSTILE).help(HOSTILE);
        let snapshot = Snapshot {
            facts: facts(),
            host: Some(host()),
            images: [("debian".parse().unwrap(), image())].into(),
            foreign_machines: vec![HOSTILE.to_owned()],
            ..fixture::snapshot()
        };
        let changed = |object| Answer::Changed {
            object: Box::new(object),
            failure: Some(failure()),
        };
        for event in [
            Event::Progress(HOSTILE.to_owned()),
            Event::Done(Err(failure())),
            Event::Done(Ok(changed(Object::Image(image())))),
            Event::Done(Ok(changed(Object::Host(Box::new(facts()), host())))),
            Event::Done(Ok(Answer::Snapshot(Box::new(snapshot)))),
            Event::Done(Ok(Answer::TakenOver { owner: owner() })),
            Event::Done(Ok(Answer::Welcome {
                version: 1,
                agent_version: HOSTILE.to_owned(),
                machine_id: HOSTILE.to_owned(),
                boot_id: HOSTILE.to_owned(),
            })),
        ] {
            // Debug writes line ends and controls out, and what was written out already doubly.
            let (before, after) = (format!("{event:?}"), format!("{:?}", harmless(event)));
            let count = |text: &str, part| text.matches(part).count();
            assert_eq!(
                count(&after, "lines:\\n\\\\u{1b}]0;"),
                count(&before, "lines:")
            );
        }
    }

    #[test]
    fn what_an_honest_host_says_stays_as_it_is() {
        let snapshot = || Event::Done(Ok(Answer::Snapshot(Box::new(fixture::snapshot()))));
        assert_eq!(harmless(snapshot()), snapshot());
    }

    #[test]
    fn what_is_no_attribute_names_none() {
        for (path, is_one) in [
            ("tarball.sha256", true),
            ("nspawn_config", true),
            ("timeouts.read", true),
            ("many.0.name", true),
            ("a\x1b[2J", false),
            ("Tarball", false),
            (&".".repeat(LONGEST_ATTRIBUTE), true),
            (&".".repeat(LONGEST_ATTRIBUTE + 1), false),
            (&"a.".repeat(1 << 20), false),
        ] {
            let failure = Failure::new(FailureKind::Invalid, "no").at(path);
            let Event::Done(Err(failure)) = harmless(Event::Done(Err(failure))) else {
                panic!("another event");
            };
            assert_eq!(failure.attribute.is_some(), is_one, "{path:.50}");
        }
    }
}
