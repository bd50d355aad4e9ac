//! Tells when a file of ours is changed or removed. inotify(7)

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::{CStr, OsStr, OsString},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    rc::Rc,
};

use protocol::Failure;
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use tokio::{io::unix::AsyncFd, sync::Notify, task::spawn_local};

use crate::{context::Context, failure::Context as _, system::files};

/// The desired files, by the folder below /etc/nspawn-agent.
const DESIRED: [&str; 4] = ["", "images", "containers", "addresses"];

/// Watches files by their folders, so that one that is made anew is noticed, too.
#[derive(Debug)]
pub struct Files {
    changed: Rc<Notify>,
    /// None until the kernel has given an instance: guests' are counted as root's, too, and may have used all up.
    /// user_namespaces(7)
    shared: OnceCell<Rc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    descriptor: AsyncFd<OwnedFd>,
    changed: Rc<Notify>,
    /// Whether a desired file was changed since that was asked last.
    desired: Cell<bool>,
    watched: RefCell<HashMap<i32, Watched>>,
}

/// What of a folder matters.
#[derive(Debug)]
enum Watched {
    /// All but the temporary files that replace others.
    Desired { kind: &'static str },
    /// Files of these names: the folder is shared with others.
    Named(BTreeSet<OsString>),
}

impl Files {
    /// Nothing is watched yet.
    pub fn new(changed: Rc<Notify>) -> Self {
        Self {
            changed,
            shared: OnceCell::new(),
        }
    }

    /// Begins to listen, unless that is done already.
    fn listening(&self) -> Result<&Shared, Failure> {
        if let Some(shared) = self.shared.get() {
            return Ok(shared);
        }
        let deed = || "watch files";
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let descriptor = inotify::init(flags).doing(deed)?;
        let shared = Rc::new(Shared {
            descriptor: readable(descriptor).doing(deed)?,
            changed: Rc::clone(&self.changed),
            desired: Cell::new(false),
            watched: RefCell::default(),
        });
        let listening = Rc::clone(&shared);
        spawn_local(async move { listening.listen().await });
        Ok(self.shared.get_or_init(|| shared))
    }

    /// Watches the desired files and these of ours. A folder that was made anew is another one to
    /// the kernel, so this is repeated after each look. One that can't be watched keeps no other from it; the first
    /// failure is the answer.
    pub fn follow(&self, context: &Context, ours: &[PathBuf]) -> Result<(), Failure> {
        let shared = self.listening()?;
        let mut followed = Ok(());
        for kind in DESIRED {
            let folder = context.store.folder().join(kind);
            let made = files::create_folder(&folder, 0o700);
            let watched = shared.watch(&folder, Watched::Desired { kind });
            followed = followed.and(made).and(watched);
        }
        let mut folders: BTreeMap<&Path, BTreeSet<OsString>> = BTreeMap::new();
        for path in ours {
            if let (Some(folder), Some(name)) = (path.parent(), path.file_name()) {
                folders.entry(folder).or_default().insert(name.to_owned());
            }
        }
        for (folder, names) in folders {
            followed = followed.and(shared.watch(folder, Watched::Named(names)));
        }
        followed
    }

    /// Whether a desired file was changed since this was asked last.
    pub fn desired_has_changed(&self) -> bool {
        self.shared
            .get()
            .is_some_and(|shared| shared.desired.take())
    }
}

impl Shared {
    /// Watches a folder, also one that is watched already; nothing happens where there is none.
    fn watch(&self, folder: &Path, what: Watched) -> Result<(), Failure> {
        let events = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            // Owners and modes.
            | WatchFlags::ATTRIB
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(self.descriptor.get_ref(), folder, events) {
            Ok(watch) => {
                self.watched.borrow_mut().insert(watch, what);
                Ok(())
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(()),
            Err(error) => Err(error).doing(|| format!("watch {}", folder.display())),
        }
    }

    async fn listen(&self) {
        while let Ok(mut guard) = self.descriptor.readable().await {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(guard.get_inner(), &mut buffer);
            while let Ok(event) = reader.next() {
                self.take_in(event.wd(), event.events(), event.file_name());
            }
            guard.clear_ready();
        }
    }

    fn take_in(&self, watch: i32, events: ReadFlags, name: Option<&CStr>) {
        if events.contains(ReadFlags::IGNORED) {
            self.watched.borrow_mut().remove(&watch);
            return;
        }
        let watched = self.watched.borrow();
        // A folder of ours as a whole, or more events than the kernel keeps.
        let Some(name) = name.map(|name| OsStr::from_bytes(name.to_bytes())) else {
            self.changed.notify_one();
            return;
        };
        match watched.get(&watch) {
            Some(Watched::Desired { kind }) if !name.as_bytes().starts_with(b".") => {
                if !kind.is_empty() || name == "host.json" {
                    self.desired.set(true);
                }
                self.changed.notify_one();
            }
            Some(Watched::Named(names)) if names.contains(name) => self.changed.notify_one(),
            _ => {}
        }
    }
}

#[allow(
    unsafe_code,
    reason = "tokio has no safe way to wait for a descriptor of this kind"
)]
fn readable(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the owned descriptor is valid, and moves in, so that nobody else closes it.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use tokio::time::timeout;

    use super::*;
    use crate::testing::{in_folder, within};

    /// Alone in its process, as nextest runs each test.
    #[tokio::test(flavor = "current_thread")]
    async fn what_can_not_be_watched_keeps_nothing_else_from_it() {
        const TIME: Duration = Duration::from_secs(5);
        let folder = tempfile::tempdir().unwrap();
        within(TIME, async |context| {
            let context = in_folder(context, folder.path());
            let (changed, seen) = (Rc::new(Notify::new()), folder.path().join("seen"));
            let files = Files::new(Rc::clone(&changed));
            let before = getrlimit(Resource::Nofile);
            // As when a guest has taken all instances. inotify_init(2), EMFILE
            let none = Rlimit {
                current: Some(0),
                ..before
            };
            setrlimit(Resource::Nofile, none).unwrap();
            let failed = files
                .follow(&context, std::slice::from_ref(&seen))
                .unwrap_err();
            setrlimit(Resource::Nofile, before).unwrap();
            assert!(failed.message.contains("watch files"), "{failed}");
            assert!(!files.desired_has_changed());
            // As when it has taken all watches: this one alone can't be added. inotify_add_watch(2), ENAMETOOLONG
            let too_long = folder.path().join("a".repeat(300)).join("file");
            let failed = files
                .follow(&context, &[too_long, seen.clone()])
                .unwrap_err();
            assert!(failed.message.contains("aaa"), "{failed}");
            fs::write(&seen, "new").unwrap();
            timeout(TIME, changed.notified()).await.unwrap();
            fs::write(context.store.folder().join("containers/web.json"), "{}").unwrap();
            let desired = async {
                while !files.desired_has_changed() {
                    changed.notified().await;
                }
            };
            timeout(TIME, desired).await.unwrap();
            files.follow(&context, &[seen]).unwrap();
        })
        .await;
    }
}
